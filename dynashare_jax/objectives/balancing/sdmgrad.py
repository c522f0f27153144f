"""SDMGrad: between the mean gradient and the shortest mixture, in the limit of its inner loop.

w = n argmin |J' w| over weights at least lambda / (n (1 + lambda)) that sum to 1. J: rows are
gradients; lambda: `config.balance.sdmgrad_lambda`, 0 for MGDA.

Source: Xiao et al. 2023 (SDMGrad).
Differs: times n; the minimiser itself, of one batch. The authors' inner loop does not converge, and
  their three batches are one.
Invariances: as `mgda`.
Example: gradients (-4, 1, 1) and (6, 1, 1) give 2 (0.6, 0.4), as the bound is 0.115.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of SDMGrad's limit."""
  share = 1.0 / (1.0 + settings.sdmgrad_lambda)  # of the weight that is free

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    mask = facts.present.astype(jnp.float32)
    least = (1.0 - share) / facts.tasks * mask
    # Corners of what is allowed, as mixtures of the rows.
    corners = share * jnp.eye(len(mask)) + least[:, None] * mask[None, :]
    product = gramian.product(corners.T, gramian.product(facts.gramian, corners))
    mixed = gramian.times(corners, gramian.shortest(product, facts.present))
    return facts.tasks * mixed, state

  return balancing.Algorithm(weigh, "gramian", weights="result", length="plain")
