"""What a run tells: metrics in files, progress on the screen."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
import contextlib
import contextvars
import json
import math
import os
import pathlib
import sys
import time
from typing import Any, TextIO

from absl import logging
import numpy as np
from rich import console as rich_console
from rich import progress as rich_progress
import tensorboardX

from dynashare_jax.checkpoints import workdir as workdir_lib

_FILE = "metrics.jsonl"
_SHOWN = 6  # losses in a line
_VISIBLE = contextvars.ContextVar("visible", default=True)


class MetricLog(contextlib.AbstractContextManager["MetricLog"]):
  """Metrics of a run: lines of `metrics.jsonl` and TensorBoard events.

  A line is on its way to the disk when `write` returns, so a killed process
  loses at most a part of its last line; `rewind` removes that.
  """

  def __init__(self, workdir: str | os.PathLike[str], active: bool = True) -> None:
    """Prepares; files are opened by the first line.

    Args:
      active: False makes every call do nothing (all processes but 0).
    """
    self._folder = pathlib.Path(workdir)
    self._path = self._folder / _FILE
    self._active = active
    self._file: TextIO | None = None
    self._events: Any = None
    self._purge_step: int | None = None

  def write(
    self, step: int, phase: str, candidate: int, cycle: int, kind: str, values: Mapping[str, Any]
  ) -> None:
    """Adds one line. Write a step's lines before its checkpoint is saved.

    Args:
      phase: `warmup`, `weights`, `policy` or `retrain`.
      candidate: the re-trained route, or -1.
      cycle: of weight and policy stretches.
      kind: `train`, `eval` or `alpha`.
      values: numbers, or arrays (one TensorBoard curve per entry); what is not finite becomes null.
    """
    if not self._active:
      return
    place = {"step": int(step), "phase": phase, "candidate": int(candidate), "cycle": int(cycle)}
    values = workdir_lib.plain(values)
    file = self._file or self._open()
    file.write(json.dumps(place | {"kind": kind, "values": values}, allow_nan=False) + "\n")
    file.flush()
    prefix = kind if candidate < 0 else f"{kind}/candidate_{candidate}"
    for name, number in _scalars(values):
      self._events.add_scalar(f"{prefix}/{name}", number, step)

  def rewind(self, step: int) -> None:
    """Removes what lies after a step (-1: everything); call it when a run starts or resumes.

    Lines of later steps, and a last line that a kill left half written, are
    cut from the file; TensorBoard hides later events.
    """
    self.close()
    self._purge_step = step + 1
    if not self._active or not self._path.exists():
      return
    lines = self._path.read_text(encoding="utf-8", errors="replace")
    kept = [text + "\n" for text, line in _parse(lines, self._path) if line["step"] <= step]
    workdir_lib.write_text(self._path, "".join(kept))

  def close(self) -> None:
    """Writes out everything and closes; a later `write` opens again."""
    if self._file is not None:
      self._file.close()
      self._events.close()
    self._file = self._events = None

  def __exit__(self, *unused: object) -> None:
    self.close()

  def _open(self) -> TextIO:
    self._folder.mkdir(parents=True, exist_ok=True)
    self._file = self._path.open("a", encoding="utf-8")  # stays open between lines
    folder = self._folder / "tensorboard"
    before = len(list(folder.iterdir())) if folder.is_dir() else 0
    self._events = tensorboardX.SummaryWriter(
      str(folder),
      purge_step=self._purge_step,
      filename_suffix=f".{before:04d}",  # Its own file, even within a second.
      flush_secs=10,
    )
    self._purge_step = None
    return self._file


@contextlib.contextmanager
def shown(visible: bool) -> Iterator[None]:
  """Shows the progress of runs within, or hides it."""
  token = _VISIBLE.set(visible)
  try:
    yield
  finally:
    _VISIBLE.reset(token)


class Progress(contextlib.AbstractContextManager["Progress"]):
  """Shows where a run is: a bar on a terminal, a line now and then elsewhere.

  Use it as a context manager, in process 0 only (or with `active=False`).
  """

  def __init__(
    self,
    total_steps: int,
    start_step: int = 0,
    active: bool = True,
    every_seconds: float = 30.0,
    file: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Prepares the display.

    Args:
      total_steps: of the whole run, all phases.
      start_step: where this process begins.
      active: False shows nothing (rates are still measured).
      every_seconds: between lines where there is no terminal.
      file: default the standard error output.
      clock: seconds, for tests.
    """
    self._total = total_steps
    self._active = active and _VISIBLE.get()
    self._every = every_seconds
    self._file = file or sys.stderr
    self._clock = clock
    self._marks: collections.deque[tuple[float, int, int]] = collections.deque(
      [(clock(), start_step, 0)], maxlen=32
    )
    self._printed = -math.inf
    self._bar: rich_progress.Progress | None = None
    if active and self._file.isatty():
      self._bar = _bar(self._file)
      self._row = self._bar.add_task("", total=total_steps, completed=start_step, text="")
      self._bar.start()

  def update(self, step: int, phase: str, losses: Mapping[str, float], examples: int = 0) -> float:
    """Shows how far the run is.

    Args:
      step: global step that is done.
      phase: its name, with cycle or candidate if wanted.
      losses: by task, for the display.
      examples: trained on since the last call.

    Returns:
      Examples per second, over the last calls; NaN before time has passed.
    """
    now = self._clock()
    seen = self._marks[-1][2] + examples
    self._marks.append((now, step, seen))
    begin, first, before = self._marks[0]
    passed = now - begin
    speed = (seen - before) / passed if passed > 0 else math.nan
    pace = (step - first) / passed if passed > 0 else 0.0
    left = (self._total - step) / pace if pace > 0 else math.nan
    if self._active:
      self._show(step, phase, losses, speed, left, now)
    return speed

  def close(self) -> None:
    """Ends the display."""
    if self._bar is not None:
      self._bar.stop()
      self._bar = None

  def __exit__(self, *unused: object) -> None:
    self.close()

  def _show(
    self, step: int, phase: str, losses: Mapping[str, float], speed: float, left: float, now: float
  ) -> None:
    items = [f"{name} {float(v):.4g}" for name, v in losses.items()]
    more = [f"+{len(items) - _SHOWN}"] if len(items) > _SHOWN else []
    text = " ".join(items[:_SHOWN] + more)
    rest = f"{_amount(speed)} examples/s  {_duration(left)} left"
    if self._bar is not None:
      self._bar.update(self._row, completed=step, description=phase, text=f"{text}  {rest}")
    elif now - self._printed >= self._every or step >= self._total:
      self._printed = now
      line = f"{phase}  step {step}/{self._total}  {text}  {rest}"
      print(line, file=self._file, flush=True)


