"""Affinity: routes from the cosines of the tasks' gradients, without a search.

After a warm-up on random routes, the tasks' gradients are compared on a few held-out batches. The
route that is re-trained makes the sum of the mean cosines of all pairs of tasks, over the blocks
that both execute, as large as it can be within the budget (an integer programme), with equally many
blocks for every task; of all such numbers of blocks the best. Hard sharing is tried beside it, so
that validation can refuse the route.

Source: ours. Related: grouping tasks by the effect or the cosine of their gradients (Standley et
  al. 2020; Fifty et al. 2021), which gives every group a network of its own, and branching by the
  similarity of features (Vandenhende et al. 2020), which parts tasks once and for good. Here groups
  may differ from block to block, and stay in one network of given size.
"""

from __future__ import annotations

from dynashare_jax.methods import _schedule
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip


def build(parts: contract.Parts) -> contract.Method:
  """Warm-up, comparison of gradients, trials of the route and of hard sharing, re-training."""
  config = parts.config
  if len(parts.spec.tasks) < 2:
    raise ValueError(
      f"config.method='affinity' compares tasks, and there is only {parts.spec.tasks[0].name}:"
      " train more tasks, or use config.method='hard'."
    )
  if config.policy.measure < 1:
    raise ValueError(
      "config.method='affinity' needs batches to compare gradients on: set"
      " --config.policy.measure=20."
    )
  routes = _schedule.within_budget(parts, 2, learns=False)
  phases = _schedule.warmup(config) + _schedule.retrain(
    config, 2, gated=False, can_keep=True, halving=config.policy.halving
  )
  sharing = skip.make(parts, phases, routes)
  return contract.Method(
    "affinity", phases, skip.trunk(parts), sharing, notes=_schedule.notes(parts)
  )
