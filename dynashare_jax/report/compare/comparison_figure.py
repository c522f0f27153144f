"""Bar chart of the gains over single-task networks, a panel a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynashare_jax.report import style
from dynashare_jax.report import tables

Gains = Mapping[str, Mapping[str, Sequence[float]]]

_ACROSS = 4  # panels in a row


def chart(gains: Gains) -> Figure | None:
  """Draws one panel per task with one bar per method, all on one scale.

  Args:
    gains: label -> task -> percent, one number per seed; the last task is the
      mean of all and is drawn first.

  Returns:
    The figure, or None if no number is finite.
  """
  labels = list(gains)
  cells = {
    (label, task): tables.mean_std(values, digits=1, signed=True)
    for label, tasks in gains.items()
    for task, values in tasks.items()
  }
  if not any(math.isfinite(cell.value) for cell in cells.values()):
    return None
  names = list(gains[labels[0]])
  names = names[-1:] + names[:-1]
  words = "Δ (%): change against single-task networks, right is better"
  if any(cell.std is not None for cell in cells.values()):
    words += "; whiskers: ± standard deviation over seeds"
  size = (2.5, 0.34 * len(labels) + 0.85)
  across = style.balanced(len(names), _ACROSS)
  fig, grid = style.panels(
    len(names), across, size, (1.4, 0.4), common=words, sharex=True, sharey=True
  )
  low, high = _limits([c for c in cells.values() if math.isfinite(c.value)])
  for place, (axes, name) in enumerate(zip(grid, names, strict=True)):
    _panel(axes, [cells[label, name] for label in labels], (low, high))
    axes.set_title(name, color=style.INK if place == 0 else style.SOFT)
    style.row_names(axes, labels, fontsize=9)
  grid[0].set_ylim(len(labels) - 0.5, -0.95)
  style.text(grid[0], 0, -0.62, "  single-task  ", ha="left" if high >= -low else "right")
  return fig


def _limits(cells: Sequence[tables.Cell]) -> tuple[float, float]:
  """Ends of the common scale: bars, their spread, and room for numbers."""
  low = min([0.0, *(c.value - (c.std or 0.0) for c in cells)])
  high = max([0.0, *(c.value + (c.std or 0.0) for c in cells)])
  span = max(high - low, 1e-6)
  # Numbers stand beyond the bars: a part of a panel each.
  return (
    low - 0.27 * span * (low < 0) - 0.02 * span,
    high + 0.27 * span * (high > 0) + 0.02 * span,
  )


def _panel(axes: Axes, cells: Sequence[tables.Cell], limits: tuple[float, float]) -> None:
  """Bars from the zero line with their numbers beyond the spread."""
  gap = 0.015 * (limits[1] - limits[0])
  axes.set_xlim(*limits)
  axes.grid(axis="x")
  axes.axvline(0, color=style.INK, linewidth=1.0, zorder=3)
  for row, cell in enumerate(cells):
    if not math.isfinite(cell.value):
      style.text(axes, gap, row, "not defined")
      continue
    sign, side = (1, "left") if cell.value >= 0 else (-1, "right")
    axes.barh(row, cell.value, height=0.62, color=style.colour(row))
    if cell.std is not None:
      whisker = {"linewidth": 1.0, "capsize": 2.5, "capthick": 1.0, "zorder": 4}
      axes.errorbar(cell.value, row, xerr=cell.std, color=style.INK, **whisker)
    end = cell.value + sign * ((cell.std or 0.0) + gap)
    words = tables.format_number(cell.value, 1, signed=True)
    style.text(axes, end, row, words, 8, style.INK, ha=side, zorder=5)
  axes.spines["left"].set_visible(False)
