"""Figures of the instance gates: what test examples execute."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib


def has_gates(run: workdir_lib.Run) -> bool:
  """Returns whether test examples take different paths in this run."""
  rates, gated = run.rates, run.gated
  if rates is None:
    return False
  return bool((((rates > 0) & (rates < 1)) if gated is None else gated).any())


def execution(run: workdir_lib.Run) -> Figure | None:
  """Draws one row per task: execution rates of its blocks, and blocks that an example executes.

  Returns None if no gate decides.
  """
  rates = run.rates
  if rates is None or not has_gates(run):
    return None
  tasks, blocks = rates.shape
  names = run.tasks
  counts, places = _histogram(run)
  widths = [max(3.6, 0.42 * blocks + 0.6), *([] if counts is None else [2.8])]
  fig = style.figure(widths[0] + 3.0 * (counts is not None), 1.25 * tasks + 1)
  grid = fig.subplots(tasks, len(widths), squeeze=False, sharex="col", width_ratios=widths)
  fig.get_layout_engine().set(wspace=0.06, hspace=0.04)
  for task in range(tasks):
    _rates(grid[task, 0], run, task, names[task])
    if counts is not None:
      _counts(grid[task, 1], places, counts[task], style.colour(task))
  grid[-1, 0].set_xlabel("block, 0 nearest the input")
  if counts is not None:
    grid[0, 1].set_title("Blocks executed by an example")
    grid[-1, 1].set_xlabel("blocks executed")
  return fig


def _histogram(run: workdir_lib.Run) -> tuple[np.ndarray | None, np.ndarray]:
  """Counts [T, N] and their places [N]; None if absent or without counts."""
  found: dict[str, Any] = (run.results.get("execution") or {}).get("per_example_hist") or {}
  counts = workdir_lib.matrix(found.get("counts"))
  if counts is None or counts.sum() == 0:
    return None, np.zeros(0)
  # Bins may be the values themselves or the edges around them.
  places = np.asarray(found.get("bins", []), np.float64)
  if len(places) == counts.shape[1] + 1:
    places = places[:-1]
  if len(places) != counts.shape[1]:
    places = np.arange(counts.shape[1], dtype=np.float64)
  return counts, places


def _rates(axes: Axes, run: workdir_lib.Run, task: int, name: str) -> None:
  """Bars of one task; targets as black ticks; skipped blocks as crosses."""
  rates, route = run.rates, run.route
  assert rates is not None  # execution() has looked
  values = rates[task]
  blocks = len(values)
  gated = run.gated if run.gated is not None else np.ones(blocks, bool)
  targets = run.target_rates
  skipped = np.zeros(blocks, bool) if route is None else route[task] < 0.5
  colours = [style.colour(task) if g else style.FAINT for g in gated]
  axes.bar(range(blocks), values, width=0.66, color=colours)
  above: dict[str, Any] = {"ha": "center", "va": "bottom"}
  for block, value in enumerate(values):
    if skipped[block]:
      style.text(axes, block, 0.03, "skipped", 7, rotation=90, **above)
      continue
    target = targets[block] if targets is not None and gated[block] else np.nan
    # The number of a bar stands clear of the tick of a target just above it.
    height = target if 0 < target - value < 0.2 else value
    colour = style.INK if gated[block] else style.SOFT
    words = f"{value:.2f}".replace("0.", ".")
    style.text(axes, block, height + 0.05, words, colour=colour, **above)
    if np.isfinite(target):
      ends = [block - 0.42, block + 0.42]
      axes.plot(ends, [target] * 2, color=style.INK, linewidth=1.6, solid_capstyle="butt")
  axes.set(xlim=(-0.6, blocks - 0.4), ylim=(0, 1.24))
  axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
  axes.spines["left"].set_bounds(0, 1)
  axes.set_xticks(range(blocks))
  axes.set_title(name)
  axes.tick_params(axis="x", length=0)
  if task == 0:  # The two marks that need words, once, at the top right.
    marks = ["▬ target rate"] if targets is not None and gated.any() else []
    marks += [] if gated.all() else ["grey: no gate"]
    soft = {"fontsize": 8, "fontweight": "normal", "color": style.SOFT}
    axes.set_title("    ".join(marks), loc="right", **soft)


def _counts(axes: Axes, places: np.ndarray, counts: np.ndarray, colour: str) -> None:
  """Share of examples by number of blocks executed, and the mean."""
  share = counts / max(counts.sum(), 1)
  step = float(np.min(np.diff(places))) if len(places) > 1 else 1.0
  axes.bar(places, share, width=0.86 * step, color=colour)
  mean = float((places * share).sum())
  top = max(float(share.max()), 1e-9)
  axes.plot([mean], [1.1 * top], "v", color=style.INK, markersize=4.5, clip_on=False)
  style.text(axes, mean, 1.17 * top, f"mean {mean:.1f}", 8, style.INK, va="bottom", ha="center")
  axes.set_ylim(0, 1.38 * top)
  axes.set_yticks([])
  axes.spines["left"].set_visible(False)
  shown = places[:: -(-len(places) // 10)]
  axes.set_xticks(shown, [f"{p:g}" for p in shown])
  axes.tick_params(axis="x", length=0)
