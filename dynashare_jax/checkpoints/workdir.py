"""The folder of a run: its config, and JSON files that are never half there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import columns

CONFIG = "config.json"
SPEC = "spec.json"
DATA = "data.json"
_ABSENT = "<absent>"


def open_workdir(
  path: str | os.PathLike[str],
  config: Mapping[str, Any],
  ignore: Sequence[str] = (),
  primary: bool = True,
  filled: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> pathlib.Path:
  """Creates the folder of a run, or checks that it belongs to this config.

  Args:
    path: the folder; parents are created.
    config: the run's whole config (nested; a `ConfigDict` too). The first start writes it to
      `config.json`, later starts compare with that file.
    ignore: dotted names that may differ, for example `data_dir` or `train.log_every`; a name stands
      for all below it, too.
    primary: whether this process writes (process 0); others only return the path.
    filled: completes the stored config with values that it is older than.

  Returns:
    The absolute path.

  Raises:
    ValueError: the folder cannot be written; it holds another config, or one that cannot be read.
  """
  folder = pathlib.Path(path).expanduser().absolute()
  if not primary:
    return folder
  _check_writable(folder)
  file = folder / CONFIG
  wanted = plain(config)
  if file.exists():
    _compare(file, wanted, ignore, filled)
  else:
    write_json(file, wanted)
  return folder


def is_opened(path: str | os.PathLike[str]) -> bool:
  """Returns whether a folder has the configuration that `open_workdir` writes."""
  return (pathlib.Path(path) / CONFIG).is_file()


def write_spec(folder: str | os.PathLike[str], spec: types.DatasetSpec) -> None:
  """Writes what a run knows of its data set to `spec.json`, unless it is there.

  Not of a private table, whose bin edges are values of its rows.
  """
  file = pathlib.Path(folder) / SPEC
  if not file.exists() and not (spec.private and (spec.table or spec.series)):
    write_json(file, dataclasses.asdict(spec))


def read_spec(folder: str | os.PathLike[str]) -> types.DatasetSpec | None:
  """Reads what `write_spec` wrote, equal in every value; None where there is no file.

  Raises:
    ValueError: the file holds something else.
  """
  file = pathlib.Path(folder) / SPEC
  if not file.exists():
    return None
  try:
    stored = columns.from_json(json.loads(file.read_text(encoding="utf-8")))
    stored["tasks"] = tuple(types.TaskSpec(**task) for task in stored["tasks"])
    if stored["table"] is not None:
      stored["table"] = types.TableSpec(**stored["table"])
    if stored.get("series") is not None:
      stored["series"] = types.SeriesSpec(**stored["series"])
    if stored["input_kind"] not in ("image", "series", "table"):
      raise ValueError(f"its input_kind is {stored['input_kind']!r}")
    return types.DatasetSpec(**stored)
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{file} cannot be read ({type(error).__name__}: {error}); without it, the data set is read."
    ) from error


def read_data(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
  """Reads which data a run began with (see `data.identity`); None in a folder of an older version.

  Raises:
    ValueError: the file is damaged.
  """
  file = pathlib.Path(folder) / DATA
  if not file.exists():
    return None
  try:
    return dict(json.loads(file.read_text(encoding="utf-8")))
  except (OSError, TypeError, ValueError) as error:
    raise ValueError(f"{file} cannot be read ({error}); without it, data are not compared.") from (
      error
    )


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
  """Writes a JSON file that is whole or absent, even after a crash; not finite is null."""
  text = json.dumps(plain(obj), indent=2, allow_nan=False) + "\n"
  write_text(path, text)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes or replaces a text file (UTF-8) atomically and durably."""
  target = pathlib.Path(path).absolute()
  temporary = target.with_name(f".{target.name}.tmp")
  temporary.unlink(missing_ok=True)  # Of a crash; or a link, which must not be followed.
  with open(temporary, "x", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, target)


def plain(obj: Any, nan_to_null: bool = True) -> Any:
  """Copies nested values into what JSON knows.

  Args:
    obj: dicts (keys become strings), lists, tuples, NumPy and JAX scalars and
      arrays, paths, anything with `to_dict`, strings, numbers, None.
    nan_to_null: NaN and infinities become None; else they stay floats.

  Raises:
    ValueError: a value of another type.
  """
  if isinstance(obj, (np.bool_, np.integer, np.floating)):
    obj = obj.item()
  if obj is None or isinstance(obj, (bool, str)):
    return obj
  if isinstance(obj, int):
    return int(obj)
  if isinstance(obj, float):
    return None if nan_to_null and not math.isfinite(obj) else float(obj)
  if isinstance(obj, os.PathLike):
    return os.fspath(obj)
  if hasattr(obj, "to_dict"):
    obj = obj.to_dict()
  if isinstance(obj, Mapping):
    return {str(key): plain(obj[key], nan_to_null) for key in obj}
  if isinstance(obj, (list, tuple, set, frozenset)):
    items = sorted(obj) if isinstance(obj, (set, frozenset)) else obj
    return [plain(item, nan_to_null) for item in items]
  if isinstance(obj, (np.ndarray, jax.Array)):
    array = np.asarray(obj)
    if array.dtype.kind not in "biufSU":  # bfloat16 and its kin
      array = array.astype(np.float32)
    return plain(array.tolist(), nan_to_null)
  raise ValueError(f"JSON cannot hold {obj!r} of type {type(obj).__name__}.")


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields dotted names and values of nested dicts; an empty dict is a value."""
  if isinstance(config, Mapping) and (config or not prefix):
    for key, value in config.items():
      yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
  else:
    yield prefix, config


def _check_writable(folder: pathlib.Path) -> None:
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".check."):
      pass
  except OSError as error:
    reason = error.strerror or str(error)
    raise ValueError(
      f"Cannot write to the work directory {folder}: {reason}. Choose another --workdir."
    ) from error


def _compare(
  file: pathlib.Path,
  wanted: Mapping[str, Any],
  ignore: Sequence[str],
  filled: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> None:
  """Raises ValueError unless the file holds the wanted config."""
  try:
    stored = json.loads(file.read_text(encoding="utf-8"))
    old = dict(flatten(stored))
  except (OSError, ValueError) as error:
    raise ValueError(
      f"Cannot read {file}: {error}. Choose another --workdir, or delete this one."
    ) from error
  new = dict(flatten(wanted))
  old = {name: value for name, value in flatten(filled(stored)) if name in new} | old
  lines = []
  for name in sorted(old.keys() | new.keys()):
    if any(name == i or name.startswith(i + ".") for i in ignore):
      continue
    before, now = (_show(values, name) for values in (old, new))
    if before != now:
      lines.append(f"  {name}: {before} there, {now} now")
  if lines:
    raise ValueError(
      f"The work directory {file.parent} was made with another config:\n"
      + "\n".join(lines)
      + "\nChoose another --workdir, or delete this one."
    )


def _show(values: Mapping[str, Any], name: str) -> str:
  return json.dumps(values[name]) if name in values else _ABSENT
