"""Makes examples of what the files of a data set in folders hold."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools

import numpy as np

from dynashare_jax import types
from dynashare_jax.data.folder import description as folder_description
from dynashare_jax.data.pictures import layouts
from dynashare_jax.data.pictures import surface_normals
from dynashare_jax.data.table import tasks as table_tasks

_NONE = np.array([0, 0, -1], np.float32)  # in place of a missing normal
_UNKNOWN, _IGNORED = -1, -2  # in place of a class


@dataclasses.dataclass(frozen=True)
class Decode:
  """Makes examples of raw fields, for `tasks` in order; picklable."""

  tasks: tuple[folder_description.Task | table_tasks.Task, ...]

  def __call__(self, fields: Mapping[str, np.ndarray]) -> types.Batch:
    """Decodes an example of `image` and those fields of the tasks that are there.

    A task without a field has no valid label.

    Raises:
      ValueError: a field of a wrong shape or type, or an unknown id.
    """
    image = layouts.photograph(fields["image"])
    size = image.shape[:2]
    found = {}
    for task in self.tasks:
      if isinstance(task, table_tasks.Task):
        found[task.name] = _of_table(task, fields.get(task.name))
      elif task.name in fields:
        stored = _checked(task, fields[task.name], size)
        found[task.name] = _DECODERS[task.kind.stored](task, stored)
      else:
        found[task.name] = _absent(task, size), np.zeros(size, bool)
    return layouts.example(image, found)


def _of_table(task: table_tasks.Task, stored: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
  """The label of an example, and where it is valid, of `[outputs]` with NaN for none."""
  values = np.full(len(task.columns), np.nan, np.float32) if stored is None else stored
  if values.shape != (len(task.columns),):
    raise ValueError(f"its {task.name} has {values.size} values, not {len(task.columns)}.")
  kind = task.kind
  one = len(values) == 1 and not (kind.several and kind.stored == "answers")
  values = values[0] if one else values
  valid = np.isfinite(values)
  dtype = np.float32 if kind.stored == "values" else np.int32
  return np.where(valid, values, 0).astype(dtype), np.asarray(valid)


def _absent(task: folder_description.Task, size: tuple[int, ...]) -> np.ndarray:
  """Values for an example without a label; never used, but finite."""
  if task.kind.stored == "ids":
    return np.zeros(size, np.int32)
  if task.kind.stored == "directions":
    return np.broadcast_to(_NONE, (*size, 3)).copy()
  outputs = task.spec.outputs
  return np.zeros((*size, outputs) if outputs > 1 else size, np.float32)


def _checked(
  task: folder_description.Task, stored: np.ndarray, size: tuple[int, ...]
) -> np.ndarray:
  """The stored array in its task's shape; channels that count are put together."""
  if stored.shape[:2] != size:
    raise ValueError(
      f"its {task.name} is {layouts.times(stored.shape[:2])}, its picture {layouts.times(size)}."
      " Give config.data.height and width."
    )
  if stored.dtype.kind not in "biuf":
    raise ValueError(f"its {task.name} holds {stored.dtype.name}, which are no real numbers.")
  channels = stored.shape[2] if stored.ndim == 3 else 1
  if task.channels:
    if stored.ndim != 3 or channels != len(task.channels):
      raise ValueError(
        f"its {task.name} has {channels} channels, but {len(task.channels)} factors"
        f" (tasks.{task.name}.channels)."
      )
    used = [i for i, factor in enumerate(task.channels) if factor]
    parts = (stored[..., i].astype(np.float64) * task.channels[i] for i in used)
    return sum(parts, np.zeros(size))
  wanted = 1 if task.kind.stored == "ids" else task.spec.outputs
  if channels != wanted:
    several = f" Say with tasks.{task.name}.channels how they make one number."
    raise ValueError(
      f"its {task.name} has {channels} channels, not {wanted}.{several if wanted == 1 else ''}"
    )
  return stored


