"""What the command lines share: arguments, errors as one line, exit statuses."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
import contextlib
import errno
import logging
import os
import sys
import threading
import time
import traceback
from typing import Any, NoReturn, TypeVar

import jax

from dynashare_jax import cli
from dynashare_jax.distributed import cluster
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.distributed import preemption

Result = TypeVar("Result")
use_compilation_cache = mesh_lib.use_compilation_cache
PARTING = 10.0  # seconds to wait for the other processes of a run at its end
STUCK = 3.0  # seconds to end, when a thread could not write
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_FULL_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def parser(
  command: str, about: str, arguments: Mapping[str, tuple[Any, str]], more: str | None = None
) -> argparse.ArgumentParser:
  """Returns the parser of a command.

  Args:
    about: one line on what it does.
    arguments: name -> (default, help); a default of None makes it required, False a switch.
    more: shown below the arguments.
  """
  made = argparse.ArgumentParser(
    prog=f"{cli.program()} {command}", allow_abbrev=False, description=about, epilog=more
  )
  for name, (default, written) in arguments.items():
    text = cli.called(written)
    if default is False:
      made.add_argument(f"--{name}", action="store_true", help=text)
      continue
    made.add_argument(
      f"--{name}",
      default=default,
      required=default is None,
      type=str if default is None else type(default),
      help=f"{text} (default: %(default)s)" if default else text,
    )
  return made


def tell(text: str) -> None:
  """Says on the error stream what is done now."""
  print(text, file=sys.stderr, flush=True)


def names(text: str) -> list[str]:
  """Returns what stands between the commas of an argument."""
  return [part.strip() for part in text.split(",") if part.strip()]


def run(
  work: Callable[[], Result],
  interrupted: str,
  errors: tuple[type[Exception], ...] = (ValueError, OSError),
) -> Result:
  """Runs a command and returns its result; an error becomes one line and an exit status.

  Args:
    interrupted: what an interruption means for what was done so far.
    errors: that are the user's to mend; others keep their traceback.

  Raises:
    SystemExit: 2 after an error of the user's, 1 after a fault (a full disk,
      another process lost), 130 after an interruption, 143 after SIGTERM.
  """
  try:
    with preemption.listen(interrupted), _threads_heard(interrupted):
      result = work()
      if jax.distributed.is_initialized():
        jax.distributed.shutdown()  # Waits for the others.
      return result
  except preemption.PreemptedError as told:
    _part(preemption.STATUS, f"ended by SIGTERM: {told}. {_sentence(interrupted)}")
  except KeyboardInterrupt:
    _leave(130, f"interrupted: {interrupted}")
  except Exception as error:
    return _failed(error, interrupted, errors)


def say(*lines: object) -> None:
  """Prints what a command found, each on a line; nobody may listen any more.

  The work is done and its files are there: a closed pipe must not look like a failure.
  """
  try:
    print(*lines, sep="\n", flush=True)
  except UnicodeError:  # Letters that the terminal does not have.
    words = "\n".join(map(str, lines)).encode(sys.stdout.encoding, "replace")
    print(words.decode(sys.stdout.encoding), flush=True)
  except (BrokenPipeError, ValueError):  # A pipe without a reader; a stream that is closed.
    with open(os.devnull, "w") as nowhere, contextlib.suppress(Exception):
      os.dup2(nowhere.fileno(), sys.stdout.fileno())  # Python writes once more when it ends.


def _failed(error: Exception, interrupted: str, errors: tuple[type[Exception], ...]) -> NoReturn:
  """Says what happened and ends; unexpected errors go on in one process."""
  trace = "" if errors else "".join(traceback.format_exception(error))
  if cluster.is_lost(error):
    _leave(1, f"{trace}error: {cluster.LOST}. {_sentence(interrupted)}")
  if text := _full(error, interrupted):
    _leave(1, trace + text)
  if isinstance(error, errors):
    _leave(2, f"error: {error}")
  if not jax.distributed.is_initialized():
    raise error
  _leave(1, "".join(traceback.format_exception(error)).rstrip())


def _sentence(text: str) -> str:
  return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _full(error: BaseException | None, interrupted: str) -> str:
  """What to say where the disk is full; empty where an error is another one."""
  seen = error
  while seen is not None:
    number = getattr(seen, "errno", None)
    reasons = [text for text in _FULL if text in str(seen)]
    if number in _FULL_NUMBERS or reasons:
      reason = reasons[0] if reasons else os.strerror(number or 0)
      where = " ".join(str(error).split())
      where = f"{where[:200]} ..." if len(where) > 200 else where
      return (
        f"error: the disk is full ({reason}): {where}. Make room; what"
        f" was saved is not lost. {_sentence(interrupted)}"
      )
    seen = seen.__cause__ or seen.__context__
  return ""


@contextlib.contextmanager
def _threads_heard(interrupted: str) -> Iterator[None]:
  """Ends the program soon after one of its threads could not write.

  The main thread may wait for it for ever: for the one that writes events of
  TensorBoard, or in several processes for one that saves. Orbax only logs its end.
  """
  before = threading.excepthook
  log = logging.getLogger("absl")

  def hear(error: BaseException | None, saves: bool) -> None:
    text = _full(error, interrupted)
    if not text and saves and jax.distributed.is_initialized():
      why = " ".join(str(error).split())[:300]
      text = f"error: a checkpoint could not be written: {why}. {_sentence(interrupted)}"
    if text:
      cluster.end_after(STUCK, text)

  def hook(report: threading.ExceptHookArgs) -> None:
    with contextlib.suppress(Exception):
      before(report)
    hear(report.exc_value, False)

  def look(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.ERROR and record.exc_info:
      hear(record.exc_info[1], "save thread" in record.getMessage())
    return True

  threading.excepthook = hook
  log.addFilter(look)
  try:
    yield
  finally:
    log.removeFilter(look)
    threading.excepthook = before


def _leave(status: int, text: str) -> NoReturn:
  """Ends the program with some text; where others wait for it, at once.

  An orderly end would wait for them, and they for what this one never sends.
  """
  if not jax.distributed.is_initialized():
    print(text, file=sys.stderr)
    sys.exit(status)
  if jax.process_index() == 0:
    time.sleep(1)  # jax ends the others with it; they may have to say why.
  cluster.end(text, status)


def _part(status: int, text: str) -> NoReturn:
  """Ends the program together with the others, which do the same."""
  if not jax.distributed.is_initialized():
    _leave(status, text)
  cluster.end_after(PARTING, text, status)
  with contextlib.suppress(Exception):
    jax.distributed.shutdown()
  cluster.end(text, status)
