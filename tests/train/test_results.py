"""Tests of what a finished run leaves behind."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.train import baselines
from dynashare_jax.train import evaluate
from dynashare_jax.train import predictions
from dynashare_jax.train import results

TASKS = (types.TaskSpec("a", "binary"),)


def _baseline(folder, tasks):
  folder.mkdir(exist_ok=True)
  (folder / "results.json").write_text(json.dumps({"tasks": tasks}))
  return str(folder)


def test_files_of_a_finished_run(whole):
  run = whole()
  found = json.loads((run.folder / "results.json").read_text())
  assert found == run.found
  assert found["finished"] and found["split"] == "test"
  assert [t["name"] for t in found["tasks"]] == ["a", "b"]
  for task in found["tasks"]:
    for metric in task["metrics"]:
      assert np.isfinite([metric[k] for k in ("test", "validation", "constant")]).all()
  assert [c["index"] for c in found["candidates"]] == [0, 1]
  assert found["timing"]["seconds"] > 0
  assert set(found["timing"]["step_seconds"]) == {"warmup", "weights", "policy", "retrain"}
  written = json.loads((run.folder / "policy.json").read_text())
  assert np.shape(written["alpha"]) == (2, 2)
  assert written["chosen"] == found["chosen"]
  assert written["gated"] == [False, True]
  assert written["target_rates"] == [1.0, 0.6]
  np.testing.assert_array_equal(written["routes"], run.state.routes)


def test_the_chosen_model_is_the_one_that_was_validated(whole):
  """Its validation metrics are those of its best line in the log."""
  run = whole()
  step = int(run.state.best.step[0])
  line = next(
    line["values"] for line in run.lines if line["kind"] == "eval" and line["step"] == step
  )
  for task in run.found["tasks"]:
    for metric in task["metrics"]:
      np.testing.assert_allclose(
        metric["validation"], line[f"{task['name']}/{metric['name']}"], 1e-6
      )


def test_execution_of_the_test_split(whole):
  found = whole().found["execution"]
  counts = np.array(found["per_example_hist"]["counts"])
  assert found["per_example_hist"]["bins"] == [0, 1, 2]
  assert counts.sum(1).tolist() == [24, 24]
  executed = (counts * np.arange(3)).sum(1) / 24
  np.testing.assert_allclose(np.sum(found["rate"], 1), executed, 1e-6)
  np.testing.assert_allclose(found["mean"], np.mean(found["rate"]), 1e-6)


def test_parameters_by_hand(whole):
  """MLP of width and hidden width 8, 6 inputs, heads of 1 and 3."""
  found = whole().found["parameters"]
  dense = lambda a, b: a * b + b
  block = 2 * 8 + dense(8, 8) + dense(8, 8)
  column = dense(6, 8) + 2 * block + 2 * 8
  gate = dense(8, 16) + 2 * 16 + dense(16, 2)
  assert found == {
    "backbone": column,
    "gates": gate,
    "policy": 2 * 2 * 2,
    "heads": dense(8, 1) + dense(8, 3),
    "batch_stats": 2 * 16,
  }
  single = whole(method="single", train__steps=6).found["parameters"]
  assert single["backbone"] == 2 * column
  assert single["policy"] == single["gates"] == 0


def test_macs_by_hand(whole):
  found = whole().found["macs"]
  assert found["per_example_all_blocks"] == [[128, 128], [128, 128]]
  assert found["stem"] == 6 * 8
  assert found["heads"] == {"a": 8, "b": 24}
  assert found["total"] == 48 + 2 * 128 + 32
  single = whole(method="single", train__steps=6).found["macs"]
  assert single["total"] == 2 * (48 + 2 * 128) + 32
  assert single["per_example_all_blocks"] is None


def test_pictures_of_a_dense_data_set(train, tmp_path, monkeypatch):
  """And a whole run of a convolutional network, its routes compiled in."""
  traced, logits = [], evaluate.Evaluator.logits

  def noted(evaluator, params, *rest):
    traced.append(isinstance(jax.tree.leaves(params)[0], jax.core.Tracer))
    return logits(evaluator, params, *rest)

  monkeypatch.setattr(evaluate.Evaluator, "logits", noted)
  run = train(
    tmp_path,
    method="random_policy",
    data__images=True,
    model__backbone="resnet",
    model__blocks=(1, 1),
    model__widths=(4, 4),
    model__strides=(1, 1),
    model__dilations=(1, 1),
    train__execution="planned",
    policy__candidates=1,
    train__retrain_steps=4,
  )
  assert traced and all(traced)  # Operation by operation, pictures compile a hundred programs.
  saved = np.load(tmp_path / "predictions.npz")
  assert saved["inputs"].shape == (2, 8, 8, 3)
  for name in ("a", "b"):
    assert saved[f"valid/{name}"].shape == (2, 8, 8)
    assert saved[f"target/{name}"].shape == (2, 8, 8)
    assert saved[f"prediction/{name}"].shape == (2, 8, 8)
  assert saved["prediction/a"].dtype.kind == "i"
  assert np.sum(run.state.routes) == 4 - round(0.3 * 4)
  assert json.loads((tmp_path / "policy.json").read_text())["alpha"] is None
  assert run.found["execution"]["mean"] == np.mean(run.state.routes)
  found = {t["name"]: t for t in run.found["tasks"]}
  assert "details" not in found["b"]
  test = run.experiment.dataset.arrays("test")
  labels = test.targets["a"][test.valid["a"]]
  np.testing.assert_allclose(
    found["a"]["details"]["share"], 100 * np.bincount(labels) / labels.size
  )
  iou = [v for v in found["a"]["details"]["iou"] if v is not None]
  assert np.mean(iou) == pytest.approx(found["a"]["metrics"][0]["test"])
  # The sums of its 3 batches give every digit again, those of the classes too.
  assert predictions.check(tmp_path, run.found) == ()
  again = predictions.read(tmp_path).result
  assert again.losses == {name: task["loss"]["test"] for name, task in found.items()}
  np.testing.assert_array_equal(
    again.details["a"]["iou"], np.array(found["a"]["details"]["iou"], float)
  )
  with np.load(tmp_path / predictions.FILE) as file:
    assert file["sums/a/confusion"].shape == (3, 3, 3)
    assert file["sums/a/confusion"].sum() == labels.size
    assert not [name for name in file.files if name.startswith("scores/")]
  # Small files: pictures as bytes, numbers in half precision.
  assert saved["inputs"].dtype == np.uint8
  np.testing.assert_allclose(saved["inputs"] / 255, test.inputs[:2], atol=0.5 / 255 + 1e-6)
  assert saved["target/b"].dtype == np.float16
  np.testing.assert_allclose(saved["target/b"], test.targets["b"][:2], 1e-3)


def test_pictures_of_single_task_networks(train, tmp_path):
  """Columns execute every block, so nothing decides in their pictures."""
  train(
    tmp_path,
    method="single",
    data__images=True,
    train__steps=2,
    model__backbone="resnet",
    model__blocks=(1, 1),
    model__widths=(4, 4),
    model__strides=(1, 1),
    model__dilations=(1, 1),
  )
  saved = np.load(tmp_path / "predictions.npz")
  for name in ("a", "b"):
    assert saved[f"prediction/{name}"].shape[:3] == (2, 8, 8)


def test_averaged_views_are_in_results_and_pictures(train, tmp_path):
  """A whole run that looks at two scales, each also mirrored."""
  settings = dict(
    method="hard",
    data__images=True,
    train__steps=2,
    model__backbone="resnet",
    model__blocks=(1, 1),
    model__widths=(4, 4),
    model__strides=(1, 1),
    model__dilations=(1, 1),
  )
  plain = train(tmp_path / "plain", **settings)
  views = train(tmp_path / "views", eval__flip=True, eval__scales=(0.5, 1.0), **settings)
  note = (
    "Predictions are averaged over pictures at the scales 0.5, 1, each also mirrored (config.eval)."
  )
  assert note in views.found["notes"] and note not in plain.found["notes"]
  depths = [
    np.load(r.folder / "predictions.npz")["prediction/b"].astype(float) for r in (plain, views)
  ]
  truth = views.experiment.dataset.arrays("test")
  assert depths[0].shape == depths[1].shape == (2, 8, 8)
  assert np.abs(depths[0] - depths[1]).max() > 1e-3
  # The pictures show what was scored.
  found = views.loop.evaluator.run(
    views.state.best.params,
    views.state.best.stats,
    results.evaluate.resident_batches(jax.tree.map(lambda leaf: leaf[:2], truth), 2),
    views.experiment.sharing.chosen(np.ones((1, 2, 2)), 0),
  )
  error = np.abs(depths[1] - truth.targets["b"][:2])[truth.valid["b"][:2]]
  assert found.metrics["b"]["abs"] == pytest.approx(error.mean(), rel=1e-3)


def test_small_numbers_keep_what_half_precision_cannot_hold():
  large = np.array([1.0, 1e6], np.float32)
  assert results._small(large) is large
  assert results._small(np.array([7, 2**20])).dtype == np.int64
  assert results._small(np.array([7, -1], np.int32)).dtype == np.int16
  assert results._small(np.array([np.nan, 2.5], np.float32)).dtype == np.float16


def test_vectors_have_no_pictures(whole):
  assert not (whole().folder / "predictions.npz").exists()


def test_delta_against_stored_single_task_results(whole, tmp_path):
  run = whole()
  saved = [
    dict(t, metrics=[dict(m, test=m["test"] / 2) for m in t["metrics"]]) for t in run.found["tasks"]
  ]
  config = run.experiment.config.copy_and_resolve_references()
  config.baseline = _baseline(tmp_path / "single", saved)
  stand_in = dataclasses.replace(run.experiment, config=config)
  metrics = {t["name"]: {m["name"]: m["test"] for m in t["metrics"]} for t in run.found["tasks"]}
  test = results.evaluate.Result(metrics, {}, np.ones(1), np.ones(1))
  found = results._delta(stand_in, run.found["identity"], test)
  signs = [np.sign([m["test"] for m in t["metrics"] if m["in_delta"]]) for t in run.found["tasks"]]
  assert found["tasks"]["a"] == pytest.approx(100 * signs[0].mean())
  assert found["tasks"]["b"] == pytest.approx(100 * signs[1].mean())
  assert found["overall"] == pytest.approx(np.mean(list(found["tasks"].values())))


def test_baseline_must_be_a_finished_run_of_these_tasks(tmp_path):
  with pytest.raises(ValueError, match="Train it first"):
    baselines.load(str(tmp_path / "nothing"), TASKS)
  other = _baseline(tmp_path / "other", [{"name": "b", "metrics": []}])
  with pytest.raises(ValueError, match=r"no results for the tasks \['a'\]"):
    baselines.load(other, TASKS)
  (tmp_path / "other" / "results.json").write_text("{")
  with pytest.raises(ValueError, match="cannot read"):
    baselines.load(other, TASKS)


def test_baseline_reads_null_as_nan(tmp_path):
  folder = _baseline(
    tmp_path / "single", [{"name": "a", "metrics": [{"name": "auc", "test": None}]}]
  )
  assert np.isnan(baselines.load(folder, TASKS).values["a"]["auc"])


def test_only_changed_switches_are_reported(config):
  values = config(compat__selection="test", compat__search="corrected")
  assert results._changed(values, {}) == {"selection": "test"}


def test_count_of_parameters_is_that_of_the_tree(whole):
  best = whole().state.best
  found = results.parameters(whole().experiment, best.params, best.stats, {})
  total = sum(leaf.size for leaf in jax.tree.leaves(best.params))
  assert found["backbone"] + found["gates"] + found["heads"] == total
  assert found["policy"] == 0


def test_numbers_are_trained_and_reported(train, tmp_path):
  """A linear rule: the errors fall far below those of the median."""
  run = train(tmp_path, method="hard", data__tasks=("a", "c"), train__steps=60)
  task = run.found["tasks"][1]
  assert (task["kind"], task["unit"]) == ("number", "kg")
  rmse, mae, r2 = task["metrics"]
  assert [m["unit"] for m in task["metrics"]] == ["kg", "kg", ""]
  assert [m["in_delta"] for m in task["metrics"]] == [True, False, False]
  assert mae["test"] < rmse["test"] < 0.8 * rmse["constant"]
  assert -0.5 < r2["constant"] <= 0.0 < 0.3 < r2["test"] < 1.0


@pytest.mark.parametrize(
  "text",
  ["", "[]", "{}", "null", '{"tasks": []}', '{"tasks": [{}]}', '{"tasks": 1, "finished": true}'],
)
def test_what_is_no_result_of_a_run_is_one_line(text, tmp_path):
  (tmp_path / "results.json").write_text(text)
  with pytest.raises(ValueError) as error:
    results.read(tmp_path)
  told = str(error.value)
  assert told.startswith(f"{tmp_path / 'results.json'} is not the results of a run (")
  assert "delete" in told and "\n" not in told
