"""Methods that skip no blocks, new ones unasked: from a configuration to a report."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from train.stepper import Stepper

from dynashare_jax import methods
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.report.run import report

# Those that skip blocks; and those whose whole runs are in files of their own.
SKIPPING = {"adashare", "affinity", "dynashare", "hard", "random_policy", "single"}
ELSEWHERE = {"den", "disparse", "mmoe", "mmoeex", "ple"}
NAMES = [name for name in methods.available() if name not in SKIPPING | ELSEWHERE]


@pytest.fixture(scope="module", params=NAMES)
def run(request, whole):
  one = {"model__blocks": (1,), "gates__target_rates": (1.0,)} if request.param != "branch" else {}
  return whole(method=request.param, train__steps=8, train__eval_every=8, **one)


def test_it_trains_to_a_report_that_shows_what_it_learned(run):
  found = run.results
  for task in found["tasks"]:
    assert task["metrics"][0]["test"] is not None
  assert found["macs"]["total"] > 0 and len(found["candidates"]) == 1
  for panel in found["learned"]["panels"]:
    shape = len(panel["rows"]), len(panel["columns"])
    assert np.shape(panel["values"]) == shape and np.isfinite(panel["values"]).all()
  report.write_report(run.folder)
  text = (run.folder / "report.md").read_text()
  title, caption = (found["learned"][name] for name in ("title", "caption"))
  assert f"## {title}\n\n![{title}](figures/learned.png)\n\n{caption}" in text
  assert (run.folder / "figures" / "learned.png").stat().st_size > 1000


def test_it_starts_with_the_loss_that_its_parts_add_up_to(run):
  first = next(line["values"] for line in run.lines if line["kind"] == "train")
  parts = [t.weight * first[f"loss/{t.name}"] for t in run.experiment.tasks]
  parts += [value for name, value in first.items() if name.startswith("penalty/")]
  assert first["loss/total"] == pytest.approx(sum(parts), rel=1e-5)


def test_a_task_alone_finds_what_it_finds_among_others(run):
  structure = run.experiment.sharing.chosen(run.state.routes, 0)
  best = run.state.best
  trained = trained_lib.Trained(run.experiment, best.params, best.stats, structure, run.folder, 8)
  inputs = np.asarray(run.experiment.dataset.arrays("test").inputs)[:4]
  logits, _ = jax.jit(trained.forward())(trained.variables, inputs)
  alone = trained.only((1,))
  found, _ = jax.jit(alone.forward())(alone.variables, inputs)
  assert set(found) == {"b"}
  np.testing.assert_allclose(found["b"], logits["b"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, phase", [("gated", "weights"), ("mpps", "retrain")])
def test_four_devices_step_as_one(build, name, phase):
  """With what is learnt beside the weights: gates, and masks that all devices draw alike."""
  found = []
  for devices in (1, 4):
    stepper = Stepper(build(devices=devices, method=name, exclusive__lr=0.1), phase)
    before = stepper.start()
    after, _ = stepper(before, count=2)
    found.append(jax.device_get((after.params, after.stats, after.memory)))
  one, four = found
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, four)
  start = stepper.experiment.initial_state().params["policy"]
  moved = [
    np.abs(a - b).max() > 1e-4
    for a, b in zip(*map(jax.tree.leaves, (one[0]["policy"], start)), strict=True)
  ]
  assert all(moved)
