"""Runners of any blocks: against every task alone, and the best within a budget."""

from __future__ import annotations

import itertools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax import routes
from dynashare_jax.sharing import prices
from dynashare_jax.sharing import routes as planned

RNG = np.random.default_rng(3)


def _history(route, shortcuts=False):
  """What blocks that write their numbers down leave behind, and what was called."""
  calls = []

  def block(number):
    def run(own, x):
      calls.append((number, x))
      return (*x, own)

    return run

  skipped = [lambda own, x: (*x, -own) for _ in route[0]] if shortcuts else None
  run = routes.runner([block(n) for n in range(len(route[0]))], route, skipped)
  return run([n + 1 for n in range(len(route[0]))], ()), calls


@pytest.mark.parametrize("shortcuts", [False, True])
def test_every_task_runs_its_blocks_and_none_runs_twice_or_for_nobody(shortcuts):
  for _ in range(40):
    route = RNG.integers(0, 2, (RNG.integers(1, 5), RNG.integers(1, 7)))
    outputs, calls = _history(route, shortcuts)
    for row, found in zip(route, outputs, strict=True):
      skip = lambda n: (-n,) if shortcuts else ()
      wanted = [(n,) if executed else skip(n) for n, executed in enumerate(row, 1)]
      assert found == tuple(itertools.chain(*wanted))
    assert len(set(calls)) == len(calls)  # a block and its input: never twice
    needed = {(n, tuple(row[:n])) for row in route for n in np.flatnonzero(row)}
    assert len(calls) == len(needed) == sum(routes.plan(route).computations)


def test_gradients_add_up_over_the_tasks_that_share():
  blocks = [lambda w, x: w * x, lambda w, x: x + w * w, lambda w, x: jnp.sin(w * x)]
  run = routes.runner(blocks, routes.plan([[1, 1, 0], [1, 0, 1], [1, 1, 1]]))

  def alone(w, x):
    first = w[0] * x
    return first + w[1] ** 2, jnp.sin(w[2] * first), jnp.sin(w[2] * (first + w[1] ** 2))

  total = lambda of: jax.jit(jax.grad(lambda w: sum(of(w, 0.7))))
  w = [jnp.float32(1.3), jnp.float32(-0.4), jnp.float32(0.9)]
  np.testing.assert_allclose(total(run)(w), total(alone)(w), rtol=1e-6)


def test_what_cannot_be_planned_is_told():
  step = lambda own, x: x
  with pytest.raises(ValueError, match="0 and 1 only, not \\[0.5\\]"):
    routes.plan([[1, 0.5]])
  with pytest.raises(ValueError, match="shape \\[tasks, blocks\\], not \\(3,\\)"):
    routes.plan([1, 0, 1])
  with pytest.raises(ValueError, match="being traced"):
    jax.eval_shape(lambda route: routes.runner([step], route)([None], 1.0), jnp.ones((1, 1)))
  with pytest.raises(ValueError, match="2 blocks for a route of 3"):
    routes.runner([step] * 2, [[1, 1, 1]])
  with pytest.raises(ValueError, match="1 shortcuts for a route of 2"):
    routes.runner([step] * 2, [[1, 1]], [None])
  with pytest.raises(ValueError, match="parameters of 1 blocks for 2"):
    routes.runner([step] * 2, [[1, 1]])([None], 1.0)
  pairs, singles = np.zeros((3, 2, 2)), np.zeros((2, 3))
  with pytest.raises(ValueError, match="serve is 'apar'.*Did you mean 'apart'"):
    routes.best(pairs, singles, [1, 1, 1], 0.5, "apar")
  with pytest.raises(ValueError, match="share is 1.5"):
    routes.best(pairs, singles, [1, 1, 1], 1.5, "apart")
  with pytest.raises(ValueError, match="there are 2 costs"):
    routes.best(pairs, singles, [1, 1], 0.5, "apart")
  with pytest.raises(ValueError, match="at most 8 tasks"):
    routes.best(np.zeros((3, 9, 9)), np.zeros((9, 3)), [1, 1, 1], 0.5, "apart")


@pytest.mark.parametrize("serve", ["together", "apart"])
def test_the_best_route_is_the_packages_own(serve):
  half, singles, costs = RNG.normal(size=(3, 2, 2)), RNG.normal(size=(2, 3)), [1, 2, 3]
  pairs = half + half.transpose(0, 2, 1)
  wanted = planned.best(pairs, singles, prices.within_share(costs, 2, 0.5, serve))
  found = routes.best(pairs, singles, costs, 0.5, serve)
  np.testing.assert_array_equal(found.route, wanted.route)
  assert (found.value, found.bound) == (wanted.value, wanted.bound)
  assert 0 < routes.work(found.route, costs, serve) <= 0.5


ROUTE, COSTS, PAIRS, SINGLES = [[1, 1], [1, 0]], (1, 1), np.zeros((2, 2, 2)), np.ones((2, 2))


@pytest.mark.parametrize(
  ("call", "told"),
  [
    (lambda: routes.plan([[np.nan, 1]]), "0 and 1 only"),
    (lambda: routes.plan([[np.inf, 1]]), "0 and 1 only"),
    (lambda: routes.plan([[1, 1], [1]]), "the same length"),
    (lambda: routes.plan([["1", "0"]]), "0 and 1 only"),
    (lambda: routes.plan(ROUTE, ["a", "a"]), "different names"),
    (lambda: routes.plan(ROUTE, "ab"), "different names"),
    (lambda: routes.runner([None, None], ROUTE), "no function"),
    (lambda: routes.work([[2, 1], [1, 0]], COSTS), "0 and 1 only"),
    (lambda: routes.work([1, 0], COSTS), "in the shape"),
    (lambda: routes.work(ROUTE, (1,)), "`costs` must be 2 numbers"),
    (lambda: routes.work(ROUTE, (-1, 2)), "at least 0"),
    (lambda: routes.work(ROUTE, (0, 0)), "not all 0"),
    (lambda: routes.work(ROUTE, COSTS, "alone"), "`serve` is 'alone'"),
    (lambda: routes.best(PAIRS, np.ones(2), COSTS, 1.0, "apart"), "`singles` must be"),
    (lambda: routes.best(PAIRS + np.nan, SINGLES, COSTS, 1.0, "apart"), "`pairs` must hold finite"),
    (
      lambda: routes.best(np.arange(8.0).reshape(2, 2, 2), SINGLES, COSTS, 1.0, "apart"),
      "symmetric",
    ),
    (lambda: routes.best(PAIRS, SINGLES, (1, np.nan), 1.0, "apart"), "`costs` must be 2"),
    (lambda: routes.best(PAIRS, SINGLES, (0, 0), 1.0, "apart"), "`costs` must be 2"),
    (lambda: routes.best(PAIRS, SINGLES, COSTS, "1", "apart"), "The share is '1'"),
  ],
)
def test_what_is_no_route_is_refused(call, told):
  with pytest.raises(ValueError, match=told):
    call()
