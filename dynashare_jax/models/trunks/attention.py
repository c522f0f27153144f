"""One backbone for all tasks, over whose features every task has masks of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import fusions
from dynashare_jax.models import series
from dynashare_jax.models.backbones import base
from dynashare_jax.models.trunks import contract


class Place(NamedTuple):
  """Where the tasks' masks are put on the shared features: after a block.

  Attributes:
    block: the block.
    width: channels of its output.
    following: channels of what the next place has.
    pool: how many positions become one before the next place, along each axis.
  """

  block: int
  width: int
  following: int
  pool: int


class Style(NamedTuple):
  """What the layers beside a backbone take over from it.

  Attributes:
    norm: kind of its norm; empty: a layer norm, for features of both signs.
    causal: whether convolutions over time see no later step.
    dtype: compute type.
  """

  norm: str
  causal: bool
  dtype: Any

  def normed(self, name: str, x: jax.Array, pass_: base.Pass) -> jax.Array:
    """Normalises the output of a layer, within a compact module."""
    return fusions.normed(self.norm, self.dtype, name, x, pass_)


class Mask(nn.Module):
  """Weighs features by a mask in [0, 1], which is computed from an early map and what came before.

  Attributes:
    width: channels of the features.
    middle: channels between the two 1-wide layers.
    style: see `Style`.

  Source: Liu et al. 2019, Eqs. 2 and 3.
  """

  width: int
  middle: int
  style: Style

  @nn.compact
  def __call__(
    self, early: jax.Array, before: jax.Array | None, features: jax.Array, pass_: base.Pass
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the weighed features `[1, B, ..., C]`, and the mask."""
    x = early if before is None else jnp.concatenate([early, before], -1)
    dense = lambda width, name: nn.Dense(width, dtype=self.style.dtype, name=name)
    x = nn.relu(self.style.normed("norm_0", dense(self.middle, "reduce")(x), pass_))
    mask = nn.sigmoid(self.style.normed("norm_1", dense(self.width, "widen")(x), pass_))
    return mask * features, mask


class Extract(nn.Module):
  """Turns weighed features into what the next place, or the head, reads; pools them.

  Attributes:
    width: channels that come out.
    bottleneck: whether it is a bottleneck with a projection, a quarter as wide in between; else one
      3-wide layer.
    pool: see `Place`.
    style: see `Style`.
  """

  width: int
  bottleneck: bool
  pool: int
  style: Style

  @nn.compact
  def __call__(self, x: jax.Array, pass_: base.Pass) -> jax.Array:
    """Maps `[G, B, ..., C]` to `[G, B, ..., width]`."""
    if not self.bottleneck:
      x = self._convolved(x, self.width, 3, 0, pass_, bias=True)
      return pooled(nn.relu(x), self.pool, self.style.causal)
    z, inner = x, self.width // 4
    for index, (width, kernel) in enumerate(((inner, 1), (inner, 3), (self.width, 1))):
      z = self._convolved(nn.relu(z) if index else z, width, kernel, index, pass_)
    z = nn.relu(z + self._convolved(x, self.width, 1, 3, pass_))
    return pooled(z, self.pool, self.style.causal)

  def _convolved(
    self, x: jax.Array, width: int, kernel: int, index: int, pass_: base.Pass, bias: bool = False
  ) -> jax.Array:
    """After a convolution (of vectors a linear layer) and its norm."""
    dims = x.ndim - 3
    made = {"use_bias": bias, "dtype": self.style.dtype, "name": f"conv_{index}"}
    layer: nn.Module
    if dims:
      side = (kernel - 1) // 2
      ends = (kernel - 1, 0) if self.style.causal and dims == 1 else (side, side)
      layer = nn.Conv(width, (kernel,) * dims, padding=(ends,) * dims, **made)
    else:
      layer = nn.Dense(width, **made)
    return self.style.normed(f"norm_{index}", base.each_group(layer, x), pass_)


