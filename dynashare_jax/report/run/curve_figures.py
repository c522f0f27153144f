"""Curves by phase: training losses, validation scores, and how the tasks were balanced."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools
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
  """Steps of one phase, or of phases that take turns.

  Attributes:
    stretches: (phase, first step, last step) of its parts, in order.
  """

  stretches: tuple[tuple[str, float, float], ...]

  @property
  def first(self) -> float:
    """The first step."""
    return self.stretches[0][1]

  @property
  def last(self) -> float:
    """The last step."""
    return self.stretches[-1][2]

  @property
  def name(self) -> str:
    """The name above the curves: `warmup`, or `weights / policy, 12 cycles`."""
    phases = [phase for phase, _, _ in self.stretches]
    names = list(dict.fromkeys(phases))
    count = phases.count(names[-1])
    return " / ".join(names) + f", {count} cycle{'s' * (count > 1)}" * (len(names) > 1)


_ASIDE = ("measure", "trial")  # phases without a curve


def _candidate(row: dict[str, Any]) -> int:
  """The candidate that a row belongs to, or -1."""
  return int(row.get("candidate", -1))


def align(run: workdir_lib.Run) -> tuple[dict[str, Any], ...]:
  """Returns copies of the rows in which all candidates start at the step of the first one.

  They are trained one after another; so their curves can be compared. Trials and what moves
  nothing are left out.
  """
  lines = [row for row in run.lines if row.get("phase") not in _ASIDE]
  starts: dict[int, int] = {}
  for row in lines:
    k, step = _candidate(row), int(row["step"])
    starts[k] = min(starts.get(k, step), step)
  first = min((s for k, s in starts.items() if k >= 0), default=0)
  tried = [int(row["step"]) for row in run.lines if row.get("phase") == "trial"]
  shared = [int(row["step"]) for row in lines if _candidate(row) < 0]
  # The trials' place is closed.
  moved = {k: s - first for k, s in starts.items()}
  if tried and shared:
    moved = {k: s + max(tried) - max(shared) for k, s in moved.items()}
  moved[-1] = 0
  return tuple({**row, "step": int(row["step"]) - moved[_candidate(row)]} for row in lines)


def spans(rows: Sequence[dict[str, Any]]) -> tuple[Span, ...]:
  """Returns the phases of aligned rows as spans of steps, ascending and without gaps.

  Neighbouring stretches of phases that take turns are one span.
  """
  pieces: list[tuple[str, int, float, float]] = []
  cycles: dict[str, set[int]] = {}
  for row in sorted(rows, key=lambda row: row["step"]):
    phase, cycle = str(row.get("phase", "")), int(row.get("cycle", 0))
    cycles.setdefault(phase, set()).add(cycle)
    step = float(row["step"])
    if pieces and pieces[-1][:2] == (phase, cycle):
      pieces[-1] = (phase, cycle, pieces[-1][2], step)
    else:
      start = pieces[-1][3] if pieces else step
      pieces.append((phase, cycle, start, step))
  turns = {"weights", "policy"} | {phase for phase, seen in cycles.items() if len(seen) > 1}
  kind = lambda phase: "" if phase in turns else phase
  return tuple(
    Span(tuple((phase, first, last) for phase, _, first, last in group))
    for _, group in itertools.groupby(pieces, key=lambda piece: kind(piece[0]))
  )


def shade(axes: Axes, parts: Sequence[Span], labels: bool) -> None:
  """Tints the phases and, if `labels`, names them above the axes."""
  total = max(parts[-1].last - parts[0].first, 1e-9)
  for part in parts:
    stretches: tuple[tuple[str, float, float], ...] = part.stretches
    if len(stretches) > _STRIPES:  # one band, not a barcode
      stretches = ((stretches[-1][0], part.first, part.last),)
    for phase, first, last in stretches:
      tint = style.PHASE_TINTS.get(phase, "#f3f3f3")
      axes.axvspan(first, last, color=tint, linewidth=0, zorder=0)
    if labels:
      wide = (part.last - part.first) / total > 0.011 * len(part.name)
      place = (part.first + part.last) / 2 if wide else part.first
      more = {"ha": "center" if wide else "left", "va": "bottom"}
      style.text(axes, place, 1.02, part.name, 8, transform=axes.get_xaxis_transform(), **more)


def losses(run: workdir_lib.Run) -> Figure | None:
  """Draws the training loss of every task and the validation score, phases shaded.

  Returns None for a run with fewer than two `train` rows.
  """
  rows = align(run)
  names = [n for n in run.tasks if len(_curve(rows, "train", f"loss/{n}")) > 1]
  keys = [f"loss/{name}" for name in names]
  if not keys and len(_curve(rows, "train", "loss/total")) > 1:
    names, keys = ["total"], ["loss/total"]
  score = workdir_lib.select(rows, "eval", "score")
  if not keys:
    return None
  heights = [1.2, 1] if len(score) > 1 else [1]
  fig = style.figure(8.2, 5.6 if len(score) > 1 else 3.3)
  grid = fig.subplots(len(heights), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
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
    if any(_candidate(row) >= 0 for row in score):
      _end_labels(grid[1], [(f"candidate {run.chosen}", found, None)])
  grid[-1].set_xlabel("step")
  grid[0].set_xlim(parts[0].first, parts[-1].last)
  return fig


def metrics(run: workdir_lib.Run) -> Figure | None:
  """Draws the first metric of every task on validation data, one panel per task.

  Returns None for a run with fewer than two `eval` rows.
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
  fig, grid = style.panels(len(found), 3, (3.2, 2.4), (0.3, 0.2), lowest="step", sharex=True)
  parts = spans(rows)
  dashed = {}
  for axes, (place, name, metric, key) in zip(grid, found, strict=True):
    shade(axes, parts, labels=False)
    _draw(axes, rows, "eval", key, place, run.chosen)
    axes.set_title(f"{name}: {tables.heading(tables.metric_column(metric))}")
    constant = workdir_lib.number(metric.get("constant"))
    if math.isfinite(constant):
      line = axes.axhline(constant, color=style.SOFT, linewidth=0.9, linestyle="--")
      dashed["constant predictor"] = line
    axes.set_xlim(parts[0].first, parts[-1].last)
  if dashed:  # Below the panels, where no curve can cross it.
    fig.legend(dashed.values(), dashed.keys(), loc="outside lower right", labelcolor=style.SOFT)
  return fig


