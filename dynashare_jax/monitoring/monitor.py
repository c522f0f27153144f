"""Where the time of training goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import os
import pathlib
import resource
import sys
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import ml_collections
import numpy as np

from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.monitoring import process_log
from dynashare_jax.monitoring import profiler

INPUT_SHARE = 0.2  # of a step spent on waiting for batches is too much
STARVED_SHARE = 0.5  # of dispatches that found the devices idle, too
SKEW_SHARE = 0.2  # of a step that one process works longer than another, too
LOOKS = 3  # in a row, before anything is said
LEAST = 1.0  # seconds that these looks must have lasted together
_EVERY = 60.0  # seconds between a process's own lines in its log
_GB = 2**30


class Times(NamedTuple):
  """Seconds per step in one process since the last look; all NaN where nothing was timed.

  The first three make up the whole time of a step.

  Attributes:
    input: in which the loop waited for a batch.
    host: in which the host prepared and dispatched.
    device: in which the host waited for the devices; with several processes
      they wait for each other there.
    starved: share of dispatches, 0 to 1, whose batch came when the devices had
      finished all that was dispatched before.
  """

  input: float
  host: float
  device: float
  starved: float

  @property
  def step(self) -> float:
    """Seconds per step."""
    return self.input + self.host + self.device

  @property
  def own(self) -> float:
    """Seconds per step of this process's own work; the rest is the same in all, as they meet."""
    return self.input + self.host


