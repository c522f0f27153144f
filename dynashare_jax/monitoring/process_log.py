"""The log file of every process of a run."""

from __future__ import annotations

import collections
from collections.abc import Callable
import contextlib
import logging
import os
import pathlib
import socket
import sys
import threading
from typing import Any, TextIO
import warnings

from absl import logging as absl_logging

from dynashare_jax.distributed import preemption

_PACKAGE = str(pathlib.Path(__file__).resolve().parents[1]) + os.sep
_HELD = 1000  # lines kept until there is a work directory
# Ends that were asked for, and are no errors.
_ASKED: dict[type[BaseException], str] = {
  preemption.PreemptedError: "SIGTERM",
  KeyboardInterrupt: "Ctrl-C",
}


class ProcessLog(logging.Handler):
  """The log of a process: `<workdir>/logs/process-<number>.log`.

  Holds messages of this package from level INFO on, warnings of anything else (Python's too), and
  the error that ends the run, with time, process and phase. The terminal stays as it is. Starts of
  a run follow each other in one file. It is opened when the work directory is there, which it never
  makes, and is the run's own; earlier messages are kept until then. A file that cannot be written
  is left alone: the run goes on. Use it as a context manager.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    process: int,
    told: str = "",
    own: Callable[[], bool] = lambda: True,
  ) -> None:
    """Prepares the log of a process.

    Args:
      workdir: its work directory.
      process: its number.
      told: the first line.
      own: whether the folder, which is there, belongs to this run; asked until it does.
    """
    super().__init__(logging.INFO)
    self._own = own
    self._workdir = pathlib.Path(workdir).expanduser().absolute()
    self.path = self._workdir / "logs" / f"process-{process}.log"
    self._told = told
    self._held: collections.deque[str] = collections.deque(maxlen=_HELD)
    self._file: TextIO | None = None
    self.setFormatter(
      logging.Formatter(f"%(asctime)s %(levelname)s process {process}%(phase)s %(message)s")
    )

  def __enter__(self) -> ProcessLog:
    _attach(self)
    self.handle(_record(logging.INFO, f"start: {self._told}"))
    where = f"pid {os.getpid()} on {socket.gethostname()}"
    self.handle(_record(logging.INFO, f"{where}: {' '.join(sys.argv)}"))
    return self

  def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
    if kind is None:
      self.handle(_record(logging.INFO, "end"))
    elif kind in _ASKED:
      why = f": {error}" if str(error) else ""
      self.handle(_record(logging.INFO, f"ended by {_ASKED[kind]}{why}"))
    else:
      self.handle(_record(logging.ERROR, f"ended by {kind.__name__}", (kind, error, trace)))
    _detach(self)
    self.close()

  def filter(self, record: logging.LogRecord) -> bool:
    """Leaves out messages of other packages below WARNING."""
    ours = os.path.abspath(record.pathname).startswith(_PACKAGE)
    return ours or record.levelno >= logging.WARNING

  def emit(self, record: logging.LogRecord) -> None:
    """Adds a line; it is on its way to the disk when this returns."""
    title = _titles.get(record.thread, _titles[None])
    record.phase = f" [{title}]" if title else ""
    try:
      self._held.append(self.format(record) + "\n")
      if self._file is None and self._workdir.is_dir() and self._own():
        self.path.parent.mkdir(exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")  # stays open between lines
      if self._file is not None:
        self._file.write("".join(self._held))
        self._held.clear()
        self._file.flush()
    except Exception:  # A full disk, say; the terminal has the line.
      self._held.clear()

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      with contextlib.suppress(OSError):
        self._file.close()
    super().close()


def _record(level: int, text: str, error: Any = None) -> logging.LogRecord:
  return logging.LogRecord("dynashare_jax", level, __file__, 0, text, None, error)


_titles: dict[int | None, str] = {None: ""}  # by thread; None: the latest
_changing = threading.Lock()
_attached: list[logging.Handler] = []
_undo = contextlib.ExitStack()  # to how things were before the first was attached
_shows: list[Callable[..., None]] = []  # what showed warnings then


def _attach(handler: logging.Handler) -> None:
  """Lets INFO through to a handler, and to no other that had none."""
  root, absl = logging.root, absl_logging.get_absl_logger()
  with _changing:
    if not _attached:
      _titles.clear()
      _titles[None] = ""
      level = absl.getEffectiveLevel()
      if not root.handlers and logging.lastResort is not None:
        root.addHandler(logging.lastResort)  # Python's own where there is none.
        _undo.callback(root.removeHandler, logging.lastResort)
      levels: list[tuple[Any, int]] = [(absl, min(level, logging.INFO))]
      levels += [(shown, max(shown.level, level)) for shown in root.handlers]
      for target, new in levels:
        _undo.callback(target.setLevel, target.level)
        target.setLevel(new)
      _shows.append(warnings.showwarning)
      warnings.showwarning = _warned
    _attached.append(handler)
    root.addHandler(handler)


def _detach(handler: logging.Handler) -> None:
  """Undoes `_attach`; with the last one everything is as it was."""
  with _changing:
    logging.root.removeHandler(handler)
    _attached.remove(handler)
    if not _attached:
      _undo.close()
      if warnings.showwarning is _warned:
        warnings.showwarning = _shows[0]
      _shows.clear()


def _warned(
  message: Warning | str,
  category: type[Warning],
  filename: str,
  lineno: int,
  file: TextIO | None = None,
  line: str | None = None,
) -> None:
  """Stands in for `warnings.showwarning`, which still shows it."""
  for handler in tuple(_attached):
    handler.handle(
      _record(logging.WARNING, f"{category.__name__}: {message} ({filename}:{lineno})")
    )
  for show in tuple(_shows):
    show(message, category, filename, lineno, file, line)


def set_phase(title: str) -> None:
  """Sets the phase of this thread in its log lines; empty after the last.

  Threads that set none have the latest of any.
  """
  _titles[None] = title
  if title:
    _titles[threading.get_ident()] = title
  else:
    _titles.pop(threading.get_ident(), None)
