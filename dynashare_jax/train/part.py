"""A part of a run: the steps of one candidate, trained by a loop of its own."""

from __future__ import annotations

import dataclasses
import threading

from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.train import evaluate
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import state as state_lib


class HaltedError(Exception):
  """Another group of this process failed."""


@dataclasses.dataclass(frozen=True)
class Part:
  """What one loop trains of a run: one candidate.

  Attributes:
    steps: global ones.
    start: the state before them, NumPy arrays; without an optimiser.
    constant: metrics of the best constant prediction, for selection.
    before: steps of the group's candidates before this one.
    total: steps of all candidates of the group.
    shown: whether the progress is shown.
    halt: set when another group of this process failed.
  """

  steps: range
  start: state_lib.State
  constant: evaluate.Values
  before: int
  total: int
  shown: bool
  halt: threading.Event

  def check(self) -> None:
    """Raises HaltedError when another group of this process failed."""
    if self.halt.is_set():
      raise HaltedError


def spans(experiment: experiment_lib.Experiment) -> list[range]:
  """The global steps of every candidate that is re-trained."""
  found: dict[int, range] = {}
  first = 0
  for phase in experiment.method.phases:
    if phase.candidate >= 0 and not phase.trial:
      begin = found.get(phase.candidate, range(first, first)).start
      found[phase.candidate] = range(begin, first + phase.steps)
    first += phase.steps
  return [found[number] for number in sorted(found)]


def display(experiment: experiment_lib.Experiment, part: Part | None) -> tuple[int, int, bool]:
  """What the progress of a loop shows.

  Returns:
    The global step that counts as 0, the steps in all (of a part: of all
    candidates of its group), and whether this process shows it.
  """
  if part is None:
    return 0, experiment.total_steps, mesh_lib.rank(experiment.mesh) == 0
  return part.steps.start - part.before, part.total, part.shown
