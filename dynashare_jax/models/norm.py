"""Normalisation over `[G, B, ..., C]` features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
import numpy as np

from dynashare_jax import lookup

Dtype = DTypeLike
BATCH = ("common", "batch")  # statistics of all groups together, or of each
NORMS = (*BATCH, "group", "task")
TASKS = "tasks"  # in the path of leaves that hold every task's, along their first axis
MOMENTUM = 0.9  # what one update keeps of a running average
_EPSILON = 1e-5  # added to variances
_FOLDED = "folded"  # all that is left of a norm in inference, see `fold`


def layer(kind: str, dtype: Dtype, name: str) -> nn.Module:
  """Makes a layer that is called with `(x, updates, use_running, mask)`.

  Its `kind` is `common` or `batch` (`GroupedBatchNorm`), `group` (`ExampleNorm`) or `task`
  (`TaskNorm`).
  """
  lookup.one_of("config.model.norm", kind, NORMS)
  if kind in BATCH:
    return GroupedBatchNorm(common=kind == "common", dtype=dtype, name=name)
  return (ExampleNorm if kind == "group" else TaskNorm)(dtype=dtype, name=name)


class ExampleNorm(nn.Module):
  """Group norm: every example by itself, so that small batches are no worse.

  Attributes:
    channel_groups: groups of channels; fewer where they do not divide C.
    epsilon: added to the variance.
    dtype: of the output.

  Source: Wu and He 2018.
  """

  channel_groups: int = 32
  epsilon: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, updates: jax.Array, use_running: bool, mask: jax.Array | None = None
  ) -> jax.Array:
    """Normalises `[G, B, ..., C]`; there are no running statistics.

    With a mask (of a causal network) every step is normalised by itself, over
    all its channels: a group of channels would be too few numbers.
    """
    del updates, use_running
    groups, first = math.gcd(self.channel_groups, x.shape[-1]), 2
    if mask is not None:
      groups, first = 1, x.ndim - 1
    axes = tuple(range(first, x.ndim))
    norm = nn.GroupNorm(
      groups, epsilon=self.epsilon, dtype=self.dtype, reduction_axes=axes, name="groups"
    )
    return norm(x)


class GroupedBatchNorm(nn.Module):
  """Batch norm of groups with shared parameters, by common statistics or by each group's own.

  With `common` statistics all groups are normalised by those of all their values together.
  Otherwise a group's features are normalised by its own batch statistics, as if the groups were
  passed through the network one after the other, though at test all are normalised by the one
  running average, which is no group's own where groups differ, as those of tasks with other routes
  do.

  Attributes:
    momentum: what one update keeps of the running average.
    epsilon: added to the variance.
    dtype: of the output.
    common: whether the groups' statistics are put together, each with the weight of its updates.

  Source: He et al. 2016 as used by AdaShare's authors (torch momentum 0.1).
  Differs: the running average moves once, towards the groups' mean, and keeps momentum^n for n
    updates, instead of n times in task order, so that the order of the tasks does not matter.
  """

  momentum: float = MOMENTUM
  epsilon: float = _EPSILON
  dtype: Dtype = jnp.float32
  common: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, updates: jax.Array, use_running: bool, mask: jax.Array | None = None
  ) -> jax.Array:
    """Normalises by the batch, or by the running average.

    Args:
      x: `[G, B, ..., C]`.
      updates: `[G]`, how many updates of the running average each group stands
        for, fractions too; 0 leaves a group out.
      use_running: normalise by the running average (at test).
      mask: bool `[B, ...]` without C, False for what does not count in the
        statistics; None counts all.
    """
    channels = x.shape[-1]
    shape = (1,) * (x.ndim - 1) + (channels,)
    if self.has_variable("params", _FOLDED):
      return (x + self.get_variable("params", _FOLDED).reshape(shape)).astype(self.dtype)
    scale = self.param("scale", nn.initializers.ones, (channels,))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    mean_r = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
    var_r = self.variable("batch_stats", "var", jnp.ones, (channels,))
    if use_running:
      factor = scale * jax.lax.rsqrt(var_r.value + self.epsilon)
      offset = bias - mean_r.value * factor
      return (x * factor.reshape(shape) + offset.reshape(shape)).astype(self.dtype)
    wide = x.astype(jnp.float32)
    mean, var, count = _statistics(wide, mask)
    if self.common and len(mean) > 1:
      mean, var = _joined(mean, var, updates)
    if not self.is_initializing():
      self._update(mean, var, updates, count)
    factor = jax.lax.rsqrt(var + self.epsilon) * scale[None]
    offset = bias[None] - mean * factor
    grouped = (x.shape[0],) + (1,) * (x.ndim - 2) + (channels,)
    return (wide * factor.reshape(grouped) + offset.reshape(grouped)).astype(self.dtype)

  def _update(
    self, mean: jax.Array, var: jax.Array, updates: jax.Array, count: jax.Array | int
  ) -> None:
    """Moves the running average by the groups' mean statistics."""
    if not self.is_mutable_collection("batch_stats"):
      return
    mean, var, updates = jax.lax.stop_gradient((mean, var, updates))
    total = updates.sum()
    share = (updates / jnp.maximum(total, 1e-9))[:, None]
    keep = jnp.power(self.momentum, total)
    unbiased = var * (count / jnp.maximum(count - 1, 1))
    for name, found in (("mean", mean), ("var", unbiased)):
      old: jax.Array = self.get_variable("batch_stats", name)
      self.put_variable("batch_stats", name, keep * old + (1 - keep) * (share * found).sum(0))


