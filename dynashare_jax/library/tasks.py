"""Names of tasks, and tasks inferred from their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import cells
from dynashare_jax.objectives import kinds

_MOST_CLASSES = 50  # of labels that are not declared


def binary(
  name: str, classes: Sequence[str] = (), weight: float = 1.0, positive_weight: float = 1.0
) -> types.TaskSpec:
  """Names a task of yes and no, one for each example.

  Args:
    name: an identifier.
    classes: names of no and of yes, in this order; default of texts: sorted, yes last.
    weight: factor on its loss.
    positive_weight: factor on the loss of yes.
  """
  return _task(name, "binary", 1, weight, classes=classes, positive_weight=positive_weight)


def multiclass(
  name: str,
  classes: Sequence[str] | int = (),
  weight: float = 1.0,
  class_weights: Sequence[float] = (),
) -> types.TaskSpec:
  """Names a task of one class for each example.

  Args:
    name: an identifier.
    classes: their names, or their number; default: what the labels hold, sorted.
    weight: factor on its loss.
    class_weights: factors on the loss of every class.
  """
  return _classed(name, "multiclass", classes, weight, class_weights=tuple(class_weights))


def multilabel(name: str, classes: Sequence[str] | int = (), weight: float = 1.0) -> types.TaskSpec:
  """Names a task of several answers of yes or no for each example: labels `[N, classes]`.

  Args:
    name: an identifier.
    classes: what is answered, by name, or how many answers; default: the columns of the labels.
    weight: factor on its loss.
  """
  return _classed(name, "multilabel", classes, weight)


def regression(
  name: str, unit: str = "", outputs: int = 1, weight: float = 1.0, loss: str = "l2"
) -> types.TaskSpec:
  """Names a task of one or several real values for each example: labels `[N]` or `[N, outputs]`.

  Targets keep their unit; the loss counts errors in standard deviations of the training labels.

  Args:
    name: an identifier.
    unit: of the values, for tables and figures.
    outputs: how many values.
    weight: factor on its loss.
    loss: `l2`, `l1` or `huber` (which turns from squares to a line at one standard deviation).
  """
  return _task(name, "number", outputs, weight, unit=unit, loss=loss)


def segmentation(
  name: str, classes: Sequence[str] | int, weight: float = 1.0, class_weights: Sequence[float] = ()
) -> types.TaskSpec:
  """Names a task of one class for each pixel: labels int `[N, H, W]`, below 0 without label.

  Args:
    name: an identifier.
    classes: their names, or their number.
    weight: factor on its loss.
    class_weights: factors on the loss of every class.
  """
  return _classed(name, "segmentation", classes, weight, class_weights=tuple(class_weights))


def depth(name: str, unit: str = "m", weight: float = 1.0, inverse: bool = False) -> types.TaskSpec:
  """Names a task of one distance for each pixel: labels `[N, H, W]`, NaN without label.

  Args:
    name: an identifier.
    unit: of the distance.
    weight: factor on its loss.
    inverse: whether values grow with nearness (disparity).
  """
  return _task(name, "depth", 1, weight, unit=unit, inverse=inverse)


def normals(name: str, weight: float = 1.0) -> types.TaskSpec:
  """Names a task of surface normals: unit vectors `[N, H, W, 3]` of right, down and forward.

  Args:
    name: an identifier.
    weight: factor on its loss.
  """
  return _task(name, "normals", 3, weight)


def pixels(
  name: str, kind: str = "regression", outputs: int = 1, unit: str = "", weight: float = 1.0
) -> types.TaskSpec:
  """Names a task of another kind that has labels of pixels, such as `edges` or `saliency`.

  Args:
    name: an identifier.
    kind: of `dynashare_jax.objectives.kinds`; `regression` is real values `[N, H, W, outputs]`.
    outputs: channels.
    unit: of the values.
    weight: factor on its loss.
  """
  kinds.dense(kind)
  return _task(name, kind, outputs, weight, unit=unit)


def _classed(
  name: str, kind: str, classes: Sequence[str] | int, weight: float, **more: Any
) -> types.TaskSpec:
  """A task with classes, named or counted; 0 outputs are told from the labels."""
  named = () if isinstance(classes, int) else tuple(map(str, classes))
  count = classes if isinstance(classes, int) else len(named)
  return _task(name, kind, count, weight, classes=named, **more)


def _task(name: str, kind: str, outputs: int, weight: float, **more: Any) -> types.TaskSpec:
  """A task, checked."""
  check_name(name)
  if not 0 <= weight < np.inf:
    raise ValueError(f"The weight of the task {name!r} must be at least 0, but is {weight}.")
  if "classes" in more:
    more["classes"] = tuple(map(str, more["classes"]))
    if len(set(more["classes"])) < len(more["classes"]):
      raise ValueError(f"The classes of the task {name!r} have a name twice: {more['classes']}.")
    found = kinds.find(kind)
    if found.stored == "answers" and not found.several and len(more["classes"]) not in (0, 2):
      raise ValueError(f"The task {name!r} is binary, and has {len(more['classes'])} classes.")
  return types.TaskSpec(name, kind, outputs, float(weight), **more)


def check_name(name: Any) -> None:
  """Raises ValueError where a task's name is no identifier, or one that the inputs have."""
  if not isinstance(name, str) or not name.isidentifier() or name in ("image", "total"):
    raise ValueError(
      f"A task cannot be called {name!r}: its name is a word of letters, digits and _, and not"
      " 'image' or 'total'."
    )


