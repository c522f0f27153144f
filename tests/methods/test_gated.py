"""GatedMTL: from learned gates to a network without the channels that nobody takes."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax import infer
from dynashare_jax.infer import cost
from dynashare_jax.infer import export
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.objectives import kinds
from dynashare_jax.ops import channel_gates
from dynashare_jax.train import step as step_lib

VALUES = {
  "method": "gated",
  "train__steps": 8,
  "train__warmup_steps": 3,
  "train__eval_every": 8,
  "gated__start": "single",
  "gated__use": "work",
  "gated__targets": (0.25, 0.5),
  "gated__lr": 0.5,
}


@pytest.fixture(scope="module")
def run(whole):
  return whole(**VALUES)


@pytest.fixture(scope="module")
def trained(run):
  return trained_lib.restore(run.experiment, run.folder)


def test_gates_are_fixed_within_their_budgets(run, trained):
  use = channel_gates.use(trained.structure, run.experiment.sharing._shares)
  assert (np.asarray(use) <= np.asarray([0.25, 0.5]) + 1e-6).all()
  assert (np.asarray(use) > 0).all()  # they began open
  learnt = run.state.params["policy"]
  for name, gates in trained.structure.items():
    assert (np.asarray(learnt[name])[gates == 1] > 0).all()
  np.testing.assert_allclose(run.results["candidates"][0]["own"], use, rtol=1e-6)
  line = next(line["values"] for line in run.lines if line["kind"] == "channels")
  np.testing.assert_allclose(line["open"], use, rtol=1e-6)


def test_the_kept_network_is_the_smaller_one(run, trained):
  lean = trained.lean()
  assert lean.experiment.network.trunk is not trained.experiment.network.trunk
  inputs = jnp.asarray(run.experiment.dataset.arrays("test").inputs[:4])
  masked, _ = jax.jit(trained.forward())(trained.variables, inputs)
  cut, _ = jax.jit(lean.forward())(lean.variables, inputs)
  for task in masked:
    np.testing.assert_allclose(cut[task], masked[task], rtol=1e-5, atol=1e-5)
  size = lambda model: sum(leaf.size for leaf in jax.tree.leaves(model.variables))
  assert sum(run.results["parameters"].values()) == size(lean) < size(trained)
  found = {(s.scope, s.way): s.macs for s in cost.subjects(trained)}
  assert found[cost.ALL, cost.LEAN] == run.results["macs"]["total"]
  assert found["a", cost.LEAN] <= found[cost.ALL, cost.LEAN] < found[cost.ALL, cost.WHOLE]


def test_an_artefact_holds_what_is_kept(run, trained, tmp_path):
  about, _ = export.export(export.choose(trained, ("b",)), ("cpu",))
  export.write(export.choose(trained, ("b",)), tmp_path, ("cpu",))
  model = infer.load(tmp_path)
  assert about["weights"] < sum(leaf.size for leaf in jax.tree.leaves(trained.lean().variables))
  inputs = np.asarray(run.experiment.dataset.arrays("test").inputs[:3])
  logits, _ = jax.jit(trained.forward())(trained.variables, jnp.asarray(inputs))
  found = model(inputs)
  task = run.experiment.tasks[1]
  wanted = kinds.find(task.kind).predict(task, logits["b"])
  np.testing.assert_allclose(found["b"], wanted, rtol=1e-4, atol=1e-5)


def test_the_warm_up_gives_every_task_one_column_or_the_other(run):
  experiment = run.experiment
  sharing, seen = experiment.sharing, set()
  for step in range(24):
    moving = step_lib.moving_of(sharing, experiment.method.phases[0], 0, step, step, {})
    gates = sharing.control("own or shared columns", {}, moving, step, 8)
    rows = np.concatenate([np.asarray(g) for g in gates.values()], 1)
    assert (rows == rows[:, :1]).all()
    seen.add(tuple(rows[:, 0]))
  assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_one_task_has_all_to_itself(build):
  experiment = build(**VALUES | {"data__tasks": ("a",), "gated__targets": (0.5,)})
  assert experiment.sharing.targets == (0.5,)


@pytest.mark.parametrize(
  "values, told",
  [
    ({"gated__targets": (1.5,)}, "config.gated.targets must be in"),
    ({"gated__targets": (0.5, 0.5, 0.5)}, "one number, or 2, one a task"),
    ({"gated__fixed": 0.0}, "config.gated.fixed must leave a step"),
    ({"gated__start": "singl"}, "config.gated.start"),
    ({"gated__lr": 0.0}, "config.gated.lr must be above 0"),
  ],
)
def test_values_without_sense_are_refused(build, values, told):
  with pytest.raises(ValueError, match=told):
    build(**VALUES | values)
