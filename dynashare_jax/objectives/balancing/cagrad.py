"""Conflict-averse gradient (CAGrad): the best for the worst task, near the mean gradient.

w = n (1/n + c |g0| q / |J' q|), q = argmin <J' q, g0> + c |g0| |J' q| over weights at least 0 that
sum to 1. J: rows are gradients; g0: their mean; c: `config.balance.cagrad_c`, the radius.

Source: Liu et al. 2021 (CAGrad).
Differs: times n; not divided by 1 + c^2.
Invariances: none to a factor on one loss; a common one changes no weight. Ascends on no task if c
  >= 1.
Example: of one task alone the update is (1 + c) g.
"""

from __future__ import annotations

from typing import Any

import jax

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of CAGrad."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    radius = settings.cagrad_c
    lengths, cosines = gramian.unit(facts.gramian, facts.present)
    worst = gramian.averse(facts.gramian, facts.present, radius)
    mean = facts.present / facts.tasks
    reach = gramian.norm(mean, lengths, cosines) / gramian.norm(worst, lengths, cosines)
    return facts.tasks * (mean + radius * reach * worst), state

  return balancing.Algorithm(weigh, "gramian", length="plain")
