"""Unit norms: every task's gradient has the same length.

w_k = 1 / d_k. d: lengths of the tasks' gradients, of which the squares are averaged over steps;
`config.balance.average` is the share of the past that stays.

Source: the core of DB-MTL (Lin et al. 2023) and, with a factor, of NTKMTL for n = 1 (Qin et al.
  2025).
Differs: squares of lengths are averaged, not gradients, so that no gradient is kept.
Invariances: a factor on a loss changes nothing; lambda_k multiplies the weight.
Example: gradients (3, 4) and (0, 0.1) give the weights 0.2 and 10.
"""

from __future__ import annotations

from typing import Any

import jax

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _averages


def build(settings: Any) -> balancing.Algorithm:
  """Returns the balancer of unit norms."""

  def weigh(facts: balancing.Facts, state: Any) -> tuple[jax.Array, Any]:
    return _averages.move_lengths(state, facts, settings.average)

  return balancing.Algorithm(
    weigh,
    "gramian",
    init=lambda tasks, epoch: _averages.init(tasks),
    weights="result",
    length="plain",
  )
