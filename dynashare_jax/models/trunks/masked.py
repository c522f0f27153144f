"""One backbone that all tasks execute; in training, masks of each task multiply its channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import series
from dynashare_jax.models.backbones import base
from dynashare_jax.models.trunks import contract
from dynashare_jax.models.trunks import skip

# Where masks go, and what `base.Pass.inner` calls it.
PLACES = {"norm": "norm", "conv": "weights"}


class Masks(NamedTuple):
  """What multiplies channels in one training pass.

  Attributes:
    of: name of each masked layer -> `[T, C]`.
    epoch: int32, of the masks' targets; for the `Sharing`.
  """

  of: Mapping[str, jax.Array]
  epoch: jax.Array


class MaskedTrunk(skip.SkipTrunk):
  """A `SkipTrunk` of which every task executes all; masks may multiply channels of its last blocks.

  Told `Masks`, tasks share one computation up to the first masked layer; from there on each has its
  own, in one batched call. Told `Decisions`, it is a `SkipTrunk`.

  Attributes:
    first: the first block that has masks, in all of its layers.
    place: `norm` puts masks behind each layer's norm, before the activation or the addition;
      `conv` before the norm.

  Source: Shi et al. 2023. Differs: their hooks are those of `conv`, where a norm by batch
    statistics takes a mask out again (all but its sign), and makes its bias of zeros.
  """

  first: int = 0
  place: str = "norm"

  @nn.nowrap
  def common(self, control: Any) -> bool:
    """Returns whether no task has masks or ways of its own."""
    return not isinstance(control, Masks) and super().common(control)

  @nn.nowrap
  def apart(self, control: Any) -> list[Any] | None:
    """Returns the decisions of every task where that saves work; with masks it saves none."""
    return None if isinstance(control, Masks) else super().apart(control)

  def __call__(
    self, inputs: Any, control: Any, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs all blocks with masks, or what decisions say.

    Raises:
      ValueError: a layer that is to be masked does not show its channels.
    """
    if isinstance(control, Masks):
      return self._masked(inputs, control.of, train)
    if self.is_initializing():  # The way of the masks, so that what lacks channels is refused.
      return self._masked(inputs, {}, train)
    return super().__call__(inputs, control, train)

  def _masked(
    self, inputs: Any, masks: Mapping[str, jax.Array], train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """All blocks, in one group of tasks up to the first mask; no masks keep it one."""
    backbone, steps = self.backbone, series.steps_of(inputs)
    whole = lambda groups: base.Pass(train, jnp.full((groups,), 1 / groups), steps)
    x = backbone.stem(inputs, whole(1))
    batch = jax.tree.leaves(x)[0].shape[1]
    for block in range(self.units):
      pass_ = whole(jax.tree.leaves(x)[0].shape[0])
      rest = backbone.shortcut(block, x, pass_)
      if block < self.first:
        x = backbone.merge(rest, backbone.branch(block, x, pass_))
        continue
      z = x
      for index, layer in enumerate(backbone.layers(block)):
        mask = masks.get(layer.name)
        # A mask before the norm parts the groups that it normalises.
        parts = mask is not None and self.place == "conv"
        groups = self.tasks if parts else jax.tree.leaves(z)[0].shape[0]
        shown = _Shown(PLACES[self.place], layer.channels, mask)
        z = backbone.layer(block, index, z, whole(groups)._replace(inner=shown))
        if not shown.calls:
          raise ValueError(
            f"Masks multiply the {layer.channels} channels of {layer.name}, but this layer of"
            f" {type(backbone).__name__} shows none: it must call `Pass.linear` once. Choose"
            " another config.model.backbone, or a method without masks."
          )
      x = backbone.merge(rest, z)
    x = backbone.final(x)
    leaves, tree = jax.tree.flatten(x)
    split = lambda leaf: base.of_groups(leaf) * (self.tasks // len(leaf))
    features = [jax.tree.unflatten(tree, of) for of in zip(*map(split, leaves), strict=True)]
    return features, contract.Signals(jnp.ones((self.tasks, batch, self.units)))


class _Shown:
  """Multiplies channels by masks `[T, C]` where a layer shows them; counts how often."""

  def __init__(self, place: str, channels: int, mask: jax.Array | None) -> None:
    self.calls = 0
    self._told = place, channels, mask

  def __call__(self, place: str, x: jax.Array) -> jax.Array:
    wanted, channels, mask = self._told
    if place != wanted:
      return x
    if x.shape[-1] != channels:
      raise ValueError(
        f"A layer of {channels} channels shows {x.shape[-1]}: they cannot be masked."
      )
    self.calls += 1
    if mask is None:
      return x
    wide = mask.reshape(len(mask), *[1] * (x.ndim - 2), channels)
    return (x.astype(jnp.float32) * wide).astype(x.dtype)  # The masks' gradients add up in float32.
