"""Which of two models is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax.train import optim
from dynashare_jax.train import state as state_lib


def better(
  old: state_lib.Best, new: state_lib.Best, owner: Callable[[str], int | None] | None = None
) -> state_lib.Best:
  """The better of two models: by the mean score, `old` if it is equal.

  Args:
    old: the one kept so far.
    owner: of methods whose tasks share nothing: `/`-joined path of a leaf -> its task. Then
      every task keeps its own best.

  Returns:
    `old` itself, or arrays that are not shared with `new`.
  """
  before, scores = np.asarray(old.scores), np.asarray(new.scores)
  wins = np.full(scores.shape, scores.mean() > before.mean())
  if owner is not None:
    wins = scores > before
  if not wins.any():
    return old

  def pick(path: Any, kept: jax.Array, other: jax.Array) -> jax.Array:
    task = 0 if owner is None else owner(optim.path_of(path))
    return jnp.array(other) if wins[task] else kept

  pick_all = jax.tree_util.tree_map_with_path
  return state_lib.Best(
    params=pick_all(pick, old.params, new.params),
    stats=pick_all(pick, old.stats, new.stats),
    scores=jnp.asarray(np.where(wins, scores, before)),
    candidate=jnp.asarray(np.where(wins, new.candidate, old.candidate), jnp.int32),
    step=jnp.asarray(np.where(wins, new.step, old.step), jnp.int32),
  )
