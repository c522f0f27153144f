"""Where the time of training goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import pathlib
from typing import Any

import jax


class Monitor:
  """Measures what steps wait for; records a profile if asked."""

  def __init__(
      self, mesh: jax.sharding.Mesh, folder: pathlib.Path, profile: int = 0
  ) -> None:
    """Prepares.

    Args:
      mesh: that trains.
      folder: of the profile.
      profile: steps to record; 0 for none.
    """
    self._mesh = mesh
    self._folder = folder
    self._profile = profile

  @contextlib.contextmanager
  def input(self) -> Iterator[None]:
    """Measures the time in which a batch is waited for."""
    yield

  @contextlib.contextmanager
  def device(self) -> Iterator[None]:
    """Measures the time in which the devices are waited for."""
    yield

  def dispatched(self, parts: Sequence[Any], steps: int) -> None:
    """Told of every dispatch; waits for the one before the last.

    Args:
      parts: results of the dispatches since the last look.
      steps: of the last one.
    """
    if len(parts) > 2:
      jax.block_until_ready(parts[-3])

  def look(self, steps: int) -> dict[str, float]:
    """What happened since the last look; all processes call it.

    Args:
      steps: since then.

    Returns:
      `time/...` and `memory/...`, for the metrics.
    """
    return {}

  def __enter__(self) -> Monitor:
    return self

  def __exit__(self, *unused: object) -> None:
    pass
