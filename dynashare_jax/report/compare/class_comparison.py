"""Intersection over union of every class, several methods side by side."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import warnings

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report.compare import gains
from dynashare_jax.report.run import classes

_MARKS = ("o", "D", "s", "^", "v", "P", "X", "h")
_LINE = 0.24  # inches of a line of the legend
_ACROSS = 5  # methods in a line of the legend


def write(runs: gains.Runs, folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Writes `classes-<task>.png` for every task whose results tell classes.

  Args:
    runs: label -> its finished runs, one a seed.
    folder: where.

  Returns:
    Task -> path of its figure. A figure of an earlier call that has no data
    any more is removed.
  """
  found = {}
  for task in gains.first(runs).tasks:
    path = style.draw(functools.partial(chart, runs, task), folder / f"classes-{task}.png")
    if path is not None:
      found[task] = path
  return found


def means(runs: gains.Runs, task: str) -> dict[str, classes.Classes]:
  """Every method's classes, means over its seeds, in one order of classes.

  Args:
    runs: label -> its runs. Runs that do not tell classes apart, or other ones
      than the first run that does, are left out.
    task: its name.

  Returns:
    Label -> classes; shares are those of the first run, which sorts.
  """
  found: dict[str, classes.Classes] = {}
  reference: classes.Classes | None = None
  for label, several in runs.items():
    rows = []
    for run in several:
      one = classes.of(run, task)
      reference = reference or one
      if one is not None and reference is not None and set(one.names) == set(reference.names):
        rows.append([one.iou[one.names.index(n)] for n in reference.names])
    if rows and reference is not None:
      found[label] = dataclasses.replace(reference, iou=_mean(np.array(rows)))
  return found


def _mean(rows: np.ndarray) -> np.ndarray:
  """Mean over seeds of the values there are; NaN without any."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # a class without a value
    return np.asarray(np.nanmean(rows, axis=0))


def chart(runs: gains.Runs, task: str) -> Figure | None:
  """A row a class, a mark a method; classes sorted by their share of pixels.

  Args:
    runs: label -> its runs.
    task: its name.

  Returns:
    The figure, or None if fewer than two methods tell classes apart.

  Source: AdaShare (Sun et al. 2020), Fig. 6.
  """
  found = means(runs, task)
  if len(found) < 2:
    return None
  first = next(iter(found.values()))
  lines = -(-len(found) // _ACROSS)
  fig, ((left, right),) = classes.panels_of((first,), above=_LINE * lines + 0.1)
  classes.shares(left, first)
  for row in range(0, len(first.names), 2):  # so that the eye keeps its row
    for axes in (left, right):
      axes.axhspan(row - 0.5, row + 0.5, color="#f6f6f6", zorder=0)
  places = list(runs)
  handles = [_marks(right, found[label].iou, label, places.index(label)) for label in found]
  right.set_xlim(-2, 102)
  right.grid(axis="x")
  more = any(len(several) > 1 for several in runs.values())
  right.set_title(f"{task}: IoU (%)" + (", mean over seeds" if more else ""))
  fig.legend(
    handles=handles,
    loc="upper left",
    ncols=_ACROSS,
    bbox_to_anchor=(0.01, 1.0),
    columnspacing=1.2,
    handletextpad=0.2,
  )
  return fig


def _marks(axes: Axes, values: np.ndarray, label: str, place: int) -> Line2D:
  """A mark a class in the colour of the method, with its legend's handle."""
  (drawn,) = axes.plot(
    values,
    range(len(values)),
    linestyle="none",
    label=label,
    marker=_MARKS[place % len(_MARKS)],
    markersize=5.5,
    alpha=0.9,
    color=style.colour(place),
    markeredgecolor="white",
    markeredgewidth=0.5,
  )
  return drawn
