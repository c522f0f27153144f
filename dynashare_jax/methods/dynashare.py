"""DynaShare: the task policy, refined by a gate for every example.

Source: Rahimian et al. 2023, Algorithms 1 and 2. Without a task policy (`config.policy.use=False`)
every task keeps every block and only the gates skip, from scratch or, with
`config.train.retrain_from=policy`, from the weights of the warm-up; without gates, use `adashare`.
"""

from __future__ import annotations

from dynashare_jax.methods import _schedule
from dynashare_jax.objectives import regularisers
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip


def build(parts: contract.Parts) -> contract.Method:
  """Warm-up, alternating search, gated trials of routes, gated re-training of the best."""
  parts = _schedule.resolved(parts)
  config, blocks = parts.config, parts.blocks
  rates = regularisers.check_target_rates(config.gates.target_rates, blocks)
  trunk = skip.trunk(parts, [rate < 1 for rate in rates])
  if not config.policy.use:
    # Gates that start from trained weights find more than gates from scratch.
    keeps = config.train.retrain_from == "policy" and config.compat.search == "corrected"
    warm = _schedule.plain_warmup(config) if keeps else ()
    phases = warm + _schedule.retrain(config, 1, gated=True, can_keep=bool(warm))
    routes = skip.every_block(len(parts.spec.tasks), blocks)
    sharing = skip.make(parts, phases, routes, target_rates=rates)
    notes = ("Task policy switched off: instance gates only.",)
    return contract.Method("dynashare", phases, trunk, sharing, notes=notes)
  phases = _schedule.search(config, blocks) + _schedule.retrain(
    config, config.policy.candidates, True, can_keep=True, halving=config.policy.halving
  )
  sharing = skip.make(parts, phases, _schedule.routes(parts), learns=True, target_rates=rates)
  return contract.Method("dynashare", phases, trunk, sharing, notes=_schedule.notes(parts))
