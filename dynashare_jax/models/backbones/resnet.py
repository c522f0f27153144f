"""Residual convolutional networks with dilation, for images and for series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax import types
from dynashare_jax.models import backbones
from dynashare_jax.models import norm
from dynashare_jax.models import series
from dynashare_jax.models import table

STEMS = ("deeplab", "small", "series", "hourly")
BLOCKS = ("basic", "bottleneck")
EXPANSION = 4  # of a bottleneck's output over its width


class ResNet(nn.Module):
  """A ResNet of basic or bottleneck blocks, in one or two dimensions.

  Attributes:
    dims: 2 for images `[B, H, W, C]`, 1 for series `[B, time, C]`.
    blocks: blocks of every segment.
    widths: channels of every segment; a bottleneck gives 4 times as many.
    strides: stride of every segment's first block.
    dilations: dilation of every 3-wide convolution of a segment.
    stem_kind: `deeplab` (7-wide, stride 2, then 3-wide max pooling with
      stride 2, ceil mode), `small` (3-wide, stride 2), `series` (2-wide,
      stride 2, then every second step) or `hourly` (3-wide, every step).
    table_spec: columns, if the input is a table: every column becomes a step.
    dtype: compute type; parameters stay float32.
    block_kind: `basic` (ResNet-18 and 34) or `bottleneck` (50 and 101).
    norm_kind: see `models.norm.layer`.
    mean: subtracted from the colours of pictures in 0..1.
    std: then divided into them.
    causal: whether features of a series depend on no later step; then padding
      does not count in batch statistics either.

  Source: reference semantics of AdaShare's Deeplab-ResNet.
  Differs: the authors' 1-D networks see the future and the padding.
  """

  dims: int
  blocks: Sequence[int]
  widths: Sequence[int]
  strides: Sequence[int]
  dilations: Sequence[int]
  stem_kind: str = "deeplab"
  table_spec: types.TableSpec | None = None
  dtype: norm.Dtype = jnp.float32
  block_kind: str = "basic"
  norm_kind: str = "batch"
  mean: tuple[float, ...] = (0.0, 0.0, 0.0)
  std: tuple[float, ...] = (1.0, 1.0, 1.0)
  causal: bool = False

  @property
  def num_blocks(self) -> int:
    """Blocks of all segments together."""
    return sum(self.blocks)

  def setup(self) -> None:
    """Creates the layers; their names are the parameter tree's."""
    if self.table_spec is not None:
      self.columns = table.ColumnTokens(self.table_spec, name="columns")
    kernel = {"deeplab": 7, "series": 2}.get(self.stem_kind, 3)
    pad = {"deeplab": 3, "series": 0}.get(self.stem_kind, 1)
    stride = 1 if self.stem_kind == "hourly" else 2
    self.stem_conv = _conv(
      self.dims, self.widths[0], kernel, stride, 1, pad, self.dtype, "stem_conv", self.causal
    )
    self.stem_norm = norm.layer(self.norm_kind, self.dtype, "stem_norm")
    bodies: list[nn.Module] = []
    projections: list[nn.Module | None] = []
    channels = self.widths[0]
    wide = self.block_kind == "bottleneck"
    branch: Any = BottleneckBranch if wide else BasicBranch
    for s, count in enumerate(self.blocks):
      width, dilation = self.widths[s], self.dilations[s]
      for b in range(count):
        stride = self.strides[s] if b == 0 else 1
        bodies.append(
          branch(
            self.dims,
            width,
            stride,
            dilation,
            self.dtype,
            self.norm_kind,
            self.causal,
            name=f"block_{len(bodies)}",
          )
        )
        out = width * EXPANSION if wide else width
        needs = b == 0 and (stride != 1 or channels != out or dilation in (2, 4))
        projections.append(
          Projection(
            self.dims, out, stride, self.dtype, self.norm_kind, name=f"shortcut_{len(projections)}"
          )
          if needs
          else None
        )
      channels = out
    self.bodies = bodies
    self.projections = projections

  def stem(self, inputs: Any, pass_: backbones.Pass) -> jax.Array:
    """First layers: inputs `[B, ...]` to features `[1, B, ..., C]`."""
    x = series.values_of(inputs) if self.table_spec is None else self.columns(inputs)
    if self.dims == 2 and (any(self.mean) or set(self.std) != {1.0}):
      shape = (1,) * (x.ndim - 1) + (-1,)
      x = (x - jnp.asarray(self.mean).reshape(shape)) / jnp.asarray(self.std).reshape(shape)
    x = x.astype(self.dtype)
    x = self.stem_conv(x)[None]
    x = nn.relu(self.stem_norm(x, pass_.updates, not pass_.train, pass_.mask(x)))
    if self.stem_kind == "deeplab":
      return max_pool_ceil(x[0], self.dims)[None]
    if self.stem_kind == "series":
      return x[:, :, ::2]
    return x

  def shortcut(self, block: int, x: jax.Array, pass_: backbones.Pass) -> jax.Array:
    """What a skipped block gives: the input, projected where shapes change."""
    projection = self.projections[block]
    return x if projection is None else projection(x, pass_)

  def branch(self, block: int, x: jax.Array, pass_: backbones.Pass) -> jax.Array:
    """The block's convolutions, before the addition."""
    return self.bodies[block](x, pass_)

  def merge(self, residual: jax.Array, z: jax.Array) -> jax.Array:
    """Output of an executed block (DynaShare section 3.4)."""
    return nn.relu(residual + z)

  def final(self, x: jax.Array) -> jax.Array:
    """Features for the heads."""
    return x


