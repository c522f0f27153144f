"""Tasks whose labels stand in columns of a table, one for each picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import description as described
from dynashare_jax.data.folder import table
from dynashare_jax.objectives import kinds

KINDS = tuple(name for name in kinds.available() if not kinds.find(name).dense)
# No and yes, in small letters; a column has one of these pairs.
PAIRS = (("0", "1"), ("-1", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"))

_EVERY = ("kind", "column", "columns", "weight", "ignore")
_KEYS = {  # of what the cells tell
  "answers": ("classes", "map", "unmapped"),
  "names": ("classes", "map", "unmapped"),
  "values": ("unit", "range", "loss", "huber_delta", "center", "spread"),
}
_MOST = 20  # different whole numbers that are taken for classes
_MOST_CLASSES = 1000  # that are taken from the cells
_SHOWN = 5
_NONE = {"na", "n/a", "nan", "none", "null", "<na>", "-", "?", "unknown"}


@dataclasses.dataclass(frozen=True)
class TableTask:
  """A task of a table.

  Attributes:
    spec: the task; before `resolved`, its kind may be empty, and outputs, classes, center and
      spread may not be known.
    columns: one for each of its outputs, or one that names a class.
    place: of the task in the file that describes it, for messages.
    ignore: cells that are no label.
    codes: cell -> class, of `map`; empty where names or numbers of classes stand in cells.
    unmapped: what a cell is that is no class: `error` or `ignore`.
    limits: lowest and highest number that is a label.
  """

  spec: types.TaskSpec
  columns: tuple[str, ...]
  place: str
  ignore: tuple[str, ...] = ()
  codes: tuple[tuple[str, int], ...] = ()
  unmapped: str = "error"
  limits: tuple[float, float] = (-math.inf, math.inf)

  @property
  def name(self) -> str:
    """The task's name."""
    return self.spec.name

  @property
  def kind(self) -> kinds.base.Kind:
    """The task's kind."""
    return kinds.find(self.spec.kind)

  def decoded(self, stored: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the label of an example, and where it is valid, of `[outputs]` with NaN for none."""
    values = np.full(len(self.columns), np.nan, np.float32) if stored is None else stored
    if values.shape != (len(self.columns),):
      raise ValueError(f"its {self.name} has {values.size} values, not {len(self.columns)}.")
    kind = self.kind
    one = len(values) == 1 and not (kind.several and kind.stored == "answers")
    values = values[0] if one else values
    valid = np.isfinite(values)
    dtype = np.float32 if kind.stored == "values" else np.int32
    return np.where(valid, values, 0).astype(dtype), np.asarray(valid)


def is_of_table(raw: Mapping[str, Any]) -> bool:
  """Returns whether the keys of a task are those of one of a table."""
  return (
    raw.get("kind") in KINDS
    or "column" in raw
    or "columns" in raw
    or not ({"kind", "labels"} & {*raw})
  )


def parse(part: described.Part, name: str) -> TableTask:
  """Checks the keys of one task.

  Raises:
    ValueError: names the file, the key and what is allowed.
  """
  named = part.choice("kind", KINDS) if "kind" in part.raw else ""
  if "columns" in part.raw and "column" in part.raw:
    raise part.refusal("columns", "stands beside column; leave one out")
  columns = part.texts("columns") if "columns" in part.raw else (part.text("column", name),)
  if len(set(columns)) < len(columns):
    raise part.refusal("columns", "names a column twice")
  stored = kinds.find(named).stored if named else ""
  keys = _KEYS[stored] if named else tuple(dict.fromkeys(key for k in _KEYS.values() for key in k))
  part.check_keys((*_EVERY, *keys), f" for a {named} task" if named else " for a task of a table")
  if named and len(columns) > 1 and not kinds.find(named).several:
    raise part.refusal("columns", f"a {named} task has one column, not {len(columns)}")
  classes, count, codes = _classes(part)
  limits = part.numbers("range", 2) or (-math.inf, math.inf)
  if limits[0] > limits[1]:
    raise part.refusal("range", f"must be [lowest, highest], but is {list(limits)}")
  spec = types.TaskSpec(
    name,
    named,
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
  return TableTask(
    _complete(spec, columns, part.where) if named else spec,
    columns,
    part.where,
    tuple(t for value in part.listed("ignore") for t in _texts(value)),
    codes,
    part.choice("unmapped", ("error", "ignore")),
    (limits[0], limits[1]),
  )


def _complete(spec: types.TaskSpec, columns: tuple[str, ...], place: str) -> types.TaskSpec:
  """The task with what its kind says of outputs and names; 0 outputs where the cells tell."""
  kind = kinds.find(spec.kind)
  if kind.stored == "names":
    return spec
  classes = spec.classes
  if kind.stored == "answers":
    classes = classes or (columns if kind.several else ("no", "yes"))
    if len(classes) != (len(columns) if kind.several else 2):
      what = "names of the columns" if kind.several else "names of no and yes"
      raise ValueError(f"{place}.classes: must be the {what}, but are {', '.join(classes)}.")
  return dataclasses.replace(spec, outputs=len(columns), classes=classes)


def _texts(value: Any) -> tuple[str, ...]:
  """How a value of YAML may be written in a cell; `yes` and `no` are booleans there."""
  if isinstance(value, bool):
    words = ("true", "yes", "on") if value else ("false", "no", "off")
    return tuple(w for word in words for w in (word, word.title(), word.upper()))
  return (table.cell(str(value)),)


def _classes(part: described.Part) -> tuple[tuple[str, ...], int, tuple[tuple[str, int], ...]]:
  """Names of classes, how many there are (0: the cells tell), and the class of every cell."""
  value = part.raw.get("classes", [])
  count = value if isinstance(value, int) and not isinstance(value, bool) else 0
  names = () if count else tuple(map(str, part.listed("classes")))
  if any(isinstance(v, bool) for v in part.listed("classes")):
    raise part.refusal("classes", "YAML reads yes and no as true and false: put them in quotes")
  if "classes" in part.raw and (max(count, len(names)) < 2 or len({*names}) < len(names)):
    raise part.refusal("classes", "must be their number or a list of different names, at least 2")
  if "map" not in part.raw:
    return names, max(count, len(names)), ()
  found = part.mapping("map")
  if not (names or count):
    named = all(isinstance(v, str) for v in found.raw.values())
    names = tuple(dict.fromkeys(found.raw.values())) if named else ()
    whole = [v for v in found.raw.values() if isinstance(v, int)]
    count = 0 if named else 1 + max(map(int, whole), default=0)
  outputs = len(names) or count
  codes_of: dict[str, int] = {}
  for key, value in found.raw.items():
    place = names.index(value) if value in names else value
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < outputs:
      wanted = f"a class from 0 to {outputs - 1}{' or its name' if names else ''}"
      hint = lookup.hint(value, names)
      raise found.refusal(key, f"must be {wanted}, but is {described.shown(value)}", hint)
    codes_of |= dict.fromkeys(_texts(key), place)
  return names, outputs, tuple(codes_of.items())


class Resolved(NamedTuple):
  """A task whose cells were read.

  Attributes:
    task: with everything known.
    values: float32 `[N, outputs]`, or `[N, 1]` for a class; NaN where there is no label.
    notes: for the user.
  """

  task: TableTask
  values: np.ndarray
  notes: tuple[str, ...]


def resolve(task: TableTask, rows: table.Rows, train: np.ndarray) -> Resolved:
  """Reads the cells of a task; finds its kind, classes, center and spread where they are not given.

  Args:
    train: places of the examples to train on.

  Raises:
    ValueError: a column is missing, a cell is no label, or there is no label at all.
  """
  found = [rows.column(name, task.place) for name in task.columns]
  columns = [column for column, _ in found]
  used = [[v for v in dict.fromkeys(c.values) if v and v not in task.ignore] for c in columns]
  for column, values in zip(columns, used, strict=True):
    if not values:
      raise ValueError(f"{task.place}: column {column.name!r} of {column.where} has no label.")
  kind = task.spec.kind or _kind_of(task, columns, used)
  stored = kinds.find(kind).stored
  spec = dataclasses.replace(task.spec, kind=kind)
  listed = bool(spec.outputs)
  if stored == "names" and not listed:
    spec = _with_classes(spec, task.place, columns[0], used[0])
  task = dataclasses.replace(task, spec=_complete(spec, task.columns, task.place))
  reader = _READERS[stored]
  labels = np.full((len(rows.examples), len(columns)), np.nan, np.float32)
  for i, ((column, places), cells) in enumerate(zip(found, used, strict=True)):
    told = reader(task, column, cells)
    known = np.array([told.get(value, np.nan) for value in column.values], np.float32)
    labels[places, i] = known[column.codes]
  if stored == "values":
    task = dataclasses.replace(task, spec=_standard(task.spec, labels[train]))
  notes = () if listed or stored != "names" else _looked_at(task, columns[0], used[0])
  return Resolved(task, labels, notes)


def read(
  tasks: Sequence[Any], rows: table.Rows, keys: Mapping[str, Sequence[str]]
) -> tuple[tuple[Any, ...], dict[str, np.ndarray], tuple[str, ...]]:
  """Reads the labels of those tasks that are of tables.

  Args:
    keys: split -> names of its examples.

  Returns:
    All tasks in order; task -> its values (see `Resolved`); and notes.

  Raises:
    ValueError: see `resolve`.
  """
  place_of = {name: place for place, name in enumerate(rows.examples)}
  places = {split: np.array([place_of[n] for n in part], int) for split, part in keys.items()}
  made, values, notes, guessed = list(tasks), dict[str, np.ndarray](), list[str](), list[str]()
  for i, task in enumerate(tasks):
    if isinstance(task, TableTask):
      resolved = resolve(task, rows, places["train"])
      made[i], values[task.name] = resolved.task, resolved.values
      notes += [*resolved.notes, *_compared(resolved, places, rows.examples)]
      guessed += [] if task.spec.kind and task.spec.outputs else [_described(resolved.task)]
  if guessed:
    notes.insert(0, f"told by the cells: {'; '.join(guessed)}")
  return tuple(made), values, tuple(notes)


def _described(task: TableTask) -> str:
  """What was found of a task, in words."""
  names = ", ".join(task.spec.classes[:_SHOWN]) + ", ..." * (len(task.spec.classes) > _SHOWN)
  classes = f" of {task.spec.outputs} classes, {names}" if task.kind.stored == "names" else ""
  return f"{task.name} is {task.spec.kind}{classes}"


def facts(task: TableTask) -> dict[str, Any]:
  """Returns what a copy of the data must know of a task beside the description."""
  spec = task.spec
  found: dict[str, Any] = {"kind": spec.kind}
  if task.kind.stored == "names":
    found["classes"] = list(spec.classes) or spec.outputs
  if task.kind.stored == "values":
    found |= {"center": list(spec.center), "spread": list(spec.spread)}
  return found


def _pair(cells: Sequence[str]) -> dict[str, float] | None:
  """No and yes of cells that all belong to one pair."""
  for no, yes in PAIRS:
    if all(value.lower() in (no, yes) for value in cells):
      return {value: float(value.lower() == yes) for value in cells}
  return None


def _number(value: str) -> float | None:
  """A cell as a finite number of 32 bits; Python's own 1_000 is none."""
  try:
    found = float(value) if "_" not in value else math.nan
  except ValueError:
    return None
  with np.errstate(over="ignore"):
    return found if np.isfinite(np.float32(found)) else None


def _kind_of(
  task: TableTask, columns: Sequence[table.Column], used: Sequence[Sequence[str]]
) -> str:
  """The kind that all cells fit."""
  several = len(columns) > 1
  given = bool(task.codes or task.spec.outputs)
  if (not given or len(task.spec.classes) == 2) and all(map(_pair, used)):
    return "multilabel" if several else "binary"
  numbers = [[v for v in cells if _number(v) is not None] for cells in used]
  whole = all(float(v).is_integer() for v in numbers[0])
  few = len(used[0]) <= _MOST and whole and numbers[0] == used[0]
  if not several and (given or few or not numbers[0]):
    return "multiclass"
  for column, good, cells in zip(columns, numbers, used, strict=True):
    if len(good) < len(cells):
      other = next(v for v in cells if v not in good)
      but = f", but {good[0]!r} is one ({column.place(good[0])})" if good else ""
      raise ValueError(
        f"{column.place(other)}: {other!r} is no number{but}. Say with {task.place}.kind what the"
        f" column is ({', '.join(KINDS)}), or name what is no label with ignore."
      )
  return "number"


def _with_classes(
  spec: types.TaskSpec, place: str, column: table.Column, cells: Sequence[str]
) -> types.TaskSpec:
  """The task with the classes that the cells have, in order."""
  many = min(_MOST_CLASSES, max(_MOST, len(column.codes) // 2))
  if not 2 <= len(cells) <= many:
    first = ", ".join(map(repr, cells[:_SHOWN]))
    raise ValueError(
      f"{place}: column {column.name!r} of {column.where} has {len(cells)} different cells in"
      f" {len(column.codes)} rows, such as {first}: no classes. List them with {place}.classes."
    )
  numbers = None not in map(_number, cells)
  names = tuple(sorted(cells, key=float if numbers else None))
  return dataclasses.replace(spec, classes=names, outputs=len(names))


def _standard(spec: types.TaskSpec, values: np.ndarray) -> types.TaskSpec:
  """The task with mean and standard deviation of the labels of training."""
  known = [column[np.isfinite(column)].astype(np.float64) for column in values.T]
  center = spec.center or tuple(float(c.mean()) if len(c) else 0.0 for c in known)
  spread = spec.spread or tuple(float(c.std() or 1.0) if len(c) else 1.0 for c in known)
  return dataclasses.replace(spec, center=center, spread=spread)


def _read_answers(task: TableTask, column: table.Column, cells: Sequence[str]) -> dict[str, float]:
  """No and yes; of several columns each has its own pair."""
  if task.codes or (not task.kind.several and {*cells} & {*task.spec.classes}):
    return _read_names(task, column, cells)
  if (found := _pair(cells)) is not None:
    return found
  count = lambda pair: sum(value.lower() in pair for value in cells)
  pair = max(PAIRS, key=count)
  wrong = next(value for value in cells if value.lower() not in pair)
  other = next((value for value in cells if value.lower() in pair), None)
  beside = f" beside {other!r} ({column.place(other)})" if other else ""
  pairs = ", ".join(map("/".join, PAIRS))
  raise ValueError(
    f"{column.place(wrong)}: {wrong!r}{beside} is no answer; known are {pairs}, one of them for a"
    f" column, and empty for no label. Add it to {task.place}.ignore, or give map."
  )


def _read_names(task: TableTask, column: table.Column, cells: Sequence[str]) -> dict[str, float]:
  """Classes by name, number or map."""
  names = task.spec.classes or map(str, range(task.spec.outputs))
  codes = dict(task.codes) or {table.cell(name): i for i, name in enumerate(names)}
  wrong = next((value for value in cells if value not in codes), None)
  if wrong is not None and task.unmapped == "error":
    shown = ", ".join(list(codes)[:_SHOWN]) + ", ..." * (len(codes) > _SHOWN)
    raise ValueError(
      f"{column.place(wrong)}: {wrong!r} is none of the classes {shown}."
      f"{lookup.hint(wrong, codes)} Add it to {task.place}.ignore, classes or map, or say"
      " unmapped: ignore."
    )
  return {value: float(codes[value]) for value in cells if value in codes}


def _read_values(task: TableTask, column: table.Column, cells: Sequence[str]) -> dict[str, float]:
  """Numbers within the limits."""
  numbers = {value: _number(value) for value in cells}
  wrong = next((value for value, found in numbers.items() if found is None), None)
  if wrong is not None:
    raise ValueError(
      f"{column.place(wrong)}: {wrong!r} is no finite number of 32 bits, with a point before"
      f" decimals. Add it to {task.place}.ignore if it is no label."
    )
  low, high = task.limits
  return {v: n for v, n in numbers.items() if n is not None and low <= n <= high}


_READERS: dict[str, Callable[..., dict[str, float]]] = {
  "answers": _read_answers,
  "names": _read_names,
  "values": _read_values,
}


def _looked_at(task: TableTask, column: table.Column, cells: Sequence[str]) -> tuple[str, ...]:
  """Warns of classes, taken from the cells, that look like a missing label, alike, or mixed."""
  numbers = [value for value in cells if _number(value) is not None]
  texts = [value for value in cells if value not in numbers]
  notes = [
    f"warning: {column.place(value)}: is the class {value!r} no label? Then add it to"
    f" {task.place}.ignore"
    for value in texts
    if value.lower() in _NONE and len(cells) > 2
  ]
  if numbers and texts and not notes:
    few = min(numbers, texts, key=len)
    notes.append(
      f"warning: {column.place(few[0])}: the class {few[0]!r} is one of {len(few)} among"
      f" {len(cells)}, of which the others are {'texts' if few is numbers else 'numbers'}"
    )
  small: dict[str, str] = {}
  for value in cells:
    if (other := small.setdefault(value.lower(), value)) != value:
      notes.append(
        f"warning: {column.place(value)}: the class {value!r} and {other!r} differ in capitals"
      )
  return tuple(notes)


def _compared(
  resolved: Resolved, keys: Mapping[str, np.ndarray], names: Sequence[str]
) -> tuple[str, ...]:
  """Warns of a label that is constant in training, and of classes that training never shows.

  Args:
    keys: split -> places of its examples.
    names: of the examples.
  """
  task, values = resolved.task, resolved.values
  notes = []
  known = {split: values[places] for split, places in keys.items()}
  for i, column in enumerate(known["train"].T):
    trained = np.unique(column[np.isfinite(column)])
    if len(trained) == 1:
      notes.append(
        f"warning: {task.place}: column {task.columns[i]!r} is {_named(task, trained[0])} for all"
        " of train: nothing can be learnt"
      )
    if task.kind.stored == "values":
      continue
    for split, part in known.items():
      other = part[:, i]
      fresh = np.isfinite(other) & ~np.isin(other, trained)
      if fresh.any() and len(trained):
        first = int(np.argmax(fresh))
        notes.append(
          f"warning: {task.place}: {int(fresh.sum())} labels of {split} have a class that train"
          f" never shows, first {_named(task, other[first])} ({names[keys[split][first]]!r})"
        )
  return tuple(notes)


def _named(task: TableTask, value: float) -> str:
  """A label in words."""
  if task.kind.stored == "values":
    return f"{value:g}"
  names = ("no", "yes") if task.kind.several else task.spec.classes
  return repr(names[int(value)]) if names else f"class {int(value)}"
