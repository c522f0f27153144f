"""Planted problems are what they claim to be."""

from __future__ import annotations

import json
import pathlib

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from benchmarks.planted import page
from dynashare_jax import runs
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.data.planted import dataset
from dynashare_jax.library import configs
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import stages

ROOT = pathlib.Path(__file__).resolve().parents[3]


def _open(**values):
  config = ConfigDict({**dataset.defaults(), "train": 512, "validation": 64, "test": 128, **values})
  return dataset.build(config, ConfigDict(), None, 0)


@pytest.mark.parametrize("problem", dataset.PROBLEMS)
def test_targets_have_mean_0_and_the_noise_on_top_of_variance_1(problem):
  data = _open(problem=problem, train=6000)
  for target in data.arrays("train").targets.values():
    np.testing.assert_allclose(target.mean(0), 0, atol=0.06)
    np.testing.assert_allclose(target.var(0), 1 + dataset.NOISE**2, rtol=0.1)


def test_the_number_chooses_the_problem_and_the_sizes_do_not_move_the_splits_together():
  one, same, other = _open(), _open(), _open(number=1)
  for split in ("train", "validation", "test"):
    np.testing.assert_array_equal(one.arrays(split).inputs, same.arrays(split).inputs)
    assert (one.arrays(split).inputs != other.arrays(split).inputs).any()
    assert len(one.source(split)) == len(one.arrays(split).present) == one.spec.sizes[split]
  rows = np.concatenate([one.arrays(s).inputs.ravel() for s in ("train", "validation", "test")])
  assert len(np.unique(rows)) > 0.99 * rows.size


def test_only_the_training_labels_of_poor_tasks_are_few():
  data = _open(problem="poor", labels=32)
  counts = {name: int(v.sum()) for name, v in data.arrays("train").valid.items()}
  assert counts == {"t0": 512, "t1": 32, "t2": 512, "t3": 32}
  assert all(v.all() for v in data.arrays("test").valid.values())


def test_scales_multiply_targets_of_the_chosen_tasks_and_nothing_else():
  plain, scaled = (
    _open(tasks=("t2", "t0"), scales=scales).arrays("test") for scales in ((), (10.0, 0.1))
  )
  np.testing.assert_allclose(scaled.targets["t2"], 10 * plain.targets["t2"], 1e-6)
  np.testing.assert_allclose(scaled.targets["t0"], 0.1 * plain.targets["t0"], 1e-6)
  np.testing.assert_array_equal(scaled.inputs, plain.inputs)
  assert set(scaled.targets) == set(scaled.valid) == {"t2", "t0"}


def test_half_of_the_instance_problem_is_linear():
  data = _open(problem="instance", train=4000).arrays("train")
  x = data.inputs[:, 0]
  easy = x[:, 0] + x[:, 1] <= 0
  for y in data.targets.values():
    for half, share in ((easy, 0.95), (~easy, 0.85)):
      rows = np.concatenate([x[half], np.ones((half.sum(), 1))], 1)
      rest = y[half] - rows @ np.linalg.lstsq(rows, y[half], rcond=None)[0]
      explained = 1 - rest.var() / y[half].var()
      assert (explained > share) if share > 0.9 else (explained < share)


def test_the_planted_routes():
  np.testing.assert_array_equal(
    dataset.answer("conflict", 6), [[1, 1, 1, 0, 0, 0]] * 2 + [[0, 0, 0, 1, 1, 1]] * 2
  )
  assert dataset.answer("none", 4).all()


@pytest.mark.parametrize(
  "values, message",
  [
    ({"problem": "conflct"}, "conflict"),
    ({"tasks": ("t9",)}, "t9"),
    ({"labels": 0}, "labels"),
    ({"number": -1}, "number"),
    ({"scales": (1.0, 2.0)}, "t0, t1, t2, t3"),
    ({"scales": (1.0, 2.0, 0.0, 1.0)}, "above 0"),
  ],
)
def test_wrong_values_are_refused(values, message):
  with pytest.raises(ValueError, match=message):
    _open(**values)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_gradients_find_who_shares(tmp_path):
  """A short warm-up tells the two pairs apart: the best route lets no block serve both."""
  more = ["data.train=2048", "train.warmup_steps=300", "train.retrain_steps=8", "model.blocks=(4,)"]
  more += ["method=affinity", "data.number=100", "policy.warmup=all"]
  config = configs.load(str(ROOT / "configs" / "planted.py"), more)
  folder = workdir_lib.open_workdir(tmp_path / "run", config.to_dict())
  loop = loop_lib.Loop(runs.build(config, jax.devices()[:1])[0], folder)
  stages.run(loop)
  route = next(np.asarray(trial["route"]) for trial in loop.trials if trial["index"] == 0)
  np.testing.assert_array_equal(route[0], route[1])
  np.testing.assert_array_equal(route[2], 1 - route[0])
  np.testing.assert_array_equal(route[3], route[2])


def test_the_page_shows_what_the_kept_results_give(tmp_path):
  text = (ROOT / "docs" / "benchmarks" / "planted.md").read_text(encoding="utf-8")
  assert page.kept()
  for part in page.page(page.kept()).split("\n\n"):
    assert part in text
  # A folder of runs gives the same.
  for problem, methods in page.kept().items():
    for method, numbers in methods.items():
      for number, result in numbers.items():
        file = tmp_path / problem / number / f"{method}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result))
  assert page.page(page.read(tmp_path)) == page.page(page.kept())
