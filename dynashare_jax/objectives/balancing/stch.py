"""Smooth Chebyshev scalarisation (STCH): tasks that lag behind count more.

w_k = n softmax(log(L / N) / mu)_k / L_k; before N is known, 1 / L_k. L: losses; N: their means over
the epoch after `config.balance.stch_warmup` epochs; mu: `config.balance.stch_mu`, small for the
worst task alone.

Source: authors' code of Lin et al. 2024 (STCH).
Differs: times n. At mu = 1, the authors' value, w_k = n / N_k / sum(L / N): fixed weights 1 / N_k
  up to a common factor.
Invariances: a factor on a loss changes nothing; lambda_k multiplies the weight.
Example: L = (2, 1) and N = (1, 1) at mu = 1 give 2 (2/3, 1/3) / L = 2/3 and 2/3.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of the authors' smooth Chebyshev scalarisation."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    values = balancing.divisor(facts.losses)
    epoch = state["step"] // state["epoch"]
    reference = jnp.where(state["count"] > 0, state["sum"] / jnp.maximum(state["count"], 1), values)
    share = facts.softmax(jnp.log(values / reference) / settings.stch_mu)
    share = jnp.where(epoch > settings.stch_warmup, facts.tasks * share, 1.0)
    read = (epoch == settings.stch_warmup).astype(jnp.float32)
    moved = {
      "sum": state["sum"] + read * values,
      "count": state["count"] + read,
      "step": state["step"] + 1,
    }
    return share / values, {**state, **moved}

  return balancing.Algorithm(weigh, init=_init, heads=True, weights="result", positive=True)


def _init(tasks: int, epoch: int) -> dict[str, jax.Array]:
  """Sums of the losses that become N, and the time."""
  zeros, count = jnp.zeros(tasks), lambda value: jnp.asarray(value, jnp.int32)
  return {"sum": zeros, "count": zeros, "step": count(0), "epoch": count(epoch)}
