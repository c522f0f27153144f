"""Columns of labels as tasks; what is not said of a task is found out, and told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import re
from typing import Any, NamedTuple

import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import columns as columns_lib
from dynashare_jax.data import description as described
from dynashare_jax.data.cells import Cells
from dynashare_jax.data.cells import MISSING
from dynashare_jax.data.cells import NO_NUMBER
from dynashare_jax.data.cells import Spelling
from dynashare_jax.data.cells import text_of
from dynashare_jax.data.cells import YES
from dynashare_jax.data.table import description as table_description
from dynashare_jax.data.table import files
from dynashare_jax.data.table import splits as table_splits

_FEW_WHOLE = 10  # so many different whole numbers are taken for classes
_MOST_CLASSES = 100  # of texts, unless the kind is said
_LOSSES = ("l2", "l1", "huber")


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
  notes: tuple[str, ...]


def read(
  task: table_description.Task, frame: files.Frame, rows: table_splits.Rows, spelling: Spelling
) -> Labels:
  """Reads a task's labels.

  Args:
    rows: of every split; weights, means and spreads are those of train.

  Raises:
    ValueError: labels of another kind than is said, without a difference, or none in a split; names
      the file and the key, or the cell.
  """
  cells = [frame.column(name, task.place) for name in task.columns]
  for name, column in zip(task.columns, cells, strict=True):
    _check_differs(task, name, column, spelling)
  kind, why = task.kind, ""
  if not kind:
    kind, why = _kind(task, cells, frame, spelling)
    why = f" (inferred: {why})"
  task.check_options(kind)
  if len(cells) > 1 and kind in ("binary", "multiclass"):
    raise ValueError(f"{task.place}.columns: a {kind} task has one column, not {len(cells)}.")
  found = _MAKERS[kind](task, cells, frame, rows, spelling)
  notes = [f"task {task.name}: {kind}{why}, {found.notes[0]}", *found.notes[1:]]
  lacking, gone = {}, {*MISSING, *spelling.missing, *(NO_NUMBER if kind == "number" else ())}
  for split, part in rows.items():
    known = int(found.valid[part].reshape(len(part), -1).any(1).sum())
    if not known:
      raise ValueError(f"{task.place}: none of the {len(part)} rows of {split} has a label.")
    if known < len(part):
      lacking[split] = f"{len(part) - known} of {len(part)} {split} rows"
  if lacking:
    marks = {text for c in cells for text in c.texts or () if text and text in gone}
    also = f" (also where it says {', '.join(sorted(marks))})" if marks else ""
    notes.append(f"task {task.name}: no label in {', '.join(lacking.values())}{also}.")
  return found._replace(notes=tuple(notes))


def _check_differs(
  task: table_description.Task, name: str, cells: Cells, spelling: Spelling
) -> None:
  """Refuses a column of labels with one value, or none."""
  texts = cells.as_texts(spelling)
  used = np.unique(texts.values[texts.values >= 0])
  if len(used) < 2:
    what = f"has one value, {(texts.texts or ())[used[0]]!r}" if len(used) else "has no value"
    raise ValueError(f"{task.place}: column {name!r} {what}: there is nothing to learn.")


def _as_classes(cells: Cells, spelling: Spelling) -> Cells:
  """A column as texts; of numbers, but for those with leading zeros, 1 and 1.0 are the same."""
  texts = cells.as_texts(spelling)
  numbers, wrong = cells.numbers(spelling)
  padded = any(re.fullmatch(r"0\d+", text) for text in cells.texts or ())
  if cells.kind != "text" or wrong.any() or padded:
    return texts
  if (abs(numbers[~np.isnan(numbers)]) >= 2**53).any():
    return cells.as_names(spelling)  # floats would take some for their neighbours
  return Cells(np.where(texts.values < 0, np.nan, numbers)).as_texts(spelling)


def _distinct(cells: Cells, spelling: Spelling) -> list[str]:
  """The different texts of a column, numbers by size."""
  texts = _as_classes(cells, spelling)
  found = [(texts.texts or ())[code] for code in np.unique(texts.values[texts.values >= 0])]
  values = {text: Spelling().number(text) or 0.0 for text in found}
  return sorted(found, key=lambda text: (values[text], text))


def _kind(
  task: table_description.Task, cells: Sequence[Cells], frame: files.Frame, spelling: Spelling
) -> tuple[str, str]:
  """The kind of a task, and why."""
  counts = [len(_distinct(column, spelling)) for column in cells]
  numbers = not any(column.kind == "date" or column.numbers(spelling)[1].any() for column in cells)
  if len(cells) > 1:
    if max(counts) == 2:
      return "multilabel", f"{len(cells)} columns of two values"
    if numbers:
      return "number", f"{len(cells)} columns of numbers"
    raise ValueError(
      f"{task.place}.columns: they are neither all numbers nor all of two values; make a task of"
      " each."
    )
  if any(column.dated(spelling) for column in cells):
    raise ValueError(
      f"{task.place}: column {task.columns[0]!r} holds dates, which no task predicts."
    )
  if counts[0] == 2:
    return "binary", "two values"
  if numbers:
    values = cells[0].numbers(spelling)[0]
    whole = np.array_equal(values[~np.isnan(values)], np.floor(values[~np.isnan(values)]))
    if whole and counts[0] <= _FEW_WHOLE:
      return "multiclass", f"{counts[0]} different whole numbers"
    return "number", "numbers"
  known, wrong = cells[0].numbers(spelling)
  if wrong.any() and counts[0] > _FEW_WHOLE and np.isfinite(known).sum() > 9 * wrong.sum():
    row = int(np.argmax(wrong))
    text = cells[0].take(np.array([row])).as_texts(spelling)
    shown = (text.texts or ())[text.values[0]][:40]
    raise ValueError(
      f"{frame.where(row, task.columns[0])}: {shown!r} is no number, as {wrong.sum()} of"
      f" {len(wrong)} labels of {task.name}. Say missing: [{shown}] if it is no label, or kind:"
      " multiclass."
    )
  if counts[0] > _MOST_CLASSES:
    raise ValueError(
      f"{task.place}: column {task.columns[0]!r} has {counts[0]} different texts, as"
      f" {_distinct(cells[0], spelling)[0][:40]!r}: are these classes? Then say kind: multiclass."
    )
  return "multiclass", f"{counts[0]} texts"


def _binary(
  task: table_description.Task,
  cells: Sequence[Cells],
  frame: files.Frame,
  rows: table_splits.Rows,
  spelling: Spelling,
) -> Labels:
  """Two values, the second is yes."""
  classes, codes = _ids(cells[0], spelling)
  if len(classes) != 2:
    raise ValueError(
      f"{task.place}.kind: column {task.columns[0]!r} has {len(classes)} values, as"
      f" {', '.join(map(repr, classes[:3]))}; binary needs two."
    )
  numbers = all(Spelling().number(text) is not None for text in classes)
  yes = [place for place, text in enumerate(classes) if text.lower() in YES]
  positive = yes[0] if len(yes) == 1 and not numbers else 1  # Of numbers the larger.
  if "positive" in task.options:
    value = task.options["positive"]
    told = text_of(value)
    same = [text for text in classes if text == told or (value is True and text.lower() in YES)]
    same += [text for text in classes if value is False and text.lower() not in YES]
    if not same:
      raise ValueError(
        f"{task.place}.positive: {told!r} is not in column {task.columns[0]!r}, which has"
        f" {' and '.join(map(repr, classes))}.{lookup.hint(told, classes)}"
      )
    positive = classes.index(same[0])
  target = (codes == positive).astype(np.float32)
  valid = codes >= 0
  names = (classes[1 - positive], classes[positive])
  counts = [int((valid & (target == t))[rows["train"]].sum()) for t in (0, 1)]
  weight = _positive_weight(task, counts)
  spec = types.TaskSpec(task.name, "binary", 1, task.weight, names, positive_weight=weight)
  note = (
    f"yes is {names[1]!r} ({100 * counts[1] / max(1, sum(counts)):.3g}% of train), no {names[0]!r}"
  )
  return Labels(spec, target, valid, (note, *_unseen(task, names, counts)))


def _positive_weight(task: table_description.Task, counts: Sequence[int]) -> float:
  """The factor on a yes: as said, or by which both classes weigh alike."""
  given = {k: task.options[k] for k in ("positive_weight", "class_weights") if k in task.options}
  if len(given) == 2:
    raise ValueError(f"{task.place}: say positive_weight or class_weights, not both.")
  for key, value in given.items():
    if value == "balanced":
      return counts[0] / max(1, counts[1])
    number = described.number_of(value) if key == "positive_weight" else None
    if number is None or not 0 < number < math.inf:
      allowed = "balanced" if key == "class_weights" else "balanced or a number above 0"
      raise ValueError(f"{task.place}.{key}: must be {allowed}, but is {described.shown(value)}.")
    return number
  return 1.0


def _multiclass(
  task: table_description.Task,
  cells: Sequence[Cells],
  frame: files.Frame,
  rows: table_splits.Rows,
  spelling: Spelling,
) -> Labels:
  """Classes, in the order of their texts or numbers."""
  classes, codes = _ids(cells[0], spelling)
  trained = codes[rows["train"]]
  counts = np.bincount(trained[trained >= 0], minlength=len(classes))
  weights = _class_weights(task, classes, counts)
  spec = types.TaskSpec(
    task.name, "multiclass", len(classes), task.weight, classes, class_weights=weights
  )
  shown = ", ".join(map(repr, classes[:6])) + ", ..." * (len(classes) > 6)
  notes = (f"{len(classes)} classes: {shown}", *_unseen(task, classes, counts))
  return Labels(spec, np.maximum(codes, 0).astype(np.int32), codes >= 0, notes)


def _class_weights(
  task: table_description.Task, classes: Sequence[str], counts: np.ndarray
) -> tuple[float, ...]:
  """A factor for every class: as said, or by which all weigh alike."""
  value = task.options.get("class_weights", ())
  if value == "balanced":
    return tuple(float(counts.sum() / (len(classes) * max(1, count))) for count in counts)
  if isinstance(value, dict):
    named = {text_of(key): weight for key, weight in value.items()}
    for name in named:
      if name not in classes:
        raise ValueError(
          f"{task.place}.class_weights: there is no class {name!r}.{lookup.hint(name, classes)}"
        )
    value = [named.get(name, 1) for name in classes]
  numbers = [described.number_of(v) for v in value] if isinstance(value, list | tuple) else [None]
  good = [number for number in numbers if number is not None and 0 <= number < math.inf]
  if len(good) < len(numbers) or (good and (len(good) != len(classes) or not any(good))):
    raise ValueError(
      f"{task.place}.class_weights: must be balanced, a number for each of the {len(classes)}"
      f" classes ({', '.join(classes[:6])}), or some of them by name, but is"
      f" {described.shown(value)}."
    )
  return tuple(good)


def _multilabel(
  task: table_description.Task,
  cells: Sequence[Cells],
  frame: files.Frame,
  rows: table_splits.Rows,
  spelling: Spelling,
) -> Labels:
  """A column of two values for every label."""
  one = [
    _binary(
      table_description.Task(task.name, task.place, (name,), "", 1.0, {}),
      [c],
      frame,
      rows,
      spelling,
    )
    for name, c in zip(task.columns, cells, strict=True)
  ]
  weight = (
    _positive_weight(task, (1, 1)) if task.options.get("positive_weight") != "balanced" else 0
  )
  if not weight:
    raise ValueError(
      f"{task.place}.positive_weight: one number is for all labels; balanced is none."
    )
  spec = types.TaskSpec(
    task.name, "multilabel", len(cells), task.weight, task.columns, positive_weight=weight
  )
  told = [
    f"{name} {labels.spec.classes[1]!r}" for name, labels in zip(task.columns, one, strict=True)
  ]
  more = [note for labels in one for note in labels.notes[1:]]
  target, valid = (np.stack([getattr(la, n) for la in one], 1) for n in ("target", "valid"))
  return Labels(spec, target, valid, (f"yes is {', '.join(told)}", *more))


def _number(
  task: table_description.Task,
  cells: Sequence[Cells],
  frame: files.Frame,
  rows: table_splits.Rows,
  spelling: Spelling,
) -> Labels:
  """Numbers in their unit; logits stand for distances from the mean."""
  each, notes = [], []
  for name, column in zip(task.columns, cells, strict=True):
    values, wrong = column.numbers(spelling)
    with np.errstate(over="ignore"):
      wrong = wrong | np.isinf(values.astype(np.float32))
    if wrong.any():
      row = int(np.argmax(wrong))
      shown = values[row] if column.texts is None else column.texts[column.values[row]]
      raise ValueError(
        f"{frame.where(row, name)}: {shown!r} is no number of 32 bits, as {wrong.sum()} of"
        f" {len(wrong)} labels of {task.name}. Mend it, say missing: [{shown}], or another kind."
      )
    notes += columns_lib.fillers(name, values, frame.where)
    each.append(values)
  values = np.stack(each, 1)
  valid = ~np.isnan(values)
  center, spread = [], []
  for name, column_values in zip(task.columns, values[rows["train"]].T, strict=True):
    known = column_values[~np.isnan(column_values)]
    if not len(known) or known.min() == known.max():
      raise ValueError(f"{task.place}: column {name!r} has one value in train, or none.")
    center.append(float(np.float32(known.mean())))
    spread.append(float(np.float32(known.std())))
  own: dict[str, Any] = {"unit": str(task.options.get("unit", ""))}
  if "loss" in task.options:
    own["loss"] = lookup.one_of(f"{task.place}.loss", task.options["loss"], _LOSSES)
  if "huber_delta" in task.options:
    delta = described.number_of(task.options["huber_delta"])
    if delta is None or not 0 < delta < math.inf:
      raise ValueError(f"{task.place}.huber_delta: must be a number above 0.")
    own["huber_delta"] = delta
  names = task.columns if len(cells) > 1 else ()
  spec = types.TaskSpec(
    task.name,
    "number",
    len(cells),
    task.weight,
    names,
    center=tuple(center),
    spread=tuple(spread),
    **own,
  )
  target = np.where(valid, values, 0).astype(np.float32)
  note = f"{np.nanmin(values):.6g} to {np.nanmax(values):.6g}, mean {center[0]:.4g} in train"
  if len(cells) == 1:
    target, valid = target[:, 0], valid[:, 0]
  return Labels(spec, target, valid, (note, *notes))


def _ids(cells: Cells, spelling: Spelling) -> tuple[tuple[str, ...], np.ndarray]:
  """The classes of a column, and every row's; -1 where it has none."""
  classes = _distinct(cells, spelling)
  place = {text: i for i, text in enumerate(classes)}
  texts = _as_classes(cells, spelling)
  table = np.array([*(place.get(text, -1) for text in texts.texts or ()), -1], np.int32)
  return tuple(classes), table[texts.values]


def _unseen(
  task: table_description.Task, classes: Sequence[str], counts: Sequence[int] | np.ndarray
) -> list[str]:
  """Warns of classes that training never shows."""
  missing = [name for name, count in zip(classes, counts, strict=True) if not count]
  if not missing:
    return []
  listed = ", ".join(map(repr, missing[:6]))
  return [f"warning: task {task.name}: training never shows {len(missing)} class(es): {listed}."]


_MAKERS: Mapping[str, Any] = {
  "binary": _binary,
  "multiclass": _multiclass,
  "multilabel": _multilabel,
  "number": _number,
}
