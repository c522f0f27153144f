"""What every backbone is: a stem, then blocks, each a list of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import itertools
import operator
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.models import norm
from dynashare_jax.models import series

# One array `[G, B, ..., C]`, or a tree of them (several resolutions, tokens beside a map), with G
# groups of tasks that share a computation.
Features = Any


class Layer(NamedTuple):
  """Description of a layer's output.

  Attributes:
    name: path of the layer's first weights below the backbone, such as `block_3/conv_1`; unique.
    channels: last axis of its output; of a tree that of the first array.
    stride: positions of the network's input for one of the output, along each axis.
  """

  name: str
  channels: int
  stride: int = 1


def untapped(name: str, x: Features) -> Features:
  """Returns the output of a layer as it is."""
  del name
  return x


class Pass(NamedTuple):
  """What every layer must know of the forward pass.

  Attributes:
    train: dropout on, batch statistics in use.
    updates: `[G]`, a group's part of one update of the running averages: the
      fraction of all tasks that it stands for, 0 if they skip the layer.
    steps: of series of different lengths; else None.
    tap: called with the name and output of every layer of a block; what it returns
      takes the output's place. It may record, mask or mix.
    inner: called within every layer of a block, with `weights` and what its weights give, then
      with `norm` and what its activation reads; what it returns takes the place of either.
    rows: bool `[G, B]`, which rows count in the batch statistics of a task's own norms; None: all.
  """

  train: bool
  updates: jax.Array
  steps: series.Steps | None = None
  tap: Callable[[str, Features], Features] = untapped
  inner: Callable[[str, jax.Array], jax.Array] = untapped
  rows: jax.Array | None = None

  def mask(self, x: jax.Array) -> jax.Array | None:
    """Returns which steps of features `[G, B, time, C]` count; None: all."""
    return None if self.steps is None else self.steps.mask(x.shape[2])

  def normalise(self, layer: nn.Module, x: jax.Array) -> jax.Array:
    """Applies a layer of `models.norm` to features `[G, B, ..., C]`."""
    mask = self.mask(x) if self.rows is None else self.rows
    return layer(x, self.updates, not self.train, mask)

  def linear(self, x: jax.Array, norm: nn.Module | None = None) -> jax.Array:
    """Returns what a layer's weights gave as its activation reads it: normalised, if it has a norm.

    Every layer of a block calls it once.
    """
    x = self.inner("weights", x)
    return self.inner("norm", x if norm is None else self.normalise(norm, x))

  def dropout(self, rate: float, name: str) -> nn.Dropout:
    """Makes a dropout layer that is on in training."""
    return nn.Dropout(rate, deterministic=not self.train, name=name)


def as_it_is(path: str, tensor: np.ndarray, model: Any) -> np.ndarray:
  """Returns a tensor of a file as it is."""
  del path, model
  return tensor


def in_segments(block: int, model: Any) -> dict[str, int]:
  """Returns where a block is, as names of tensors count.

  Returns:
    `s` and `s1`, its segment from 0 and from 1; `b`, its place there from 0; `pair`, which pair of
    blocks of the network it is in.

  Raises:
    ValueError: there are fewer blocks.
  """
  place = block
  for segment, count in enumerate(model.blocks):
    if place < count:
      return {"s": segment, "s1": segment + 1, "b": place, "pair": block // 2}
    place -= count
  raise ValueError(f"config.model.blocks {tuple(model.blocks)} has fewer blocks than the network.")


class Pretrained(NamedTuple):
  """Which files of weights fit a backbone; a file of a family has it as `PRETRAINED`.

  Attributes:
    needs: the values that `config.model` may have.
    first: path of the kernel that reads colours.
    layers: pattern of a layer's path below the backbone, and its group in
      `weight_tables.Family.names`. A pattern names `part`, and may name `block` and numbers that
      the family's names count by.
    arranged: `(path of a leaf, tensor of the file, config.model) -> tensor`, with its outputs in
      this network's order.
    place: `(block, config.model) -> numbers` that the family's names count by.
    looks: what values of `config.model` a file of these names is of, a sentence after a space;
      None: as of a ResNet.
  """

  needs: dict[str, tuple[str, ...]]
  first: str
  layers: tuple[tuple[str, str], ...]
  arranged: Callable[[str, np.ndarray, Any], np.ndarray] = as_it_is
  place: Callable[[int, Any], Mapping[str, int]] = in_segments
  looks: Callable[[Mapping[str, np.ndarray]], str] | None = None


class Backbone(nn.Module):
  """A stem and residual blocks, each a list of layers that can be tapped one by one.

  A family has `num_blocks` as a field or property, and implements `stem` and `layers`, and
  `stem_layer` where its stem ends in another layer than `project`. It creates `bodies` in `setup`,
  a module for every block that is called with `(index of the layer, x, pass_)`, or overrides
  `layer`.

  Attributes:
    skips: whether a block can be left out; False for networks without shortcuts.
    rectified: whether blocks end in a ReLU; else their outputs have both signs.
    causal: whether features of a series depend on no later step.
    trees: whether features between blocks are trees of several arrays.
  """

  skips = True
  rectified = False
  causal = True
  trees = False

  def stem(self, inputs: Any, pass_: Pass) -> Features:
    """Turns inputs `[B, ...]` into features `[1, B, ..., C]`."""
    raise NotImplementedError

  @nn.nowrap
  def stem_layer(self) -> Layer:
    """Describes the output of `stem`: by default of one linear layer, `project`."""
    return Layer("project", self.width)

  @nn.nowrap
  def layers(self, block: int) -> tuple[Layer, ...]:
    """Describes the layers of a block, in their order."""
    raise NotImplementedError

  @property
  def cuts(self) -> bool:
    """Whether outputs can be left out: no norm reads several of them together.

    Such a family has `outputs`, and a field `kept`: how many outputs of a place (`stem`, `block_3`,
    or a layer: `block_3.conv_0`) there are, if not all.
    """
    return hasattr(self, "kept") and getattr(self, "norm_kind", "batch") in norm.BATCH

  @nn.nowrap
  def outputs(self, place: str) -> tuple[str, ...]:
    """Returns the beginnings of the paths of leaves whose last axis are a place's outputs."""
    raise NotImplementedError

  @nn.nowrap
  def width_at(self, place: str, channels: int) -> int:
    """Returns how many of a place's outputs are computed."""
    return int(dict(getattr(self, "kept", ())).get(place, channels))

  @nn.nowrap
  def segments(self) -> tuple[int, ...]:
    """Returns how many blocks every segment has; by default four, as equal as can be."""
    return evenly(self.num_blocks, min(4, self.num_blocks))

  @nn.nowrap
  def describe(self) -> tuple[Layer, ...]:
    """Describes the output of the stem and of every block; builds nothing."""
    last = [self.layers(block)[-1] for block in range(self.num_blocks)]
    blocks = [layer._replace(name=f"block_{block}") for block, layer in enumerate(last)]
    return (self.stem_layer(), *blocks)

  def layer(self, block: int, index: int, x: Features, pass_: Pass) -> Features:
    """Runs one layer of a block: its weights with its norm, activation and dropout."""
    return self.bodies[block](index, x, pass_)

  def branch(self, block: int, x: Features, pass_: Pass) -> Features:
    """Runs all layers of a block, up to the addition."""
    for index, described in enumerate(self.layers(block)):
      x = pass_.tap(described.name, self.layer(block, index, x, pass_))
    return x

  def shortcut(self, block: int, x: Features, pass_: Pass) -> Features:
    """Returns what a skipped block gives: its input."""
    del block, pass_
    return x

  def merge(self, residual: Features, z: Features) -> Features:
    """Returns the output of an executed block, from `shortcut` and `branch`."""
    return jax.tree.map(operator.add, residual, z) if self.skips else z

  def features(self, inputs: Any, pass_: Pass) -> list[Features]:
    """Returns the output of the stem, and of every block after it with all of them executed."""
    found = [self.stem(inputs, pass_)]
    for block in range(self.num_blocks):
      rest = self.shortcut(block, found[-1], pass_)
      found.append(self.merge(rest, self.branch(block, found[-1], pass_)))
    return found

  def final(self, x: Features) -> Features:
    """Turns the last block's output into features for the heads."""
    return x


