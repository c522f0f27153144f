"""Runs of a benchmark, trained beside each other in processes of their own.

A run starts when the runs that it reads have finished. What it computes does
not depend on what trains beside it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from dynashare_jax.checkpoints import lock
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.methods import _entries

PROGRAM = (sys.executable, "-m", "dynashare_jax.main")
GRACE = 20.0  # seconds for a checkpoint, from the request to end to being killed
_NOTE = "benchmark.json"
_POLL = 0.1  # seconds between two looks at the processes
_LINES = 15  # of a failed run's output
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True)
class Job:
  """One run.

  Attributes:
    entry: what is trained.
    seed: its seed.
    folder: its work directory.
    arguments: of `python -m dynashare_jax.main`.
    needs: names of the runs whose results it reads when it starts.
    void: says, when it is to start, whether there is nothing to train.
  """

  entry: _entries.Entry
  seed: int
  folder: pathlib.Path
  arguments: tuple[str, ...]
  needs: tuple[str, ...] = ()
  void: Callable[[], bool] = lambda: False

  @property
  def name(self) -> str:
    """Label and seed, as the folder is called; no two runs share it."""
    return self.folder.name

  @property
  def log(self) -> pathlib.Path:
    """Where its output goes."""
    return self.folder / "benchmark.log"

  @property
  def finished(self) -> bool:
    """Whether the folder holds results and report of a finished run."""
    written = (self.folder / "report.md").is_file()
    return written and bool(_read(self.folder / "results.json").get("finished"))

  @property
  def at_once(self) -> int:
    """How many runs trained on its machine while it did, at most; 1 is none."""
    count = _read(self.folder / _NOTE).get("runs_at_once")
    return count if isinstance(count, int) else 1


def _read(path: pathlib.Path) -> dict[str, Any]:
  """A JSON file; empty if it is not there or holds something else."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def train(
  jobs: Sequence[Job],
  shares: Sequence[Mapping[str, str]] = ({},),
  environment: Mapping[str, str] | None = None,
) -> None:
  """Trains what is not finished; as many runs at once as there are shares.

  A run that fails keeps those from starting that need it; all others go on.
  SIGINT, SIGTERM and SIGHUP reach the runs as SIGTERM, and none is left behind:
  after `GRACE` seconds, or at a second SIGINT, they are killed.

  Args:
    jobs: what is needed stands before what needs it.
    shares: variables that give a run its devices, set on top of `environment`;
      a share belongs to one run at a time.
    environment: of the runs; default that of this process.

  Raises:
    RuntimeError: runs failed; has the last lines of the output of each.
    KeyboardInterrupt: after SIGINT.
    SystemExit: after SIGTERM or SIGHUP: 128 and the signal's number.
  """
  with _signals() as came:
    crew = _Crew(jobs, shares, dict(environment or os.environ))
    try:
      while not came and crew.go_on():
        time.sleep(_POLL)
    finally:
      crew.stop(came)
  if signal.SIGINT in came:
    raise KeyboardInterrupt
  if came:
    name = signal.Signals(came[0]).name
    print(f"ended by {name}: the same command goes on.", file=sys.stderr)
    sys.exit(128 + came[0])
  if crew.failures:
    lost = f"Not started, for they need a failed run: {', '.join(crew.lost)}."
    end = "Finished runs stay; the same benchmark command goes on from here."
    raise RuntimeError("\n".join([*crew.failures, *[lost] * bool(crew.lost), end]))


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
  """Gives the signals to end that come meanwhile; nobody else hears them."""
  came: list[int] = []
  before: dict[signal.Signals, Any] = {}
  descriptor = -1
  if threading.current_thread() is threading.main_thread():
    # `guard.run` listens there, for programs that train by themselves.
    descriptor = signal.set_wakeup_fd(-1)
    for number in _SIGNALS:  # What is ignored, as under nohup, stays so.
      if signal.getsignal(number) is not signal.SIG_IGN:
        before[number] = signal.signal(number, lambda number, _: came.append(number))
  try:
    yield came
  finally:
    for number in before:
      signal.signal(number, before[number])
    if descriptor >= 0:
      signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)


@dataclasses.dataclass
class _Run:
  """A run that trains at this moment."""

  job: Job
  title: str
  process: subprocess.Popen[bytes]
  share: Mapping[str, str]
  start: float
  at_once: int = 1


