"""MTAN: one shared backbone; masks of every task choose among its features.

Source: Liu et al. 2019, in the two designs that tables used: `config.attention.design` is `block`
  (after every block, with a 3-wide extractor of each task: the parameters of AdaShare's tables) or
  `stage` (after every segment, with one shared extractor: Vandenhende et al. 2021, GatedMTL).
  Differs: see `models.trunks.attention`.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import lookup
from dynashare_jax.methods import _schedule
from dynashare_jax.models.trunks import attention
from dynashare_jax.sharing import contract

DESIGNS = ("block", "stage")


@dataclasses.dataclass(frozen=True)
class MaskSharing(contract.AveragingSharing):
  """Keeps averages of how far every task's masks are from those of the others.

  Attributes:
    tasks: names, in order.
    places: of the masks, by name.
  """

  tasks: tuple[str, ...]
  places: tuple[str, ...]

  def unseen(self) -> jax.Array:
    """Returns zeros `[T, places]`."""
    return jnp.zeros((len(self.tasks), len(self.places)))

  def panels(self, learnt: Any, memory: Any, params: Any) -> contract.Panels:
    """Returns how far every task's masks are from those of the others."""
    del learnt, params
    panel = contract.Panel(
      "Distance of the masks", np.asarray(memory["mean"]), self.tasks, self.places
    )
    return contract.Panels(
      "How far the tasks' masks part",
      "Distance of a task's mask from the mean of all tasks' masks, which are between 0 and 1;"
      " means over channels, positions and examples of the last steps. At 0 all see the same.",
      (panel,),
    )


def build(parts: contract.Parts) -> contract.Method:
  """One plain training of the backbone and all masks."""
  design, backbone, model = parts.config.attention.design, parts.backbone(), parts.config.model
  lookup.one_of("config.attention.design", design, DESIGNS)
  _schedule.needs_arrays(parts)
  for described in backbone.describe()[1:]:
    if design == "stage" and described.channels < 4:
      raise ValueError(
        f"config.attention.design='stage' needs a quarter of every block's channels, but"
        f" {described.name} has {described.channels}: choose wider blocks, or 'block'."
      )
  for before, after in itertools.pairwise(backbone.describe()):
    if after.stride < before.stride:
      raise ValueError(
        f"config.method='mtan' hands attended maps from block to block, but {after.name} of"
        f" {type(backbone).__name__} has no map: choose another config.model.backbone."
      )
  names = tuple(task.name for task in parts.spec.tasks)
  layer = attention.Style(model.norm if backbone.rectified else "", backbone.causal, parts.dtype)
  trunk = attention.AttentionTrunk(backbone, len(names), design == "stage", layer)
  phases = _schedule.plain(parts.config, "attention")
  sharing = MaskSharing(names, tuple(f"block {place.block}" for place in trunk.places()))
  moved = lambda settings, weights: weights(settings.lr)
  return contract.Method("mtan", phases, trunk, sharing, optimizers={"attention": moved})
