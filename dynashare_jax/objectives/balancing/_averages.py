"""Averages over steps and over epochs, one per task."""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing


def init(tasks: int) -> dict[str, jax.Array]:
  """Makes an average of nothing yet."""
  return {"sum": jnp.zeros(tasks), "count": jnp.zeros(tasks)}


def move(state: Any, values: jax.Array, keep: float) -> tuple[jax.Array, Any]:
  """Adds a step to an exponential average, exact from the first on.

  Args:
    keep: share of the past that stays, in [0, 1).

  Returns:
    The mean, and the new state.
  """
  total = keep * state["sum"] + (1.0 - keep) * values
  count = state["count"] + 1.0
  return total / (1.0 - keep**count), {"sum": total, "count": count}


def move_lengths(state: Any, facts: balancing.Facts, keep: float) -> tuple[jax.Array, Any]:
  """Adds a step to the average of the squared lengths of gradients.

  Returns:
    One over the length, and the new state.
  """
  squares = jnp.where(facts.present, jnp.diagonal(facts.gramian), 1.0)
  mean, state = move(state, squares, keep)
  return jax.lax.rsqrt(mean), state


def init_epochs(tasks: int, epoch: int) -> dict[str, jax.Array]:
  """Makes the means of the last two epochs, of which there are none yet."""
  parts = ("sum", "count", "last", "before", "done")
  counts = {"step": 0, "epoch": epoch}
  return {name: jnp.zeros(tasks) for name in parts} | {
    "number": jnp.zeros(tasks, jnp.int32),
    **{name: jnp.asarray(value, jnp.int32) for name, value in counts.items()},
  }


def move_epochs(state: Any, values: jax.Array) -> dict[str, jax.Array]:
  """Adds a step; a task's mean of an epoch is closed by its first step of a later one."""
  number = state["step"] // state["epoch"]
  ended = (number > state["number"]) & (state["count"] > 0)
  mean = state["sum"] / jnp.maximum(state["count"], 1.0)
  return {
    "sum": jnp.where(ended, 0.0, state["sum"]) + values,
    "count": jnp.where(ended, 0.0, state["count"]) + 1.0,
    "last": jnp.where(ended, mean, state["last"]),
    "before": jnp.where(ended, state["last"], state["before"]),
    "done": state["done"] + ended,
    "number": jnp.full_like(state["number"], number),
    "step": state["step"] + 1,
    "epoch": state["epoch"],
  }
