"""UPGrad: the sum of the gradients, each projected so that it harms no task.

Of each g_i the nearest u with J u >= 0; the update is their sum. J: rows are gradients.

Source: Quinton and Rey 2024 (Jacobian descent).
Differs: a sum, not a mean; solved exactly in unit coordinates, without a ridge that depends on
  scale.
Invariances: linear in a factor on one loss; ascends on no task.
Example: gradients (-4, 1, 1) and (6, 1, 1) give the weights 20/9 and 30/19.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of projected gradients."""
  del settings
  return balancing.Algorithm(_weigh, "gramian", length="plain")


def _weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
  """Weights of the rows in the sum of the projections."""
  lengths, cosines = gramian.unit(facts.gramian, facts.present)
  sizes = jnp.where(facts.present, lengths, 0.0)
  return gramian.times(gramian.projections(cosines).T, sizes) / lengths, state
