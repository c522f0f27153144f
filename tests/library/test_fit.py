"""A run from Python: trained, asked, explained, resumed, compared."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal

import jax
from jax import flatten_util
import numpy as np
import pandas as pd
import pytest

import dynashare_jax as ds
from dynashare_jax import runs
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.library import costs
from dynashare_jax.library import settings as settings_lib
from dynashare_jax.report.run import figures
from dynashare_jax.train import checks
from dynashare_jax.train import loop

RNG = np.random.default_rng(0)
ROWS = 120
FRAME = pd.DataFrame({"n": RNG.normal(size=ROWS), "c": RNG.choice(list("abc"), ROWS)})
LABELS = {
  "sign": np.where(FRAME.n > 0, "yes", "no"),
  "letter": FRAME.c.to_numpy(object),
  "value": 1000 + 50 * FRAME.n.to_numpy(),
}
TINY = {
  "model.blocks": (2,),
  "model.width": 8,
  "model.hidden": 8,
  "policy.measure": 0,
  "policy.halving": False,
  "train.warmup_steps": 4,
  "train.cycles": 1,
  "gates.target_rates": (1.0, 0.6),
}


@pytest.fixture(scope="module")
def data():
  return ds.arrays(FRAME, LABELS)


@pytest.fixture(scope="module")
def run(data):
  return ds.fit(data, steps=16, settings=TINY, progress=False)


@pytest.fixture
def undrawn(monkeypatch):
  """Runs without figures, which take a third of a tiny one's time."""
  monkeypatch.setattr(figures, "PLOTS", ())


def test_a_run_says_what_it_measured(run, data):
  measured = run.evaluate(data)
  assert measured == run.metrics == ds.load(run.workdir).evaluate(data)
  assert measured == run.evaluate() != run.evaluate(split="train")
  assert "value" in repr(run) and "<td>rmse</td>" in run._repr_html_()
  assert 'src="data:image/png;base64,' in run._repr_html_()
  with pytest.raises(ValueError, match="trained on arrays in memory"):
    ds.load(run.workdir).evaluate()
  with pytest.raises(ValueError, match="mean 'test'"):
    run.evaluate(split="tests")