class Monitor(contextlib.AbstractContextManager["Monitor"]):
  """Measures what steps wait for; records a profile if asked.

  A look begins when its first batch is asked for and ends when its results have come; evaluations
  and checkpoints in between are not counted, nor the first dispatch of a phase, which may compile.
  """

  def __init__(
    self,
    mesh: jax.sharding.Mesh,
    folder: pathlib.Path,
    profile: int = 0,
    config: ml_collections.ConfigDict | None = None,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Prepares.

    Args:
      folder: of the profile; every process has a folder in it.
      profile: steps to record; 0 for none.
      config: of the run, for advice that fits it.
      clock: seconds, for tests.

    Raises:
      ValueError: a negative number of steps.
    """
    self._mesh = mesh
    self._processes = mesh_lib.processes(mesh)
    self._config = config
    self._clock = clock
    self._title = ""
    self._step = 0  # global, at the last look
    self._fresh = True  # The next dispatch is the first of a phase.
    self._input = _Span(clock)
    self._device = _Span(clock)
    self._last: Any = None  # an array of the latest dispatch
    self._alarms = {"input": _Alarm(), "skew": _Alarm()}
    self._told = clock()
    self._begun: float | None = None
    self._ended = 0.0
    self._untimed = self._dispatches = self._starved = 0
    self._profiler = profiler.Profiler(
      pathlib.Path(folder) / f"process-{jax.process_index()}", profile
    )

  def begin(self, title: str, step: int, left: int) -> None:
    """Notes where the run is; call it before every look.

    Args:
      title: of the phase; one begins when it changes.
      step: global steps that are done.
      left: steps of the phase that are not.
    """
    fresh = title != self._title
    if fresh:
      process_log.set_phase(title)
      if _kind(title) != _kind(self._title):
        logging.info("Phase %s, from step %d on.", title, step)
      self._title, self._fresh = title, True
    self._step = step
    self._profiler.begin(step, left, fresh)

  @contextlib.contextmanager
  def input(self) -> Iterator[None]:
    """Measures the time of waiting for a batch."""
    before = self._clock()
    if self._profiler.before():
      self._pause(before)
    with self._input, jax.profiler.TraceAnnotation("wait for a batch"):
      if self._begun is None:
        self._begun = self._input.since
      yield
    self._dispatches += 1
    self._starved += self._last is None or self._last.is_ready()

  @contextlib.contextmanager
  def device(self) -> Iterator[None]:
    """Measures the time of waiting for the devices."""
    with self._device, jax.profiler.TraceAnnotation("wait for the devices"):
      yield
    self._ended = self._device.until

  def dispatched(self, parts: Sequence[Any], steps: int) -> None:
    """Blocks until at most two dispatches are in flight; call it after each.

    Args:
      parts: results of the dispatches since the last look.
      steps: of the last one.
    """
    self._last = _first(parts[-1])
    if len(parts) != 2:  # The loop waits for the first of a look, too.
      with self.device():  # All results of a dispatch come at once.
        _first(parts[max(len(parts) - 3, 0)]).block_until_ready()
    if self._fresh:
      self._fresh = False
      self._reset(self._ended, steps)
    before = self._clock()
    if self._profiler.after(parts[-1], steps):
      self._pause(before)
    self._ended = self._clock()

  def look(self, steps: int) -> dict[str, float]:
    """Returns the numbers of the steps since the last look; all processes call it.

    Args:
      steps: since then, those that are not timed among them.

    Returns:
      `time/...`, seconds per step in the process that has most own work (see
      `Times`), and `memory/...`, GiB, for the metrics. Nothing of time where
      all steps belong to the first dispatch of a phase.
    """
    timed = max(steps - self._untimed, 0)
    times = self._times(timed)
    self._reset()
    self._step += steps
    host = _host_memory()
    devices = _device_memory(self._mesh)
    self._note(times, host)
    rows, peaks = self._gather(times, devices)
    values = {f"memory/{k}": v for k, v in (host | devices).items()}
    if len(rows) > 1 and np.isfinite(peaks).any():
      values["memory/largest_device_peak_gb"] = float(np.nanmax(peaks))
    if not np.isfinite(times.step):
      return values
    slowest = int(np.argmax([row.own for row in rows]))
    found = rows[slowest]
    skew = found.own - min(row.own for row in rows)
    values |= {
      "time/step": found.step,
      "time/input_wait": found.input,
      "time/host": found.host,
      "time/device_wait": found.device,
      "time/starved": found.starved,
    }
    if len(rows) > 1:
      values |= {"time/skew": skew, "time/slowest_process": float(self._processes[slowest])}
    self._warn(found, skew, slowest, timed * found.step)
    return values

  def __exit__(self, kind: type[BaseException] | None, *unused: object) -> None:
    self._profiler.close(failed=kind is not None)
    process_log.set_phase("")

  def _reset(self, begun: float | None = None, untimed: int = 0) -> None:
    """Measures anew, from a time on or with the next batch."""
    self._begun = begun
    self._ended = begun or 0.0
    self._untimed = untimed
    self._dispatches = self._starved = 0
    self._input.total = self._device.total = 0.0

  def _pause(self, since: float) -> None:
    """Leaves the time since then out: the profile is no training."""
    if self._begun is not None:
      self._begun += self._clock() - since

  def _times(self, timed: int) -> Times:
    """Seconds per step since the last look."""
    if not timed or self._begun is None:
      return Times(*[float("nan")] * 4)
    whole = self._ended - self._begun
    spent, waited = self._input.total, self._device.total
    return Times(
      spent / timed,
      max(whole - spent - waited, 0.0) / timed,
      waited / timed,
      self._starved / max(self._dispatches, 1),
    )

  def _gather(self, times: Times, devices: dict[str, float]) -> tuple[list[Times], np.ndarray]:
    """Times of every process, and the largest peak of its devices' memory."""
    peaks = [v for k, v in devices.items() if k.endswith("_peak_gb")]
    peak = max(peaks, default=float("nan"))
    if len(self._processes) == 1:
      return [times], np.array([peak])
    every = mesh_lib.every(np.array([*times, peak], np.float32), self._mesh)
    return [Times(*map(float, row[:-1])) for row in every], every[:, -1]

  def _note(self, times: Times, host: dict[str, float]) -> None:
    """Logs this process's own times once in a while."""
    now = self._clock()
    if now - self._told < _EVERY or not np.isfinite(times.step):
      return
    self._told = now
    logging.info(
      f"step {self._step}: {_ms(times.step)} a step, of it {_ms(times.input)} waiting for batches,"
      f" {_ms(times.host)} on the host, {_ms(times.device)} waiting for devices;"
      f" {host['host_peak_gb']:.2f} GiB of memory at most."
    )

  def _warn(self, found: Times, skew: float, slowest: int, seconds: float) -> None:
    """Warns of a bottleneck that several looks have shown."""
    kind = _kind(self._title)
    number = self._processes[slowest]
    where = f" in process {number}" if len(self._processes) > 1 else ""
    level = logging.WARNING if mesh_lib.rank(self._mesh) == 0 else logging.INFO
    starves = found.input > INPUT_SHARE * found.step and found.starved > STARVED_SHARE
    if self._alarms["input"].due(starves, kind, seconds):
      logging.log(
        level,
        f"Input is the bottleneck{where}: steps wait {found.input / found.step:.0%} of their time"
        f" for batches ({_ms(found.input)} of {_ms(found.step)}). {_advice(self._config)}",
      )
    if self._alarms["skew"].due(skew > SKEW_SHARE * found.step, kind, seconds):
      logging.log(
        level,
        f"Process {number} is slow: its own work, waiting for batches and preparing steps, takes"
        f" {_ms(skew)} a step longer than the fastest process's (steps take {_ms(found.step)}). The"
        " others wait for it: see what else its machine does, and its log.",
      )


class _Span:
  """Adds up the seconds within its `with` blocks."""

  def __init__(self, clock: Callable[[], float]) -> None:
    self._clock = clock
    self.total = 0.0
    self.since = self.until = 0.0

  def __enter__(self) -> None:
    self.since = self._clock()

  def __exit__(self, *unused: object) -> None:
    self.until = self._clock()
    self.total += self.until - self.since


class _Alarm:
  """A condition that is due when it has lasted some looks, once per kind of phase."""

  def __init__(self) -> None:
    self._looks = 0
    self._seconds = 0.0
    self._said: set[str] = set()

  def due(self, holds: bool, kind: str, seconds: float) -> bool:
    """Notes whether it holds in a look of some seconds; returns whether to warn now."""
    self._looks = self._looks + 1 if holds else 0
    self._seconds = self._seconds + seconds if holds else 0.0
    if self._looks < LOOKS or self._seconds < LEAST or kind in self._said:
      return False
    self._said.add(kind)
    return True


def _first(part: Any) -> Any:
  """One of the arrays of a dispatch."""
  return jax.tree.leaves(part)[0]


def _kind(title: str) -> str:
  """What phases that only differ in cycle or candidate have in common."""
  return title.partition(" ")[0]


def _ms(seconds: float) -> str:
  return f"{1000 * seconds:.1f} ms"


def _advice(config: ml_collections.ConfigDict | None) -> str:
  """Advice against waiting for batches."""
  if config is None:
    return "See docs/monitoring.md."
  train = config.train
  if train.resident:
    return (
      "The data are resident: what is left to the host is the order of examples and the draws of"
      f" augmentation. Raise config.train.steps_per_dispatch ({train.steps_per_dispatch})."
    )
  convert = ", convert the data (python -m dynashare_jax data convert)" if config.data_dir else ""
  return (
    f"Raise config.train.threads ({train.threads}) or .workers ({train.workers}) up to the"
    f" {os.cpu_count()} cores of this machine{convert}, or set config.train.resident=True if the"
    " data fit into memory."
  )


def _host_memory() -> dict[str, float]:
  """GiB of this process: now, where the system reports it, and at most."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  found = {"host_peak_gb": peak / (_GB if sys.platform == "darwin" else 2**20)}
  with contextlib.suppress(OSError, ValueError, IndexError):
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    found["host_gb"] = int(pages) * resource.getpagesize() / _GB
  return found


def _device_memory(mesh: jax.sharding.Mesh) -> dict[str, float]:
  """GiB in use now and at most, of every device of this process that reports it."""
  found: dict[str, float] = {}
  for device in mesh.local_devices:
    try:
      stats = device.memory_stats() or {}
    except RuntimeError:  # A backend without them.
      stats = {}
    for field, name in (("bytes_in_use", "gb"), ("peak_bytes_in_use", "peak_gb")):
      if field in stats:
        found[f"device_{device.id}_{name}"] = stats[field] / _GB
  return found
