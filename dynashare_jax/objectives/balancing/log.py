"""Logarithms of the losses: a task counts by how much its loss changes in percent.

w_k = 1 / L_k, the gradient of sum log L_k. L: losses.

Source: scale-invariant loss (SI); see Lin et al. 2022, also behind DB-MTL (Lin et al. 2023).
Differs: a loss below 1e-8 is divided by 1e-8.
Invariances: a factor on a loss changes nothing; lambda_k multiplies the weight instead.
Example: losses 2 and 0.5 give the weights 0.5 and 2.
"""

from __future__ import annotations

from typing import Any

from dynashare_jax.objectives import balancing


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of logarithms."""
  del settings
  weigh = lambda facts, state: (1.0 / balancing.divisor(facts.losses), state)
  return balancing.Algorithm(weigh, heads=True, weights="result", positive=True)
