"""GradDrop: of every element, gradients of one sign are kept, by chance.

P = (1 + sum_k g_k / sum_k |g_k|) / 2 and U uniform, both of an element; g_k is kept where g_k > 0
and P > U, or g_k < 0 and P < U, and else only its share `config.balance.graddrop_leak`. g:
gradients.

Source: Chen et al. 2020 (GradDrop).
Differs: on the gradients of the parameters; the paper's are of features, times the sign of these.
Invariances: a common factor changes no choice.
Example: g = (1, -3) has P = 0.25: 1 is kept with probability 0.25, else -3.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of dropped signs."""

  def combine(rows: list[list[jax.Array]], key: jax.Array) -> list[jax.Array]:
    found = []
    for number, column in enumerate(zip(*rows, strict=True)):
      leaf = jnp.stack(column)
      drawn = jax.random.uniform(jax.random.fold_in(key, number), leaf.shape[1:])
      found.append(drop(leaf, drawn, settings.graddrop_leak))
    return found

  weigh = lambda facts, state: (jnp.ones_like(facts.losses), state)
  return balancing.Algorithm(weigh, "gradients", combine=combine, length="plain")


def drop(rows: jax.Array, drawn: jax.Array, leak: float = 0.0) -> jax.Array:
  """Adds rows `[K, ...]`, without what the draws `[...]` in 0 .. 1 drop."""
  purity = (1.0 + rows.sum(0) / jnp.maximum(jnp.abs(rows).sum(0), 1e-30)) / 2
  kept = jnp.where(rows > 0, (purity > drawn)[None], (purity < drawn)[None])
  return jnp.where(kept, rows, leak * rows).sum(0)
