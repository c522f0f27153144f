"""Metrics that are computed again from what a run stored."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest

from dynashare_jax.objectives.kinds import base as kinds_base
from dynashare_jax.train import evaluate
from dynashare_jax.train import predictions


@pytest.fixture
def copy(whole, tmp_path):
  """A folder with the files of a finished run that are read."""
  for name in ("results.json", predictions.FILE):
    shutil.copy(whole().folder / name, tmp_path)
  return tmp_path


def same(results, found: evaluate.Result) -> None:
  """Every digit of metrics, losses, details and executed blocks."""
  for task in results["tasks"]:
    told = {m["name"]: m["test"] for m in task["metrics"]}
    assert told == found.metrics[task["name"]]
    assert task["loss"]["test"] == found.losses[task["name"]]
    for name, values in task.get("details", {}).items():
      again = found.details[task["name"]][name].tolist()
      assert values == [None if np.isnan(v) else v for v in again]
  assert results["execution"]["rate"] == found.rate.tolist()
  assert results["execution"]["per_example_hist"]["counts"] == found.histogram.tolist()


def test_every_digit_comes_again(whole):
  """24 examples in batches of 8, some labels missing: a binary and a class task."""
  run = whole()
  found = predictions.read(run.folder)
  same(run.found, found.result)
  assert predictions.check(run.folder, run.found) == ()
  with np.load(run.folder / predictions.FILE) as file:
    assert file["scores/a/logit"].shape == (24,)
    assert file["scores/b/probability"].shape == (24, 3)
    assert file["sums/b/confusion"].shape == (3, 3, 3)
    labels = run.experiment.dataset.arrays("test")
    np.testing.assert_array_equal(file["scores/a/valid"], labels.valid["a"])


def test_a_private_set_tells_no_example(whole, tmp_path):
  """Its sums are those of the split, and equal; what needs a ranking is named."""
  run = whole()
  best, feed = run.state.best, run.loop.feed
  structure = run.experiment.sharing.chosen(run.state.routes, int(best.candidate[0]))
  parts = list(
    run.loop.evaluator.parts(best.params, best.stats, feed.evaluation("test"), structure)
  )
  predictions.write(tmp_path, run.experiment.tasks, parts, private=True)
  with np.load(tmp_path / predictions.FILE) as file:
    assert not [name for name in file.files if name.startswith("scores/")]
    assert all(len(file[name]) == 1 for name in file.files if name != "told")
    with np.load(run.folder / predictions.FILE) as open_file:
      whole_split = open_file["sums/b/confusion"].sum(0)
    np.testing.assert_array_equal(file["sums/b/confusion"][0], whole_split)
  found = predictions.read(tmp_path)
  assert found.left_out == ("a", "b") and not found.result.metrics
  assert run.found["execution"]["rate"] == found.result.rate.tolist()
  assert predictions.check(tmp_path, run.found) == ("a", "b")


def test_a_changed_number_is_found(copy):
  results = json.loads((copy / "results.json").read_text())
  results["tasks"][1]["metrics"][0]["test"] += 1e-6
  with pytest.raises(ValueError, match=r"accuracy of b is .* in results\.json, but"):
    predictions.check(copy, results)


def test_an_old_run_and_a_damaged_file_are_one_line(copy):
  file = copy / predictions.FILE
  file.write_bytes(file.read_bytes()[:100])
  with pytest.raises(ValueError, match="cannot be read") as error:
    predictions.read(copy)
  assert "\n" not in str(error.value)
  file.unlink()
  with pytest.raises(ValueError, match="of an older version, which stored no predictions"):
    predictions.read(copy)


def test_sums_of_batches_add_as_in_the_evaluation():
  """Float32 sums whose order matters: 1e8 swallows a half, unless added in 64 bits."""
  totals = None
  for value in (1e8, 0.5, 0.5):
    totals = kinds_base.added(totals, {"x": jax.numpy.float32(value)})
  assert totals["x"] == 1e8 + 1
