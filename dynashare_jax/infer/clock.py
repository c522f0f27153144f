"""Timings in alternation, so that a slow moment of a machine slows all cases."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
import dataclasses
import os
import statistics
import time
from typing import TypeVar

import jax

Name = TypeVar("Name", bound=Hashable)


@dataclasses.dataclass
class Timing:
  """Seconds of the repeats of one case.

  Attributes:
    wall: elapsed seconds.
    cpu: seconds of processor time, of all threads; on a busy machine these
      depend less on what else runs.
  """

  wall: list[float] = dataclasses.field(default_factory=list)
  cpu: list[float] = dataclasses.field(default_factory=list)

  @property
  def median(self) -> float:
    """Median of the elapsed seconds."""
    return statistics.median(self.wall)

  @property
  def steady(self) -> list[float]:
    """Processor time where all computes on one processor core, else elapsed seconds."""
    return self.cpu if one_core() else self.wall


def one_core() -> bool:
  """Returns whether this process computes on a CPU and may use one core of it alone."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return cores == 1 and jax.default_backend() == "cpu"


def alternate(calls: Mapping[Name, Callable[[], object]], rounds: int) -> dict[Name, Timing]:
  """Times every call once in turn, again and again, until what it returns is computed.

  Calls must be warm: nothing is thrown away.
  """
  timings = {name: Timing() for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      wall, cpu = time.perf_counter(), time.process_time()
      jax.block_until_ready(call())
      timings[name].wall.append(time.perf_counter() - wall)
      timings[name].cpu.append(time.process_time() - cpu)
  return timings
