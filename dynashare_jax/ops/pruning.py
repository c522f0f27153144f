"""Which weights several tasks keep together, from how much each of them asks for each weight."""

from __future__ import annotations

from collections.abc import Sequence
import math

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Integer
import numpy as np

from dynashare_jax.types import Array

RULES = ("union", "intersection", "majority")


def ranks(scores: Float[Array, "T n"]) -> Integer[jax.Array, "T n"]:
  """Returns each weight's place by its score for a task, 0 the highest.

  Of equal scores the first comes first, so that no two weights have the same place.
  """
  return _ranked(-jnp.asarray(scores))


def _ranked(values: jax.Array) -> jax.Array:
  """The place of each number in its row `[T, n]`, 0 the lowest."""
  tasks, count = values.shape
  order = jnp.argsort(values, axis=1, stable=True).astype(jnp.int32)
  numbers = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (tasks, count))
  return jnp.zeros_like(order).at[jnp.arange(tasks)[:, None], order].set(numbers)


def places(
  ranks: Integer[Array, "T n"], present: Bool[Array, " T"], rule: str
) -> Integer[jax.Array, " n"]:
  """Returns where tasks keep each weight together: when each keeps more weights than this number.

  It is the rank that the last task which the weight needs gives it.

  Args:
    ranks: see `ranks`.
    present: which tasks take part.
    rule: `union` keeps what any task keeps, `intersection` what all do, `majority` what more than
      half of them do.
  """
  tasks, count = ranks.shape
  inside = jnp.where(jnp.asarray(present)[:, None], ranks, count).astype(jnp.int32)
  there = jnp.asarray(present).sum(dtype=jnp.int32)
  needed = {"union": jnp.ones_like(there), "intersection": there, "majority": there // 2 + 1}[rule]
  return jnp.sort(inside, axis=0)[jnp.clip(needed - 1, 0, tasks - 1)]


def lowest(places: Integer[Array, " n"], wanted: int | Integer[Array, ""]) -> Bool[jax.Array, " n"]:
  """Returns the `wanted` weights with the lowest places, exactly; of equal ones the first."""
  return _ranked(jnp.asarray(places)[None])[0] < wanted


def count_for(
  places: Integer[Array, " n"], wanted: int | Integer[Array, ""]
) -> Integer[jax.Array, ""]:
  """Returns how many weights each task must keep so that together they keep `wanted`, 1 .. n.

  It is the least such number; what is kept together exceeds `wanted` by less than the number of
  tasks.
  """
  return jnp.sort(places)[wanted - 1] + 1


def regrown(
  keep: Bool[Array, " n"],
  weights: Float[Array, " n"],
  magnitudes: Float[Array, "T n"],
  present: Bool[Array, " T"],
  rule: str,
  count: int | Integer[Array, ""],
) -> tuple[Bool[jax.Array, " n"], Bool[jax.Array, "T n"]]:
  """Replaces the `count` smallest weights that are kept by those that the tasks ask for most.

  What has just been dropped can be asked for, too.

  Args:
    keep: what was kept.
    weights: their values.
    magnitudes: of each task's gradients in all weights.
    present: which tasks take part; none replaces nothing.
    rule: see `places`.
    count: at most as many as are kept.

  Returns:
    What is kept now, as many as before, and what each task asked for.

  Source: Sun et al. 2022 (dynamic training); Evci et al. 2020 (RigL). Differs: exactly as many
    weights come back as are dropped, whichever tasks ask for them.
  """
  present = jnp.asarray(present)
  count = jnp.where(present.any(), jnp.asarray(count, jnp.int32), 0)
  largest = ranks(jnp.where(keep, jnp.abs(weights), -1.0)[None])[0]
  stay = largest < jnp.asarray(keep).sum(dtype=jnp.int32) - count
  wants = ranks(jnp.where(stay[None], -1.0, magnitudes))
  found = places(wants, present, rule)
  each = jnp.where(count > 0, count_for(found, jnp.maximum(count, 1)), 0)
  return stay | lowest(found, count), (wants < each) & present[:, None]


def layer_counts(
  shapes: Sequence[tuple[int, ...]], wanted: int, power: float = 0.9
) -> tuple[int, ...]:
  """Returns how many of `wanted` weights each layer keeps: narrow layers a larger share.

  A layer's share is in proportion to (sum / product of its axes)^power, at most 1.

  Source: Evci et al. 2020 (Erdos-Renyi kernels); the power of Sun et al. 2022's code.
  """
  sizes = np.array([math.prod(shape) for shape in shapes])
  raw = np.array([(sum(shape) / math.prod(shape)) ** power for shape in shapes])
  shares, whole = np.ones(len(sizes)), np.zeros(len(sizes), bool)
  while not whole.all():
    scale = (wanted - sizes[whole].sum()) / (raw * sizes)[~whole].sum()
    shares = np.where(whole, 1.0, scale * raw)
    if (shares <= 1 + 1e-9).all():
      break
    whole |= shares >= shares[~whole].max()
  exact = np.minimum(shares, 1) * sizes
  counts = np.floor(exact + 1e-9).astype(int)
  for layer in np.argsort(counts - exact, kind="stable")[: wanted - counts.sum()]:
    counts[layer] += 1
  return tuple(counts.tolist())


def overlap(kept: Bool[Array, "T n"]) -> Float[jax.Array, "T T"]:
  """Returns how alike two tasks' choices are: what both keep over what either keeps; 0 of none."""
  rows = list(jnp.asarray(kept))
  count = lambda mask: mask.sum(dtype=jnp.int32).astype(jnp.float32)
  alike = [[count(a & b) / jnp.maximum(count(a | b), 1.0) for b in rows] for a in rows]
  return jnp.asarray(alike)
