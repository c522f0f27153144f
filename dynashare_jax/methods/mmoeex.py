"""MMoE with exclusivity: some links between experts and tasks, drawn once, are closed.

Every task's loss is that after an inner step of its own, on another part of the batch
(`contract.Inner`); `config.experts.inner=0` trains as MMoE does.

The first experts each draw a task: with `config.experts.links='exclusivity'` the expert serves that
task alone, with 'exclusion' all but that one. The other experts serve all tasks. The draw is a
function of the seed, so that a resumed run has the same links.

Source: Aoki et al. 2021; of first order, as their released code is. Differs: the rate of the inner
  step does not fall with that of the optimiser. In the released code a closed link has the logit 0,
  and thus still weight; here it has none, and the open ones sum to 1.
"""

from __future__ import annotations

import jax
import numpy as np

from dynashare_jax import lookup
from dynashare_jax.methods import _experts
from dynashare_jax.methods import _schedule
from dynashare_jax.ops import streams
from dynashare_jax.sharing import contract

LINKS = ("exclusivity", "exclusion")


def build(parts: contract.Parts) -> contract.Method:
  """One training of all experts and gates."""
  settings, tasks = parts.config.experts, parts.spec.tasks
  lookup.one_of("config.experts.links", settings.links, LINKS)
  if settings.count < 2:
    raise ValueError(
      "config.method='mmoeex' needs an expert for all tasks beside those with closed links:"
      f" config.experts.count must be at least 2, but is {settings.count}."
    )
  if not 0 <= settings.exclusive < 1:
    raise ValueError(
      "config.experts.exclusive must be in [0, 1), so that one expert serves all tasks, but is"
      f" {settings.exclusive}."
    )
  _schedule.check(
    parts.config,
    "experts",
    ("inner", 0 <= settings.inner < np.inf, "at least 0 and finite"),
    ("inner_share", 0 < settings.inner_share < 1, "in (0, 1)"),
  )
  exclusion = settings.links == "exclusion"
  if exclusion and len(tasks) < 2:
    raise ValueError(
      "config.experts.links='exclusion' closes experts to one of several tasks, but there is only"
      f" {tasks[0].name}: set --config.experts.links=exclusivity."
    )
  closed = min(int(settings.exclusive * settings.count + 1e-9), settings.count - 1)
  key = jax.random.key_data(streams.stream_key(parts.config.seed, "links"))
  rng = np.random.default_rng(np.asarray(key).ravel().tolist())
  drawn = rng.integers(len(tasks), size=closed).tolist()
  serves = lambda e, t: e >= closed or (drawn[e] == t) != exclusion
  reads = [[e for e in range(settings.count) if serves(e, t)] for t in range(len(tasks))]
  names = [f"expert {e}" for e in range(settings.count)]
  how = "all tasks but" if exclusion else "only"
  notes = tuple(f"Expert {e} serves {how} {tasks[t].name}." for e, t in enumerate(drawn))
  inner = None
  if settings.inner:
    rate = settings.inner * parts.config.optimizers.retrain.lr
    inner = contract.Inner(rate, settings.inner_share)
    share = f"{100 * settings.inner_share:g}%"
    notes += (f"Every task takes an inner step of rate {rate:g} on {share} of each batch.",)
  return _experts.build("mmoeex", parts, names, reads, notes=notes, inner=inner)
