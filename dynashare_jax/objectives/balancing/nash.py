"""Nash bargaining: the update on which the tasks would agree.

w > 0 with (G w)_k = p_k / w_k. G: inner products of the gradients; p: the configuration's weights,
a preference.

Source: Navon et al. 2022 (Nash-MTL).
Differs: the exact solution of the convex problem that it is (`ops.gramian.fair`), where the
  authors' solver is off by 72% and more on gradients of uneven length; not clipped; no state.
Invariances: a factor on a loss changes nothing. The weights multiply the heads' losses, too.
Example: for two tasks and p = 1, w_k = 1 / (d_k sqrt(1 + cos)).
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of Nash bargaining."""
  del settings
  return balancing.Algorithm(_weigh, "gramian", heads=True, weights="inside", length="plain")


def _weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
  """The exact solution."""
  lengths, cosines = gramian.unit(facts.gramian, facts.present)
  preference = jnp.where(facts.present, facts.prior, 1.0)
  return gramian.fair(lengths, cosines, preference, 1.0), state
