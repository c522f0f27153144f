"""Tests of labels that are looked at before training."""

from __future__ import annotations

from absl import logging
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
    return types.Batch((), {}, {n: v[index] for n, v in self.valid.items()}, np.True_)


def dataset(**valid: np.ndarray) -> tuple[types.Dataset, Source]:
  """A data set of labels alone, the same in every split."""
  source = Source(valid)
  tasks = tuple(types.TaskSpec(name, "binary") for name in valid)
  spec = types.DatasetSpec("own", tasks, "series", (1,), dict.fromkeys(types.SPLITS, len(source)))
  whole = types.Batch((), {}, valid, np.ones(len(source), bool))
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
  found, source = dataset(a=np.ones(1000, bool), b=np.arange(1000) > 0)
  labels.check_any(found, "train", False)
  assert source.read == 2 and not warned
  found, source = dataset(a=np.zeros(1000, bool), b=np.zeros(1000, bool))
  labels.check_any(found, "train", False)
  assert source.read == labels.LOOKED
  assert warned == [
    "The tasks 'a', 'b' have no valid label in 64 of 1000 examples, evenly spread, of the split"
    " 'train': are there any?"
  ]
