"""Figures of the instance gates: what test examples execute."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib


def has_gates(run: workdir_lib.Run) -> bool:
  """Whether test examples take different paths in this run."""
  rates, gated = run.rates, run.gated
  if rates is None:
    return False
  if gated is not None:
    return bool(gated.any())
  return bool(((rates > 0) & (rates < 1)).any())


def execution(run: workdir_lib.Run) -> Figure | None:
  """Execution rate of every block and task, and blocks an example executes.

  Args:
    run: a run with instance gates.

  Returns:
    The figure (a row a task: rates at the left, histogram at the right), or
    None if no gate decides.
  """
  rates = run.rates
  if rates is None or not has_gates(run):
    return None
  tasks, blocks = rates.shape
  names = run.tasks
  counts, places = _histogram(run)
  left = max(3.6, 0.42 * blocks + 0.6)
  right = 3.0 if counts is not None else 0.0
  fig = style.figure(left + right, 1.25 * tasks + 1)
  grid = fig.subplots(
    tasks,
    1 if counts is None else 2,
    squeeze=False,
    sharex="col",
    width_ratios=[left] if counts is None else [left, 2.8],
  )
  fig.get_layout_engine().set(wspace=0.06, hspace=0.04)
  for task in range(tasks):
    _rates(grid[task, 0], run, task, names[task])
    if counts is not None:
      _counts(grid[task, 1], places, counts[task], style.colour(task))
  last = grid[-1]
  last[0].set_xlabel("block, 0 nearest the input")
  if counts is not None:
    grid[0, 1].set_title("Blocks executed by an example")
    last[1].set_xlabel("blocks executed")
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
  axes.bar(
    range(blocks),
    values,
    width=0.66,
    color=[style.colour(task) if g else style.FAINT for g in gated],
  )
  for block, value in enumerate(values):
    if skipped[block]:
      axes.text(
        block, 0.03, "skipped", rotation=90, ha="center", va="bottom", fontsize=7, color=style.SOFT
      )
      continue
    axes.text(
      block,
      value + 0.05 + 0.03 * _under(targets, gated, block, value),
      f"{value:.2f}".replace("0.", "."),
      ha="center",
      va="bottom",
      fontsize=7.5,
      color=style.INK if gated[block] else style.SOFT,
    )
    if targets is not None and gated[block] and np.isfinite(targets[block]):
      axes.plot(
        [block - 0.42, block + 0.42],
        [targets[block]] * 2,
        color=style.INK,
        linewidth=1.6,
        solid_capstyle="butt",
      )
  axes.set_xlim(-0.6, blocks - 0.4)
  axes.set_ylim(0, 1.24)
  axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
  axes.spines["left"].set_bounds(0, 1)
  axes.set_xticks(range(blocks))
  axes.set_title(name)
  axes.tick_params(axis="x", length=0)
  if task == 0:
    _key(axes, targets is not None and bool(gated.any()), bool((~gated).any()))


def _under(targets: np.ndarray | None, gated: np.ndarray, block: int, value: float) -> float:
  """How far a bar's number must rise so that its target tick stays clear."""
  if targets is None or not gated[block] or not np.isfinite(targets[block]):
    return 0.0
  above = targets[block] - value
  return above / 0.03 if 0 < above < 0.2 else 0.0


def _key(axes: Axes, target: bool, ungated: bool) -> None:
  """The two marks that need words, once, at the top right."""
  words = []
  if target:
    words.append("▬ target rate")
  if ungated:
    words.append("grey: no gate")
  axes.set_title("    ".join(words), loc="right", fontsize=8, fontweight="normal", color=style.SOFT)


def _counts(axes: Axes, places: np.ndarray, counts: np.ndarray, colour: str) -> None:
  """Share of examples by number of blocks executed, and the mean."""
  share = counts / max(counts.sum(), 1)
  step = float(np.min(np.diff(places))) if len(places) > 1 else 1.0
  axes.bar(places, share, width=0.86 * step, color=colour)
  mean = float((places * share).sum())
  top = max(float(share.max()), 1e-9)
  axes.plot([mean], [1.1 * top], "v", color=style.INK, markersize=4.5, clip_on=False)
  axes.text(mean, 1.17 * top, f"mean {mean:.1f}", va="bottom", ha="center", fontsize=8)
  axes.set_ylim(0, 1.38 * top)
  axes.set_yticks([])
  axes.spines["left"].set_visible(False)
  shown = places[:: -(-len(places) // 10)]
  axes.set_xticks(shown)
  axes.set_xticklabels([f"{p:g}" for p in shown])
  axes.tick_params(axis="x", length=0)
