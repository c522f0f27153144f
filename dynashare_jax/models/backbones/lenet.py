"""The small network of the MultiMNIST literature: two convolutions and a dense layer."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax import types
from dynashare_jax.models import norm
from dynashare_jax.models.backbones import base
from dynashare_jax.objectives import kinds

WIDTHS = (10, 20, 50)
SMALLEST = 16  # pixels of a picture's side, of which one is left


class LeNet(base.Backbone):
  """Two 5-wide convolutions without padding, each with 2-wide maximum pooling; then a dense layer.

  The first convolution is the stem, the other two layers are blocks, without shortcuts. All end in
  a ReLU. The dense layer reads the flattened map, so that all pictures have one size, and features
  are a vector.

  Attributes:
    widths: channels of the convolutions, and length of the vector.
    dropout: rate of whole channels of the second convolution, in training.
    dtype: compute type; parameters stay float32.

  Source: Sener and Koltun 2018, their code for MultiMNIST, which has 320 numbers in the flattened
    map of 28 x 28 pixels.
  Differs: dropout draws for each example and keeps the mean; theirs draws once a batch, with a rate
    of 0.5, and does not rescale.
  """

  widths: tuple[int, int, int] = WIDTHS
  dropout: float = 0.0
  dtype: norm.Dtype = jnp.float32
  skips = False
  rectified = True

  @property
  def num_blocks(self) -> int:
    """Layers after the first."""
    return 2

  def setup(self) -> None:
    """Creates the layers; their names are the parameter tree's."""
    first, second, last = self.widths
    self.stem_conv = _conv(first, self.dtype, "stem_conv")
    self.bodies = [
      ConvLayer(second, self.dropout, self.dtype, name="block_0"),
      DenseLayer(last, self.dtype, name="block_1"),
    ]

  def stem(self, inputs: Any, pass_: base.Pass) -> jax.Array:
    """Turns pictures `[B, H, W, C]` into features `[1, B, ..., C]`."""
    del pass_
    return _pooled(self.stem_conv(inputs.astype(self.dtype)))[None]

  @nn.nowrap
  def stem_layer(self) -> base.Layer:
    """Describes the output of the first convolution."""
    return base.Layer("stem_conv", self.widths[0], 2)

  @nn.nowrap
  def layers(self, block: int) -> tuple[base.Layer, ...]:
    """Describes the one layer of a block."""
    if block:
      return (base.Layer("block_1/dense", self.widths[2]),)
    return (base.Layer("block_0/conv", self.widths[1], 4),)


class ConvLayer(nn.Module):
  """A convolution, dropout of channels, pooling and ReLU."""

  width: int
  dropout: float
  dtype: norm.Dtype

  @nn.compact
  def __call__(self, index: int, x: jax.Array, pass_: base.Pass) -> jax.Array:
    """Runs the layer on `[G, B, H, W, C]`."""
    del index
    x = pass_.linear(base.each_group(_conv(self.width, self.dtype, "conv"), x))
    drop = nn.Dropout(self.dropout, (2, 3), deterministic=not pass_.train, name="Dropout_0")
    return _pooled(drop(x))


class DenseLayer(nn.Module):
  """A dense layer over the flattened map, and ReLU."""

  width: int
  dtype: norm.Dtype

  @nn.compact
  def __call__(self, index: int, x: jax.Array, pass_: base.Pass) -> jax.Array:
    """Runs the layer on `[G, B, H, W, C]`; gives `[G, B, width]`."""
    del index
    flat = x.reshape(*x.shape[:2], -1)
    return nn.relu(pass_.linear(nn.Dense(self.width, dtype=self.dtype, name="dense")(flat)))


def _conv(width: int, dtype: norm.Dtype, name: str) -> nn.Conv:
  """A 5-wide convolution without padding."""
  return nn.Conv(width, (5, 5), padding="VALID", dtype=dtype, name=name)


def _pooled(x: jax.Array) -> jax.Array:
  """The larger of 0 and the maximum of every 2 x 2 positions of `[..., H, W, C]`."""
  return nn.relu(nn.max_pool(x, (2, 2), strides=(2, 2)))


def build(config: Any, spec: types.DatasetSpec, dtype: norm.Dtype) -> LeNet:
  """Makes the network of `config.model` for a data set.

  Raises:
    ValueError: inputs that are no pictures, or of several sizes or too small; a task of pixels; a
      width factor that is not above 0.
  """
  base.only_pictures(config, spec)
  told = "config.model.backbone='lenet'"
  size = tuple(spec.input_shape[:2])
  if spec.crop is not None and tuple(spec.crop) != size:
    raise ValueError(
      f"{told} reads pictures of one size, but {spec.name} trains on parts of"
      f" {' x '.join(map(str, spec.crop))} of {' x '.join(map(str, size))} pixels; use 'resnet'."
    )
  if min(size) < SMALLEST:
    raise ValueError(
      f"{told} reads pictures of at least {SMALLEST} x {SMALLEST} pixels, but those of {spec.name}"
      f" have {' x '.join(map(str, size))}."
    )
  for task in spec.tasks:
    if kinds.find(task.kind).dense:
      raise ValueError(
        f"{told} ends in one vector a picture, but the task {task.name!r} has labels of pixels: use"
        " 'resnet'."
      )
  if not config.width_factor > 0:
    raise ValueError(f"config.model.width_factor must be above 0, but is {config.width_factor}.")
  first, second, last = (max(round(w * config.width_factor), 1) for w in WIDTHS)
  return LeNet((first, second, last), config.dropout, dtype)