def _segmentation(
  task: folder_description.Task, stored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  stored = layouts.whole_numbers(task.name, stored, np.int64)
  classes = _table(task)[stored] if stored.dtype == np.uint8 else _classes(task, stored)
  valid = classes != _IGNORED
  wrong = classes == _UNKNOWN
  if wrong.any():
    if task.unmapped == "error":
      last = task.spec.outputs - 1
      known = f"0 to {last}" if task.ids is None else f"{len(task.ids)} of its map"
      values = ", ".join(map(str, np.unique(stored[wrong])[:5]))
      raise ValueError(
        f"its {task.name} has the ids {values}; known are {known}. Add them"
        f" to tasks.{task.name}.ignore or map, or say unmapped: ignore."
      )
    valid &= ~wrong
  return np.where(valid, classes, np.int32(0)), valid


@functools.lru_cache(maxsize=16)
def _table(task: folder_description.Task) -> np.ndarray:
  """What `_classes` gives for every id that fits into a byte."""
  return _classes(task, np.arange(256))


def _classes(task: folder_description.Task, stored: np.ndarray) -> np.ndarray:
  """Class of every id; `_UNKNOWN` or `_IGNORED` where there is none."""
  ids = stored.astype(np.int64)
  if task.ids is None:
    classes = np.where((ids >= 0) & (ids < task.spec.outputs), ids, _UNKNOWN)
  else:
    keys, places = np.array(task.ids, np.int64).T
    order = np.argsort(keys)
    at = np.searchsorted(keys, ids, sorter=order).clip(0, len(keys) - 1)
    classes = np.where(keys[order[at]] == ids, places[order[at]], _UNKNOWN)
  for value in task.ignore:
    classes[ids == value] = _IGNORED
  return classes.astype(np.int32)


def _equal(stored: np.ndarray, value: float) -> np.ndarray:
  """Where a stored number is this one, as far as its type tells."""
  with np.errstate(over="ignore"):  # half floats end before 65535
    return np.asarray(stored == value)


def _numbers(task: folder_description.Task, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Depths and other numbers: offset + scale * stored."""
  scale = 1.0 if task.scale is None else task.scale
  if task.scale is None and task.offset is None and task.kind.shares and stored.dtype.kind == "u":
    scale = 1 / np.iinfo(stored.dtype).max
  values = stored.astype(np.float64) * scale
  if task.offset is not None:
    values = values + task.offset
  good: np.ndarray = np.isfinite(values)
  for value in task.ignore:
    good &= ~_equal(stored, value)
  with np.errstate(invalid="ignore"):
    good &= (values >= task.limits[0]) & (values <= task.limits[1])
    good &= task.kind.usual(task.spec)[1](values)
  if stored.ndim == 2:
    return np.where(good, values, 0).astype(np.float32), good
  valid = np.asarray(good.all(-1))
  return np.where(valid[..., None], values, 0).astype(np.float32), valid


def _normals(task: folder_description.Task, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  scale, offset = task.scale, task.offset
  if scale is None and offset is None and stored.dtype.kind in "iu":
    signed = stored.dtype.kind == "i"
    span, offset = (1.0, 0.0) if signed else (2.0, -1.0)
    scale = span / np.iinfo(stored.dtype).max
  factor, start = np.float32(scale or 1.0), np.float32(offset or 0.0)
  parts = [stored[..., i].astype(np.float32) * factor + start for i in range(3)]
  valid = np.logical_and.reduce([np.isfinite(p) for p in parts])
  for value in task.ignore:
    valid &= ~np.logical_and.reduce([_equal(stored[..., i], value) for i in range(3)])
  parts = [np.where(valid, p, np.float32(0)) for p in parts]
  normals, valid = surface_normals.unit(parts, valid)
  turned = surface_normals.read_axes(task.axes)(normals)
  return np.where(valid[..., None], turned, _NONE), valid


_DECODERS = {"ids": _segmentation, "numbers": _numbers, "directions": _normals}