class AttentionTrunk(contract.Trunk):
  """One backbone that all tasks run, and masks of every task over its features.

  The shared features do not change; a head reads the task's own, of the last place.

  Attributes:
    backbone: shared by all tasks.
    tasks: how many.
    stages: whether places are the segments, with a shared extractor between them, else all blocks,
      with one of each task after every one.
    style: see `Style`.

  Source: Liu et al. 2019 (MTAN). By blocks as the parameters in AdaShare's tables have it; by
    stages as Vandenhende et al. 2021 have it for ResNets.
  Differs: backbones whose features have both signs get layer norms; convolutions over time are
    causal where the backbone's are.
  """

  backbone: Any
  tasks: int
  stages: bool
  style: Style

  @property
  def units(self) -> int:
    """Blocks of the backbone."""
    return int(self.backbone.num_blocks)

  @nn.nowrap
  def leaves(self) -> Mapping[str, contract.Leaf]:
    """Returns the rules of the backbone, of each task's own layers and of what extracts for all."""
    own = {
      f"{part}_{t}": contract.Leaf("attention", t)
      for t in range(self.tasks)
      for part in ("mask", "extract")
    }
    return {"backbone": contract.Leaf("backbone"), "between": contract.Leaf("attention"), **own}

  @nn.nowrap
  def weights_of(self) -> tuple[str, ...]:
    """Returns the blocks of the backbone."""
    return tuple(f"backbone/block_{block}" for block in range(self.units))

  @nn.nowrap
  def only(self, tasks: Sequence[int]) -> tuple[contract.Trunk, Mapping[str, str]]:
    """Returns the backbone with the masks of some tasks."""
    names = {"backbone": "backbone", "between": "between"}
    for place, t in enumerate(tasks):
      names |= {f"{part}_{t}": f"{part}_{place}" for part in ("mask", "extract")}
    return self.clone(tasks=len(tasks)), names

  @nn.nowrap
  def shown(self) -> Any:
    """Returns the backbone."""
    return self.backbone

  @nn.nowrap
  def places(self) -> tuple[Place, ...]:
    """Returns where masks are."""
    found = self.backbone.describe()[1:]
    blocks = list(range(self.units))
    if self.stages:
      blocks = [end - 1 for end in itertools.accumulate(self.backbone.segments())]
    return tuple(
      Place(
        block,
        found[block].channels,
        found[after].channels if self.stages else found[block].channels,
        found[after].stride // found[block].stride,
      )
      for block, after in zip(blocks, [*blocks[1:], blocks[-1]], strict=True)
    )

  def setup(self) -> None:
    """Creates the layers; their names are the parameter tree's."""
    places = self.places()
    every = [(t, p) for t in range(self.tasks) for p in range(len(places))]
    self.masks = {
      (t, p): Mask(
        places[p].width,
        places[p].width // (4 if self.stages else 1),
        self.style,
        name=f"mask_{t}_{p}",
      )
      for t, p in every
    }
    extract = lambda p, name: Extract(
      places[p].following, self.stages, places[p].pool, self.style, name=name
    )
    if self.stages:
      self.between = [extract(p, f"between_{p}") for p in range(len(places) - 1)]
    else:
      self.extracts = {(t, p): extract(p, f"extract_{t}_{p}") for t, p in every}

  def __call__(
    self, inputs: Any, control: Any, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs the backbone once, and the layers of every task beside it.

    `Signals.own` is `[T, places]`: how far a task's mask is from the mean of all tasks' masks, as a
    mean over examples, positions and channels.
    """
    del control
    pass_ = base.Pass(train, jnp.ones((1,)), series.steps_of(inputs))
    places = {place.block: p for p, place in enumerate(self.places())}
    x, apart = self.backbone.stem(inputs, pass_), []
    own: list[Any] = [None] * self.tasks
    for block in range(self.units):
      before, x, first = x, *self._block(block, x, pass_)
      if block not in places:
        continue
      p = places[block]
      # The stream of a segment before its last block; of a block its first layer.
      inside = self.stages and block and block - 1 not in places
      early = before if inside else first
      masked = [self.masks[t, p](early, own[t], x, pass_) for t in range(self.tasks)]
      masks = jnp.concatenate([mask for _, mask in masked]).astype(jnp.float32)
      parted = jnp.abs(masks - masks.mean(0, keepdims=True))
      apart.append(parted.mean(tuple(range(1, parted.ndim))))
      own = self._extracted(p, [a for a, _ in masked], pass_)
    features = [self.backbone.final(a)[0] for a in own]
    executed = jnp.ones((self.tasks, features[0].shape[0], self.units))
    return features, contract.Signals(executed, own=jnp.stack(apart, -1))

  def _block(self, block: int, x: Any, pass_: base.Pass) -> tuple[Any, Any]:
    """The output of a block, and of its first layer that is as large."""
    kept = {}

    def tap(name: str, z: Any) -> Any:
      kept[name] = z
      return z

    z = self.backbone.branch(block, x, pass_._replace(tap=tap))
    done = self.backbone.merge(self.backbone.shortcut(block, x, pass_), z)
    layers = self.backbone.layers(block)
    return done, kept[next(of.name for of in layers if of.stride == layers[-1].stride)]

  def _extracted(self, p: int, own: list[jax.Array], pass_: base.Pass) -> list[jax.Array]:
    """What every task's next place, or its head, reads."""
    if not self.stages:
      return [self.extracts[t, p](a, pass_) for t, a in enumerate(own)]
    if p == len(self.between):
      return own
    shares = jnp.full((self.tasks,), 1 / self.tasks)
    done = self.between[p](jnp.concatenate(own), pass_._replace(updates=shares))
    return list(jax.lax.split(done, [1] * self.tasks))


def pooled(x: jax.Array, size: int, causal: bool) -> jax.Array:
  """Returns the largest of every `size` positions of `[G, B, ..., C]`, along each axis.

  As many come out as of a layer with that stride, so that n positions become n / size, rounded up;
  where time is causal the last of them is the one at which the stride stops.
  """
  if size == 1 or x.ndim == 3:
    return x
  front, pads = size - 1 if causal else 0, []
  for axis in range(2, x.ndim - 1):
    out = -(-x.shape[axis] // size)
    x = jax.lax.slice_in_dim(x, 0, min(x.shape[axis], out * size - front), axis=axis)
    pads.append((front, out * size - front - x.shape[axis]))
  window = (size,) * len(pads)
  return base.each_group(lambda a: nn.max_pool(a, window, window, pads), x)
