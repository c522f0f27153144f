"""MoCo: MoDo's weights, from averages of the tasks' gradients.

y_k moves by beta (g_k - y_k); w moves to the nearest point of the simplex of w - gamma (G w + rho
w); the update is n y' w. g_k: gradient of task k; G: inner products of the y_k; beta, gamma and
rho: `config.balance.moco_beta`, `config.balance.moco_lr` and `config.balance.moco_decay`.

Source: Fernando et al. 2023 (MoCo).
Differs: times n; y starts at the first gradient, and beta and gamma do not fall with the steps.
  Costs the memory of one more gradient per task. A block that too few tasks execute in a step
  brings 0 to its averages.
Invariances: none; use with `config.balance.normalise=unit`, else long gradients make weights jump.
Example: y = (0, 2) after gradients 0 and 4 at beta 0.5.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import modo


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of MoCo."""

  def move(row: list[jax.Array], kept: Any) -> Any:
    share = jnp.where(kept["count"] > 0, settings.moco_beta, 1.0)
    mean = [old + share * (new - old) for new, old in zip(row, kept["mean"], strict=True)]
    return mean, {"mean": mean, "count": kept["count"] + 1}, jnp.zeros(())

  start = lambda row: {"mean": row, "count": jnp.zeros((), jnp.int32)}
  found = modo.algorithm(settings.moco_lr, settings.moco_decay)
  return found._replace(level="gradients", track=balancing.Track(start, move))
