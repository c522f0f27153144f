"""How much a plan computes: analytic multiply-accumulates of an example."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.ops import costs
from dynashare_jax.train import results


class Work(NamedTuple):
  """Multiply-accumulates of one example on a plan.

  Attributes:
    fixed: what every example needs: stem, shortcuts, gates, heads and blocks without a gate.
    gated: `(task, block, amount)` for every computation behind a gate; `task` is the first of the
      group that shares it.
  """

  fixed: int
  gated: tuple[tuple[int, int, int], ...]

  @property
  def full(self) -> int:
    """With all gates open."""
    return self.fixed + sum(amount for _, _, amount in self.gated)

  def at(self, rate: np.ndarray) -> float:
    """With execution rates `[T, L]`, the mean over examples."""
    return self.fixed + sum(amount * float(rate[task, block]) for task, block, amount in self.gated)

  def share(self, rate: np.ndarray) -> float:
    """The same as a fraction of `full`, in (0, 1]."""
    return self.at(rate) / self.full


def of_plan(trained: trained_lib.Trained) -> Work:
  """Counts the work of a trained model on its plan; without one, all of it is fixed."""
  plan = trained.plan
  full = total(trained, trained_lib.PLANNED)
  if plan is None or not any(plan.gated):
    return Work(full, ())
  amounts = branches(trained)
  gated = tuple(
    (group[0], block, amounts[block])
    for block, split in enumerate(plan.splits)
    if plan.gated[block]
    for group in split.groups[: split.running]
  )
  return Work(full - sum(amount for _, _, amount in gated), gated)


def total(trained: trained_lib.Trained, execution: trained_lib.Execution) -> int:
  """Counts multiply-accumulates of an example; masked work counts as computed."""
  run = trained.forward(execution._replace(compaction=None))
  return costs.macs(run, trained.variables, trained.experiment.one_example())


def branches(trained: trained_lib.Trained) -> tuple[int, ...]:
  """Counts multiply-accumulates of every block's branch, for one example and task."""
  return results.pieces(trained.experiment, trained.params, trained.stats).branches
