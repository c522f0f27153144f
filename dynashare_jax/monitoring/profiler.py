"""A recording of a few steps, for Perfetto and TensorBoard."""

from __future__ import annotations

import contextlib
import math
import pathlib
import sys
import threading
from typing import Any

from absl import logging
import jax

STEP = "train"  # what a dispatch is called in a recording; it has a step_num
_busy = threading.Lock()  # jax records once at a time


class Profiler:
  """Records some steps of a run, once, with jax's profiler.

  Recording begins at the second dispatch of the first phase that has enough steps, as the first
  dispatch compiles. An error is one warning, never the end of a run.
  """

  def __init__(self, folder: pathlib.Path, steps: int = 0) -> None:
    """Prepares to record `steps`, in whole dispatches, into this process's folder; 0 for none.

    Raises:
      ValueError: a negative number of steps.
    """
    if steps < 0:
      raise ValueError(f"--profile must be a number of steps, not {steps}.")
    self._folder = folder
    self._steps = steps
    self._wanted = steps > 0
    self._dispatches = 0  # of this phase
    self._left: float = math.inf
    self._step = 0  # global, that are dispatched
    self._first = 0  # of the recording
    self._recording = False
    self._annotation: Any = None

  def begin(self, step: int, left: int, fresh: bool) -> None:
    """Notes where the run is.

    Args:
      step: global steps that are done.
      left: steps of this phase that are not.
      fresh: whether a phase begins.
    """
    self._step, self._left = step, left
    if fresh:
      self._dispatches = 0

  def before(self) -> bool:
    """Begins a dispatch; returns whether a recording begins here, which takes time."""
    enough = self._dispatches > 0 and self._left >= self._steps
    begins = self._wanted and enough and not self._recording
    if begins:
      self._start()
    if self._recording:
      self._annotation = jax.profiler.StepTraceAnnotation(STEP, step_num=self._step + 1)
      self._annotation.__enter__()
    return begins

  def after(self, result: Any, steps: int) -> bool:
    """Ends a dispatch of some steps; returns whether a recording ended, which took time."""
    self._leave()
    self._dispatches += 1
    self._step += steps
    self._left -= steps
    if self._recording and self._step - self._first >= self._steps:
      jax.block_until_ready(result)
      self._stop()
      return True
    return False

  def close(self, failed: bool = False) -> None:
    """Ends a recording that has fewer steps; warns where there is none, unless the run failed."""
    self._leave()
    if self._recording:
      self._stop()
    elif self._wanted and not failed:
      logging.warning(
        f"No profile was recorded: no phase had {self._steps} steps left after its first dispatch,"
        " which is never recorded. Ask for fewer."
      )
    self._wanted = False

  def _leave(self) -> None:
    if self._annotation is not None:
      self._annotation.__exit__(None, None, None)
      self._annotation = None

  def _start(self) -> None:
    if not _busy.acquire(blocking=False):
      return  # Another thread records; perhaps a later phase.
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
    except Exception as error:
      self._fail(error)
    else:
      self._recording, self._first = True, self._step

  def _stop(self) -> None:
    try:
      jax.profiler.stop_trace()
      found = (self._folder / "plugins" / "profile").glob("*/perfetto_trace.json.gz")
      latest = max(found, key=lambda path: path.stat().st_mtime)
    except Exception as error:
      self._fail(error)
    else:
      self._end()
      _tell(
        f"Profile of steps {self._first + 1} to {self._step}: {latest}\nOpen it at"
        " https://ui.perfetto.dev, or see docs/monitoring.md for TensorBoard."
      )

  def _fail(self, error: Exception) -> None:
    logging.warning("No profile could be recorded in %s: %s", self._folder, error)
    self._end()

  def _end(self) -> None:
    self._wanted = self._recording = False
    with contextlib.suppress(RuntimeError):
      _busy.release()


def _tell(message: str) -> None:
  """Logs a message, and prints it on the terminal of process 0."""
  if jax.process_index() == 0:
    print(message, file=sys.stderr, flush=True)
  logging.info("%s", message)
