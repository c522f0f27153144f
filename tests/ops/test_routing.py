"""Groups of tasks, block after block."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
import pytest

from dynashare_jax.ops import routing
from dynashare_jax.ops.routing import GATE
from dynashare_jax.ops.routing import OWN
from dynashare_jax.ops.routing import RUN
from dynashare_jax.ops.routing import SKIP


def test_hard_sharing_keeps_one_group():
  for split in routing.splits(routing.all_run(3, 4)):
    assert split == routing.Split(((0, 1, 2, 3),), (0,), 1, (RUN,))


def test_own_splits_into_tasks_after_the_shared_blocks():
  plan = routing.splits(routing.own(4, 3, shared=2))
  assert [len(split.groups) for split in plan] == [1, 1, 3, 3]
  assert plan[2] == routing.Split(((0,), (1,), (2,)), (0, 0, 0), 3, (OWN,) * 3)
  assert plan[3].parents == (0, 1, 2)


def test_a_route_worked_by_hand():
  # Task 0 and 2 run block 0, task 1 skips it; then 0 and 1 run, 2 skips.
  plan = routing.splits(((RUN, SKIP, RUN), (RUN, RUN, SKIP)))
  assert plan[0] == routing.Split(((0, 2), (1,)), (0, 0), 1, (RUN,))
  assert plan[1] == routing.Split(((0,), (1,), (2,)), (0, 1, 0), 2, (RUN, RUN))


def test_tasks_that_skipped_apart_never_join_again():
  plan = routing.splits(((RUN, SKIP), (SKIP, SKIP), (RUN, RUN)))
  assert [split.groups for split in plan] == [((0,), (1,))] * 3
  assert plan[1].running == 0 and plan[1].modes == ()
  assert plan[2].parents == (0, 1)


def test_a_gate_asks_once_a_group():
  plan = routing.splits(((GATE, GATE, SKIP), (GATE, GATE, GATE)))
  assert plan[0] == routing.Split(((0, 1), (2,)), (0, 0), 1, (GATE,))
  assert plan[1].modes == (GATE, GATE)


def test_fixed_routes_split_at_gates_in_training_only():
  route = [[1, 1, 0], [1, 1, 1]]
  gated = (False, True, True)
  assert routing.fixed(route, gated, train=True) == ((RUN, RUN), (OWN, OWN), (SKIP, OWN))
  assert routing.fixed(route, gated, train=False) == ((RUN, RUN), (GATE, GATE), (SKIP, GATE))


modes = st.integers(1, 5).flatmap(
  lambda tasks: st.lists(
    st.lists(st.sampled_from([SKIP, RUN, GATE, OWN]), min_size=tasks, max_size=tasks),
    min_size=1,
    max_size=5,
  )
)


@hypothesis.settings(max_examples=100, derandomize=True, database=None)
@hypothesis.given(modes)
def test_groups_part_the_tasks_by_their_history(rows):
  plan = routing.splits(tuple(tuple(row) for row in rows))
  before = ((tuple(range(len(rows[0])))),)
  for row, split in zip(rows, plan, strict=True):
    assert sorted(sum(split.groups, ())) == list(range(len(row)))
    assert len(split.modes) == split.running <= len(split.groups)
    for g, (tasks, parent) in enumerate(zip(split.groups, split.parents, strict=True)):
      assert set(tasks) <= set(before[parent])
      assert len({row[t] for t in tasks}) == 1
      assert (row[tasks[0]] != SKIP) == (g < split.running)
      if g < split.running:
        assert split.modes[g] == row[tasks[0]]
      if row[tasks[0]] == OWN:
        assert len(tasks) == 1
      else:  # nobody who was treated alike is left out
        alike = {t for t in before[parent] if row[t] == row[tasks[0]]}
        assert set(tasks) == alike
    before = split.groups


@pytest.mark.parametrize(
  "rows, message",
  [
    ((), "at least one block"),
    (((),), "at least one block and one task"),
    (((RUN,), (RUN, RUN)), "same tasks"),
    (((RUN, 7),), r"not \{7\}"),
  ],
)
def test_a_routing_without_sense_is_refused(rows, message):
  with pytest.raises(ValueError, match=message):
    routing.splits(rows)


@pytest.mark.parametrize("route", [[[1, 1], [1, 1, 1]], [[1] * 4] * 2])
def test_a_route_of_another_length_is_refused(route):
  with pytest.raises(ValueError, match="the network has 3"):
    routing.fixed(route, (False,) * 3, True)
