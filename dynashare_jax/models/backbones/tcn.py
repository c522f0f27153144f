"""A temporal convolutional network for series of different lengths."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax import types
from dynashare_jax.models import convolutions
from dynashare_jax.models import norm
from dynashare_jax.models import series
from dynashare_jax.models.backbones import base


class Tcn(base.Backbone):
  """Residual blocks of two causal convolutions, each with a larger dilation.

  Block b has the dilation 2^b, so that the last step of a series of N steps reads all of it from
  log2(N / 4) + 1 blocks on.

  Attributes:
    num_blocks: residual blocks.
    width: channels.
    dropout: rate after every convolution, in training.
    kernel: taps of a convolution.
    norm_kind: see `models.norm.layer`.
    dtype: compute type; parameters stay float32.
    kept: see `base.Backbone`.

  Source: Bai et al. 2018, An empirical evaluation of generic convolutional and recurrent networks
    for sequence modeling.
  Differs: batch norm in place of weight norm, so that tasks have statistics of their own as in the
    other backbones; dropout draws every number, not whole channels.
  """

  num_blocks: int
  width: int = 128
  dropout: float = 0.1
  kernel: int = 3
  norm_kind: str = "batch"
  dtype: norm.Dtype = jnp.float32
  kept: tuple[tuple[str, int], ...] = ()
  rectified = True

  def setup(self) -> None:
    """Creates the layers; their names are the parameter tree's."""
    width = self.width_at("stem", self.width)
    self.project = nn.Dense(width, dtype=self.dtype, name="project")
    shape = lambda b, place: convolutions.Shape(
      self.width_at(place, self.width), self.kernel, dilation=2**b
    )
    self.bodies = [
      convolutions.Stack(
        1,
        (shape(b, f"block_{b}.conv_0"), shape(b, f"block_{b}")),
        self.dtype,
        self.norm_kind,
        causal=True,
        bare_end=False,
        dropout=self.dropout,
        kernel_init=nn.initializers.lecun_normal(),
        name=f"block_{b}",
      )
      for b in range(self.num_blocks)
    ]

  def stem(self, inputs: Any, pass_: base.Pass) -> jax.Array:
    """Turns inputs into features `[1, B, time, width]`, step by step."""
    del pass_
    return self.project(series.values_of(inputs).astype(self.dtype))[None]

  @nn.nowrap
  def layers(self, block: int) -> tuple[base.Layer, ...]:
    """Describes the two convolutions of a block."""
    return tuple(base.Layer(f"block_{block}/conv_{i}", self.width) for i in range(2))

  @nn.nowrap
  def outputs(self, place: str) -> tuple[str, ...]:
    """Returns a convolution with its norm, or the projection of the inputs."""
    if place == "stem":
      return ("project",)
    return convolutions.outputs(place, last=1)

  def merge(self, residual: jax.Array, z: jax.Array) -> jax.Array:
    """Returns the output of an executed block."""
    return nn.relu(residual + z)


def build(config: Any, spec: types.DatasetSpec, dtype: norm.Dtype) -> Tcn:
  """Makes the network of `config.model` for a data set; refuses all but series."""
  count = base.count_blocks(config, spec, only_series=True)
  return Tcn(count, config.width, config.dropout, norm_kind=config.norm, dtype=dtype)
