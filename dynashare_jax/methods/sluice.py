"""Sluice networks: cross-stitch over subspaces of channels, which are kept apart.

Source: Ruder et al. 2019; after every residual block as in AdaShare's tables. Differs: subspaces
  are contiguous channels, own ones start with 0.9 and rows sum to 1, and the penalty is on the last
  layer of every block, once a step; heads read mixtures of layers (their beta) only with
  `config.fusion.layers`, of the blocks of the last segment.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dynashare_jax.methods import _columns
from dynashare_jax.models import fusions
from dynashare_jax.sharing import contract

SUBSPACES = 2


def build(parts: contract.Parts) -> contract.Method:
  """One plain training of all columns and what mixes their subspaces."""
  settings, backbone = parts.config.fusion, parts.backbone()
  for layer in backbone.describe():
    if layer.channels % SUBSPACES:
      raise ValueError(
        f"config.method='sluice' halves the channels of every layer, but {layer.name} has"
        f" {layer.channels}: choose even widths."
      )
  if not settings.orthogonal >= 0:
    raise ValueError(f"config.fusion.orthogonal must be at least 0, but is {settings.orthogonal}.")
  if settings.orthogonal and parts.config.model.backbone == "channel_lstm":
    raise ValueError(
      "config.fusion.orthogonal needs blocks that end in one kernel, which those of"
      " config.model.backbone='channel_lstm' do not: set --config.fusion.orthogonal=0."
    )
  stitch = lambda: fusions.Stitch(SUBSPACES, settings.channels, settings.own)
  mix = fusions.LayerMix() if settings.layers else None
  last = backbone.segments()[-1]
  more = {"layers": mix, "mixed": last, "orthogonal": settings.orthogonal}
  return _columns.build("sluice", parts, stitch, "blocks", _read, **more)


def _read(fusion: Any) -> np.ndarray:
  """Mixture weights between columns, `[K, K]`: sums over what is read, means over who reads."""
  alpha = np.asarray(fusion["alpha"])
  alpha = alpha.reshape(*alpha.shape[:2], -1).mean(-1)
  count = len(alpha) // SUBSPACES
  return np.asarray(alpha.reshape(count, SUBSPACES, count, SUBSPACES).sum(3).mean(1))
