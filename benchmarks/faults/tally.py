"""What benchmarks/faults/run.py counts: faults, and runs that finished."""

from __future__ import annotations

import dataclasses
import threading
import time

KILLS = {
  "kill -9": 70,
  "SIGTERM to one": 7,
  "SIGTERM to all": 6,
  "exception in one": 8,
  "disk full": 9,
}
DAMAGE = ("flipped bit", "half-deleted step")


@dataclasses.dataclass
class Record:
  """One fault.

  Attributes:
    kind: a name of `KILLS` or `DAMAGE`.
    process: which was hit; -1 for all.
    phase: in which it hit.
    seconds: until the last process had ended.
    hung: whether one had to be killed.
    problem: anything that was not as it should be, in words.
    run: number of the run.
  """

  kind: str
  process: int
  phase: str
  seconds: float
  hung: bool
  problem: str
  run: int


@dataclasses.dataclass
class Finished:
  """A run that finished.

  Attributes:
    elastic: whether its starts had different processes and devices.
    starts: how often it was started.
    apart: how far its metrics are from the uninterrupted run's.
    problem: what differs; empty if nothing.
  """

  elastic: bool
  starts: int
  apart: float
  problem: str


class Tally:
  """What all lanes have done; they stop when it is enough."""

  def __init__(self, kills: int, elastic: int, until: float) -> None:
    """Prepares.

    Args:
      kills: wanted.
      elastic: restarts wanted with other processes and devices.
      until: when to stop at the latest, monotonic seconds.
    """
    self.records: list[Record] = []
    self.elastic: list[Record] = []
    self.runs: list[Finished] = []
    self.unasked: list[str] = []
    self.lock = threading.Lock()
    self._wanted = kills, elastic
    self._until = until
    self._numbers = iter(range(10**6))

  def next_run(self) -> int:
    """A number for a new run."""
    with self.lock:
      return next(self._numbers)

  def enough(self, elastic: bool) -> bool:
    """Whether there were as many faults as asked for, or time is over."""
    done = len(self.elastic) if elastic else sum(r.kind in KILLS for r in self.records)
    return done >= self._wanted[elastic] or time.monotonic() > self._until
