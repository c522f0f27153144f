"""Programs of a run that are compiled before they are needed, in a thread of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent import futures
import contextlib
import functools
from typing import Any

from absl import logging
import jax
import numpy as np

from dynashare_jax.train import forward
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import step as step_lib

FURTHER = 2  # programs beyond the one that trains; `Loop.programs` keeps four


class Ahead(contextlib.AbstractContextManager["Ahead"]):
  """Compiles what a loop needs next, while it makes data and trains.

  Compiling leaves Python to the other threads. It is what the loop would compile by itself, so that
  no number depends on it. Several processes compile when they come to it, all in one order; so do
  runs whose data are streamed, those whose balancer wants two programs a phase, and accelerators,
  where kernels are chosen by timing them. An end waits for the program that is being compiled.

  Attributes:
    end: number of the first phase that this loop does not train; default after the last one.
  """

  def __init__(self, loop: loop_lib.Loop) -> None:
    """Prepares; nothing is compiled yet."""
    self._loop = loop
    self._pool = futures.ThreadPoolExecutor(1, "compiles-ahead")
    self.end = len(loop.experiment.method.phases)
    self._index = -1  # of the phase that the loop has come to
    self._begun: dict[forward.Spec | None, futures.Future[None]] = {}
    whole = jax.process_count() == 1 and loop.config.train.resident and loop.part is None
    plain = loop.experiment.balancer.every == 1 and jax.default_backend() == "cpu"
    self._works = whole and plain

  def start(self) -> None:
    """Compiles what a run needs that begins: new parameters, and the first step."""
    if self._works:
      self._pool.submit(_compile, self._loop.experiment.init, lambda: (jax.random.key(0),))
      # Some data sets compile to read the first example, which two threads would do twice.
      self._loop.feed.outline(0, 1)
      self._steps(range(1))

  def look(self, index: int) -> None:
    """Compiles the next programs after that of a phase, which the loop has come to."""
    if not self._works or index == self._index:
      return
    self._index = index
    now = self._spec(index)
    if now is not None:
      self._loop.programs(now)
    self._steps(range(index + 1, self.end), {now})
    if now in self._begun:  # Else it would be compiled once more.
      self._begun[now].result()

  def _steps(self, phases: range, known: Collection[forward.Spec | None] = ()) -> None:
    """Compiles the next programs that phases have beside those that are known."""
    found: dict[forward.Spec, int] = {}
    for index in phases:
      spec = self._spec(index)
      if spec is not None and spec not in known:
        found.setdefault(spec, index)
      if len(found) == FURTHER:
        break
    for spec, index in found.items():
      program = self._loop.programs(spec)  # Where it is kept already: longer than others.
      if spec not in self._begun:
        self._begun[spec] = self._pool.submit(
          _compile, program, functools.partial(self._arguments, index)
        )

  def _spec(self, index: int) -> forward.Spec | None:
    """What is compiled for a phase; None where it depends on what the search finds."""
    experiment = self._loop.experiment
    spec = experiment.spec(index, self._structure(0))
    if experiment.method.phases[index].candidate < 0:
      return spec
    with contextlib.suppress(ValueError):  # No route may have all or none.
      if experiment.spec(index, self._structure(1)) == spec:
        return spec
    return None

  def _structure(self, value: int) -> Any:
    """A structure that is not known yet, with one value everywhere."""
    experiment = self._loop.experiment
    blank = experiment.sharing.blank(experiment.method.candidates)
    return jax.tree.map(lambda leaf: np.full_like(leaf[0], value), blank)

  def _arguments(self, index: int) -> tuple[Any, ...]:
    """What the program of a phase is called with, arrays as their shapes."""
    loop, experiment = self._loop, self._loop.experiment
    phases = experiment.method.phases
    before = sum(phase.steps for phase in phases[:index])
    size = min(loop.next_stop(phases[index], 0), loop.config.train.steps_per_dispatch)
    arrays, rows, draws = loop.feed.outline(index, size)
    seed, structure = experiment.config.seed, self._structure(0)
    moving = step_lib.moving_of(
      experiment.sharing, phases[index], seed, 0, before, structure, experiment.horizon(index)
    )
    return experiment.template(before + 1), arrays, rows, moving, draws

  def __exit__(self, *unused: object) -> None:
    self._pool.shutdown(wait=True, cancel_futures=True)


def _compile(program: jax.stages.Wrapped, told: Callable[[], tuple[Any, ...]]) -> None:
  """Compiles a program for the arguments that `told` returns; a call finds it.

  What fails here will fail again, and be told, where it is needed.
  """
  try:
    program.lower(*told()).compile()
  except Exception as error:
    logging.info("Not compiled ahead: %s", error)
