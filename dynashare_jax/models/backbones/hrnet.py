"""A high-resolution network for pictures: maps of several sizes side by side, which exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
import operator
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.models import convolutions
from dynashare_jax.models import norm
from dynashare_jax.models.backbones import base
from dynashare_jax.ops import resize

Maps = tuple[jax.Array, ...]

STEM = 64  # channels of the stem's convolutions, and inside its bottlenecks
OPENING, ROW, EXCHANGE = "opening", "row", "exchange"


class Place(NamedTuple):
  """What a block is.

  Attributes:
    kind: `opening`, `row` or `exchange`.
    stage: from 0; it has a map more than that.
    module: in the stage, from 0.
    row: in the module, from 0.
  """

  kind: str
  stage: int
  module: int = 0
  row: int = 0


def places(blocks: Sequence[int], rows: int) -> list[Place]:
  """Returns what every block is, from `HrNet.blocks` and `rows`."""
  found = []
  for stage, modules in enumerate(blocks[1:], 1):
    if stage > 1:
      found.append(Place(OPENING, stage))
    for module in range(modules):
      found += [Place(ROW, stage, module, row) for row in range(rows)]
      found.append(Place(EXCHANGE, stage, module))
  return found


def _numbers(block: int, model: Any) -> dict[str, int]:
  """Where a block is, as names of tensors count."""
  place = places(model.blocks, model.rows)[block]
  return {"s": place.stage, "s1": place.stage + 1, "b": place.module, "row": place.row}


def _looks(tensors: Mapping[str, np.ndarray]) -> str:
  """The values of `config.model` that a file's names and shapes are of."""
  names = [name.split(".") for name in tensors]
  count = lambda part: len({of[1] for of in names if of[0] == part})
  widths = {}
  for name, tensor in tensors.items():
    if name.startswith("stage4.0.branches.") and name.endswith(".0.conv1.weight"):
      widths[int(name.split(".")[3])] = len(tensor)
  blocks = tuple(map(count, ("layer1", "stage2", "stage3", "stage4")))
  rows = len({of[4] for of in names if of[:4] == ["stage4", "0", "branches", "0"]})
  return (
    f" The file has config.model.blocks={blocks}, config.model.rows={rows} and"
    f" config.model.widths={tuple(widths[i] for i in sorted(widths))}."
  )


PRETRAINED = base.Pretrained(
  {"norm": norm.BATCH},
  "stem/conv_0/kernel",
  (
    (r"stem/(?P<part>conv|norm)_(?P<index>\d+)", "stem"),
    (r"bottleneck_(?P<row>\d+)/(?P<part>conv|norm)_(?P<index>\d+)", "bottleneck"),
    (r"projection/(?P<part>conv|norm)", "projection"),
    (r"start_0/(?P<part>conv|norm)", "narrowed"),
    (r"start_1/(?P<part>conv|norm)", "halved"),
    (r"block_(?P<block>\d+)/opened/(?P<part>conv|norm)", "opening"),
    (r"block_(?P<block>\d+)/map_(?P<to>\d+)/(?P<part>conv|norm)_(?P<index>\d+)", "row"),
    (r"block_(?P<block>\d+)/up_(?P<of>\d+)_(?P<to>\d+)/(?P<part>conv|norm)", "up"),
    (
      r"block_(?P<block>\d+)/down_(?P<of>\d+)_(?P<to>\d+)/(?P<part>conv|norm)(_(?P<index>\d+))?",
      "down",
    ),
  ),
  place=_numbers,
  looks=_looks,
)


