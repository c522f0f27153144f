"""MoDo: one step towards the shortest mixture at a time.

w moves to the nearest point of the simplex of w - gamma (G w + rho w); the update is n J' w. G:
inner products of the gradients, rows of J; gamma and rho: `config.balance.modo_lr` and
`config.balance.modo_decay`.

Source: Chen et al. 2023 (MoDo).
Differs: times n; G is of the step's own batch, where the paper draws two more.
Invariances: none; with rows much longer than gamma^(-1/2) weights jump between corners.
Example: at w = (0.5, 0.5), G = diag(2, 0), gamma 0.1 and rho 0: w moves to (0.45, 0.55).
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of MoDo."""
  return algorithm(settings.modo_lr, settings.modo_decay)


def algorithm(rate: float, decay: float) -> balancing.Algorithm:
  """Returns the algorithm of weights that move on the simplex, a step of size `rate` at a time."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    weights = jnp.where(facts.present, state["weights"], 0.0)
    pull = gramian.times(
      jnp.where(jnp.outer(facts.present, facts.present), facts.gramian, 0.0), weights
    )
    moved = weights - rate * (pull + decay * weights)
    moved = gramian.simplex(moved, facts.present)
    return facts.tasks * moved, {"weights": moved}

  init = lambda tasks, epoch: {"weights": jnp.full(tasks, 1.0 / tasks)}
  return balancing.Algorithm(weigh, "gramian", init=init, length="plain")
