"""Masks that tasks make together, against counts by hand and a NumPy twin."""

from __future__ import annotations

from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.ops import pruning

BOTH = jnp.ones(2, bool)


def _kept(scores, count):
  return np.asarray(pruning.ranks(jnp.asarray(scores, jnp.float32)) < count)


def test_tasks_that_want_opposite_weights_keep_all_of_them():
  kept = _kept([[4, 3, 2, 1], [1, 2, 3, 4]], 2)
  np.testing.assert_array_equal(kept, [[1, 1, 0, 0], [0, 0, 1, 1]])
  assert pruning.together(kept, BOTH, "union").all()
  assert not pruning.together(kept, BOTH, "intersection").any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_of_equal_scores_exactly_half_is_kept(value):
  """A threshold would keep all of them."""
  kept = _kept(np.full((2, 4), value), 2)
  np.testing.assert_array_equal(pruning.together(kept, BOTH, "union"), [1, 1, 0, 0])


def test_a_majority_is_more_than_half():
  kept = jnp.asarray([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0]], bool)
  every = jnp.ones(4, bool)
  np.testing.assert_array_equal(pruning.together(kept, every, "majority"), [1, 0, 0, 0])
  np.testing.assert_array_equal(
    pruning.together(kept, every.at[3].set(False), "majority"), [1, 1, 0, 0]
  )


@pytest.mark.parametrize("rule", pruning.RULES)
@pytest.mark.parametrize("tasks", [1, 2, 3, 4])
def test_the_least_count_that_reaches_the_density(rule, tasks):
  rng = np.random.default_rng(tasks)
  scores = rng.integers(0, 6, (tasks, 40))  # with ties
  present = np.ones(tasks, bool)
  present[1:2] = False  # a task without labels
  ranks = pruning.ranks(jnp.asarray(scores, jnp.float32))
  assert all(sorted(row) == list(range(40)) for row in np.asarray(ranks).tolist())
  total = lambda count: int(pruning.together(ranks < count, jnp.asarray(present), rule).sum())
  for wanted in (1, 7, 20, 39, 40):
    count = int(pruning.count_for(ranks, jnp.asarray(present), rule, wanted))
    assert total(count) >= wanted > total(count - 1)
    assert total(count) < wanted + tasks
    if tasks == 1:
      assert count == wanted


def test_overlap_is_what_both_keep_over_what_either_keeps():
  kept = jnp.asarray([[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]], bool)
  np.testing.assert_allclose(pruning.overlap(kept), [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0]])
