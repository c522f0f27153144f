"""Multiple gradient descent (MGDA): the shortest mixture of the tasks' gradients.

w = n argmin |J' w| over weights at least 0 that sum to 1. J: rows are gradients.

Source: Désidéri 2012; Sener and Koltun 2018.
Differs: times n; solved exactly (`ops.gramian.shortest`). With `config.balance.normalise=unit` it
  is the variant with normalised gradients.
Invariances: none to a factor on one loss: a task with small gradients takes over, so lambda_k
  multiplies the weights that it finds. A common factor changes no weight.
Example: gradients (-4, 1, 1) and (6, 1, 1) give 2 (0.6, 0.4): the update is (0, 2, 2).
"""

from __future__ import annotations

from typing import Any

from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of the shortest mixture."""
  del settings
  weigh = lambda facts, state: (facts.tasks * gramian.shortest(facts.gramian, facts.present), state)
  return balancing.Algorithm(weigh, "gramian", weights="result", length="plain")
