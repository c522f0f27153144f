"""The figure of a model's main metrics against its time."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from dynashare_jax.infer import cost as cost_lib
from dynashare_jax.report import style
from dynashare_jax.report import tables

_MARKERS = dict(zip(cost_lib.WAYS, "soD^", strict=True))


@dataclasses.dataclass(frozen=True)
class Score:
  """The main metric of a task.

  Attributes:
    task: its name.
    metric: its name, with a unit in brackets where it has one.
    higher_is_better: its direction.
    value: of the model on test, the same for all executions.
    separate: of single-task networks; NaN where it is not known.
  """

  task: str
  metric: str
  higher_is_better: bool
  value: float
  separate: float = math.nan

  def of(self, way: str) -> float:
    """The value of a way of execution."""
    return self.separate if way == cost_lib.SEPARATE else self.value


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
  """First quartile, median, third quartile."""
  low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
  return float(low), float(middle), float(high)


def figure(costs: Sequence[cost_lib.Cost], scores: Sequence[Score]) -> Figure | None:
  """Main metric against milliseconds a call, a panel a task.

  Args:
    costs: measured; the first batch size counts.
    scores: a task each.

  Returns:
    The figure (call within `style.look()`), or None without a score.
  """
  if not scores or not costs:
    return None
  across = min(len(scores), 4)
  down = -(-len(scores) // across)
  fig = style.figure(1.2 + 2.9 * across, 2.5 * down + 0.9)
  grid = fig.subplots(down, across, squeeze=False, sharex=True)
  fig.get_layout_engine().set(wspace=0.08, hspace=0.08)
  batch = next(iter(costs[0].times))
  for place, axes in enumerate(grid.flat):
    if place >= len(scores):
      axes.set_visible(False)
      continue
    _panel(axes, scores[place], _points(costs, scores[place].task, batch))
    axes.tick_params(axis="x", labelbottom=place + across >= len(scores))
  alone = any(found.scope != cost_lib.ALL for found in costs)
  shown = [w for w in cost_lib.WAYS if any(c.way == w for c in costs)]
  fig.legend(
    handles=_key(shown, alone),
    loc="outside upper left",
    ncols=len(shown) + 2 * alone,
    fontsize=8.5,
    handletextpad=0.3,
    columnspacing=1.4,
  )
  fig.supxlabel(
    f"milliseconds a call, batch {batch} (median, bars: quartiles); left is better",
    fontsize=9,
    color=style.SOFT,
  )
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
    colour = style.colour(cost_lib.WAYS.index(way))
    if not math.isfinite(value):
      if together:
        axes.axvline(middle, color=colour, linewidth=1.2, linestyle="--")
        axes.annotate(
          f"{middle:.3g} ms, metric unknown",
          (middle, 0.03),
          (4, 0),
          xycoords=axes.get_xaxis_transform(),
          textcoords="offset points",
          rotation=90,
          ha="left",
          va="bottom",
          fontsize=7.5,
          color=colour,
        )
      continue
    axes.errorbar(
      middle,
      value,
      xerr=[[middle - first], [third - middle]],
      marker=_MARKERS[way],
      markersize=7.5 if together else 5.5,
      color=colour,
      markerfacecolor=colour if together else "white",
      markeredgewidth=1.3,
      elinewidth=1.0,
      zorder=4 if together else 3,
    )
  _labels(axes, score, [p for p in points if p[1]])
  better = tables.UP if score.higher_is_better else tables.DOWN
  axes.set_title(score.task)
  axes.set_ylabel(f"{score.metric} {better}")


def _labels(axes: Axes, score: Score, points: Sequence[Point]) -> None:
  """Milliseconds above the points, kept apart along the axis."""
  known = [p for p in points if math.isfinite(score.of(p[0]))]
  right = axes.get_xlim()[1]
  middles = [middle for _, _, (_, middle, _) in known]
  places = style.spread(middles, 0.085 * right, 0.0, right)
  for (way, _, _), middle, place in zip(known, middles, places, strict=True):
    axes.annotate(
      f"{middle:.3g} ms",
      (place, score.of(way)),
      (0, 9),
      rotation=55,
      textcoords="offset points",
      rotation_mode="anchor",
      fontsize=8,
      color=style.colour(cost_lib.WAYS.index(way)),
    )


def _limits(values: Sequence[float]) -> tuple[float, float]:
  """Ends of a metric's axis: room around one value or two."""
  if not values:
    return 0.0, 1.0
  low, high = min(values), max(values)
  room = max(0.6 * (high - low), 0.04 * max(abs(low), abs(high)), 1e-9)
  return low - room, high + room


def _key(ways: Sequence[str], alone: bool) -> list[Line2D]:
  """What colours, shapes and fillings mean."""
  found = [
    Line2D(
      [],
      [],
      linestyle="none",
      marker=_MARKERS[way],
      markersize=7,
      color=style.colour(cost_lib.WAYS.index(way)),
      label=way,
    )
    for way in ways
  ]
  if alone:
    fills = {cost_lib.ALL: style.SOFT, "one task alone": "white"}
    for label, fill in fills.items():
      found.append(
        Line2D(
          [],
          [],
          linestyle="none",
          marker="o",
          markersize=6,
          color=style.SOFT,
          markerfacecolor=fill,
          markeredgewidth=1.3,
          label=label,
        )
      )
  return found
