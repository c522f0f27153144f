"""A plan: what it computes, how it reads, what it refuses."""

from __future__ import annotations

import functools
from typing import Any

import hypothesis
from hypothesis import strategies as st
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.models import heads
from dynashare_jax.models.backbones import mlp
from dynashare_jax.models.trunks import contract as trunk_contract
from dynashare_jax.models.trunks import network as network_lib
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import costs
from dynashare_jax.ops import routing
from dynashare_jax.sharing import plan as plan_lib
from dynashare_jax.sharing import skip

TASKS, BLOCKS, BATCH, WIDTH, HIDDEN, INPUTS = 3, 4, 6, 5, 7, 4
GATE_WIDTH = 3
NAMES = ("a", "b", "c")
GATED = (False, True, False, True)
PLAIN = (False,) * BLOCKS
SHARING = skip.SkipSharing(NAMES, BLOCKS, skip.every_block(TASKS, BLOCKS))
# Multiply-accumulates of one example.
STEM, BRANCH, HEAD = INPUTS * WIDTH, 2 * WIDTH * HIDDEN, 2 * WIDTH
GATE = WIDTH * GATE_WIDTH + 2 * GATE_WIDTH
# Compiling takes most of the time of these tests.
QUICK = {"xla_backend_optimization_level": 0}
SOME = hypothesis.settings(max_examples=6, derandomize=True, deadline=None, database=None)
ONES, ZEROS = ([[bit] * BLOCKS] * TASKS for bit in (1, 0))
routes = st.lists(
  st.lists(st.integers(0, 1), min_size=BLOCKS, max_size=BLOCKS), min_size=TASKS, max_size=TASKS
)


@functools.cache
def network() -> tuple[network_lib.Network, Any, jax.Array]:
  """A network of MLP blocks, its variables without a 0 or 1, and inputs."""
  trunk = skip_trunk.SkipTrunk(
    mlp.ResidualMlp(BLOCKS, width=WIDTH, hidden=HIDDEN, dropout=0.0),
    TASKS,
    GATED,
    GATE_WIDTH,
    "spread",
  )
  made = network_lib.Network(
    trunk, tuple(heads.build("linear", 2, False, 8, jnp.float32, None) for _ in range(TASKS)), NAMES
  )
  rng = np.random.default_rng(0)
  inputs = jnp.asarray(rng.normal(size=(BATCH, INPUTS)), jnp.float32)
  shapes = jax.eval_shape(
    lambda: made.init(
      jax.random.key(0), inputs, skip_trunk.Decisions(routing.all_run(BLOCKS, TASKS)), False
    )
  )
  variables = jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.asarray(
      np.abs(rng.normal(1, 0.2, leaf.shape))
      if "var" in jax.tree_util.keystr(path)
      else rng.normal(0.1, 0.6, leaf.shape),
      jnp.float32,
    ),
    shapes,
  )
  return made, variables, inputs


def run(
  plan: plan_lib.Plan, execution: trained_lib.Execution, threshold: Any = None
) -> tuple[dict[str, jax.Array], trunk_contract.Signals]:
  """One compiled forward pass."""
  made, variables, inputs = network()
  forward = trained_lib.forward(made, SHARING, plan, execution=execution, threshold=threshold)
  return jax.jit(forward, compiler_options=QUICK)(variables, inputs)


@functools.cache
def middle() -> tuple[float, ...]:
  """Thresholds `[L]` that half of the examples exceed where all is executed."""
  plan = plan_lib.make(NAMES, ONES, GATED)
  found = np.zeros(BLOCKS)
  for block in np.flatnonzero(GATED):
    score = run(plan, trained_lib.PLANNED, found)[1].own.relevance[0, :, block]
    found[block] = np.median(score)
  return tuple(found)


def histories(route: list[list[int]]) -> list[int]:
  """How often each block is computed: distinct pasts of who executes it."""
  return [
    len({tuple(row[:block]) for row in route if row[block]}) for block in range(len(route[0]))
  ]


