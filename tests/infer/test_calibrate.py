"""Tests of calibration: a random network with gates meets any budget."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import configs

from dynashare_jax import runs as main
from dynashare_jax.infer import calibrate
from dynashare_jax.infer import closing
from dynashare_jax.infer import settings
from dynashare_jax.infer import trained as trained_lib

ROUTE = np.array([[1, 1, 1, 1], [1, 1, 0, 1]])
Budget = settings.Budget


def _trained(route=ROUTE, gates=True, **values):
  """A model of random weights: 2 tasks, 4 blocks, gates on the last 3."""
  config = configs.make(
    **{
      "model__blocks": (4,),
      "model__width": 16,
      "gates__target_rates": (1.0, 0.6, 0.6, 0.6),
      "gates__init": "spread",
      "data__validation": 600,
      "data__test": 600,
      "eval__batch_size": 128,
      **values,
    }
  )
  experiment = main.build(config, jax.devices()[:1])[0]
  params, stats = experiment.fresh("init")
  rng = np.random.default_rng(0)
  noisy = lambda tree: jax.tree.map(
    lambda a: a + 0.3 * jnp.asarray(rng.normal(size=a.shape), a.dtype), tree
  )
  stats = jax.tree.map(jnp.abs, noisy(stats))
  return trained_lib.Trained(
    experiment,
    noisy(params),
    stats,
    experiment.sharing.of(route, gates),
    pathlib.Path("somewhere"),
    0,
  )


@pytest.fixture(scope="module")
def calibrator():
  return calibrate.Calibrator(_trained())


@pytest.fixture(scope="module")
def executed(calibrator):
  """Of a setting and a split: `[T, B, L]`, in one masked forward pass."""
  trained = calibrator.trained

  @jax.jit
  def run(variables, inputs, threshold, target):
    forward = trained.forward(trained_lib.MASKED, threshold=threshold, target_rate=target)
    return forward(variables, inputs)[1].executed

  def find(setting, split):
    knobs = np.asarray(setting.thresholds, np.float32), np.float32(setting.target_rate)
    inputs = trained.experiment.dataset.arrays(split).inputs
    return np.asarray(run(trained.variables, inputs, *knobs))

  return find


@pytest.mark.parametrize("value", (0.65, 0.75, 0.9))
def test_flops_budget_is_met_and_holds_on_unseen_data(calibrator, executed, value):
  setting = calibrator.meet(Budget(value), test=True)
  assert setting.validation.flops == pytest.approx(value, rel=0.01)
  # By hand: blocks of one width all cost the same behind their gates.
  found = executed(setting, "test")
  work = calibrator.work
  by_hand = work.fixed + sum(
    amount * found[task, :, block].mean() for task, block, amount in work.gated
  )
  assert by_hand / work.full == pytest.approx(setting.test.flops, rel=1e-6)
  shares = sum(a * found[t, :, l] for t, l, a in work.gated) / work.full
  assert setting.test.error == pytest.approx(shares.std() / 600**0.5, rel=1e-5)
  assert abs(setting.test.flops - value) < 4 * setting.test.error + 0.002


def test_rate_budget_counts_triples_of_all_tasks_and_blocks(calibrator, executed):
  low, high = calibrator.reach("rate")
  assert (low, high) == (pytest.approx(2 / 8), pytest.approx(7 / 8))
  setting = calibrator.meet(Budget(0.6, "rate"))
  assert setting.test is None
  found = executed(setting, "validation")
  assert found.mean() == pytest.approx(setting.met(), rel=1e-6)
  assert setting.met() == pytest.approx(0.6, rel=0.005)


def test_both_ends_are_reached_exactly_on_any_data(calibrator, executed):
  low, high = calibrator.reach("flops")
  assert high == 1.0
  assert low == calibrator.work.fixed / calibrator.work.full
  closed, opened = (calibrator.meet(Budget(v)) for v in (low, high))
  want = ROUTE * np.array([1, 0, 0, 0])
  for split in ("validation", "test"):
    found = executed(closed, split)
    np.testing.assert_array_equal(found, np.broadcast_to(want[:, None], found.shape))
    found = executed(opened, split)
    np.testing.assert_array_equal(found, np.broadcast_to(ROUTE[:, None], found.shape))
  assert max(map(abs, closed.thresholds)) == closing.FAR
  assert closed.thresholds[0] == 0.0  # has no gate


def test_test_data_are_never_used_to_choose(calibrator):
  """Other test labels and inputs: the same thresholds, bit for bit."""
  trained = calibrator.trained
  experiment = trained.experiment
  dataset = experiment.dataset

  def arrays(split):
    assert split != "test", "test was read"
    return dataset.arrays(split)

  blind = dataclasses.replace(
    trained,
    experiment=dataclasses.replace(experiment, dataset=dataclasses.replace(dataset, arrays=arrays)),
  )
  want = calibrate.Calibrator(trained).meet(Budget(0.7), test=True)
  assert calibrate.Calibrator(blind).meet(Budget(0.7)) == dataclasses.replace(want, test=None)


def test_settings_of_a_curve_grow_with_the_budget(calibrator):
  budgets = [Budget(v) for v in (0.65, 0.7, 0.8, 1.0)]
  found = [calibrator.meet(budget, test=True) for budget in budgets]
  met = [s.test.flops for s in found]
  assert met == sorted(met) and met[0] < 0.7 and met[-1] == 1.0
  assert [s.budget for s in found] == [0.65, 0.7, 0.8, 1.0]
  assert set(found[0].test.metrics) == {"a", "b"}


def test_default_is_the_model_as_trained(calibrator):
  setting = calibrator.default(test=True)
  assert setting.thresholds == (0.0,) * 4 and setting.budget is None
  run = jax.jit(calibrator.trained.forward())
  batch = calibrator.trained.experiment.dataset.arrays("test")
  executed = run(calibrator.trained.variables, batch.inputs)[1].executed
  assert setting.test.rate == pytest.approx(float(executed.mean()), rel=1e-6)


@pytest.mark.parametrize("value, word", ((0.01, "below the lowest"), (1.1, "above the highest")))
def test_a_budget_out_of_reach_is_refused(calibrator, value, word):
  with pytest.raises(ValueError) as error:
    calibrator.meet(Budget(value))
  low = calibrator.work.fixed / calibrator.work.full
  text = str(error.value)
  assert word in text and "to 1.0000 with all open" in text
  shown = float(text.split("reach: ")[1].split(" ")[0])
  assert 0 <= shown - low <= 1e-4
  calibrator.meet(Budget(shown))  # what the message names is in reach


def test_a_method_without_gates_is_refused():
  with pytest.raises(ValueError, match="without instance gates"):
    calibrate.Calibrator(_trained(gates=False))


def test_a_route_around_every_gate_is_refused():
  with pytest.raises(ValueError, match="skips every block that has a gate"):
    calibrate.Calibrator(_trained(route=[[1, 0, 0, 0]] * 2))


@pytest.mark.parametrize("batch", (0, 601))
def test_a_batch_that_cannot_be_made_is_refused(batch):
  with pytest.raises(ValueError, match="1 to 600 examples"):
    calibrate.Calibrator(_trained(), batch)


def test_told_gates_use_the_told_rate_first():
  calibrator = calibrate.Calibrator(_trained(gates__target_rate="sampled"))
  inside = [calibrator.measure(calibrate.Place(p)).flops for p in (1 / 3, 2 / 3)]
  value = float(np.mean(inside))
  setting = calibrator.meet(Budget(value))
  assert setting.validation.flops == pytest.approx(value, rel=0.01)
  assert 0.2 <= setting.target_rate <= 1.0
  if inside[0] < inside[1]:  # random weights may turn it round
    assert setting.thresholds == (0.0,) * 4
  low, high = calibrator.reach("flops")
  assert high == 1.0 and low == calibrator.work.fixed / calibrator.work.full


class _Clocked(calibrate.Calibrator):
  """A device whose time is a bent function of the work."""

  def _clock(self, knobs):
    shares = [self._evaluate(k, "validation").flops for k in knobs]
    return [2 + 10 * s**2 for s in shares]


def test_time_is_predicted_measured_and_corrected(calibrator):
  clocked = _Clocked(calibrator.trained, batch=4)
  low, high = clocked.reach("ms")
  assert high == pytest.approx(12)
  value = 0.5 * (low + high)
  setting = clocked.meet(Budget(value, "ms"))
  assert setting.ms == pytest.approx(value, rel=0.021)
  assert setting.met() == setting.ms and setting.batch == 4
  assert setting.ms == pytest.approx(2 + 10 * setting.validation.flops**2)
  assert setting.predicted_ms == pytest.approx(value, rel=0.05)


def test_a_device_that_gains_nothing_is_told(calibrator):
  clocked = _Clocked(calibrator.trained)
  clocked._clock = lambda knobs: [3.0] * len(knobs)
  with pytest.raises(ValueError, match="saves no time on this device"):
    clocked.meet(Budget(3.0, "ms"))


@pytest.mark.parametrize("batch", (1, 2))
def test_real_time_is_measured_on_gated_execution(calibrator, batch):
  clock = calibrate.Calibrator(calibrator.trained, batch)
  times = clock._clock([(np.zeros(4), 1.0), (np.full(4, -1e9), 1.0)])
  assert len(times) == 2 and all(0 < t < 1000 for t in times)
  run, variables, batches = clock._timed
  assert len(batches) == 16
  assert batches[1].shape == (batch, 6)
  whole = jax.jit(calibrator.trained.forward(threshold=np.full(4, 0.1)))
  want = whole(calibrator.trained.variables, batches[1])[0]
  found = run(variables, batches[1], np.full(4, 0.1, np.float32), 1.0)
  for name in want:
    np.testing.assert_allclose(found[name], want[name], atol=1e-5)


def test_a_setting_survives_its_file(calibrator, tmp_path):
  setting = calibrator.meet(Budget(0.7), test=True)
  path = tmp_path / "flops-0.7.json"
  path.write_text(json.dumps(setting.to_dict()))
  threshold, target = settings.read(path)
  assert threshold == setting.thresholds
  assert target == setting.target_rate


def test_equal_scores_are_bridged_by_other_blocks():
  """Of 8 kinds of examples, one block alone can only split off whole kinds."""
  trained = _trained(eval__batch_size=600)
  experiment = trained.experiment
  batch = experiment.dataset.arrays("validation")
  tied = batch._replace(inputs=np.asarray(batch.inputs)[np.arange(600) % 8])
  arrays = lambda split: tied if split == "validation" else experiment.dataset.arrays(split)
  dataset = dataclasses.replace(experiment.dataset, arrays=arrays)
  calibrator = calibrate.Calibrator(
    dataclasses.replace(trained, experiment=dataclasses.replace(experiment, dataset=dataset))
  )
  alone, bridged = [], []
  for goal in np.linspace(0.62, 0.95, 8):
    place, _ = calibrator._search("flops", goal, *calibrate._ENDS)
    alone.append(abs(calibrator.measure(place).flops - goal))
    setting = calibrator.meet(Budget(goal))
    bridged.append(abs(setting.validation.flops - goal))
  assert all(b <= a for a, b in zip(alone, bridged, strict=True))
  assert np.mean(bridged) < 0.6 * np.mean(alone)
