"""Names of tasks, and tasks inferred from their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import numbers
from typing import Any, Literal

import numpy as np

from dynashare_jax import types
from dynashare_jax.data import cells
from dynashare_jax.data.table import labels as labels_lib
from dynashare_jax.data.table import tasks as table_tasks
from dynashare_jax.data.table.column import Column
from dynashare_jax.objectives import kinds

Weights = Sequence[float] | Mapping[Any, float] | Literal["balanced"]


@dataclasses.dataclass(frozen=True)
class Weighed(types.TaskSpec):
  """A task whose weights of classes are told by its labels.

  Attributes:
    weights: key and value, `balanced` or factors by class.
  """

  weights: tuple[tuple[str, Any], ...] = ()


def binary(
  name: str,
  classes: Sequence[str] = (),
  weight: float = 1.0,
  positive_weight: float | Literal["balanced"] = 1.0,
) -> types.TaskSpec:
  """Names a task of yes and no, one for each example.

  Args:
    name: an identifier.
    classes: names of no and of yes, in this order; default of texts: sorted, yes last.
    weight: factor on its loss.
    positive_weight: factor on the loss of yes; `balanced`: training's no per yes, by which both
      weigh alike.

  Example:
    >>> ds.binary("churn", ["stays", "leaves"], positive_weight="balanced").classes
    ('stays', 'leaves')
  """
  weights = ("positive_weight", positive_weight)
  return _task(name, "binary", 1, weight, classes=classes, weights=weights)


def multiclass(
  name: str, classes: Sequence[str] | int = (), weight: float = 1.0, class_weights: Weights = ()
) -> types.TaskSpec:
  """Names a task of one class for each example.

  Args:
    name: an identifier.
    classes: their names, or their number; default: what the labels hold, sorted.
    weight: factor on its loss.
    class_weights: factors on the loss of every class in order, or of some by name; `balanced`:
      those by which all of training's classes weigh alike.

  Example:
    >>> ds.multiclass("grade", ["A", "B", "C"], class_weights={"C": 2.5}).outputs
    3
  """
  return _classed(name, "multiclass", classes, weight, weights=("class_weights", class_weights))


def multilabel(
  name: str, classes: Sequence[str] | int = (), weight: float = 1.0, positive_weight: float = 1.0
) -> types.TaskSpec:
  """Names a task of several answers of yes or no for each example: labels `[N, classes]`.

  Args:
    name: an identifier.
    classes: what is answered, by name, or how many answers; default: the columns of the labels.
    weight: factor on its loss.
    positive_weight: factor on the loss of every yes.

  Example:
    >>> ds.multilabel("worn", ["hat", "tie"]).outputs
    2
  """
  weights = ("positive_weight", positive_weight)
  return _classed(name, "multilabel", classes, weight, weights=weights)


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

  Example:
    >>> ds.regression("spend", unit="EUR", loss="huber").unit
    'EUR'
  """
  return _task(name, "number", outputs, weight, unit=unit, loss=loss)


def segmentation(
  name: str, classes: Sequence[str] | int, weight: float = 1.0, class_weights: Weights = ()
) -> types.TaskSpec:
  """Names a task of one class for each pixel: labels int `[N, H, W]`, below 0 without label.

  Args:
    name: an identifier.
    classes: their names, or their number.
    weight: factor on its loss.
    class_weights: factors on the loss of every class in order, or of some by name; `balanced`:
      those by which all of training's classes weigh alike.

  Example:
    >>> ds.segmentation("ground", ["road", "grass"]).outputs
    2
  """
  return _classed(name, "segmentation", classes, weight, weights=("class_weights", class_weights))


def depth(name: str, unit: str = "m", weight: float = 1.0, inverse: bool = False) -> types.TaskSpec:
  """Names a task of one distance for each pixel: labels `[N, H, W]`, NaN without label.

  Args:
    name: an identifier.
    unit: of the distance.
    weight: factor on its loss.
    inverse: whether values grow with nearness (disparity).

  Example:
    >>> ds.depth("far", unit="cm").unit
    'cm'
  """
  return _task(name, "depth", 1, weight, unit=unit, inverse=inverse)


def normals(name: str, weight: float = 1.0) -> types.TaskSpec:
  """Names a task of surface normals: unit vectors `[N, H, W, 3]` of right, down and forward.

  Args:
    name: an identifier.
    weight: factor on its loss.

  Example:
    >>> ds.normals("up").outputs
    3
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

  Example:
    >>> ds.pixels("flow", outputs=2, unit="px").outputs
    2
  """
  kinds.dense(kind)
  return _task(name, kind, outputs, weight, unit=unit)


