"""Aligned-MTL: gradients turned until they are orthogonal and equally long.

w = s V l^(-1/2) V' 1, G = V diag(l) V', over eigenvalues l that float32 can tell from 0. G: inner
products of the gradients; s: `config.balance.aligned_scale`, `min` for the root of the smallest
such l, `rmse` for that of their mean.

Source: Senushkin et al. 2023 (Aligned-MTL).
Differs: float32 tells an eigenvalue from 0 if it is above 1e-6 K of the largest.
Invariances: a common factor changes no weight; weights can be negative.
Example: orthogonal gradients of lengths 1 and 3 give, with `min`, the weights 1 and 1/3.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of aligned gradients."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    both = jnp.outer(facts.present, facts.present)
    size = jnp.maximum(jnp.where(both, facts.gramian, 0.0).diagonal().max(), 1e-30)
    values, vectors = jnp.linalg.eigh(jnp.where(both, facts.gramian / size, 0.0))
    kept = values > 1e-6 * len(values) * values.max()
    if settings.aligned_scale == "min":
      scale = jnp.where(kept, values, jnp.inf).min()
    else:
      scale = jnp.where(kept, values, 0.0).sum() / jnp.maximum(kept.sum(), 1)
    root = jnp.where(kept, jnp.sqrt(scale / jnp.where(kept, values, 1.0)), 0.0)
    along = gramian.times(vectors.T, facts.present.astype(jnp.float32))
    return gramian.times(vectors, root * along), state

  return balancing.Algorithm(weigh, "gramian", length="plain")
