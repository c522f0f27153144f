"""PCGrad: every gradient loses what conflicts with another, task after task.

For each i: r = g_i; for j in random order, if <r, g_j> < 0, r loses its part along g_j; the update
is the sum of the r.

Source: Yu et al. 2020 (PCGrad).
Differs: from inner products alone.
Invariances: linear in a factor on one loss, for a given order. Can ascend on a task from three on.
Example: gradients (-4, 1, 1) and (6, 1, 1) give the weights 20/9 and 30/19.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _surgery


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of gradient surgery."""
  del settings
  return balancing.Algorithm(weigh, "gramian", length="plain")


def weigh(
  facts: balancing.Facts, state: Any, order: jax.Array | None = None
) -> tuple[jax.Array, Any]:
  """Weights of the sum; `order` int32 `[K, K]` in place of a random one."""
  rule = lambda products, length, j, kept: (-jnp.minimum(products[j], 0.0), kept)
  none = jnp.zeros_like(facts.gramian)
  return _surgery.operate(facts, rule, none, order)[0], state
