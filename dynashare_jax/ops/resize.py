"""Brings dense labels to the size of logits and logits to that of labels."""

from __future__ import annotations

import jax
from jax import numpy as jnp
from jaxtyping import Float, Shaped
import numpy as np

from dynashare_jax.types import Array


def reduce_nearest(
  labels: Shaped[Array, "B H W *channels"], size: tuple[int, int]
) -> Shaped[Array, "B h w *channels"]:
  """Picks the labels that belong to a coarser grid of size (h, w).

  Row i of h takes row floor(i * (H / h)), the rule of PyTorch's nearest interpolation to its
  rounding in float32; columns alike. Labels are never mixed.

  Source: authors' code, which takes its losses at the size of the logits.
  """
  height, width = labels.shape[1:3]
  if (height, width) == tuple(size):
    return labels
  picked = jnp.take(labels, jnp.asarray(_nearest(height, size[0])), axis=1)
  return jnp.take(picked, jnp.asarray(_nearest(width, size[1])), axis=2)


def _nearest(length: int, wanted: int) -> np.ndarray:
  """Which of `length` places each of `wanted` takes, in float32: 11 of 22 takes 12 of 26."""
  scale = np.float32(length) / np.float32(wanted)
  places = np.floor(np.arange(wanted, dtype=np.float32) * scale)
  return np.minimum(places, length - 1).astype(np.int32)


def enlarge(logits: Float[Array, "B h w O"], size: tuple[int, int]) -> Float[Array, "B H W O"]:
  """Resizes dense logits or pictures bilinearly, pixel centres at half integers.

  The size (H, W) may be smaller, then without antialiasing.

  Differs: the authors' code repeats the nearest logits for its metrics, see `enlarge_nearest`.
  """
  if logits.shape[1:3] == tuple(size):
    return logits
  shape = (logits.shape[0], *size, logits.shape[-1])
  return jax.image.resize(logits, shape, "linear", antialias=False)


def enlarge_nearest(
  logits: Float[Array, "B h w O"], size: tuple[int, int]
) -> Float[Array, "B H W O"]:
  """Repeats dense logits, by the rule of `reduce_nearest`.

  Source: authors' code, which enlarges so for its metrics.
  """
  return reduce_nearest(logits, size)
