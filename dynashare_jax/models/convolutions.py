"""Convolutions over the features of all groups, each with its norm."""

from __future__ import annotations

from typing import Any, NamedTuple

from flax import linen as nn
import jax

from dynashare_jax.models import norm
from dynashare_jax.models.backbones import base

SMALL = nn.initializers.normal(0.01)


class Shape(NamedTuple):
  """Numbers of a convolution, the same along every axis."""

  channels: int
  kernel: int
  stride: int = 1
  dilation: int = 1


def conv(
  dims: int,
  shape: Shape,
  dtype: norm.Dtype,
  name: str | None,
  causal: bool,
  init: Any = SMALL,
  use_bias: bool = False,
) -> nn.Conv:
  """Makes a convolution over `dims` axes.

  A causal one has all its padding in front: its last tap is the step itself.
  """
  reach = shape.dilation * (shape.kernel - 1)
  side = shape.dilation * ((shape.kernel - 1) // 2)
  return nn.Conv(
    shape.channels,
    (shape.kernel,) * dims,
    strides=(shape.stride,) * dims,
    kernel_dilation=(shape.dilation,) * dims,
    padding=((reach, 0) if causal else (side, side),) * dims,
    use_bias=use_bias,
    dtype=dtype,
    kernel_init=init,
    name=name,
  )


def outputs(place: str, last: int) -> tuple[str, str]:
  """Returns the paths of convolution and norm of a place; of a block, of its last layer's."""
  conv = place.replace(".", "/") if "." in place else f"{place}/conv_{last}"
  return conv, conv.replace("/conv_", "/norm_")


class Stack(nn.Module):
  """Convolutions in turn: each with a norm, then a ReLU and dropout.

  Attributes:
    dims: axes of a map: 2 of pictures, 1 of series.
    shapes: of the convolutions. If there are several, their names are numbered.
    dtype: compute type.
    norm_kind: see `models.norm.layer`.
    causal: see `conv`.
    bare_end: whether the last one has neither ReLU nor dropout.
    dropout: rate, in training.
    kernel_init: of the kernels.
    use_bias: whether convolutions have a bias, before their norm.
  """

  dims: int
  shapes: tuple[Shape, ...]
  dtype: norm.Dtype
  norm_kind: str = "batch"
  causal: bool = False
  bare_end: bool = True
  dropout: float = 0.0
  kernel_init: Any = SMALL
  use_bias: bool = False

  @nn.compact
  def __call__(self, index: int, x: jax.Array, pass_: base.Pass) -> jax.Array:
    """Runs one convolution on `[G, B, ..., C]`."""
    end = f"_{index}" if len(self.shapes) > 1 else ""
    made = self.dtype, f"conv{end}", self.causal, self.kernel_init, self.use_bias
    x = base.each_group(conv(self.dims, self.shapes[index], *made), x)
    x = pass_.linear(x, norm.layer(self.norm_kind, self.dtype, "norm" + end))
    if self.bare_end and index + 1 == len(self.shapes):
      return x
    return pass_.dropout(self.dropout, f"Dropout_{index}")(nn.relu(x))
