"""Arrays as callers hand them over: made plain, and refused where they cannot be what they seem."""

from __future__ import annotations

from collections.abc import Mapping
import numbers
from typing import Any

import numpy as np

from dynashare_jax import types
from dynashare_jax.objectives import kinds

_CHANNELS = (1, 3, 4)  # of usual pictures
_DARK = 0.02  # below it pictures were scaled twice
_VOID = 255  # often stands for no class


def whole(value: Any, name: str, least: int) -> None:
  """Refuses what is no whole number, or below the least.

  Raises:
    ValueError: it is; names the argument.
  """
  if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
    raise ValueError(f"{name} must be a whole number of at least {least}, but is {value!r}.")


def array(values: Any, what: str) -> np.ndarray:
  """Returns values as an array; what is masked is missing, and texts keep NaN beside them.

  Args:
    what: they are, for messages.

  Raises:
    ValueError: rows of several lengths, or durations.
  """
  if isinstance(values, np.ma.MaskedArray):
    return _unmasked(values)
  try:
    found = np.asarray(values)
  except ValueError as error:
    raise ValueError(
      f"{what}: the rows have several lengths or shapes. Bring them to one, or give a column"
      " of each."
    ) from error
  mixed = found.dtype.kind in "US" and found.ndim == 1 and isinstance(values, list | tuple)
  if mixed and not all(isinstance(value, str) for value in values):
    return np.fromiter(values, object, len(values))  # NaN would be the text 'nan'
  return found


def _unmasked(values: np.ma.MaskedArray) -> np.ndarray:
  """What is masked as NaN, NaT, an id below 0 for pixels, or None."""
  data, mask = np.asarray(values.data), np.ma.getmaskarray(values)
  if not mask.any():
    return data
  if data.ndim > 2 and data.dtype.kind in "iub":
    return np.where(mask, -1, data.astype(np.int64))
  if data.dtype.kind in "fM":
    return np.where(mask, np.array("NaT" if data.dtype.kind == "M" else np.nan, data.dtype), data)
  found = data.astype(object)
  found[mask] = None
  return found


def check_order(inputs: Any, targets: Mapping[str, Any] | Any) -> None:
  """Refuses labels whose index has the inputs' rows in another order.

  Raises:
    ValueError: they have; names the task.
  """
  index = _index(inputs)
  if index is None:
    return
  every = targets if isinstance(targets, Mapping) else {"the targets": targets}
  for name, values in every.items():
    other = _index(values)
    if other is None or len(other) != len(index) or index.equals(other) or not index.is_unique:
      continue
    if set(index) == set(other):
      raise ValueError(
        f"The rows of {name} have another order than those of the inputs, by their index: give"
        " targets.loc[inputs.index], or without an index, targets.to_numpy()."
      )


def _index(values: Any) -> Any:
  """The index of a frame or column of pandas; None of anything else."""
  found = getattr(values, "index", None)
  return found if hasattr(found, "equals") and hasattr(found, "is_unique") else None


def check_inputs(raw: Any, notes: list[str]) -> None:
  """Refuses pictures whose channels come first; notes those that are nearly black.

  Raises:
    ValueError: they do.
  """
  if isinstance(raw, Mapping) or raw.ndim != 4 or not raw.size:
    return
  first, *others = raw.shape[1:]
  if first in _CHANNELS and first < min(others) and raw.shape[3] not in _CHANNELS:
    raise ValueError(
      f"Pictures are [N, height, width, channels], but of {raw.shape} the channels seem to come"
      " first: give np.moveaxis(pictures, 1, -1)."
    )
  top = float(raw.max()) / (255 if raw.dtype == np.uint8 else 1)
  if 0 < top < _DARK:
    why = (
      "are they 0 and 1, not 0 to 255"
      if raw.dtype == np.uint8
      else "were they divided by 255 twice"
    )
    notes.append(f"warning: the brightest value of all pictures is {top:.2g} of 1: {why}?")


def lengths(values: Any, steps: int) -> np.ndarray:
  """Returns how many steps every series has, int32 `[N]`.

  Raises:
    ValueError: no whole number from 1 to the steps there are.
  """
  found = np.asarray(values)
  good = found.dtype.kind in "iuf" and (found == np.floor(found)).all()
  if not good or (found.size and not 1 <= found.min() <= found.max() <= steps):
    raise ValueError(f"length must be whole numbers from 1 to the {steps} steps of the series.")
  return found.astype(np.int32)


def mask(name: str, values: Any) -> np.ndarray:
  """Returns the mask of a task's labels, bool.

  Raises:
    ValueError: values other than true and false, or 1 and 0.
  """
  found = np.asarray(values)
  if found.dtype != bool and not (found.dtype.kind in "iuf" and np.isin(found, (0, 1)).all()):
    raise ValueError(f"valid[{name!r}] must be true or false, but is {found.dtype}.")
  return found.astype(bool)


def rows(name: str, values: Any, count: int) -> np.ndarray:
  """Returns the rows of a split, ascending, given by number or as a mask.

  Raises:
    ValueError: no such rows, or one twice.
  """
  found = np.asarray(values)
  if found.dtype == bool:
    if found.shape != (count,):
      raise ValueError(f"split[{name!r}] is a mask {found.shape}; there are {count} rows.")
    return np.flatnonzero(found)
  if found.size and (found.dtype.kind not in "iuf" or (found != np.floor(found)).any()):
    raise ValueError(f"split[{name!r}] must be numbers of rows or a mask, but is {found.dtype}.")
  found = np.sort(found.astype(np.int64)) if found.size else np.zeros(0, np.int64)
  if found.size and not 0 <= found[0] <= found[-1] < count:
    raise ValueError(f"split[{name!r}] has rows outside 0 to {count - 1}.")
  if (twice := found[1:][found[1:] == found[:-1]]).size:
    raise ValueError(f"split[{name!r}] has row {twice[0]} twice.")
  return found


