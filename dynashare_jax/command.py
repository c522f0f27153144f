"""What the command lines share; imports nothing that is slow."""

from __future__ import annotations

from collections.abc import Callable
import os
import sys
import traceback
from typing import NoReturn, TypeVar

import jax

Result = TypeVar("Result")


def run(
  work: Callable[[], Result],
  interrupted: str,
  errors: tuple[type[Exception], ...] = (ValueError, OSError),
) -> Result:
  """Runs a command; an error becomes one line and an exit status.

  Args:
    work: the command.
    interrupted: what an interruption means for what was done so far.
    errors: that are the user's to mend; others keep their traceback.

  Returns:
    What `work` returns.

  Raises:
    SystemExit: 2 after an error, 130 after an interruption.
  """
  try:
    return work()
  except errors as error:
    print(f"error: {error}", file=sys.stderr)
    _leave(2)
  except KeyboardInterrupt:
    print(f"interrupted: {interrupted}", file=sys.stderr)
    _leave(130)
  except Exception:
    if not jax.distributed.is_initialized():
      raise
    traceback.print_exc()
    _leave(1)


def _leave(status: int) -> NoReturn:
  """Ends the program; where others wait for this process, at once.

  An orderly end would wait for them, and they for what this one never sends.
  """
  if jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)


def use_compilation_cache() -> None:
  """Keeps compiled programs, so that a second start is quick."""
  if jax.config.values["jax_compilation_cache_dir"] is None:
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    jax.config.update("jax_compilation_cache_dir",
                      os.path.join(home, "dynashare_jax"))  # fmt: skip
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
