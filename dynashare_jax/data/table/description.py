"""The file that describes a table: its keys, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from dynashare_jax import types
from dynashare_jax.data import columns as columns_lib
from dynashare_jax.data import description as described
from dynashare_jax.data.cells import text_of
from dynashare_jax.data.table import files
from dynashare_jax.data.table import tasks as table_tasks

EXAMPLE = """
  table: customers.csv        # or .parquet
  tasks:                      # each the column of its name
    churn: {}
    spend: {unit: EUR}"""
KEYS = (
  *("name", "table", "tasks", "splits", "id", "columns", "inputs", "delimiter", "encoding"),
  *("decimal", "thousands", "missing", "names", "bins", "most_categories"),
)
_SPLITS = (*types.SPLITS, "seed", "group", "time", "column")
_MOST = 2**16  # bins, categories and steps, for which memory is taken
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclasses.dataclass(frozen=True)
class Splits:
  """How rows are split.

  Attributes:
    place: file and key, for messages.
    shares: split -> share.
    seed: of the draw.
    group: column whose values never part; empty for none.
    time: column by which the oldest rows train and the newest test; empty for none.
    column: column with the names of the splits; empty for none.
    date: format of the time, where the user says it.
  """

  place: str
  shares: Mapping[str, float]
  seed: int = 0
  group: str = ""
  time: str = ""
  column: str = ""
  date: str = ""

  @property
  def columns(self) -> tuple[str, ...]:
    """The columns that tell the splits, which are no inputs."""
    return tuple(name for name in (self.group, self.time, self.column) if name)


@dataclasses.dataclass(frozen=True)
class Description:
  """A table.

  Attributes:
    where: the file, for messages.
    name: what the user calls it.
    tables: split -> path or pattern of its files; one of "" for all.
    tasks: in order.
    splits: how rows are split.
    id: column that names a row; empty for none.
    roles: column -> what the user says that it is.
    inputs: columns that are inputs; empty for all others.
    layout: how files are written.
    decimal: `.` or `,`; empty is found out.
    thousands: what parts thousands.
    missing: texts that mean a missing value.
    bins: most bins of a number.
    most_categories: most codes of a category.
  """

  where: str
  name: str
  tables: Mapping[str, str]
  tasks: tuple[table_tasks.Task, ...]
  splits: Splits
  id: str
  roles: Mapping[str, columns_lib.Role]
  inputs: tuple[str, ...]
  layout: files.Layout
  decimal: str
  thousands: str
  missing: tuple[str, ...]
  bins: int
  most_categories: int

  @property
  def labels(self) -> tuple[str, ...]:
    """The columns of all tasks."""
    return tuple(column for task in self.tasks for column in task.columns)


def parse(raw: Mapping[str, Any], where: str) -> Description:
  """Checks what `description.read` read.

  Raises:
    ValueError: names the file, the key and what is allowed.
  """
  part = described.Part(raw, where, "")
  part.check_keys(KEYS)
  tasks = read_tasks(part)
  tables = read_tables(part, "table")
  splits = read_splits(part, tables)
  labels = {column: task.name for task in tasks for column in task.columns}
  inputs = texts(part, "inputs")
  roles = read_roles(part)
  if splits.time in roles:
    splits = dataclasses.replace(splits, date=roles[splits.time].date)
  name_of_row = part.text("id", "")
  if name_of_row in labels:
    raise part.refusal("id", f"{name_of_row!r} is the label of {labels[name_of_row]}")
  for key, names in (("inputs", inputs), ("columns", roles)):
    for name in names:
      if name in labels:
        raise part.refusal(key, f"{name!r} is the label of {labels[name]}, and so no input")
  if name_of_row and name_of_row in inputs:
    raise part.refusal("inputs", f"{name_of_row!r} is the id, and so no input")
  return Description(
    where,
    part.text("name", ""),
    tables,
    tasks,
    splits,
    name_of_row,
    roles,
    inputs,
    files.Layout(_mark(part, "delimiter"), part.text("encoding", ""), texts(part, "names")),
    part.choice("decimal", ("", ".", ",")),
    _mark(part, "thousands"),
    texts(part, "missing"),
    whole(part, "bins", 16),
    whole(part, "most_categories", columns_lib.MOST_CATEGORIES),
  )


def read_tasks(part: described.Part) -> tuple[table_tasks.Task, ...]:
  """Reads the key `tasks`, each of columns of its own."""
  taken: dict[str, str] = {}
  found = []
  for name, own in part.tasks().items():
    task = table_tasks.parse(own, name)
    for column in task.columns:
      if column in taken:
        raise own.refusal("column", f"{column!r} is the label of {taken[column]} already")
      taken[column] = name
    found.append(task)
  return tuple(found)


def read_tables(part: described.Part, key: str) -> dict[str, str]:
  """Reads a path, or paths of the splits."""
  if not isinstance(part.raw.get(key), dict):
    return {"": part.line(key)}
  tables = part.mapping(key)
  tables.check_keys(types.SPLITS)
  for needed in ("train", "test"):
    if needed not in tables.raw:
      raise tables.refusal(needed, "is missing; train and test are needed")
  return {split: tables.line(split) for split in types.SPLITS if split in tables.raw}


def read_splits(part: described.Part, tables: Mapping[str, str]) -> Splits:
  """Reads the key `splits`, in which everything has a default."""
  raw = part.raw.get("splits") or {}
  if not isinstance(raw, dict):
    raise part.refusal("splits", f"must be a mapping, but is {described.shown(raw)}")
  splits = described.Part(raw, part.file, "splits")
  splits.check_keys(_SPLITS)
  group, time, column = (splits.text(key, "") for key in ("group", "time", "column"))
  place = f"{part.file}: splits"
  told = [key for key in ("time", "column") if raw.get(key)] + ["table"] * ("" not in tables)
  if len(told) > 1:
    raise ValueError(f"{place}: {' and '.join(told)} both say how to split; leave one.")
  if time and group:
    raise splits.refusal("group", "cannot go with time: a group may be old and new")
  fixed = column or "" not in tables
  shares = {s: splits.number(s, 0.0) for s in types.SPLITS if s in raw}
  for split, share in shares.items():
    if not 0 < share < 1:
      raise splits.refusal(split, f"a share lies between 0 and 1, but is {share:g}")
    if fixed and split != "validation":
      raise splits.refusal(split, f"{told[0]} says which rows those are")
  if fixed:
    shares = {"validation": SHARES["validation"]} | shares
  elif not shares:
    shares = dict(SHARES)
  else:
    shares = _completed(splits, shares)
  return Splits(place, shares, splits.whole("seed", 0, 0), group, time, column)


def _completed(splits: described.Part, shares: dict[str, float]) -> dict[str, float]:
  """Shares of all splits; one that is not said takes the rest."""
  lacking = [split for split in types.SPLITS if split not in shares]
  rest = 1 - sum(shares.values())
  if rest < -1e-6 or (lacking and rest < 1e-6):
    raise splits.refusal("train", f"the shares add up to {1 - rest:g}, and nothing is left")
  if lacking == ["validation"] or len(lacking) == 1:
    return {**shares, lacking[0]: rest}
  return {**shares, **{split: rest / len(lacking) for split in lacking}}


def read_roles(part: described.Part) -> dict[str, columns_lib.Role]:
  """Reads what columns are said to be."""
  raw = part.raw.get("columns") or {}
  if not isinstance(raw, dict):
    raise part.refusal("columns", f"must be a mapping, but is {described.shown(raw)}")
  if words := [key for key in raw if isinstance(key, bool)]:
    raise part.refusal("columns", f"a column is {words[0]}{described.quoted(words[0])}")
  columns = described.Part({str(key): value for key, value in raw.items()}, part.file, "columns")
  known = ("number", "category", "date", "ignore", "ignored")
  roles = {}
  for name, value in columns.raw.items():
    if isinstance(value, dict):
      own = columns.mapping(name)
      own.check_keys(("date",))
      roles[name] = columns_lib.Role("date", "as said", own.line("date"))
    else:
      kind = columns.choice(name, known)
      roles[name] = columns_lib.Role("ignored" if kind == "ignore" else kind, "as said")
  return roles


def texts(part: described.Part, key: str) -> tuple[str, ...]:
  """Reads a text or a list of texts and numbers, each once."""
  value = part.raw.get(key, [])
  value = value if isinstance(value, list | tuple) else [value]
  if not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in value):
    told = described.shown(value) + described.quoted(value)
    raise part.refusal(key, f"must be a list of texts, but is {told}")
  found = tuple(text_of(v) for v in value)
  if len(set(found)) < len(found):
    twice = next(v for v in found if found.count(v) > 1)
    raise part.refusal(key, f"{twice!r} stands twice")
  return found


def whole(part: described.Part, key: str, default: int) -> int:
  """Reads a whole number from 1 to `_MOST`."""
  return part.whole(key, default, 1, _MOST)


def _mark(part: described.Part, key: str) -> str:
  """Reads a single character, or `tab`."""
  value = part.text(key, "")
  value = "\t" if value in ("tab", "\\t") else value
  if len(value) > 1:
    raise part.refusal(key, f"must be one character, but is {value!r}")
  return value
