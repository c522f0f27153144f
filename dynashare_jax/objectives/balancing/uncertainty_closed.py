"""Uncertainty in closed form: where the learnt log-variances would end.

w_k = 1 / (2 L_k), with L averaged over steps. L: losses; `config.balance.average` is the share of
the past that stays.

Source: Kirchdorfer et al. 2024 (UW-O); the fixed point of Kendall et al. 2018.
Differs: the average over steps, which is bias-corrected; no softmax.
Invariances: a factor on a loss changes nothing; lambda_k multiplies the weight.
Example: losses 2 and 0.5 give the weights 0.25 and 1 in the first step.
"""

from __future__ import annotations

from typing import Any

import jax

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _averages


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of uncertainty in closed form."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    mean, state = _averages.move(state, facts.losses, settings.average)
    return 0.5 / balancing.divisor(mean), state

  return balancing.Algorithm(
    weigh,
    init=lambda tasks, epoch: _averages.init(tasks),
    heads=True,
    weights="result",
    positive=True,
  )
