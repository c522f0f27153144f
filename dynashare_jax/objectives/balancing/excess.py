"""ExcessMTL: tasks that are far from their optimum count more.

w_k = n softmax(v)_k; v_k moves by eta E_k / E_k(0); E_k = sum of g_k^2 / sqrt(S_k), where S_k sums
the squares of all gradients of task k, by element; E_k(0) is the first E_k; eta is
`config.balance.excess_lr`.

Source: He et al. 2024 (ExcessMTL), Algorithm 1.
Differs: times n; only what tasks share counts; no 1e-7 beside S_k, in which small gradients would
  vanish. The first step's weights are equal, as in the authors' code. Costs the
  memory of one more gradient per task.
Invariances: to a factor on a loss; lambda_k multiplies the weight.
Example: one element, gradients 3 and 4: E is 3, then 16 / 5; at eta 1 v moves by 16 / 15.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of excess risks."""

  def move(row: list[jax.Array], kept: list[jax.Array]) -> Any:
    sums = [old + leaf * leaf for leaf, old in zip(row, kept, strict=True)]
    risks = [
      (leaf * leaf * jax.lax.rsqrt(jnp.maximum(total, 1e-30))).sum()
      for leaf, total in zip(row, sums, strict=True)
    ]
    return row, sums, jnp.asarray(sum(risks))

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    begun = state["first"] > 0
    first = jnp.where(begun, state["first"], facts.told)
    share = facts.told / jnp.maximum(first, 1e-30)
    value = jnp.where(begun, state["value"] + settings.excess_lr * share, state["value"])
    return facts.tasks * facts.softmax(value), {"value": value, "first": first}

  return balancing.Algorithm(
    weigh,
    "gradients",
    init=lambda tasks, epoch: {"value": jnp.zeros(tasks), "first": jnp.zeros(tasks)},
    weights="result",
    length="plain",
    track=balancing.Track(lambda row: row, move),
  )
