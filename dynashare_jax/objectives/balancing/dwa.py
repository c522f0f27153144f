"""Dynamic weight average (DWA): tasks whose loss falls slowly count more.

w = n softmax(r / T), r_k = mean loss of the last epoch / mean loss of the one before, over the n
present tasks. T: `config.balance.dwa_temperature`.

Source: Liu et al. 2019 (MTAN).
Differs: an epoch is as many steps as the phase's data hold batches; a task without two whole epochs
  has r = 1.
Invariances: a factor on a loss changes no weight.
Example: r = (0.8, 1.1, 0.6) and T = 2 give 0.978, 1.137 and 0.885.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _averages


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of dynamic weights."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    state = _averages.move_epochs(state, facts.losses)
    ratio = state["last"] / balancing.divisor(state["before"])
    ratio = jnp.where(state["done"] > 1, ratio, 1.0)
    return facts.tasks * facts.softmax(ratio / settings.dwa_temperature), state

  return balancing.Algorithm(weigh, init=_averages.init_epochs, heads=True, positive=True)
