"""Encodings of tabular inputs."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types


def _bins(spec: types.TableSpec) -> tuple[np.ndarray, np.ndarray]:
  """Lower edges and inverse widths `[columns, bins]`; 0 for unused bins."""
  most = max((len(e) for e in spec.edges), default=2) - 1
  low = np.zeros((len(spec.edges), max(most, 1)), np.float32)
  scale = np.zeros_like(low)
  for column, edges in enumerate(spec.edges):
    widths = np.diff(np.asarray(edges, np.float64))
    low[column, : len(widths)] = edges[:-1]
    scale[column, : len(widths)] = 1.0 / np.maximum(widths, 1e-12)
  return low, scale


def piecewise_linear(numeric: jax.Array, spec: types.TableSpec) -> jax.Array:
  """Encodes raw values `[B, columns]` by how far they fill each training-quantile bin.

  Returns:
    `[B, columns, bins]` in [0, 1]: 1 below the value's bin, 0 above it, the
    covered fraction in it. Values outside the training range are clipped.

  Source: Gorishniy et al. 2022, On embeddings for numerical features.
  """
  low, scale = _bins(spec)
  filled = (numeric[:, :, None] - low[None]) * scale[None]
  return jnp.clip(filled, 0.0, 1.0)


class Embeddings(nn.Module):
  """One vector per categorical column, from one table for all columns.

  Attributes:
    spec: columns.
    features: length of a vector.
  """

  spec: types.TableSpec
  features: int = 8

  @nn.compact
  def __call__(self, categorical: jax.Array) -> jax.Array:
    """Maps codes int `[B, columns]` to vectors `[B, columns, features]`."""
    sizes = np.asarray(self.spec.cardinalities, np.int32)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    rows = nn.Embed(
      int(sizes.sum()), self.features, name="embedding", embedding_init=nn.initializers.normal(0.3)
    )
    return rows(categorical + jnp.asarray(offsets)[None])


class ColumnVector(nn.Module):
  """A whole table row as one vector: embeddings and filled bins, side by side.

  Attributes:
    spec: columns.
    features: length of a categorical column's vector.
  """

  spec: types.TableSpec
  features: int = 8

  @nn.compact
  def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
    """Returns `[B, categorical * features + numeric * bins]`."""
    batch = inputs["numeric"].shape[0]
    parts = []
    if self.spec.categorical:
      parts.append(Embeddings(self.spec, self.features, name="codes")(inputs["categorical"]))
    if self.spec.numeric:
      parts.append(piecewise_linear(inputs["numeric"], self.spec))
    return jnp.concatenate([part.reshape(batch, -1) for part in parts], -1)


class ColumnTokens(nn.Module):
  """A table row as a series with one step per column, for the 1-D ResNet.

  Attributes:
    spec: columns.
    features: channels of a step.
  """

  spec: types.TableSpec
  features: int = 8

  @nn.compact
  def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
    """Returns `[B, columns, features]`."""
    parts = []
    if self.spec.categorical:
      parts.append(Embeddings(self.spec, self.features, name="codes")(inputs["categorical"]))
    if self.spec.numeric:
      filled = piecewise_linear(inputs["numeric"], self.spec)
      columns, bins = filled.shape[1:]
      weights = self.param("numbers", nn.initializers.normal(0.3), (columns, bins, self.features))
      parts.append(jnp.einsum("bcn,cnf->bcf", filled, weights))
    return jnp.concatenate(parts, 1)
