"""Finds data sets of pictures on disk, reads their fields, brings them to one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data.pictures import files

Paths = Mapping[str, Mapping[str, str]]  # example -> field -> path of its file


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads examples whose fields are files of their own; picklable.

  Attributes:
    folder: that all paths start from.
    fields: that are read.
    size: height and width to bring everything to; None leaves it.
    open: reads the file of a field: (path, field) -> array.
    paths: where the files lie; may have more fields than are read.
    mixed: fields whose pixels may be mixed when they are resized.
  """

  folder: str
  fields: tuple[str, ...]
  size: tuple[int, int] | None
  open: Callable[[str, str], np.ndarray]
  paths: Paths = dataclasses.field(default_factory=dict)
  mixed: tuple[str, ...] = ("image",)

  def __call__(self, key: str) -> dict[str, np.ndarray]:
    """Returns the fields of an example, pictures and labels all of one size.

    Raises:
      ValueError: a file is missing, damaged or of a wrong shape, or sizes differ.
    """
    fields = fitted(self.stored(key), self.size, self.mixed)
    shapes = {name: array.shape[:2] for name, array in fields.items() if array.ndim > 1}
    if len(set(shapes.values())) > 1:
      raise ValueError(
        f"its parts differ in size: {shapes}; bring them to one with config.data.height and width."
      )
    return fields

  def stored(self, key: str) -> dict[str, np.ndarray]:
    """Returns the fields as the files hold them."""
    return {f: self.open(os.path.join(self.folder, self.path(key, f)), f) for f in self.fields}

  def path(self, key: str, field: str) -> str:
    """Returns the path of a field's file, from the folder on."""
    return self.paths[key][field]


def wanted_size(config: Any) -> tuple[int, int] | None:
  """Returns height and width that `config.data` asks for; None as stored.

  Raises:
    ValueError: only one of them is given, or one is negative.
  """
  size = int(config.height), int(config.width)
  if min(size) < 0 or (min(size) == 0 < max(size)):
    raise ValueError(
      "config.data.height and width must both be at least 1, or both 0 for the stored size;"
      f" they are {size}."
    )
  return size if min(size) > 0 else None


def detect(
  title: str,
  data_dir: str | None,
  layout: str,
  marks: Mapping[str, Sequence[str]],
  explained: Mapping[str, str],
) -> tuple[str, pathlib.Path]:
  """Returns the name of the layout that a folder holds, and the folder.

  Args:
    title: of the data set, for messages.
    layout: `auto`, or the name of the one that must be there.
    marks: layout -> patterns of paths, any of which identifies it.
    explained: layout -> its files, and where to get them.

  Raises:
    ValueError: no folder, none of the layouts, or more than one.
  """
  lookup.one_of("config.data.layout", layout, ("auto", *marks))
  known = " It must hold one of:" + "".join(
    f"\n  {name}:\n      {text}" for name, text in explained.items()
  )
  if not data_dir:
    raise ValueError(f"{title}: tell where it lies with config.data_dir.{known}")
  folder = pathlib.Path(data_dir)
  if not folder.is_dir():
    raise ValueError(f"{title}: there is no folder {data_dir}.{known}")
  holds = lambda pattern: next(folder.glob(pattern), None) is not None
  there = [name for name, patterns in marks.items() if any(map(holds, patterns))]
  if layout in there:
    return layout, folder
  if layout == "auto" and len(there) == 1:
    return there[0], folder
  if layout == "auto" and there:
    raise ValueError(
      f"{title}: {folder} holds {' and '.join(there)}; choose one with config.data.layout."
    )
  listed = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
  held = ", ".join(listed[:12]) + (", ..." if len(listed) > 12 else "")
  raise ValueError(
    f"{title}: {folder} holds {held or 'nothing'}, which is not"
    f" {'one of its layouts' if layout == 'auto' else layout}.{known}"
  )


def check_files(title: str, folder: pathlib.Path, paths: Paths, fields: Sequence[str]) -> None:
  """Checks that the files of some fields of all examples are there.

  Raises:
    ValueError: some are missing; says how many, and names the first.
  """
  wanted = [entry[field] for entry in paths.values() for field in fields]
  missing = [path for path in wanted if not os.path.isfile(os.path.join(folder, path))]
  if missing:
    raise ValueError(
      f"{title}: {folder} lacks {len(missing)} of {len(wanted)} files, first {missing[0]}."
    )


def counted(name: str, keys: Mapping[str, Sequence[str]]) -> str:
  """Returns a name with the numbers of examples: `mtan (795 train, 654 test)`."""
  return f"{name} ({', '.join(f'{len(part)} {split}' for split, part in keys.items())})"


def times(size: Sequence[int]) -> str:
  """Returns a size in words: `480 x 640`."""
  return " x ".join(map(str, size))


def numbered(
  folder: pathlib.Path, part: str, patterns: Mapping[str, str]
) -> dict[str, dict[str, str]]:
  """Returns the examples of a part in the order of their numbers: field -> path of its file.

  `patterns` has the paths of the fields in the part's folder, such as `image/{}.npy`.
  """
  stems = [path.stem for path in (folder / part).glob(patterns["image"].format("*"))]
  return {
    f"{part}/{stem}": {
      field: f"{part}/{pattern.format(stem)}" for field, pattern in patterns.items()
    }
    for stem in sorted(stems, key=lambda stem: (not stem.isdigit(), stem.zfill(9)))
  }


