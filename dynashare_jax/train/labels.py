"""Refuses labels that a task cannot have, before they are trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynashare_jax import types
from dynashare_jax.objectives import kinds

_SHOWN = 3  # wrong values in a message


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
