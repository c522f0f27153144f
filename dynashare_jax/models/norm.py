"""Normalisation over `[G, B, ..., C]` features."""

from __future__ import annotations

import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Dtype = DTypeLike


NORMS = ("batch", "group")


def layer(kind: str, dtype: Dtype, name: str) -> nn.Module:
  """A normalisation layer called with `(x, updates, use_running)`.

  Args:
    kind: `batch` (`GroupedBatchNorm`) or `group` (`ExampleNorm`).
    dtype: of the output.
    name: of the layer.

  Raises:
    ValueError: an unknown kind.
  """
  if kind == "batch":
    return GroupedBatchNorm(dtype=dtype, name=name)
  if kind == "group":
    return ExampleNorm(dtype=dtype, name=name)
  raise ValueError(f"config.model.norm is {kind!r}; it must be one of {NORMS}.")


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
      self, x: jax.Array, updates: jax.Array, use_running: bool
  ) -> jax.Array:
    """Normalises `[G, B, ..., C]`; there are no running statistics."""
    del updates, use_running
    norm = nn.GroupNorm(
        num_groups=math.gcd(self.channel_groups, x.shape[-1]),
        epsilon=self.epsilon, dtype=self.dtype, name="groups",
        reduction_axes=tuple(range(2, x.ndim)))
    return norm(x)


class GroupedBatchNorm(nn.Module):
  """Batch norm with statistics of every group, and shared parameters.

  A group's features are normalised by its own batch statistics, as if the
  groups were passed through the network one after the other.

  Attributes:
    momentum: what one update keeps of the running average.
    epsilon: added to the variance.
    dtype: of the output.

  Source: He et al. 2016 as used by AdaShare's authors (torch momentum 0.1).
  Differs: the running average moves once, towards the groups' mean, and keeps
    momentum^n for n updates, instead of n times in task order, so that the
    order of the tasks does not matter.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
      self, x: jax.Array, updates: jax.Array, use_running: bool
  ) -> jax.Array:
    """Normalises.

    Args:
      x: `[G, B, ..., C]`.
      updates: `[G]`, how many updates of the running average each group stands
        for, fractions too; 0 leaves a group out.
      use_running: normalise by the running average (at test).
    """
    channels = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    mean_r = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
    var_r = self.variable("batch_stats", "var", jnp.ones, (channels,))
    shape = (1,) * (x.ndim - 1) + (channels,)
    if use_running:
      factor = scale * jax.lax.rsqrt(var_r.value + self.epsilon)
      offset = bias - mean_r.value * factor
      return (x * factor.reshape(shape) + offset.reshape(shape)).astype(
          self.dtype
      )
    wide = x.astype(jnp.float32)
    axes = tuple(range(1, x.ndim - 1))
    mean = wide.mean(axes)
    if len(axes) == 1:
      # Examples alone differ little, beside their mean: a gate's input.
      var = jnp.square(wide - mean[:, None]).mean(axes)
    else:
      var = jnp.maximum((wide * wide).mean(axes) - mean * mean, 0.0)
    if not self.is_initializing():
      self._update(mean, var, updates, x.size // (x.shape[0] * channels))
    factor = jax.lax.rsqrt(var + self.epsilon) * scale[None]
    offset = bias[None] - mean * factor
    grouped = (x.shape[0],) + (1,) * (x.ndim - 2) + (channels,)
    return (
        wide * factor.reshape(grouped) + offset.reshape(grouped)
    ).astype(self.dtype)

  def _update(
      self, mean: jax.Array, var: jax.Array, updates: jax.Array, count: int
  ) -> None:
    """Moves the running average by the groups' mean statistics."""
    if not self.is_mutable_collection("batch_stats"):
      return
    mean, var, updates = jax.lax.stop_gradient((mean, var, updates))
    total = updates.sum()
    share = (updates / jnp.maximum(total, 1e-9))[:, None]
    keep = jnp.power(self.momentum, total)
    unbiased = var * (count / max(count - 1, 1))
    old_mean: jax.Array = self.get_variable("batch_stats", "mean")
    old_var: jax.Array = self.get_variable("batch_stats", "var")
    new_mean = keep * old_mean + (1 - keep) * (share * mean).sum(0)
    new_var = keep * old_var + (1 - keep) * (share * unbiased).sum(0)
    self.put_variable("batch_stats", "mean", new_mean)
    self.put_variable("batch_stats", "var", new_var)