class HrNet(base.Backbone):
  """Maps of 4, 8, 16 and 32 pixels a position, side by side; the finest is kept to the end.

  The stem is two convolutions and the first stage, bottlenecks of which two maps are made. A later
  stage is modules: `rows` rows, each a pair of 3-wide convolutions on every map, then an exchange,
  in which every map gets all others in its own size. Every stage after the second begins with an
  opening, which makes the next, coarser map of the last one. Rows, exchanges and openings are the
  blocks. All add to what they read, so that a skipped one is the identity; where an opening is
  skipped, the new map begins with zeros.

  Features between blocks are tuples of maps, the finest first; heads read all of them in the size
  of the finest, joined.

  Attributes:
    blocks: bottlenecks of the first stage, and modules of every other one.
    widths: channels of the maps, as many as stages.
    rows: of every module.
    stem_width: channels of the stem's convolutions; its bottlenecks give 4 times as many.
    norm_kind: see `models.norm.layer`.
    mean: subtracted from the colours of pictures in 0..1.
    std: then divided into them.
    dtype: compute type; parameters stay float32.

  Source: Wang et al. 2019, Deep High-Resolution Representation Learning for Visual Recognition
    (HRNetV2), with the layers of timm's `hrnet_w18`: `blocks` (4, 1, 4, 3), 4 `rows`.
  Differs: maps of any size fit, because an enlarged one is cut to the size of what it is added to.
  """

  blocks: Sequence[int]
  widths: Sequence[int]
  rows: int = 4
  stem_width: int = STEM
  norm_kind: str = "batch"
  mean: tuple[float, ...] = (0.0, 0.0, 0.0)
  std: tuple[float, ...] = (1.0, 1.0, 1.0)
  dtype: norm.Dtype = jnp.float32
  rectified = True
  trees = True

  @property
  def num_blocks(self) -> int:
    """Openings, rows and exchanges of all stages."""
    return len(self._places())

  @nn.nowrap
  def _places(self) -> list[Place]:
    """What every block is."""
    return places(self.blocks, self.rows)

  def setup(self) -> None:
    """Creates the layers; their names are the parameter tree's."""
    style, wide = _Style(self.norm_kind, self.dtype), 4 * self.stem_width
    narrow = (self.stem_width, 3, 2)
    self.first = style.stack("stem", narrow, narrow, bare_end=False)
    middle = ((self.stem_width, 1), (self.stem_width, 3), (wide, 1))
    self.bottlenecks = [style.stack(f"bottleneck_{b}", *middle) for b in range(self.blocks[0])]
    self.projection = style.stack("projection", (wide, 1))
    self.starts = [
      style.stack(f"start_{i}", (self.widths[i], 3, i + 1), bare_end=False) for i in (0, 1)
    ]
    kinds = {OPENING: Opening, ROW: Row, EXCHANGE: Exchange}
    self.bodies = [
      kinds[place.kind](tuple(self.widths[: place.stage + 1]), style, name=f"block_{block}")
      for block, place in enumerate(self._places())
    ]

  @nn.nowrap
  def segments(self) -> tuple[int, ...]:
    """Returns how many blocks every stage after the first has."""
    stages = [place.stage for place in self._places()]
    return tuple(map(stages.count, range(1, len(self.blocks))))

  @nn.nowrap
  def stem_layer(self) -> base.Layer:
    """Describes the finest map of the stem."""
    return base.Layer("start_0", self.widths[0], 4)

  @nn.nowrap
  def layers(self, block: int) -> tuple[base.Layer, ...]:
    """Describes the finest map of a row's two layers, or of an opening or exchange."""
    names = {OPENING: ("opened",), ROW: ("map_0/conv_0", "map_0/conv_1"), EXCHANGE: ("up_1_0",)}
    kind = self._places()[block].kind
    return tuple(base.Layer(f"block_{block}/{name}", self.widths[0], 4) for name in names[kind])

  def stem(self, inputs: Any, pass_: base.Pass) -> Maps:
    """Turns pictures `[B, H, W, 3]` into two maps `[1, B, ..., C]`."""
    x = base.whitened(inputs, self.mean, self.std).astype(self.dtype)[None]
    x = _through(self.first, x, pass_)
    for index, bottleneck in enumerate(self.bottlenecks):
      rest = x if index else self.projection(0, x, pass_)
      x = nn.relu(rest + _through(bottleneck, x, pass_))
    return tuple(start(0, x, pass_) for start in self.starts)

  def layer(self, block: int, index: int, x: Maps, pass_: base.Pass) -> Maps:
    """Runs one layer of a block on all maps; it has no one array to show."""
    done: Maps = self.bodies[block](index, x, pass_._replace(inner=base.untapped))
    return done

  def shortcut(self, block: int, x: Maps, pass_: base.Pass) -> Maps:
    """Returns the input; of an opening with zeros for the new map."""
    del pass_
    kind, stage, *_ = self._places()[block]
    if kind != OPENING:
      return x
    *rest, height, width, _ = x[-1].shape
    size = (*rest, -(-height // 2), -(-width // 2), self.widths[stage])
    return (*x, jnp.zeros(size, x[-1].dtype))

  def merge(self, residual: Maps, z: Maps) -> Maps:
    """Returns the output of an executed block."""
    return jax.tree.map(lambda a, b: nn.relu(a + b), residual, z)

  def final(self, x: Maps) -> jax.Array:
    """Enlarges all maps to the size of the finest, bilinearly, and joins their channels."""
    height, width = x[0].shape[2:4]
    enlarge = lambda a: jnp.asarray(resize.enlarge(a, (height, width)))
    grown = [base.each_group(enlarge, a) for a in x[1:]]
    return jnp.concatenate([x[0], *grown], -1)


class _Style(NamedTuple):
  """What all convolutions of a network have in common."""

  norm: str
  dtype: norm.Dtype

  def stack(self, name: str, *shapes: tuple[int, ...], bare_end: bool = True) -> convolutions.Stack:
    """Convolutions of (channels, kernel, stride), each with its norm and a ReLU behind."""
    made = tuple(convolutions.Shape(*shape) for shape in shapes)
    return convolutions.Stack(2, made, self.dtype, self.norm, bare_end=bare_end, name=name)


def _through(stack: Any, x: jax.Array, pass_: base.Pass) -> jax.Array:
  """All convolutions of a stack."""
  for index in range(len(stack.shapes)):
    x = stack(index, x, pass_)
  return x


class Opening(nn.Module):
  """Adds a map of half the size, made of the last one; nothing to the others."""

  widths: tuple[int, ...]
  style: _Style

  @nn.compact
  def __call__(self, index: int, x: Maps, pass_: base.Pass) -> Maps:
    """Returns what is added to every map, and the new one."""
    new = self.style.stack("opened", (self.widths[-1], 3, 2))
    return (*map(jnp.zeros_like, x), new(index, x[-1], pass_))


class Row(nn.Module):
  """A pair of convolutions on every map."""

  widths: tuple[int, ...]
  style: _Style

  def setup(self) -> None:
    """Creates a stack for every map."""
    pairs = [((width, 3), (width, 3)) for width in self.widths]
    self.stacks = [self.style.stack(f"map_{i}", *pair) for i, pair in enumerate(pairs)]

  def __call__(self, index: int, x: Maps, pass_: base.Pass) -> Maps:
    """Runs one convolution on every map."""
    return tuple(stack(index, a, pass_) for stack, a in zip(self.stacks, x, strict=True))


class Exchange(nn.Module):
  """Brings every map to the size and the channels of every other one."""

  widths: tuple[int, ...]
  style: _Style

  @nn.compact
  def __call__(self, index: int, x: Maps, pass_: base.Pass) -> Maps:
    """Returns for every map the sum of all others, each brought to it."""
    del index
    return tuple(
      functools.reduce(
        operator.add, [self._brought(x, of, to, pass_) for of in range(len(x)) if of != to]
      )
      for to in range(len(x))
    )

  def _brought(self, x: Maps, of: int, to: int, pass_: base.Pass) -> jax.Array:
    """A map as another one: enlarged after a 1-wide layer, or through 3-wide ones that halve it."""
    if of > to:
      small = self.style.stack(f"up_{of}_{to}", (self.widths[to], 1))(0, x[of], pass_)
      return _repeated(small, 2 ** (of - to), x[to].shape[2:4])
    halvings = [(self.widths[of], 3, 2)] * (to - of - 1) + [(self.widths[to], 3, 2)]
    return _through(self.style.stack(f"down_{of}_{to}", *halvings), x[of], pass_)


def _repeated(x: jax.Array, times: int, size: tuple[int, ...]) -> jax.Array:
  """Every position of `[G, B, h, w, C]` as a square of them, cut to a size."""
  for axis, length in zip((2, 3), size, strict=True):
    x = jax.lax.slice_in_dim(jnp.repeat(x, times, axis), 0, length, axis=axis)
  return x


def build(config: Any, spec: types.DatasetSpec, dtype: norm.Dtype) -> HrNet:
  """Makes the network of `config.model` for a data set.

  Raises:
    ValueError: inputs that are no pictures; fewer than two stages, lists of stages that differ in
      length, an empty stage, no rows, an unknown norm, or a width factor that is not above 0.
  """
  base.only_pictures(config, spec)
  lists = base.segments_of(config, ("blocks", "widths"))
  if len(lists["blocks"]) < 2:
    raise ValueError(
      "config.model.backbone='hrnet' has bottlenecks and then stages of modules, but"
      f" config.model.blocks={lists['blocks']} names no stage of modules: (4, 1, 4, 3) is HRNet."
    )
  if config.rows < 1:
    raise ValueError(f"config.model.rows must be at least 1, but is {config.rows}.")
  lookup.one_of("config.model.norm", config.norm, norm.NORMS)
  stem = max(round(STEM * config.width_factor), 1)
  mean, std = base.colours(config)
  return HrNet(lists["blocks"], lists["widths"], config.rows, stem, config.norm, mean, std, dtype)
