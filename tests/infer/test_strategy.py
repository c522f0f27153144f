"""Which way of gated execution is taken, and that a measurement decides."""

from __future__ import annotations

import dataclasses
import pathlib
import types as python_types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.models import heads
from dynashare_jax.models.backbones import mlp
from dynashare_jax.models.trunks import network as network_lib
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import compaction
from dynashare_jax.ops import routing
from dynashare_jax.sharing import skip

ROUTE = np.array([[1, 1, 1], [1, 1, 0]])


@pytest.fixture(scope="module")
def trained():
  """Two tasks on a tiny MLP whose last two blocks have gates."""
  gated = (False, True, True)
  trunk = skip_trunk.SkipTrunk(mlp.ResidualMlp(3, width=6, hidden=8), 2, gated, gate_init="spread")
  network = network_lib.Network(
    trunk, (heads.LinearHead(1, False), heads.LinearHead(2, False)), ("a", "b")
  )
  inputs = jnp.ones((4, 5))
  variables = network.init(
    jax.random.key(0), inputs, skip_trunk.Decisions(routing.all_run(3, 2)), False
  )
  experiment = python_types.SimpleNamespace(
    network=network,
    units=3,
    dataset=python_types.SimpleNamespace(spec=types.DatasetSpec("toy", (), "table", (5,), {})),
    tasks=(types.TaskSpec("a", "binary"), types.TaskSpec("b", "binary")),
    sharing=skip.SkipSharing(
      ("a", "b"), 3, skip.every_block(2, 3), target_rates=tuple(0.5 if g else 1.0 for g in gated)
    ),
  )
  return trained_lib.Trained(
    experiment,
    variables["params"],
    variables["batch_stats"],
    experiment.sharing.of(ROUTE),
    pathlib.Path(),
    1,
  )


def test_one_example_is_conditional_and_many_are_compacted():
  assert strategy.choose(1, "cpu") == compaction.Compaction("rows")
  assert strategy.choose(2, "cpu") == compaction.Compaction("rows")
  buckets = compaction.Compaction("buckets", 16)
  assert strategy.choose(1024, "cpu", input_kind="table") == buckets
  assert strategy.choose(1023, "cpu", input_kind="table") is None
  assert strategy.choose(1, "gpu", input_kind="table").how == "rows"
  assert strategy.choose(32, "gpu") == buckets
  assert strategy.choose(4, "gpu") is None
  with pytest.raises(ValueError, match="is 0; it must be at least 1"):
    strategy.choose(0, "cpu")


def test_a_measurement_of_this_platform_decides():
  tuned = {"platform": "cpu", "choices": {"1": "masked", "8": "rows", "32": "masked"}}
  assert strategy.choose(1, "cpu", tuned) is None
  assert strategy.choose(9, "cpu", tuned) == compaction.Compaction("rows")
  assert strategy.choose(30, "cpu", tuned) is None
  # Nothing was measured near 2: batch 1 says nothing of it.
  assert strategy.choose(2, "cpu", tuned) == compaction.Compaction("rows")
  assert strategy.choose(1, "gpu", tuned) == compaction.Compaction("rows")


def test_tuning_takes_the_quickest(trained, monkeypatch):
  """The clock is ours: rows take 3, masked 1, buckets 2 seconds."""
  spent = {"rows": 3.0, "masked": 1.0, "buckets": 2.0}
  now = [0.0]
  order = []
  real = strategy.WAYS

  def clock():
    return now[0]

  def compiled(self, execution=None, threshold=None):
    name = next(k for k, v in real.items() if v == execution.compaction)

    def run(variables, inputs):
      jax.debug.callback(lambda: order.append(name))
      return inputs * 1

    return run

  monkeypatch.setattr(trained_lib.Trained, "forward", compiled)
  blocked = strategy.jax.block_until_ready

  def wait(found):
    blocked(found)
    jax.effects_barrier()
    now[0] += spent[order[-1]]
    return found

  monkeypatch.setattr(strategy.jax, "block_until_ready", wait)
  monkeypatch.setattr(strategy.clock.time, "perf_counter", clock)
  found = strategy.tune(trained, {1: np.ones((1, 5)), 4: np.ones((4, 5))}, repeats=3)
  assert found["choices"] == {"1": "masked", "4": "masked"}
  assert found["seconds"]["4"] == spent
  assert found["seconds"]["1"] == {"rows": 3.0, "masked": 1.0}
  assert found["platform"] == "cpu"


def test_all_ways_compute_the_same(trained):
  inputs = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
  want = None
  for way in strategy.WAYS.values():
    run = trained.forward(trained_lib.Execution(compaction=way))
    logits, signals = jax.jit(run)(trained.variables, inputs)
    found = [*logits.values(), signals.executed]
    want = found if want is None else want
    for a, b in zip(found, want, strict=True):
      np.testing.assert_allclose(a, b, 1e-5, 1e-6)


def test_what_was_tuned_is_kept_beside_the_checkpoint(trained, tmp_path):
  assert strategy.load(tmp_path) is None
  found = strategy.tune(trained, {1: np.ones((1, 5))}, repeats=1)
  strategy.save(found, tmp_path)
  assert strategy.load(tmp_path) == found
  (tmp_path / strategy.FILE).write_text('{"platform": "cpu"}')
  with pytest.raises(ValueError, match="delete it and tune again"):
    strategy.load(tmp_path)


def test_refuses_what_cannot_be_tuned(trained):
  plain = dataclasses.replace(trained, structure=trained.sharing.of(ROUTE, False))
  with pytest.raises(ValueError, match="no instance gates"):
    strategy.tune(plain, {1: np.ones((1, 5))})


def test_a_models_way_follows_its_data_and_its_folder(trained, tmp_path):
  here = trained_lib.dataclasses.replace(trained, workdir=tmp_path)
  assert strategy.of(here, 4096, "cpu") == strategy.WAYS["buckets"]  # a table
  strategy.save({"platform": "cpu", "choices": {"8": "masked"}}, tmp_path)
  assert strategy.of(here, 8, "cpu") is None
