"""One writer a work directory: a lock that says who holds it, and ends with its process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import datetime
import json
import os
import pathlib
import socket
import time
from typing import Any, IO

from absl import logging

try:
  import fcntl

  _flock: Callable[[Any], None] | None = lambda file: fcntl.flock(
    file, fcntl.LOCK_EX | fcntl.LOCK_NB
  )
except ImportError:  # Windows
  _flock = None

LOCK = ".lock"
_SOON = 1.0  # seconds in which who holds it has said so


def take(file: IO[Any]) -> bool:
  """Locks an open file for as long as a process has it open; returns whether no other has it.

  Where the file system knows no locks, nobody has it.
  """
  try:
    if _flock is not None:
      _flock(file)
  except BlockingIOError:
    return False
  except OSError:
    pass
  return True


@contextlib.contextmanager
def held(path: str | os.PathLike[str], make: bool = False) -> Iterator[None]:
  """Keeps all others, also of this process, from writing to a work directory.

  The lock is the operating system's and ends with the process, however that ends. The file
  `.lock`, which says who holds it, is deleted at the end. A killed process leaves it, which means
  nothing on its own host; from another host, whose locks a network file system may not pass on,
  it is a warning. A folder that is not there or cannot be written is not locked: what writes says
  so.

  Args:
    path: the folder.
    make: whether to create it; it is deleted again if it is empty at the end.

  Raises:
    ValueError: another holds it: which process of which host, and since when.
  """
  folder = pathlib.Path(path).expanduser().absolute()
  file, made = None, []
  try:
    if make:
      made = [place for place in (folder, *folder.parents) if not place.exists()]
      folder.mkdir(parents=True, exist_ok=True)
    file = _opened(folder)
  except OSError:
    pass
  if file is None:
    yield
    return
  try:
    with file:
      _tell(file, folder)
      try:
        yield
      finally:
        (folder / LOCK).unlink(missing_ok=True)
  finally:
    with contextlib.suppress(OSError):
      for place in made:
        place.rmdir()


def _opened(folder: pathlib.Path) -> IO[str]:
  """The locked file of a folder, open; raises ValueError where another has it."""
  while True:
    file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    if not take(file):
      file.close()
      raise ValueError(_taken(folder))
    try:
      if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK)):
        return file
    except FileNotFoundError:
      pass
    file.close()  # Whoever had it has just deleted it.


def _tell(file: IO[str], folder: pathlib.Path) -> None:
  """Writes who holds the lock; warns where another host's process may still write."""
  file.seek(0)
  before, host = _read(file.read()), socket.gethostname()
  if before and before["host"] != host:
    logging.warning(
      "Process %s on %s began to write to %s at %s and has not said that it ended. Here its lock is"
      " not seen: if it still runs, end one of the two.",
      *(before["pid"], before["host"], folder, before["since"]),
    )
  now = datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds")
  with contextlib.suppress(OSError):  # A full disk: the lock holds without.
    file.truncate(0)
    file.write(json.dumps({"host": host, "pid": os.getpid(), "since": now}) + "\n")
    file.flush()


def _read(text: str) -> dict[str, Any]:
  """Who holds a lock; empty where the file does not say."""
  try:
    found = json.loads(text)
    return {name: found[name] for name in ("host", "pid", "since")}
  except (ValueError, TypeError, KeyError):
    return {}


def _taken(folder: pathlib.Path) -> str:
  """What to say to the second."""
  latest = time.monotonic() + _SOON
  found: dict[str, Any] = {}
  while not found and time.monotonic() < latest:
    with contextlib.suppress(OSError):
      found = _read((folder / LOCK).read_text(encoding="utf-8"))
    time.sleep(0 if found else 0.05)
  who, which = "another process", "it"
  if found:
    who = f"process {found['pid']} on {found['host']}, since {found['since']}"
    which = f"it (kill {found['pid']})"
  return (
    f"The work directory {folder} is in use by {who}: wait until it ends, end {which}, or choose"
    " another --workdir."
  )