def _classed(
  name: str, kind: str, classes: Sequence[str] | int, weight: float, **more: Any
) -> types.TaskSpec:
  """A task with classes, named or counted; 0 outputs are told from the labels."""
  named = () if isinstance(classes, int | np.integer) else tuple(map(str, classes))
  count = int(classes) if isinstance(classes, int | np.integer) else len(named)
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
  key, value = more.pop("weights", ("", ()))
  if isinstance(value, numbers.Real):
    value = float(value)
  elif not isinstance(value, str | Mapping):
    value = tuple(map(float, value))
  if value in ((), 1):
    return types.TaskSpec(name, kind, outputs, float(weight), **more)
  return Weighed(name, kind, outputs, float(weight), weights=((key, value),), **more)


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
  columns, _ = _columns(name, labels, np.ones(labels.shape, bool))
  every = {text for column in columns for text in column.texts}
  if not every:
    raise ValueError(f"The task {name!r} has no label at all.")
  if len(every) == 1:
    raise ValueError(f"All labels of {name!r} are {every.pop()!r}: there is nothing to learn.")
  if labels.ndim == 2 and any(np.isnan(column.numbers).any() for column in columns):
    raise ValueError(f"The labels of {name!r} are texts {labels.shape}: give one column a task.")
  asked = table_tasks.Task(types.TaskSpec(name, "", 0), (name,) * len(columns))
  kind, why = labels_lib.infer(asked, columns)
  outputs = 0 if kinds.find(kind).stored == "names" else len(columns)
  return _task(name, kind, outputs, 1.0), why


def _columns(name: str, labels: np.ndarray, known: np.ndarray) -> tuple[list[Column], bool]:
  """The columns of labels `[N]` or `[N, K]`, where they are known, and whether any has texts."""
  made, words = [], False
  every = labels.T if labels.ndim == 2 else labels[None]
  for values, mask in zip(every, known.T if known.ndim == 2 else known[None], strict=True):
    rows = np.flatnonzero(mask)
    read = cells.Cells.read(values[rows], name, functools.partial(_row, name, rows))
    words |= bool({*(read.texts or ())} - {"true", "false"})
    column = Column.of(name, read, lambda row: f"Row {row} of {name!r}")
    column = dataclasses.replace(column, real=_is_real(labels))
    made.append(column.scattered(rows, len(labels)))
  return made, words


def _is_real(labels: np.ndarray) -> bool:
  """Whether these are of a type of real numbers, and not whole ones that gaps made such."""
  if labels.dtype.kind != "f":
    return False
  known = labels[~np.isnan(labels)]
  return known.size == labels.size or not np.array_equal(known, np.floor(known))


def _row(name: str, rows: np.ndarray, row: int, _: str) -> str:
  return f"Row {rows[row]} of {name!r}"


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
  known = np.ones(labels.shape, bool)
  if valid is not None:
    known &= valid.reshape(valid.shape + (1,) * (labels.ndim - valid.ndim))
  if kind.dense:
    return _encode_pixels(task, labels, ~known, train)
  several = kind.several or kind.stored == "values"
  outputs = task.outputs or (labels.shape[1] if labels.ndim == 2 else 1)
  if several and labels.shape[1:] not in ((outputs,), () if outputs == 1 else (outputs,)):
    raise ValueError(
      f"The labels of {task.name!r} have the shape {labels.shape}, and the task has {outputs}"
      f" outputs: they must be [N, {outputs}]."
    )
  if not several and labels.ndim != 1:
    raise ValueError(f"The labels of {task.name!r} must be [N], but are {labels.shape}.")
  columns, words = _columns(task.name, labels, known)
  made = labels_lib.make(_asked(task, len(columns)), columns, train)
  classes = task.classes if several or (not words and _is_ids(made.spec)) else made.spec.classes
  return dataclasses.replace(made.spec, classes=classes), made.target, made.valid


def _asked(task: types.TaskSpec, columns: int = 1) -> table_tasks.Task:
  """The task as labels are read by it."""
  plain = {field.name: getattr(task, field.name) for field in dataclasses.fields(types.TaskSpec)}
  weights = task.weights if isinstance(task, Weighed) else ()
  return table_tasks.Task(types.TaskSpec(**plain), (task.name,) * columns, weights=weights)


def _is_ids(task: types.TaskSpec) -> bool:
  """Whether classes are called 0, 1, ..., or as truth values are."""
  numbers = tuple(map(str, range(len(task.classes))))
  return task.classes in (numbers, ("-1", "1"), ("false", "true"))


def _encode_pixels(
  task: types.TaskSpec, labels: np.ndarray, none: np.ndarray, train: np.ndarray
) -> tuple[types.TaskSpec, np.ndarray, np.ndarray]:
  """Labels of pixels; ids below 0 are none, as is a vector with a part that is none."""
  if labels.dtype.kind not in "iuf":
    raise ValueError(f"The labels of {task.name!r} are {labels.dtype}; pixels have numbers.")
  if labels.ndim < 3:
    raise ValueError(f"The labels of {task.name!r} are {labels.shape}; pixels have [N, H, W, ...].")
  none = none | np.isnan(labels)
  if kinds.dense(task.kind).stored == "ids":
    ids, known = np.where(none, 0, labels).astype(np.int32), ~none & (labels >= 0)
    counts = np.bincount(ids[train][known[train]], minlength=task.outputs)
    return table_tasks.weighed(_asked(task), _asked(task).spec, counts), ids, known
  known = ~np.any(none, -1) if none.ndim > 3 else ~none
  filled = np.where(np.isfinite(labels), labels, 0) if labels.dtype.kind == "f" else labels
  return task, filled.astype(np.float32), known
