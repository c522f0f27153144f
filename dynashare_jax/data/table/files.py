"""Reads tables: CSV as it comes, and Parquet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import csv
import dataclasses
import glob
import importlib
import io
import itertools
import os
import pathlib
from typing import Any

import numpy as np

from dynashare_jax import lookup
from dynashare_jax.data import text
from dynashare_jax.data.cells import Cells

_PARQUET = (".parquet", ".pq")
_OTHERS = (  # what is no text, though it holds tables
  *(".xlsx", ".xls", ".ods", ".zip", ".bz2", ".xz", ".npy", ".npz", ".h5", ".pkl", ".feather"),
  *(".arrow", ".sav", ".dta", ".sas7bdat", ".db", ".sqlite", ".mat", ".json", ".jsonl"),
)
_SAMPLE = 100  # lines that tell the separator


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
  """

  columns: Mapping[str, Cells]
  files: tuple[str, ...]
  file: np.ndarray
  lines: np.ndarray
  notes: tuple[str, ...] = ()

  @property
  def rows(self) -> int:
    """Number of rows."""
    return len(self.lines)

  def where(self, row: int, column: str) -> str:
    """Returns where a cell is: file, line and column."""
    path = self.files[self.file[row]]
    unit = "row" if path.endswith(_PARQUET) else "line"
    return f"{path}, {unit} {self.lines[row]}, column {column!r}"

  def take(self, rows: np.ndarray) -> Frame:
    """Returns some rows."""
    columns = {name: cells.take(rows) for name, cells in self.columns.items()}
    return dataclasses.replace(self, columns=columns, file=self.file[rows], lines=self.lines[rows])

  def column(self, name: str, place: str) -> Cells:
    """Returns a column that `place`, for messages, names.

    Raises:
      ValueError: there is none.
    """
    if name not in self.columns:
      raise ValueError(
        f"{place}: {self.files[0]} has no column {name!r}.{lookup.hint(name, self.columns)} It has"
        f" {', '.join(map(repr, itertools.islice(self.columns, 20)))}"
        f"{', ...' if len(self.columns) > 20 else ''}."
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


def read(paths: Sequence[str], layout: Layout, wanted: Collection[str] = ()) -> Frame:
  """Reads files of the same columns, one behind the other.

  Args:
    wanted: columns that they should have, which tell the separator.

  Raises:
    ValueError: a file cannot be read, or its columns are others; names file and line.
  """
  parts = [_read(path, layout, wanted) for path in paths]
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
  )


def _read(path: str, layout: Layout, wanted: Collection[str]) -> Frame:
  """One file, by its ending."""
  ending = pathlib.Path(path).suffix.lower()
  if ending in _PARQUET:
    frame = _read_parquet(path)
  elif ending in _OTHERS:
    raise ValueError(
      f"{path}: tables are read from CSV (.csv, .tsv, .txt, also with .gz) and Parquet (.parquet),"
      f" not from {ending}: save it as one of them."
    )
  else:
    frame = _read_csv(path, layout, wanted)
  if not frame.rows:
    raise ValueError(f"{path} has no row.")
  return frame


def _read_csv(path: str, layout: Layout, wanted: Collection[str]) -> Frame:
  """A file of fields with a separator."""
  content, encoding = text.read_any(path, layout.encoding)
  if "\0" in content:
    line = 1 + content.count("\n", 0, content.index("\0"))
    raise ValueError(f"{path}, line {line}: a byte of 0, as no text has. Is it a CSV file?")
  mark = layout.delimiter or _separator(content, wanted)
  # Strict: a quote that is never closed would swallow all that follows.
  reader = csv.reader(
    io.StringIO(content, newline=""), delimiter=mark, skipinitialspace=True, strict=True
  )
  rows: list[list[str]] = []
  lines: list[int] = []
  header: list[str] = []
  try:
    for row in reader:
      if len(row) < 2 and not "".join(row).strip():
        continue
      if not header:
        named = not layout.names or (bool(wanted) and {*wanted} <= {name.strip() for name in row})
        header = _header(path, reader.line_num, row) if named else list(layout.names)
        if named:
          continue
      if len(row) != len(header):
        raise ValueError(
          f"{path}, line {reader.line_num}: {len(row)} fields, but"
          f" {'names has' if layout.names else 'the first line has'} {len(header)}, parted by"
          f" {mark!r}. Mend the line; fields that hold {mark!r} belong in quotes."
        )
      rows.append(row)
      lines.append(reader.line_num)
  except csv.Error as error:
    raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error
  columns = {
    name: Cells.of_texts(cells)
    for name, cells in zip(header, zip(*rows, strict=True), strict=False)
  }
  notes = _csv_notes(mark, encoding, layout)
  for name in [n for n in columns if n.startswith("unnamed ") and n not in layout.names]:
    if columns[name].texts == ("",):
      del columns[name]  # every line ends with a separator
  return Frame(columns, (path,), np.zeros(len(rows), np.int32), np.array(lines, np.int64), notes)


def _csv_notes(mark: str, encoding: str, layout: Layout) -> tuple[str, ...]:
  """What was found out of a file and is not the usual."""
  shown = {"\t": "tab"}.get(mark, repr(mark))
  notes = [f"fields are parted by {shown}."] * (mark != "," and not layout.delimiter)
  if encoding not in ("utf-8-sig", layout.encoding):
    notes.append(f"warning: the text is not UTF-8; it is read as {encoding}, or say encoding.")
  return tuple(notes)


def _header(path: str, line: int, row: Sequence[str]) -> list[str]:
  """The names of columns; those without one are called by their place."""
  names = [name.strip() or f"unnamed {place}" for place, name in enumerate(row, 1)]
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
  sample = list(itertools.islice(io.StringIO(content, newline=""), _SAMPLE))

  def score(mark: str) -> tuple[bool, float, int]:
    try:
      rows = [row for row in csv.reader(sample, delimiter=mark, skipinitialspace=True) if row]
    except csv.Error:
      return False, 0.0, 0
    names = [name.strip() for name in rows[0]] if rows else []
    same = sum(len(row) == len(names) for row in rows) / max(1, len(rows))
    return bool(wanted) and {*wanted} <= {*names}, same if len(names) > 1 else 0.0, len(names)

  return max(text.SEPARATORS, key=score)


def _read_parquet(path: str) -> Frame:
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
  twice = [name for name in table.column_names if table.column_names.count(name) > 1]
  if twice:
    raise ValueError(f"{path}: two columns are called {twice[0]!r}. Rename one.")
  where = lambda row, name: f"{path}, row {row + 1}, column {name!r}"
  columns = {
    name: Cells.read(_arrow_values(table.column(name)), name, where) for name in table.column_names
  }
  rows = int(table.num_rows)
  return Frame(columns, (path,), np.zeros(rows, np.int32), np.arange(1, rows + 1))


def _arrow_values(column: Any) -> np.ndarray:
  """A column of an Arrow table; missing ones NaN, NaT or None."""
  kind = str(column.type)
  if kind.endswith("int64") and column.null_count:  # as floats, large ones would be others
    return np.fromiter(column.to_pylist(), object, len(column))
  if kind.startswith(
    ("timestamp", "date", "int", "uint", "float", "double", "halffloat", "duration")
  ):
    zone = getattr(column.type, "tz", None)
    values = column.cast(_without_zone(column.type)) if zone else column
    array: np.ndarray = values.to_numpy()
    return array
  return np.fromiter(column.to_pylist(), object, len(column))


def _without_zone(kind: Any) -> Any:
  """The same type of time, in UTC."""
  return importlib.import_module("pyarrow").timestamp(kind.unit)
