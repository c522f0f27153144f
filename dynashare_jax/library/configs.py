"""How every command finds and reads its configuration; what does not fit is one clear line."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
import inspect
import os
import pathlib
import re
import runpy
import traceback
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from dynashare_jax import lookup
from dynashare_jax.checkpoints import workdir

OVERRIDE = re.compile(r"--?config\.([\w.]+)=(.*)", re.DOTALL)
_FILE = re.compile(r"--?config(?:=(.*))?", re.DOTALL)
_ILLEGAL = re.compile(r"flag --([\w.]+)=")
_PARTS = ("base", "deeplab")  # what others start from, and no runs of their own
_EITHER = ("policy.budget", "policy.budget_ms")  # one of which decides
_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)


class TupleParser(tuple_parser.TupleParser):  # type: ignore[misc]
  """Reads a tuple as Python writes it, or its values with commas: `segmentation,depth` or `1,0.5`.

  What is no number, `true` or `false` is text, quotes or not; nothing is the empty tuple.
  """

  def parse(self, argument: Any) -> tuple[Any, ...]:
    """Returns the values of a text; any other argument as the class above does."""
    if isinstance(argument, str):
      try:
        found = ast.literal_eval(argument)
        argument = tuple(found) if isinstance(found, list) else found
      except (SyntaxError, ValueError):
        bare = argument[1:-1] if argument[:1] + argument[-1:] in ("()", "[]") else argument
        return tuple(literal(part.strip()) for part in bare.split(",") if part.strip())
    return argument if isinstance(argument, tuple) else (argument,)


def literal(text: str) -> Any:
  """Returns the number or truth value that a text writes, or the text."""
  try:
    return ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
  except (SyntaxError, ValueError):
    return text


# The library looks parsers up by the type of a field.
config_flags.register_flag_parser_for_type(tuple, TupleParser())


def folder() -> pathlib.Path:
  """Returns where the configurations lie: within an installed package, beside a checkout's."""
  package = pathlib.Path(__file__).resolve().parents[1]
  inside = package / "configs"
  return inside if inside.is_dir() else package.parent / "configs"


def names() -> tuple[str, ...]:
  """Returns the names of the configurations that come with the package."""
  return tuple(sorted({file.stem for file in folder().glob("*.py")} - {*_PARTS}))


def file_of(path: str) -> str:
  """Returns `path` with the file of a configuration in the place of its name.

  Args:
    path: `rooms`, or a file such as `configs/rooms.py`; a colon and a setting may follow.
  """
  name, colon, setting = path.partition(":")
  file = folder() / f"{name}.py"
  named = name.isidentifier() and file.is_file()
  return f"{file}{colon}{setting}" if named else path


def define(
  values: flags.FlagValues = flags.FLAGS, argv: list[str] | None = None
) -> flags.FlagHolder[ml_collections.ConfigDict]:
  """Defines the flag `--config`, whose values are set as `--config.name=value`."""
  return config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration, by name (rooms, multimnist:fashion) or its file; any value of it can be set as"
    " --config.name=value.",
    lock_config=True,
    flag_values=values,
    sys_argv=argv,
  )


def parse(argv: list[str], values: flags.FlagValues) -> list[str]:
  """Parses a command line that has the flag `--config`; returns what is no flag.

  Args:
    argv: with the program's name.
    values: the flags, which have their values afterwards.

  Raises:
    ValueError: there is no such configuration, or no such setting of it; a name or a
      value that does not fit, or another flag that is not understood.
  """
  argv, found = _named(argv)
  for path in found:
    known = _defaults(path)
    for match in filter(None, map(OVERRIDE.fullmatch, argv[1:])):
      if match[1] not in known:
        hint = lookup.hint_dotted(match[1], known)
        raise ValueError(f"There is no config.{match[1]} in {path}.{hint}")
      _check_name(match[1], match[2])
      _check_numbers(match[1], match[2], known[match[1]])
  given = {match[1]: match[2] for match in filter(None, map(OVERRIDE.fullmatch, argv[1:]))}
  if all(given.get(name, "0") not in ("0", "0.0") for name in _EITHER):
    told = " and ".join(f"--config.{name}={given[name]}" for name in _EITHER)
    raise ValueError(f"{told} are two budgets: give one of them.")
  try:
    return list(values(_last(argv)))
  except flags.IllegalFlagValueError as error:
    raise ValueError(_illegal(error, values)) from error
  except _ERRORS as error:
    text = " ".join(str(error).replace("\\n", " ").replace("\\", "").split())
    raise ValueError(f"In the flags: {text}") from error


