"""NDDR-CNN: one backbone per task; after stem and segments each reduces all columns' channels.

Source: Gao et al. 2019; places and counts as in AdaShare's tables. Differs: all columns start with
  the same weights (`config.fusion.aligned`); backbones whose features have both signs get a layer
  norm without ReLU; reductions have no weight decay.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dynashare_jax.methods import _columns
from dynashare_jax.models import fusions
from dynashare_jax.sharing import contract


def build(parts: contract.Parts) -> contract.Method:
  """One plain training of all columns and what reduces them."""
  rectified = parts.backbone().rectified
  reduction = lambda: fusions.Reduction(
    parts.config.fusion.own, rectified, parts.config.model.norm, parts.dtype
  )
  return _columns.build("nddr", parts, reduction, "stem_and_segments", _read)


def _read(fusion: Any) -> np.ndarray:
  """Shares of the columns in the length of every column's weights, `[K, K]`."""
  lengths = np.sqrt(np.square(np.asarray(fusion["kernel"])).sum((1, 3))).T
  return np.asarray(lengths / lengths.sum(1, keepdims=True))
