"""Single-task networks: one backbone per task, trained side by side.

The losses do not interact, so this equals separate trainings with the same
batches. Every task keeps its own best step on validation.
"""

from __future__ import annotations

import dataclasses

from dynashare_jax.methods import _schedule
from dynashare_jax.models.trunks import columns
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip


def build(parts: contract.Parts) -> contract.Method:
  """One plain training of one column per task."""
  tasks, phases = len(parts.spec.tasks), _schedule.plain(parts.config)
  trunk = columns.ColumnTrunk(tuple(parts.backbone() for _ in range(tasks)))
  sharing = skip.make(parts, phases, skip.every_block(tasks, parts.blocks))
  sharing = dataclasses.replace(sharing, whole=True)
  return contract.Method("single", phases, trunk, sharing, independent=True)