class TaskNorm(nn.Module):
  """A `GroupedBatchNorm` of its own for every task; groups are the tasks.

  Attributes:
    dtype: of the output.
  """

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, updates: jax.Array, use_running: bool, mask: jax.Array | None = None
  ) -> jax.Array:
    """Normalises by the batch, or by the running averages; parameters are `[T, C]`.

    Args:
      x: `[T, B, ..., C]`; of one group, which all tasks share, as many come out.
      updates: `[T]`, how many updates of its running averages each task makes.
      use_running: normalise by the running averages (at test).
      mask: bool `[T, B]`, False for rows that do not count in a task's statistics. A task without
        any keeps its running averages, and is normalised by all rows.
    """
    x = jnp.broadcast_to(x, (len(updates), *x.shape[1:]))
    if mask is not None:
      some = mask.any(1, keepdims=True)
      updates = updates * some[:, 0]
      mask = (mask | ~some).reshape(*mask.shape, *[1] * (x.ndim - 3))
      mask = jnp.broadcast_to(mask, x.shape[:-1])

    def one(own: nn.Module, x: jax.Array, updates: jax.Array, mask: Any) -> jax.Array:
      found: jax.Array = own(x[None], updates[None], use_running, mask)
      return found[0]

    axes: Any = {"params": 0, "batch_stats": 0}
    each = nn.vmap(one, variable_axes=axes, split_rngs={"params": False})
    found: jax.Array = each(GroupedBatchNorm(dtype=self.dtype, name=TASKS), x, updates, mask)
    return found


def together(old: Any, alone: Sequence[Any]) -> Any:
  """Returns running averages after one pass of several tasks, from those after a pass of each.

  Args:
    old: running averages before.
    alone: after a pass of each task alone, from `old`; a task that does not execute a layer leaves
      its averages as they are.

  Returns:
    What `GroupedBatchNorm` makes of all tasks at once, but for rounding.
  """

  def leaf(before: jax.Array, *after: jax.Array) -> jax.Array:
    moves = [found - before for found in after]
    count = sum(jnp.any(move != 0).astype(jnp.float32) for move in moves)
    share = (1 - MOMENTUM ** (count / len(after))) / (1 - MOMENTUM) / jnp.maximum(count, 1)
    return before + share * sum(moves)

  return jax.tree.map(leaf, old, *alone)


def fold(
  params: Mapping[str, Any], stats: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns a network's parameters and statistics with batch norms in the weights before them.

  Evaluation with them gives the same but for rounding; training is not possible any more. A norm is
  folded where its name says which convolution or dense layer it reads: `norm_1` of `conv_1`,
  `stem_norm` of `stem_conv`, `mean_norm` of `mean`. Others stay as they are.
  """
  trees = jax.device_get((params, stats))
  flat, kept = (traverse_util.flatten_dict(tree, sep="/") for tree in trees)
  for name in [path.removesuffix("/var") for path in kept if path.endswith("/var")]:
    where, slash, last = name.rpartition("/")
    names = last.replace("norm", "conv"), last.removesuffix("_norm")
    layers = (where + slash + n for n in names)
    layer = next((n for n in layers if f"{n}/kernel" in flat), None)
    if layer is None:
      continue
    mean, var = kept.pop(f"{name}/mean"), kept.pop(f"{name}/var")
    factor = flat.pop(f"{name}/scale") / np.sqrt(var + _EPSILON)
    flat[f"{name}/{_FOLDED}"] = flat.pop(f"{name}/bias") - mean * factor
    for leaf in {f"{layer}/kernel", f"{layer}/bias"} & flat.keys():
      flat[leaf] = flat[leaf] * factor
  return traverse_util.unflatten_dict(flat, sep="/"), traverse_util.unflatten_dict(kept, sep="/")


def _joined(mean: jax.Array, var: jax.Array, updates: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Statistics `[G, C]` of all groups' values together; all count alike where none has updates."""
  total = updates.sum()
  share = jnp.where(total > 0, updates / jnp.maximum(total, 1e-9), 1 / len(updates))[:, None]
  centre = (share * mean).sum(0, keepdims=True)
  wide = (share * (var + jnp.square(mean - centre))).sum(0, keepdims=True)
  return jnp.broadcast_to(centre, mean.shape), jnp.broadcast_to(wide, var.shape)


def _statistics(
  x: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | int]:
  """Mean and variance `[G, C]` of every group, and how many values each has."""
  axes = tuple(range(1, x.ndim - 1))
  if mask is None:
    mean = x.mean(axes)
    count: jax.Array | int = x.size // (x.shape[0] * x.shape[-1])
    # Examples alone differ little, beside their mean: a gate's input.
    if len(axes) == 1:
      return mean, jnp.square(x - mean[:, None]).mean(axes), count
    return mean, jnp.maximum((x * x).mean(axes) - mean * mean, 0.0), count
  counts = mask[None, ..., None]
  count = jnp.maximum(mask.sum(), 1)
  mean = jnp.where(counts, x, 0).sum(axes) / count
  centre = mean.reshape(mean.shape[:1] + (1,) * len(axes) + mean.shape[1:])
  var = jnp.where(counts, jnp.square(x - centre), 0).sum(axes) / count
  return mean, var, count
