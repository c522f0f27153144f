"""Command lines, one file each."""

from __future__ import annotations

import pathlib
import sys

MODULE = "python -m dynashare_jax"
_SCRIPT = "dynashare"  # see setup.cfg


def program() -> str:
  """Returns what a command was called by: `dynashare`, or `python -m dynashare_jax`."""
  return _SCRIPT if pathlib.Path(sys.argv[0]).stem == _SCRIPT else MODULE


def called(text: str) -> str:
  """Returns a help text with commands as this one was called."""
  return text.replace(MODULE, program())
