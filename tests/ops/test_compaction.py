"""Compaction against `where`, for any set of kept rows."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.ops import compaction

WAYS = (
  compaction.Compaction("rows"),
  compaction.Compaction("buckets", 1),
  compaction.Compaction("buckets", 3),
  compaction.Compaction("buckets", 8),
)


def _function(x, other):
  """Depends on every number of the row, and on no other row."""
  total = x.sum(tuple(range(1, x.ndim)))
  return other * 2 + jnp.sin(total).reshape((-1,) + (1,) * (other.ndim - 1))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("rows", (1, 2, 5, 8))
def test_equals_computing_everything(way, rows):
  rng = np.random.default_rng(0)
  # Whole numbers: sums are exact in any order, and no small difference of large ones is compared.
  x = jnp.asarray(rng.integers(-4, 5, (rows, 3, 2)), jnp.float32)
  other = jnp.asarray(rng.integers(-4, 5, (rows, 4)), jnp.float32)
  run = jax.jit(lambda keep: compaction.run(_function, x, other, keep, way))
  every = np.asarray(_function(x, other))
  for count in range(rows + 1):
    keep = np.zeros(rows, bool)
    keep[rng.permutation(rows)[:count]] = True
    wanted = np.where(keep[:, None], every, other)
    np.testing.assert_allclose(run(keep), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_rows_left_out_may_hold_anything(way):
  """What is not computed cannot spoil what is."""
  x = jnp.asarray([[1.0], [np.nan], [2.0], [np.inf], [3.0]])
  other = jnp.zeros((5, 1))
  keep = jnp.asarray([True, False, True, False, True])
  found = compaction.run(_function, x, other, keep, way)
  wanted = np.where(keep[:, None], np.sin([[1.0], [0], [2], [0], [3]]), 0)
  np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_sizes_end_with_all_rows():
  assert compaction.sizes(32, 8) == (0, 4, 8, 12, 16, 20, 24, 28, 32)
  assert compaction.sizes(10, 4) == (0, 3, 5, 8, 10)
  assert compaction.sizes(3, 8) == (0, 1, 2, 3)
  assert compaction.sizes(1, 8) == (0, 1)


@pytest.mark.parametrize("kept, size", ((0, 0), (1, 2), (2, 2), (3, 4), (8, 8)))
def test_only_the_smallest_bucket_that_fits_is_computed(kept, size):
  """Counts the rows that the function is really run on."""
  seen = []

  def counted(x, other):
    def note(rows):
      seen.append(len(rows))
      return np.asarray(rows)

    return jax.pure_callback(note, jax.ShapeDtypeStruct(x.shape, x.dtype), x) + other

  keep = jnp.arange(8) < kept
  run = jax.jit(
    lambda x: compaction.run(
      counted, x, jnp.zeros((8, 1)), keep, compaction.Compaction("buckets", 4)
    )
  )
  jax.block_until_ready(run(jnp.ones((8, 1))))
  assert seen == ([size] if size else [])


def test_rows_run_once_each():
  seen = []

  def counted(x, other):
    def note(rows):
      seen.append(float(rows[0, 0]))
      return np.asarray(rows)

    return jax.pure_callback(note, jax.ShapeDtypeStruct(x.shape, x.dtype), x) + other

  keep = jnp.asarray([False, True, True, False])
  run = jax.jit(
    lambda x: compaction.run(counted, x, jnp.zeros((4, 1)), keep, compaction.Compaction("rows"))
  )
  jax.block_until_ready(run(jnp.arange(4.0)[:, None]))
  assert seen == [1.0, 2.0]


def test_refuses_what_it_does_not_know():
  x, keep = jnp.ones((2, 1)), jnp.ones(2, bool)
  with pytest.raises(ValueError, match="'gather'; it must be one of"):
    compaction.run(_function, x, x, keep, compaction.Compaction("gather"))
  with pytest.raises(ValueError, match="at least 1 bucket, not 0"):
    compaction.sizes(4, 0)
