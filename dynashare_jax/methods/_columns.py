"""What methods of fused columns share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import itertools
from typing import Any

import jax
import numpy as np

from dynashare_jax import lookup
from dynashare_jax.methods import _schedule
from dynashare_jax.models.trunks import fused
from dynashare_jax.sharing import contract

PLACES = ("blocks", "segments", "stem_and_segments")


@dataclasses.dataclass(frozen=True)
class FusedSharing(contract.Sharing):
  """Shows how much every column reads of every other, place by place.

  Attributes:
    tasks: names, in order.
    places: of the fusions, from the stem (0) on.
    among: of the parameters of a fusion, how much each column reads of each, `[K, K]`.
  """

  tasks: tuple[str, ...]
  places: tuple[int, ...]
  among: Callable[[Any], np.ndarray]

  def panels(self, learnt: Any, memory: Any, params: Any) -> contract.Panels:
    """Returns what every task's column reads of its own and of the other columns."""
    del learnt, memory
    read = [self.among(jax.device_get(params["trunk"][f"fuse_{place}"])) for place in self.places]
    pairs = list(itertools.product(range(len(self.tasks)), repeat=2))
    values = np.asarray([[matrix[pair] for matrix in read] for pair in pairs])
    rows = [f"{self.tasks[k]} of {self.tasks[j]}" for k, j in pairs]
    names = [f"block {place - 1}" if place else "stem" for place in self.places]
    panel = contract.Panel("What a column reads of each", values, rows, names)
    return contract.Panels(
      "What the columns read of one another",
      "A row says how much the first task's column takes of the second's, after every block that"
      " has a fusion.",
      (panel,),
    )


def build(
  name: str,
  parts: contract.Parts,
  fusion: Callable[[], Any],
  places: str,
  among: Callable[[Any], np.ndarray],
  **more: Any,
) -> contract.Method:
  """Returns a method whose columns are fused after blocks or segments.

  Args:
    fusion: makes the module of one place.
    places: where they are, unless `config.fusion.places` says another thing.
    among: see `FusedSharing`.
    **more: of the trunk.
  """
  settings, spec = parts.config.fusion, parts.spec
  _schedule.needs_arrays(parts)
  if not 0 <= settings.own <= 1:
    raise ValueError(f"config.fusion.own must be in [0, 1], but is {settings.own}.")
  columns = tuple(parts.backbone() for _ in spec.tasks)
  at = _places(settings.places or places, columns[0].segments())
  fuse = tuple(fusion() if place in at else None for place in range(parts.blocks + 1))
  trunk = fused.FusedColumnTrunk(columns, fuse, aligned=settings.aligned, **more)
  phases = _schedule.plain(parts.config, "fusion")
  moved = lambda train, weights: weights(settings.lr * train.lr, False)
  sharing = FusedSharing(tuple(task.name for task in spec.tasks), at, among)
  return contract.Method(name, phases, trunk, sharing, optimizers={"fusion": moved})


def _places(name: str, segments: Sequence[int]) -> tuple[int, ...]:
  """After the stem (0) and blocks (from 1 on), where there is a fusion."""
  lookup.one_of("config.fusion.places", name, PLACES)
  if name == "blocks":
    return tuple(range(1, sum(segments) + 1))
  ends = tuple(itertools.accumulate(segments))
  return (0, *ends) if name == "stem_and_segments" else ends
