"""Policy logits, curriculum, temperature and random routes."""

from __future__ import annotations

import chex
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.ops import policy

KEY = jax.random.key(1)


def test_alpha_reads_column_0_as_execute():
  logits = jnp.array([[[0.0, 0.0], [3.0, -3.0], [-1.0, 1.0]]])
  twin = np.exp(logits[..., 0]) / np.exp(logits).sum(-1)
  np.testing.assert_allclose(policy.alpha(logits), twin, rtol=1e-5)
  np.testing.assert_allclose(
    policy.alpha(jnp.array([[[500.0, -500.0], [-500.0, 500.0]]])), [[1, 0]]
  )


def test_initial_policies():
  equal = policy.alpha(policy.init_logits("equal", 2, 3))
  np.testing.assert_array_equal(equal, np.full((2, 3), 0.5))
  every = policy.alpha(policy.init_logits("all", 2, 3))
  np.testing.assert_allclose(every, 0.9975274, rtol=1e-5)
  near = policy.init_logits("random", 20, 50, KEY)
  assert 0.8e-3 < float(near.std()) < 1.2e-3


@pytest.mark.parametrize(
  "arguments, message",
  [
    (("equally", 2, 3), "equal, all, random"),
    (("random", 2, 3), "key"),
    (("equal", 0, 3), "at least one task"),
    (("equal", 2, 0), "at least one task"),
  ],
)
def test_refuses_what_has_no_policy(arguments, message):
  with pytest.raises(ValueError, match=message):
    policy.init_logits(*arguments)


def test_the_curriculum_opens_the_last_blocks_first():
  masks = [policy.open_mask(4, count).tolist() for count in (0, 1, 3, 4, 9)]
  assert masks == [
    [False] * 4,
    [False, False, False, True],
    [False, True, True, True],
    [True] * 4,
    [True] * 4,
  ]


def test_the_curriculum_follows_its_speed():
  counts = [policy.opened(cycle, 3, 4) for cycle in range(12)]
  assert counts == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
  assert policy.opened(1000, 1, 8) == 8
  with pytest.raises(ValueError, match="speed"):
    policy.opened(0, 0, 4)
  with pytest.raises(ValueError, match="cycle"):
    policy.opened(-1, 1, 4)


def test_the_temperature_decays_to_its_floor():
  assert policy.temperature(0, 5.0, 0.965, 0.1) == 5.0
  assert policy.temperature(2, 5.0, 0.965, 0.1) == pytest.approx(4.656125)
  assert policy.temperature(333, 5.0, 0.965, 1e-6) == pytest.approx(3.53e-5, rel=0.01)
  assert policy.temperature(10_000, 5.0, 0.965, 0.1) == 0.1
  for bad in [(-1, 5.0, 0.9, 0.1), (0, 0.0, 0.9, 0.1), (0, 5.0, 1.1, 0.1)]:
    with pytest.raises(ValueError):
      policy.temperature(*bad)


@pytest.mark.parametrize("per_task", [False, True])
def test_random_routes_keep_the_number_of_skipped_blocks(per_task):
  route = jnp.array([[1.0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
  routes = policy.random_routes(KEY, route, 40, per_task)
  assert routes.shape == (40, 2, 6)
  assert set(np.unique(routes)) == {0.0, 1.0}
  np.testing.assert_array_equal(routes.sum((1, 2)), 8)
  by_task = np.unique(routes.sum(2)[:, 0])
  if per_task:
    assert by_task.tolist() == [3]
  else:
    assert len(by_task) > 1
  # Every place is skipped in about half or a sixth of the routes.
  assert (routes.mean(0) < 1).all() and (routes.mean(0) > 0).all()
  chex.assert_trees_all_equal(routes[:3], policy.random_routes(KEY, route, 3, per_task))


def test_random_routes_need_a_count():
  with pytest.raises(ValueError, match="count"):
    policy.random_routes(KEY, jnp.ones((1, 2)), 0, True)


def test_entropy_and_spread_by_hand():
  assert policy.entropy(np.array([[0.5, 0.5]])) == pytest.approx(1.0)
  assert policy.entropy(np.array([[0.0, 1.0]])) == pytest.approx(0.0, abs=1e-9)
  assert policy.entropy(np.array([[0.25]])) == pytest.approx(0.811278, rel=1e-5)
  assert policy.spread(np.array([[0.2, 0.5], [0.6, 0.5]])) == pytest.approx(0.1)


def test_drawn_routes_have_every_depth_and_do_not_depend_on_what_is_beside():
  draw = jax.jit(jax.vmap(lambda n: policy.draw_routes(jax.random.key(n), 3, 10)))
  many = np.asarray(draw(jnp.arange(200)))
  assert set(np.unique(many)) == {0.0, 1.0}
  depth = many.sum(2).ravel()
  # Uniform probabilities: every depth 0 .. 10 is as likely.
  assert np.bincount(depth.astype(int), minlength=11).min() > 0.5 * depth.size / 11
  wider = np.asarray(policy.draw_routes(jax.random.key(0), 4, 10))
  np.testing.assert_array_equal(wider[:3], many[0])
