"""Numbers of tasks that are learnt, by Adam with moments and counts of their own (Optax)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp
import optax

from dynashare_jax.objectives import balancing


def init(start: jax.Array) -> dict[str, Any]:
  """Makes the state of numbers `[K]` that start somewhere."""
  return {"value": start, "adam": jax.vmap(optax.scale_by_adam().init)(start)}


def step(state: Any, gradient: jax.Array, rate: float) -> dict[str, Any]:
  """Moves numbers against their gradients, each by an Adam of its own, as tasks may be absent."""
  moved, adam = jax.vmap(optax.scale_by_adam().update)(gradient, state["adam"])
  return {"value": state["value"] - rate * moved, "adam": adam}


def algorithm(
  rule: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]], rate: float
) -> balancing.Algorithm:
  """Returns the algorithm of weights that are functions of learnt numbers, 0 at first.

  Args:
    rule: `(numbers [K], losses [K]) -> (weights, gradients of the numbers)`.
    rate: of Adam.
  """

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    weights, gradient = rule(state["value"], facts.losses)
    return weights, step(state, gradient, rate)

  return balancing.Algorithm(
    weigh,
    init=lambda tasks, epoch: init(jnp.zeros(tasks)),
    heads=True,
    weights="result",
    positive=True,
  )
