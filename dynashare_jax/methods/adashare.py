"""AdaShare: a learned task policy chooses the blocks (Sun et al. 2020)."""

from __future__ import annotations

from dynashare_jax.methods import _schedule
from dynashare_jax.ops import gumbel
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip


def build(parts: contract.Parts) -> contract.Method:
  """Warm-up, alternating search, re-training of sampled routes."""
  _schedule.needs_several(parts.spec, parts.config)
  count = parts.config.policy.candidates
  phases = _schedule.search(parts.config, parts.blocks) + _schedule.retrain(
    parts.config, count, gated=False, can_keep=True
  )
  sharing = skip.make(
    parts, phases, lambda key, alpha: gumbel.sample_routes(key, alpha, count), learns=True
  )
  return contract.Method("adashare", phases, skip.trunk(parts), sharing)