def evenly(total: int, count: int) -> tuple[int, ...]:
  """Returns the sizes of `count` parts of a row of `total`, as equal as can be."""
  ends = [-(-total * place // count) for place in range(count + 1)]
  return tuple(end - start for start, end in itertools.pairwise(ends))


def of_groups(x: Features) -> list[Features]:
  """Returns the features `[B, ..., C]` of every group of `[G, B, ..., C]`."""
  arrays, tree = jax.tree.flatten(x)
  # One split: every `x[g]` would have a gradient of the size of x.
  parts = zip(*(jax.lax.split(array, [1] * len(array)) for array in arrays), strict=True)
  return [jax.tree.unflatten(tree, [array[0] for array in part]) for part in parts]


def each_group(layer: Callable[[Features], Features], x: Features) -> Features:
  """Applies a layer of `[B, ..., C]` to every group of `[G, B, ..., C]`.

  On a CPU one after the other, which was measured faster; elsewhere in one call. There the examples
  come first in the merged axis: they are what devices split, and a merged axis keeps the split of
  its first part only. With groups first, every device would gather and compute the whole batch.
  """
  groups, batch = jax.tree.leaves(x)[0].shape[:2]
  if groups == 1 or jax.default_backend() == "cpu":
    done = [layer(group) for group in of_groups(x)]
    return jax.tree.map(lambda *each: jnp.stack(each), *done)
  merged = lambda a: a.swapaxes(0, 1).reshape((batch * groups,) + a.shape[2:])
  parted = lambda a: a.reshape((batch, groups) + a.shape[1:]).swapaxes(0, 1)
  return jax.tree.map(parted, layer(jax.tree.map(merged, x)))


def count_blocks(config: Any, spec: types.DatasetSpec, only_series: bool = False) -> int:
  """Returns how many blocks all segments of `config.model` have together.

  Raises:
    ValueError: they have none, or a backbone of series alone is given other inputs.
  """
  count = sum(config.blocks)
  if count < 1:
    raise ValueError(
      f"config.model.blocks must add up to at least 1, but is {tuple(config.blocks)}."
    )
  if only_series and (spec.input_kind != "series" or len(spec.input_shape) != 2):
    raise ValueError(
      f"config.model.backbone={config.backbone!r} reads series, not the {spec.input_kind}"
      f" inputs of {spec.name}."
    )
  return count


def only_pictures(config: Any, spec: types.DatasetSpec) -> None:
  """Refuses data that a backbone of pictures alone cannot read."""
  if spec.input_kind != "image":
    raise ValueError(
      f"config.model.backbone={config.backbone!r} reads pictures, not the {spec.input_kind} inputs"
      f" of {spec.name}; use 'resnet' or 'mlp'."
    )


def segments_of(config: Any, names: Sequence[str]) -> dict[str, tuple[Any, ...]]:
  """Returns lists of `config.model`, an entry a segment; `widths` times the width factor.

  Raises:
    ValueError: they differ in length, a segment has no block, or the width factor is not above 0.
  """
  lists = {name: tuple(config[name]) for name in names}
  if len({len(v) for v in lists.values()}) != 1:
    raise ValueError(
      f"config.model.{', '.join(names[:-1])} and {names[-1]} must name the same number of segments;"
      f" they are {lists}."
    )
  if min(lists["blocks"], default=0) < 1:
    raise ValueError(
      f"config.model.blocks must have at least one block per segment, but is {lists['blocks']}."
    )
  if not config.width_factor > 0:
    raise ValueError(f"config.model.width_factor must be above 0, but is {config.width_factor}.")
  lists["widths"] = tuple(max(round(w * config.width_factor), 1) for w in lists["widths"])
  return lists


def picture_size(spec: types.DatasetSpec) -> tuple[int, int]:
  """Returns the height and width of the pictures that training sees."""
  height, width = spec.crop or spec.input_shape[:2]
  return height, width


def colours(config: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns `config.model.mean` and `std`, which must be of three colours."""
  mean, std = tuple(config.mean), tuple(config.std)
  if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
    raise ValueError(
      "config.model.mean and std must be three numbers, for red, green and blue, and"
      f" std above 0; they are {mean} and {std}."
    )
  return mean, std


def whitened(x: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
  """Returns pictures `[B, H, W, C]` in 0..1 less the mean, divided by the standard deviation."""
  if not any(mean) and set(std) == {1.0}:
    return x
  shape = (1,) * (x.ndim - 1) + (-1,)
  return (x - jnp.asarray(mean).reshape(shape)) / jnp.asarray(std).reshape(shape)
