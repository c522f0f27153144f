"""Refuses labels that a task cannot have, before they are trained on."""

from __future__ import annotations

from collections.abc import Sequence

from absl import logging
import numpy as np

from dynashare_jax import types
from dynashare_jax.objectives import kinds

_SHOWN = 3  # wrong values in a message
LOOKED = 64  # streamed examples of a split that are looked at for labels before training


def check_any(dataset: types.Dataset, split: str, resident: bool) -> None:
  """Looks for a label of every task in a split.

  Of data that are not resident at most `LOOKED` examples are read, evenly spread, and as few as
  have a label of each task: where one is missing there, a warning says so.

  Raises:
    ValueError: a task has no label in a resident split; names both.
  """
  lacking = [task.name for task in dataset.spec.tasks]
  without = lambda valid: [name for name in lacking if not np.any(valid[name])]
  if resident:
    lacking = without(dataset.arrays(split).valid)
  else:
    source = dataset.source(split)
    places = np.unique(np.linspace(0, len(source) - 1, LOOKED).astype(int))
    for place in places:
      if not (lacking := without(source[int(place)].valid)):
        break
  if not lacking:
    return
  names = ", ".join(map(repr, lacking))
  whose = f"task {names} has" if len(lacking) == 1 else f"tasks {names} have"
  if not resident and len(places) < len(source):
    logging.warning(
      "The %s no valid label in %d of %d examples, evenly spread, of the split %r: are there any?",
      *(whose, len(places), len(source), split),
    )
    return
  raise ValueError(
    f"The {whose} no valid label in the split {split!r} of {dataset.spec.name}: nothing could be"
    " learnt or measured. Correct the data, or leave it out of config.data.tasks."
  )


def check(tasks: Sequence[types.TaskSpec], batch: types.Batch, split: str) -> None:
  """Looks at every label once, on the host. What is not valid may hold anything.

  Args:
    batch: a whole split, or a part of it.

  Raises:
    ValueError: names the task, the split, the wrong values and how many.
  """
  for task in tasks:
    target = np.asarray(batch.targets[task.name])
    valid = np.asarray(batch.valid[task.name], bool)
    allowed, rule = kinds.find(task.kind).allowed(task)
    good = rule(target)
    bad = ~good & valid.reshape(valid.shape + (1,) * (good.ndim - valid.ndim))
    if bad.any():
      values = np.unique(target[bad])
      more = ", ..." if len(values) > _SHOWN else ""
      shown = ", ".join(f"{v:g}" for v in values[:_SHOWN]) + more
      raise ValueError(
        f"Task {task.name!r} has {int(bad.sum())} labels in the split {split!r} that a {task.kind}"
        f" task cannot have: {shown}; allowed are {allowed}. Mark what is no label as not valid,"
        " or correct the data or the task's number of outputs."
      )
