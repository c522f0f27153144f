"""DynaShare: the task policy, refined by a gate for every example.

Source: Rahimian et al. 2023, Algorithms 1 and 2. Without a task policy (`config.policy.use=False`)
every task keeps every block and only the gates skip; without gates, use `adashare`.
"""

from __future__ import annotations

from dynashare_jax.methods import _schedule
from dynashare_jax.objectives import regularisers
from dynashare_jax.ops import gumbel
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip


def build(parts: contract.Parts) -> contract.Method:
  """Warm-up, alternating search, gated re-training of sampled routes."""
  config, blocks = parts.config, parts.blocks
  rates = regularisers.check_target_rates(config.gates.target_rates, blocks)
  trunk = skip.trunk(parts, [rate < 1 for rate in rates])
  if not config.policy.use:
    phases = _schedule.retrain(config, 1, gated=True, can_keep=False)
    routes = skip.every_block(len(parts.spec.tasks), blocks)
    sharing = skip.make(parts, phases, routes, target_rates=rates)
    notes = ("Task policy switched off: instance gates only.",)
    return contract.Method("dynashare", phases, trunk, sharing, notes=notes)
  _schedule.needs_several(parts.spec, config)
  count = config.policy.candidates
  phases = _schedule.search(config, blocks) + _schedule.retrain(
    config, count, gated=True, can_keep=True
  )
  sharing = skip.make(
    parts,
    phases,
    lambda key, alpha: gumbel.sample_routes(key, alpha, count),
    learns=True,
    target_rates=rates,
  )
  return contract.Method("dynashare", phases, trunk, sharing)