class _Crew:
  """All runs of a machine: which wait, which train, which failed."""

  def __init__(
    self, jobs: Sequence[Job], shares: Sequence[Mapping[str, str]], environment: dict[str, str]
  ) -> None:
    self.failures: list[str] = []
    self.lost: list[str] = []  # what needs a failed run
    self._environment = environment
    self._free = collections.deque(shares)
    self._running: list[_Run] = []
    self._failed: set[str] = set()  # and those that need them
    self._titles = (f"[{k + 1}/{len(jobs)}]" for k in range(len(jobs)))
    self._done = {job.name for job in jobs if job.finished}
    self._waiting = [job for job in jobs if job.name not in self._done]
    for job in jobs:
      if job.name in self._done:
        print(f"{next(self._titles)} {job.name}: finished before, reused", flush=True)

  def go_on(self) -> bool:
    """Looks what ended, and starts what can; returns whether anything is left."""
    for run in [run for run in self._running if run.process.poll() is not None]:
      self._running.remove(run)
      self._free.append(run.share)
      self._end(run)
    for job in list(self._waiting):
      if self._failed.intersection(job.needs):
        self._waiting.remove(job)
        self._failed.add(job.name)
        self.lost.append(job.name)
      elif self._done.issuperset(job.needs) and job.void():
        self._waiting.remove(job)
        print(f"{next(self._titles)} {job.name}: left out, no such route", flush=True)
      elif self._free and self._done.issuperset(job.needs):
        self._waiting.remove(job)
        self._start(job)
    return bool(self._running or self._waiting)

  def _start(self, job: Job) -> None:
    title = f"{next(self._titles)} {job.name}"
    print(f"{title}: training, output in {job.log}", flush=True)
    share = self._free.popleft()
    try:
      process = _open(job, {**self._environment, **share})
    except OSError as error:
      self._free.appendleft(share)
      self._fail(job, title, f"could not be started: {error}")
      return
    self._running.append(_Run(job, title, process, share, time.monotonic()))
    for run in self._running:
      if run.at_once < len(self._running):
        run.at_once = len(self._running)
        workdir_lib.write_json(run.job.folder / _NOTE, {"runs_at_once": run.at_once})

  def _end(self, run: _Run) -> None:
    _kill_group(run.process)  # what a crash left behind
    code = run.process.returncode
    if code == 0 and run.job.finished:
      self._done.add(run.job.name)
      print(f"{run.title}: finished in {time.monotonic() - run.start:,.0f} s", flush=True)
      return
    what = f"failed with exit code {code}" if code else "wrote no results"
    end = f". The end of {run.job.log}:\n{_last_lines(run.job.log)}"
    self._fail(run.job, run.title, what, end)

  def _fail(self, job: Job, title: str, what: str, end: str = ".") -> None:
    print(f"{title}: {what}", flush=True)
    self._failed.add(job.name)
    command = shlex.join([*PROGRAM, *job.arguments])
    self.failures.append(f"{job.name} {what}{end}\nIts command:\n  {command}")

  def stop(self, came: Sequence[int]) -> None:
    """Ends what still trains, by force if it must be."""
    if not self._running:
      return
    names = ", ".join(run.job.name for run in self._running)
    print(
      f"ending what trains ({names}), with {GRACE:.0f} s for a checkpoint; Ctrl-C now kills it",
      file=sys.stderr,
      flush=True,
    )
    for run in self._running:
      run.process.terminate()
    latest = time.monotonic() + GRACE
    count = came.count(signal.SIGINT)
    while (
      any(run.process.poll() is None for run in self._running)
      and time.monotonic() < latest
      and came.count(signal.SIGINT) == count
    ):
      time.sleep(_POLL)
    for run in self._running:
      _kill_group(run.process)
      run.process.wait()


def _open(job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
  """Starts a run's process; raises OSError if it cannot.

  Its log is locked as long as a process has it open, so also if this one ends.
  """
  job.folder.mkdir(parents=True, exist_ok=True)
  with open(job.log, "ab") as file:
    if not lock.take(file):
      raise OSError(f"another process is training it, and writes to {file.name}")
    file.truncate(0)
    return subprocess.Popen(
      [*PROGRAM, *job.arguments],
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
      env=environment,
      start_new_session=True,  # The terminal's Ctrl-C is for this one alone.
    )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
  """Kills a run's process with those that it started, whatever is left."""
  with contextlib.suppress(ProcessLookupError, PermissionError):
    os.killpg(process.pid, signal.SIGKILL)


def _last_lines(log: pathlib.Path) -> str:
  """The end of a run's output, indented."""
  try:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
  except OSError as error:
    lines = [f"(cannot be read: {error})"]
  return "\n".join(f"  {line}" for line in lines[-_LINES:] or ["(no output)"])
