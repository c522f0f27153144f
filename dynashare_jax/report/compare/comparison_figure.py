"""Bar chart of the gains over single-task networks, a panel a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import pathlib

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynashare_jax.report import style
from dynashare_jax.report import tables

Gains = Mapping[str, Mapping[str, Sequence[float]]]

_ACROSS = 4  # panels in a row


def write(gains: Gains, path: pathlib.Path) -> bool:
  """Draws and saves the chart.

  Args:
    gains: label -> task -> percent, one number a seed; the last task is the
      mean of all and is drawn first.
    path: PNG file.

  Returns:
    Whether there was anything to draw.
  """
  with style.look():
    drawing = chart(gains)
    if drawing is None:
      return False
    style.save(drawing, path)
  return True


def chart(gains: Gains) -> Figure | None:
  """A panel a task with a bar a method, all on one scale.

  Args:
    gains: as for `write`.

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
  across = _balanced(len(names))
  down = math.ceil(len(names) / across)
  height = down * (0.34 * len(labels) + 0.85) + 0.4
  fig = style.figure(1.4 + 2.5 * across, height)
  grid = fig.subplots(down, across, squeeze=False, sharex=True, sharey=True)
  low, high = _limits([c for c in cells.values() if math.isfinite(c.value)])
  for place, axes in enumerate(grid.flat):
    if place >= len(names):
      axes.set_visible(False)
      continue
    name = names[place]
    _panel(axes, [cells[label, name] for label in labels], (low, high))
    axes.set_title(name, color=style.INK if place == 0 else style.SOFT)
    axes.set_yticks(range(len(labels)), labels, color=style.INK, fontsize=9)
    below = place + across >= len(names)
    axes.tick_params(axis="x", labelbottom=below)
  grid[0, 0].set_ylim(len(labels) - 0.5, -0.95)
  grid[0, 0].text(
    0,
    -0.62,
    "  single-task  ",
    fontsize=7.5,
    color=style.SOFT,
    va="center",
    ha="left" if high >= -low else "right",
  )
  fig.supxlabel(
    "Δ (%): change against single-task networks, right is better" + _whiskers(list(cells.values())),
    fontsize=9,
    color=style.SOFT,
  )
  return fig


def _balanced(count: int) -> int:
  """Panels in a row so that the last row is as full as can be."""
  rows = math.ceil(count / _ACROSS)
  return math.ceil(count / rows)


def _whiskers(cells: Sequence[tables.Cell]) -> str:
  if all(cell.std is None for cell in cells):
    return ""
  return "; whiskers: ± standard deviation over seeds"


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
      axes.text(gap, row, "not defined", va="center", fontsize=7.5, color=style.SOFT)
      continue
    up = cell.value >= 0
    axes.barh(row, cell.value, height=0.62, color=style.colour(row))
    if cell.std is not None:
      axes.errorbar(
        cell.value,
        row,
        xerr=cell.std,
        color=style.INK,
        linewidth=1.0,
        capsize=2.5,
        capthick=1.0,
        zorder=4,
      )
    end = cell.value + (cell.std or 0.0) * (1 if up else -1)
    # Nothing of the number may lie over the zero line.
    end = max(end, 0.0) if up else min(end, 0.0)
    axes.text(
      end + (gap if up else -gap),
      row,
      tables.format_number(cell.value, 1, signed=True),
      va="center",
      ha="left" if up else "right",
      fontsize=8,
      zorder=5,
    )
  axes.tick_params(axis="y", length=0)
  axes.spines["left"].set_visible(False)
