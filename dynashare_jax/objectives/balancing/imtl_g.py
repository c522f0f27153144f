"""IMTL-G: the update with the same projection onto every unit gradient.

w = n x / |sum x|, x = D^-1 C^+ 1. D: lengths of the gradients; C: their cosines, C^+ its
pseudo-inverse.

Source: Liu et al. 2021 (IMTL).
Differs: times n; divided by the absolute value of the sum, where the paper's turns to ascent on all
  tasks when it is negative.
Invariances: a factor on a loss leaves the direction; lambda_k multiplies the weight.
Example: for orthogonal gradients of lengths 1 and 3 it gives 1.5 and 0.5.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of equal projections."""
  del settings
  return balancing.Algorithm(_weigh, "gramian", weights="result", length="plain")


def _weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
  """The direction, with weights that sum to the number of tasks."""
  lengths, cosines = gramian.unit(facts.gramian, facts.present)
  found = gramian.solve(cosines, facts.present.astype(jnp.float32)) / lengths
  total = jnp.maximum(jnp.abs(facts.sum(found)), 1e-6 * facts.sum(jnp.abs(found)) + 1e-30)
  return facts.tasks * found / total, state
