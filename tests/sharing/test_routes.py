"""Routes from evidence, against all routes tried one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dynashare_jax.sharing import plan
from dynashare_jax.sharing import prices
from dynashare_jax.sharing import routes

COSTS = (3.0, 1.0, 2.0)


def _every(tasks: int, blocks: int) -> list[np.ndarray]:
  bits = itertools.product((0.0, 1.0), repeat=tasks * blocks)
  return [np.array(row).reshape(tasks, blocks) for row in bits]


def _slow_value(route, pairs, singles):
  tasks, blocks = route.shape
  total = 0.0
  for l in range(blocks):
    for t in range(tasks):
      total += singles[t, l] * route[t, l]
      total += sum(pairs[l, t, u] * route[t, l] * route[u, l] for u in range(t))
  return total


def _random(seed: int, tasks: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(seed)
  pairs = rng.standard_normal((blocks, tasks, tasks))
  return pairs + pairs.transpose(0, 2, 1), rng.standard_normal((tasks, blocks))


def test_work_by_hand():
  route = [[1, 1, 0], [1, 0, 1]]
  # Apart: (3 + 1 + 3 + 2) of 2 * 6. Together: block 0 once, then each its own.
  assert routes.work(route, COSTS, "apart") == pytest.approx(9 / 12)
  assert routes.work(route, COSTS, "together") == pytest.approx((3 + 1 + 2) / 6)
  # Who parted computes a block that both execute twice.
  assert routes.work([[0, 1, 1], [1, 1, 1]], COSTS) == pytest.approx((3 + 2 * 1 + 2 * 2) / 6)


@pytest.mark.parametrize("seed", range(20))
def test_work_together_is_what_the_plan_computes(seed):
  rng = np.random.default_rng(seed)
  tasks, blocks = rng.integers(1, 6), rng.integers(1, 12)
  route = rng.integers(0, 2, (tasks, blocks))
  costs = rng.uniform(0.5, 2, blocks)
  made = plan.make([str(t) for t in range(tasks)], route)
  assert routes.work(route, costs) == pytest.approx(np.dot(made.computations, costs) / costs.sum())


def test_hard_sharing_is_the_unit_either_way():
  whole = np.ones((4, 3))
  assert [routes.work(whole, COSTS, serve) for serve in routes.SERVES] == pytest.approx([1, 1])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [0.4, 0.8, 1.0])
def test_apart_no_route_is_better(seed, budget):
  pairs, singles = _random(seed, 3, 3)
  found = routes.best(pairs, singles, prices.within_share(COSTS, 3, budget, "apart"))
  assert found is not None
  assert routes.work(found.route, COSTS, "apart") <= budget + 1e-9
  fits = [r for r in _every(3, 3) if routes.work(r, COSTS, "apart") <= budget + 1e-9]
  values = [_slow_value(r, pairs, singles) for r in fits]
  assert found.value == pytest.approx(_slow_value(found.route, pairs, singles))
  assert found.value == pytest.approx(max(values), abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("budget", [0.5, 1.0])
def test_together_the_bound_holds_and_most_routes_are_worse(seed, budget):
  pairs, singles = _random(seed, 3, 3)
  found = routes.best(pairs, singles, prices.within_share(COSTS, 3, budget, "together"))
  assert found is not None
  assert routes.work(found.route, COSTS) <= budget + 1e-9
  fits = [r for r in _every(3, 3) if routes.work(r, COSTS) <= budget + 1e-9]
  values = np.array([_slow_value(r, pairs, singles) for r in fits])
  assert found.bound >= values.max() - 1e-4
  assert (values > found.value + 1e-9).mean() <= 0.02


def test_sizes_and_the_first_block_are_kept():
  pairs, singles = _random(3, 4, 5)
  costs = np.ones(5)
  limit = prices.within_share(costs, 4, 1.0, "apart")
  found = routes.best(pairs, singles, limit, (1, 2, 3, 4), keep_first=True)
  assert found is not None
  np.testing.assert_array_equal(found.route.sum(1), [1, 2, 3, 4])
  assert found.route[:, 0].all()
  little = prices.within_share(costs, 4, 0.1, "apart")
  assert routes.best(pairs, singles, little, (1, 2, 3, 4)) is None


def test_two_pairs_that_disagree_are_parted_and_friends_are_not():
  agree = np.full((4, 4), -0.1)
  agree[:2, :2] = agree[2:, 2:] = 0.2
  rng = np.random.default_rng(0)
  for serve, budget in (("apart", 0.5), ("together", 1.0)):
    limit = prices.within_share(np.ones(6), 4, budget, serve)
    route = routes.candidates(rng, None, agree, limit, 1)[0]
    np.testing.assert_array_equal(route[0], route[1])
    np.testing.assert_array_equal(route[2], route[3])
    np.testing.assert_array_equal(route[0] + route[2], np.ones(6))
    np.testing.assert_array_equal(route.sum(1), [3, 3, 3, 3])
  friends = routes.candidates(rng, None, np.abs(agree), limit, 1)[0]
  assert friends.all()


def test_a_sure_policy_does_not_join_tasks_that_disagree_a_little():
  """All four like the blocks 1 and 2, so that pairs would share them; -0.006 parts the pairs."""
  agree = np.full((4, 4), -0.006)
  agree[:2, :2] = agree[2:, 2:] = 0.18
  alpha = np.tile([0.5, 0.95, 0.95, 0.4, 0.1, 0.1], (4, 1))
  alpha[:2, 0], alpha[2:, 0] = 0.98, 0.05
  limit = prices.within_share(np.ones(6), 4, 0.5, "apart")
  route = routes.candidates(np.random.default_rng(0), alpha, agree, limit, 1)[0]
  np.testing.assert_array_equal(route[0], route[1])
  np.testing.assert_array_equal(route[2], route[3])
  np.testing.assert_array_equal(route[0] + route[2], np.ones(6))
  assert route[0, 0] == 1  # of the ways to part them, the policy chooses


def test_without_agreement_the_first_route_is_the_top_of_alpha():
  alpha = np.random.default_rng(1).uniform(size=(3, 4))
  limit = prices.within_share(np.ones(4), 3, 0.5, "apart")
  route = routes.candidates(np.random.default_rng(0), alpha, None, limit, 1)[0]
  np.testing.assert_array_equal(route, alpha >= np.sort(alpha.ravel())[-6])


def test_candidates_differ_keep_the_budget_and_have_hard_sharing_second():
  rng = np.random.default_rng(0)
  alpha = rng.uniform(0.3, 0.7, (3, 6))
  limit = prices.within_share(np.ones(6), 3, 0.5, "apart")
  found = routes.candidates(rng, alpha, np.eye(3), limit, 8)
  assert found.shape == (8, 3, 6) and len(np.unique(found, axis=0)) == 8
  assert found[1].all()
  assert all(routes.work(r, np.ones(6), "apart") <= 0.5 + 1e-9 for r in np.delete(found, 1, 0))


def test_fewer_routes_than_candidates_repeat_the_first():
  limit = prices.within_share([1.0], 2, 1.0, "together")
  found = routes.candidates(np.random.default_rng(0), np.ones((2, 1)), None, limit, 4)
  np.testing.assert_array_equal(found, np.ones((4, 2, 1)))


def test_candidates_differ_where_a_sure_policy_and_a_tight_budget_leave_few_exchanges():
  """Served together no task can exchange a block alone, and all cold draws are number 0."""
  costs = (1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0)
  limit = prices.within_share(costs, 3, 0.75, "together")
  alpha = np.tile([0.99] * 7 + [0.9], (3, 1))
  found = routes.candidates(np.random.default_rng(0), alpha, np.ones((3, 3)), limit, 8)
  assert len(np.unique(found, axis=0)) >= 5
  assert all(routes.work(r, costs) <= 0.75 + 1e-9 for r in np.delete(found, 1, 0))


def test_swaps_keep_every_tasks_number_and_the_first_blocks():
  rng = np.random.default_rng(2)
  route = np.array([[1, 1, 0, 0, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], np.float32)
  for count in range(1, 5):
    other = routes.swaps(rng, route, count, first=1)
    np.testing.assert_array_equal(other.sum(1), route.sum(1))
    np.testing.assert_array_equal(other[:, 0], route[:, 0])
    assert 0 < (other != route).sum() <= 2 * count or count > 1


def test_too_many_tasks_are_refused():
  with pytest.raises(ValueError, match="at most 8 tasks and 64 blocks, not 9 and 4.*sampled"):
    limit = prices.within_share(np.ones(4), 9, 1.0, "together")
    routes.best(np.zeros((4, 9, 9)), np.zeros((9, 4)), limit)


MS = prices.Prices(2.0, (1.5, 0.5, 1.0), (0.75, 0.6, 1.1), (0.25, 0.0, 0.125), (0.1, 0.2, 0.3))


@pytest.mark.parametrize("serve", prices.SERVES)
@pytest.mark.parametrize("seed", range(6))
def test_routes_keep_their_milliseconds_and_few_are_better(seed, serve):
  pairs, singles = _random(seed, 3, 3)
  every = _every(3, 3)
  ms = np.array([MS.predict(route, serve) for route in every])
  np.testing.assert_array_equal(MS.totals(np.stack(every), serve), ms)  # to the last bit
  values = np.array([_slow_value(route, pairs, singles) for route in every])
  for most in np.quantile(ms, (0.05, 0.3, 0.6, 1.0)):
    found = routes.best(pairs, singles, prices.Limit(MS, float(most), serve, "x", timed=True))
    assert found is not None and MS.predict(found.route, serve) <= most
    fits = values[ms <= most]
    assert found.bound >= fits.max() - 1e-4
    assert (fits > found.value + 1e-6).mean() <= (0.0 if serve == "apart" else 0.05)


@pytest.mark.parametrize("serve", prices.SERVES)
def test_candidates_keep_milliseconds_and_hard_sharing_is_cut_to_fit(serve):
  alpha = np.random.default_rng(0).uniform(0.3, 0.7, (3, 3))
  agree = np.array([[1.0, 0.2, -0.1], [0.2, 1.0, -0.2], [-0.1, -0.2, 1.0]])
  whole = MS.predict(np.ones((3, 3)), serve)
  for less, keep_first in ((0.0, False), (0.25, True), (1.4, False), (1.4, True)):
    limit = prices.Limit(MS, whole - less, serve, "x", timed=True)
    found = routes.candidates(np.random.default_rng(1), alpha, agree, limit, 4, keep_first)
    assert max(MS.predict(route, serve) for route in found) <= limit.most
    assert found[:, :, 0].all() or not keep_first
    shared = [np.tile(row, (3, 1)) for row in _every(1, 3) if row[0, 0] or not keep_first]
    most = max(route[0].sum() for route in shared if MS.predict(route, serve) <= limit.most)
    assert (found[1] == found[1][0]).all() and found[1][0].sum() == most


def test_a_limit_is_met_where_only_one_shared_block_fits():
  """The best sets part the tasks, which takes too much; that they could agree is seen."""
  pairs, singles = np.full((3, 2, 2), -1.0), np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
  parts = prices.Prices(1.0, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.0, 0.0))
  limit = prices.Limit(parts, 2.0, "together", "x", timed=True)
  found = routes.evened(pairs, singles, limit, keep_first=False)
  assert found is not None
  np.testing.assert_array_equal(found.route[0], found.route[1])
  assert parts.predict(found.route) == 2.0
