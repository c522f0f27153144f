"""Columns of labels as tasks; what is not said of a task is found out, and told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import dataclasses
import math
import re
from typing import Any, NamedTuple

import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import columns as columns_lib
from dynashare_jax.data import description as described
from dynashare_jax.data.cells import Cells
from dynashare_jax.data.cells import grouped
from dynashare_jax.data.cells import MISSING
from dynashare_jax.data.cells import NO_NUMBER
from dynashare_jax.data.cells import Spelling
from dynashare_jax.data.cells import text_of
from dynashare_jax.data.cells import YES
from dynashare_jax.objectives import kinds

KINDS = tuple(name for name in kinds.available() if not kinds.find(name).dense)
# No and yes, in small letters.
PAIRS = (("0", "1"), ("-1", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"))

_FEW_WHOLE = 10  # so many different whole numbers are taken for classes
_MOST_IDS = 50  # that are 0, 1, ... without a gap
_FEW_WORDS = 3  # among numbers, which are then no classes
_MOST_CLASSES = 100  # of texts, unless the kind is said
_SHOWN = 6
_NONE = {"na", "n/a", "nan", "none", "null", "<na>", "-", "?", "unknown"}
_NAME = "Then name them, ds.multiclass({!r}, classes=...)."
_EVERY = ("kind", "column", "columns", "weight", "ignore")
_CODED = ("classes", "map", "unmapped")
_KEYS = {
  "binary": (*_CODED, "positive", "positive_weight", "class_weights"),
  "multiclass": (*_CODED, "class_weights"),
  "multilabel": (*_CODED, "positive_weight"),
  "number": ("unit", "range", "loss", "huber_delta", "center", "spread"),
}


@dataclasses.dataclass(frozen=True)
class Task:
  """A task whose labels stand in columns.

  Attributes:
    spec: the task; before it is read, its kind may be empty, and outputs, classes, center and
      spread may not be known.
    columns: one for each of its outputs, or one that names a class.
    place: file and key, for messages; empty where there is no file.
    given: keys that are said.
    ignore: cells that are no label.
    codes: cell -> class, of `map`; empty where names or numbers of classes stand in cells.
    unmapped: what a cell is that is no class: `error` or `ignore`.
    limits: lowest and highest number that is a label.
    positive: the cell that says yes; None is found out.
    weights: key and value of what is said of weights of classes, `balanced` or others.
  """

  spec: types.TaskSpec
  columns: tuple[str, ...]
  place: str = ""
  given: tuple[str, ...] = ()
  ignore: tuple[str, ...] = ()
  codes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  unmapped: str = "error"
  limits: tuple[float, float] = (-math.inf, math.inf)
  positive: Any = None
  weights: tuple[tuple[str, Any], ...] = ()

  @property
  def name(self) -> str:
    """The task's name."""
    return self.spec.name

  @property
  def kind(self) -> kinds.base.Kind:
    """The task's kind."""
    return kinds.find(self.spec.kind)

  @property
  def where(self) -> str:
    """The task, for messages."""
    return self.place or f"task {self.name!r}"

  def advice(self, of_file: str, of_call: str = "") -> str:
    """Returns a sentence for those who write a file, or call, with the task for `{}`."""
    text = of_file.format(self.place) if self.place else of_call.format(self.name)
    return f" {text}" if text else ""


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of labels.

  Attributes:
    name: of the column.
    codes: int32 `[N]`, of every row the place of its cell in `texts`; -1 has no label.
    texts: the different cells, numbers by size; 1 and 1.0 are the same.
    spelt: how each is first written.
    numbers: float64, the number that each is, NaN where it is none.
    where: of a row, for messages.
    marks: texts that stand in place of a label.
    dates: whether these are dates.
    real: whether these are of a type of real numbers, and so no ids.
  """

  name: str
  codes: np.ndarray
  texts: tuple[str, ...]
  spelt: tuple[str, ...]
  numbers: np.ndarray
  where: Callable[[int], str]
  marks: tuple[str, ...] = ()
  dates: bool = False
  real: bool = False

  @classmethod
  def of(
    cls,
    name: str,
    cells: Cells,
    where: Callable[[int], str],
    spelling: Spelling | None = None,
    ignore: Collection[str] = (),
  ) -> Column:
    """Makes a column of cells.

    Args:
      spelling: of numbers, and with it the usual words for a missing cell; None: decimal points,
        and empty cells alone are missing.
      ignore: cells that are no label.
    """
    gone = {"", *ignore} | ({*MISSING, *spelling.missing} if spelling else set())
    weak = {*NO_NUMBER} if spelling else set()
    plain = Spelling(spelling.decimal, spelling.thousands) if spelling else Spelling()
    dates = cells.kind == "date"
    if cells.texts is None:
      there = ~np.isnat(cells.values) if dates else ~np.isnan(cells.values)
      distinct, inverse = np.unique(cells.values[there], return_inverse=True)
      codes = np.full(len(cells), -1, np.int32)
      codes[there] = inverse.reshape(-1)
      numbers = np.full(len(distinct), np.nan) if dates else distinct.astype(np.float64)
      texts = tuple(map(text_of, distinct))
      marks = {plain.number(mark) for mark in gone} - {None}
      gone |= {text for text, value in zip(texts, numbers, strict=True) if value in marks}
    else:
      codes, texts, numbers = cells.values, cells.texts, cells.parsed(plain)[:-1]
    kept = [place for place in np.unique(codes[codes >= 0]) if texts[place] not in gone]
    if all(not math.isnan(numbers[place]) or texts[place] in weak for place in kept):
      kept = [place for place in kept if not math.isnan(numbers[place])]
      padded = any(re.fullmatch(r"0\d+", texts[place]) for place in kept)
      names = {p: texts[p] if padded else text_of(float(numbers[p])) for p in kept}
    else:
      names = {place: texts[place] for place in kept}
    value = {text: numbers[place] for place, text in names.items()}
    order = sorted(value, key=lambda text: (np.nan_to_num(value[text], posinf=np.inf), text))
    code = {text: number for number, text in enumerate(order)}
    known = np.full(len(texts) + 1, -1, np.int32)
    known[kept] = [code[names[place]] for place in kept]
    first = {names[place]: texts[place] for place in reversed(kept)}
    return cls(
      name,
      known[codes],
      tuple(order),
      tuple(first[text] for text in order),
      np.array([value[text] for text in order], np.float64),
      where,
      tuple(sorted({texts[p] for p in np.unique(codes[codes >= 0]) if p not in names} - {""})),
      dates,
    )

  def scattered(self, rows: np.ndarray, count: int) -> Column:
    """Returns the same as some rows, `[N]`, of a count, of which the others have no label."""
    codes = np.full(count, -1, np.int32)
    codes[rows] = self.codes
    return dataclasses.replace(self, codes=codes)

  def place(self, text: str) -> str:
    """Returns where a text first stands."""
    return self.where(int(np.argmax(self.codes == self.texts.index(text))))

  def first(self, which: Any) -> str:
    """Returns which of some texts, a mask of `texts`, stands first."""
    return self.texts[self.codes[int(np.argmax(np.array([*which, False], bool)[self.codes]))]]


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


def parse(part: described.Part, name: str) -> Task:
  """Checks the keys of one task of a file.

  Raises:
    ValueError: names the file, the key and what is allowed.
  """
  kind = part.choice("kind", KINDS) if "kind" in part.raw else ""
  if "columns" in part.raw and "column" in part.raw:
    raise part.refusal("columns", "stands beside column; leave one out")
  columns = part.texts("columns") if "columns" in part.raw else (part.text("column", name),)
  if len(set(columns)) < len(columns):
    raise part.refusal("columns", "names a column twice")
  every = tuple(dict.fromkeys(key for keys in _KEYS.values() for key in keys))
  others = [key for key in part.raw if key in every and key not in _KEYS.get(kind, every)]
  keys = _KEYS[kind] if kind and not others else every
  part.check_keys((*_EVERY, *keys), f" for a {kind} task" if kind else "")
  classes, count, codes = _classes(part)
  limits = part.numbers("range", 2) or (-math.inf, math.inf)
  if limits[0] > limits[1]:
    raise part.refusal("range", f"must be [lowest, highest], but is {list(limits)}")
  spec = types.TaskSpec(
    name,
    kind,
    count,
    part.weight(),
    classes,
    part.text("unit", ""),
    loss=part.choice("loss", ("l2", "l1", "huber")),
    huber_delta=part.number("huber_delta", 1.0),
    center=part.numbers("center", len(columns)),
    spread=part.numbers("spread", len(columns)),
  )
  for key, values in (("spread", spec.spread), ("huber_delta", (spec.huber_delta,))):
    if not all(value > 0 for value in values):
      raise part.refusal(key, f"must be above 0, but is {min(values):g}")
  task = Task(
    spec,
    columns,
    part.where,
    tuple(part.raw),
    tuple(text for value in part.listed("ignore") for text in _ways(value)),
    codes,
    part.choice("unmapped", ("error", "ignore")),
    (limits[0], limits[1]),
    part.raw.get("positive"),
    tuple((key, part.raw[key]) for key in ("positive_weight", "class_weights") if key in part.raw),
  )
  return _of_kind(task, kind) if kind else task


def complete(task: Task) -> types.TaskSpec:
  """Returns the task of a file that tells all that cells would."""
  spec = task.spec
  if task.kind.stored == "values":
    return dataclasses.replace(spec, outputs=len(task.columns))
  classes = spec.classes or (("no", "yes") if task.kind.stored == "answers" else ())
  return _classed(task, classes, np.zeros(spec.outputs or len(classes)))


def _of_kind(task: Task, kind: str) -> Task:
  """The task with its kind; refuses keys, columns and classes that it cannot have."""
  for key in task.given:
    if key not in (*_EVERY, *_KEYS[kind]):
      known = ", ".join(_KEYS[kind])
      raise ValueError(f"{task.place}.{key}: a {kind} task has no such key; of its own: {known}.")
  several, stored = kinds.find(kind).several, kinds.find(kind).stored
  if len(task.columns) > 1 and not several:
    raise ValueError(
      f"{task.where}.columns: a {kind} task has one column, not {len(task.columns)}."
    )
  classes = task.spec.classes
  if task.positive is not None and (classes or task.codes):
    raise ValueError(f"{task.where}.positive: classes or map say what yes is; leave one out.")
  if classes and stored == "answers" and len(classes) != (len(task.columns) if several else 2):
    what = "names of the columns" if several else "names of no and yes"
    raise ValueError(f"{task.where}.classes: must be the {what}, but are {', '.join(classes)}.")
  return dataclasses.replace(task, spec=dataclasses.replace(task.spec, kind=kind))


def _ways(value: Any) -> tuple[str, ...]:
  """How a value of YAML may be written in a cell; `yes` and `no` are booleans there."""
  if isinstance(value, bool):
    words = ("true", "yes", "on") if value else ("false", "no", "off")
    return tuple(w for word in words for w in (word, word.title(), word.upper()))
  return (text_of(value if isinstance(value, str | int | float) else str(value)),)


def _classes(part: described.Part) -> tuple[tuple[str, ...], int, dict[str, int]]:
  """Names of classes, how many there are (0: the cells tell), and the class of every cell."""
  value = part.raw.get("classes", [])
  count = value if isinstance(value, int) and not isinstance(value, bool) else 0
  names = () if count else tuple(map(str, part.listed("classes")))
  if any(isinstance(v, bool) for v in part.listed("classes")):
    raise part.refusal("classes", "YAML reads yes and no as true and false: put them in quotes")
  if "classes" in part.raw and (max(count, len(names)) < 2 or len({*names}) < len(names)):
    raise part.refusal("classes", "must be their number or a list of different names, at least 2")
  if "map" not in part.raw:
    return names, max(count, len(names)), {}
  found = part.mapping("map")
  if not (names or count):
    named = all(isinstance(v, str) for v in found.raw.values())
    names = tuple(dict.fromkeys(found.raw.values())) if named else ()
    whole = [v for v in found.raw.values() if isinstance(v, int)]
    count = 0 if named else 1 + max(map(int, whole), default=0)
  outputs = len(names) or count
  codes: dict[str, int] = {}
  for key, value in found.raw.items():
    place = names.index(value) if value in names else value
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < outputs:
      wanted = f"a class from 0 to {outputs - 1}{' or its name' if names else ''}"
      hint = lookup.hint(value, names)
      raise found.refusal(key, f"must be {wanted}, but is {described.shown(value)}", hint)
    codes |= dict.fromkeys(_ways(key), place)
  return names, outputs, codes


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
  task = _of_kind(task, kind)
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
      f" columns are ({', '.join(KINDS)}), or make a task of each."
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
      + task.advice(f"Say missing: [{text[:40]}] if it is no label, or kind: multiclass.", _NAME)
    )
  if count > _FEW_WHOLE and all(map(grouped, column.texts)):
    text = column.first([True] * count)
    raise ValueError(
      f"{column.place(text)}: {text!r} seems to have a separator of thousands."
      + task.advice(f"Say thousands: {grouped(text)!r}, or kind: multiclass.", _NAME)
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
  if not task.codes and (not classes or not task.place) and {*column.texts} <= {*ids}:
    codes = ids  # also of names, but in a file
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
      f"{column.place(wrong)}: {wrong!r} is none of the classes {_listed(codes)}."
      f"{lookup.hint(wrong, codes)}"
      f"{task.advice('Add it to {}.ignore, classes or map, or say unmapped: ignore.')}"
    )
  return _Coded(classes, np.array([*told, -1], np.int32)[column.codes], False)


def _listed(names: Iterable[str]) -> str:
  """Some names."""
  every = list(names)
  return ", ".join(every[:_SHOWN]) + ", ..." * (len(every) > _SHOWN)


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
  ways = {*_ways(task.positive), told, *(YES if task.positive is True else ())}
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
  spec = _classed(task, coded.classes, counts)
  no, yes = spec.classes or ("0", "1")
  note = f"yes is {yes!r} ({100 * counts[1] / max(1, counts.sum()):.3g}% of train), no {no!r}"
  return Labels(spec, (coded.codes == 1).astype(np.float32), coded.codes >= 0, (note,))


def _multiclass(task: Task, columns: Sequence[Column], train: np.ndarray) -> Labels:
  """Classes, in the order of their texts or numbers."""
  classes, codes, found = _coded(task, columns[0])
  counts = _counts(codes[train], len(classes) or task.spec.outputs)
  spec = _classed(task, classes, counts)
  shown = f": {_listed(map(repr, classes))}" if classes else ""
  notes = (f"{spec.outputs} classes{shown}", *(_looked_at(task, columns[0]) if found else ()))
  return Labels(spec, np.maximum(codes, 0).astype(np.int32), codes >= 0, notes)


def _counts(codes: np.ndarray, classes: int) -> np.ndarray:
  return np.bincount(codes[codes >= 0], minlength=classes)


def _multilabel(task: Task, columns: Sequence[Column], train: np.ndarray) -> Labels:
  """A column of two values for every label."""
  found = [_answers(task, column, True) for column in columns]
  codes = np.stack([coded.codes for coded in found], 1)
  spec = _classed(task, task.spec.classes or task.columns, np.zeros(2))
  told = [f"{c.name} {f.classes[1]!r}" for c, f in zip(columns, found, strict=True) if f.classes]
  note = f"yes is {_listed(told)}" if told else f"{len(columns)} answers"
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


def _classed(task: Task, classes: Sequence[str], counts: np.ndarray) -> types.TaskSpec:
  """The task with outputs, names of classes and weights."""
  if task.kind.several:
    classes, outputs = task.spec.classes or task.columns, len(task.columns)
  else:
    outputs = 1 if task.kind.stored == "answers" else len(classes) or task.spec.outputs
  made = dataclasses.replace(task.spec, outputs=outputs, classes=tuple(classes))
  return weighed(task, made, counts)


def weighed(task: Task, spec: types.TaskSpec, counts: np.ndarray) -> types.TaskSpec:
  """Returns the task with the weights of classes that are asked for.

  Args:
    spec: of the task, with its outputs and classes.
    counts: of the classes in training.

  Raises:
    ValueError: there is no such class, or a factor is none.
  """
  if len(task.weights) > 1:
    raise ValueError(f"{task.where}: say positive_weight or class_weights, not both.")
  for key, value in task.weights:
    if task.kind.stored == "answers":
      return dataclasses.replace(spec, positive_weight=_positive_weight(task, key, value, counts))
    names = spec.classes or tuple(map(str, range(spec.outputs)))
    return dataclasses.replace(spec, class_weights=_class_weights(task, value, names, counts))
  return spec


def _positive_weight(task: Task, key: str, value: Any, counts: np.ndarray) -> float:
  """The factor on a yes: as said, or by which both classes weigh alike."""
  if value == "balanced":
    if task.kind.several:
      raise ValueError(f"{task.where}.{key}: one number is for all labels; balanced is none.")
    return float(counts[0] / max(1, counts[1]))
  number = described.number_of(value) if key == "positive_weight" else None
  if number is None or not 0 < number < math.inf:
    allowed = "balanced" if key == "class_weights" else "balanced or a number above 0"
    raise ValueError(f"{task.where}.{key}: must be {allowed}, but is {described.shown(value)}.")
  return number


def _class_weights(
  task: Task, value: Any, names: Sequence[str], counts: np.ndarray
) -> tuple[float, ...]:
  """A factor for every class: as said, or by which all weigh alike."""
  if value == "balanced":
    return tuple(float(counts.sum() / (len(names) * max(1, count))) for count in counts)
  if isinstance(value, Mapping):
    factor = dict.fromkeys(names, 1.0)
    for key, number in value.items():
      same = next((name for name in _ways(key) if name in factor), None)
      if same is None:
        raise ValueError(
          f"{task.where}.class_weights: there is no class {text_of(key)!r}."
          f"{lookup.hint(text_of(key), names)}"
        )
      factor[same] = number
    value = list(factor.values())
  numbers = [described.number_of(v) for v in value] if isinstance(value, list | tuple) else [None]
  good = [number for number in numbers if number is not None and 0 <= number < math.inf]
  if len(good) < len(numbers) or (good and (len(good) != len(names) or not any(good))):
    raise ValueError(
      f"{task.where}.class_weights: must be balanced, a number for each of the {len(names)}"
      f" classes ({_listed(names)}), or some of them by name, but is {described.shown(value)}."
    )
  return tuple(good)


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
