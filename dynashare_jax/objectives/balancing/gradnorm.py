"""GradNorm: learnt weights that make gradient norms follow training rates.

w_k moves by Adam along d_k sign(w_k d_k - T_k), T_k = mean(w d) r_k^alpha, then sums to n; r_k =
(L_k / L_k(0)) / mean. d: lengths of the tasks' gradients; L(0): first losses; alpha:
`config.balance.gradnorm_alpha`; the rate is `config.balance.gradnorm_lr`.

Source: Chen et al. 2018 (GradNorm).
Differs: norms are of all that tasks share, not of its last layer; a weight is at least 1e-3.
Invariances: in the end w_k is proportional to r_k^alpha / d_k, so a factor on a loss changes
  nothing; lambda_k multiplies the weight.
Example: w = (1, 1), d = (3, 1) and r = 1: T = 2, so the first weight falls and the second grows.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _learned


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of GradNorm."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    first = jnp.where(state["first"] > 0, state["first"], balancing.divisor(facts.losses))
    weights = state["learned"]["value"]
    lengths = jnp.where(facts.present, jnp.sqrt(jnp.diagonal(facts.gramian)), 0.0)
    mean = lambda values: facts.sum(values) / facts.tasks
    rates = balancing.divisor(facts.losses) / first
    target = mean(weights * lengths) * (rates / mean(rates)) ** settings.gradnorm_alpha
    pull = lengths * jnp.sign(weights * lengths - target)
    learned = _learned.step(state["learned"], pull, settings.gradnorm_lr)
    value = jnp.maximum(learned["value"], 1e-3)
    learned["value"] = value / mean(value)
    return weights, {"learned": learned, "first": first}

  return balancing.Algorithm(
    weigh,
    "gramian",
    init=lambda tasks, epoch: {
      "learned": _learned.init(jnp.ones(tasks)),
      "first": jnp.zeros(tasks),
    },
    weights="result",
    positive=True,
    length="plain",
  )
