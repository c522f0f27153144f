"""Finds data sets of pictures on disk, and brings their fields to one size.

What the data sets that come in several folder layouts have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data.pictures import files


def chosen_tasks(title: str, tasks: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
  """The wanted tasks, checked.

  Args:
    title: of the data set, for messages.
    tasks: `config.data.tasks`.
    known: what the data set has.

  Raises:
    ValueError: an unknown task, one that comes twice, or none.
  """
  for task in tasks:
    if task not in known:
      raise ValueError(
        f"config.data.tasks has {task!r}; {title} has {', '.join(known)}."
        f"{lookup.hint(task, known, 0.4)}"
      )
  if not tasks or len(set(tasks)) < len(tasks):
    raise ValueError(
      f"config.data.tasks is {tuple(tasks)}; name one or more of {', '.join(known)}, each once."
    )
  return tuple(tasks)


def weight(config: Any, task: str) -> float:
  """Weight of a task's loss, of `config.data.weights`.

  Raises:
    ValueError: there is none.
  """
  if task not in config.weights:
    raise ValueError(f"config.data.weights has no weight of {task!r}.")
  return float(config.weights[task])


def wanted_size(config: Any) -> tuple[int, int] | None:
  """Height and width that `config.data` asks for; None as stored.

  Raises:
    ValueError: only one of them is given, or one is negative.
  """
  size = int(config.height), int(config.width)
  if min(size) < 0 or (min(size) == 0 < max(size)):
    raise ValueError(
      "config.data.height and width must both be at least 1, or"
      f" both 0 for the stored size; they are {size}."
    )
  return size if min(size) > 0 else None


def detect(
  title: str,
  data_dir: str | None,
  layout: str,
  marks: Mapping[str, Sequence[str]],
  explained: Mapping[str, str],
) -> tuple[str, pathlib.Path]:
  """Tells which layout a folder holds.

  Args:
    title: of the data set, for messages.
    data_dir: the folder.
    layout: `auto`, or the name of the one that must be there.
    marks: layout -> patterns of paths; one that is there gives it away.
    explained: layout -> what it looks like, and where to get it.

  Returns:
    The layout's name, and the folder.

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
  there = [
    name
    for name, patterns in marks.items()
    if any(any(True for _ in folder.glob(p)) for p in patterns)
  ]
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


def check_files(title: str, folder: pathlib.Path, paths: Iterable[str]) -> None:
  """Refuses a folder that lacks files.

  Raises:
    ValueError: tells how many are missing, and names the first.
  """
  wanted = list(paths)
  missing = [path for path in wanted if not os.path.isfile(os.path.join(folder, path))]
  if missing:
    raise ValueError(
      f"{title}: {folder} lacks {len(missing)} of {len(wanted)} files, first {missing[0]}."
    )


def read_lists(
  path: pathlib.Path, names: Sequence[str], parts: Sequence[str]
) -> dict[str, tuple[tuple[str, ...], ...]]:
  """Reads AdaShare's lists of examples.

  Args:
    path: of the JSON file.
    names: of the lists that must be there.
    parts: what every entry gives the path of, in order.

  Returns:
    For every list of the file that has a name of `names`, its entries.

  Raises:
    ValueError: the file is damaged, or an entry is not of this form.
  """
  lists = files.read_json(path)
  for name in names:
    entries = lists.get(name) if isinstance(lists, dict) else None
    if not isinstance(entries, list) or not all(
      isinstance(entry, list)
      and len(entry) == len(parts)
      and all(isinstance(part, str) for part in entry)
      for entry in entries
    ):
      raise ValueError(
        f"{path}: {name!r} must list, for every example, the paths of {', '.join(parts)}."
      )
  return {name: tuple(map(tuple, lists[name])) for name in names}


def plane(name: str, array: np.ndarray) -> np.ndarray:
  """An array as `[H, W]`; a last axis of length 1 is dropped.

  Raises:
    ValueError: another shape.
  """
  if array.ndim == 3 and array.shape[2] == 1:
    array = array[..., 0]
  if array.ndim != 2:
    raise ValueError(f"its {name} has the shape {array.shape}; it must be [height, width].")
  return array


def whole_numbers(name: str, array: np.ndarray) -> np.ndarray:
  """Ids of classes as integers `[H, W]`; floats become int16.

  Raises:
    ValueError: another shape, or numbers that are not whole.
  """
  array = plane(name, array)
  if array.dtype.kind != "f":
    return array
  with np.errstate(invalid="ignore"):
    whole = array.astype(np.int16)
  if not np.array_equal(whole, array):
    raise ValueError(f"its {name} holds numbers that are no class ids.")
  return whole


def photograph(array: np.ndarray) -> np.ndarray:
  """A picture `[H, W, 3]`: uint8 of 0..255, or float32 of 0..1.

  Raises:
    ValueError: another shape or range.
  """
  if array.ndim != 3 or array.shape[2] != 3:
    raise ValueError(f"its image has the shape {array.shape}; it must be [height, width, 3].")
  if array.dtype == np.uint8:
    return array
  if array.dtype.kind != "f" or not -1e-3 <= array.min() <= array.max() <= (1.001):
    raise ValueError(
      "its image must be bytes, or floats of 0 to 1; it is"
      f" {array.dtype} of {array.min()} to {array.max()}."
    )
  return array.astype(np.float32, copy=False)


def resized(array: np.ndarray, size: tuple[int, int] | None, mixed: bool = False) -> np.ndarray:
  """Brings a field to a size.

  Args:
    array: `[H, W]` or `[H, W, 3]`.
    size: height and width; None leaves it.
    mixed: whether pixels may be mixed, as those of a photograph; labels are
      picked, the nearest.
  """
  if size is None or array.shape[:2] == size:
    return array
  if not mixed:
    return files.resize_labels(array, size)
  if array.dtype == np.uint8:
    return files.resize_colour(array, size)
  return np.stack(
    [
      np.asarray(
        Image.fromarray(np.ascontiguousarray(array[..., i])).resize(
          (size[1], size[0]), Image.Resampling.BILINEAR
        )
      )
      for i in range(array.shape[2])
    ],
    -1,
  )


def pixels(image: np.ndarray) -> np.ndarray:
  """A picture as float32 of 0..1."""
  if image.dtype == np.uint8:
    return image.astype(np.float32) / np.float32(255)
  return image.astype(np.float32, copy=False)


def same_size(fields: Mapping[str, np.ndarray]) -> None:
  """Refuses fields of one example that differ in height or width.

  Raises:
    ValueError: they differ.
  """
  shapes = {name: array.shape[:2] for name, array in fields.items()}
  if len(set(shapes.values())) > 1:
    raise ValueError(
      f"its parts differ in size: {shapes}; bring them to one with config.data.height and width."
    )


def example(image: np.ndarray, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> types.Batch:
  """An example of its decoded parts.

  Args:
    image: see `photograph`.
    found: task -> label and where it is valid.
  """
  return types.Batch(
    pixels(image),
    {task: label for task, (label, _) in found.items()},
    {task: valid for task, (_, valid) in found.items()},
    np.ones((), bool),
  )
