"""Gradients from which conflicting parts of others are taken, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian

# (row [K], its cosine to every unit gradient [K], its length, j, carry [K]) -> (what of unit
# gradient j is added to the row, carry)
Rule = Callable[..., tuple[jax.Array, jax.Array]]


def operate(
  facts: balancing.Facts, rule: Rule, carry: jax.Array, order: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Changes every task's gradient by those of the others, in an order of its own.

  Args:
    rule: how gradient j changes a row, in multiples of unit gradients.
    carry: `[K, K]`, a row of a task that the rule reads and writes.
    order: int32 `[K, K]`, for every task the order of all; default random.

  Returns:
    Weights of the gradients in the sum of the changed ones, and the new carry.
  """
  tasks = len(facts.present)
  if order is None:
    draw = lambda key: jax.random.permutation(key, tasks)
    order = jax.vmap(draw)(jax.random.split(facts.key, tasks))
  lengths, cosines = gramian.unit(facts.gramian, facts.present)

  def one(start: jax.Array, others: jax.Array, task: jax.Array, kept: jax.Array) -> Any:
    def change(place: jax.Array, found: tuple[jax.Array, jax.Array]) -> Any:
      row, kept = found
      j = others[place]
      products = gramian.times(cosines, row)
      length = jnp.sqrt(jnp.maximum(row @ products, 1e-12))
      added, changed = rule(products, length, j, kept)
      apart = (j != task) & facts.present[j] & facts.present[task]
      return row.at[j].add(jnp.where(apart, added, 0.0)), jnp.where(apart, changed, kept)

    return jax.lax.fori_loop(0, tasks, change, (start, kept))

  rows, carry = jax.vmap(one)(jnp.eye(tasks), order, jnp.arange(tasks), carry)
  sizes = jnp.where(facts.present, lengths, 0.0)
  return gramian.times(rows.T, sizes) / lengths, carry
