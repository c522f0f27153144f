"""Cross-stitch: one backbone per task; after blocks each reads a learnt mixture of all.

Source: Misra et al. 2016, Eq. 1; after every residual block as in AdaShare's tables. Differs: all
  columns start with the same weights, since a channel of one is mixed with the same channel of
  another (`config.fusion.aligned`); mixtures have no weight decay, which would shrink features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dynashare_jax.methods import _columns
from dynashare_jax.models import fusions
from dynashare_jax.sharing import contract


def build(parts: contract.Parts) -> contract.Method:
  """One plain training of all columns and what mixes them."""
  settings = parts.config.fusion
  stitch = lambda: fusions.Stitch(channels=settings.channels, own=settings.own)
  return _columns.build("cross_stitch", parts, stitch, "blocks", _read)


def _read(fusion: Any) -> np.ndarray:
  """Mixture weights `[K, K]`, of channels their mean."""
  alpha = np.asarray(fusion["alpha"])
  return alpha.reshape(*alpha.shape[:2], -1).mean(-1)
