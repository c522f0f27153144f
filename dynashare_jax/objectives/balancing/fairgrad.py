"""FairGrad: alpha-fair shares of the descent.

w > 0 with (G w)_k = (p_k / w_k)^(1 / alpha). G: inner products of the gradients; alpha:
`config.balance.fairgrad_alpha`, 1 is `nash`, large is the worst task's; p: the configuration's
weights, a preference.

Source: Ban and Ji 2024 (FairGrad).
Differs: the exact solution of the convex problem that it is (`ops.gramian.fair`); not clipped; the
  preference.
Invariances: none but at alpha = 1; above, tasks with small gradients count more.
Example: one task alone has w = d^(-2 alpha / (alpha + 1)).
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of fair shares."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    lengths, cosines = gramian.unit(facts.gramian, facts.present)
    preference = jnp.where(facts.present, facts.prior, 1.0)
    return gramian.fair(lengths, cosines, preference, settings.fairgrad_alpha), state

  return balancing.Algorithm(weigh, "gramian", weights="inside", length="plain")
