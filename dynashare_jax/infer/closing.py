"""The order in which gates close: a path from all closed to all open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import heapq
import math
from typing import Any

import jax
import numpy as np

from dynashare_jax.data import loader
from dynashare_jax.infer import trained as trained_lib

FAR = 1e9  # no score is as large; finite, so that JSON can hold it
_QUARTILES = (0.25, 0.5, 0.75)
LEVELS = len(_QUARTILES) + 1  # of a block: 0 is always open, the last closed

Knobs = tuple[np.ndarray, float]  # thresholds [L] and the target rate that gates read
Path = Callable[[float], Knobs]
TryLevels = Callable[[np.ndarray], tuple[float, float]]


def sampled(gated: Sequence[bool], low: float, high: float) -> Path:
  """Returns the path through the trained range of target rates; all scores shift beyond it."""
  mask = np.asarray(gated, np.float64)

  def at(position: float) -> Knobs:
    third = 3 * position
    if third < 1:  # from all closed to threshold 0
      return _shift(mask, third, 1.0), low
    if third <= 2:
      return 0 * mask, low + (third - 1) * (high - low)
    return _shift(mask, 3 - third, -1.0), high

  return at


def _shift(mask: np.ndarray, near: float, sign: float) -> np.ndarray:
  """Thresholds of gated blocks: 0 at `near` 1, beyond every score at 0."""
  return sign * mask * (FAR if near <= 0 else min((1 - near) / near, FAR))


def quartiles(trained: trained_lib.Trained, batches: Callable[[], Any]) -> np.ndarray:
  """Returns the quartiles `[3, L]` of every block's scores with all gates open."""
  blocks = len(trained.gated)
  run = jax.jit(trained.forward(threshold=np.full(blocks, -FAR)))
  scores: list[list[np.ndarray]] = [[] for _ in range(blocks)]
  for arrays, indices, present in batches():
    inputs = loader.take(arrays, indices, present).inputs
    signals = jax.device_get(run(trained.variables, inputs)[1])
    here = np.asarray(present)
    for task, block in zip(*np.nonzero(signals.own.gated), strict=True):
      scores[block].append(signals.own.relevance[task, here, block])
  return np.stack(
    [np.quantile(np.concatenate(s), _QUARTILES) if s else np.zeros(3) for s in scores], axis=1
  )


def thresholds(levels: np.ndarray, quartiles: np.ndarray) -> np.ndarray:
  """Returns thresholds `[L]` at levels 0 (always open) to 4 (always closed).

  Between, a whole level is a quartile of the block's scores. Beyond the first and the last quartile
  thresholds go to infinity, because scores leave their range when earlier blocks are closed.
  """
  found = np.zeros(len(levels))
  for block, level in enumerate(levels):
    marks = quartiles[:, block]
    width = max(float(marks[-1] - marks[0]), 1e-3)
    if level <= 0 or level >= LEVELS:
      found[block] = -FAR if level <= 0 else FAR
    elif level < 1:
      found[block] = max(marks[0] - width * (1 - level) / level, -FAR)
    elif level > LEVELS - 1:
      over = level - (LEVELS - 1)
      found[block] = min(marks[-1] + width * over / (1 - over), FAR)
    else:
      found[block] = np.interp(level, range(1, LEVELS), marks)
  return found


def order(
  try_levels: Callable[[np.ndarray], tuple[float, float]], asked: Sequence[int], blocks: int
) -> list[np.ndarray]:
  """Finds levels `[L]` from all open to all closed; each step closes one block by a level.

  The next block is the one that loses least score for the work that it saves. What a block would
  lose is looked up again only when it comes first, which takes about two evaluations a step.

  Args:
    try_levels: levels `[L]` to (share of the work, score).
    asked: blocks that a gate decides.
    blocks: L; the others stay at level 0, where nothing reads them.
  """
  levels = np.zeros(blocks)
  nodes, now = [levels], try_levels(levels)

  def loss(block: int) -> tuple[float, tuple[float, float], np.ndarray]:
    closer = levels + (np.arange(blocks) == block)
    cost, score = try_levels(closer)
    return (now[1] - score) / max(now[0] - cost, 1e-4), (cost, score), closer

  waiting = [(-math.inf, block) for block in asked]
  while waiting:
    block = heapq.heappop(waiting)[1]
    ratio, after, closer = loss(block)
    if waiting and ratio > waiting[0][0]:
      heapq.heappush(waiting, (ratio, block))
      continue
    levels, now = closer, after
    nodes.append(levels)
    if levels[block] < LEVELS:
      heapq.heappush(waiting, (ratio, block))
  return nodes


def along(nodes: Sequence[np.ndarray], quartiles: np.ndarray, target: float) -> Path:
  """Returns the path through nodes of levels, from all closed to all open."""
  asked = np.asarray(nodes[0]) > 0  # all closed

  def at(position: float) -> Knobs:
    place = position * (len(nodes) - 1)
    index = min(int(place), len(nodes) - 2)
    part = place - index
    levels = (1 - part) * nodes[index] + part * nodes[index + 1]
    return np.where(asked, thresholds(levels, quartiles), 0.0), target

  return at
