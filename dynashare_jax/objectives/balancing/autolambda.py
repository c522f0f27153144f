"""Auto-lambda: weights that make the losses smaller after a step.

w_k moves by Adam along eta <g_k, v>; g_k: gradient of task k on one half of the batch; v: gradient
of all tasks' sum on the other half, after a step of size eta with the weights; eta is
`config.balance.autolambda_step`, to be set to the weights' learning rate, and Adam's rate
`config.balance.autolambda_lr`.

Source: Liu et al. 2022 (Auto-lambda), Eqs. 4 to 6.
Differs: exact, by one derivative along v, where the paper takes finite differences; v is of the
  other half of the step's batch (the authors': of another batch of the training set), so twice the
  batch size is the paper's; weights are divided by their start of 0.1, so that fixed weights are
  w = 1, and not below 0; all tasks are primary, and lambda_k is the weight of task k in v.
Invariances: none.
Example: with Adam's first step, w_k grows by 10 `autolambda_lr` where <g_k, v> is above 0.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _learned

_START = 0.1


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of the losses after a step."""

  def now(state: Any) -> jax.Array:
    return jnp.maximum(state["value"], 0.0) / _START

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    moved = _learned.step(state, facts.told, settings.autolambda_lr)
    return now(moved), moved

  return balancing.Algorithm(
    weigh,
    init=lambda tasks, epoch: _learned.init(jnp.full(tasks, _START)),
    heads=True,
    weights="result",
    ahead=lambda state: (now(state), settings.autolambda_step),
  )
