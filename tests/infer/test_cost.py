"""What an execution costs, against hand counts."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import itertools
import pathlib

import jax
from jax import numpy as jnp
import numpy as np
import pytest
from tiny import configs

from dynashare_jax import runs as main
from dynashare_jax.infer import cost
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.ops import costs

# The tiny network: 6 inputs, width 8, two blocks of hidden width 8, a gate at
# the last, a binary task and one of three classes.
STEM, BRANCH, GATE, HEADS = 6 * 8, 2 * 8 * 8, 8 * 16 + 16 * 2, (8, 8 * 3)
FIRST, LAST = 6 * 8 + 8, 2 * 8  # parameters of the stem and of the last norm
BODY = 2 * 8 + 2 * (8 * 8 + 8)  # of a block
GATE_SIZE = 8 * 16 + 16 + 2 * 16 + 16 * 2 + 2
HEAD_SIZES = (8 + 1, 8 * 3 + 3)


@pytest.fixture(scope="module")
def make() -> Callable[..., trained_lib.Trained]:
  """Makes a model with random weights: `make(route, method)`."""
  config = configs.make

  def build(route, method="dynashare"):
    experiment = main.build(config(method=method), jax.devices()[:1])[0]
    rng = np.random.default_rng(0)
    noisy = lambda a: a + 0.3 * jnp.asarray(rng.normal(size=a.shape), a.dtype)
    params, stats = experiment.fresh("init")
    return trained_lib.Trained(
      experiment,
      jax.tree.map(noisy, params),
      jax.tree.map(lambda a: jnp.abs(noisy(a)), stats),
      experiment.sharing.of(route),
      pathlib.Path("run"),
      0,
    )

  yield build


@pytest.fixture(scope="module")
def model(make):
  """Task a executes both blocks, task b the first one alone."""
  return make([[1, 1], [1, 0]])


@pytest.fixture(scope="module")
def separate(make):
  return make([[1, 1], [1, 1]], "single")


@pytest.fixture(scope="module")
def inputs(model):
  return np.asarray(model.experiment.dataset.arrays("test").inputs)


def _found(subjects) -> dict[tuple[str, str], cost.Cost]:
  return {(s.scope, s.way): cost.static(s) for s in subjects}


def test_every_scope_and_way(model, separate):
  found = cost.subjects(model, separate=separate)
  assert [(s.scope, s.way) for s in found] == [
    ("all tasks", "masked"),
    ("all tasks", "planned"),
    ("all tasks", "planned + gated"),
    ("all tasks", "single-task networks"),
    ("a", "masked"),
    ("a", "planned"),
    ("a", "planned + gated"),
    ("a", "single-task networks"),
    # b runs no gated block.
    ("b", "masked"),
    ("b", "planned"),
    ("b", "single-task networks"),
  ]


def test_work_and_parameters_by_hand(model, separate):
  rate = np.asarray([[1.0, 0.25], [1.0, 0.0]])
  found = _found(cost.subjects(model, rate, separate))
  both, sizes = sum(HEADS), sum(HEAD_SIZES)
  one, two = FIRST + LAST + BODY, FIRST + LAST + 2 * BODY
  wanted = {
    ("all tasks", "masked"): (STEM + 3 * BRANCH + 2 * GATE + both, (two, GATE_SIZE, sizes, 32)),
    ("all tasks", "planned"): (STEM + 2 * BRANCH + GATE + both, (two, GATE_SIZE, sizes, 32)),
    ("all tasks", "planned + gated"): (
      STEM + 1.25 * BRANCH + GATE + both,
      (two, GATE_SIZE, sizes, 32),
    ),
    ("all tasks", "single-task networks"): (2 * (STEM + 2 * BRANCH) + both, (2 * two, 0, sizes, 0)),
    ("a", "masked"): (STEM + 2 * BRANCH + GATE + HEADS[0], (two, GATE_SIZE, HEAD_SIZES[0], 32)),
    ("a", "planned + gated"): (
      STEM + 1.25 * BRANCH + GATE + HEADS[0],
      (two, GATE_SIZE, HEAD_SIZES[0], 32),
    ),
    ("b", "masked"): (STEM + 2 * BRANCH + GATE + HEADS[1], (two, GATE_SIZE, HEAD_SIZES[1], 32)),
    # What b skips, and its gate, are never read.
    ("b", "planned"): (STEM + BRANCH + HEADS[1], (one, 0, HEAD_SIZES[1], 0)),
    ("b", "single-task networks"): (STEM + 2 * BRANCH + HEADS[1], (two, 0, HEAD_SIZES[1], 0)),
  }
  for place, (macs, parameters) in wanted.items():
    assert found[place].macs == macs, place
    assert tuple(found[place].parameters.values()) == parameters, place
  assert found["all tasks", "planned + gated"].xla_macs is None


def test_rates_are_one_by_default(model):
  found = {(s.scope, s.way): s.macs for s in cost.subjects(model)}
  assert found["all tasks", "planned + gated"] == (found["all tasks", "planned"])


def test_one_network_a_task_has_that_way_alone(separate):
  found = cost.subjects(separate, np.ones((2, 2)))
  assert [(s.scope, s.way) for s in found] == [
    ("all tasks", cost.SEPARATE),
    ("a", cost.SEPARATE),
    ("b", cost.SEPARATE),
  ]
  with pytest.raises(ValueError, match="has no plan to list"):
    cost.blocks(separate)


def test_a_task_alone_predicts_the_same(model, separate, inputs):
  for whole in (model, separate):
    wanted, all_signals = jax.jit(whole.forward())(whole.variables, inputs)
    for task, name in enumerate("ab"):
      one = whole.only([task])
      found, signals = jax.jit(one.forward())(one.variables, inputs)
      assert list(found) == [name]
      np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5)
      np.testing.assert_array_equal(signals.executed[0], all_signals.executed[task])


def test_all_ways_predict_the_same(model, inputs):
  by_way = {
    s.way: jax.jit(s.forward(len(inputs)))(s.model.variables, inputs)
    for s in cost.subjects(model)
    if s.scope == cost.ALL
  }
  assert len(by_way) == 3
  wanted, signals = by_way[cost.MASKED]
  for logits, other in by_way.values():
    np.testing.assert_array_equal(other.executed, signals.executed)
    for name in "ab":
      np.testing.assert_allclose(logits[name], wanted[name], rtol=1e-4, atol=1e-5)


def test_blocks_by_hand(model):
  assert cost.blocks(model, np.asarray([[1, 0.25], [1, 0]])) == (
    cost.Block(BRANCH, 1, 1, 1.0),
    cost.Block(BRANCH, 2, 1, 0.25),
  )
  ungated = dataclasses.replace(model, structure=model.sharing.of(model.route, False))
  assert cost.blocks(ungated)[1] == cost.Block(BRANCH, 2, 1, None)


# What XLA counts.


def _conv(pad: int, dilation: int) -> Callable[..., jax.Array]:
  return lambda x, w: jax.lax.conv_general_dilated(
    x,
    w,
    (1, 1),
    [(pad, pad)] * 2,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def test_xla_agrees_without_padding():
  x = jax.ShapeDtypeStruct((2, 9, 11, 3), jnp.float32)
  w = jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)
  for dilation in (1, 2):
    run = _conv(0, dilation)
    assert cost.xla_macs(run, x, w) == costs.macs(run, x, w)


def test_xla_leaves_out_taps_in_the_padding():
  x = jax.ShapeDtypeStruct((1, 6, 6, 2), jnp.float32)
  w = jax.ShapeDtypeStruct((3, 3, 2, 5), jnp.float32)
  run = _conv(4, 4)
  # Along an axis: 6 centre taps, and 2 places where each outer tap is inside.
  assert cost.xla_macs(run, x, w) == (6 + 2 + 2) ** 2 * 2 * 5
  assert costs.macs(run, x, w) == 18**2 * 2 * 5


def test_xla_and_the_analytic_count_of_a_network(model):
  found = cost.static(cost.subjects(model)[0])
  # No convolution, so that all of the difference is elementwise work.
  assert 1.0 < found.xla_macs / found.macs < 2.0


# The clock.


def test_measuring(model, inputs, monkeypatch):
  ticks = itertools.count()
  monkeypatch.setattr(cost.clock.time, "perf_counter", lambda: float(next(ticks)))
  told = []
  chosen = cost.subjects(model)[:3]
  found = cost.measure(chosen, inputs, (1, 4), 5, told.append)
  assert [c.way for c in found] == list(cost.WAYS[:3])
  for measured in found:
    assert list(measured.times) == [1, 4]
    for times in measured.times.values():
      assert times.seconds == (1.0,) * 5 and times.median == 1.0
      assert times.activations > 0
  assert told == ["batch 1: compiling 3 programs", "batch 4: compiling 3 programs"]


def test_more_rounds_than_batches_go_round(model, inputs):
  found = cost.measure(cost.subjects(model)[1:2], inputs[:5], (4,), 3)
  assert len(found[0].times[4].seconds) == 3
