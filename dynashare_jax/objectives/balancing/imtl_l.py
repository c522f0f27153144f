"""IMTL-L: learnt factors that make all losses 1.

w_k = exp(s_k), where s_k minimises exp(s_k) L_k - s_k. s: learnt, 0 at first, by Adam at
`config.balance.learned_lr`; L: losses.

Source: Liu et al. 2021 (IMTL).
Differs: s has an optimiser of its own, without weight decay.
Invariances: in the end w_k = 1 / L_k, whatever the factor on a loss; lambda_k multiplies the
  weight.
Example: at s = (0, ln 4) the weights are 1 and 4.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _learned


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of IMTL-L."""
  return _learned.algorithm(_rule, settings.learned_lr)


def _rule(value: jax.Array, losses: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Factors, and the gradients of their logarithms."""
  found = jnp.exp(value)
  return found, found * losses - 1.0
