"""Labels of constant predictions, without whole splits of large pictures."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import loader
from dynashare_jax.objectives import alignment
from dynashare_jax.train import labels as labels_lib

_LABELS = 2**27  # most numbers of a streamed split that a constant is fitted on


def labels(
  dataset: types.Dataset, split: str, resident: bool, batch_size: int
) -> tuple[types.Batch, Iterable[types.Batch]]:
  """Returns the labels that `evaluate.constants` takes.

  Args:
    resident: whether the data set lies in memory anyway; else examples are read one by one, and of
      training as many, evenly spread, as have 2^27 labels (all of them where they are few).

  Returns:
    Training labels, and those of the split in batches (a whole split at once where it is resident
    and no score depends on batches).

  Raises:
    ValueError: a label that a task cannot have (see `train.labels`), when it is read.
  """
  tasks = dataset.spec.tasks
  if resident:
    whole = dataset.arrays(split)
    if not any(alignment.by_authors(task) for task in tasks):
      return dataset.arrays("train"), (whole,)
    cuts = range(0, len(whole.present), batch_size)
    return dataset.arrays("train"), (
      jax.tree.map(lambda leaf, b=begin: leaf[b : b + batch_size], whole) for begin in cuts
    )

  def read(name: str, chosen: Iterable[int]) -> types.Batch:
    source = dataset.source(name)
    batch = loader.stack([source[int(i)]._replace(inputs=()) for i in chosen])
    labels_lib.check(tasks, batch, name)
    return batch

  first = read("train", (0,))
  numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(first.targets))
  train = read("train", spread(len(dataset.source("train")), max(_LABELS // max(numbers, 1), 1)))
  size = len(dataset.source(split))
  return train, (
    read(split, range(begin, min(begin + batch_size, size))) for begin in range(0, size, batch_size)
  )


def spread(size: int, most: int) -> np.ndarray:
  """Returns places of at most `most` of `size` examples, evenly spread, ascending."""
  count = min(size, most)
  return np.arange(count) * size // max(count, 1)
