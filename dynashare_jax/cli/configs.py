"""How every command reads its configuration; what does not fit is one clear line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import inspect
import pathlib
import re
import runpy

from absl import flags
import ml_collections
from ml_collections import config_flags

from dynashare_jax import lookup
from dynashare_jax.checkpoints import workdir

OVERRIDE = re.compile(r"--?config\.([\w.]+)=(.*)", re.DOTALL)
_FILE = re.compile(r"--?config=(.*)", re.DOTALL)
_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)


def define(
  values: flags.FlagValues = flags.FLAGS, argv: list[str] | None = None
) -> flags.FlagHolder[ml_collections.ConfigDict]:
  """Defines the flag `--config`, whose values are set as `--config.name=value`."""
  return config_flags.DEFINE_config_file(
    "config",
    None,
    "File with the configuration; any value of it can be set as --config.name=value.",
    lock_config=True,
    flag_values=values,
    sys_argv=argv,
  )


def parse(argv: list[str], read: Callable[[list[str]], list[str]]) -> list[str]:
  """Parses a command line that has the flag `--config`.

  Args:
    argv: with the program's name.
    read: parses it; returns what is no flag.

  Raises:
    ValueError: there is no such configuration, or no such setting of it; a name or a
      value that does not fit, or another flag that is not understood.
  """
  found = [match[1] for argument in argv[1:] if (match := _FILE.fullmatch(argument))]
  for path in found:
    known = _names(path)
    for match in filter(None, map(OVERRIDE.fullmatch, argv[1:])):
      if match[1] not in known:
        hint = lookup.hint(match[1], known)
        raise ValueError(f"There is no config.{match[1]} in {path}.{hint}")
  try:
    return read(argv)
  except _ERRORS as error:
    text = " ".join(str(error).replace("\\n", " ").replace("\\", "").split())
    raise ValueError(f"In the flags: {text}") from error


def load(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
  """Returns the locked configuration of a file with `name=value` overrides; errors as `parse`."""
  argv = ["", f"--config={path}", *(f"--config.{override}" for override in overrides)]
  values = flags.FlagValues()
  flag = define(values, argv)
  parse(argv, values)
  return flag.value


def _names(path: str) -> list[str]:
  """Dotted names of the configuration that a file makes, with the setting after its colon."""
  name, colon, setting = path.partition(":")
  file = pathlib.Path(name)
  if not file.is_file():
    near = sorted(map(str, file.parent.glob("*.py")))
    listed = f" There are: {', '.join(near)}." if near else ""
    raise ValueError(f"There is no configuration {path!r}.{lookup.hint(name, near)}{listed}")
  try:
    make = runpy.run_path(name)["get_config"]
    if colon and not inspect.signature(make).parameters:
      raise ValueError(f"{name} has no settings; leave {colon + setting!r} away.")
    return [known for known, _ in workdir.flatten(make(*([setting] if colon else [])).to_dict())]
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(f"In the configuration {path}: {type(error).__name__}: {error}") from error
