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
  """Picks the labels that belong to a coarser grid.

  Row i of h takes row floor(i * H / h), the rule of PyTorch's nearest
  interpolation; columns alike. Labels are never mixed.

  Args:
    labels: class ids, values or a bool mask.
    size: (h, w).

  Returns:
    Labels of that size, same dtype.

  Source: authors' code, which takes its losses at the size of the logits.
  """
  height, width = labels.shape[1:3]
  if (height, width) == tuple(size):
    return labels
  rows = np.arange(size[0]) * height // size[0]
  columns = np.arange(size[1]) * width // size[1]
  picked = jnp.take(labels, jnp.asarray(rows), axis=1)
  return jnp.take(picked, jnp.asarray(columns), axis=2)


def enlarge(
  logits: Float[Array, "B h w O"], size: tuple[int, int]
) -> Float[Array, "B H W O"]:
  """Resizes dense logits bilinearly, pixel centres at half integers.

  Args:
    logits: of any size.
    size: (H, W) of the labels.

  Returns:
    Logits of that size, same dtype.

  Differs: the authors' code repeats the nearest logits for its metrics.
  """
  if logits.shape[1:3] == tuple(size):
    return logits
  shape = (logits.shape[0], *size, logits.shape[-1])
  return jax.image.resize(logits, shape, "linear", antialias=False)
