"""Backbones as experts, which a gate of every task mixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import operator
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import series
from dynashare_jax.models.backbones import base
from dynashare_jax.models.trunks import contract


class ExpertTrunk(contract.Trunk):
  """Mixes experts, each a whole backbone, by a softmax over those that a task reads.

  With several levels a mixture follows every level's blocks, and experts read streams: one of each
  task, and the shared one, which mixes all experts and does not exist after the last level.

  At the first level a gate reads the mean of the stems' features of the experts that it mixes, at
  a later one its stream. Both are means over all positions, so that pictures may have any size; of
  series with padding over the steps up to each, so that every step has its own mixture and none
  depends on a later one. A closed link has no weight at all, as with -inf within the softmax; where
  one expert is read there is no gate. Gates begin with a uniform mixture, and gates and mixtures
  are computed in float32.

  Attributes:
    experts: backbones of one kind.
    reads: of every task, the experts that its gate mixes.
    levels: how many blocks every level has.
    streams: of every expert, the stream that it reads after the first level: a task's place, or the
      number of tasks for the shared one. Unused with one level.

  Source: Ma et al. 2018; Tang et al. 2020.
  Differs: experts are backbones; gates read pooled features, not the input.
  """

  experts: tuple[Any, ...]
  reads: tuple[tuple[int, ...], ...]
  levels: tuple[int, ...]
  streams: tuple[int, ...] = ()

  @property
  def units(self) -> int:
    """Blocks of one expert."""
    return sum(self.levels)

  @nn.nowrap
  def mixed(self, level: int) -> tuple[tuple[int, ...], ...]:
    """Returns the experts of every stream after a level: of the tasks, and of the shared one."""
    shared = level + 1 < len(self.levels) and len(self.reads) in self.streams
    return (*self.reads, tuple(range(len(self.experts)))) if shared else self.reads

  @nn.nowrap
  def leaves(self) -> Mapping[str, contract.Leaf]:
    """Returns the rules of experts and gates; a task owns what it alone reads."""
    single, rules = len(self.levels) == 1, {}
    for expert in range(len(self.experts)):
      readers = [t for t, experts in enumerate(self.reads) if expert in experts]
      owner = readers[0] if single and len(readers) == 1 else None
      rules[f"experts_{expert}"] = contract.Leaf("backbone", owner)
    for level in range(len(self.levels)):
      last = level + 1 == len(self.levels)
      for stream, experts in enumerate(self.mixed(level)):
        if len(experts) > 1:
          rules[f"mixture_{level}_{stream}"] = contract.Leaf("fusion", stream if last else None)
    return rules

  @nn.nowrap
  def only(self, tasks: Sequence[int]) -> tuple[contract.Trunk, Mapping[str, str]] | None:
    """Returns the gates of some tasks and their experts; with several levels all are needed."""
    if len(self.levels) > 1:
      return None
    kept = sorted({expert for t in tasks for expert in self.reads[t]})
    names = {f"experts_{expert}": f"experts_{place}" for place, expert in enumerate(kept)}
    names |= {f"mixture_0_{t}": f"mixture_0_{place}" for place, t in enumerate(tasks)}
    reads = tuple(tuple(map(kept.index, self.reads[t])) for t in tasks)
    return ExpertTrunk(tuple(self.experts[e] for e in kept), reads, self.levels), names

  @nn.compact
  def __call__(
    self, inputs: Any, control: Any, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs all experts level by level.

    `Signals.own` has the mean mixture of every level, float32 `[streams, experts]`.
    """
    del control
    pass_ = base.Pass(train, jnp.ones((1,)), series.steps_of(inputs))
    x = [expert.stem(inputs, pass_) for expert in self.experts]
    stems = [_pooled(a, pass_.steps) for a in x]
    told = [jnp.stack([stems[e] for e in experts]).mean(0) for experts in self.mixed(0)]
    first, mixtures = 0, []
    for level, blocks in enumerate(self.levels):
      for block in range(first, first + blocks):
        run = lambda c, a, b=block: c.merge(c.shortcut(b, a, pass_), c.branch(b, a, pass_))
        x = [run(expert, a) for expert, a in zip(self.experts, x, strict=True)]
      first += blocks
      if level + 1 == len(self.levels):
        x = [expert.final(a) for expert, a in zip(self.experts, x, strict=True)]
      found, means = [], []
      for stream, experts in enumerate(self.mixed(level)):
        weights = self._weights(f"mixture_{level}_{stream}", len(experts), told[stream])
        found.append(_mixture(weights, [x[e] for e in experts], pass_.steps))
        mean = jnp.zeros((len(x),)).at[jnp.asarray(experts)].set(_mean(weights, pass_.steps))
        means.append(mean)
      mixtures.append(jnp.stack(means))
      if level + 1 < len(self.levels):
        x, told = [found[s] for s in self.streams], [_pooled(a, pass_.steps) for a in found]
    features = [jax.tree.map(operator.itemgetter(0), a) for a in found]
    batch = jax.tree.leaves(features)[0].shape[0]
    executed = jnp.ones((len(features), batch, self.units))
    return features, contract.Signals(executed, own=tuple(mixtures))

  def _weights(self, name: str, count: int, read: jax.Array) -> jax.Array:
    """The mixture `[B, experts]`, or `[B, time, experts]`, from what a gate reads."""
    if count == 1:
      return jnp.ones((*read.shape[:-1], 1))
    zeros = nn.initializers.zeros
    return nn.softmax(nn.Dense(count, dtype=jnp.float32, kernel_init=zeros, name=name)(read))


def _pooled(x: base.Features, steps: series.Steps | None) -> jax.Array:
  """Means over positions, float32 `[B, C]`; of series with padding `[B, time, C]` up to each."""
  if steps is not None:
    found = [series.running_mean(a)[0] for a in jax.tree.leaves(x)]
  else:
    flat = [a[0].reshape(a.shape[1], -1, a.shape[-1]) for a in jax.tree.leaves(x)]
    found = [a.astype(jnp.float32).mean(1) for a in flat]
  return jnp.concatenate(found, -1)


def _mixture(
  weights: jax.Array, x: Sequence[base.Features], steps: series.Steps | None
) -> base.Features:
  """The weighed sum of the experts' features `[1, B, ..., C]`."""

  def mix(*arrays: jax.Array) -> jax.Array:
    own = weights
    if steps is not None:  # A later feature step stands for more steps.
      size = arrays[0].shape[2]
      own = weights[:, :: steps.stride(size) // steps.stride(weights.shape[1])]
    shape = (1, *own.shape[:-1]) + (1,) * (arrays[0].ndim - own.ndim)
    parts = [own[..., e].reshape(shape) * a.astype(jnp.float32) for e, a in enumerate(arrays)]
    return sum(parts[1:], parts[0]).astype(arrays[0].dtype)

  return jax.tree.map(mix, *x)


def _mean(weights: jax.Array, steps: series.Steps | None) -> jax.Array:
  """The mean mixture `[experts]` over all examples, and over the steps that count."""
  if steps is None:
    return weights.mean(0)
  mask = steps.mask(weights.shape[1])[..., None]
  return jnp.where(mask, weights, 0).sum((0, 1)) / jnp.maximum(mask.sum(), 1)
