"""GO4Align: tasks in groups that share a weight, by risk and by scale of the loss.

w_k is the centre of the group of p_k sum(L) / L_k; p_k moves to p_k exp(-beta L_k) and sums to 1.
L: losses; beta: `config.balance.go4align_beta`; groups by k-means in one dimension, of
`config.balance.go4align_groups`.

Source: Shen et al. 2024 (GO4Align) and its code.
Differs: 2 groups by default; the authors' command leaves 1, which gives all tasks the same weight.
  k-means starts from quantiles and makes 10 rounds: no random draw.
Invariances: a common factor on all losses changes only p; lambda_k multiplies the weight.
Example: losses (1, 1, 4) with p = 1/3 and 2 groups have the values (2, 2, 0.5), which are the
  weights.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of grouped weights."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    values = jnp.where(facts.present, balancing.divisor(facts.losses), 1.0)
    moved = state["log"] - settings.go4align_beta * values
    found = facts.softmax(moved) * facts.sum(values) / values
    return _centres(found, facts, settings.go4align_groups), {"log": moved}

  init = lambda tasks, epoch: {"log": jnp.zeros(tasks)}
  return balancing.Algorithm(weigh, init=init, heads=True, weights="result", positive=True)


def _centres(values: jax.Array, facts: balancing.Facts, groups: int) -> jax.Array:
  """For every value the mean of its group."""
  ordered = jnp.sort(jnp.where(facts.present, values, jnp.inf))
  places = (jnp.linspace(0.0, 1.0, groups) * (facts.tasks - 1)).astype(jnp.int32)
  centres = ordered[places] if groups > 1 else facts.sum(values)[None] / facts.tasks
  one = lambda centres: (
    jnp.argmin(jnp.abs(values[:, None] - centres[None, :]), 1)[:, None] == jnp.arange(groups)[None]
  )
  for _ in range(10):
    member = one(centres) & facts.present[:, None]
    sums = jnp.where(member, values[:, None], 0.0).sum(0)
    centres = jnp.where(member.any(0), sums / jnp.maximum(member.sum(0), 1), centres)
  return jnp.where(one(centres), centres[None, :], 0.0).sum(1)
