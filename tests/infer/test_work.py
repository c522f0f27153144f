"""The work of a plan against hand counts and traced computations."""

from __future__ import annotations

from collections.abc import Callable
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from tiny import configs

from dynashare_jax import runs as main
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.infer import work
from dynashare_jax.ops import compaction
from dynashare_jax.ops import costs
from dynashare_jax.sharing import plan as plan_lib

# Multiply-accumulates of one example, of the tiny network below.
STEM = 6 * 8
BRANCH = 2 * 8 * 8
GATE = 8 * 16 + 16 * 2
HEADS = 8 * 1 + 8 * 3  # binary, three classes


@pytest.fixture(scope="module")
def model() -> Callable[..., trained_lib.Trained]:
  """Makes a model of 2 tasks and 2 MLP blocks, the last with a gate."""
  config = configs.make()
  experiment = main.build(config, jax.devices()[:1])[0]
  params, stats = experiment.fresh("init")
  return lambda route, gates=True: trained_lib.Trained(
    experiment, params, stats, experiment.sharing.of(route, gates), pathlib.Path(), 0
  )


def _rates(*rows: Any) -> np.ndarray:
  return np.asarray(rows, float)


def test_a_route_with_one_gated_block(model):
  # Both tasks run block 0 together; then a alone runs block 1, behind a gate.
  found = work.of_plan(model([[1, 1], [1, 0]]))
  assert found.gated == ((0, 1, BRANCH),)
  assert found.fixed == STEM + BRANCH + GATE + HEADS
  assert found.full == STEM + 2 * BRANCH + GATE + HEADS
  assert found.at(_rates([1, 0.25], [1, 0])) == found.fixed + BRANCH / 4
  assert found.share(_rates([1, 0.5], [1, 0])) == ((found.fixed + BRANCH / 2) / found.full)


def test_groups_ask_their_own_gates(model):
  # Different pasts: block 1 has two computations with a gate each.
  found = work.of_plan(model([[1, 1], [0, 1]]))
  assert sorted(found.gated) == [(0, 1, BRANCH), (1, 1, BRANCH)]
  assert found.fixed == STEM + BRANCH + 2 * GATE + HEADS
  assert found.at(_rates([1, 0.25], [0, 0.5])) == found.fixed + 0.75 * BRANCH


def test_tasks_with_one_past_share_a_gate(model):
  found = work.of_plan(model([[1, 1], [1, 1]]))
  assert found.gated == ((0, 1, BRANCH),)


def test_without_gates_everything_is_fixed(model):
  found = work.of_plan(model([[1, 1], [1, 1]], gates=False))
  assert found == work.Work(STEM + 2 * BRANCH + HEADS, ())
  assert found.share(_rates([1, 1], [1, 1])) == 1.0


@pytest.mark.parametrize("route", [[[1, 1], [1, 0]], [[1, 1], [0, 1]], [[0, 0], [0, 0]]])
def test_rates_are_linear_between_two_traced_ends(model, route):
  made = model(route)
  found = work.of_plan(made)
  inputs = made.experiment.one_example()
  rate = np.asarray(route, float)
  count = lambda trained, how: costs.macs(trained.forward(how), trained.variables, inputs)
  assert found.at(rate) == found.full == count(made, trained_lib.PLANNED)
  closed = rate.copy()
  closed[:, 1] = 0
  # A closed gate is still asked: the route without the block, and the gates.
  without = model(closed.astype(int))
  asked = made.plan.computations[1] * GATE
  assert found.at(closed) == count(without, trained_lib.PLANNED) + asked
  third = rate - (rate - closed) / 3
  assert found.at(third) == pytest.approx(found.at(rate) * 2 / 3 + found.at(closed) / 3)


def test_masked_work_counts_every_block_for_every_task_but_the_first(model):
  made = model([[1, 1], [1, 0]])
  # A gate is asked for each task at block 1, and every branch is computed; the
  # first block has the same input for both.
  assert work.total(made, trained_lib.MASKED) == (STEM + 3 * BRANCH + 2 * GATE + HEADS)
  ungated = trained_lib.MASKED._replace(gates=False)
  assert work.total(made, ungated) == STEM + 3 * BRANCH + HEADS


def test_compaction_does_not_change_the_work(model):
  made = model([[1, 1], [1, 1]])
  how = trained_lib.PLANNED._replace(compaction=compaction.Compaction())
  assert work.total(made, how) == work.total(made, trained_lib.PLANNED)


def test_branches_of_one_example(model):
  assert work.branches(model([[1, 0], [0, 0]])) == (BRANCH, BRANCH)


def test_one_example_has_one_row(model):
  made = model([[1, 1], [1, 1]])
  inputs = jax.tree.leaves(made.experiment.one_example())
  assert [leaf.shape for leaf in inputs] == [(1, 6)]
  assert plan_lib.make(("a", "b"), made.route, made.gated) == made.plan
