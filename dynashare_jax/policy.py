"""Task policies for your own network: which task executes which block, learnt beside the weights.

A policy is an array of logits `[T, L, 2]` (tasks, blocks; column 0 executes, 1 skips) that any
optimiser moves. In every step `soft_decisions` draws numbers `[T, L]` in [0, 1] from it, with
which the output of every block is mixed with what stands in its place; penalties keep the tasks
together and the work small; `sample_routes` makes 0 and 1 of it at the end.

```
logits = policy.init_logits("equal", tasks=2, blocks=4)
d = policy.soft_decisions(key, logits, policy.temperature(cycle))
x = d[t, l] * (x + block(x)) + (1 - d[t, l]) * x   # for task t, at block l
loss += 0.05 * policy.sparsity(logits, policy.open_mask(4, opened)) + policy.sharing(logits)
```

| what | functions |
|---|---|
| start, and what was learnt | `init_logits`, `alpha`, `entropy`, `spread` |
| draws | `soft_decisions`, `soft_choices`, `sample_routes`, `draw_routes`, `random_routes` |
| schedules | `temperature`, and the curriculum: `opened`, `open_mask` |
| penalties | `sparsity` (Eq. 3), `sharing` (Eq. 4), `instance` (Eq. 5), `budget`, `conflict` |

`docs/pieces/policy.md` has a whole example.

Source: DynaShare (Rahimian et al., CVPRW 2023), section 3; AdaShare (Sun et al. 2020).
"""

from __future__ import annotations

from dynashare_jax.objectives import regularisers
from dynashare_jax.ops import gumbel
from dynashare_jax.ops import policy
from dynashare_jax.ops.annotated import checked

__all__ = [
  "alpha",
  "budget",
  "conflict",
  "draw_routes",
  "entropy",
  "init_logits",
  "instance",
  "open_mask",
  "opened",
  "random_routes",
  "sample_routes",
  "sharing",
  "soft_choices",
  "soft_decisions",
  "sparsity",
  "spread",
  "temperature",
]

alpha = checked(policy.alpha)
budget = checked(regularisers.budget)
conflict = checked(regularisers.conflict)
draw_routes = checked(policy.draw_routes)
entropy = checked(policy.entropy)
init_logits = checked(policy.init_logits)
instance = checked(regularisers.instance)
open_mask = checked(policy.open_mask)
opened = checked(policy.opened)
random_routes = checked(policy.random_routes)
sample_routes = checked(gumbel.sample_routes)
sharing = checked(regularisers.sharing)
soft_choices = checked(gumbel.soft_choices)
soft_decisions = checked(gumbel.soft_decisions)
sparsity = checked(regularisers.sparsity)
spread = checked(policy.spread)
temperature = checked(policy.temperature)
