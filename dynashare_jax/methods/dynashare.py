"""DynaShare: the task policy, refined by a gate for every example.

Source: Rahimian et al. 2023, Algorithms 1 and 2. Without a task policy (`config.policy.use=False`)
every task keeps every block and only the gates skip, from scratch or, with
`config.train.retrain_from=policy`, from the weights of the warm-up; without gates, use `adashare`.
The control of a gate's result is `config.gates.constant`: routes that leave out as much for every
example alike, at random, trained as the gates are.
"""

from __future__ import annotations

from dynashare_jax.methods import _schedule
from dynashare_jax.objectives import regularisers
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip

_CONTROL = (
  "In the place of instance gates, random routes leave out as much for every example alike."
)


def build(parts: contract.Parts) -> contract.Method:
  """Warm-up, alternating search, gated trials of routes, gated re-training of the best."""
  parts = _schedule.resolved(parts)
  config, blocks = parts.config, parts.blocks
  rates = regularisers.check_target_rates(config.gates.target_rates, blocks)
  alone = not (config.gates.contrast and skip.samples_rates(config))
  wanted = "0 with config.gates.target_rate=sampled, as a price belongs to one rate"
  _schedule.check(config, "gates", ("contrast", alone, wanted))
  gated = not config.gates.constant
  targets, told = (rates, ()) if gated else (None, (_CONTROL,))
  trunk = skip.trunk(parts, [gated and rate < 1 for rate in rates])
  if config.policy.use:
    phases = _schedule.search(config, blocks) + _schedule.retrain(
      config, config.policy.candidates, gated, can_keep=True, halving=config.policy.halving
    )
    routes, told = _schedule.routes(parts), (*_schedule.notes(parts), *told)
  else:
    # Gates that start from trained weights find more than gates from scratch.
    keeps = config.train.retrain_from == "policy" and config.compat.search == "corrected"
    warm = _schedule.plain_warmup(config) if keeps else ()
    phases = warm + _schedule.retrain(config, 1, gated, can_keep=bool(warm))
    routes = skip.every_block(len(parts.spec.tasks), blocks)
    told = ("Task policy switched off: instance gates only.", *told)
  if not gated:
    routes = _schedule.thinned(routes, rates)
  learns = bool(config.policy.use)
  sharing = skip.make(parts, phases, routes, learns=learns, target_rates=targets)
  return contract.Method("dynashare", phases, trunk, sharing, notes=told)