def _named(argv: list[str]) -> tuple[list[str], list[str]]:
  """A command line with files for the names of configurations; and these, as they were given."""
  line, rest, given = argv[:1], list(argv[1:]), []
  while rest:
    argument = rest.pop(0)
    if match := _FILE.fullmatch(argument):
      if match[1] is None and not rest:
        raise ValueError("Name a configuration after --config.")
      given.append(rest.pop(0) if match[1] is None else match[1])
      argument = f"--config={file_of(given[-1])}"
    line.append(argument)
  return line, given


def _last(argv: list[str]) -> list[str]:
  """The command line without what a later setting of the same value takes the place of.

  Of tuples the flags would make one of all of them.
  """
  names = [match and match[1] for match in map(OVERRIDE.fullmatch, argv)]
  return [a for i, a in enumerate(argv) if names[i] is None or names[i] not in names[i + 1 :]]


def _check_name(name: str, text: str) -> None:
  """Refuses a name that a path of the library cannot have, and says how to write it."""
  group, _, last = name.rpartition(".")
  if not last.isidentifier():
    raise ValueError(f"config.{name} must be written as \"--config.{group}['{last}']={text}\".")


def _check_numbers(name: str, text: str, default: Any) -> None:
  """Refuses other values where the default is a tuple of numbers."""
  numbers = lambda values: all(isinstance(value, int | float) for value in values)
  if not isinstance(default, tuple) or not default or not numbers(default):
    return
  if not numbers(TupleParser().parse(text)):
    shown = ",".join(map(str, default))
    raise ValueError(f"config.{name} must be numbers (tuple), as {shown}, but is {text!r}.")


def _illegal(error: flags.IllegalFlagValueError, values: flags.FlagValues) -> str:
  """What a flag must be whose value does not fit, and what it is."""
  text = str(error)
  named = _ILLEGAL.match(text)
  if named is None or error.__context__ is None:
    return f"In the flags: {text}"
  name, given = named[1], text[named.end() :].removesuffix(f": {error.__context__}")
  flag = values[name]
  kind = flag.flag_type()
  wanted = flag.parser.syntactic_help or {"bool": "true or false"}.get(kind, "another text")
  shown = name if name.startswith("config.") else f"--{name}"
  return f"{shown} must be {wanted} ({kind}), but is {given!r}."


def load(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
  """Returns the locked configuration of a name or a file with `name=value` overrides.

  Raises:
    ValueError: as `parse`.
  """
  argv = ["", f"--config={path}", *(f"--config.{override}" for override in overrides)]
  values = flags.FlagValues()
  flag = define(values, argv)
  parse(argv, values)
  return flag.value


def _defaults(path: str) -> Mapping[str, Any]:
  """Dotted name -> value of what a file makes, with the setting after its colon."""
  name, colon, setting = file_of(path).partition(":")
  if not pathlib.Path(name).is_file():
    raise ValueError(_missing(path, name))
  try:
    make = runpy.run_path(name)["get_config"]
    if colon and not inspect.signature(make).parameters:
      shown = path.partition(":")[0]
      raise ValueError(f"{shown} has no settings; leave {colon + setting!r} away.")
    made = make(*([setting] if colon else []))
  except ValueError:
    raise
  except Exception as error:  # It is a program, and may do anything.
    where = f", line {found[-1].lineno}" if (found := _lines(error, name)) else ""
    told = " ".join(str(error).split())
    raise ValueError(
      f"In the configuration {path}{where}: {type(error).__name__}: {told}"
    ) from error
  if not isinstance(made, ml_collections.ConfigDict):
    raise ValueError(
      f"In the configuration {path}: get_config must return a ConfigDict, but returns a"
      f" {type(made).__name__}."
    )
  return dict(workdir.flatten(made.to_dict()))


def _missing(path: str, name: str) -> str:
  """That there is no such configuration, and which there are."""
  file, known = pathlib.Path(name), names()
  near = sorted(map(str, file.parent.glob("*.py"))) if file.suffix else []
  hint = lookup.hint(name, near) or lookup.hint(file.stem, known)
  files = f" Files: {', '.join(near)}." if near else ""
  return f"There is no configuration {path!r}.{hint} By name there are: {', '.join(known)}.{files}"


def _lines(error: Exception, name: str) -> list[traceback.FrameSummary]:
  """Where in a file an error arose, the innermost last."""
  frames = traceback.extract_tb(error.__traceback__)
  return [frame for frame in frames if os.path.abspath(frame.filename) == os.path.abspath(name)]
