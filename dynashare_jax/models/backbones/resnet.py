"""Residual convolutional networks with dilation, for images and for series."""

from __future__ import annotations

from collections.abc import Sequence
import functools
import itertools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.models import convolutions
from dynashare_jax.models import norm
from dynashare_jax.models import series
from dynashare_jax.models import table
from dynashare_jax.models.backbones import base

# Width and stride of the first convolution, and the stride of the whole stem.
STEMS = {
  "deeplab": (7, 2, 4),
  "small": (3, 2, 2),
  "cifar": (3, 1, 1),
  "series": (2, 2, 4),
  "hourly": (3, 1, 1),
}
BLOCKS = ("basic", "bottleneck")
VARIANTS = ("adashare", "torchvision")
EXPANSION = 4  # of a bottleneck's output over its width
PRETRAINED = base.Pretrained(
  {"stem": ("deeplab",), "norm": norm.BATCH},
  "stem_conv/kernel",
  (
    (r"stem_(?P<part>conv|norm)", "stem"),
    (r"block_(?P<block>\d+)/(?P<part>conv|norm)_(?P<index>\d+)", "block"),
    (r"shortcut_(?P<block>\d+)/(?P<part>conv|norm)", "shortcut"),
  ),
)


class ResNet(base.Backbone):
  """A ResNet of basic or bottleneck blocks, in one or two dimensions.

  Attributes:
    dims: 2 for images `[B, H, W, C]`, 1 for series `[B, time, C]`.
    blocks: blocks of every segment.
    widths: channels of every segment; a bottleneck gives 4 times as many.
    strides: stride of every segment's first block.
    dilations: dilation of every 3-wide convolution of a segment.
    stem_kind: `deeplab` (7-wide, stride 2, then 3-wide max pooling with
      stride 2), `small` (3-wide, stride 2), `cifar` (3-wide, every pixel),
      `series` (2-wide, stride 2, then every second step) or `hourly` (3-wide,
      every step).
    table_spec: columns, if the input is a table: every column becomes a step.
    dtype: compute type; parameters stay float32.
    block_kind: `basic` (ResNet-18 and 34) or `bottleneck` (50 and 101).
    norm_kind: see `models.norm.layer`.
    mean: subtracted from the colours of pictures in 0..1.
    std: then divided into them.
    causal: whether features of a series depend on no later step; then padding
      does not count in batch statistics either.
    variant: `adashare`: pooling rounds sizes up, a bottleneck's first convolution
      has the stride, and all blocks of a segment the dilation. `torchvision`:
      pooling rounds down, the 3-wide one has the stride, and the first 3-wide one
      of a segment the dilation of the segment before (in networks that are
      dilated in the place of strides, one half). As many parameters.
    kept: see `base.Backbone`.

  Source: reference semantics of AdaShare's Deeplab-ResNet; torchvision's ResNet with
    `replace_stride_with_dilation`, for basic blocks too.
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
  variant: str = "adashare"
  kept: tuple[tuple[str, int], ...] = ()
  rectified = True

  @property
  def num_blocks(self) -> int:
    """Blocks of all segments together."""
    return sum(self.blocks)

  def setup(self) -> None:
    """Creates the layers; their names are the parameter tree's."""
    if self.table_spec is not None:
      self.columns = table.ColumnTokens(self.table_spec, name="columns")
    kernel, stride, _ = STEMS[self.stem_kind]
    shape = convolutions.Shape(self.width_at("stem", self.widths[0]), kernel, stride)
    self.stem_conv = convolutions.conv(self.dims, shape, self.dtype, "stem_conv", self.causal)
    self.stem_norm = norm.layer(self.norm_kind, self.dtype, "stem_norm")
    stack = functools.partial(
      convolutions.Stack, self.dims, dtype=self.dtype, norm_kind=self.norm_kind, causal=self.causal
    )
    blocks = self._blocks()
    self.bodies = [
      stack(self._kept(b, shapes), name=f"block_{b}") for b, shapes in enumerate(blocks)
    ]
    projections: list[nn.Module | None] = []
    channels = self.widths[0]
    firsts = set(itertools.accumulate(self.blocks[:-1], initial=0))
    for block, shapes in enumerate(blocks):
      stride = math.prod(shape.stride for shape in shapes)
      out = convolutions.Shape(shapes[-1].channels, 1, stride)
      dilated = self.variant == "adashare" and block in firsts and shapes[1].dilation in (2, 4)
      needs = dilated or out.stride != 1 or channels != out.channels
      channels = out.channels
      out = out._replace(channels=self.width_at(f"block_{block}", channels))
      projections.append(stack((out,), name=f"shortcut_{block}") if needs else None)
    self.projections = projections

  @nn.nowrap
  def _blocks(self) -> list[tuple[convolutions.Shape, ...]]:
    """The convolutions of every block."""
    same = self.variant == "adashare"
    before = self.dilations if same else (1, *self.dilations[:-1])
    segments = zip(self.blocks, self.widths, self.strides, self.dilations, before, strict=True)
    return [
      shapes_of(
        self.block_kind,
        width,
        1 if place else stride,
        dilation,
        self.variant,
        None if place else first,
      )
      for count, width, stride, dilation, first in segments
      for place in range(count)
    ]

  @nn.nowrap
  def _kept(
    self, block: int, shapes: tuple[convolutions.Shape, ...]
  ) -> tuple[convolutions.Shape, ...]:
    """The convolutions of a block with those outputs that are computed."""
    named = [f"block_{block}.conv_{i}" for i in range(len(shapes) - 1)] + [f"block_{block}"]
    return tuple(
      shape._replace(channels=self.width_at(place, shape.channels))
      for place, shape in zip(named, shapes, strict=True)
    )

  @nn.nowrap
  def outputs(self, place: str) -> tuple[str, ...]:
    """Returns convolutions with their norms; of a block the last one's and the shortcut's."""
    if place == "stem":
      return "stem_conv", "stem_norm"
    found = convolutions.outputs(place, len(self._blocks()[0]) - 1)
    return found if "." in place else (*found, place.replace("block", "shortcut"))

  @nn.nowrap
  def segments(self) -> tuple[int, ...]:
    """Returns how many blocks every segment has."""
    return tuple(self.blocks)

  @nn.nowrap
  def stem_layer(self) -> base.Layer:
    """Describes the output of `stem`."""
    return base.Layer("stem_conv", self.widths[0], STEMS[self.stem_kind][2])

  @nn.nowrap
  def layers(self, block: int) -> tuple[base.Layer, ...]:
    """Describes the convolutions of a block, one of which may have a stride."""
    blocks = self._blocks()
    before = (shape.stride for shapes in blocks[:block] for shape in shapes)
    stride, found = math.prod(before, start=self.stem_layer().stride), []
    for i, shape in enumerate(blocks[block]):
      stride *= shape.stride
      found.append(base.Layer(f"block_{block}/conv_{i}", shape.channels, stride))
    return tuple(found)

  def stem(self, inputs: Any, pass_: base.Pass) -> jax.Array:
    """Turns inputs `[B, ...]` into features `[1, B, ..., C]`."""
    x = series.values_of(inputs) if self.table_spec is None else self.columns(inputs)
    if self.dims == 2:
      x = base.whitened(x, self.mean, self.std)
    x = self.stem_conv(x.astype(self.dtype))[None]
    x = nn.relu(pass_.normalise(self.stem_norm, x))
    if self.stem_kind == "deeplab":
      return base.each_group(lambda a: max_pool(a, self.dims, self.variant == "adashare"), x)
    if self.stem_kind == "series":
      return x[:, :, ::2]
    return x

  def shortcut(self, block: int, x: jax.Array, pass_: base.Pass) -> jax.Array:
    """Returns what a skipped block gives: its input, projected where shapes change."""
    projection = self.projections[block]
    return x if projection is None else projection(0, x, pass_)

  def merge(self, residual: jax.Array, z: jax.Array) -> jax.Array:
    """Returns the output of an executed block (DynaShare section 3.4)."""
    return nn.relu(residual + z)


