"""DynaShare: the task policy, refined by a gate for every example.

Source: Rahimian et al. 2023, Algorithms 1 and 2. Without a task policy
(`config.policy.use=False`) every task keeps every block and only the gates
skip; without gates, use `adashare`.
"""

from __future__ import annotations

from typing import Any

from dynashare_jax import types
from dynashare_jax.methods import _schedule
from dynashare_jax.objectives import regularisers
from dynashare_jax.ops import gumbel


def build(config: Any, spec: types.DatasetSpec, blocks: int) -> types.Method:
  """Warm-up, alternating search, gated re-training of sampled routes."""
  rates = regularisers.check_target_rates(config.gates.target_rates, blocks)
  tasks = len(spec.tasks)
  if not config.policy.use:
    return types.Method(
      name="dynashare",
      phases=_schedule.retrain(config, 1, gated=True, can_keep=False),
      routes=lambda key, alpha: _schedule.every_block(tasks, blocks),
      target_rates=rates,
      notes=("Task policy switched off: instance gates only.",),
    )
  _schedule.needs_several(spec, config)
  count = config.policy.candidates
  phases = _schedule.search(config, blocks) + _schedule.retrain(
    config, count, gated=True, can_keep=True
  )
  return types.Method(
    name="dynashare",
    phases=phases,
    learns_policy=True,
    target_rates=rates,
    routes=lambda key, alpha: gumbel.sample_routes(key, alpha, count),
  )
