"""Fixed weights: the total loss is the sum of the task losses times their weights (Eq. 6).

w_k = 1, on rows that come with lambda_k, the weights of the configuration.

Source: DynaShare (Rahimian et al. 2023), Eq. 6.
Invariances: linear in the scale of a loss.
Example: losses 2 and 3 with lambda 1 and 10 give the gradient g_1 + 10 g_2.
"""

from __future__ import annotations

from typing import Any

from dynashare_jax.objectives import balancing


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer that leaves the configured weights as they are."""
  del settings
  return balancing.Algorithm(_weigh, heads=True, constant=True)


def _weigh(facts: balancing.Facts, state: Any) -> tuple[tuple[float, ...], Any]:
  """Ones, constants of the compiled step."""
  return (1.0,) * len(facts.present), state
