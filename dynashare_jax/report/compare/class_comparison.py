"""Intersection over union of every class, several methods side by side."""

from __future__ import annotations

import dataclasses
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


def means(runs: gains.Runs, task: str) -> dict[str, classes.Classes]:
  """Returns every method's classes, means over its seeds, in one order of classes.

  Runs that do not list classes, or other ones than the first run that does,
  are left out. Shares are those of that run, which sorts.
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
  """Draws one row per class, one mark per method; classes sorted by their share of pixels.

  Returns None if fewer than two methods list classes.

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
  spacing = {"columnspacing": 1.2, "handletextpad": 0.2}
  place = {"loc": "upper left", "bbox_to_anchor": (0.01, 1.0)}
  fig.legend(handles=handles, ncols=_ACROSS, **place, **spacing)
  return fig


def _marks(axes: Axes, values: np.ndarray, label: str, place: int) -> Line2D:
  """A mark a class in the colour of the method, with its legend's handle."""
  mark = {"marker": _MARKS[place % len(_MARKS)], "color": style.colour(place), "alpha": 0.9}
  edge = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
  places = range(len(values))
  (drawn,) = axes.plot(values, places, linestyle="none", label=label, **mark, **edge)
  return drawn
