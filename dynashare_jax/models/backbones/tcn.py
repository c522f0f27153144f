"""A temporal convolutional network for series of different lengths."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax import types
from dynashare_jax.models import backbones
from dynashare_jax.models import norm
from dynashare_jax.models import series


class Tcn(nn.Module):
  """Residual blocks of two causal convolutions, each with a larger dilation.

  Block b has the dilation 2^b, so that the last step of a series of N steps
  reads all of it from log2(N / 4) + 1 blocks on.

  Attributes:
    num_blocks: residual blocks.
    width: channels.
    dropout: rate after every convolution, in training.
    kernel: taps of a convolution.
    norm_kind: see `models.norm.layer`.
    dtype: compute type; parameters stay float32.

  Source: Bai et al. 2018, An empirical evaluation of generic convolutional and
    recurrent networks for sequence modeling.
  Differs: batch norm in place of weight norm, so that tasks have statistics of
    their own as in the other backbones; dropout draws every number, not whole
    channels.
  """

  num_blocks: int
  width: int = 128
  dropout: float = 0.1
  kernel: int = 3
  norm_kind: str = "batch"
  dtype: norm.Dtype = jnp.float32

  def setup(self) -> None:
    """Creates the layers; their names are the parameter tree's."""
    self.project = nn.Dense(self.width, dtype=self.dtype, name="project")
    self.bodies = [
      TcnBranch(
        self.width, self.kernel, 2**b, self.dropout, self.norm_kind, self.dtype, name=f"block_{b}"
      )
      for b in range(self.num_blocks)
    ]

  def stem(self, inputs: Any, pass_: backbones.Pass) -> jax.Array:
    """Inputs to features `[1, B, time, width]`, step by step."""
    del pass_
    return self.project(series.values_of(inputs).astype(self.dtype))[None]

  def shortcut(self, block: int, x: jax.Array, pass_: backbones.Pass) -> jax.Array:
    """A skipped block changes nothing."""
    del block, pass_
    return x

  def branch(self, block: int, x: jax.Array, pass_: backbones.Pass) -> jax.Array:
    """The block's convolutions, before the addition."""
    return self.bodies[block](x, pass_)

  def merge(self, residual: jax.Array, z: jax.Array) -> jax.Array:
    """Output of an executed block."""
    return nn.relu(residual + z)

  def final(self, x: jax.Array) -> jax.Array:
    """Features for the heads."""
    return x


class TcnBranch(nn.Module):
  """Convolution, norm, ReLU and dropout, twice."""

  width: int
  kernel: int
  dilation: int
  dropout: float
  norm_kind: str
  dtype: norm.Dtype

  @nn.compact
  def __call__(self, x: jax.Array, pass_: backbones.Pass) -> jax.Array:
    """`[G, B, time, C]` to `[G, B, time, width]`."""
    for index in range(2):
      conv = nn.Conv(
        self.width,
        (self.kernel,),
        kernel_dilation=(self.dilation,),
        padding=((self.dilation * (self.kernel - 1), 0),),
        use_bias=False,
        dtype=self.dtype,
        name=f"conv_{index}",
      )
      x = backbones.each_group(conv, x)
      x = norm.layer(self.norm_kind, self.dtype, f"norm_{index}")(
        x, pass_.updates, not pass_.train, pass_.mask(x)
      )
      x = nn.Dropout(self.dropout, deterministic=not pass_.train)(nn.relu(x))
    return x


def build(config: Any, spec: types.DatasetSpec, dtype: norm.Dtype) -> Tcn:
  """Makes the network of `config.model` for a data set.

  Raises:
    ValueError: no block, or inputs that are no series.
  """
  count = backbones.count_blocks(config)
  if spec.input_kind != "series" or len(spec.input_shape) != 2:
    raise ValueError(
      f"config.model.backbone='tcn' reads series, not the {spec.input_kind} inputs of {spec.name}."
    )
  return Tcn(
    num_blocks=count, width=config.width, dropout=config.dropout, norm_kind=config.norm, dtype=dtype
  )
