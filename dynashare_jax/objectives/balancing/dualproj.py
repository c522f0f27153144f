"""DualProj: the sum of the gradients, projected so that it harms no task.

The nearest u to J' 1 with J u >= 0. J: rows are gradients.

Source: Lopez-Paz and Ranzato 2017 (GEM), as named by Quinton and Rey 2024.
Differs: a sum, not a mean; solved exactly in unit coordinates.
Invariances: ascends on no task; long gradients decide.
Example: gradients (-4, 1, 1) and (6, 1, 1) give the weights 11/9 and 1.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of the projected sum."""
  del settings
  return balancing.Algorithm(_weigh, "gramian", length="plain")


def _weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
  """One for every row, and what the projection adds."""
  lengths, cosines = gramian.unit(facts.gramian, facts.present)
  sizes = jnp.where(facts.present, lengths, 0.0)
  longest = jnp.maximum(sizes.max(), 1e-30)
  added = gramian.nonnegative(cosines, gramian.times(cosines, sizes / longest))
  return 1.0 + longest * added / lengths, state
