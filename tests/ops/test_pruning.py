"""Masks that tasks make together, against counts by hand and a NumPy twin."""

from __future__ import annotations

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.ops import pruning

BOTH = jnp.ones(2, bool)


@functools.partial(jax.jit, static_argnames=("rule", "wanted"))
def _told(scores, present=BOTH, rule="union", wanted=(4,)):
  """Ranks, places, and of each number that is wanted the count and what is kept."""
  ranks = pruning.ranks(jnp.asarray(scores, jnp.float32))
  places = pruning.places(ranks, present, rule)
  found = [(pruning.count_for(places, n), pruning.lowest(places, n)) for n in wanted]
  return ranks, places, found


def _places(*args):
  return _told(*map(jnp.asarray, args[:2]), *args[2:])[1]


def test_tasks_that_want_opposite_weights_keep_all_of_them():
  scores = [[4, 3, 2, 1], [1, 2, 3, 4]]
  _, places, ((four, _), (_, three)) = _told(jnp.asarray(scores), wanted=(4, 3))
  np.testing.assert_array_equal(places, [0, 1, 1, 0])
  np.testing.assert_array_equal(_places(scores, BOTH, "intersection"), [3, 2, 2, 3])
  assert int(four) == 2
  np.testing.assert_array_equal(three, [1, 1, 0, 1])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_of_equal_scores_exactly_half_is_kept(value):
  """A threshold would keep all of them."""
  (_, kept), _ = _told(jnp.full((2, 4), value, jnp.int32), wanted=(2, 3))[2]
  np.testing.assert_array_equal(kept, [1, 1, 0, 0])


def test_a_majority_is_more_than_half():
  scores = jnp.asarray([[9, 8, 1, 0], [9, 8, 7, 0], [9, 0, 1, 2], [9, 1, 8, 0]])
  every = jnp.ones(4, bool)
  np.testing.assert_array_equal(_places(scores, every, "majority")[:3], [0, 2, 2])
  np.testing.assert_array_equal(_places(scores, np.arange(4) < 3, "majority")[:3], [0, 1, 2])


@pytest.mark.parametrize("rule, tasks", [("union", 1), *((rule, 4) for rule in pruning.RULES)])
def test_the_density_is_exact_and_the_count_is_the_least_that_reaches_it(rule, tasks):
  rng = np.random.default_rng(tasks)
  scores = rng.integers(0, 6, (tasks, 40))  # with ties
  present = np.ones(tasks, bool)
  present[1:2] = False  # a task without labels
  counts = (1, 7, 20, 39, 40)
  told = _told(jnp.asarray(scores), jnp.asarray(present), rule, counts)
  ranks, _, found = jax.device_get(told)
  assert all(sorted(row) == list(range(40)) for row in ranks.tolist())
  needed = {"union": 1, "intersection": present.sum(), "majority": present.sum() // 2 + 1}[rule]
  together = lambda count: (ranks[present] < count).sum(0) >= needed
  for wanted, (count, kept) in zip(counts, found, strict=True):
    assert together(count).sum() >= wanted > together(count - 1).sum()
    assert int(kept.sum()) == wanted and not (kept & ~together(count)).any()
    assert kept[together(count - 1)].all()


_step = jax.jit(pruning.regrown, static_argnums=4)


def _regrown(count, rule="union", present=BOTH):
  keep = jnp.asarray([1, 1, 1, 0, 0, 0], bool)
  weights = jnp.asarray([0.1, -3.0, 2.0, 9.0, 9.0, 9.0])
  steep = jnp.asarray([[0.0, 9.0, 1.0, 5.0, 0.5, 4.0], [0.0, 9.0, 3.0, 0.5, 5.0, 4.0]])
  new, asked = _step(keep, weights, steep, present, rule, count)
  return np.flatnonzero(new).tolist(), [np.flatnonzero(row).tolist() for row in asked]


def test_the_smallest_go_and_what_tasks_ask_for_comes():
  """Weight 1 stays; first 0 goes and then 2, which task b would take back only third."""
  assert _regrown(0) == ([0, 1, 2], [[], []])
  assert _regrown(1) == ([1, 2, 3], [[3], [4]])  # of two that are asked for first, the first
  assert _regrown(2) == ([1, 3, 4], [[3], [4]])
  assert _regrown(2, "intersection") == ([1, 2, 5], [[2, 3, 5], [2, 4, 5]])
  assert _regrown(2, present=jnp.asarray([False, True])) == ([1, 4, 5], [[], [4, 5]])
  assert _regrown(2, present=jnp.zeros(2, bool)) == ([0, 1, 2], [[], []])


def test_narrow_layers_keep_a_larger_share():
  """Shares 1 : 1/2 of 4 and 16 weights; what is above 1 goes to the other layer."""
  counts = lambda wanted: pruning.layer_counts([(2, 2), (4, 4)], wanted, power=1.0)
  assert [counts(n) for n in (1, 10, 16, 20)] == [(0, 1), (3, 7), (4, 12), (4, 16)]
  shapes = [(3, 3, 3, 8), (3, 3, 8, 64), (64, 10), (64,)]
  sizes = [216, 4608, 640, 64]
  for wanted in (1, 500, 2000, 5000, sum(sizes)):
    found = pruning.layer_counts(shapes, wanted)
    assert sum(found) == wanted and all(n <= most for n, most in zip(found, sizes, strict=True))


def test_overlap_is_what_both_keep_over_what_either_keeps():
  kept = jnp.asarray([[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]], bool)
  np.testing.assert_allclose(pruning.overlap(kept), [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0]])
