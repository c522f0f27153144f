"""Python processes of tests, forked from one that has imported everything: imports take seconds.

A `Fork` is what `python *arguments` is, but for three things: all forks of a session have one hash
seed, variables that jax reads when it is imported come too late, and nobody waits for a fork that a
test leaves behind.
"""

from __future__ import annotations

from concurrent import futures
import contextlib
import functools
import gc
import json
import os
import pathlib
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import types
from typing import Any, TextIO

ROOT = pathlib.Path(__file__).resolve().parents[2]
_NUMBER = struct.Struct("i")


class Fork(contextlib.AbstractContextManager["Fork"]):
  """As `subprocess.Popen` with `text=True`; the arguments are those after `python`."""

  def __init__(
    self,
    *arguments: str,
    stdout: Any = subprocess.PIPE,
    stderr: int = subprocess.STDOUT,
    **environment: str,
  ) -> None:
    self.returncode: int | None = None
    self.stdout: TextIO | None = None
    self.stderr: TextIO | None = None
    self._told, status = os.pipe()
    if stdout == subprocess.PIPE:
      read, out = os.pipe()
      self.stdout = os.fdopen(read)
    else:
      out = os.dup(stdout.fileno())
    if stderr == subprocess.PIPE:
      read, errors = os.pipe()
      self.stderr = os.fdopen(read)
    else:
      errors = os.dup(out)
    wanted = json.dumps([arguments, os.environ | environment]).encode()
    socket.send_fds(_server()[0], [wanted + b"\n"], [status, out, errors])
    for descriptor in (status, out, errors):
      os.close(descriptor)
    (self.pid,) = _NUMBER.unpack(os.read(self._told, _NUMBER.size))

  def wait(self, timeout: float | None = None) -> int:
    """The exit status, minus the number of a signal that ended it."""
    if self.returncode is None:
      if not select.select([self._told], [], [], timeout)[0]:
        raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
      (self.returncode,) = _NUMBER.unpack(os.read(self._told, _NUMBER.size))
      os.close(self._told)
    return self.returncode

  def poll(self) -> int | None:
    """The exit status; None while it runs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self.wait(0)
    return self.returncode

  def communicate(self, timeout: float | None = None) -> tuple[str, str]:
    """What is left to read of both streams; a process that does not end in time is killed."""
    with futures.ThreadPoolExecutor(2) as pool:
      texts = [pool.submit(s.read) if s else None for s in (self.stdout, self.stderr)]
      try:
        self.wait(timeout)
      except subprocess.TimeoutExpired:
        self.kill()
        raise
      found = [text.result() if text else "" for text in texts]
    self._close()
    return found[0], found[1]

  def send_signal(self, number: int) -> None:
    """Sends a signal to a process that runs yet."""
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self) -> None:
    """Ends it at once."""
    self.send_signal(signal.SIGKILL)

  def _close(self) -> None:
    for stream in (self.stdout, self.stderr):
      if stream:
        stream.close()

  def __exit__(self, *unused: object) -> None:
    self._close()
    self.wait()


@functools.cache
def _server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
  """The process that forks, and the line to it."""
  here, there = socket.socketpair()
  # One fork finds what another has compiled.
  own = {"PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  process = subprocess.Popen([sys.executable, __file__], stdin=there, env=os.environ | own)
  there.close()
  return here, process


def end() -> None:
  """Ends the process that forks, if one runs."""
  if _server.cache_info().currsize:
    line, process = _server()
    line.close()
    process.wait()
    _server.cache_clear()


def serve(line: socket.socket) -> list[str]:
  """Forks for every request; returns in the forks alone, with their arguments."""
  # Nothing of jax runs here yet, so that there is no thread that a fork would lack.
  ended, wake = os.pipe()
  os.set_blocking(wake, False)
  signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
  signal.signal(signal.SIGCHLD, lambda *_: None)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  gc.collect()
  gc.freeze()  # Forks share what is never looked at.
  statuses: dict[int, int] = {}
  while True:
    ready, _, _ = select.select([line, ended], [], [])
    if ended in ready:
      os.read(ended, 64)
      _tell_ends(statuses)
    if line not in ready:
      continue
    wanted, given, *_ = socket.recv_fds(line, 2**18, 3)
    while wanted and not wanted.endswith(b"\n"):
      wanted += line.recv(2**18)
    if not wanted:
      sys.exit()
    pid = os.fork()
    if not pid:
      for descriptor in (ended, wake, given[0], *statuses.values()):
        os.close(descriptor)
      line.close()
      return _begin(*json.loads(wanted), *given[1:])
    os.write(given[0], _NUMBER.pack(pid))
    statuses[pid] = given[0]
    for descriptor in given[1:]:
      os.close(descriptor)


def _tell_ends(statuses: dict[int, int]) -> None:
  """Tells the exit statuses of the forks that have ended."""
  for pid in list(statuses):
    found, status = os.waitpid(pid, os.WNOHANG)
    if found:
      with contextlib.suppress(OSError):  # Nobody waits.
        os.write(statuses[pid], _NUMBER.pack(os.waitstatus_to_exitcode(status)))
      os.close(statuses.pop(pid))


def _begin(arguments: list[str], environment: dict[str, str], out: int, errors: int) -> list[str]:
  """Makes a fork what a new process would be."""
  signal.set_wakeup_fd(-1)
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  for number, descriptor in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, errors)):
    os.dup2(descriptor, number)
    os.close(descriptor)
  os.environ.clear()
  os.environ.update(environment)
  os.chdir(ROOT)
  return arguments


if __name__ == "__main__":
  import contexts
  import orbax.checkpoint  # noqa: F401

  from dynashare_jax import main as _  # noqa: F401
  from dynashare_jax.checkpoints import orbax_writers  # noqa: F401

  contexts.keep()
  gc.set_threshold(200_000, 50, 100)  # As in the tests.
  first, *sys.argv[1:] = serve(socket.socket(fileno=os.dup(0)))
  if first == "-c":
    code, *sys.argv[1:] = sys.argv[1:]
    sys.argv[0] = first
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(code, vars(main))
  else:
    sys.argv[0] = first
    sys.path[0] = str(pathlib.Path(first).parent)
    runpy.run_path(first, run_name="__main__")
