"""ConFIG: the direction with the same cosine to every gradient.

u ~ J' D^-1 C^+ p, with the length sum_k <g_k, u / |u|>. J: rows are gradients; D: their lengths; C:
their cosines, C^+ its pseudo-inverse; p: the configuration's weights, a preference of the cosines.

Source: Liu et al. 2025 (ConFIG).
Differs: from inner products alone; the preference.
Invariances: a factor on a loss leaves the direction. Ascends on no task unless the gradients depend
  on each other (more tasks than directions, opposed gradients); prefer it to `imtl_g`.
Example: for orthogonal gradients and p = 1 the direction is the sum of the unit gradients.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of equal cosines."""
  del settings
  return balancing.Algorithm(_weigh, "gramian", weights="inside", length="plain")


def _weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
  """The direction, and its length."""
  lengths, cosines = gramian.unit(facts.gramian, facts.present)
  turned = gramian.solve(cosines, jnp.where(facts.present, facts.prior, 0.0))
  along = facts.sum(lengths * gramian.times(cosines, turned))
  square = gramian.norm(turned, jnp.ones_like(lengths), cosines) ** 2
  return turned / lengths * along / jnp.maximum(square, 1e-30), state
