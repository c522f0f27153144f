"""Processes that benchmarks/scaling/run.py starts, waits for and always ends."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import json
import os
import pathlib
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 600  # seconds that a process lives at most


class ChildError(RuntimeError):
  """A process ended, or did not answer in time."""


class Child(contextlib.AbstractContextManager["Child"]):
  """A process of `scaling_process.py`; killed when the context ends."""

  def __init__(
    self,
    role: str,
    cores: Sequence[int] = (),
    environment: dict[str, str] | None = None,
    limit: int = LIMIT,
    **settings: Any,
  ) -> None:
    """Starts it.

    Args:
      role: what it does.
      cores: that it is pinned to; none leaves it free.
      environment: variables beside those of this process.
      limit: seconds after which it ends by itself.
      settings: of the role.
    """
    self.role = role
    self._log = tempfile.NamedTemporaryFile(  # noqa: SIM115 (see close)
      "w", suffix=f"-{role}.log"
    )
    told = json.dumps({"cores": list(cores), "limit": limit, "parent": os.getpid()} | settings)
    self._process = subprocess.Popen(
      [sys.executable, "-m", "benchmarks.scaling.process", role, told],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._log,
      text=True,
      env=os.environ | (environment or {}),
    )
    self._answers: queue.Queue[str | None] = queue.Queue()
    self._listener = threading.Thread(target=self._listen, daemon=True)
    self._listener.start()

  def _listen(self) -> None:
    assert self._process.stdout is not None
    with self._process.stdout as lines:
      for line in lines:
        if line.startswith("{"):
          self._answers.put(line)
    self._answers.put(None)

  def order(self, do: str, **values: Any) -> None:
    """Tells it what to do, without waiting."""
    assert self._process.stdin is not None
    try:
      self._process.stdin.write(json.dumps({"do": do} | values) + "\n")
      self._process.stdin.flush()
    except OSError as error:
      raise ChildError(f"The {self.role} is gone: {self._tail()}") from error

  def answer(self, seconds: float = LIMIT) -> dict[str, Any]:
    """Its next answer.

    Raises:
      ChildError: it ended without one, or `seconds` passed.
    """
    try:
      line = self._answers.get(timeout=seconds)
    except queue.Empty:
      raise ChildError(
        f"The {self.role} gave no answer within {seconds:.0f} s: {self._tail()}"
      ) from None
    if line is None:
      raise ChildError(f"The {self.role} ended: {self._tail()}")
    found: dict[str, Any] = json.loads(line)
    return found

  def _tail(self) -> str:
    """The end of what it wrote to its log."""
    text = pathlib.Path(self._log.name).read_text(errors="replace")
    return text[-1500:].strip() or "it wrote nothing"

  def close(self) -> None:
    """Lets it end, and kills it where it does not."""
    if self._log.closed:
      return
    with contextlib.suppress(ChildError):
      self.order("end")
    assert self._process.stdin is not None
    with contextlib.suppress(OSError):
      self._process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(5)
    self._process.kill()
    self._process.wait()
    self._listener.join()
    self._log.close()

  def __exit__(self, *unused: object) -> None:
    self.close()


class Group(contextlib.AbstractContextManager["Group"]):
  """Processes that train together, or one alone.

  Attributes:
    ready: what the first told when it was ready.
  """

  def __init__(
    self, cores: Sequence[Sequence[int]], threads: int = 0, idle: bool = False, **settings: Any
  ) -> None:
    """Starts them; `wait` waits until they are ready.

    Args:
      cores: of every process; with several they join one run.
      threads: that XLA computes with in each; 0: one a core of the process.
      idle: whether gloo's threads have idle priority.
      settings: of the trainers.
    """
    environment = {"JAX_PLATFORMS": "cpu", "DYNASHARE_IDLE_GLOO": str(int(idle))}
    if threads:
      environment["NPROC"] = str(threads)  # Read by jax's CPU client.
    self.ready: dict[str, Any] = {}
    address = f"localhost:{free_port()}"
    several = len(cores) > 1
    self._children: list[Child] = []
    try:
      for number, own in enumerate(cores):
        self._children.append(
          Child(
            "trainer",
            own,
            environment,
            seconds=120,
            place=[address, len(cores), number] if several else None,
            **settings,
          )
        )
    except BaseException:
      self.close()
      raise

  def wait(self) -> Group:
    """Waits until all are ready."""
    answers = [child.answer() for child in self._children]
    self.ready = answers[0]
    return self

  def order(self, do: str, **values: Any) -> None:
    """Tells all what to do, without waiting."""
    for child in self._children:
      child.order(do, **values)

  def answer(self) -> dict[str, Any]:
    """The answer of the slowest."""
    found = [child.answer() for child in self._children]
    return max(found, key=lambda answer: _middle(answer["seconds"]))

  def close(self) -> None:
    """Ends all."""
    for child in self._children:
      with contextlib.suppress(ChildError):
        child.order("end")
    for child in self._children:
      child.close()

  def __exit__(self, *unused: object) -> None:
    self.close()


class Others(contextlib.AbstractContextManager["Others"]):
  """How much other programs computed meanwhile.

  Attributes:
    share: of the time of all cores; 0 where the system does not tell.
  """

  share = 0.0

  def __enter__(self) -> Others:
    self._before = _busy()
    return self

  def __exit__(self, *unused: object) -> None:
    taken, own, total = (b - a for a, b in zip(self._before, _busy(), strict=True))
    self.share = min(max((taken - own) / total, 0.0), 1.0) if total else 0.0


def _busy() -> tuple[float, float, float]:
  """Seconds of all cores: in use, used by this process and its dead children.

  And all there were.
  """
  spent = sum(os.times()[:4])
  try:
    line = pathlib.Path("/proc/stat").read_text().split("\n")[0]
  except OSError:
    return spent, spent, 0.0
  ticks = [int(n) / os.sysconf("SC_CLK_TCK") for n in line.split()[1:9]]
  return sum(ticks) - ticks[3] - ticks[4], spent, sum(ticks)


def _middle(seconds: float | list[float]) -> float:
  return sorted(seconds)[len(seconds) // 2] if isinstance(seconds, list) else seconds


def free_port() -> int:
  """A port of this machine that nobody listens to."""
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    port: int = listener.getsockname()[1]
    return port
