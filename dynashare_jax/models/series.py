"""Series of different lengths: which steps count, and what may be seen when.

Features of a layer with stride s have a step for every s steps of the series.
Layers are causal: feature step j has seen the steps up to s * j, no later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Steps(NamedTuple):
  """The steps of a batch of padded series.

  Attributes:
    length: int32 `[B]`, steps of every series that are no padding.
    total: steps of the padded series.
  """

  length: jax.Array
  total: int

  def stride(self, size: int) -> int:
    """Returns how many steps of the series each of `size` feature steps stands for.

    Raises:
      ValueError: no power of 2 gives so many.
    """
    stride = 1
    while -(-self.total // stride) > size:
      stride *= 2
    if -(-self.total // stride) != size:
      raise ValueError(
        f"A series of {self.total} steps has no features of {size} steps:"
        " strides must be powers of 2."
      )
    return stride

  def mask(self, size: int) -> jax.Array:
    """Returns which feature steps stand for a step of the series, bool `[B, size]`."""
    last = jnp.arange(size) * self.stride(size)
    return last[None] < self.length[:, None]


def steps_of(inputs: Any) -> Steps | None:
  """Returns the steps of inputs with lengths (`types.DatasetSpec.lengths`), else None."""
  if isinstance(inputs, Mapping) and "length" in inputs:
    return Steps(inputs["length"], inputs["series"].shape[1])
  return None


def values_of(inputs: Any) -> jax.Array:
  """Returns the series themselves, `[B, time, C]`, with zeros for padding."""
  steps = steps_of(inputs)
  if steps is None:
    return inputs
  values: jax.Array = inputs["series"]
  return jnp.where(steps.mask(steps.total)[..., None], values, 0)


def running_mean(x: jax.Array) -> jax.Array:
  """Computes the mean of all steps up to each of `[G, B, time, C]`, in float32."""
  count = jnp.arange(1, x.shape[2] + 1, dtype=jnp.float32)
  return jnp.cumsum(x.astype(jnp.float32), 2) / count[None, None, :, None]


def mean_of(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Averages `[B, time]` or `[B, time, C]` over the steps that count; 0 where none does."""
  wide = mask.reshape(mask.shape + (1,) * (x.ndim - 2))
  return jnp.where(wide, x, 0).sum(1) / jnp.maximum(wide.sum(1), 1)


def last_of(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Returns the last step of `[B, time, C]` that counts; the first where none does."""
  place = jnp.maximum(mask.sum(1) - 1, 0)
  return jnp.take_along_axis(x, place[:, None, None], 1)[:, 0]


def at_every_step(x: jax.Array, steps: Steps) -> jax.Array:
  """Repeats features or predictions `[B, size, O]` to `[B, total, O]`.

  Step t gets the latest feature step that has seen no later one: t // stride.
  """
  stride = steps.stride(x.shape[1])
  return jnp.repeat(x, stride, 1)[:, : steps.total]