class _Branch(nn.Module):
  """Convolutions, each with a norm, and a ReLU between them."""

  dims: int
  width: int
  stride: int
  dilation: int
  dtype: norm.Dtype
  norm_kind: str = "batch"
  causal: bool = False

  def layers(self) -> tuple[tuple[int, int, int, int], ...]:
    """Channels, width, stride and dilation of every convolution."""
    raise NotImplementedError

  @nn.compact
  def __call__(self, x: jax.Array, pass_: backbones.Pass) -> jax.Array:
    """`[G, B, ..., C]` to `[G, B, ..., channels of the last layer]`."""
    for index, (width, kernel, stride, dilation) in enumerate(self.layers()):
      if index:
        x = nn.relu(x)
      conv = _conv(
        self.dims,
        width,
        kernel,
        stride,
        dilation,
        dilation * (kernel // 2),
        self.dtype,
        f"conv_{index}",
        self.causal,
      )
      x = backbones.each_group(conv, x)
      x = norm.layer(self.norm_kind, self.dtype, f"norm_{index}")(
        x, pass_.updates, not pass_.train, pass_.mask(x)
      )
    return x


class BasicBranch(_Branch):
  """Two 3-wide convolutions."""

  def layers(self) -> tuple[tuple[int, int, int, int], ...]:
    """The first one has the stride; both are dilated."""
    return ((self.width, 3, self.stride, self.dilation), (self.width, 3, 1, self.dilation))


class BottleneckBranch(_Branch):
  """1-wide, 3-wide and 1-wide convolutions; 4 times `width` come out.

  The first one has the stride, as in AdaShare's Deeplab-ResNet-101.
  """

  def layers(self) -> tuple[tuple[int, int, int, int], ...]:
    """The 3-wide one alone is dilated."""
    return (
      (self.width, 1, self.stride, 1),
      (self.width, 3, 1, self.dilation),
      (self.width * EXPANSION, 1, 1, 1),
    )


class Projection(nn.Module):
  """1-wide convolution and batch norm, where a block changes the shape."""

  dims: int
  width: int
  stride: int
  dtype: norm.Dtype
  norm_kind: str = "batch"

  @nn.compact
  def __call__(self, x: jax.Array, pass_: backbones.Pass) -> jax.Array:
    """`[G, B, ..., C]` to `[G, B, ..., width]`."""
    conv = _conv(self.dims, self.width, 1, self.stride, 1, 0, self.dtype, "conv")
    x = backbones.each_group(conv, x)
    return norm.layer(self.norm_kind, self.dtype, "norm")(
      x, pass_.updates, not pass_.train, pass_.mask(x)
    )


def _conv(
  dims: int,
  width: int,
  kernel: int,
  stride: int,
  dilation: int,
  pad: int,
  dtype: norm.Dtype,
  name: str,
  causal: bool = False,
) -> nn.Conv:
  """A convolution with explicit padding and N(0, 0.01^2) weights.

  A causal one has all its padding in front: its last tap is the step itself.
  """
  sides = (dilation * (kernel - 1), 0) if causal else (pad, pad)
  return nn.Conv(
    width,
    (kernel,) * dims,
    strides=(stride,) * dims,
    kernel_dilation=(dilation,) * dims,
    padding=(sides,) * dims,
    use_bias=False,
    dtype=dtype,
    kernel_init=nn.initializers.normal(0.01),
    name=name,
  )


def max_pool_ceil(x: jax.Array, dims: int) -> jax.Array:
  """3-wide max pooling, stride 2, padding 1, rounding sizes up.

  Args:
    x: `[B, ..., C]` with `dims` axes in between.
    dims: 1 or 2.

  Returns:
    Sizes n become ceil((n - 1) / 2) + 1, without a window of padding alone.

  Source: torch max_pool with ceil_mode.
  """
  pads = []
  for size in x.shape[1 : 1 + dims]:
    out = -(-(size - 1) // 2) + 1
    if (out - 1) * 2 >= size + 1:
      out -= 1
    pads.append((1, (out - 1) * 2 + 3 - size - 1))
  return nn.max_pool(x, (3,) * dims, strides=(2,) * dims, padding=pads)


def build(config: Any, spec: types.DatasetSpec, dtype: norm.Dtype) -> ResNet:
  """Makes the network of `config.model` for a data set.

  Raises:
    ValueError: lists of segments that differ in length, no block, an unknown
      stem, block or norm, a stem that does not fit the data, or a width factor
      that is not above 0.
  """
  lists: dict[str, Any] = {
    k: tuple(config[k]) for k in ("blocks", "widths", "strides", "dilations")
  }
  if len({len(v) for v in lists.values()}) != 1:
    raise ValueError(
      "config.model.blocks, widths, strides and dilations must name the same"
      f" number of segments; they are {lists}."
    )
  if sum(lists["blocks"]) < 1 or min(lists["blocks"]) < 1:
    raise ValueError(
      f"config.model.blocks must have at least one block a segment, but is {lists['blocks']}."
    )
  if config.stem not in STEMS:
    raise ValueError(f"config.model.stem is {config.stem!r}; it must be one of {STEMS}.")
  dims = 2 if spec.input_kind == "image" else 1
  if dims == 2 and config.stem in ("series", "hourly"):
    raise ValueError(
      f"config.model.stem={config.stem!r} cannot read images; use 'deeplab' or 'small'."
    )
  if spec.lengths and config.stem == "deeplab":
    raise ValueError(
      "config.model.stem='deeplab' looks ahead; series of"
      " different lengths need 'hourly', 'small' or 'series'."
    )
  for name, known in (("block", BLOCKS), ("norm", norm.NORMS)):
    if config[name] not in known:
      raise ValueError(f"config.model.{name} is {config[name]!r}; it must be one of {known}.")
  if not config.width_factor > 0:
    raise ValueError(f"config.model.width_factor must be above 0, but is {config.width_factor}.")
  mean, std = tuple(config.mean), tuple(config.std)
  if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
    raise ValueError(
      "config.model.mean and std must be three numbers, for red,"
      f" green and blue, and std above 0; they are {mean} and"
      f" {std}."
    )
  lists["widths"] = tuple(max(round(w * config.width_factor), 1) for w in lists["widths"])
  return ResNet(
    dims=dims,
    stem_kind=config.stem,
    table_spec=spec.table,
    dtype=dtype,
    block_kind=config.block,
    norm_kind=config.norm,
    mean=mean,
    std=std,
    causal=spec.lengths,
    **lists,
  )
