"""Hard parameter sharing: every task executes every block of one backbone."""

from __future__ import annotations

from dynashare_jax.methods import _schedule
from dynashare_jax.models.trunks import normed
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip


def build(parts: contract.Parts) -> contract.Method:
  """One plain training of the shared network."""
  phases = _schedule.plain(parts.config)
  if parts.config.model.norm == "task":
    return contract.Method(
      "hard", phases, normed.NormedTrunk(parts.backbone(), len(parts.spec.tasks))
    )
  sharing = skip.make(parts, phases, skip.every_block(len(parts.spec.tasks), parts.blocks))
  return contract.Method("hard", phases, skip.trunk(parts), sharing)
