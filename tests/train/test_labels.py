"""Tests of labels that are looked at before training."""

from __future__ import annotations

from absl import logging
import jax
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.train import labels


class Source:
  """Single examples; counts those read."""

  def __init__(self, valid: dict[str, np.ndarray]) -> None:
    self.valid, self.read = valid, 0

  def __len__(self) -> int:
    return len(self.valid["a"])

  def __getitem__(self, index: int) -> types.Batch:
    self.read += 1
    valid = {n: v[index] for n, v in self.valid.items()}
    return types.Batch((), {n: np.zeros(np.shape(v)) for n, v in valid.items()}, valid, np.True_)


def dataset(**valid: np.ndarray) -> tuple[types.Dataset, Source]:
  """A data set of labels alone, the same in every split."""
  source = Source(valid)
  tasks = tuple(types.TaskSpec(name, "binary") for name in valid)
  spec = types.DatasetSpec("own", tasks, "series", (1,), dict.fromkeys(types.SPLITS, len(source)))
  zeros = {n: np.zeros(v.shape) for n, v in valid.items()}
  whole = types.Batch((), zeros, valid, np.ones(len(source), bool))
  return types.Dataset(spec, lambda split: whole, lambda split: source), source


@pytest.mark.parametrize("resident", [True, False])
def test_a_task_without_a_label_is_refused(resident):
  found, _ = dataset(a=np.ones((9, 2, 2), bool), b=np.zeros((9, 2, 2), bool))
  with pytest.raises(ValueError, match="task 'b' has no valid label in the split 'test' of own"):
    labels.check_any(found, "test", resident)
  one = np.zeros((9, 2, 2), bool)
  one[8, 1, 0] = True
  labels.check_any(dataset(a=np.ones((9, 2, 2), bool), b=one)[0], "test", resident)


def test_of_streamed_data_few_examples_are_read(monkeypatch):
  warned: list[str] = []
  monkeypatch.setattr(logging, "warning", lambda text, *values: warned.append(text % values))
  found, source = dataset(a=np.ones(1000, bool), b=np.arange(1000) > 499)
  told = labels.check_any(found, "train", False)
  assert source.read == labels.LOOKED and not warned
  assert str(told) == "labels in train, 64 examples of 1000: a 64, b 32"
  found, source = dataset(a=np.zeros(1000, bool), b=np.zeros(1000, bool))
  labels.check_any(found, "train", False)
  assert source.read == labels.LOOKED
  assert warned == [
    "The tasks 'a', 'b' have no valid label in 64 of 1000 examples, evenly spread, of the split"
    " 'train': are there any?"
  ]


def test_labels_are_counted_and_doubted():
  """What the first lines of a run say: numbers by hand."""
  tasks = (
    types.TaskSpec("depth", "depth", unit="m"),
    types.TaskSpec("age", "number"),
    types.TaskSpec("pair", "number", 2),
    types.TaskSpec("kind", "multiclass", 2, classes=("cat", "dog")),
    types.TaskSpec("worn", "multilabel", 2),
  )
  depth = np.full((4, 2, 2), 2500.0) + np.arange(4)[:, None, None]
  known = np.zeros((4, 2, 2), bool)
  known[:3, 0] = True
  targets = {
    "depth": depth,
    "age": np.array([20.0, 30, 999999, 25]),
    "pair": np.array([[7.0, 1], [7, 2], [7, 3], [0, 4]]),
    "kind": np.array([1, 1, 1, 0]),
    "worn": np.zeros((4, 2), np.int32),
  }
  valid = {
    "depth": known,
    "age": np.ones(4, bool),
    "pair": np.array([[True, True]] * 3 + [[False, True]]),
    "kind": np.array([True, True, True, False]),
    "worn": np.ones((4, 2), bool),
  }
  spec = types.DatasetSpec("own", tasks, "image", (2, 2, 3), dict.fromkeys(types.SPLITS, 4))
  batch = types.Batch((), targets, valid, np.ones(4, bool))
  rows = [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in range(4)]
  made = types.Dataset(spec, lambda split: batch, lambda split: rows)
  for resident in (True, False):
    found = labels.look(made, "test", resident, 2)
    assert str(found) == (
      "labels in test, 4 examples: depth 3 (37.5%), age 4, pair 4 (87.5%), kind 3, worn 4"
    )
    assert found.doubts == (
      "depth: half of the labels are above 2501 m: are they millimetres (scale 0.001)?",
      "age: 1 of 4 labels are 999999, far from all others (20 to 30): if that means no label,"
      " leave it out",
      "pair: all 3 labels are 7: nothing can be learnt",
      "kind: all 3 labels are 'dog': nothing can be learnt",
    )
