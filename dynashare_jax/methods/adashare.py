"""AdaShare: a learned task policy chooses the blocks (Sun et al. 2020).

By default the search is the corrected one; `config.compat.search=papers` gives the paper's.
"""

from __future__ import annotations

from dynashare_jax.methods import _schedule
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip


def build(parts: contract.Parts) -> contract.Method:
  """Warm-up, alternating search, trials of routes, re-training of the best."""
  parts = _schedule.resolved(parts)
  config = parts.config
  phases = _schedule.search(config, parts.blocks) + _schedule.retrain(
    config, config.policy.candidates, False, can_keep=True, halving=config.policy.halving
  )
  sharing = skip.make(parts, phases, _schedule.routes(parts), learns=True)
  return contract.Method(
    "adashare", phases, skip.trunk(parts), sharing, notes=_schedule.notes(parts)
  )
