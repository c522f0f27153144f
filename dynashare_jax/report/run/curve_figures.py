"""Learning curves: training losses and validation scores, by phase."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.ticker import LogLocator
from matplotlib.ticker import NullLocator
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib

_STRIPES = 20  # more stretches than this are one band
_SPARSE = 9  # fewer points than this are marked


@dataclasses.dataclass(frozen=True)
class Span:
  """A stretch of steps in one phase; weights and policy stretches are one.

  Attributes:
    name: shown above the curves.
    first: first step.
    last: last step.
    stretches: (phase, first step, last step) of its parts, in order.
  """

  name: str
  first: float
  last: float
  stretches: tuple[tuple[str, float, float], ...]


def align(run: workdir_lib.Run) -> tuple[dict[str, Any], ...]:
  """Rows with the candidates laid over one another.

  Candidates are trained one after another; each starts at the step where the
  first one started, so that they can be compared.

  Args:
    run: the run.

  Returns:
    Copies of the rows with a new `step`.
  """
  starts: dict[int, int] = {}
  for row in run.lines:
    k = int(row.get("candidate", -1))
    starts[k] = min(starts.get(k, int(row["step"])), int(row["step"]))
  origin = min((s for k, s in starts.items() if k >= 0), default=0)
  moved = []
  for row in run.lines:
    k = int(row.get("candidate", -1))
    shift = starts[k] - origin if k >= 0 else 0
    moved.append({**row, "step": int(row["step"]) - shift})
  return tuple(moved)


def spans(rows: Sequence[dict[str, Any]]) -> tuple[Span, ...]:
  """The phases as spans of steps.

  Args:
    rows: aligned rows in training order.

  Returns:
    Spans, ascending and without gaps; neighbouring `weights` and `policy`
    stretches are one span with a name like `weights / policy, 12 cycles`.
  """
  pieces: list[tuple[str, int, float, float]] = []
  ordered = sorted(rows, key=lambda row: row["step"])
  for row in ordered:
    phase, cycle = str(row.get("phase", "")), int(row.get("cycle", 0))
    step = float(row["step"])
    if pieces and pieces[-1][:2] == (phase, cycle):
      pieces[-1] = (phase, cycle, pieces[-1][2], step)
    else:
      start = pieces[-1][3] if pieces else step
      pieces.append((phase, cycle, start, step))
  found: list[Span] = []
  for phase, _, first, last in pieces:
    part = (phase, first, last)
    mixed = phase in ("weights", "policy")
    if found and mixed and found[-1].stretches[-1][0] in ("weights", "policy"):
      parts = (*found[-1].stretches, part)
      found[-1] = Span("", found[-1].first, last, parts)
    elif found and found[-1].stretches[-1][0] == phase:
      parts = (*found[-1].stretches, part)
      found[-1] = Span(phase, found[-1].first, last, parts)
    else:
      found.append(Span(phase, first, last, (part,)))
  return tuple(_named(span) for span in found)


def _named(span: Span) -> Span:
  """Names a span after its phases."""
  names = list(dict.fromkeys(phase for phase, _, _ in span.stretches))
  name = " / ".join(names)
  if set(names) == {"weights", "policy"}:
    count = sum(phase == "policy" for phase, _, _ in span.stretches)
    name += f", {count} cycle" + ("s" if count > 1 else "")
  return dataclasses.replace(span, name=name)


def shade(axes: Axes, parts: Sequence[Span], labels: bool) -> None:
  """Tints the phases and, if asked, names them above the axes."""
  for part in parts:
    stretches: tuple[tuple[str, float, float], ...] = part.stretches
    if len(stretches) > _STRIPES:  # one band, not a barcode
      stretches = (("policy", part.first, part.last),)
    for phase, first, last in stretches:
      axes.axvspan(
        first, last, color=style.PHASE_TINTS.get(phase, "#f3f3f3"), linewidth=0, zorder=0
      )
  if not labels:
    return
  total = max(parts[-1].last - parts[0].first, 1e-9)
  for part in parts:
    wide = (part.last - part.first) / total > 0.011 * len(part.name)
    axes.text(
      (part.first + part.last) / 2 if wide else part.first,
      1.02,
      part.name,
      transform=axes.get_xaxis_transform(),
      fontsize=8,
      color=style.SOFT,
      ha="center" if wide else "left",
      va="bottom",
    )


def losses(run: workdir_lib.Run) -> Figure | None:
  """Training loss of every task and the validation score, phases shaded.

  Args:
    run: a run with at least two `train` rows.

  Returns:
    The figure, or None.
  """
  rows = align(run)
  names = [n for n in run.tasks if len(_curve(rows, "train", f"loss/{n}")) > 1]
  keys = [f"loss/{name}" for name in names]
  if not keys and len(_curve(rows, "train", "loss/total")) > 1:
    names, keys = ["total"], ["loss/total"]
  score = workdir_lib.select(rows, "eval", "score")
  if not keys:
    return None
  fig = style.figure(8.2, 5.6 if len(score) > 1 else 3.3)
  grid = fig.subplots(
    2 if len(score) > 1 else 1,
    1,
    squeeze=False,
    sharex=True,
    height_ratios=[1.2, 1] if len(score) > 1 else [1],
  )[:, 0]
  parts = spans(rows)
  ends = []
  for place, key in enumerate(keys):
    found = _draw(grid[0], rows, "train", key, place, run.chosen)
    ends.append((names[place], found, place))
  _scale(grid[0], [value for _, curve, _ in ends for value in curve[:, 1]])
  shade(grid[0], parts, labels=True)
  _end_labels(grid[0], ends)
  grid[0].set_ylabel("training loss")
  if len(score) > 1:
    grid[1].set_ylabel("validation score, higher is better")
    found = _draw(grid[1], rows, "eval", "score", None, run.chosen)
    shade(grid[1], parts, labels=False)
    if any(int(row.get("candidate", -1)) >= 0 for row in score):
      _end_labels(grid[1], [(f"candidate {run.chosen}", found, None)])
  grid[-1].set_xlabel("step")
  grid[0].set_xlim(parts[0].first, parts[-1].last)
  return fig


def metrics(run: workdir_lib.Run) -> Figure | None:
  """First metric of every task on validation data, a panel a task.

  Args:
    run: a run with at least two `eval` rows.

  Returns:
    The figure, or None.
  """
  rows = align(run)
  found = []
  for place, name in enumerate(run.tasks):
    for metric in run.task(name).get("metrics") or ():
      key = f"{name}/{metric['name']}"
      if len(_curve(rows, "eval", key)) > 1:
        found.append((place, name, metric, key))
        break
  if not found:
    return None
  columns = min(len(found), 3)
  lines = -(-len(found) // columns)
  fig = style.figure(3.2 * columns + 0.3, 2.4 * lines + 0.2)
  grid = fig.subplots(lines, columns, squeeze=False, sharex=True).ravel()
  parts = spans(rows)
  for axes, (place, name, metric, key) in zip(grid, found, strict=False):
    shade(axes, parts, labels=False)
    _draw(axes, rows, "eval", key, place, run.chosen)
    column = tables.Column(metric["name"], metric["higher_is_better"], metric.get("unit") or "")
    axes.set_title(f"{name}: {tables.heading(column)}")
    constant = workdir_lib.number(metric.get("constant"))
    if math.isfinite(constant):
      axes.axhline(constant, color=style.SOFT, linewidth=0.9, linestyle="--")
      under = constant > sum(axes.get_ylim()) / 2
      axes.annotate(
        "constant predictor",
        (1, constant),
        (-3, -4 if under else 3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="top" if under else "bottom",
        fontsize=7.5,
        color=style.SOFT,
      )
    axes.set_xlim(parts[0].first, parts[-1].last)
    axes.tick_params(labelbottom=True)
  for axes in grid[len(found) :]:
    axes.set_visible(False)
  for axes in grid[max(len(found) - columns, 0) : len(found)]:
    axes.set_xlabel("step")
  return fig


def _curve(rows: Sequence[dict[str, Any]], kind: str, key: str) -> np.ndarray:
  """Steps and values [N, 2] of one key, ascending in step."""
  found = [
    (float(row["step"]), float(row["values"][key])) for row in workdir_lib.select(rows, kind, key)
  ]
  return np.asarray(sorted(found), np.float64).reshape(len(found), 2)


def _draw(
  axes: Axes, rows: Sequence[dict[str, Any]], kind: str, key: str, place: int | None, chosen: int
) -> np.ndarray:
  """Draws a key: the shared phases and the kept candidate bold, others thin.

  Args:
    axes: where.
    rows: aligned rows.
    kind: `train` or `eval`.
    key: name within `values`.
    place: which colour; None takes ink.
    chosen: the kept candidate.

  Returns:
    The bold curve [N, 2].
  """
  colour = style.INK if place is None else style.colour(place)
  dashes = "-" if place is None else style.line_style(place)
  chosen_rows = [r for r in rows if int(r.get("candidate", -1)) in (-1, chosen)]
  others = sorted({int(r.get("candidate", -1)) for r in rows} - {-1, chosen})
  for other in others:
    curve = _curve([r for r in rows if int(r.get("candidate", -1)) == other], kind, key)
    axes.plot(curve[:, 0], curve[:, 1], dashes, color=colour, linewidth=0.7, alpha=0.45)
  # A new phase may start from other weights: no line across that jump.
  first = [r for r in chosen_rows if int(r.get("candidate", -1)) == -1]
  second = [r for r in chosen_rows if int(r.get("candidate", -1)) == chosen]
  for part in (first, second):
    curve = _curve(part, kind, key)
    # Few points: show where something was measured, the line only joins them.
    mark = "o" if len(curve) < _SPARSE else ""
    axes.plot(
      curve[:, 0], curve[:, 1], dashes, color=colour, linewidth=1.9, marker=mark, markersize=3
    )
  return _curve(chosen_rows, kind, key)


def _scale(axes: Axes, values: Sequence[float]) -> None:
  """A log axis with plain numbers where the losses differ much in size."""
  positive = [v for v in values if v > 0]
  if len(positive) < len(values) or max(positive) < 20 * min(positive):
    axes.set_ylim(bottom=min(0.0, min(values)))
    return
  axes.set_yscale("log")
  axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
  axes.yaxis.set_minor_locator(NullLocator())
  axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def _end_labels(axes: Axes, ends: Sequence[tuple[str, np.ndarray, int | None]]) -> None:
  """Names each curve at its right end, the names moved apart."""
  axes.autoscale_view()
  low, high = axes.get_ylim()
  transform = axes.transScale
  level = [
    float(transform.transform((1.0, v))[1])
    for v in (low, high, *(curve[-1, 1] for _, curve, _ in ends))
  ]
  room = level[1] - level[0]
  wanted = [(value - level[0]) / room for value in level[2:]]
  height = axes.get_window_extent().height / style.DPI * 72
  gap = 11.5 / max(height, 1.0)
  for (name, _, place), where in zip(ends, style.spread(wanted, gap, 0.02, 0.98), strict=True):
    axes.text(
      1.01,
      where,
      name,
      va="center",
      fontsize=8.5,
      fontweight="bold",
      color=style.INK if place is None else style.colour(place),
      transform=axes.transAxes,
    )
