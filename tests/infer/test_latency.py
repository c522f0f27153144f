"""Milliseconds of routes: sums of parts, by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tiny import configs

from dynashare_jax import runs as main
from dynashare_jax.infer import clock
from dynashare_jax.infer import latency

# Powers of two, so that every sum tells its terms.
PARTS = latency.Latency(
  fixed=64.0,
  blocks=(1.0, 2.0, 4.0),
  further=(0.125, 0.25, 0.5),
  groups=(1 / 16, 1 / 32, 1 / 64),
  heads=(16.0, 32.0),
)


@pytest.fixture(scope="module")
def model():
  return main.untrained(configs.make())


@pytest.mark.parametrize(
  ("route", "together", "apart"),
  [
    # The same history all along: every block once, or once a task.
    ([[1, 1, 1], [1, 1, 1]], 64 + 7 + 48, 2 * (64 + 7) + 48),
    # They part at block 1: the last one is computed for each.
    ([[1, 1, 1], [1, 0, 1]], 64 + 1 + 2 + (4 + 0.5 + 1 / 64) + 48, 2 * 64 + 2 + 2 + 8 + 48),
    # Parted at block 0, which one of them executes; they never join again.
    (
      [[0, 1, 1], [1, 1, 0]],
      64 + 1 + (2 + 0.25 + 1 / 32) + (4 + 1 / 64) + 48,
      2 * 64 + 1 + 4 + 4 + 48,
    ),
    ([[0, 0, 0], [0, 0, 0]], 64 + 48, 2 * 64 + 48),
  ],
)
def test_a_route_by_hand(route, together, apart):
  assert PARTS.predict(route) == together
  assert PARTS.predict(np.asarray(route), latency.APART) == apart


def test_a_task_alone_is_served_one_way():
  alone = latency.Latency(8.0, (1.0, 2.0), (4.0, 4.0), (4.0, 4.0), (0.0,))
  assert alone.predict([[0, 1]]) == alone.predict([[0, 1]], latency.APART) == 10.0


@pytest.mark.parametrize("route", [[[1, 1, 1]], [[1, 1], [1, 1]], [1, 1, 1], [[1] * 3] * 3])
@pytest.mark.parametrize("serve", latency.SERVES)
def test_routes_of_another_shape_are_refused(route, serve):
  with pytest.raises(ValueError, match="but there are 2 tasks and 3 blocks"):
    PARTS.predict(route, serve)


@pytest.mark.parametrize("serve", latency.SERVES)
def test_other_values_than_0_and_1_are_refused(serve):
  with pytest.raises(ValueError, match=r"A route holds 0 and 1 only, not \[0\.5\]"):
    PARTS.predict([[1, 1, 0.5], [1, 1, 1]], serve)


def test_another_way_to_serve_is_refused():
  with pytest.raises(ValueError, match="serve is 'alone'; it must be one of together, apart"):
    PARTS.predict([[1, 1, 1], [1, 1, 1]], "alone")


def test_parts_are_solved_for(model, monkeypatch):
  """Made-up times of every program give the parts that they were made of."""
  made = latency.Latency(5.0, (1.5, 3.0), (0.75, 1.0), (0.25, 0.0), (0.25, 0.5))
  told = {("also", "mine"): 7.0}
  for place, of_blocks in enumerate((4.5, 1.5, 3.0)):  # both blocks, the first, the second
    told |= {(place, t): 5 + of_blocks + h for t, h in ((None, 0.75), (0, 0.25), (1, 0.5))}
  # Alone, a block takes two thirds of what it takes in the network.
  told |= {("block", 0, 1): 4.0, ("rest", 0, 1): 3.0, ("block", 1, 1): 6.0, ("rest", 1, 1): 4.0}
  told |= {("block", 0, 2): 5.0, ("rest", 0, 2): 3.25, ("block", 1, 2): 7.0, ("rest", 1, 2): 4.0}

  def alternate(calls, rounds):
    assert rounds == 3 and set(calls) == set(told)
    for call in calls.values():
      call()
    odd = {name: [ms / 1000, 9.0, 0.0] for name, ms in told.items()}  # the median is the first
    return {name: clock.Timing(list(seconds), list(seconds)) for name, seconds in odd.items()}

  monkeypatch.setattr(clock, "alternate", alternate)
  x = model.experiment.one_example()
  found = latency.measure(model, x, 3, {"mine": lambda: None})
  np.testing.assert_allclose(np.hstack(found.latency), np.hstack(made), rtol=1e-9)
  assert found.also == {"mine": pytest.approx(7.0)}


def test_a_call_computes_the_route(model):
  x = model.experiment.dataset.arrays("test").inputs[:4]
  for route in itertools.product(([1, 0], [0, 1]), ([1, 1], [1, 0])):
    (together, _) = latency.call(model, route, x)()
    apart = latency.call(model, route, x, latency.APART)()
    for name, (alone, _) in zip("ab", apart, strict=True):
      assert list(alone) == [name]
      np.testing.assert_allclose(alone[name], together[name], rtol=1e-5, atol=1e-6)


def test_one_network_a_task_has_no_routes():
  single = main.untrained(configs.make(method="single"))
  with pytest.raises(ValueError, match="it has no routes to price"):
    latency.measure(single, single.experiment.one_example(), 1)


def test_a_clock_goes_by_processor_time_on_one_core_alone(monkeypatch):
  timing = clock.Timing([3.0], [2.0])
  for alone, wanted in ((True, [2.0]), (False, [3.0])):
    monkeypatch.setattr(clock, "one_core", lambda alone=alone: alone)
    assert timing.steady == wanted