def test_predictions_are_what_is_measured(run, data):
  rows = data.rows["test"]
  found = run.predict(FRAME.iloc[rows])
  error = found["value"] - LABELS["value"][rows]
  assert run.metrics["value"]["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)
  right = np.mean(found["letter"] == LABELS["letter"][rows])
  assert run.metrics["letter"]["accuracy"] == pytest.approx(100 * right)
  likely = run.predict(dict(FRAME.iloc[rows]), probabilities=True)
  np.testing.assert_allclose(likely["letter"].sum(1), 1.0, rtol=1e-5)
  classes = np.array(run.tasks[1].classes)
  np.testing.assert_array_equal(classes[likely["letter"].argmax(1)], found["letter"])
  np.testing.assert_array_equal(likely["sign"], found["sign"])
  one = run.predict(FRAME.iloc[rows[:1]])
  np.testing.assert_allclose(one["value"], found["value"][:1], rtol=1e-5)
  with pytest.raises(ValueError, match="no inputs"):
    run.predict(FRAME.iloc[:0])
  with pytest.raises(ValueError, match="There is no column 'c'"):
    run.predict(FRAME[["n"]])


def test_an_exported_run_says_the_same(run, tmp_path):
  file = run.export(tmp_path / "out", platforms=("cpu",))
  model = ds.load(file.parent)
  from dynashare_jax.library import data as data_lib

  rows = data_lib.encode_inputs(run.trained.experiment.dataset.spec, FRAME[:5])
  found, wanted = model(rows), run.predict(FRAME[:5])
  np.testing.assert_allclose(found["value"], wanted["value"], rtol=1e-5)
  kept = run.save(tmp_path / "kept")
  np.testing.assert_array_equal(kept.predict(FRAME[:5])["value"], wanted["value"])
  with pytest.raises(ValueError, match="exists"):
    run.save(tmp_path / "kept")
  with pytest.raises(ValueError, match="neither the folder of a run"):
    ds.load(tmp_path)


def test_a_run_shows_what_it_learned(run):
  assert run.route.shape == run.policy.shape == (3, 2) and run.plan.tasks
  names = dir(run.figures)
  assert {"policy", "learning_curves"} <= set(names) and "predictions" not in names
  shown = run.figures.policy()._repr_png_()
  assert shown == (run.workdir / "figures" / "policy.png").read_bytes()
  with pytest.raises(AttributeError, match="mean 'policy'"):
    run.figures.polcy  # noqa: B018
  with pytest.raises(ValueError, match="nothing to show as 'predictions'"):
    run.figures.predictions()
  assert "# " in run.report().read_text()


def test_a_budget_without_training(run):
  found = run.calibrate(0.95, "rate")
  files = (run.workdir / "budgets").iterdir()  # others, where another test came before
  assert [json.loads(f.read_text()).get("budget") for f in files].count(0.95) == 1
  assert abs(found.met() - 0.95) < 0.05


def test_many_budgets_and_what_they_take(run):
  curve = run.curve([0.05, 0.95], "rate", progress=False)
  assert curve.left_out == (0.05,) and [s.budget for s in curve.settings][1:] == [0.95, 1.0]
  assert curve.settings[-1].test.rate == 1 and curve.default.budget is None
  assert "| as trained |" in curve._repr_markdown_() and "![" not in curve._repr_markdown_()
  assert curve.figure()._repr_png_() == (run.workdir / "figures" / "budget.png").read_bytes()
  times = run.times(curve.settings[1:], batch=4, rounds=1)
  ways = ("masked", "rows", "buckets")
  assert [row[:2] for row in times.rows] == [
    *((budget, way) for budget in (0.95, 1.0) for way in ways),
    (None, "full"),
  ]
  assert min(row.ms for row in times.rows) > 0
  with pytest.raises(ValueError, match="Two settings have the same budget"):
    run.times([curve.settings[0]] * 2, batch=4)
  with pytest.raises(ValueError, match="batch of 99 cannot be taken from the"):
    run.times(batch=99)


def test_the_quickest_way_counts():
  times = costs.Times(
    (
      costs.Time(0.5, "masked", 9.0),
      costs.Time(0.5, "rows", 6.0),
      costs.Time(None, "masked", 12.0),
      costs.Time(None, "rows", 15.0),
      costs.Time(None, "full", 10.0),
    ),
    "Two rows.",
  )
  assert [(row.way, row.ms) for row in times.quickest] == [("rows", 6.0), ("masked", 12.0)]
  _, _, half, trained, _, told = repr(times).splitlines()
  assert re.sub(" +", " ", half) == "| 0.5000 | rows | 9.000 | 6.000 | 40.0 |"
  assert re.sub(" +", " ", trained) == "| as trained | masked | 12.00 | 15.00 | −20.0 |"
  assert told == "Two rows. Saved: of `full`, every block for every task, 10 ms."


def test_ctrl_c_saves_and_the_same_call_goes_on(undrawn, run, data, tmp_path, monkeypatch):
  folder = tmp_path / "run"
  call = lambda: ds.fit(data, steps=16, settings=TINY, workdir=folder, progress=False)
  advance = loop.Loop._advance

  def interrupted(self, index, offset, count, step, *more):
    if step >= 8:
      os.kill(os.getpid(), signal.SIGINT)
    return advance(self, index, offset, count, step, *more)

  with monkeypatch.context() as patch:
    patch.setattr(loop.Loop, "_advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="step 9 of .* goes on from there"):
      call()
  assert call().metrics == run.metrics
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  other = ds.arrays(FRAME, LABELS, seed=1)
  with pytest.raises(ValueError, match="data.fingerprint"):
    ds.fit(other, steps=16, settings=TINY, workdir=folder, progress=False)


def test_a_comparison_reuses_its_runs(undrawn, data, tmp_path, monkeypatch):
  methods = ("single", "small=hard+model.width=4")
  same = dict(seeds=1, workdir=tmp_path, steps=4, settings=TINY, progress=False)
  call = lambda: ds.compare(data, methods, mixed=["backbone"], trials={"small": 3}, **same)
  found = call()
  monkeypatch.setattr(runs.stages, "run", lambda loop: pytest.fail("trains again"))
  again = call()
  assert found.markdown() == again.markdown()
  assert list(found.runs) == ["single", "small"] and len(found.frame()) == 2
  assert found.runs["small"][0].trained.experiment.config.model.width == 4
  delta = found.runs["small"][0].results["delta"]
  assert delta["baseline"] == str(tmp_path / "single-0")
  assert "Data: split at random" in found.markdown() and "tabular" in found.latex()
  assert "![" not in repr(found)


def test_random_routes_imitate_the_learnt_one(undrawn, data, tmp_path):
  methods = ["random_policy", "learnt=affinity+policy.budget=0.5+policy.measure=2"]
  same = dict(seeds=1, workdir=tmp_path, steps=4, settings=TINY, progress=False)
  found = ds.compare(data, methods, randoms=2, **same)
  assert {name: len(runs) for name, runs in found.runs.items()} == {"random_policy": 2, "learnt": 1}
  learnt, *others = (run.route for run in (*found.runs["learnt"], *found.runs["random_policy"]))
  assert any((others[0] != others[1]).ravel())
  for route in others:
    np.testing.assert_array_equal(route.sum(1), learnt.sum(1))


def test_random_routes_start_as_the_learnt_one(undrawn, data, tmp_path):
  still, scratch = "optimizers.retrain.lr=0.0", "train.retrain_from=scratch"
  methods = [f"random_policy=random_policy+{still}", f"kept=affinity+{still}"]
  methods += [f"fresh=random_policy+{scratch}", f"learnt=affinity+{scratch}"]
  settings = TINY | {"policy.budget": 0.5, "policy.measure": 2}
  same = dict(seeds=1, steps=4, settings=settings, progress=False)
  found = ds.compare(data, methods, workdir=tmp_path, mixed=["all"], **same)
  network = {
    name: flatten_util.ravel_pytree(r[0].trained.params)[0] for name, r in found.runs.items()
  }
  # At a learning rate of 0 each stays where it began: at the end of the warm-up.
  np.testing.assert_array_equal(network["random_policy"], network["kept"])
  start = trained_lib.searched(found.runs["kept"][0].trained)
  np.testing.assert_array_equal(flatten_util.ravel_pytree(start[0])[0], network["kept"])
  assert trained_lib.searched(found.runs["learnt"][0].trained) is None
  told = {name: (r[0].workdir / "report.md").read_text() for name, r in found.runs.items()}
  assert f"of {tmp_path / 'kept-0'}" in told["random_policy"]
  assert "weights:" not in told["fresh"]


@pytest.mark.parametrize(
  ("options", "told"),
  [
    ({"method": "dynashar"}, "mean 'dynashare'"),
    ({"backbone": "mpl"}, "mean 'mlp'"),
    ({"balance": "nush"}, "mean 'nash'"),
    ({"steps": 0}, "steps must be"),
    ({"steps": 2.5}, "steps must be"),
    ({"steps": np.inf}, "steps must be a whole number of at least 1, but is inf"),
    ({"seed": 1.5}, "seed must be a whole number of at least 0, but is 1.5"),
    ({"seed": None}, "seed must be a whole number"),
    ({"settings": [1]}, "settings must be a dict"),
    ({"settings": {3: 1}}, "There is no setting '3'"),
    ({"settings": {"train.batch_size": None}}, "must be of the type int, but is None"),
    ({"settings": {"train.bath_size": 4}}, "mean 'train.batch_size'"),
    ({"settings": {"train.batch_size": "four"}}, "must be of the type int"),
    ({"settings": {"train.batch_size": True}}, "must be of the type int, but is True"),
    ({"settings": {"policy.budget": True}}, "must be of the type float, but is True"),
    ({"settings": {"model.widths": "16"}}, "must be of the type tuple, but is '16'"),
    ({"settings": {"method": "hard"}}, "fit has an argument"),
    ({"settings": {"model.dropout": 1.5}}, "model.dropout"),
  ],
)
def test_what_cannot_be_trained_is_told_at_once(options, told, data, monkeypatch):
  monkeypatch.setattr(runs.stages, "run", lambda loop: pytest.fail("trains"))
  with pytest.raises(ValueError, match=told):
    ds.fit(data, progress=False, **options)


@pytest.mark.parametrize(
  ("options", "told"),
  [
    ({"seeds": 1.5}, "seeds must be a whole number of at least 1, but is 1.5"),
    ({"mixed": ["all", "zeal"]}, "A name in `mixed` is 'zeal'"),
    ({"trials": [1]}, "`trials` must be a dict"),
    ({"trials": {"soft": 1}}, "A label in `trials` is 'soft'; it must be one of hard"),
    ({"trials": {"hard": "x"}}, r"trials\['hard'\] must be a whole number"),
    ({"methods": "hrad"}, "mean 'hard'"),
  ],
)
def test_what_cannot_be_compared_is_told_before_training(options, told, data, monkeypatch):
  monkeypatch.setattr(runs.stages, "run", lambda loop: pytest.fail("trains"))
  with pytest.raises(ValueError, match=told):
    ds.compare(data, **{"methods": ["hard"], "progress": False, **options})
  with pytest.raises(ValueError, match="must be of ds.arrays, but is a dict"):
    ds.fit({"a": [1]})


@pytest.mark.parametrize("rows", [12, 5_000, 10**6])
def test_sizes_that_suit_the_data(rows, data):
  spec = data.dataset.spec
  spec = type(spec)(**{**vars(spec), "sizes": dict(train=rows, validation=rows, test=rows)})
  config = settings_lib.of(spec, "", "dynashare")
  train = config.train
  assert 200 <= train.steps <= 4000
  assert 4 <= train.batch_size <= 1024 and len(config.gates.target_rates) == 6
  assert config.is_locked


@pytest.mark.parametrize("method", ["hard", "adashare", "dynashare", "affinity"])
def test_every_method_takes_as_many_steps(data, method):
  spec = data.dataset.spec
  config = settings_lib.of(spec, "", method, steps=600)
  total = runs.build(config, dataset=data.dataset)[0].total_steps
  assert total == pytest.approx(600, rel=0.03) or (method == "affinity" and 400 < total < 600)


def test_one_task_alone_can_be_searched():
  one = ds.arrays(FRAME, {"value": LABELS["value"]})
  config = settings_lib.of(one.dataset.spec, one.fingerprint, "dynashare", steps=60)
  assert config.policy.sharing == 0 and runs.build(config, dataset=one.dataset)


@pytest.mark.parametrize(
  ("method", "rows"),
  [("adashare", 20), ("affinity", 20), ("branch", 20), ("dynashare", 10), ("mmoeex", 10)],
)
def test_few_rows_ask_for_no_setting(monkeypatch, method, rows):
  """The batch fits into every part of the training rows, of which some have three or fewer."""
  labels = {"a": np.arange(rows) % 2, "b": np.arange(rows) * 1.0}
  monkeypatch.setattr(jax, "device_count", lambda: 1)
  few = ds.arrays(np.random.default_rng(0).normal(size=(rows, 1)), labels)
  config = settings_lib.of(few.dataset.spec, few.fingerprint, method, steps=60)
  experiment, _ = runs.build(config, jax.devices()[:1], dataset=few.dataset)
  parts = [checks.part_size(config, few.dataset.spec, p.data) for p in experiment.method.phases]
  assert 1 < experiment.config.train.batch_size <= min(parts)


def test_names_of_another_run_are_refused(run, data, tmp_path):
  """Its classes would stand for what this network says."""
  other = run.save(tmp_path / "other")
  file = other.workdir / "spec.json"
  told = json.loads(file.read_text())
  file.write_text(json.dumps(told).replace('"letter"', '"letters"'))
  with pytest.raises(ValueError, match=r"spec.json is not of this run, as data.json tells: letter"):
    ds.load(other.workdir).predict(FRAME[:2])


def test_what_needs_the_folder_says_that_it_is_gone(run, tmp_path):
  other = run.save(tmp_path / "other")
  shutil.rmtree(other.workdir)
  for call in (
    lambda: other.calibrate(0.9),
    lambda: other.curve(),
    lambda: other.cost((1,)),
    lambda: other.export(tmp_path / "out"),
    lambda: other.save(tmp_path / "copy"),
  ):
    with pytest.raises(ValueError, match="The folder of the run is gone"):
      call()
  for call, told in (
    (lambda: run.calibrate("x"), "A budget must be above 0, but is 'x'"),
    (lambda: run.cost((1.5,)), "Give different batch sizes"),
    (lambda: run.evaluate(5), "`data` must be of ds.arrays, but is a int"),
    (lambda: run.export(tmp_path / "out", "sing"), "is 'sing'; it must be one of sign"),
  ):
    with pytest.raises(ValueError, match=told):
      call()
