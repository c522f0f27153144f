"""Tasks whose labels stand in columns: what a file or a caller says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import description as described
from dynashare_jax.data.cells import text_of
from dynashare_jax.objectives import kinds

KINDS = tuple(name for name in kinds.available() if not kinds.find(name).dense)

_SHOWN = 6
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
    tuple(text for value in part.listed("ignore") for text in ways(value)),
    codes,
    part.choice("unmapped", ("error", "ignore")),
    (limits[0], limits[1]),
    part.raw.get("positive"),
    tuple((key, part.raw[key]) for key in ("positive_weight", "class_weights") if key in part.raw),
  )
  return of_kind(task, kind) if kind else task


def complete(task: Task) -> types.TaskSpec:
  """Returns the task of a file that tells all that cells would."""
  spec = task.spec
  if task.kind.stored == "values":
    return dataclasses.replace(spec, outputs=len(task.columns))
  classes = spec.classes or (("no", "yes") if task.kind.stored == "answers" else ())
  return classed(task, classes, np.zeros(spec.outputs or len(classes)))


def of_kind(task: Task, kind: str) -> Task:
  """Returns the task with its kind.

  Raises:
    ValueError: keys, columns or classes that it cannot have.
  """
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


def ways(value: Any) -> tuple[str, ...]:
  """Returns how a value of YAML may be written in a cell; `yes` and `no` are booleans there."""
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
    codes |= dict.fromkeys(ways(key), place)
  return names, outputs, codes


def classed(task: Task, classes: Sequence[str], counts: np.ndarray) -> types.TaskSpec:
  """Returns the task with outputs, names of classes and weights; see `weighed`."""
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
      same = next((name for name in ways(key) if name in factor), None)
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
      f" classes ({listed(names)}), or some of them by name, but is {described.shown(value)}."
    )
  return tuple(good)


def listed(names: Iterable[str]) -> str:
  """Returns some names, for messages."""
  every = list(names)
  return ", ".join(every[:_SHOWN]) + ", ..." * (len(every) > _SHOWN)
