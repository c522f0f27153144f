"""Finds the rows of pictures in tables of labels, and reads what they say."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import os
from typing import Any

import numpy as np

from dynashare_jax import lookup
from dynashare_jax.data.cells import Cells
from dynashare_jax.data.cells import Spelling
from dynashare_jax.data.cells import whole
from dynashare_jax.data.folder import files as folder_files
from dynashare_jax.data.table import files
from dynashare_jax.data.table import labels
from dynashare_jax.data.table import tasks as table_tasks
from dynashare_jax.data.table.column import Column

_SHOWN = 12  # names of columns in a message


@dataclasses.dataclass(frozen=True)
class Rows:
  """The tables of a data set, row by row as its examples; without a row, all cells are empty.

  Attributes:
    tables: of the files.
    rows: of every table, int `[N]`: the row of every example, or -1.
    examples: their names.
    notes: what was not used, for the user.
  """

  tables: tuple[files.Frame, ...]
  rows: tuple[np.ndarray, ...]
  examples: tuple[str, ...]
  notes: tuple[str, ...]

  @property
  def where(self) -> str:
    """The files."""
    return " and ".join(table.files[0] for table in self.tables)

  def column(self, name: str, place: str, ignore: Sequence[str] = ()) -> Column:
    """Returns what a column says of examples.

    Args:
      place: of the key that asks for it.
      ignore: cells that say nothing.

    Raises:
      ValueError: no file has it, or it stands twice.
    """
    having = [i for i, table in enumerate(self.tables) if name in table.columns]
    where = self.where
    if not having:
      names = list(dict.fromkeys(itertools.chain(*(table.columns for table in self.tables))))
      shown = ", ".join(map(repr, names[:_SHOWN])) + ", ..." * (len(names) > _SHOWN)
      raise ValueError(
        f"{place}: {where} has no column {name!r}.{lookup.hint(name, names)} There are {shown}."
      )
    if len(having) > 1 or name in self.tables[having[0]].twice:
      raise ValueError(f"{place}: the column {name!r} stands twice in {where}; rename one.")
    table, rows = self.tables[having[0]], self.rows[having[0]]
    there = np.flatnonzero(rows >= 0)
    cells = table.columns[name].take(rows[there])
    place_of = lambda row: table.where(int(rows[row]), name)
    found = Column.of(name, cells, place_of, None, ignore)
    return found.scattered(there, len(rows))


def read_tasks(
  tasks: Sequence[Any], rows: Rows, keys: Mapping[str, Sequence[str]]
) -> tuple[tuple[Any, ...], dict[str, np.ndarray], tuple[str, ...]]:
  """Reads the labels of those tasks that are of tables.

  Args:
    keys: split -> names of its examples.

  Returns:
    All tasks in order; task -> its values, float32 `[N, outputs]`, or `[N, 1]` for a class, NaN
    where there is no label; and notes.

  Raises:
    ValueError: see `labels.read`.
  """
  place_of = {name: place for place, name in enumerate(rows.examples)}
  places = {split: np.array([place_of[n] for n in part], int) for split, part in keys.items()}
  made, values, notes = list(tasks), dict[str, np.ndarray](), list[str]()
  for i, task in enumerate(tasks):
    if isinstance(task, table_tasks.Task):
      columns = [rows.column(name, task.place, task.ignore) for name in task.columns]
      found = labels.read(
        labels.worded(task, columns), columns, places, False, lambda row: rows.examples[row]
      )
      made[i] = dataclasses.replace(task, spec=found.spec)
      told = np.where(found.valid, found.target, np.nan).astype(np.float32)
      values[task.name] = told.reshape(len(told), -1)
      notes += found.notes
  return tuple(made), values, tuple(notes)


def find_rows(
  tables: Sequence[files.Frame], key: str | None, paths: Mapping[str, str], place: str
) -> Rows:
  """Finds the row of every example in every table.

  Args:
    key: name of the column with the names of pictures; None is the first.
    paths: example -> path of its picture without ending, below the root.
    place: of the key of the description, for messages.

  Raises:
    ValueError: no such column; a row that fits several pictures; two rows of one picture; or more
      than half of the rows have no picture.
  """
  names = _Names(paths)
  rows, notes = [], []
  for table in tables:
    found, told = _rows_of(table, key, names, place)
    rows.append(found)
    notes += [*table.notes, *told]
  return Rows(tuple(tables), tuple(rows), tuple(paths), tuple(notes))


class _Names:
  """Finds the example that a cell names."""

  def __init__(self, paths: Mapping[str, str]) -> None:
    self.paths = paths
    self.places = {name: place for place, name in enumerate(paths)}
    # Shorter ends of paths, down to the file's name alone -> examples.
    self._ends: dict[str, list[str]] = collections.defaultdict(list)
    for name, path in paths.items():
      parts = path.split("/")
      for begin in range(len(parts)):
        self._ends["/".join(parts[begin:])].append(name)

  def find(self, stored: str) -> list[str]:
    """Returns the examples that a cell may name, several where that is open."""
    name = stored.replace("\\", "/").removeprefix("./").lstrip("/")
    stem, ending = os.path.splitext(name)
    for one in (name, stem) if ending.lower() in _ENDINGS else (name,):
      if one in self.paths:
        return [one]
      if one in self._ends:
        return self._ends[one]
    # A longer path than is needed, such as that from another machine.
    stem = stem if ending.lower() in _ENDINGS else name
    longer = ["/".join(stem.split("/")[i:]) for i in range(1, stem.count("/") + 1)]
    whole = (self._by_path.get(end) for end in longer)
    return next(([one] for one in whole if one), [])

  @functools.cached_property
  def _by_path(self) -> dict[str, str]:
    return {path: name for name, path in self.paths.items()}


_ENDINGS = (*folder_files.ENDINGS, *folder_files.UNREAD)


def _texts(cells: Cells) -> tuple[np.ndarray, list[str]]:
  """Every row's code, and the texts, whole numbers without `.0`; nothing but "" is missing."""
  if cells.texts is None:
    cells = cells.as_texts(Spelling())
  return cells.values, [*map(whole, cells.texts or ()), ""]


