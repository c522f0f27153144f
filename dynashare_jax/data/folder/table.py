"""Reads tables of labels, CSV or Parquet, and finds the rows of pictures in them."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
import csv
import dataclasses
import functools
import importlib
import io
import itertools
import math
import os
import re
from typing import Any
import unicodedata

import numpy as np

from dynashare_jax import lookup
from dynashare_jax.data import text
from dynashare_jax.data.folder import files as folder_files

_CHUNK = 256  # rows that are split up at once
_WHOLE = re.compile(r"[-+]?\d+\.0+")


@dataclasses.dataclass(frozen=True)
class Column:
  """The cells of a column.

  Attributes:
    name: in the header.
    codes: int32 `[N]`, of every row the place of its cell in `values`.
    values: the different cells, without blanks at their ends; whole numbers without `.0`.
    where: the file, for messages.
    unit: of `lines`: `line`, or in a Parquet file `row`.
    lines: int `[N]`, where in the file every row stands.
  """

  name: str
  codes: np.ndarray
  values: tuple[str, ...]
  where: str
  unit: str
  lines: np.ndarray

  def place(self, value: str) -> str:
    """Returns where a cell first occurs: file, line and column."""
    line = self.lines[np.argmax(np.isin(self.codes, _places(self.values, value)))]
    return f"{self.where}, {self.unit} {line}, column {self.name!r}"

  def take(self, rows: np.ndarray) -> Column:
    """Returns the cells of some rows, `[M]`; only of those are there `values`."""
    used, codes = np.unique(self.codes[rows], return_inverse=True)
    values = tuple(self.values[code] for code in used)
    return dataclasses.replace(
      self, codes=codes.reshape(-1).astype(np.int32), values=values, lines=self.lines[rows]
    )


@dataclasses.dataclass(frozen=True)
class Table:
  """Columns by name, in the order of a file; `twice` are names that stand there more than once."""

  where: str
  columns: Mapping[str, Column]
  twice: frozenset[str]

  @property
  def rows(self) -> int:
    """Number of rows."""
    return len(next(iter(self.columns.values())).codes)


def _places(values: Sequence[str], value: str) -> list[int]:
  return [place for place, other in enumerate(values) if other == value]


def cell(stored: str) -> str:
  """Returns a cell as it is compared: without blanks at its ends, 3.0 as 3, one form of Unicode."""
  stored = unicodedata.normalize("NFC", stored.strip())
  return stored.partition(".")[0] if _WHOLE.fullmatch(stored) else stored


def read(path: str, wanted: Sequence[str]) -> Table:
  """Reads a file: CSV with a header (plain or `.gz`), or Parquet.

  Args:
    wanted: names of columns, by which the character between cells is told.

  Raises:
    ValueError: there is no file, it is damaged, has no rows, or a row of another length.
  """
  if not os.path.isfile(path):
    raise ValueError(f"there is no file {path}.")
  made = _parquet(path) if path.lower().endswith(".parquet") else _csv(path, wanted)
  if not made.columns or not made.rows:
    raise ValueError(f"{path} has no row below its header.")
  return made


def _csv(path: str, wanted: Sequence[str]) -> Table:
  """Reads a file of text."""
  content = text.read(path)
  first = io.StringIO(content, newline="").readline()  # ends with any of \n, \r\n and \r
  fits = lambda names: {*wanted} <= {*map(cell, names)} and len(names) > 1
  mark = text.separator(first, fits)
  if mark not in first:
    mark = text.separator(first, lambda names: len(names) > 1)
  reader = csv.reader(
    io.StringIO(content, newline=""), delimiter=mark, skipinitialspace=True, strict=True
  )
  lines = [np.zeros(0, np.int64)]
  try:
    header = [cell(name) for name in next(reader, [])]
    # Cell -> code, in the order of the first occurrences.
    known: list[dict[str, int]] = [
      collections.defaultdict(itertools.count().__next__) for _ in header
    ]
    codes = [[np.zeros(0, np.int32)] for _ in header]
    for numbers, rows in _chunks(reader, path, header):
      lines.append(np.asarray(numbers))
      for cells, vocabulary, parts in zip(zip(*rows, strict=True), known, codes, strict=True):
        parts.append(np.fromiter(map(vocabulary.__getitem__, cells), np.int32, len(cells)))
  except csv.Error as error:
    raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error
  columns = zip(map(np.concatenate, codes), map(tuple, known), strict=True)
  return _table(path, "line", np.concatenate(lines), header, list(columns))


def _chunks(
  reader: Any, path: str, header: Sequence[str]
) -> Iterator[tuple[list[int], list[list[str]]]]:
  """Yields numbers of lines and cells of some rows at a time; empty lines are left out."""
  numbered = ((reader.line_num, row) for row in reader)
  while found := list(itertools.islice(numbered, _CHUNK)):
    filled = [(number, row) for number, row in found if any(row)]
    for number, row in filled:
      if len(row) != len(header):
        raise ValueError(
          f"{path}, line {number}: {len(row)} cells, but the header has {len(header)} names."
        )
    if filled:
      yield [number for number, _ in filled], [row for _, row in filled]


def _parquet(path: str) -> Table:
  """Reads a Parquet file, whose values become texts."""
  try:
    parquet = importlib.import_module("pyarrow.parquet")
  except ImportError as error:
    raise ValueError(f"{path} needs pyarrow: pip install pyarrow, or save it as CSV.") from error
  try:
    found = parquet.read_table(path)
  except (OSError, ValueError) as error:
    raise ValueError(f"Cannot read {path} ({error}).") from error
  columns = []
  for column in found.columns:
    texts = np.array([_written(value) for value in column.to_pylist()], object)
    values, codes = np.unique(texts, return_inverse=True)
    columns.append((codes.reshape(-1), tuple(values)))
  names = [cell(name) for name in found.column_names]
  return _table(path, "row", 1 + np.arange(found.num_rows), names, columns)


def _written(value: Any) -> str:
  """A value as a CSV file would have it."""
  if value is None or (isinstance(value, float) and math.isnan(value)):
    return ""
  return str(value).lower() if isinstance(value, bool) else str(value)


def _table(
  path: str,
  unit: str,
  lines: np.ndarray,
  header: Sequence[str],
  columns: Sequence[tuple[np.ndarray, tuple[str, ...]]],
) -> Table:
  """Puts columns together; of equal names the first counts."""
  made: dict[str, Column] = {}
  for name, (codes, values) in zip(header, columns, strict=True):
    made.setdefault(name, Column(name, codes, tuple(map(cell, values)), path, unit, lines))
  twice = frozenset(name for name, count in collections.Counter(header).items() if count > 1)
  return Table(path, made, twice)


@dataclasses.dataclass(frozen=True)
class Rows:
  """The tables of a data set, row by row as its examples; without a row, all cells are empty.

  Attributes:
    tables: of the files.
    rows: of every table, int `[N]`: the row of every example, or -1.
    examples: their names.
    notes: what was not used, for the user.
  """

  tables: tuple[Table, ...]
  rows: tuple[np.ndarray, ...]
  examples: tuple[str, ...]
  notes: tuple[str, ...]

  def column(self, name: str, place: str) -> tuple[Column, np.ndarray]:
    """Returns the cells that a column has for examples, and the places of these examples.

    Raises:
      ValueError: no file has it, or it stands twice; `place` is the key that asks for it.
    """
    having = [i for i, table in enumerate(self.tables) if name in table.columns]
    files = " and ".join(table.where for table in self.tables)
    if not having:
      names = list(dict.fromkeys(itertools.chain(*(table.columns for table in self.tables))))
      shown = ", ".join(map(repr, names[:_SHOWN])) + ", ..." * (len(names) > _SHOWN)
      raise ValueError(
        f"{place}: {files} has no column {name!r}.{lookup.hint(name, names)} There are {shown}."
      )
    if len(having) > 1 or name in self.tables[having[0]].twice:
      raise ValueError(f"{place}: the column {name!r} stands twice in {files}; rename one.")
    (of,) = having
    there = np.flatnonzero(self.rows[of] >= 0)
    return self.tables[of].columns[name].take(self.rows[of][there]), there


_SHOWN = 12  # names of columns in a message


def find_rows(
  tables: Sequence[Table], key: str | None, paths: Mapping[str, str], place: str
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
    notes += told
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


def _rows_of(
  table: Table, key: str | None, names: _Names, place: str
) -> tuple[np.ndarray, list[str]]:
  """The row of every example, -1 without one, and notes."""
  if key is not None and (key not in table.columns or key in table.twice):
    fault = "has no" if key not in table.columns else "has twice the"
    hint = lookup.hint(key, table.columns)
    raise ValueError(f"{place}.key: {table.where} {fault} column {key!r}.{hint}")
  column = table.columns[key] if key is not None else next(iter(table.columns.values()))
  examples = [names.find(value) if value else [] for value in column.values]
  rows = [-1] * len(names.paths)
  lost: list[int] = []
  for row, code in enumerate(column.codes.tolist()):
    fits = examples[code]
    if not fits:
      lost.append(row)
      continue
    if len(fits) > 1:
      raise ValueError(
        f"{column.place(column.values[code])}: {column.values[code]!r} may be {fits[0]!r} or"
        f" {fits[1]!r}. Write the path from the folder of the pictures on."
      )
    at = names.places[fits[0]]
    if rows[at] >= 0:
      raise ValueError(
        f"{column.where}: the picture {fits[0]!r} has two rows, in {column.unit}s"
        f" {column.lines[rows[at]]} and {column.lines[row]}. Keep one."
      )
    rows[at] = row
  found = np.asarray(rows)
  return found, _unused(table, column, names, found, lost, place)


def _unused(
  table: Table, column: Column, names: _Names, rows: np.ndarray, lost: Sequence[int], place: str
) -> list[str]:
  """Notes on rows without a picture and pictures without a row; refuses when most rows are lost."""
  notes = []
  if lost:
    first = column.values[column.codes[lost[0]]]
    told = (
      f"{len(lost)} of the {table.rows} rows of {table.where} name no picture, first {first!r}"
      f" ({column.unit} {column.lines[lost[0]]}, column {column.name!r})"
    )
    if 2 * len(lost) > table.rows:
      better = [
        name
        for name, other in table.columns.items()
        if name != column.name
        and 2 * sum(bool(names.find(v)) for v in other.values if v) > table.rows
      ]
      hint = f" The column {better[0]!r} does: say {place}.key: {better[0]}." if better else ""
      raise ValueError(f"{place}: {told}. The first picture is {next(iter(names.paths))!r}.{hint}")
    notes.append(f"warning: {told}")
  if len(alone := np.flatnonzero(rows < 0)):
    first = list(names.paths)[alone[0]]
    notes.append(
      f"warning: {len(alone)} of {len(rows)} pictures have no row in {table.where}, first {first!r}"
    )
  return notes