def read(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads all metric lines of a run, also of an unfinished one; null is NaN."""
  path = pathlib.Path(workdir) / _FILE
  if not path.exists():
    return []
  text = path.read_text(encoding="utf-8", errors="replace")
  return [line | {"values": _null_to_nan(line["values"])} for _, line in _parse(text, path)]


def _parse(text: str, path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields whole lines, and warns of others."""
  lines = text.split("\n")
  for number, line in enumerate(lines[:-1], 1):  # The rest has no line end.
    try:
      parsed = json.loads(line)
      whole = isinstance(parsed["step"], int) and "values" in parsed
    except (ValueError, KeyError, TypeError):
      whole = False
    if whole:
      yield line, parsed
    else:
      logging.warning("%s line %d is damaged and left out.", path, number)


def _scalars(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
  """Numbers with their names; entries of arrays by their place."""
  for name, value in values.items():
    if value is None or isinstance(value, str):
      continue
    array = np.asarray(_null_to_nan(value), np.float64)
    for place in np.ndindex(array.shape):
      if np.isfinite(array[place]):
        yield "/".join([name, *map(str, place)]), float(array[place])


def _null_to_nan(value: Any) -> Any:
  if value is None:
    return math.nan
  if isinstance(value, dict):
    return {name: _null_to_nan(item) for name, item in value.items()}
  if isinstance(value, list):
    return [_null_to_nan(item) for item in value]
  return value


def _bar(file: TextIO) -> rich_progress.Progress:
  return rich_progress.Progress(
    rich_progress.TextColumn("{task.description}"),
    rich_progress.BarColumn(bar_width=20),
    rich_progress.MofNCompleteColumn(),
    rich_progress.TextColumn("{task.fields[text]}"),
    console=rich_console.Console(file=file),
  )


def _amount(number: float) -> str:
  return f"{number:.3g}" if number < 100 else f"{number:.0f}"


def _duration(seconds: float) -> str:
  if not math.isfinite(seconds):
    return "?"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{rest:02d}"
