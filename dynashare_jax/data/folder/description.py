"""The file that describes a data set in folders: its keys, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import os
import pathlib
from typing import Any

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import description as described
from dynashare_jax.data.cells import text_of
from dynashare_jax.data.table import description as table_description
from dynashare_jax.data.table import tasks as table_tasks
from dynashare_jax.objectives import kinds

KINDS = tuple(name for name in kinds.available() if kinds.find(name).dense)
EXAMPLE = """
  pictures: images            # a folder, or a pattern as images/{name}.jpg
  tasks:
    segmentation: {kind: segmentation, labels: classes, classes: 13}
    depth: {kind: depth, labels: "depth/{name}.png", scale: 0.001, unit: m}
    # of whole pictures, in a column of a file named by table: labels.csv
    # smiling: {kind: binary, column: smiling}
  splits: {train: 0.8, test: 0.2}"""

_TOP = ("name", "root", "pictures", "table", "tasks", "splits")
_EVERY = ("kind", "labels", "weight", "ignore")
_KEYS = {  # of what files hold
  "ids": ("classes", "map", "unmapped", "channels"),
  "numbers": ("channels", "scale", "offset", "range", "unit"),
  "directions": ("scale", "offset", "axes"),
}
_SPLITS = (*types.SPLITS, "seed", "overlap", "column")
# What a column of splits says unless the description tells.
_CELLS = {"train": ("train", "training"), "validation": ("validation", "val"), "test": ("test",)}


@dataclasses.dataclass(frozen=True)
class Task:
  """A task of a description, with labels of pixels in files.

  Attributes:
    spec: the task.
    labels: folder or pattern of its files.
    ignore: stored values that are no label.
    ids: stored id -> class; None where they are the same.
    unmapped: what an id is that `ids` lacks: `error` or `ignore`.
    channels: factors that make one number of stored channels; empty for one.
    scale: value of a stored 1; None: 1, or for normals by the stored type.
    offset: value of a stored 0; None: as `scale`.
    limits: lowest and highest value that is a label.
    axes: which stored channels of normals point right, down and forward.
  """

  spec: types.TaskSpec
  labels: str
  ignore: tuple[float, ...] = ()
  ids: tuple[tuple[int, int], ...] | None = None
  unmapped: str = "error"
  channels: tuple[float, ...] = ()
  scale: float | None = None
  offset: float | None = None
  limits: tuple[float, float] = (-math.inf, math.inf)
  axes: str = "+0 +1 +2"

  @property
  def name(self) -> str:
    """The task's name."""
    return self.spec.name

  @property
  def kind(self) -> kinds.base.Dense:
    """The task's kind."""
    return kinds.dense(self.spec.kind)


