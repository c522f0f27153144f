"""MGDA on features: the shortest mixture of the tasks' gradients in what their heads read.

As `mgda`, where J's rows are the gradients in the shared features of all examples: an upper bound
of the parameters' problem, by one backward pass of the trunk. Same as `mgda` with
`config.balance.features=True`.

Source: Sener and Koltun 2018 (MGDA-UB), Eq. 4.
Differs: as `mgda`. All tasks must read the same features.
Invariances: as `mgda`.
Example: as `mgda`.
"""

from __future__ import annotations

from typing import Any

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import mgda


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of the shortest mixture of features' gradients."""
  return mgda.build(settings)._replace(features=True)
