"""Numbers of tasks that are learnt, by Adam with moments and counts of their own."""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp


def init(start: jax.Array) -> dict[str, jax.Array]:
  """Makes the state of numbers `[K]` that start somewhere."""
  zeros = jnp.zeros_like(start)
  return {"value": start, "mean": zeros, "square": zeros, "count": zeros}


def step(state: Any, gradient: jax.Array, rate: float) -> dict[str, jax.Array]:
  """Moves numbers against their gradients.

  Source: Adam (Kingma and Ba 2015) with its defaults.
  """
  mean = 0.9 * state["mean"] + 0.1 * gradient
  square = 0.999 * state["square"] + 0.001 * jnp.square(gradient)
  count = state["count"] + 1.0
  scale = jnp.sqrt(square / (1.0 - 0.999**count)) + 1e-8
  value = state["value"] - rate * mean / (1.0 - 0.9**count) / scale
  return {"value": value, "mean": mean, "square": square, "count": count}
