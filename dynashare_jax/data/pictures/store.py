"""A converted copy of a data set: a few large files, not many small ones.

`data.pictures.store_writer` writes what a data set's `read` gives, unchanged, as a TensorFlow
Datasets data set in ArrayRecord files (TensorFlow is not needed), and beside it `dynashare.json`
with the names of the examples and the facts that decoding needs. Where a module finds such a folder
in place of the original, it takes names and `read` from `open_copy`; everything else, such as
splits and options, is as with the original.

Arrays are stored as their bytes, pictures as PNG. ArrayRecord compresses what it holds; zlib on top
saved 3% of an NYU v2 example and made it twice as slow to read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import importlib
import io
import os
import pathlib
from typing import Any

import numpy as np

from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts

MARKER = "dynashare.json"
ABSENT = "absent"  # the feature that lists fields without a value
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Original:
  """A data set that was found: files, or a converted copy of them.

  Attributes:
    layout: what was found, in words.
    keys: split -> names of examples, before validation is cut out.
    read: name -> raw fields; a field may be absent.
    facts: what decoding needs to know beside the configuration; goes through JSON.
    fields: names that `read` may give.
    size: height and width that `read` brings everything to; None as stored.
  """

  layout: str
  keys: Mapping[str, tuple[str, ...]]
  read: Callable[[str], Mapping[str, np.ndarray]]
  facts: Mapping[str, Any]
  fields: tuple[str, ...]
  size: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads raw fields from a converted copy; picklable.

  Attributes:
    folder: of the copy.
    places: name -> part of the copy and number there.
    fields: that are wanted.
    size: height and width to bring everything to; None leaves it.
    mixed: fields whose pixels are mixed then; those of others are picked.
  """

  folder: str
  places: Mapping[str, tuple[str, int]]
  fields: tuple[str, ...]
  size: tuple[int, int] | None = None
  mixed: tuple[str, ...] = ("image",)

  def __call__(self, key: str) -> dict[str, np.ndarray]:
    """Returns the fields of an example; one that it does not have is absent.

    Raises:
      ValueError: the copy is damaged.
    """
    part, number = self.places[key]
    try:
      record = _records(self.folder, part, os.getpid())[number]
    except (OSError, RuntimeError, IndexError, ValueError) as error:
      raise ValueError(
        f"{self.folder} is damaged ({type(error).__name__}: {error}); convert again."
      ) from error
    if record["name"].decode() != key:
      raise ValueError(
        f"{self.folder} is damaged: it has {record['name'].decode()!r} in this place;"
        " convert again."
      )
    absent = record[ABSENT].decode().split(",")
    found = {
      name: _unpacked(record[name]) for name in self.fields if name in record and name not in absent
    }
    return dense_layouts.fitted(found, self.size, self.mixed)


def is_copy(data_dir: str | os.PathLike[str]) -> bool:
  """Returns whether a folder holds a converted copy."""
  return os.path.isfile(os.path.join(data_dir, MARKER))


def facts(data_dir: str, dataset: str) -> dict[str, Any]:
  """Returns `Original.facts` of a copy of the data set whose module is `dataset`.

  Raises:
    ValueError: a copy of another data set, or its description is damaged.
  """
  return dict(_read_marker(data_dir, dataset)["facts"])


def open_copy(
  data_dir: str,
  dataset: str,
  fields: Sequence[str],
  size: tuple[int, int] | None,
  mixed: Sequence[str] = ("image",),
) -> Original:
  """Opens a converted copy.

  Args:
    dataset: name of the data set's module.
    size: height and width that are wanted; None as stored.
    mixed: fields whose pixels may be mixed, where the size must change.

  Raises:
    ValueError: a copy of another data set, of another size or without a field
      that is wanted, by another version, damaged, or TFDS is missing.
  """
  marker = _read_marker(data_dir, dataset)
  where = f"{data_dir} is a converted copy"
  lacking = [name for name in fields if name not in marker["fields"]]
  if lacking:
    raise ValueError(
      f"{where} with {', '.join(marker['fields'])}, but without"
      f" {', '.join(lacking)}: convert again with these tasks."
    )
  stored = tuple(marker["size"]) if marker["size"] else None
  if stored and size and size != stored:
    raise ValueError(
      f"{where} at {dense_layouts.times(stored)}; config.data.height and"
      f" width ask for {dense_layouts.times(size)}. Convert again."
    )
  for name, length in marker["files"].items():
    path = pathlib.Path(data_dir) / name
    found = path.stat().st_size if path.is_file() else -1
    if found != length:
      fault = "is missing" if found < 0 else f"has {found} bytes, not {length}"
      raise ValueError(f"{data_dir} is damaged: {name} {fault}; convert again.")
  load_tfds()
  keys = {split: tuple(names) for split, names in marker["keys"].items()}
  names, change = tuple(fields), None if stored else size
  read = Reader(str(data_dir), places(keys), names, change, tuple(mixed))
  layout = f"converted copy of {marker['layout']}"
  return Original(layout, keys, read, marker["facts"], names, size)


def _unpacked(stored: Any) -> np.ndarray:
  """Decodes a picture; other fields are arrays already."""
  if isinstance(stored, bytes):
    with files.opened("a picture of the copy", io.BytesIO(stored)) as picture:
      return np.asarray(picture)
  return np.asarray(stored)


def places(keys: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, int]]:
  """Returns of every example the split that has it first, and its number there."""
  found: dict[str, tuple[str, int]] = {}
  for split, names in keys.items():
    fresh = [name for name in dict.fromkeys(names) if name not in found]
    found |= {name: (split, i) for i, name in enumerate(fresh)}
  return found


@functools.lru_cache(maxsize=16)
def _records(folder: str, part: str, process: int) -> Any:
  """Opens a part of a copy, once per process: handles cannot be inherited."""
  del process
  tfds = load_tfds()
  builder = tfds.builder_from_directory(folder)
  features, picture = builder.info.features.items(), tfds.features.Image
  decoders = {n: tfds.decode.SkipDecoding() for n, f in features if isinstance(f, picture)}
  return builder.as_data_source(part, decoders=decoders or None)


def _read_marker(data_dir: str, dataset: str) -> dict[str, Any]:
  path = pathlib.Path(data_dir) / MARKER
  marker = files.read_json(path)
  if not isinstance(marker, dict) or marker.get("format") != FORMAT:
    raise ValueError(f"{path} was written by another version; convert again.")
  wanted = ("dataset", "layout", "fields", "size", "facts", "keys", "files")
  lacking = [key for key in wanted if key not in marker]
  if lacking:
    raise ValueError(f"{path} is damaged: it lacks {', '.join(lacking)}.")
  if marker["dataset"] != dataset:
    raise ValueError(
      f"{data_dir} is a converted copy of {marker['dataset']!r}, not of {dataset!r}."
    )
  return marker


def load_tfds() -> Any:
  """Imports TensorFlow Datasets, which need no TensorFlow here.

  Raises:
    ValueError: it is not installed.
  """
  try:
    importlib.import_module("array_record.python.array_record_module")
    return importlib.import_module("tensorflow_datasets")
  except ImportError as error:
    raise ValueError(
      "Converted copies need TensorFlow Datasets and ArrayRecord (TensorFlow is not needed):"
      f" pip install 'dynashare-jax[tfds]' ({error})."
    ) from error
