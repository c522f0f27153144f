"""AdaShare: a learned task policy chooses the blocks (Sun et al. 2020)."""

from __future__ import annotations

from typing import Any

from dynashare_jax import types
from dynashare_jax.methods import _schedule
from dynashare_jax.ops import gumbel


def build(config: Any, spec: types.DatasetSpec, blocks: int) -> types.Method:
  """Warm-up, alternating search, re-training of sampled routes."""
  _schedule.needs_several(spec, config)
  count = config.policy.candidates
  phases = _schedule.search(config, blocks) + _schedule.retrain(
    config, count, gated=False, can_keep=True
  )
  return types.Method(
    name="adashare",
    phases=phases,
    learns_policy=True,
    routes=lambda key, alpha: gumbel.sample_routes(key, alpha, count),
  )
