"""Widths of blocks: nested levels of channels, and how a choice of levels is rewarded."""

from __future__ import annotations

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Integer

from dynashare_jax.types import Array

# Of a block's inner channels, at every level; the first ones are kept.
FRACTIONS = (0.0, 0.25, 0.5, 1.0)
LEVELS = len(FRACTIONS)


def used(levels: Integer[Array, "*shape"]) -> Float[jax.Array, "*shape"]:
  """Returns the fraction of channels that every level keeps."""
  return jnp.asarray(FRACTIONS)[levels]


def shares(used: Float[Array, "T B L"]) -> Float[jax.Array, "T L levels"]:
  """Returns the share of the examples at every level, from the fractions that they use."""
  at = jnp.asarray(used)[..., None] == jnp.asarray(FRACTIONS).reshape(1, 1, 1, -1)
  return at.astype(jnp.float32).mean(1)


def kept(levels: Integer[Array, "*shape"], channels: int) -> Bool[jax.Array, "*shape C"]:
  """Returns which of a layer's channels a level keeps; they must be a multiple of 4."""
  count = jnp.asarray([int(channels * part) for part in FRACTIONS])[levels]
  return jnp.arange(channels).reshape((1,) * levels.ndim + (-1,)) < count[..., None]


def rewards(
  used: Float[Array, "T B L"], losses: Float[Array, "T B"], rho: float
) -> Float[jax.Array, "T B"]:
  """Computes what a choice of levels earned, (1 - d^2) / rho - loss, with d the mean width.

  Args:
    used: the fractions of all blocks.
    losses: of every example, with the tasks' weights.
    rho: how little narrow blocks earn.

  Source: Ahn et al. 2019, with the loss in place of their classification's, and without the 1 that
    a baseline takes out.
  """
  return (1 - jnp.square(used.mean(-1))) / rho - losses


def reinforce(
  logs: Float[Array, "T B"], gains: Float[Array, "T B"], known: Bool[Array, "T B"]
) -> Float[jax.Array, ""]:
  """Computes a loss whose gradient is the score-function estimate, averaged over what is known.

  Args:
    logs: log probabilities of the choices, sums over blocks.
    gains: rewards above what was expected; they get no gradient.
    known: examples with a label of the task; others have no part.
  """
  terms = jnp.where(known, jax.lax.stop_gradient(gains) * logs, 0.0)
  return -terms.sum() / jnp.maximum(known.sum(), 1)