def infer(name: str, labels: np.ndarray) -> tuple[types.TaskSpec, str]:
  """Infers a task from its labels; returns it and why, in words.

  Two different values are `binary`, texts and few whole numbers `multiclass`, columns of 0 and 1
  `multilabel`, other numbers `regression`; whole numbers of pixels are a `segmentation`.

  Raises:
    ValueError: nothing fits; says how to name the task.
  """
  check_name(name)
  if labels.ndim >= 3:
    if labels.ndim == 3 and labels.dtype.kind in "iu":
      count = int(labels.max(initial=0)) + 1
      return segmentation(name, count), f"whole numbers of pixels up to {count - 1}"
    raise ValueError(
      f"The labels of {name!r}, {labels.dtype} {labels.shape}, may be depth, normals or something"
      f" else: say tasks=[ds.depth({name!r}), ...]."
    )
  known = labels[~missing(labels)]
  if not known.size:
    raise ValueError(f"The task {name!r} has no label at all.")
  words = _are_words(known)
  distinct = sorted({str(value).strip() for value in known.ravel()}) if words else np.unique(known)
  if len(distinct) == 1:
    raise ValueError(f"All labels of {name!r} are {distinct[0]!r}: there is nothing to learn.")
  if labels.ndim == 2:
    if not words and set(distinct) <= {0, 1}:
      return multilabel(name, labels.shape[1]), f"{labels.shape[1]} columns of 0 and 1"
    if words:
      raise ValueError(f"The labels of {name!r} are texts {labels.shape}: give one column a task.")
    return regression(name, outputs=labels.shape[1]), f"{labels.shape[1]} columns of numbers"
  if len(distinct) == 2:
    return binary(name), f"two values, {distinct[0]} and {distinct[1]}"
  whole = not words and bool(np.all(np.asarray(distinct, float) % 1 == 0))
  if words or (whole and len(distinct) <= _MOST_CLASSES and known.dtype.kind != "f"):
    if len(distinct) > min(_MOST_CLASSES, len(known) // 2):
      raise ValueError(
        f"The labels of {name!r} are {len(distinct)} different texts in {len(known)} rows: name its"
        f" classes, ds.multiclass({name!r}, classes=...), or leave it out."
      )
    return multiclass(name), f"{len(distinct)} different {'texts' if words else 'whole numbers'}"
  return regression(name), "numbers"


def _are_words(known: np.ndarray) -> bool:
  """Whether labels that are there are texts, or anything else that is no number."""
  return known.dtype.kind not in "biuf" and not all(map(_is_number, known.ravel()))


def _is_number(value: Any) -> bool:
  return isinstance(value, (bool, int, float, np.number, np.bool_))


def missing(labels: np.ndarray) -> np.ndarray:
  """Returns which labels are none: NaN, NaT, None, an empty text, and what is unequal to itself."""
  if labels.dtype.kind == "f":
    return np.isnan(labels)
  if labels.dtype.kind in "mM":
    return np.isnat(labels)
  if labels.dtype.kind in "US":
    return np.char.strip(labels.astype(str)) == ""
  if labels.dtype.kind != "O":
    return np.zeros(labels.shape, bool)
  none = [_is_none(value) for value in labels.ravel()]
  return np.asarray(none, bool).reshape(labels.shape)


def _is_none(value: Any) -> bool:
  """Whether one value stands for none; those of pandas and polars, too."""
  if value is None or (isinstance(value, str) and not value.strip()):
    return True
  try:
    return bool(value != value)
  except TypeError:  # pandas.NA answers no question.
    return True


def encode(
  task: types.TaskSpec, labels: np.ndarray, valid: np.ndarray | None, train: np.ndarray
) -> tuple[types.TaskSpec, np.ndarray, np.ndarray]:
  """Turns labels into a network's targets; completes the task by what the training rows hold.

  Args:
    task: perhaps without classes, and a number task without a spread.
    labels: `[N, ...]`.
    valid: bool, of the leading axes of `labels`: False is no label; None: all that are not missing.
    train: rows for training, which alone say what a spread is.

  Returns:
    The task, targets `[N, ...]`, and bool of the leading axes.

  Raises:
    ValueError: a label that the task cannot have; names the row.
  """
  kind = kinds.find(task.kind)
  none: Any = missing(labels)
  if valid is not None:
    none = np.logical_or(none, ~valid.reshape(valid.shape + (1,) * (labels.ndim - valid.ndim)))
  if kind.dense:
    return _encode_pixels(task, labels, none)
  if kind.stored in ("answers", "names") and not kind.several:
    task, targets = _encode_classes(task, labels, none)
    return task, targets, ~none
  targets = _as_numbers(task, labels, none)
  if kind.stored == "answers":
    task = dataclasses.replace(task, outputs=task.outputs or labels.shape[1])
  if labels.shape[1:] not in ((), (task.outputs,)) or (not labels.shape[1:] and task.outputs > 1):
    raise ValueError(
      f"The labels of {task.name!r} have the shape {labels.shape}, and the task has"
      f" {task.outputs} outputs: they must be [N, {task.outputs}]."
    )
  if kind.stored == "values" and not task.spread:
    task = _standardised(task, targets[train], ~none[train])
  return task, targets, ~none


def _encode_pixels(
  task: types.TaskSpec, labels: np.ndarray, none: np.ndarray
) -> tuple[types.TaskSpec, np.ndarray, np.ndarray]:
  """Labels of pixels; ids below 0 are none, as is a vector with a part that is none."""
  if labels.dtype.kind not in "iuf":
    raise ValueError(f"The labels of {task.name!r} are {labels.dtype}; pixels have numbers.")
  if labels.ndim < 3:
    raise ValueError(f"The labels of {task.name!r} are {labels.shape}; pixels have [N, H, W, ...].")
  if kinds.dense(task.kind).stored == "ids":
    return task, np.where(none, 0, labels).astype(np.int32), ~none & (labels >= 0)
  known = ~np.any(none, -1) if none.ndim > 3 else ~none
  filled = np.where(np.isfinite(labels), labels, 0) if labels.dtype.kind == "f" else labels
  return task, filled.astype(np.float32), known


def _encode_classes(
  task: types.TaskSpec, labels: np.ndarray, none: np.ndarray
) -> tuple[types.TaskSpec, np.ndarray]:
  """Class ids of labels, which may be texts, truth values or numbers."""
  if labels.ndim != 1:
    raise ValueError(f"The labels of {task.name!r} must be [N], but are {labels.shape}.")
  is_binary = kinds.find(task.kind).stored == "answers"
  count = 2 if is_binary else task.outputs
  out = np.zeros(len(labels), np.float32 if is_binary else np.int32)
  numbers = not _are_words(labels[~none])
  if numbers:
    values = np.where(none, 0, labels).astype(np.float64)
    distinct = np.unique(values[~none])
    if set(distinct) <= set(range(count or len(distinct))):  # They are ids.
      out[:] = values
      wanted = 1 if is_binary else count or len(distinct)
      return dataclasses.replace(task, outputs=wanted), out
    if is_binary and set(distinct) <= {-1, 1}:
      out[:] = values > 0
      return task, out
  pairs = zip(labels, none, strict=True)
  names = ["" if gone else str(_plain(value)).strip() for value, gone in pairs]
  known = task.classes or _class_names(labels[~none] if numbers else names, is_binary)
  if count and len(known) > count:
    raise ValueError(
      f"{task.name!r} has {len(known)} different labels, and the task {count} classes:"
      f" {', '.join(map(repr, known[:3]))}, ..."
    )
  codes = {name: code for code, name in enumerate(known)}
  for row, name in enumerate(names):
    if not none[row] and name not in codes:
      raise ValueError(
        f"Row {row} of {task.name!r} has {name!r}, which is none of its classes"
        f" ({', '.join(known[:8])}).{lookup.hint(name, known)}"
      )
  out[:] = [codes.get(name, 0) for name in names]
  return dataclasses.replace(task, classes=known, outputs=1 if is_binary else len(known)), out


def _class_names(labels: Any, is_binary: bool) -> tuple[str, ...]:
  """The names of distinct labels, sorted: numbers as such, and no before yes."""
  distinct = sorted({value for value in labels if value != ""})
  names = tuple(str(_plain(value)) for value in distinct)
  if is_binary and distinct and isinstance(distinct[0], str):
    return tuple(sorted(names, key=lambda name: name.lower() in cells.YES and name != "1"))
  return names


def _plain(value: Any) -> Any:
  """A number that is whole as an integer, so that 3.0 is called 3."""
  return int(value) if isinstance(value, (float, np.floating)) and value % 1 == 0 else value


def _as_numbers(task: types.TaskSpec, labels: np.ndarray, none: np.ndarray) -> np.ndarray:
  """Float32 of labels, 0 where there is none."""
  filled = np.where(none, 0, labels)
  try:
    with np.errstate(over="ignore"):
      found = filled.astype(np.float32)
  except (TypeError, ValueError):
    bad = next(place for place in np.ndindex(labels.shape) if not _floats(filled[place]))
    raise ValueError(f"Row {bad[0]} of {task.name!r} has {labels[bad]!r}: no number.") from None
  if not np.isfinite(found).all():
    bad = tuple(np.argwhere(~np.isfinite(found))[0])
    raise ValueError(f"Row {bad[0]} of {task.name!r} has {labels[bad]}, which 32 bits do not hold.")
  return found


def _floats(value: Any) -> bool:
  try:
    float(value)
  except (TypeError, ValueError):
    return False
  return True


def _standardised(task: types.TaskSpec, targets: np.ndarray, valid: np.ndarray) -> types.TaskSpec:
  """The number task with mean and spread of labels; 1 where they are all equal."""
  rows, known = targets.reshape(len(targets), -1), valid.reshape(len(valid), -1)
  columns = [column[ok].astype(np.float64) for column, ok in zip(rows.T, known.T, strict=True)]
  center = tuple(float(c.mean()) if len(c) else 0.0 for c in columns)
  spread = tuple(float(c.std()) or 1.0 if len(c) else 1.0 for c in columns)
  return dataclasses.replace(task, center=center, spread=spread)


def unseen(
  tasks: Sequence[types.TaskSpec],
  targets: Mapping[str, Any],
  valid: Mapping[str, Any],
  train: np.ndarray,
) -> tuple[str, ...]:
  """Says which classes no training example has, one line a task."""
  lines = []
  for task in tasks:
    kind = kinds.find(task.kind)
    counted, _ = kind.counts(task, targets[task.name], valid[task.name])
    seen, _ = kind.counts(task, targets[task.name][train], valid[task.name][train])
    lost = np.flatnonzero((counted > 0) & (seen == 0))
    if len(lost):
      names = [task.classes[i] if task.classes else str(i) for i in lost[:5]]
      lines.append(
        f"warning: {task.name} has {int(counted[lost].sum())} labels of {len(lost)} classes that no"
        f" training example has, first {', '.join(names)}"
      )
  return tuple(lines)
