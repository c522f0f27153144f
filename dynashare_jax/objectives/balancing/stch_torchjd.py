"""Smooth Chebyshev scalarisation as TorchJD has it: no reference losses and no logarithm.

w = n softmax(L / (n mu)) over the n present tasks. L: losses; mu: `config.balance.stch_mu`.

Source: TorchJD 0.18, `STCH`, whose gradient is p softmax(p L / mu) with p = 1 / n.
Differs: times n^2, so that weights sum to n. `stch` is the method of the paper's authors.
Invariances: none; the largest loss counts most, whatever its unit.
Example: L = (ln 9, 0) at mu = 1 gives 2 softmax(ln 3, 0) = 1.5 and 0.5.
"""

from __future__ import annotations

from typing import Any

import jax

from dynashare_jax.objectives import balancing


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of TorchJD's smooth Chebyshev scalarisation."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    share = facts.softmax(facts.losses / (facts.tasks * settings.stch_mu))
    return facts.tasks * share, state

  return balancing.Algorithm(weigh, heads=True)
