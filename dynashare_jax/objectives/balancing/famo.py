"""FAMO: weights that make all losses fall at the same rate, from losses alone.

w_k = c z_k / L_k, z = softmax(xi), and c such that w sums to n. After the update, xi moves by Adam
along (diag z - z z') delta + gamma xi, delta_k = log L_k before - log L_k after, on the same batch.
gamma: `config.balance.famo_decay`; the rate is `config.balance.famo_lr`.

Source: Liu et al. 2023 (FAMO).
Differs: times n; the second look has the step's own random draws and moves no batch statistics; an
  absent task's xi and moments stay; the update is not clipped.
Invariances: a factor on a loss changes nothing but the common length; lambda_k multiplies the
  weight.
Example: at xi = 0 losses 1 and 3 give the weights 1.5 and 0.5.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _learned


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of FAMO."""

  def after(facts: balancing.Facts, later: jax.Array, state: Any) -> Any:
    log = lambda losses: jnp.log(balancing.divisor(losses))
    delta = jnp.where(facts.present, log(facts.losses) - log(later), 0.0)
    share = facts.softmax(state["value"])
    pull = share * (delta - share @ delta) + settings.famo_decay * state["value"]
    return _learned.step(state, pull, settings.famo_lr)

  return balancing.Algorithm(
    _weigh,
    init=lambda tasks, epoch: _learned.init(jnp.zeros(tasks)),
    after=after,
    heads=True,
    weights="result",
    positive=True,
  )


def _weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
  """Shares of the logits, each divided by its loss."""
  found = facts.softmax(state["value"]) / balancing.divisor(facts.losses)
  return facts.tasks * found / jnp.maximum(found.sum(), 1e-30), state
