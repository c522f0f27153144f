"""Multi-gate mixture of experts: every task mixes the same backbones by a gate of its own.

Source: Ma et al. 2018. Differs: an expert is a whole backbone, so that the network is
  `config.experts.count` times as large as that of hard sharing; a gate reads the pooled features of
  the experts' stems, where theirs reads the input.
"""

from __future__ import annotations

from dynashare_jax.methods import _experts
from dynashare_jax.methods import _schedule
from dynashare_jax.sharing import contract


def build(parts: contract.Parts) -> contract.Method:
  """One plain training of all experts and gates."""
  count = _schedule.positive(parts.config.experts.count, "experts.count")
  names = [f"expert {e}" for e in range(count)]
  return _experts.build("mmoe", parts, names, [range(count)] * len(parts.spec.tasks))
