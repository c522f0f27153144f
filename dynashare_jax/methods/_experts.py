"""What methods of experts share."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from dynashare_jax.methods import _schedule
from dynashare_jax.models.trunks import experts as expert_trunk
from dynashare_jax.sharing import contract
from dynashare_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class ExpertSharing(contract.AveragingSharing):
  """Shows how much every task uses every expert.

  Attributes:
    experts: names, in order.
    streams: of every level, the names of what mixes them.
  """

  experts: tuple[str, ...]
  streams: tuple[tuple[str, ...], ...]

  def unseen(self) -> PyTree:
    """Returns zeros for the mean mixture of every level, `[streams, experts]`."""
    return tuple(jnp.zeros((len(names), len(self.experts))) for names in self.streams)

  def panels(self, learnt: Any, memory: Any, params: Any) -> contract.Panels:
    """Returns what every task takes of every expert, level by level."""
    del learnt, params
    levels = zip(self.streams, memory["mean"], strict=True)
    several = len(self.streams) > 1
    panels = [
      contract.Panel(
        f"Level {level}" if several else "Share of each expert",
        np.asarray(values),
        names,
        self.experts,
      )
      for level, (names, values) in enumerate(levels)
    ]
    return contract.Panels(
      "How the tasks mix the experts",
      "A row says what a task's gate takes of every expert, as a mean over about the last hundred"
      " steps of training; it sums to 1. A link that is closed has 0.",
      panels,
    )


def build(
  name: str,
  parts: contract.Parts,
  experts: Sequence[str],
  reads: Sequence[Sequence[int]],
  levels: tuple[int, ...] = (),
  streams: Sequence[int] = (),
  notes: tuple[str, ...] = (),
  inner: contract.Inner | None = None,
) -> contract.Method:
  """Returns a method of experts, trained plainly with their gates.

  Args:
    experts: names.
    reads: see `ExpertTrunk`, and `streams` and `levels` too; no level is one of all blocks.
    notes: of the method.
    inner: see `Phase.inner`.

  Raises:
    ValueError: all experts would start with the weights of one file.
  """
  weights = parts.config.model.weights
  if weights and not pathlib.Path(weights).is_dir():
    raise ValueError(
      f"config.method={name!r} needs experts that start apart, but config.model.weights would give"
      " all of them the same weights: set --config.model.weights=''."
    )
  made = tuple(parts.backbone() for _ in experts)
  trunk = expert_trunk.ExpertTrunk(
    made, tuple(map(tuple, reads)), levels or (parts.blocks,), tuple(streams)
  )
  tasks = tuple(task.name for task in parts.spec.tasks)
  rows = [(*tasks, "shared")[: len(trunk.mixed(level))] for level in range(len(trunk.levels))]
  (phase,) = _schedule.plain(parts.config, "fusion")
  phases = (dataclasses.replace(phase, inner=inner),)
  moved = lambda settings, weights: weights(settings.lr)
  sharing = ExpertSharing(tuple(experts), tuple(rows))
  return contract.Method(name, phases, trunk, sharing, optimizers={"fusion": moved}, notes=notes)
