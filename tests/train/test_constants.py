"""Tests of the labels that constant predictions are fitted and scored on."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.train import constants
from dynashare_jax.train import evaluate

TASKS = (types.TaskSpec("a", "segmentation", 3), types.TaskSpec("b", "depth", 1, unit="m"))


def _split(size, seed):
  rng = np.random.default_rng(seed)
  shape = (size, 4, 6)
  return types.Batch(
    rng.random((*shape, 3)).astype(np.float32),
    {
      "a": rng.integers(0, 3, shape).astype(np.int32),
      "b": rng.uniform(1, 9, shape).astype(np.float32),
    },
    {n: rng.random(shape) > 0.2 for n in "ab"},
    np.ones(size, bool),
  )


class _Source:
  """Single examples; counts what was read."""

  def __init__(self, batch, read):
    self._batch, self.read = batch, read

  def __len__(self):
    return len(self._batch.present)

  def __getitem__(self, index):
    self.read.append(index)
    return jax.tree.map(lambda leaf: leaf[index], self._batch)


@pytest.fixture
def made():
  """A data set, and which places of which split were read."""
  splits = {"train": _split(20, 0), "test": _split(7, 1)}
  read = {name: [] for name in splits}
  spec = types.DatasetSpec(
    "toy", TASKS, "image", (4, 6, 3), {n: len(s.present) for n, s in splits.items()}
  )
  return types.Dataset(spec, splits.__getitem__, lambda n: _Source(splits[n], read[n])), read


def test_in_memory_it_is_the_whole_splits(made):
  dataset, _ = made
  train, test = constants.labels(dataset, "test", True, 3)
  assert train is dataset.arrays("train")
  (whole,) = test
  assert whole is dataset.arrays("test")
  got = evaluate.constants(TASKS, train, (whole,))
  assert got == evaluate.constants(TASKS, train, whole)


def test_streamed_it_gives_the_same_in_batches(made):
  dataset, read = made
  train, test = constants.labels(dataset, "test", False, 3)
  batches = list(test)
  assert [len(b.present) for b in batches] == [3, 3, 1]
  assert read["test"] == list(range(7)) and train.inputs == ()
  got = evaluate.constants(TASKS, train, batches)
  want = evaluate.constants(TASKS, dataset.arrays("train"), dataset.arrays("test"))
  for task, values in want.items():
    assert got[task] == pytest.approx(values, rel=1e-6)


def test_large_labels_are_fitted_on_evenly_spread_examples(made, monkeypatch):
  dataset, read = made
  monkeypatch.setattr(constants, "_LABELS", 5 * 2 * 4 * 6)
  train, _ = constants.labels(dataset, "test", False, 3)
  assert read["train"] == [0] + [0, 4, 8, 12, 16]
  np.testing.assert_array_equal(train.targets["b"], dataset.arrays("train").targets["b"][::4])


def test_the_authors_scores_get_the_batches_of_the_evaluation(made):
  """Pixel accuracy: means of batches, by their number of examples."""
  dataset, _ = made
  tasks = tuple(dataclasses.replace(t, metrics="authors") for t in TASKS)
  dataset = dataclasses.replace(dataset, spec=dataclasses.replace(dataset.spec, tasks=tasks))
  found = evaluate.constants(tasks, *constants.labels(dataset, "test", True, 3))
  whole = dataset.arrays("train")
  middle = np.median(whole.targets["b"][whole.valid["b"]])
  test = dataset.arrays("test")
  errors = np.abs(test.targets["b"] - middle)
  means = [errors[i : i + 3][test.valid["b"][i : i + 3]].mean() for i in (0, 3, 6)]
  assert found["b"]["abs"] == pytest.approx(np.average(means, weights=[3, 3, 1]), rel=1e-5)
  streamed = evaluate.constants(tasks, *constants.labels(dataset, "test", False, 3))
  assert streamed["b"] == pytest.approx(found["b"], rel=1e-6)


def test_a_wrong_label_is_refused_when_it_is_read(made):
  dataset, _ = made
  dataset.arrays("test").targets["a"][5, 0, 0] = 7
  dataset.arrays("test").valid["a"][5, 0, 0] = True
  _, test = constants.labels(dataset, "test", False, 3)
  with pytest.raises(ValueError, match="Task 'a' has 1 labels in the split 'test'"):
    list(test)


def test_nothing_to_score_is_refused(made):
  train = made[0].arrays("train")
  with pytest.raises(ValueError, match="no labels to score a constant"):
    evaluate.constants(TASKS, train, [])


def test_spread_is_even():
  assert constants.spread(10, 3).tolist() == [0, 3, 6]
  assert constants.spread(4, 9).tolist() == [0, 1, 2, 3]


def test_single_labels_may_be_missing():
  """Of several in an example: means of columns, scored on what is there."""
  task = types.TaskSpec("c", "number", 2)
  target = np.array([[1, 5], [3, 0], [5, 0]], np.float32)
  valid = np.array([[True, True], [True, False], [True, False]])
  batch = types.Batch((), {"c": target}, {"c": valid}, np.ones(3, bool))
  found = evaluate.constants((task,), batch, batch)["c"]
  assert found["rmse"] == pytest.approx(np.sqrt((4 + 0 + 4 + 0) / 4)) and found["r2"] == 0
