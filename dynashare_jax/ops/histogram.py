"""Histograms that add over batches, and quantiles read from them."""

from __future__ import annotations

from jax import numpy as jnp
from jaxtyping import Bool, Float, Integer, Shaped
import numpy as np

from dynashare_jax.types import Array


def histogram(
  values: Float[Array, "*shape"], valid: Bool[Array, "*shape"], low: float, high: float, bins: int
) -> Integer[Array, " bins"]:
  """Counts values in equal bins from `low` to `high`.

  Values outside fall into the first or last bin; a NaN never counts. Int32; adds
  over batches; exact up to 2^31 - 1 in a bin.
  """
  usable = valid & ~jnp.isnan(values)
  place = (jnp.where(usable, values, low) - low) * (bins / (high - low))
  place = jnp.clip(place, 0, bins - 1).astype(jnp.int32)
  place = jnp.where(usable, place, bins).reshape(-1)
  return jnp.zeros((bins + 1,), jnp.int32).at[place].add(1)[:-1]


def quantile(counts: Shaped[np.ndarray, " bins"], low: float, high: float, level: float) -> float:
  """Reads a quantile from a histogram, linearly inside its bin.

  Returns:
    The value below which the fraction `level` of the counts lies, at most a bin's
    width from the exact quantile where values are dense; nan when all counts are 0.
  """
  counts = np.asarray(counts, np.float64)
  total = counts.sum()
  if total == 0:
    return float("nan")
  below = np.cumsum(counts)
  wanted = level * total
  place = int(np.searchsorted(below, wanted, side="left"))
  place = max(place, int(np.flatnonzero(counts)[0]))
  before = below[place] - counts[place]
  inside = (wanted - before) / counts[place] if counts[place] else 0.0
  return float(low + (place + inside) * (high - low) / counts.size)
