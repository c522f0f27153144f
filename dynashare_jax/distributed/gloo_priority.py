"""The priority of the thread that sends and receives between CPU processes.

jax's collectives on CPUs are gloo's. While another process is ahead, so that its message lies here
before this one has come to wait for it, gloo's thread polls without a pause. With as many threads
that compute as cores it takes half of a core from them, just from the process that is behind
already. At idle priority it runs only where a core has nothing else to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import os
import pathlib
import threading

from absl import logging

VARIABLE = "DYNASHARE_IDLE_GLOO"
_THREADS = pathlib.Path("/proc/self/task")


def wanted(environment: Mapping[str, str]) -> bool:
  """Returns whether `DYNASHARE_IDLE_GLOO` is 1; not by default.

  On a machine that computes other things, too, a thread at idle priority waits
  for seconds, in every step. It cannot go back without rights.

  Raises:
    ValueError: it is neither 0 nor 1, or this system has no such priority.
  """
  told = environment.get(VARIABLE, "0")
  if told not in ("0", "1"):
    raise ValueError(f"The variable {VARIABLE} must be 0 or 1, but is {told!r}.")
  if told == "1" and not (hasattr(os, "SCHED_IDLE") and _THREADS.is_dir()):
    raise ValueError(f"The variable {VARIABLE} is for Linux only; unset it.")
  return told == "1"


@contextlib.contextmanager
def lowered() -> Iterator[None]:
  """Gives gloo's thread, which starts in here, idle priority.

  It is the first thread that jax's CPU client starts, and has no name of its
  own. Where there is none (on accelerators), nothing happens.
  """
  before = set(_ids())
  yield
  own = {thread.native_id for thread in threading.enumerate()}
  name = _name(os.getpid())
  for thread in _ids():
    if thread in before or thread in own or _name(thread) != name:
      continue
    os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    logging.info("gloo's thread runs at idle priority (%s=1).", VARIABLE)
    return
  logging.warning("%s=1, but there is no thread of gloo.", VARIABLE)


def _ids() -> list[int]:
  """All threads of this process, in the order of their numbers."""
  return sorted(int(path.name) for path in _THREADS.iterdir())


def _name(thread: int) -> str:
  with contextlib.suppress(OSError):
    return (_THREADS / str(thread) / "comm").read_text()
  return ""
