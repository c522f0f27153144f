"""One backbone whose blocks run at nested widths, which a selector chooses for every example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import series
from dynashare_jax.models.backbones import base
from dynashare_jax.models.trunks import contract
from dynashare_jax.ops import widths


class Levels(NamedTuple):
  """What decides about widths, in one forward pass.

  Attributes:
    given: `[B, L]`, levels for all tasks; None where the selector chooses, or all are full.
    chosen: whether the selector chooses, for every task apart.
    noise: Gumbel noise `[T, B, L, levels]` that makes choices samples; None takes the likeliest.
  """

  given: jax.Array | None = None
  chosen: bool = False
  noise: jax.Array | None = None


class Selector(nn.Module):
  """Reads the raw input once and scores every level of every block, for every task.

  Attributes:
    backbone: a small one, without running averages; its features' mean is read.
    tasks: T.
    blocks: L, of the network whose widths are chosen.
  """

  backbone: Any
  tasks: int
  blocks: int

  @nn.compact
  def __call__(self, inputs: Any) -> jax.Array:
    """Returns logits `[T, B, L, levels]`, float32."""
    pass_ = base.Pass(False, jnp.ones((1,)), series.steps_of(inputs))
    x = self.backbone.final(self.backbone.features(inputs, pass_)[-1])
    flat = [a[0].reshape(a.shape[1], -1, a.shape[-1]) for a in jax.tree.leaves(x)]
    means = jnp.concatenate([a.astype(jnp.float32).mean(1) for a in flat], -1)
    logits = nn.Dense(self.tasks * self.blocks * widths.LEVELS, name="levels")(means)
    return logits.reshape(-1, self.tasks, self.blocks, widths.LEVELS).swapaxes(0, 1)


class ElasticTrunk(contract.Trunk):
  """One backbone; levels say how many channels of each block's first layer are used.

  Its other channels are 0 in what the next layer reads; a block at level 0 still adds what its
  other layers make of zeros. `Signals.executed` are the fractions that are used, and `Signals.own`
  the log probabilities `[T, B]` of the selector's choices, where it chooses.

  Attributes:
    backbone: the network whose blocks are elastic.
    selector: a `Selector`.
    rows: the tasks among the selector's, in order.

  Source: Ahn et al. 2019; the place of the masks as in AdaShare's code.
  Differs: masks come after the ReLU, which is the same for zeros; tasks ride in one batch with
    common batch statistics. With its own each task is normalised in training by what its widths
    leave, at test by the mean over tasks, of widths that can be far apart.
  """

  backbone: Any
  selector: Any
  rows: tuple[int, ...]

  @property
  def units(self) -> int:
    """Blocks."""
    return int(self.backbone.num_blocks)

  @nn.nowrap
  def leaves(self) -> Mapping[str, contract.Leaf]:
    """Returns the rules: tasks share the backbone and the selector."""
    return {name: contract.Leaf(name) for name in ("backbone", "selector")}

  @nn.nowrap
  def only(self, tasks: Sequence[int]) -> tuple[contract.Trunk, Mapping[str, str]]:
    """Returns the same trunk with fewer tasks."""
    rows = tuple(self.rows[task] for task in tasks)
    return self.clone(rows=rows), {name: name for name in self.leaves()}

  @nn.nowrap
  def common(self, control: Levels) -> bool:
    """Returns whether no task has levels of its own."""
    return not control.chosen

  @nn.nowrap
  def shown(self) -> Any:
    """Returns the backbone."""
    return self.backbone

  def __call__(
    self, inputs: Any, control: Levels, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs all blocks: once for all tasks or, where the selector chooses, once a task."""
    pass_ = base.Pass(train, jnp.ones((1,)))
    x = self.backbone.stem(inputs, pass_)
    tasks, batch, count = len(self.rows), jax.tree.leaves(x)[0].shape[1], 1
    levels, logs = None if control.given is None else control.given[None], None
    if control.chosen:
      levels, logs = _choice(self.selector(inputs)[jnp.asarray(self.rows)], control.noise)
      x, count = jax.tree.map(lambda a: jnp.repeat(a, tasks, 1), x), tasks
    for block in range(self.units):
      if levels is not None:
        first = self.backbone.layers(block)[0].name
        own = levels[:, :, block].T.reshape(1, -1)
        pass_ = pass_._replace(tap=_narrowed(first, own))
      residual = self.backbone.shortcut(block, x, pass_)
      x = self.backbone.merge(residual, self.backbone.branch(block, x, pass_))
    apart = lambda a: jnp.moveaxis(a[0].reshape(batch, count, *a.shape[2:]), 1, 0)
    groups = base.of_groups(jax.tree.map(apart, self.backbone.final(x)))
    executed = jnp.ones((1, batch, self.units)) if levels is None else widths.used(levels)
    executed = jnp.broadcast_to(executed, (tasks, batch, self.units))
    features = groups if count == tasks else groups * tasks
    return features, contract.Signals(executed, own=() if logs is None else logs)


def _choice(logits: jax.Array, noise: jax.Array | None) -> tuple[jax.Array, jax.Array]:
  """Levels `[T, B, L]` and their log probabilities `[T, B]`."""
  levels = jnp.argmax(logits if noise is None else logits + noise, -1)
  every = jax.nn.log_softmax(logits)
  of = jnp.where(levels[..., None] == jnp.arange(widths.LEVELS)[None, None, None], every, 0.0)
  return levels, of.sum((-1, -2))


def _narrowed(first: str, levels: jax.Array) -> Callable[[str, base.Features], base.Features]:
  """What makes zeros of the channels that levels `[G, B]` leave out of a block's first layer."""

  def narrowed(x: jax.Array) -> jax.Array:
    kept = widths.kept(levels, x.shape[-1])
    return jnp.where(kept.reshape(*kept.shape[:2], *[1] * (x.ndim - 3), -1), x, jnp.zeros_like(x))

  return lambda name, x: jax.tree.map(narrowed, x) if name == first else x
