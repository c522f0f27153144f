"""Intersection over union of every class, beside how frequent the class is."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from dynashare_jax.checkpoints import workdir as files
from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib

SHOWN = 20  # classes that a table in a report shows; all are in its CSV
ROW = 0.21  # inches of a class


@dataclasses.dataclass(frozen=True)
class Classes:
  """A segmentation task's classes on test, the most frequent first.

  Attributes:
    share: percent of the labelled pixels, `[K]`.
    iou: percent, `[K]`; NaN where a class neither occurs nor is predicted.
    accuracy: percent of a class's pixels that are found, `[K]`; NaN where there are none.
  """

  task: str
  names: tuple[str, ...]
  share: np.ndarray
  iou: np.ndarray
  accuracy: np.ndarray

  def table(self, most: int | None = None) -> tables.Table:
    """Returns a row per class, the most frequent ones only if there is a limit."""
    titles = ("share of pixels", "pixel accuracy", "IoU")
    rows = [
      (name, *(tables.Cell(float(value), digits=2) for value in values))
      for name, *values in zip(self.names, self.share, self.accuracy, self.iou, strict=True)
    ]
    columns = ("class", *(tables.Column(title, unit="%") for title in titles))
    return tables.table(columns, rows[:most])


def of(run: workdir_lib.Run, task: str) -> Classes | None:
  """Returns the classes of a task; None where its results do not list them."""
  entry = run.task(task)
  found = entry.get("details") or {}
  if not found.get("iou") or not found.get("share"):
    return None
  count = len(found["iou"])
  columns = (found["share"], found["iou"], found.get("accuracy", [None] * count))
  share, iou, accuracy = (np.array(list(map(workdir_lib.number, column))) for column in columns)
  known = list(entry.get("classes") or ())
  names = [*known[:count], *(f"class {k}" for k in range(len(known), count))]
  order = np.argsort(-np.nan_to_num(share), kind="stable")
  return Classes(task, tuple(names[k] for k in order), share[order], iou[order], accuracy[order])


def all_of(run: workdir_lib.Run) -> tuple[Classes, ...]:
  """Returns the classes of every task that has some, in the order of the tasks."""
  found = (of(run, task) for task in run.tasks)
  return tuple(one for one in found if one is not None)


def section(run: workdir_lib.Run) -> str:
  """Returns tables for a report; empty without classes.

  Writes `classes-<task>.csv` beside it where a task has more classes than a table shows.
  """
  parts = []
  for one in all_of(run):
    text = tables.section(f"Classes of {one.task}", "", one.table(SHOWN))
    path = run.path / f"classes-{one.task}.csv"
    if len(one.names) > SHOWN:
      files.write_text(path, tables.csv_text(one.table()))
      text += (
        f"\n\nThe {SHOWN} most frequent of {len(one.names)} classes; all"
        f" are in [{path.name}]({path.name})."
      )
    else:
      path.unlink(missing_ok=True)
    parts.append(text)
  return "\n\n".join(parts)


def figure(run: workdir_lib.Run) -> Figure | None:
  """Draws bars of every class: share of pixels and intersection over union.

  Returns None without classes.

  Source: AdaShare (Sun et al. 2020), Fig. 6.
  """
  found = all_of(run)
  if not found:
    return None
  fig, panels = panels_of(found)
  for one, (left, right) in zip(found, panels, strict=True):
    shares(left, one)
    right.barh(range(len(one.names)), np.nan_to_num(one.iou), height=0.66, color=style.colour(0))
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    for row, value in enumerate(one.iou):
      known = math.isfinite(value)
      words = tables.format_number(value, 1) if known else "does not occur"
      colour = style.INK if known else style.SOFT
      style.text(right, np.nan_to_num(value) + 1, row, words, colour=colour, bbox=box)
    middle = float(np.nanmean(one.iou)) if np.isfinite(one.iou).any() else 0.0
    right.axvline(middle, color=style.SOFT, linewidth=0.9, zorder=0.5, linestyle=(0, (4, 3)))
    right.set_title(f"{one.task}: IoU (%), mean {middle:.1f}")
    right.set_xlim(0, 108)
  return fig


def panels_of(
  found: Sequence[Classes], above: float = 0.0
) -> tuple[Figure, list[tuple[Axes, Axes]]]:
  """Makes a figure with a narrow and a wide panel per task, `above` inches free at the top."""
  rows = [len(one.names) for one in found]
  height = sum(ROW * n + 0.75 for n in rows) + above
  fig = style.figure(7.6, height)
  if above:
    fig.set_layout_engine("constrained", rect=(0, 0, 1, 1 - above / height))
  ratios = {"width_ratios": (1, 3.2), "height_ratios": rows}
  grid = fig.subplots(len(found), 2, squeeze=False, sharey="row", **ratios)
  for axes in grid.flat:
    axes.tick_params(axis="y", length=0)
  return fig, [(left, right) for left, right in grid]


def shares(axes: Axes, one: Classes) -> None:
  """Draws bars of the classes' shares of pixels, with the classes' names."""
  places = range(len(one.names))
  share = np.nan_to_num(one.share)
  axes.barh(places, share, height=0.66, color=style.FAINT)
  top = max(float(share.max()), 1e-6)
  for row, value in enumerate(share):
    style.text(axes, value + 0.03 * top, row, _percent(value), 7)
  axes.set_xlim(0, 1.35 * top)
  axes.set_ylim(len(one.names) - 0.4, -0.6)
  style.row_names(axes, one.names, fontsize=8)
  axes.set_title("share of pixels (%)", color=style.SOFT, fontweight="normal")
  axes.spines["left"].set_visible(False)


def _percent(value: float) -> str:
  """A share: `12.3`, `0.45`, `< 0.01`."""
  if 0 < value < 0.01:
    return "< 0.01"
  return f"{value:.1f}" if value >= 1 else f"{value:.2f}"
