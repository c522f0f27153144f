"""Told to end (preempted): a checkpoint, then an exit that is restarted."""

from __future__ import annotations

import types as python_types


class PreemptedError(Exception):
  """The run was told to end, and a checkpoint was written."""


class Watch:
  """Notices that this run was told to end, in all its processes at once.

  Attributes:
    told: whether it was.
  """

  def __init__(self) -> None:
    """Prepares."""
    self.told = False

  def reached(self, step: int) -> bool:
    """Whether to stop before a step; all processes get the same answer.

    Args:
      step: global, ascending from call to call; the same in all processes.
    """
    del step
    return self.told

  def __enter__(self) -> Watch:
    return self

  def __exit__(self, *unused: python_types.TracebackType | object) -> None:
    pass
