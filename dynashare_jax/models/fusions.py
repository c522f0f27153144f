"""Fusions of columns: what every column of a fused network reads of all of them at a place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import norm
from dynashare_jax.models.backbones import base


class Stitch(nn.Module):
  """Gives every column a learnt linear combination of all columns' features.

  With several subspaces the channels of a column are parted into as many contiguous parts, and
  parts are combined instead of whole columns. Computed in float32.

  Attributes:
    subspaces: parts of a column's channels: 1 (cross-stitch) or more (sluice).
    channels: whether every channel has weights of its own.
    own: initial weight of a part itself; the others share the rest, so that rows sum to 1.

  Source: Misra et al. 2016, Eq. 1; Ruder et al. 2019, Eq. 2.
  Differs: the released code of sluice networks mixes strided units of all tasks, and starts with
    rows that do not sum to 1.
  """

  subspaces: int = 1
  channels: bool = False
  own: float = 0.9

  @nn.compact
  def __call__(self, x: Sequence[jax.Array], pass_: base.Pass) -> list[jax.Array]:
    """Combines the features `[1, B, ..., C]` of every column."""
    del pass_
    parts = [p for a in x for p in jnp.split(a.astype(jnp.float32), self.subspaces, -1)]
    width = (parts[0].shape[-1],) if self.channels else ()
    alpha = self.param("alpha", self._start, len(parts), width)
    shape = (1,) * (parts[0].ndim - 1) + (-1,)
    row = lambda i: sum(alpha[i, j].reshape(shape) * part for j, part in enumerate(parts))
    mixed = [row(i) for i in range(len(parts))]
    return [
      jnp.concatenate(mixed[k * self.subspaces : (k + 1) * self.subspaces], -1).astype(a.dtype)
      for k, a in enumerate(x)
    ]

  def _start(self, key: jax.Array, count: int, width: tuple[int, ...]) -> jax.Array:
    """`own` on the diagonal, the rest of 1 evenly beside it."""
    del key
    alpha = start(count, self.own)
    return jnp.broadcast_to(alpha.reshape(alpha.shape + (1,) * len(width)), (*alpha.shape, *width))


class Reduction(nn.Module):
  """Joins all columns' channels and reduces them for every column by a layer and a norm of its own.

  Attributes:
    own: initial weight of a column's own channel; the others share the rest of 1.
    rectified: whether a ReLU follows and the norm is the network's; else a layer norm alone, for
      features of both signs.
    norm_kind: see `models.norm.layer`.
    dtype: compute type.

  Source: Gao et al. 2019, section 3 (NDDR layer).
  """

  own: float = 0.9
  rectified: bool = True
  norm_kind: str = "batch"
  dtype: norm.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Sequence[jax.Array], pass_: base.Pass) -> list[jax.Array]:
    """Reduces the features `[1, B, ..., C]` of every column."""
    count, width = len(x), x[0].shape[-1]
    # [in, C, out, C]: the channel itself, of all columns.
    kernel = self.param("kernel", self._start, count, width)
    matrix = kernel.reshape(count * width, count * width).astype(self.dtype)
    joined = jnp.concatenate([a.astype(self.dtype) for a in x], -1) @ matrix
    kind = self.norm_kind if self.rectified else ""
    reduced = [
      normed(kind, self.dtype, f"norm_{k}", z, pass_)
      for k, z in enumerate(jnp.split(joined, count, -1))
    ]
    return [nn.relu(z) for z in reduced] if self.rectified else reduced

  def _start(self, key: jax.Array, count: int, width: int) -> jax.Array:
    """Of every column the same channel, `own` of its own column's."""
    del key
    among = start(count, self.own)
    return among[:, None, :, None] * jnp.eye(width)[None, :, None, :]


class LayerMix(nn.Module):
  """Gives every column's head a learnt combination of the column's features at several places.

  Source: Ruder et al. 2019, Eq. 3 (the weights beta).
  Differs: starts with the last place alone.
  """

  @nn.compact
  def __call__(self, x: Sequence[Sequence[Any]]) -> list[jax.Array]:
    """Combines features of one shape, `x[place][column]`."""
    count, places = len(x[0]), len(x)
    last = lambda key: jnp.tile(jnp.eye(places)[-1:], (count, 1))
    beta = self.param("beta", last)
    mixed = [sum(beta[k, i] * x[i][k] for i in range(places)) for k in range(count)]
    return [m.astype(a.dtype) for m, a in zip(mixed, x[-1], strict=True)]


def normed(kind: str, dtype: norm.Dtype, name: str, x: jax.Array, pass_: base.Pass) -> jax.Array:
  """Normalises the output `[G, B, ..., C]` of a layer beside a backbone, within a compact module.

  Args:
    kind: see `models.norm.layer`; empty: a layer norm, for features of both signs.
  """
  if not kind:
    return nn.LayerNorm(dtype=dtype, name=name)(x)
  return pass_.normalise(norm.layer(kind, dtype, name), x)


def start(count: int, own: float) -> jax.Array:
  """Returns a matrix `[count, count]` of rows that sum to 1, with `own` on the diagonal."""
  if count == 1:
    return jnp.ones((1, 1))
  rest = (1 - own) / (count - 1)
  return rest + (own - rest) * jnp.eye(count)


def overlap(kernel: jax.Array) -> jax.Array:
  """Returns how far two halves of a layer's outputs read the same: the squared norm of G1' G2.

  Args:
    kernel: `[..., C]`; the halves G1 and G2 are those of its last axis.

  Source: Ruder et al. 2019, Eq. 4.
  Differs: the released code takes every other unit for a half, and the product of the outputs,
    which is 1 for units that are orthogonal.
  """
  first, second = jnp.split(kernel.reshape(-1, kernel.shape[-1]), 2, -1)
  return jnp.square(first.T @ second).sum()
