"""A tiny run in several real processes on this machine, and their ends."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import types

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROCESS = ROOT / "tests" / "tiny" / "process.py"
STEPS = 26  # of the tiny run
LIMIT = 15.0  # seconds in which every process ends after a fault
GRACE = 30.0  # and after SIGTERM: what schedulers give for a checkpoint
MEETING = 20  # seconds that processes wait for each other at the start
PHASES = ("meeting", "preparing", "compiling", "training", "saving", "finishing")
# What the last line of a process begins with that ended early.
CLEAR = ("error: ", "ended by SIGTERM: ", "interrupted: ", "RuntimeError: a fault of one process")


@dataclasses.dataclass
class End:
  """How a process ended.

  Attributes:
    number: of the process.
    status: as of `subprocess`: negative for a signal.
    seconds: since the fault; 0 for one that had ended before.
    line: the last that it wrote.
    hung: whether it had to be killed.
  """

  number: int
  status: int
  seconds: float
  line: str
  hung: bool

  @property
  def clear(self) -> bool:
    """Whether it finished, was killed, or said why it ended.

    SIGTERM ends Python without a word as long as it imports the program.
    """
    unsaid = (0, -signal.SIGKILL) if self.line else (0, -signal.SIGKILL, -signal.SIGTERM)
    return not self.hung and (self.status in unsaid or self.line.startswith(CLEAR))


class Group:
  """Processes of one start of a run; those that live are killed on exit."""

  def __init__(
    self,
    folder: pathlib.Path,
    logs: pathlib.Path,
    count: int = 2,
    environment: Mapping[str, str] | None = None,
    own: Mapping[int, Mapping[str, str]] | None = None,
    seed: int = 0,
  ) -> None:
    """Starts them.

    Args:
      folder: work directory of the run.
      logs: folder for what they write, a file each.
      count: of processes.
      environment: variables for all of them.
      own: variables for one of them, by number.
      seed: of the run.
    """
    self.folder = folder
    self.began = time.monotonic()
    self._logs = [logs / f"{number}.txt" for number in range(count)]
    self._lines = self._metric_lines()
    self.processes: list[subprocess.Popen[bytes]] = []
    port = free_port() if count > 1 else 1
    base = (
      os.environ
      | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "TINY_JOIN": str(MEETING)}
      | dict(environment or {})
    )
    logs.mkdir(parents=True, exist_ok=True)
    for number, log in enumerate(self._logs):
      with open(log, "wb") as file:
        self.processes.append(
          subprocess.Popen(
            [
              sys.executable,
              str(PROCESS),
              str(folder),
              str(port),
              str(count),
              str(number),
              str(seed),
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=base | dict((own or {}).get(number, {})),
          )
        )

  def text(self, number: int) -> str:
    """What a process has written."""
    return self._logs[number].read_text(errors="replace")

  def _metric_lines(self) -> int:
    path = self.folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0

  @property
  def living(self) -> list[int]:
    """Numbers of the processes that have not ended."""
    return [n for n, p in enumerate(self.processes) if p.poll() is None]

  @property
  def began_at(self) -> int | None:
    """The step that this start goes on from; None as long as it is unknown."""
    found = [
      re.search(r"^from step (\d+)$", self.text(n), re.M) for n in range(len(self.processes))
    ]
    steps = {int(match[1]) for match in found if match}
    assert len(steps) < 2, f"processes begin at different steps: {steps}"
    return steps.pop() if steps else None

  @property
  def faulty(self) -> bool:
    """Whether a process has told that it fails on purpose."""
    return any("fault" in self.text(n).split("\n") for n in range(len(self.processes)))

  @property
  def phase(self) -> str:
    """What the run does at this moment, one of `PHASES`."""
    count = len(self.processes)
    texts = [self.text(n) for n in range(count)]
    if count > 1 and not all(f"{count} processes, " in t for t in texts):
      return "meeting"
    if not all("from step" in t for t in texts):
      return "preparing"
    if list((self.folder / "checkpoints").glob("*tmp*")):
      return "saving"
    if (self.folder / "checkpoints" / str(STEPS)).is_dir():
      return "finishing"
    return "training" if self._metric_lines() > self._lines else "compiling"

  def kill(self, number: int, sign: int = signal.SIGKILL) -> None:
    """Sends a signal to a process that was started here."""
    if self.processes[number].poll() is None:
      os.kill(self.processes[number].pid, sign)

  def ends(self, since: float, limit: float = LIMIT) -> list[End]:
    """Waits until all have ended; kills those that do not.

    Args:
      since: when the fault was, monotonic seconds.
      limit: seconds that they have from then on.
    """
    ended: dict[int, float] = {}
    while len(ended) < len(self.processes) and (time.monotonic() < since + limit):
      for number, process in enumerate(self.processes):
        if number not in ended and process.poll() is not None:
          ended[number] = max(time.monotonic() - since, 0.0)
      time.sleep(0.01)
    found = []
    for number, process in enumerate(self.processes):
      hung = number not in ended
      if hung:
        process.kill()
        process.wait()
      lines = self.text(number).strip().splitlines()
      found.append(
        End(number, process.returncode, ended.get(number, limit), lines[-1] if lines else "", hung)
      )
    return found

  def __enter__(self) -> Group:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    for process in self.processes:
      if process.poll() is None:
        process.kill()
      process.wait()


def free_port() -> int:
  """A port of this machine that nobody listens to."""
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    port: int = listener.getsockname()[1]
    return port


def saved_steps(folder: pathlib.Path) -> list[int]:
  """Steps of which there is a checkpoint, the newest first."""
  return sorted(
    (int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()), reverse=True
  )


def describe(ends: list[End]) -> str:
  """Ends in words, for a message about what was not expected."""
  return "; ".join(
    f"process {e.number}: status {e.status} after {e.seconds:.1f} s"
    f"{', HUNG' if e.hung else ''}: {e.line[:200]}"
    for e in ends
  )
