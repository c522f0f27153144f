"""Geometric mean of the losses (GLS).

w_k = n (prod L)^(1/n) / (n L_k) over the n present tasks. L: losses.

Source: Chennupati et al. 2019.
Differs: times n, as all sums here; a loss below 1e-8 is taken as 1e-8.
Invariances: a factor on one loss changes the direction of no update, only its length; lambda_k
  multiplies the weight instead.
Example: losses 4 and 1 have the geometric mean 2 and get the weights 0.5 and 2.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of the geometric mean."""
  del settings
  return balancing.Algorithm(_weigh, heads=True, weights="result", positive=True)


def _weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
  """The mean by its logarithm."""
  values = balancing.divisor(facts.losses)
  mean = jnp.exp(facts.sum(jnp.log(values)) / facts.tasks)
  return mean / values, state
