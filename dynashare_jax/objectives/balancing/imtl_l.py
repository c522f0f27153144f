"""IMTL-L: learnt factors that make all losses 1.

w_k = exp(s_k), where s_k minimises exp(s_k) L_k - s_k. s: learnt, 0 at first, by Adam at
`config.balance.learned_lr`; L: losses.

Source: Liu et al. 2021 (IMTL).
Differs: s has an optimiser of its own, without weight decay.
Invariances: in the end w_k = 1 / L_k, whatever the factor on a loss; lambda_k multiplies the
  weight.
Example: at s = (0, ln 4) the weights are 1 and 4.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _learned


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of IMTL-L."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    found = jnp.exp(state["value"])
    return found, _learned.step(state, found * facts.losses - 1.0, settings.learned_lr)

  return balancing.Algorithm(
    weigh,
    init=lambda tasks, epoch: _learned.init(jnp.zeros(tasks)),
    heads=True,
    weights="result",
    positive=True,
  )