def _rows_of(
  table: files.Frame, key: str | None, names: _Names, place: str
) -> tuple[np.ndarray, list[str]]:
  """The row of every example, -1 without one, and notes."""
  if key is not None and (key not in table.columns or key in table.twice):
    fault = "has no" if key not in table.columns else "has twice the"
    hint = lookup.hint(key, table.columns)
    raise ValueError(f"{place}.key: {table.files[0]} {fault} column {key!r}.{hint}")
  name = key if key is not None else next(iter(table.columns))
  codes, texts = _texts(table.columns[name])
  examples = [names.find(value) if value else [] for value in texts]
  rows = np.full(len(names.paths), -1)
  lost: list[int] = []
  for row, code in enumerate(codes.tolist()):
    fits = examples[code]
    if not fits:
      lost.append(row)
      continue
    if len(fits) > 1:
      raise ValueError(
        f"{table.where(row, name)}: {texts[code]!r} may be {fits[0]!r} or {fits[1]!r}. Write the"
        " path from the folder of the pictures on."
      )
    at = names.places[fits[0]]
    if rows[at] >= 0:
      raise ValueError(
        f"{table.files[0]}: the picture {fits[0]!r} has two rows, in {table.unit}s"
        f" {table.lines[rows[at]]} and {table.lines[row]}. Keep one."
      )
    rows[at] = row
  return rows, _unused(table, name, names, rows, lost, place)


def _unused(
  table: files.Frame, key: str, names: _Names, rows: np.ndarray, lost: Sequence[int], place: str
) -> list[str]:
  """Notes on rows without a picture and pictures without a row; refuses when most rows are lost."""
  notes = []
  path = table.files[0]
  if lost:
    codes, texts = _texts(table.columns[key])
    told = (
      f"{len(lost)} of the {table.rows} rows of {path} name no picture, first"
      f" {texts[codes[lost[0]]]!r} ({table.unit} {table.lines[lost[0]]}, column {key!r})"
    )
    if 2 * len(lost) > table.rows:
      known = lambda cells: sum(bool(names.find(v)) for v in _texts(cells)[1] if v)
      others = ((name, cells) for name, cells in table.columns.items() if name != key)
      better = next((name for name, cells in others if 2 * known(cells) > table.rows), "")
      hint = f" The column {better!r} does: say {place}.key: {better}." if better else ""
      raise ValueError(f"{place}: {told}. The first picture is {next(iter(names.paths))!r}.{hint}")
    notes.append(f"warning: {told}")
  if len(alone := np.flatnonzero(rows < 0)):
    first = list(names.paths)[alone[0]]
    notes.append(
      f"warning: {len(alone)} of {len(rows)} pictures have no row in {path}, first {first!r}"
    )
  return notes
