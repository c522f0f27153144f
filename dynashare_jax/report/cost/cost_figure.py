"""The figure of a model's main metrics against its time."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from dynashare_jax.infer import cost as cost_lib
from dynashare_jax.report import style
from dynashare_jax.report import tables

_MARKERS = {
  cost_lib.MASKED: "s",
  cost_lib.PLANNED: "o",
  cost_lib.GATED: "D",
  cost_lib.SEPARATE: "^",
  cost_lib.WHOLE: "s",
  cost_lib.LEAN: "P",
}


@dataclasses.dataclass(frozen=True)
class Score:
  """The main metric of a task, with its unit in brackets.

  Attributes:
    value: of the model on test, the same for all executions.
    separate: of single-task networks; NaN where it is not known.
  """

  task: str
  metric: str
  higher_is_better: bool
  value: float
  separate: float = math.nan

  def of(self, way: str) -> float:
    """Returns the value of a way of execution."""
    return self.separate if way == cost_lib.SEPARATE else self.value


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
  """Returns first quartile, median and third quartile."""
  low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
  return float(low), float(middle), float(high)


def figure(costs: Sequence[cost_lib.Cost], scores: Sequence[Score]) -> Figure | None:
  """Draws the main metric against milliseconds per call of the first batch size, by task.

  Returns None without a score.
  """
  if not scores or not costs:
    return None
  batch = next(iter(costs[0].times))
  words = f"milliseconds a call, batch {batch} (median, bars: quartiles); left is better"
  fig, grid = style.panels(len(scores), 4, (2.9, 2.5), (1.2, 0.9), common=words, sharex=True)
  fig.get_layout_engine().set(wspace=0.08, hspace=0.08)
  for axes, score in zip(grid, scores, strict=True):
    _panel(axes, score, _points(costs, score.task, batch))
  alone = any(found.scope != cost_lib.ALL for found in costs)
  handles = _key([w for w in cost_lib.WAYS if any(c.way == w for c in costs)], alone)
  spacing = {"handletextpad": 0.3, "columnspacing": 1.4}
  fig.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=8.5, **spacing)
  return fig


Point = tuple[str, bool, tuple[float, float, float]]


def _points(costs: Sequence[cost_lib.Cost], task: str, batch: int) -> list[Point]:
  """Way, whether for all tasks, and quartiles of the milliseconds."""
  return [
    (c.way, c.scope == cost_lib.ALL, quartiles([1000 * s for s in c.times[batch].seconds]))
    for c in costs
    if c.scope in (cost_lib.ALL, task)
  ]


def _panel(axes: Axes, score: Score, points: Sequence[Point]) -> None:
  """One task: points at its metric, the better end of the axis on top."""
  known = [v for v in (score.value, score.separate) if math.isfinite(v)]
  low, high = _limits(known)
  axes.set_ylim((low, high) if score.higher_is_better else (high, low))
  axes.set_xlim(0, 1.2 * max(high_ for _, _, (_, _, high_) in points))
  axes.grid(True)
  for value in known:
    axes.axhline(value, color=style.FAINT, linewidth=0.8, zorder=1)
  for way, together, (first, middle, third) in points:
    value = score.of(way)
    colour = _colour(way)
    if not math.isfinite(value):
      if together:
        axes.axvline(middle, color=colour, linewidth=1.2, linestyle="--")
        words = f"{middle:.3g} ms, metric unknown"
        turned = {"rotation": 90, "va": "bottom", "xycoords": axes.get_xaxis_transform()}
        axes.annotate(words, (middle, 0.03), (4, 0), fontsize=7.5, **_offset(colour), **turned)
      continue
    size, fill, order = (7.5, colour, 4) if together else (5.5, "white", 3)
    shape = {"marker": _MARKERS[way], "markersize": size, "markerfacecolor": fill}
    bars = {"xerr": [[middle - first], [third - middle]], "elinewidth": 1.0}
    axes.errorbar(middle, value, color=colour, markeredgewidth=1.3, zorder=order, **shape, **bars)
  _labels(axes, score, [p for p in points if p[1]])
  axes.set_title(score.task)
  axes.set_ylabel(tables.directed(score.metric, score.higher_is_better))


def _labels(axes: Axes, score: Score, points: Sequence[Point]) -> None:
  """Milliseconds above the points, kept apart along the axis."""
  known = [p for p in points if math.isfinite(score.of(p[0]))]
  right = axes.get_xlim()[1]
  middles = [middle for _, _, (_, middle, _) in known]
  places = style.spread(middles, 0.085 * right, 0.0, right)
  for (way, _, _), middle, place in zip(known, middles, places, strict=True):
    colour = _colour(way)
    where = (place, score.of(way))
    turned = {"rotation": 55, "rotation_mode": "anchor"}
    axes.annotate(f"{middle:.3g} ms", where, (0, 9), fontsize=8, **_offset(colour), **turned)


def _colour(way: str) -> str:
  """The colour of a way of execution."""
  return style.colour(list(_MARKERS).index(way))


def _offset(colour: str) -> dict[str, Any]:
  """Options of words in a colour, their place given in points from a mark."""
  return {"textcoords": "offset points", "color": colour}


def _limits(values: Sequence[float]) -> tuple[float, float]:
  """Ends of a metric's axis: room around one value or two."""
  if not values:
    return 0.0, 1.0
  low, high = min(values), max(values)
  room = max(0.6 * (high - low), 0.04 * max(abs(low), abs(high)), 1e-9)
  return low - room, high + room


def _key(ways: Sequence[str], alone: bool) -> list[Line2D]:
  """Legend entries of colours and shapes, and of fillings where tasks are alone, too."""
  mark = functools.partial(Line2D, [], [], linestyle="none")
  found = [mark(label=way, marker=_MARKERS[way], markersize=7, color=_colour(way)) for way in ways]
  empty = functools.partial(mark, marker="o", markersize=6, markeredgewidth=1.3, color=style.SOFT)
  fills = {cost_lib.ALL: style.SOFT, "one task alone": "white"} if alone else {}
  return found + [empty(label=label, markerfacecolor=fill) for label, fill in fills.items()]
