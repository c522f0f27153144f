"""Computes a function for those rows alone that need it, in inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from dynashare_jax import lookup

ROWS = "rows"
BUCKETS = "buckets"
HOWS = (ROWS, BUCKETS)

# Of rows of features, which are arrays `[N, ...]` or trees of such.
Function = Callable[[Any, Any], Any]


class Compaction(NamedTuple):
  """How rows that need nothing are left out.

  Attributes:
    how: `rows` asks every row in turn (conditional execution, the only sense for one row);
      `buckets` gathers the rows that execute into the smallest of a few static sizes and scatters
      them back.
    buckets: number of sizes above 0; the last one holds all rows, so that none is ever dropped.
  """

  how: str = BUCKETS
  buckets: int = 8


def sizes(rows: Any, buckets: int) -> tuple[Any, ...]:
  """Returns ascending bucket sizes, evenly spaced, from 0 to all rows.

  Args:
    rows: N; may be a symbolic size of `jax.export` that is at least `buckets`.
    buckets: number of sizes above 0, at least 1; fewer where N is smaller.
  """
  if buckets < 1:
    raise ValueError(f"Compaction needs at least 1 bucket, not {buckets}.")
  count = min(buckets, rows)
  return (0, *(-(-rows * k // count) for k in range(1, count + 1)))


def run(
  function: Function,
  x: PyTree[Float[Array, "N ..."]],
  other: PyTree[Float[Array, "N ..."]],
  keep: Bool[Array, " N"],
  compaction: Compaction,
) -> PyTree[Float[Array, "N ..."]]:
  """Computes rows of `function(x, other)` where `keep`; those of `other` elsewhere.

  The same numbers as `where(keep, function(x, other), other)`, up to the order of
  floating-point sums, which may depend on the number of rows.

  Args:
    function: maps rows `[n, ...]` of `x` and `other` to rows shaped as those
      of `other`, each row by itself (batch norm in inference form); pure.
    other: what a row is that is left out.
    keep: which rows to compute.
    compaction: how; a way that is not of `HOWS` is refused.
  """
  lookup.one_of("Compaction", compaction.how, HOWS)
  if compaction.how == ROWS:
    return _rows(function, x, other, keep)
  return _buckets(function, x, other, keep, compaction.buckets)


def _rows(function: Function, x: Any, other: Any, keep: jax.Array) -> Any:
  """One conditional per row: what is left out costs nothing."""
  first = lambda tree: jax.tree.map(lambda a: a[0], tree)
  alone = lambda tree: jax.tree.map(lambda a: a[None], tree)

  def one(row: tuple[Any, Any, jax.Array]) -> Any:
    features, rest, wanted = row
    done = lambda: first(function(alone(features), alone(rest)))
    return jax.lax.cond(wanted, done, lambda: rest)

  if keep.shape[0] == 1:
    return alone(one(first((x, other, keep))))
  return jax.lax.map(one, (x, other, keep))


def _buckets(function: Function, x: Any, other: Any, keep: jax.Array, buckets: int) -> Any:
  """Gathers, computes, scatters; the first size that holds all kept rows."""
  offered = sizes(keep.shape[0], buckets)
  order = jnp.argsort(~keep, stable=True)  # kept rows first, in their order

  def of_size(size: Any) -> Callable[[], jax.Array]:
    """The computation of one bucket: nothing, some rows, or all."""

    def where(wanted: jax.Array, done: Any, rest: Any) -> Any:
      wide = lambda a: wanted.reshape(wanted.shape + (1,) * (a.ndim - 1))
      return jax.tree.map(lambda a, b: jnp.where(wide(a), a, b), done, rest)

    def whole() -> Any:
      return where(keep, function(x, other), other)

    def part() -> Any:
      chosen = order[:size]
      taken = lambda a: jnp.take(a, chosen, axis=0, unique_indices=True)
      rest = jax.tree.map(taken, other)
      done = where(keep[chosen], function(jax.tree.map(taken, x), rest), rest)
      put = lambda a, b: a.at[chosen].set(b, unique_indices=True)
      return jax.tree.map(put, other, done)

    if size == 0:
      return lambda: other
    return whole if size == keep.shape[0] else part

  index = jnp.searchsorted(jnp.asarray(offered), keep.sum())
  return jax.lax.switch(index, [of_size(size) for size in offered])
