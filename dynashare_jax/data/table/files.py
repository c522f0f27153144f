"""Reads tables: CSV as it comes, and Parquet."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Mapping, Sequence
import csv
import dataclasses
import glob
import importlib
import io
import itertools
import os
import pathlib
import re
from typing import Any
import unicodedata

import numpy as np

from dynashare_jax import lookup
from dynashare_jax.data import text
from dynashare_jax.data.cells import Cells

_PARQUET = (".parquet", ".pq")
_READ = (".csv", ".tsv", ".txt", ".data", ".dat", ".asc", *_PARQUET)
_OTHERS = (  # what is no text, though it holds tables
  *(".xlsx", ".xls", ".ods", ".zip", ".bz2", ".xz", ".npy", ".npz", ".h5", ".pkl", ".feather"),
  *(".arrow", ".sav", ".dta", ".sas7bdat", ".db", ".sqlite", ".mat", ".json", ".jsonl"),
)
_TOLD = re.compile(r"(sep=([^\w\s]|\t|\|))\r?\n", re.IGNORECASE)  # as Excel tells the separator
# Arrow's types that are neither a number, a text, a truth value nor a date.
_NOT_READ = (
  *("list", "large_list", "fixed_size_list", "struct", "map", "binary", "large_binary"),
  *("fixed_size_binary", "time32", "time64"),
)
_SAMPLE = 100  # lines that tell the separator
_CHUNK = 256  # rows that are split up at once


@dataclasses.dataclass(frozen=True)
class Layout:
  """How files are written.

  Attributes:
    delimiter: of fields; empty is found out.
    encoding: see `text.read_any`.
    names: of the columns, for files without a line of names.
  """

  delimiter: str = ""
  encoding: str = ""
  names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Frame:
  """The rows of one or several files.

  Attributes:
    columns: name -> cells.
    files: their paths.
    file: which of them a row is from, `[N]`.
    lines: place of a row in its file, from 1, `[N]`.
    notes: what was found out of the files.
    twice: names that stand more than once; none of these can be asked for.
  """

  columns: Mapping[str, Cells]
  files: tuple[str, ...]
  file: np.ndarray
  lines: np.ndarray
  notes: tuple[str, ...] = ()
  twice: frozenset[str] = frozenset()

  @property
  def rows(self) -> int:
    """Number of rows."""
    return len(self.lines)

  def where(self, row: int, column: str) -> str:
    """Returns where a cell is: file, line and column."""
    return f"{self.files[self.file[row]]}, {self.unit} {self.lines[row]}, column {column!r}"

  @property
  def unit(self) -> str:
    """What `lines` count: `line`, or `row` of a Parquet file."""
    return "row" if self.files[0].lower().endswith(_PARQUET) else "line"

  def places(self, column: str) -> Callable[[int], str]:
    """Returns what says where a column's cell of a row is."""
    return lambda row: self.where(row, column)

  def take(self, rows: np.ndarray) -> Frame:
    """Returns some rows."""
    columns = {name: cells.take(rows) for name, cells in self.columns.items()}
    return dataclasses.replace(self, columns=columns, file=self.file[rows], lines=self.lines[rows])

  def column(self, name: str, place: str) -> Cells:
    """Returns a column that `place`, for messages, names.

    Raises:
      ValueError: there is none, or more than one.
    """
    if name in self.twice:
      raise ValueError(f"{place}: the column {name!r} stands twice in {self.files[0]}; rename one.")
    if name not in self.columns:
      raise ValueError(
        f"{place}: {self.files[0]} has no column {name!r}.{lookup.hint(name, self.columns)} It has"
        f" {', '.join(map(repr, itertools.islice(self.columns, 20)))}"
        f"{', ...' if len(self.columns) > 20 else ''}."
        f"{' If that is several, say delimiter.' if len(self.columns) == 1 else ''}"
      )
    return self.columns[name]


def find(folder: str, pattern: str, place: str) -> tuple[str, ...]:
  """Returns the files of a path or a pattern with `*`, sorted.

  Raises:
    ValueError: there is none; `place` says where it is asked for.
  """
  path = os.path.join(folder, os.path.expanduser(pattern))
  found = [path] if os.path.isfile(path) else sorted(glob.glob(path, recursive=True))
  if files := tuple(f for f in found if os.path.isfile(f)):
    return files
  known = os.listdir(folder) if os.path.isdir(folder) else []
  raise ValueError(f"{place}: there is no file {path}.{lookup.hint(pattern, known)}")


