"""Columns of labels as tasks; what is not said of a task is found out, and told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import math
from typing import NamedTuple

import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import columns as columns_lib
from dynashare_jax.data.cells import grouped
from dynashare_jax.data.cells import text_of
from dynashare_jax.data.cells import YES
from dynashare_jax.data.table import tasks
from dynashare_jax.data.table.column import Column
from dynashare_jax.data.table.tasks import Task
from dynashare_jax.objectives import kinds

# No and yes, in small letters.
PAIRS = (("0", "1"), ("-1", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"))

_FEW_WHOLE = 10  # so many different whole numbers are taken for classes
_MOST_IDS = 50  # that are 0, 1, ... without a gap
_FEW_WORDS = 3  # among numbers, which are then no classes
_MOST_CLASSES = 100  # of texts, unless the kind is said
_NONE = {"na", "n/a", "nan", "none", "null", "<na>", "-", "?", "unknown"}
_NAME = "Then name them, ds.multiclass({!r}, classes=...)."


class Labels(NamedTuple):
  """The labels of a task in all rows.

  Attributes:
    spec: the task.
    target: `[N]`, or `[N, K]` of several columns.
    valid: bool of the same shape: False where a cell is empty.
    notes: what was found out.
  """

  spec: types.TaskSpec
  target: np.ndarray
  valid: np.ndarray
  notes: tuple[str, ...] = ()


class _Coded(NamedTuple):
  """A column as classes: their names, int32 `[N]` with -1 for none, and whether cells told them."""

  classes: tuple[str, ...]
  codes: np.ndarray
  found: bool


def read(
  task: Task,
  columns: Sequence[Column],
  rows: Mapping[str, np.ndarray],
  strict: bool = True,
  named: Callable[[int], str] | None = None,
) -> Labels:
  """Reads a task's labels.

  Args:
    rows: of every split; weights, means and spreads are those of train.
    strict: whether a split without a label is refused, and numbers that are all alike in training.
    named: what a row is called in notes.

  Raises:
    ValueError: labels of another kind than is said, or without a difference; names the file and
      the key, or the cell.
  """
  kind, why = task.spec.kind, ""
  for column in columns:
    _check_differs(task, column, len(columns) > 1)
  if not kind:
    kind, why = infer(task, columns)
    why = f" (inferred: {why})"
  task = tasks.of_kind(task, kind)
  found = make(task, columns, rows["train"])
  spec = found.spec
  notes = [f"task {task.name}: {kind}{why}, {found.notes[0]}", *found.notes[1:]]
  lacking = {}
  for split, part in rows.items():
    known = int(found.valid[part].reshape(len(part), -1).any(1).sum())
    if not known and strict:
      raise ValueError(f"{task.where}: none of the {len(part)} rows of {split} has a label.")
    if known < len(part):
      lacking[split] = f"{len(part) - known} of {len(part)} {split} rows"
  if (alike := _alike(task, found, rows["train"])) and strict and task.kind.stored == "values":
    raise ValueError(f"{alike}: nothing can be learnt.")
  notes += [f"warning: {alike}: nothing can be learnt"] * bool(alike)
  notes += unseen(spec, task.where, found.target, found.valid, rows, named)
  if lacking:
    marks = sorted({mark for column in columns for mark in column.marks})
    also = f" (also where it says {', '.join(marks)})" if marks else ""
    notes.append(f"task {task.name}: no label in {', '.join(lacking.values())}{also}.")
  return found._replace(notes=tuple(notes))


def worded(task: Task, columns: Sequence[Column]) -> Task:
  """Returns the task with the classes no and yes, where cells write them as 0 and 1 or alike."""
  spec = task.spec
  if spec.kind not in ("", "binary") or spec.classes or task.codes or len(columns) > 1:
    return task
  if task.positive is not None:
    return task
  if not _pair(columns[0].texts):
    return task
  return dataclasses.replace(task, spec=dataclasses.replace(spec, classes=("no", "yes")))


def make(task: Task, columns: Sequence[Column], train: np.ndarray) -> Labels:
  """Returns the labels of a task whose kind is known; the first note says what they are.

  Raises:
    ValueError: a cell is no label of this kind; names it.
  """
  return _MAKERS[task.spec.kind](task, columns, train)


def _check_differs(task: Task, column: Column, several: bool) -> None:
  """Refuses a column with no label, or with one value where that is no answer of several."""
  if not column.texts:
    raise ValueError(f"{task.where}: column {column.name!r} has no value, and so no label.")
  if len(column.texts) == 1 and not (several and _pair(column.texts)):
    raise ValueError(
      f"{task.where}: column {column.name!r} has one value, {column.texts[0]!r}: there is nothing"
      " to learn."
    )


def infer(task: Task, columns: Sequence[Column]) -> tuple[str, str]:
  """Returns the kind that all cells fit, and why.

  Raises:
    ValueError: there is none; names the column or a cell.
  """
  numbers = all(not column.dates and _all_numbers(column) for column in columns)
  if len(columns) > 1:
    if all(_pair(c.texts) or (len(c.texts) == 2 and not c.real) for c in columns):
      return "multilabel", f"{len(columns)} columns of two values"
    if numbers:
      return "number", f"{len(columns)} columns of numbers"
    column = next(column for column in columns if not _all_numbers(column))
    wrong = column.first(np.isnan(column.numbers))
    raise ValueError(
      f"{column.place(wrong)}: {wrong!r} is no number.{task.advice('Say with {}.kind what the')}"
      f" columns are ({', '.join(tasks.KINDS)}), or make a task of each."
    )
  (column,) = columns
  count = len(column.texts)
  if column.dates:
    raise ValueError(f"{task.where}: column {column.name!r} holds dates, which no task predicts.")
  if given := task.spec.outputs or len(task.spec.classes):
    return ("binary", "two values") if given == 2 else ("multiclass", f"{given} classes")
  if count == 2 or _pair(column.texts):
    return "binary", "two values"
  if numbers:
    ids = count <= _MOST_IDS and np.array_equal(column.numbers, np.arange(count))
    few = count <= _FEW_WHOLE and np.array_equal(column.numbers, np.floor(column.numbers))
    if (few or ids) and not column.real:
      return "multiclass", f"{count} different whole numbers"
    return "number", "numbers"
  rows = column.codes[column.codes >= 0]
  none = np.isnan(column.numbers)
  lost = int(none[rows].sum())
  most = len(rows) - lost > (lost if none.sum() <= _FEW_WORDS else 9 * lost)
  if count > _FEW_WHOLE and most:
    text = column.first(none)
    raise ValueError(
      f"{column.place(text)}: {text[:40]!r} is no number, as {lost} of {len(rows)} labels of"
      f" {task.name}."
      + task.advice(f"Say ignore: [{text[:40]}] if it is no label, or kind: multiclass.", _NAME)
    )
  if count > _FEW_WHOLE and all(map(grouped, column.texts)):
    text = column.first([True] * count)
    raise ValueError(
      f"{column.place(text)}: {text!r} seems to have a separator of thousands."
      + task.advice(f"Say thousands: {grouped(text)!r} of a table, or kind: multiclass.", _NAME)
    )
  if count > min(_MOST_CLASSES, len(rows) // 2):
    raise ValueError(
      f"{task.where}: column {column.name!r} has {count} different texts in {len(rows)} rows, as"
      f" {column.texts[0][:40]!r}: are these classes?"
      + task.advice("Then say kind: multiclass.", _NAME)
    )
  return "multiclass", f"{count} texts"


def _all_numbers(column: Column) -> bool:
  return not np.isnan(column.numbers).any()


def _pair(texts: Iterable[str]) -> tuple[str, str] | None:
  """No and yes, in small letters, where all texts are one of them."""
  small = {text.lower() for text in texts}
  return next((pair for pair in PAIRS if small <= {*pair}), None)


def _coded(task: Task, column: Column) -> _Coded:
  """Classes by map, name or number, or as the cells have them."""
  classes, count = task.spec.classes, task.spec.outputs * (task.kind.stored == "names")
  codes = dict(task.codes) or {text_of(name): place for place, name in enumerate(classes)}
  ids = {str(place): place for place in range(count or len(classes))}
  if len(ids) == 2 and {*column.texts} <= {"false", "true"}:
    ids = {"false": 0, "true": 1}
  # Ids also of named classes, but in a file, and where cells are no names themselves.
  if not task.codes and (not classes or not task.place) and {*column.texts} <= {*ids} - {*codes}:
    codes = ids
  elif not codes:
    if count and len(column.texts) > count:
      raise ValueError(
        f"{task.where}: column {column.name!r} has {len(column.texts)} different labels, and the"
        f" task {count} classes: {', '.join(map(repr, column.texts[:3]))}, ..."
      )
    return _Coded(column.texts, column.codes, True)
  told = [codes.get(t, codes.get(s, -1)) for t, s in zip(column.texts, column.spelt, strict=True)]
  if -1 in told and task.unmapped == "error":
    wrong = column.first(code < 0 for code in told)
    raise ValueError(
      f"{column.place(wrong)}: {wrong!r} is none of the classes {tasks.listed(codes)}."
      f"{lookup.hint(wrong, codes)}"
      f"{task.advice('Add it to {}.ignore, classes or map, or say unmapped: ignore.')}"
    )
  return _Coded(classes, np.array([*told, -1], np.int32)[column.codes], False)


def _answers(task: Task, column: Column, several: bool) -> _Coded:
  """No and yes: two values, or one of a pair of words."""
  own = () if several else task.spec.classes
  texts, pair = column.texts, _pair(column.texts)
  if task.codes or {*texts} & {*own} or (own and pair is None):
    return _coded(task, column)
  if pair is None and len(texts) != 2:
    pair = max(PAIRS, key=lambda pair: sum(text.lower() in pair for text in texts))
    right = [text.lower() in pair for text in texts]
    wrong = column.first(not is_right for is_right in right)
    other = column.first(right) if any(right) else ""
    beside = f" beside {other!r} ({column.place(other)})" if other else ""
    raise ValueError(
      f"{column.place(wrong)}: {wrong!r}{beside} is no answer: column {column.name!r} has"
      f" {len(texts)} values, as {', '.join(map(repr, texts[:3]))}; a {task.spec.kind} task needs"
      f" two.{task.advice('Add it to {}.ignore, or give map.')}"
    )
  if pair is not None:
    answer = [text.lower() == pair[1] for text in texts]
    seen = {is_yes: text for text, is_yes in zip(reversed(texts), reversed(answer), strict=True)}
    names = tuple(seen.get(place == 1, pair[place]) for place in (0, 1))
  else:
    words = [text.lower() in YES for text in texts]
    swapped = words == [True, False] and not _all_numbers(column)  # Of numbers the larger is yes.
    answer = [swapped, not swapped]
    names = texts[::-1] if swapped else texts
  if task.positive is not None and _no_of(task, column, names):
    answer, names = [not is_yes for is_yes in answer], names[::-1]
  return _Coded(own or names, np.array([*answer, -1], np.int32)[column.codes], not own)


def _no_of(task: Task, column: Column, names: Sequence[str]) -> bool:
  """Whether the value that is said to be yes is the no of two."""
  told = text_of(task.positive)
  ways = {*tasks.ways(task.positive), told, *(YES if task.positive is True else ())}
  same = [name for name in names if name in ways or name.lower() in ways]
  same += [name for name in names if task.positive is False and name.lower() not in YES]
  if not same:
    raise ValueError(
      f"{task.where}.positive: {told!r} is not in column {column.name!r}, which has"
      f" {' and '.join(map(repr, names))}.{lookup.hint(told, names)}"
    )
  return same[0] == names[0]


def _binary(task: Task, columns: Sequence[Column], train: np.ndarray) -> Labels:
  """Two values, the second is yes."""
  coded = _answers(task, columns[0], False)
  counts = _counts(coded.codes[train], 2)
  spec = tasks.classed(task, coded.classes, counts)
  no, yes = spec.classes or ("0", "1")
  note = f"yes is {yes!r} ({100 * counts[1] / max(1, counts.sum()):.3g}% of train), no {no!r}"
  return Labels(spec, (coded.codes == 1).astype(np.float32), coded.codes >= 0, (note,))


def _multiclass(task: Task, columns: Sequence[Column], train: np.ndarray) -> Labels:
  """Classes, in the order of their texts or numbers."""
  classes, codes, found = _coded(task, columns[0])
  counts = _counts(codes[train], len(classes) or task.spec.outputs)
  spec = tasks.classed(task, classes, counts)
  shown = f": {tasks.listed(map(repr, classes))}" if classes else ""
  notes = (f"{spec.outputs} classes{shown}", *(_looked_at(task, columns[0]) if found else ()))
  return Labels(spec, np.maximum(codes, 0).astype(np.int32), codes >= 0, notes)


def _counts(codes: np.ndarray, classes: int) -> np.ndarray:
  return np.bincount(codes[codes >= 0], minlength=classes)


def _multilabel(task: Task, columns: Sequence[Column], train: np.ndarray) -> Labels:
  """A column of two values for every label."""
  found = [_answers(task, column, True) for column in columns]
  codes = np.stack([coded.codes for coded in found], 1)
  spec = tasks.classed(task, task.spec.classes or task.columns, np.zeros(2))
  told = [f"{c.name} {f.classes[1]!r}" for c, f in zip(columns, found, strict=True) if f.classes]
  note = f"yes is {tasks.listed(told)}" if told else f"{len(columns)} answers"
  return Labels(spec, (codes == 1).astype(np.float32), codes >= 0, (note,))


def _number(task: Task, columns: Sequence[Column], train: np.ndarray) -> Labels:
  """Numbers in their unit; logits stand for distances from the mean."""
  spec, each, notes = task.spec, [], []
  for column in columns:
    with np.errstate(over="ignore"):
      wrong = ~np.isfinite(column.numbers.astype(np.float32))
    if wrong.any():
      text = column.first(wrong)
      lost = int(wrong[column.codes[column.codes >= 0]].sum())
      raise ValueError(
        f"{column.place(text)}: {column.spelt[column.texts.index(text)]!r} is no number of 32 bits,"
        f" as {lost} of {len(column.codes)} labels of {task.name}."
        f"{task.advice('Mend it, add it to {}.ignore, or say another kind.')}"
      )
    values = np.array([*column.numbers, np.nan])[column.codes]
    notes += columns_lib.fillers(column.name, values, _places(column))
    each.append(values)
  values = np.stack(each, 1)
  low, high = task.limits
  values[(values < low) | (values > high)] = np.nan
  valid = ~np.isnan(values)
  known = [v[~np.isnan(v)] for v in values[train].astype(np.float32).astype(np.float64).T]
  spec = dataclasses.replace(
    spec,
    outputs=len(columns),
    classes=task.columns if len(columns) > 1 else (),
    center=spec.center or tuple(float(v.mean()) if len(v) else 0.0 for v in known),
    spread=spec.spread or tuple(float(v.std()) or 1.0 if len(v) else 1.0 for v in known),
  )
  low, high = (f(values[valid]) if valid.any() else math.nan for f in (np.min, np.max))
  note = f"{low:.6g} to {high:.6g}, mean {spec.center[0]:.4g} in train"
  target = np.where(valid, values, 0).astype(np.float32)
  if len(columns) == 1:
    target, valid = target[:, 0], valid[:, 0]
  return Labels(spec, target, valid, (note, *notes))


def _places(column: Column) -> Callable[[int, str], str]:
  return lambda row, _: column.where(row)


_MAKERS: Mapping[str, Callable[[Task, Sequence[Column], np.ndarray], Labels]] = {
  "binary": _binary,
  "multiclass": _multiclass,
  "multilabel": _multilabel,
  "number": _number,
}


def _looked_at(task: Task, column: Column) -> tuple[str, ...]:
  """Warns of classes, taken from the cells, that look like a missing label, alike, or mixed."""
  texts, none = column.texts, np.isnan(column.numbers)
  words = [text for text, is_word in zip(texts, none, strict=True) if is_word]
  numbers = [text for text in texts if text not in words]
  notes = [
    f"warning: {column.place(text)}: is the class {text!r} no label? Then add it to"
    f" {task.place}.ignore"
    for text in words
    if text.lower() in _NONE and len(texts) > 2
  ]
  if numbers and words and not notes:
    few = min(numbers, words, key=len)
    notes.append(
      f"warning: {column.place(few[0])}: the class {few[0]!r} is one of {len(few)} among"
      f" {len(texts)}, of which the others are {'texts' if few is numbers else 'numbers'}"
    )
  small: dict[str, str] = {}
  first = np.unique(column.codes[column.codes >= 0], return_index=True)[1]
  for text in (texts[code] for code in np.argsort(first)):
    if (other := small.setdefault(text.lower(), text)) != text:
      notes.append(
        f"warning: {column.place(text)}: the class {text!r} and {other!r} differ in capitals"
      )
  return tuple(notes)


def _alike(task: Task, found: Labels, train: np.ndarray) -> str:
  """Says that a column has the same label in all of train, or none; empty where it has not."""
  target, valid = (array.reshape(len(array), -1)[train] for array in (found.target, found.valid))
  for place, name in enumerate(task.columns if len(train) else ()):
    known = np.unique(target[valid[:, place], place])
    if len(known) < 2:
      what = _named(found.spec, known[0]) if len(known) else "nothing"
      return f"{task.where}: column {name!r} is {what} for all of train"
  return ""


def _named(spec: types.TaskSpec, value: float) -> str:
  """A label in words."""
  kind = kinds.find(spec.kind)
  if kind.stored == "values":
    return f"{value:g}"
  names = ("no", "yes") if kind.several else spec.classes
  return repr(names[int(value)]) if names else f"class {int(value)}"


def unseen(
  spec: types.TaskSpec,
  place: str,
  target: np.ndarray,
  valid: np.ndarray,
  rows: Mapping[str, np.ndarray],
  named: Callable[[int], str] | None = None,
) -> list[str]:
  """Warns of labels with a class that training never shows, of whole examples or of pixels.

  Args:
    place: of the task, for messages.
    target: `[N, ...]`.
    valid: of the same shape.
    rows: split -> rows.
    named: what a row is called.
  """
  kind = kinds.find(spec.kind)
  if kind.stored not in ("answers", "names", "ids"):
    return []
  size = math.prod(target.shape[1:]) if kind.dense else 1
  columns = lambda part: (array[part].reshape(len(part) * size, -1).T for array in (target, valid))
  trained = [np.unique(t[v]) for t, v in zip(*columns(rows["train"]), strict=True)]
  notes = []
  for split in rows:
    for seen, labels, known in zip(trained, *columns(rows[split]), strict=True):
      fresh = known & ~np.isin(labels, seen)
      if len(seen) and fresh.any():
        first = int(np.argmax(fresh))
        example = f" ({named(int(rows[split][first // size]))!r})" if named else ""
        notes.append(
          f"warning: {place}: {int(fresh.sum())} labels of {split} have a class that train never"
          f" shows, first {_named(spec, labels[first])}{example}"
        )
  return notes
