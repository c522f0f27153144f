"""Hard parameter sharing: every task executes every block of one backbone."""

from __future__ import annotations

from typing import Any

from dynashare_jax import types
from dynashare_jax.methods import _schedule


def build(config: Any, spec: types.DatasetSpec, blocks: int) -> types.Method:
  """One plain training of the shared network."""
  tasks = len(spec.tasks)
  return types.Method(
    name="hard",
    phases=_schedule.plain(config),
    routes=lambda key, alpha: _schedule.every_block(tasks, blocks),
  )