def tables_in(folder: str) -> tuple[str, ...]:
  """Returns the files of a folder whose endings are those of tables, sorted; nothing hidden.

  Raises:
    ValueError: there is none.
  """
  names = [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
  found = [name for name in names if name.lower().removesuffix(".gz").endswith(_READ)]
  if not found:
    raise ValueError(f"There is no table in {folder}; endings read are {', '.join(_READ)}.")
  return tuple(os.path.join(folder, name) for name in found)


def read(
  paths: Sequence[str], layout: Layout, wanted: Collection[str] = (), lenient: bool = False
) -> Frame:
  """Reads files of the same columns, one behind the other.

  Args:
    wanted: columns that they should have, which tell the separator.
    lenient: whether a name of columns may stand twice, or be a number, as not all are used.

  Raises:
    ValueError: a file cannot be read, or its columns are others; names file and line.
  """
  parts = [_read(path, layout, wanted, lenient) for path in paths]
  first = parts[0]
  for part in parts[1:]:
    for one, other in ((first, part), (part, first)):
      if lacking := [name for name in one.columns if name not in other.columns]:
        raise ValueError(
          f"{other.files[0]} has no column {lacking[0]!r}, which {one.files[0]} has."
          f"{lookup.hint(lacking[0], other.columns)}"
        )
  sizes = [part.rows for part in parts]
  columns = {name: Cells.join([part.columns[name] for part in parts]) for name in first.columns}
  notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
  return Frame(
    columns,
    tuple(paths),
    np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
    np.concatenate([part.lines for part in parts]),
    notes,
    frozenset().union(*(part.twice for part in parts)),
  )


def _read(path: str, layout: Layout, wanted: Collection[str], lenient: bool) -> Frame:
  """One file, by its ending."""
  ending = pathlib.Path(path).suffix.lower()
  if ending in _PARQUET:
    frame = _read_parquet(path, lenient)
  elif ending in _OTHERS:
    raise ValueError(
      f"{path}: tables are read from CSV (.csv, .tsv, .txt, also with .gz) and Parquet (.parquet),"
      f" not from {ending}: save it as one of them."
    )
  else:
    frame = _read_csv(path, layout, wanted, lenient)
  if not frame.rows:
    raise ValueError(f"{path} has no row{'' if layout.names else ' below its header'}.")
  return frame


def _read_csv(path: str, layout: Layout, wanted: Collection[str], lenient: bool) -> Frame:
  """A file of fields with a separator."""
  content, encoding = text.read_any(path, layout.encoding)
  if "\0" in content:
    line = 1 + content.count("\n", 0, content.index("\0"))
    raise ValueError(
      f"{path}, line {line}: a byte of 0, as no text has. Is it a CSV file? If it is UTF-16, say"
      " encoding: utf-16-le."
    )
  told = _TOLD.match(content)
  content = content[told.end(1) :] if told else content  # its line stays, as an empty one
  mark = layout.delimiter or (told.group(2) if told else _separator(content, wanted))
  empty: list[int] = []
  filled = text.records(path, content, mark, empty)
  line, first = next(filled, (0, []))
  named = not layout.names or (bool(wanted) and {*wanted} <= {name.strip() for name in first})
  header = _header(path, line, first, lenient) if named else list(layout.names)
  rows = filled if named else itertools.chain([(line, first)] if first else [], filled)
  # Cell -> code, in the order of the first occurrences.
  known: list[dict[str, int]] = [
    collections.defaultdict(itertools.count().__next__) for _ in header
  ]
  codes = [[np.zeros(0, np.int32)] for _ in header]
  lines: list[int] = []
  while part := list(itertools.islice(rows, _CHUNK)):
    for number, row in part:
      _check_row(path, number, row, header, first if named else [], mark, layout, not lines)
      lines.append(number)
    columns = zip(*(row for _, row in part), strict=True)
    for cells, vocabulary, found in zip(columns, known, codes, strict=True):
      found.append(np.fromiter(map(vocabulary.__getitem__, cells), np.int32, len(cells)))
  twice = frozenset(name for name in header if header.count(name) > 1)
  made = {
    name: Cells.coded(np.concatenate(found), list(vocabulary))
    for name, vocabulary, found in reversed(list(zip(header, known, codes, strict=True)))
  }
  made = {name: made[name] for name in header}
  for name in [n for n in made if n.startswith("unnamed ") and n not in layout.names]:
    if made[name].texts == ("",):
      del made[name]  # every line ends with a separator
  notes = _csv_notes(mark, encoding, layout)
  if empty:
    notes += (f"{len(empty)} lines of {path} without any value are left out, first {empty[0]}.",)
  of_file = np.zeros(len(lines), np.int32)
  return Frame(made, (path,), of_file, np.array(lines, np.int64), notes, twice)


def _check_row(
  path: str,
  line: int,
  row: Sequence[str],
  header: Sequence[str],
  names: Sequence[str],
  mark: str,
  layout: Layout,
  first: bool,
) -> None:
  """Refuses a row of another length than the header, and the line of names once more."""
  if row == names:
    raise ValueError(
      f"{path}, line {line}: the line of names stands again, as where files were put together."
      " Leave it out."
    )
  if len(row) != len(header):
    raise ValueError(f"{path}, line {line}: {_other_length(row, header, mark, layout, first)}")


def _other_length(
  row: Sequence[str], header: Sequence[str], mark: str, layout: Layout, first: bool
) -> str:
  """What to say of a row of another length than the header; `first` is the first below it."""
  if first and len(header) < 3 <= len(row) > len(header) + 1 and not layout.names:
    return (
      f"{len(row)} fields, but above it stands {mark.join(header)[:40]!r}, which seems to be no"
      " line of names: leave it out."
    )
  more = ""
  if first and len(row) == len(header) + 1:
    more = " If all lines have one more, give the first line a name for it, as of row numbers."
  return (
    f"{len(row)} fields, but {'names has' if layout.names else 'the first line has'} {len(header)},"
    f" parted by {mark!r}. Mend the line; fields that hold {mark!r} belong in quotes.{more}"
  )


def _csv_notes(mark: str, encoding: str, layout: Layout) -> tuple[str, ...]:
  """What was found out of a file and is not the usual."""
  shown = {"\t": "tab"}.get(mark, repr(mark))
  notes = [f"fields are parted by {shown}."] * (mark != "," and not layout.delimiter)
  if encoding not in ("utf-8-sig", layout.encoding):
    notes.append(f"warning: the text is not UTF-8; it is read as {encoding}, or say encoding.")
  return tuple(notes)


def _header(path: str, line: int, row: Sequence[str], lenient: bool) -> list[str]:
  """The names of columns; those without one are called by their place."""
  written = (unicodedata.normalize("NFC", name.strip()) for name in row)
  names = [name or f"unnamed {place}" for place, name in enumerate(written, 1)]
  if lenient:
    return names
  twice = [name for name in names if names.count(name) > 1]
  if twice:
    places = [str(i) for i, name in enumerate(names, 1) if name == twice[0]]
    raise ValueError(
      f"{path}, line {line}: the columns {' and '.join(places)} are both called {twice[0]!r}."
      " Rename one."
    )
  numbers = [name for name in names if name.replace(".", "", 1).lstrip("-").isdigit()]
  if len(numbers) > len(names) / 2:
    raise ValueError(
      f"{path}, line {line}: most names of columns are numbers, first {numbers[0]!r}. If the file"
      " has no line of names, say them: names: [age, ...]."
    )
  return names


def _separator(content: str, wanted: Collection[str]) -> str:
  """The separator by which most lines have as many fields as the first, and more than one."""
  sample = list(itertools.islice(io.StringIO(content, newline=None), _SAMPLE))

  def score(mark: str) -> tuple[bool, float, int]:
    try:
      rows = [row for row in csv.reader(sample, delimiter=mark, skipinitialspace=True) if row]
    except csv.Error:
      return False, 0.0, 0
    names = [name.strip() for name in rows[0]] if rows else []
    same = sum(len(row) == len(names) for row in rows) / max(1, len(rows))
    return bool(wanted) and {*wanted} <= {*names}, same if len(names) > 1 else 0.0, len(names)

  return max(text.SEPARATORS, key=score)


def _read_parquet(path: str, lenient: bool) -> Frame:
  """A Parquet file, column by column."""
  try:
    parquet = importlib.import_module("pyarrow.parquet")
  except ImportError as error:
    raise ImportError(
      f"Reading {path} needs pyarrow: run `pip install 'dynashare-jax[tables]'`, or save it as CSV."
    ) from error
  try:
    table = parquet.ParquetFile(path).read()  # read_table fails where a name stands twice
  except (OSError, ValueError) as error:
    told = " ".join(str(error).split())
    raise ValueError(f"{path} cannot be read ({told}).") from error
  names = [unicodedata.normalize("NFC", str(name)) for name in table.column_names]
  twice = [name for name in names if names.count(name) > 1]
  if twice and not lenient:
    raise ValueError(f"{path}: two columns are called {twice[0]!r}. Rename one.")
  where = lambda row, name: f"{path}, row {row + 1}, column {name!r}"
  kinds = {n: str(column.type) for n, column in zip(names, table.columns, strict=True)}
  left = [name for name, kind in kinds.items() if kind.startswith(_NOT_READ)]
  columns = {
    name: Cells.read(arrow_values(column), name, where)
    for name, column in zip(names, table.columns, strict=True)
    if name not in left
  }
  notes = tuple(
    f"warning: column {name!r} of {path} holds {kinds[name][:40]}, which is not read, and is left"
    " out."
    for name in left
  )
  rows = int(table.num_rows)
  lines = np.arange(1, rows + 1)
  return Frame(columns, (path,), np.zeros(rows, np.int32), lines, notes, frozenset(twice))


def arrow_values(column: Any) -> np.ndarray:
  """Returns a column of an Arrow table; missing ones NaN, NaT or None."""
  kind = str(column.type)
  if kind.endswith("int64") and column.null_count:  # as floats, large ones would be others
    return np.fromiter(column.to_pylist(), object, len(column))
  if kind.startswith(
    ("timestamp", "date", "duration", "int", "uint", "float", "double", "halffloat")
  ):
    zone = getattr(column.type, "tz", None)
    values = column.cast(_without_zone(column.type)) if zone else column
    array: np.ndarray = values.to_numpy()
    return array
  return np.fromiter(column.to_pylist(), object, len(column))


def _without_zone(kind: Any) -> Any:
  """The same type of time, in UTC."""
  return importlib.import_module("pyarrow").timestamp(kind.unit)