def balance(run: workdir_lib.Run) -> Figure | None:
  """Draws the tasks' weights, the lengths of their gradients and the smallest cosine, by step.

  What a run did not log is left out. Returns None for a run with fewer than two weights, such as
  one with fixed weights.
  """
  rows = align(run)
  panels: list[tuple[str, list[tuple[str, str, int | None]]]] = []
  for kind, title in (("weight", "weight"), ("norm", "length of gradient")):
    found: list[tuple[str, str, int | None]] = []
    for place, name in enumerate(run.tasks):
      if len(_curve(rows, "train", f"{kind}/{name}")) > 1:
        found.append((name, f"{kind}/{name}", place))
    panels.append((title, found))
  if not panels[0][1]:
    return None
  least = "cosine/least"
  panels.append(("smallest cosine", [("", least, None)] * (len(_curve(rows, "train", least)) > 1)))
  panels = [(title, keys) for title, keys in panels if keys]
  fig = style.figure(8.2, 0.6 + 2.3 * len(panels))
  grid = fig.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
  parts = spans(rows)
  for axes, (title, keys) in zip(grid, panels, strict=True):
    drawn = [
      (n, _draw(axes, rows, "train", key, place, run.chosen), place) for n, key, place in keys
    ]
    if title == "smallest cosine":
      axes.set_ylim(-1.0, 1.0)
      axes.axhline(0, color=style.FAINT, linewidth=1)
    else:
      _scale(axes, [value for _, curve, _ in drawn for value in curve[:, 1]])
    shade(axes, parts, labels=axes is grid[0])
    _end_labels(axes, [end for end in drawn if len(end[1])])
    axes.set_ylabel(title)
  grid[-1].set_xlabel("step")
  grid[0].set_xlim(parts[0].first, parts[-1].last)
  return fig


def _curve(rows: Sequence[dict[str, Any]], kind: str, key: str) -> np.ndarray:
  """Steps and values [N, 2] of one key, ascending in step."""
  found = [(row["step"], row["values"][key]) for row in workdir_lib.select(rows, kind, key)]
  return np.asarray(sorted(found), np.float64).reshape(len(found), 2)


def _draw(
  axes: Axes, rows: Sequence[dict[str, Any]], kind: str, key: str, place: int | None, chosen: int
) -> np.ndarray:
  """Draws shared phases and the kept candidate bold, others thin; returns the bold curve [N, 2]."""
  colour = _colour(place)
  dashes = "-" if place is None else style.line_style(place)
  curves = {
    k: _curve([row for row in rows if _candidate(row) == k], kind, key)
    for k in sorted({-1, chosen, *map(_candidate, rows)})
  }
  # A new phase may start from other weights: no line across that jump.
  bold = [curves.pop(-1), curves.pop(chosen)]
  for curve in curves.values():
    axes.plot(*curve.T, dashes, color=colour, linewidth=0.7, alpha=0.45)
  for curve in bold:
    # Few points: show where something was measured, the line only joins them.
    mark = "o" if len(curve) < _SPARSE else ""
    axes.plot(*curve.T, dashes, color=colour, linewidth=1.9, marker=mark, markersize=3)
  return np.concatenate(bold)


def _colour(place: int | None) -> str:
  """The colour of a place; ink without one."""
  return style.INK if place is None else style.colour(place)


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
    style.text(
      axes, 1.01, where, name, 8.5, _colour(place), fontweight="bold", transform=axes.transAxes
    )
