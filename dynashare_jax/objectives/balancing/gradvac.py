"""Gradient vaccine (GradVac): every gradient is turned until its cosines are the usual ones.

As `pcgrad`, but where the cosine phi of r and g_j is below its average phi^, r gains g_j |r| (phi^
sqrt(1 - phi^2) - phi sqrt(1 - phi^^2)) / (|g_j| sqrt(1 - phi^^2)), and then phi^ moves to (1 -
beta) phi^ + beta phi. beta: `config.balance.gradvac_beta`; phi^ is 0 at first.

Source: Wang et al. 2021 (GradVac).
Differs: from inner products alone, of all that tasks share. beta is that of LibMTL and TorchJD.
Invariances: as `pcgrad`, which it is in the first step.
Example: at phi^ = 0 and phi = -0.5 of unit gradients, r gains 0.5 g_j.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _surgery


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of gradient vaccine."""
  init = lambda tasks, epoch: {"cosines": jnp.zeros((tasks, tasks))}
  made = lambda facts, state: weigh(facts, state, settings.gradvac_beta)
  return balancing.Algorithm(made, "gramian", init=init, length="plain")


def weigh(
  facts: balancing.Facts, state: Any, beta: float, order: jax.Array | None = None
) -> tuple[jax.Array, Any]:
  """Weights of the sum; `order` int32 `[K, K]` in place of a random one."""

  def rule(
    products: jax.Array, length: jax.Array, j: jax.Array, kept: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    sine = lambda cosine: jnp.sqrt(jnp.maximum(1.0 - cosine**2, 1e-6))
    cosine, usual = jnp.clip(products[j] / length, -1.0, 1.0), kept[j]
    gain = length * (usual * sine(cosine) - cosine * sine(usual)) / sine(usual)
    moved = kept.at[j].set((1.0 - beta) * usual + beta * cosine)
    return jnp.where(cosine < usual, gain, 0.0), moved

  weights, cosines = _surgery.operate(facts, rule, state["cosines"], order)
  return weights, {"cosines": cosines}
