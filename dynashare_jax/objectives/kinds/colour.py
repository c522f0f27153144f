"""One colour for every pixel, such as that of a surface without its light."""

from __future__ import annotations

import numpy as np

from dynashare_jax.objectives.kinds import base
from dynashare_jax.objectives.kinds import regression
from dynashare_jax.types import TaskSpec


class Colour(regression.Regression):
  """Red, green and blue in 0..1 for every pixel, learnt and scored as a regression."""

  fields: tuple[str, ...] = ()
  reads = ()
  shares = True

  def outputs(self, task: TaskSpec) -> int:
    """Returns 3."""
    return 3

  def usual(self, task: TaskSpec) -> base.Rule:
    """Returns that colours lie in 0..1."""
    return "in 0..1", lambda labels: (labels >= 0) & (labels <= 1)

  def pictures(self, task: TaskSpec, values: np.ndarray) -> tuple[base.Picture, ...]:
    """Returns the colours themselves, cut at 0 and 1."""
    return (base.Picture(task.name, np.clip(np.nan_to_num(values), 0, 1)),)
