"""Timings in alternation, so that a slow moment of a machine slows all cases."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
import dataclasses
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
