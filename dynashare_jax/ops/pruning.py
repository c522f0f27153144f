"""Which weights several tasks keep together, from how much each of them asks for each weight."""

from __future__ import annotations

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Integer

from dynashare_jax.types import Array

RULES = ("union", "intersection", "majority")


def ranks(scores: Float[Array, "T n"]) -> Integer[jax.Array, "T n"]:
  """Returns each weight's place by its score for a task, 0 the highest.

  Of equal scores the first comes first, so that no two weights have the same place.
  """
  tasks, count = scores.shape
  order = jnp.argsort(-jnp.asarray(scores), axis=1, stable=True).astype(jnp.int32)
  places = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (tasks, count))
  return jnp.zeros_like(order).at[jnp.arange(tasks)[:, None], order].set(places)


def together(
  kept: Bool[Array, "T n"], present: Bool[Array, " T"], rule: str
) -> Bool[jax.Array, " n"]:
  """Returns which weights the tasks keep together.

  Args:
    kept: what each task keeps.
    present: which tasks take part.
    rule: `union` keeps what any task keeps, `intersection` what all do, `majority` what more than
      half of them do.
  """
  votes = (jnp.asarray(kept) & jnp.asarray(present)[:, None]).sum(0, dtype=jnp.int32)
  return votes >= _needed(present, rule)


def count_for(
  ranks: Integer[Array, "T n"], present: Bool[Array, " T"], rule: str, wanted: int
) -> Integer[jax.Array, ""]:
  """Returns how many weights each task must keep so that together they keep `wanted`, 1 .. n.

  It is the least such number; what is kept together exceeds `wanted` by less than the number of
  tasks. A weight is kept together from the place on that the last task it needs gives it: these
  places, in order, tell the number.
  """
  tasks, count = ranks.shape
  inside = jnp.where(jnp.asarray(present)[:, None], ranks, count).astype(jnp.int32)
  place = jnp.clip(_needed(present, rule) - 1, 0, tasks - 1)
  last = jnp.sort(inside, axis=0)[place]
  return jnp.sort(last)[wanted - 1] + 1


def _needed(present: Bool[Array, " T"], rule: str) -> Integer[jax.Array, ""]:
  """How many tasks must keep a weight."""
  count = jnp.asarray(present).sum(dtype=jnp.int32)
  return {"union": jnp.ones_like(count), "intersection": count, "majority": count // 2 + 1}[rule]


def overlap(kept: Bool[Array, "T n"]) -> Float[jax.Array, "T T"]:
  """Returns how alike two tasks' choices are: what both keep over what either keeps; 0 of none."""
  rows = list(jnp.asarray(kept))
  count = lambda mask: mask.sum(dtype=jnp.int32).astype(jnp.float32)
  alike = [[count(a & b) / jnp.maximum(count(a | b), 1.0) for b in rows] for a in rows]
  return jnp.asarray(alike)