def read_lists(
  path: pathlib.Path, names: Sequence[str], parts: Sequence[str]
) -> dict[str, tuple[tuple[str, ...], ...]]:
  """Returns AdaShare's lists of examples, from a JSON file.

  Args:
    names: of the lists; one that is absent is empty.
    parts: the fields whose paths every entry has, in order.

  Raises:
    ValueError: the file is damaged, or an entry is not of this form.
  """
  lists = files.read_json(path)
  fits = lambda entry: isinstance(entry, list) and list(map(type, entry)) == [str] * len(parts)
  for name in names:
    entries = lists.get(name, []) if isinstance(lists, dict) else None
    if not isinstance(entries, list) or not all(map(fits, entries)):
      raise ValueError(
        f"{path}: {name!r} must list, for every example, the paths of {', '.join(parts)}."
      )
  return {name: tuple(map(tuple, lists.get(name, []))) for name in names}


def plane(name: str, array: np.ndarray) -> np.ndarray:
  """Returns an array as `[H, W]`, without a last axis of length 1.

  Raises:
    ValueError: another shape.
  """
  if array.ndim == 3 and array.shape[2] == 1:
    array = array[..., 0]
  if array.ndim != 2:
    raise ValueError(f"its {name} has the shape {array.shape}; it must be [height, width].")
  return array


def whole_numbers(name: str, array: np.ndarray, dtype: Any = np.int16) -> np.ndarray:
  """Returns ids of classes as integers `[H, W]`; floats become `dtype`.

  Raises:
    ValueError: another shape, or numbers that are not whole.
  """
  array = plane(name, array)
  if array.dtype.kind != "f":
    return array
  with np.errstate(invalid="ignore"):
    whole = array.astype(dtype)
  if not np.array_equal(whole, array):
    raise ValueError(f"its {name} holds numbers that are no class ids.")
  return whole


def colours(name: str, array: np.ndarray) -> np.ndarray:
  """Returns an array of three channels `[H, W, 3]`; floats become float32.

  Raises:
    ValueError: another shape.
  """
  if array.ndim != 3 or array.shape[2] != 3:
    swapped = " Its channels come first." if array.ndim == 3 and array.shape[0] in (1, 3) else ""
    raise ValueError(
      f"its {name} has the shape {array.shape}; it must be [height, width, 3].{swapped}"
    )
  return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def photograph(array: np.ndarray) -> np.ndarray:
  """Returns a picture `[H, W, 3]`: uint8 of 0..255, or float32 of 0..1 (of uint16, 65535 is 1).

  Raises:
    ValueError: another shape or range.
  """
  array = colours("image", array)
  if not array.size:
    raise ValueError(f"its image is {times(array.shape[:2])}, and has no pixel.")
  if array.dtype.kind == "u" and array.dtype.itemsize == 2:
    return array.astype(np.float32) / np.float32(65535)
  if array.dtype == np.uint8:
    return array
  found = array.dtype.name
  if array.dtype.kind == "f" and not -1e-3 <= array.min() <= array.max() <= 1.001:
    found += f" of {array.min()} to {array.max()}"
  elif array.dtype.kind == "f":
    return array
  raise ValueError(f"its image must be bytes, or floats of 0 to 1; it is {found}.")


def fitted(
  fields: Mapping[str, np.ndarray], size: tuple[int, int] | None, mixed: Sequence[str] = ("image",)
) -> dict[str, np.ndarray]:
  """Returns the fields of an example, resized.

  Args:
    fields: name -> `[H, W]`, `[H, W, C]`, or another shape, which stays as it is.
    size: height and width; None leaves all.
    mixed: fields whose pixels may be mixed, as those of a photograph. Of others the
      nearest pixels are picked.
  """
  return {name: _resized(array, size, name in mixed) for name, array in fields.items()}


def _resized(array: np.ndarray, size: tuple[int, int] | None, mixed: bool) -> np.ndarray:
  """Resizes one field; a photograph of floats channel by channel."""
  if size is None or array.ndim < 2 or array.shape[:2] == size:
    return array
  if not mixed:
    return files.resize_labels(array, size)
  if array.dtype == np.uint8:
    return files.resize_colour(array, size)
  channels = map(np.ascontiguousarray, np.moveaxis(array, -1, 0))
  return np.stack([files.resize_colour(channel, size) for channel in channels], -1)


@dataclasses.dataclass(frozen=True)
class Decode:
  """Makes an example of raw fields; picklable.

  A subclass has a method for each task, called `_` and its name: fields -> label, and
  where that is valid.

  Attributes:
    tasks: in order.
  """

  tasks: tuple[str, ...]

  def __call__(self, fields: Mapping[str, np.ndarray]) -> types.Batch:
    """Decodes an example; labels that are not valid are finite.

    Raises:
      ValueError: an id that is neither a class nor void.
    """
    found = {task: getattr(self, f"_{task}")(fields) for task in self.tasks}
    return example(fields["image"], found)


def example(image: np.ndarray, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> types.Batch:
  """Returns an example of a picture `[H, W, 3]`, and of each task's label and where it is valid."""
  if image.dtype == np.uint8:
    image = image.astype(np.float32) / np.float32(255)
  return types.Batch(
    image.astype(np.float32, copy=False),
    {task: label for task, (label, _) in found.items()},
    {task: valid for task, (_, valid) in found.items()},
    np.ones((), bool),
  )