@dataclasses.dataclass(frozen=True)
class Description:
  """A data set in folders.

  Attributes:
    where: the file, for messages.
    name: what the user calls it.
    root: folder that all patterns start from.
    pictures: folder or pattern.
    tasks: in order.
    splits: split -> a share, a pattern, a text file, or a list; of cells, where there is a column.
    seed: of shares.
    overlap: whether splits may have examples in common.
    tables: files with labels of whole pictures, relative to the root.
    key: column of theirs with the names of pictures; None is the first.
    column: of theirs, that tells the splits; empty for none.
  """

  where: str
  name: str
  root: str
  pictures: str
  tasks: tuple[Task | table_tasks.Task, ...]
  splits: Mapping[str, float | str | tuple[str, ...]]
  seed: int
  overlap: bool
  tables: tuple[str, ...] = ()
  key: str | None = None
  column: str = ""


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads the file that describes a data set; see `description.read`."""
  return described.read(path, _TOP, EXAMPLE)


def parse(raw: Mapping[str, Any], where: str, folder: str) -> Description:
  """Checks a description.

  Args:
    raw: of `read`, also after a way through JSON.
    where: the file, for messages.
    folder: that a relative `root` starts from.

  Raises:
    ValueError: names the file, the key and what is allowed.
  """
  part = described.Part({"splits": table_description.SHARES} | dict(raw), where, "")
  part.check_keys(_TOP)
  splits = part.mapping("splits")
  splits.check_keys(_SPLITS)
  column = splits.text("column", "")
  for needed in ("train", "test"):
    if needed not in splits.raw and not column:
      raise splits.refusal(needed, "is missing; train and test are needed")
  root = pathlib.Path(folder) / part.line("root", ".")
  tables, key = _tables(part)
  made = tuple(_task(own, name) for name, own in part.tasks().items())
  if not tables:
    needing = [task.place for task in made if isinstance(task, table_tasks.Task)]
    if needing or column:
      raise ValueError(
        f"{needing[0] if needing else splits.where}: needs labels, or table: the file with its"
        " column."
      )
  return Description(
    where,
    part.text("name", ""),
    str(root),
    part.line("pictures"),
    made,
    {s: _cells(splits, s) for s in types.SPLITS}
    if column
    else {s: _members(splits, s) for s in types.SPLITS if s in splits.raw},
    splits.whole("seed", 0, 0),
    splits.choice("overlap", (False, True)),
    tables,
    key,
    column,
  )


def _tables(part: described.Part) -> tuple[tuple[str, ...], str | None]:
  """The files of labels, and the column with the names of pictures."""
  value = part.raw.get("table")
  if not isinstance(value, dict):
    return part.texts("table") if "table" in part.raw else (), None
  found = part.mapping("table")
  found.check_keys(("file", "key"))
  return found.texts("file"), text_of(found.text("key")) if "key" in found.raw else None


def _cells(part: described.Part, split: str) -> tuple[str, ...]:
  """What a column of splits says for one of them."""
  texts = part.listed(split) or _CELLS[split]
  if wrong := [value for value in texts if isinstance(value, bool | list | dict) or value is None]:
    raise part.refusal(split, f"must be what the column says, but is {described.shown(wrong[0])}")
  return tuple(
    text_of(value if isinstance(value, str | int | float) else str(value)) for value in texts
  )


def _is_of_table(raw: Mapping[str, Any]) -> bool:
  """Whether the keys of a task are those of one of a table."""
  return (
    raw.get("kind") in table_tasks.KINDS
    or "column" in raw
    or "columns" in raw
    or not ({"kind", "labels"} & {*raw})
  )


def _task(part: described.Part, name: str) -> Task | table_tasks.Task:
  """Checks one task."""
  if _is_of_table(part.raw):
    return table_tasks.parse(part, name)
  if "kind" not in part.raw:
    raise part.refusal("kind", f"is missing; it is one of {', '.join(KINDS)}")
  named = part.choice("kind", KINDS if "labels" in part.raw else (*KINDS, *table_tasks.KINDS))
  kind = kinds.dense(named)
  part.check_keys((*_EVERY, *_KEYS[kind.stored], *kind.fields), f" for a {named} task")
  classes, outputs = _classes(part, kind, types.TaskSpec(name, named))
  limits = part.numbers("range", 2) or (-math.inf, math.inf)
  if limits[0] > limits[1]:
    raise part.refusal("range", f"must be [lowest, highest], but is {list(limits)}")
  channels = part.numbers("channels")
  if channels and kind.stored == "numbers" and outputs > 1:
    raise part.refusal("channels", "make one number of several; leave them or outputs out")
  scale, offset = (
    part.number(key, 0.0) if key in part.raw else None for key in ("scale", "offset")
  )
  if scale == 0:
    raise part.refusal("scale", "must not be 0")
  inverse = part.choice("inverse", (False, True))
  unit = part.text("unit", "" if inverse else kind.unit)
  return Task(
    types.TaskSpec(name, named, outputs, part.weight(), classes, unit, inverse=inverse),
    part.line("labels"),
    part.numbers("ignore"),
    _ids(part, classes, outputs),
    part.choice("unmapped", ("error", "ignore")),
    channels,
    scale,
    offset,
    (limits[0], limits[1]),
    part.text("axes", Task.axes),
  )


def _classes(
  part: described.Part, kind: kinds.base.Dense, task: types.TaskSpec
) -> tuple[tuple[str, ...], int]:
  """Returns the names of classes, and the number of a task's outputs."""
  if kind.stored != "ids":
    return (), part.whole("outputs", kind.outputs(task), 1, 2**16)
  value: Any = part.raw.get("classes")
  if isinstance(value, int) and not isinstance(value, bool) and value > 1:
    return (), value
  texts = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
  if texts and 1 < len(value) == len(set(value)):
    return tuple(value), len(value)
  raise part.refusal(
    "classes",
    "must be their number or a list of different names, at least 2, but is"
    f" {described.shown(value)}",
  )


def _ids(
  part: described.Part, classes: tuple[str, ...], outputs: int
) -> tuple[tuple[int, int], ...] | None:
  """Stored ids with their classes, given by number or name."""
  if "map" not in part.raw:
    return None
  pairs: list[tuple[int, int]] = []
  found = part.mapping("map")
  for key, value in found.raw.items():
    written: Any = key
    number = described.number_of(written)
    if number is None or not number.is_integer():
      raise found.refusal(key, "is no whole number; write {stored id: class}")
    stored = written if isinstance(written, int) else int(number)
    if stored in dict(pairs):
      raise found.refusal(key, f"the stored id {stored} stands twice")
    place = classes.index(value) if value in classes else value
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < outputs:
      wanted = f"a class from 0 to {outputs - 1}{' or its name' if classes else ''}"
      hint = lookup.hint(value, classes)
      raise found.refusal(key, f"must be {wanted}, but is {described.shown(value)}", hint)
    pairs.append((stored, place))
  return tuple(pairs)


def _members(part: described.Part, split: str) -> float | str | tuple[str, ...]:
  """A share, a pattern or text file, or a list of names and patterns."""
  value = part.raw[split]
  share = None if isinstance(value, str) else described.number_of(value)
  if share is not None:
    if not 0 < share <= 1:
      raise part.refusal(split, f"a share lies above 0 and at most at 1, but is {share:g}")
    return share
  if isinstance(value, str) and value:
    return value
  if isinstance(value, list | tuple) and value:
    wrong = [v for v in value if not isinstance(v, str)]
    if not wrong:
      return tuple(value)
    raise part.refusal(
      split, f"names must be texts, but one is {described.shown(wrong[0])}: put it in quotes"
    )
  raise part.refusal(
    split,
    "must be a share as 0.8, a pattern, a text file or a list of names, but is"
    f" {described.shown(value)}",
  )
