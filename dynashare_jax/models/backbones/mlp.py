"""A residual multi-layer perceptron for tabular data."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax import types
from dynashare_jax.models import norm
from dynashare_jax.models import table
from dynashare_jax.models.backbones import base


class ResidualMlp(base.Backbone):
  """Pre-norm residual blocks over a vector.

  Attributes:
    num_blocks: residual blocks.
    width: length of the residual vector.
    hidden: width inside a block.
    dropout: rate inside a block, in training.
    table_spec: columns of a table input; None for plain vectors.
    embedding: length of a categorical column's vector.
    dtype: compute type.
    kept: see `base.Backbone`.

  Source: Gorishniy et al. 2021, Revisiting deep learning models for tabular
    data (the block); DynaShare section 3.4 (when it is executed).
  Differs: pre-norm blocks add without a ReLU after the addition, so that a
    skipped block is the identity.
  """

  num_blocks: int
  width: int = 128
  hidden: int = 256
  dropout: float = 0.1
  table_spec: types.TableSpec | None = None
  embedding: int = 8
  dtype: norm.Dtype = jnp.float32
  kept: tuple[tuple[str, int], ...] = ()

  def setup(self) -> None:
    """Creates the layers; their names are the parameter tree's."""
    if self.table_spec is not None:
      self.columns = table.ColumnVector(self.table_spec, self.embedding, name="columns")
    width = self.width_at("stem", self.width)
    self.project = nn.Dense(width, dtype=self.dtype, name="project")
    self.bodies = [
      MlpBlock(
        self.width_at(f"block_{b}", self.width),
        self.width_at(f"block_{b}.widen", self.hidden),
        self.dropout,
        self.dtype,
        name=f"block_{b}",
      )
      for b in range(self.num_blocks)
    ]
    self.last_norm = nn.LayerNorm(dtype=self.dtype, name="last_norm")

  def stem(self, inputs: Any, pass_: base.Pass) -> jax.Array:
    """Turns inputs into features `[1, B, width]`."""
    del pass_
    if self.table_spec is not None:
      x = self.columns(inputs)
    else:
      x = inputs.reshape(inputs.shape[0], -1)
    return self.project(x.astype(self.dtype))[None]

  @nn.nowrap
  def layers(self, block: int) -> tuple[base.Layer, ...]:
    """Describes the two linear layers of a block."""
    widths = {"widen": self.hidden, "narrow": self.width}
    return tuple(base.Layer(f"block_{block}/{name}", width) for name, width in widths.items())

  @nn.nowrap
  def outputs(self, place: str) -> tuple[str, ...]:
    """Returns the linear layer of a place."""
    if place == "stem":
      return ("project",)
    return (place.replace(".", "/") if "." in place else f"{place}/narrow",)

  def final(self, x: jax.Array) -> jax.Array:
    """Normalises the features for the heads."""
    return nn.relu(self.last_norm(x))


class MlpBlock(nn.Module):
  """Layer norm, linear, ReLU and dropout; then linear."""

  width: int
  hidden: int
  dropout: float
  dtype: norm.Dtype

  @nn.compact
  def __call__(self, index: int, x: jax.Array, pass_: base.Pass) -> jax.Array:
    """Runs one linear layer on `[G, B, ..., C]`."""
    if index:
      return pass_.linear(nn.Dense(self.width, dtype=self.dtype, name="narrow")(x))
    h = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
    h = nn.relu(pass_.linear(nn.Dense(self.hidden, dtype=self.dtype, name="widen")(h)))
    return pass_.dropout(self.dropout, "Dropout_0")(h)


def build(config: Any, spec: types.DatasetSpec, dtype: norm.Dtype) -> ResidualMlp:
  """Makes the network of `config.model` for a data set.

  Raises:
    ValueError: fewer than one block, or inputs of another kind.
  """
  count = base.count_blocks(config, spec)
  if spec.input_kind == "image" or spec.lengths:
    inputs = "images" if spec.input_kind == "image" else "series with lengths"
    raise ValueError(f"config.model.backbone='mlp' cannot read {inputs}; use 'resnet'.")
  widths = (config.width, config.hidden, config.dropout)
  return ResidualMlp(count, *widths, spec.table, config.embedding, dtype)