@hypothesis.given(route=routes, gated=st.booleans())
@hypothesis.example(route=ONES, gated=True)
@hypothesis.example(route=ZEROS, gated=True)
@hypothesis.example(route=ONES, gated=False)
@hypothesis.example(route=ZEROS, gated=False)
@SOME
def test_every_route_predicts_as_if_masked(route, gated):
  plan = plan_lib.make(NAMES, route, GATED if gated else None)
  masked, one = run(plan, trained_lib.MASKED, middle())
  planned, two = run(plan, trained_lib.PLANNED, middle())
  for name in NAMES:
    np.testing.assert_allclose(planned[name], masked[name], rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(one.executed, two.executed)


def test_gates_in_this_network_decide_both_ways():
  # Else the comparison above would show nothing of them.
  plan = plan_lib.make(NAMES, ONES, GATED)
  gate = run(plan, trained_lib.PLANNED, middle())[1].own.gate
  np.testing.assert_allclose(gate.mean((0, 1)), [1.0, 0.5, 1.0, 0.5])


@pytest.mark.parametrize("threshold, wanted", [(-1e6, 1.0), (1e6, 0.0)])
def test_thresholds_open_and_close_every_gate(threshold, wanted):
  plan = plan_lib.make(NAMES, ONES, GATED)
  _, signals = run(plan, trained_lib.PLANNED, np.full(BLOCKS, threshold))
  np.testing.assert_array_equal(signals.executed[:, :, 1], wanted)
  np.testing.assert_array_equal(signals.executed[:, :, 0], 1.0)


def test_without_gates_every_block_of_the_route_runs():
  plan = plan_lib.make(NAMES, [[1, 1, 0, 1]] * 3, GATED)
  _, signals = run(plan, trained_lib.PLANNED._replace(gates=False))
  np.testing.assert_array_equal(
    signals.executed, np.broadcast_to([1.0, 1, 0, 1], (TASKS, BATCH, BLOCKS))
  )
  np.testing.assert_array_equal(signals.own.gated, False)


@hypothesis.given(route=routes, gated=st.booleans())
@hypothesis.example(route=ONES, gated=True)
@hypothesis.example(route=ZEROS, gated=False)
@hypothesis.settings(SOME, max_examples=25)
def test_only_what_is_computed_is_traced(route, gated):
  plan = plan_lib.make(NAMES, route, GATED if gated else None)
  made, variables, inputs = network()
  assert list(plan.computations) == histories(route)
  wanted = (
    STEM
    + TASKS * HEAD
    + sum(
      count * (BRANCH + GATE * asks)
      for count, asks in zip(plan.computations, plan.gated, strict=True)
    )
  )
  assert BATCH * wanted == costs.macs(
    trained_lib.forward(made, SHARING, plan, execution=trained_lib.PLANNED), variables, inputs
  )


# Text and data, by hand. Tasks a and b are alike in blocks 0 and 1; c leaves
# after block 0.


@pytest.fixture
def shared() -> plan_lib.Plan:
  return plan_lib.make(NAMES, [[1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 0, 1]], GATED)


def test_the_diagram_of_a_plan(shared):
  assert shared.describe() == (
    "block  0   1   2   3\n"
    "a      a   b?  c   ·\n"
    "b      a   b?  ·   d?\n"
    "c      a   ·   ·   e?\n"
    "\n"
    "8 of 12 (task, block) pairs run, in 5 computations."
  )


def test_the_diagram_of_nothing():
  plan = plan_lib.make(["segmentation", "b"], [[0, 0], [0, 0]])
  assert plan.describe() == (
    "block         0  1\n"
    "segmentation  ·  ·\n"
    "b             ·  ·\n"
    "\n"
    "0 of 4 (task, block) pairs run, in 0 computations."
  )


def test_many_groups_have_names_of_their_own():
  route = np.eye(30, dtype=int)  # 30 tasks, each has one block alone
  rows = plan_lib.make([f"t{t}" for t in range(30)], route).describe()
  shown = [line.split()[1 + t] for t, line in enumerate(rows.split("\n")[1:31])]
  assert shown[:2] + shown[24:] == ["a", "b", "y", "z", "aa", "ab", "ac", "ad"]


def test_a_plan_as_data(shared):
  found = shared.to_dict()
  assert found == {
    "tasks": ["a", "b", "c"],
    "route": [[1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 0, 1]],
    "gated": [False, True, False, True],
    "pairs": 8,
    "computations": 5,
    "blocks": [
      {"block": 0, "gated": False, "computed_for": [["a", "b", "c"]], "skipped_by": []},
      {"block": 1, "gated": True, "computed_for": [["a", "b"]], "skipped_by": ["c"]},
      {"block": 2, "gated": False, "computed_for": [["a"]], "skipped_by": ["b", "c"]},
      {"block": 3, "gated": True, "computed_for": [["b"], ["c"]], "skipped_by": ["a"]},
    ],
  }


def test_equal_plans_compile_once():
  one = plan_lib.make(NAMES, np.asarray(ONES, np.float32), GATED)
  two = plan_lib.make(list(NAMES), ONES, np.asarray(GATED))
  assert one == two
  assert hash(one) == hash(two)
  assert one != plan_lib.make(NAMES, ONES)


@pytest.mark.parametrize(
  "route, gated, words",
  [
    ([[1], [1]], None, "The route has 2 rows for 3 tasks ('a', 'b', 'c'): give it one row a task."),
    ([[1, 0], [1, 2], [0, 0]], None, "A route holds 0 and 1 only, not [2.0]."),
    ([[1, 0], [1, 0.5], [0, 0]], None, "A route holds 0 and 1 only, not [0.5]."),
    ([[1, 0], [1], [0, 0]], None, "The route has rows of [1, 2] blocks; the network has 2."),
    ([[1, 0]] * 3, (True,), "The route has rows of [2] blocks; the network has 1."),
    ([[]] * 3, None, "A routing needs at least one block and one task."),
  ],
)
def test_what_is_no_route(route, gated, words):
  with pytest.raises(ValueError) as error:
    plan_lib.make(NAMES, route, gated)
  assert str(error.value) == words


def test_no_task_is_no_plan():
  with pytest.raises(ValueError, match="0 rows for 0 tasks"):
    plan_lib.make([], [])