def shapes_of(
  kind: str,
  width: int,
  stride: int,
  dilation: int,
  variant: str = "adashare",
  first: int | None = None,
) -> tuple[convolutions.Shape, ...]:
  """Returns the convolutions of a block.

  A `basic` one has two 3-wide ones, both dilated, and the first has the stride. A
  `bottleneck` has a 1-wide, a 3-wide and a 1-wide one; the 3-wide one alone is dilated,
  and 4 times `width` come out. The first one has the stride as in AdaShare's
  Deeplab-ResNet-101, or with `torchvision` the 3-wide one.

  Args:
    first: dilation of the first 3-wide one; None is `dilation`.
  """
  shape, first = convolutions.Shape, first or dilation
  if kind == "basic":
    return shape(width, 3, stride, first), shape(width, 3, 1, dilation)
  ends = (stride, 1) if variant == "adashare" else (1, stride)
  return shape(width, 1, ends[0]), shape(width, 3, ends[1], first), shape(width * EXPANSION, 1)


def max_pool(x: jax.Array, dims: int, up: bool) -> jax.Array:
  """Pools `[B, ..., C]` over `dims` axes: 3-wide maximum, stride 2, padding 1.

  Args:
    up: sizes n become ceil((n - 1) / 2) + 1, without a window of padding alone; else
      floor((n - 1) / 2) + 1.

  Source: torch max_pool, with and without ceil_mode.
  """
  pads = []
  for size in x.shape[1 : 1 + dims]:
    out = (size - 1) // 2 + 1
    if up:
      out = -(-(size - 1) // 2) + 1
      out -= (out - 1) * 2 >= size + 1
    pads.append((1, (out - 1) * 2 + 3 - size - 1))
  return nn.max_pool(x, (3,) * dims, strides=(2,) * dims, padding=pads)


def build(config: Any, spec: types.DatasetSpec, dtype: norm.Dtype) -> ResNet:
  """Makes the network of `config.model` for a data set.

  Raises:
    ValueError: lists of segments that differ in length, no block, an unknown stem, block, norm or
      variant, a stem that does not fit the data, or a width factor that is not above 0.
  """
  lists: dict[str, Any] = base.segments_of(config, ("blocks", "widths", "strides", "dilations"))
  choices = {"stem": STEMS, "block": BLOCKS, "norm": norm.NORMS, "variant": VARIANTS}
  for name, known in choices.items():
    lookup.one_of(f"config.model.{name}", config[name], known)
  dims = 2 if spec.input_kind == "image" else 1
  if dims == 2 and config.stem in ("series", "hourly"):
    raise ValueError(
      f"config.model.stem={config.stem!r} cannot read images; use 'deeplab', 'small' or 'cifar'."
    )
  if spec.lengths and config.stem == "deeplab":
    raise ValueError(
      "config.model.stem='deeplab' looks ahead; series of"
      " different lengths need 'hourly', 'small' or 'series'."
    )
  mean, std = base.colours(config)
  kinds = {"stem_kind": config.stem, "block_kind": config.block, "norm_kind": config.norm}
  lists |= {"table_spec": spec.table, "causal": spec.lengths, "mean": mean, "std": std}
  lists["variant"] = config.variant
  return ResNet(dims, dtype=dtype, **lists, **kinds)
