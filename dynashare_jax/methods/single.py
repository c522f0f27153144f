"""Single-task networks: one backbone a task, trained side by side.

The losses do not interact, so this equals separate trainings with the same
batches. Every task keeps its own best step on validation.
"""

from __future__ import annotations

from typing import Any

from dynashare_jax import types
from dynashare_jax.methods import _schedule


def build(config: Any, spec: types.DatasetSpec, blocks: int) -> types.Method:
  """One plain training of a column a task."""
  tasks = len(spec.tasks)
  return types.Method(
    name="single",
    phases=_schedule.plain(config),
    columns=True,
    routes=lambda key, alpha: _schedule.every_block(tasks, blocks),
  )
