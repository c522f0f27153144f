"""Losses of single elements, and their sum over those that have a label."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Integer, Shaped

from dynashare_jax.types import Array, Sums

_SHORTEST = 1e-6


def total(values: Float[Array, "*shape"], valid: Bool[Array, "*shape"]) -> Float[Array, ""]:
  """Sums the values that have a label, in float32; 0 when there are none."""
  return jnp.sum(jnp.where(valid, values.astype(jnp.float32), 0.0))


def masked(values: Float[Array, "*shape"], valid: Bool[Array, "*shape"]) -> Sums:
  """Sums the values that have a label, and counts them, in float32."""
  count = jnp.sum(valid, dtype=jnp.int32).astype(jnp.float32)
  return Sums(total(values, valid), count)


def weighted(
  values: Float[Array, "*shape"],
  labels: Integer[Array, "*shape"],
  valid: Bool[Array, "*shape"],
  weights: Sequence[float],
) -> Sums:
  """Sums the values that have a label, each with its class's weight, and these weights.

  Args:
    values: one loss per element.
    labels: class ids in 0 .. K-1.
    valid: which of them count.
    weights: of the K classes; empty weighs all the same.
  """
  if not weights:
    return masked(values, valid)
  factors = jnp.asarray(weights, jnp.float32)[labels]
  return Sums(total(values * factors, valid), total(factors, valid))


def cleared(target: Shaped[Array, "..."], valid: Bool[Array, "..."]) -> Shaped[Array, "..."]:
  """Replaces targets without a label by zero; `target` may have further axes behind.

  A NaN or an ignore code that is masked only after the loss would still reach
  the gradient as 0 * NaN.
  """
  target = jnp.asarray(target)
  axes = tuple(range(valid.ndim, target.ndim))
  mask = jnp.expand_dims(jnp.asarray(valid), axes)
  return jnp.where(mask, target, jnp.zeros((), target.dtype))


def in_range(
  labels: Integer[Array, "*shape"], valid: Bool[Array, "*shape"], classes: int
) -> Bool[Array, "*shape"]:
  """Returns `valid`, False also where a label is no class id, such as an ignore code."""
  labels = jnp.asarray(labels)
  return jnp.asarray(valid) & (labels >= 0) & (labels < classes)


def cross_entropy(
  logits: Float[Array, "*shape K"], labels: Integer[Array, "*shape"]
) -> Float[Array, "*shape"]:
  """Computes -log softmax(logits)[label], float32, in nats."""
  logs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  # A comparison instead of a gather: its gradient needs no scatter.
  ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
  ids = ids.reshape((1,) * labels.ndim + (-1,))
  chosen = labels.astype(jnp.int32)[..., None] == ids
  return -jnp.sum(jnp.where(chosen, logs, 0.0), axis=-1)


def binary_cross_entropy(
  logits: Float[Array, "*shape"], targets: Shaped[Array, "*shape"], positive_weight: float = 1.0
) -> Float[Array, "*shape"]:
  """Computes the cross-entropy of a sigmoid, stable for large logits, float32, in nats.

  Args:
    logits: log-odds of the positive class.
    targets: 0 or 1, or a probability between.
    positive_weight: factor on the term of the positive class.

  Source: authors' code, `BCEWithLogitsLoss(pos_weight=...)`.
  """
  logits = logits.astype(jnp.float32)
  targets = targets.astype(jnp.float32)
  positive = -jax.nn.log_sigmoid(logits)
  negative = -jax.nn.log_sigmoid(-logits)
  return positive_weight * targets * positive + (1.0 - targets) * negative


def magnitude(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Computes |value|, with gradient 0 at 0 (`jnp.abs` has 1 there)."""
  return values * jnp.sign(values)


def absolute_error(
  predictions: Float[Array, "*shape"], targets: Shaped[Array, "*shape"]
) -> Float[Array, "*shape"]:
  """Computes |prediction - target| in float32, in the target's unit.

  The gradient at a perfect prediction is 0.
  """
  difference = predictions.astype(jnp.float32) - targets.astype(jnp.float32)
  return magnitude(difference)


def unit(vectors: Float[Array, "*shape C"]) -> Float[Array, "*shape C"]:
  """Scales vectors to length 1, in float32.

  A vector shorter than 1e-6 is divided by 1e-6, so that values and gradients stay
  finite and 0 stays 0.
  """
  vectors = vectors.astype(jnp.float32)
  squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
  return vectors * jax.lax.rsqrt(jnp.maximum(squares, _SHORTEST**2))


def cosine_loss(
  predictions: Float[Array, "*shape C"], targets: Float[Array, "*shape C"]
) -> Float[Array, "*shape"]:
  """Computes 1 - cos of the angle between two vectors, float32; 1 where one is 0.

  Source: DynaShare (CVPRW 2023), section 4.2, "inverse of cosine similarity".
  """
  return 1.0 - jnp.sum(unit(predictions) * unit(targets), axis=-1)


def angle(
  first: Float[Array, "*shape C"], second: Float[Array, "*shape C"]
) -> Float[Array, "*shape"]:
  """Computes the angle between two vectors, in degrees; 90 where one is 0.

  The half-angle formula is exact to float32 also for small angles, where an
  arc cosine loses half of its digits. For metrics: not for gradients.
  """
  first, second = unit(first), unit(second)
  apart = jnp.sqrt(jnp.sum(jnp.square(first - second), axis=-1))
  along = jnp.sqrt(jnp.sum(jnp.square(first + second), axis=-1))
  return jnp.rad2deg(2.0 * jnp.arctan2(apart, along))
