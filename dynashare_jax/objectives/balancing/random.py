"""Random weights (RLW), new in every step.

w = n softmax(z), z standard normal, over the n present tasks.

Source: Lin et al. 2022.
Differs: times n, so that the learning rate means what it means for fixed weights.
Invariances: weights know nothing of the losses.
Example: z = (0, ln 3) gives the weights 0.5 and 1.5.
"""

from __future__ import annotations

from typing import Any

import jax

from dynashare_jax.objectives import balancing


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of random weights."""
  del settings
  return balancing.Algorithm(_weigh, heads=True)


def _weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
  """A draw of the step."""
  drawn = jax.random.normal(facts.key, facts.losses.shape)
  return facts.tasks * facts.softmax(drawn), state
