"""Uncertainty: every loss has a learnt log-variance.

w_k = exp(-s_k) / 2, where s_k minimises exp(-s_k) L_k / 2 + s_k / 2. s: learnt, 0 at first, by Adam
at `config.balance.learned_lr`; L: losses.

Source: Kendall et al. 2018, Eq. 10, in the form that implementations use.
Differs: s has an optimiser of its own, without weight decay.
Invariances: in the end w_k = 1 / (2 L_k), whatever the factor on a loss, but s moves slowly: prefer
  `uncertainty_closed`. lambda_k multiplies the weight.
Example: at s = (0, ln 4) the weights are 0.5 and 0.125.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _learned


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of learnt uncertainty."""
  return _learned.algorithm(_rule, settings.learned_lr)


def _rule(value: jax.Array, losses: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Half the precisions, and the gradients of the log-variances."""
  precision = jnp.exp(-value)
  return precision / 2, 0.5 - precision * losses / 2