def check_groups(groups: np.ndarray, split: Mapping[str, np.ndarray]) -> None:
  """Refuses splits of which two have rows of one group.

  Args:
    groups: number of every row's group.

  Raises:
    ValueError: two have; names a row of each.
  """
  seen: dict[int, tuple[str, int]] = {}
  for name, part in split.items():
    for row in part.tolist():
      other, first = seen.setdefault(int(groups[row]), (name, row))
      if other != name:
        raise ValueError(
          f"The rows {first} and {row} are of one group, but in {other!r} and {name!r}: split by"
          " shares, or by whole groups."
        )


def check_ids(name: str, labels: np.ndarray) -> None:
  """Refuses labels of pixels whose highest id, 255, seems to be no class.

  Raises:
    ValueError: it does; says how to tell.
  """
  if labels.ndim != 3 or labels.dtype.kind not in "iu" or not labels.size:
    return
  below = labels[labels < _VOID]
  if labels.max() == _VOID and below.size and (last := int(below.max())) < _VOID - 1:
    raise ValueError(
      f"The labels of {name!r} are ids up to {last}, and {_VOID}: if that means no class, give"
      f" valid={{{name!r}: labels != {_VOID}}} and tasks=[ds.segmentation({name!r}, {last + 1})];"
      f" if it is one, tasks=[ds.segmentation({name!r}, {_VOID + 1})]."
    )


def check_answers(name: str, labels: np.ndarray) -> list[str]:
  """Warns of answers of which every row has one yes, as classes that exclude one another have."""
  if labels.ndim != 2 or labels.shape[1] < 3 or labels.dtype.kind not in "iufb":
    return []
  if not (labels.sum(1) == 1).all():
    return []
  return [
    f"warning: every row of {name} has one 1 alone: if its classes exclude one another, give"
    " labels.argmax(1)"
  ]


def pixels(task: types.TaskSpec, labels: np.ndarray, inputs: Any, notes: list[str]) -> np.ndarray:
  """Returns labels of pixels in the shape and form of their task, NaN where they are none.

  Args:
    inputs: that they belong to.
    notes: to add what is no label.

  Raises:
    ValueError: the inputs are no pictures, or the labels have another size or form.
  """
  kind = kinds.find(task.kind)
  if not kind.dense:
    return labels
  if isinstance(inputs, Mapping) or inputs.ndim != 4:
    raise ValueError(
      f"The task {task.name!r} is a {task.kind} of pixels, but the inputs are no pictures [N,"
      " height, width, channels]."
    )
  if labels.ndim == 4 and labels.shape[3] == 1:
    labels = labels[..., 0]
  several = kind.stored != "ids" and task.outputs > 1
  wanted = (*inputs.shape[:3], *((task.outputs,) if several else ()))
  if labels.shape != wanted:
    first = several and labels.ndim == 4 and np.moveaxis(labels, 1, -1).shape == wanted
    hint = " Its channels come first: give np.moveaxis(labels, 1, -1)." if first else ""
    raise ValueError(
      f"The labels of {task.name!r} have the shape {labels.shape}, but belong to pictures and must"
      f" have {wanted}.{hint}"
    )
  return _MADE.get(kind.stored, lambda *_: labels)(task, labels, notes)


def _ids(task: types.TaskSpec, labels: np.ndarray, notes: list[str]) -> np.ndarray:
  """Ids of classes, of which floats are whole."""
  del notes
  if labels.dtype == bool:
    return labels.astype(np.uint8)
  if labels.dtype.kind == "f" and (part := labels[np.isfinite(labels)] % 1 != 0).any():
    raise ValueError(
      f"The labels of {task.name!r} are ids of classes, but {int(part.sum())} are no whole numbers."
    )
  return labels


def _numbers(task: types.TaskSpec, labels: np.ndarray, notes: list[str]) -> np.ndarray:
  """Numbers; those that their kind cannot have are none."""
  words, good = kinds.find(task.kind).usual(task)
  known = np.isfinite(labels) if labels.dtype.kind == "f" else np.ones(labels.shape, bool)
  with np.errstate(invalid="ignore"):
    lost = known & ~good(labels)
  if not lost.any():
    return labels
  notes.append(f"{task.name}: {int(lost.sum())} pixels are not {words}, and are no labels")
  return np.where(lost, np.nan, labels)


def _directions(task: types.TaskSpec, labels: np.ndarray, notes: list[str]) -> np.ndarray:
  """Vectors of length 1; shorter than a half are none."""
  del notes
  if labels.dtype.kind != "f":
    raise ValueError(
      f"The labels of {task.name!r} are {labels.dtype}, but normals are vectors of floats: of bytes"
      " 2 * labels / 255 - 1."
    )
  length = np.linalg.norm(labels, axis=-1, keepdims=True)
  with np.errstate(invalid="ignore", divide="ignore"):
    return np.where(length >= 0.5, labels / length, np.nan).astype(labels.dtype)


_MADE = {"ids": _ids, "numbers": _numbers, "directions": _directions}
