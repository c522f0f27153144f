"""Columns and files of the UCI KDD Census-Income data.

Reads the two files as UCI distributes them, or one Parquet file with both, into
columns of codes. Nothing here knows of tasks, splits or encodings.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import csv
import dataclasses
import gzip
import importlib
import itertools
import pathlib
from typing import Any, NamedTuple
import zlib

from jaxtyping import Float, Int
import numpy as np

from dynashare_jax.data import text

# Names of the 42 fields of a line, in the order of the files.
_NAMES = (
  "age class_worker det_ind_code det_occ_code education wage_per_hour hs_college marital_stat "
  "major_ind_code major_occ_code race hisp_origin sex union_member unemp_reason full_or_part_emp "
  "capital_gains capital_losses stock_dividends tax_filer_stat region_prev_res state_prev_res "
  "det_hh_fam_stat det_hh_summ instance_weight mig_chg_msa mig_chg_reg mig_move_reg mig_same "
  "mig_prev_sunbelt num_emp fam_under_18 country_father country_mother country_self citizenship "
  "own_or_self vet_question vet_benefits weeks_worked year income_50k"
)
COLUMNS = tuple(_NAMES.split())
LABELS = ("income_50k", "marital_stat", "education")
_NUMBERS = (
  "age wage_per_hour capital_gains capital_losses stock_dividends instance_weight num_emp "
  "weeks_worked"
)
NUMERIC = tuple(_NUMBERS.split())
# The others, also where their categories are written as whole numbers
# (industry, occupation, own business, veteran's benefits, year).
CATEGORICAL = tuple(c for c in COLUMNS if c not in LABELS + NUMERIC)

PARQUET = "census_income_kdd.parquet"
RAW = {"train": "census-income.data", "test": "census-income.test"}
ROWS = (199_523, 99_762)

_WHERE = (
  "They are at the UCI Machine Learning Repository, page 'Census-Income (KDD)',"
  " https://archive.ics.uci.edu/dataset/117/census+income+kdd. Put them into a"
  " folder DIR and pass --config.data_dir=DIR."
)
_CHUNK = 256  # lines parsed at once; more no longer fit the cache


class Column(NamedTuple):
  """One column: a code per row, and the text of every code."""

  codes: Int[np.ndarray, " N"]
  values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Table:
  """The rows of one file.

  Attributes:
    name: of the file, for messages.
    columns: the 42 columns by name.
    numbers: place of every row in the file, from 1, for messages.
    unit: of `numbers`, `line` or (in a Parquet file) `row`.
  """

  name: str
  columns: Mapping[str, Column]
  numbers: Int[np.ndarray, " N"]
  unit: str = "line"

  @property
  def rows(self) -> int:
    """Number of rows."""
    return len(self.numbers)

  def take(self, rows: Int[np.ndarray, " M"]) -> Table:
    """Returns a table of some rows, in the order asked for."""
    columns = {
      name: Column(column.codes[rows], column.values) for name, column in self.columns.items()
    }
    return Table(self.name, columns, self.numbers[rows], self.unit)

  def place(self, column: str, value: str) -> str:
    """Returns where a value first occurs: file, line and column."""
    codes, values = self.columns[column]
    same = [i for i, other in enumerate(values) if other == value]
    number = self.numbers[np.argmax(np.isin(codes, same))]
    return f"{self.name}, {self.unit} {number}, column '{column}'"

  def category(
    self, column: str, mapping: Mapping[str, int], default: int
  ) -> Int[np.ndarray, " N"]:
    """Maps a column's values to whole numbers; others get the default."""
    codes, values = self.columns[column]
    return np.array([mapping.get(value, default) for value in values], np.int32)[codes]

  def number(self, column: str) -> Float[np.ndarray, " N"]:
    """Returns a column as float64 numbers.

    Raises:
      ValueError: a value is not a finite number; names it and its place.
    """
    codes, values = self.columns[column]
    numbers = np.array([_number(value) for value in values])
    with np.errstate(over="ignore"):
      bad = np.flatnonzero(~np.isfinite(numbers.astype(np.float32)))
    if len(bad):
      value = values[bad[0]]
      raise ValueError(
        f"'{value}' is not a number ({self.place(column, value)}), or not one that 32 bits hold."
        " Fetch the file again or mend it."
      )
    return numbers[codes]

  def categories(self, column: str) -> tuple[str, ...]:
    """Returns the values that occur, ascending (as numbers where they are)."""
    codes, values = self.columns[column]
    used = [values[i] for i in np.unique(codes)]
    return tuple(sorted(used, key=int if all(map(str.isdecimal, used)) else None))


def read(data_dir: str | None, rows: Sequence[int] = ROWS) -> tuple[Table, Table]:
  """Reads the training and the test file, in this order.

  `census_income_kdd.parquet` is taken where it lies, else `census-income.data`
  and `census-income.test`, each plain or with `.gz`.

  Args:
    rows: rows expected in the training and the test file; 0 accepts any number.

  Raises:
    FileNotFoundError: a file is missing; names the files and where to get them.
    ValueError: a file is damaged or cut off; names the file and the line.
  """
  looked = f"{PARQUET}, or {' and '.join(RAW.values())} (each also with .gz)"
  if data_dir is None:
    needed = f"The census data needs a folder with {looked}, and none is given."
    raise FileNotFoundError(f"{needed} {_WHERE}")
  folder = pathlib.Path(data_dir).expanduser()
  parquet = folder / PARQUET
  if parquet.is_file():
    tables = _read_parquet(parquet)
  else:
    paths = {
      split: [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
      for split, name in RAW.items()
    }
    missing = [RAW[split] for split, there in paths.items() if not there]
    if missing:
      absent = f"No {' and no '.join(missing)} in '{folder}'."
      raise FileNotFoundError(f"{absent} The census data is read from {looked}. {_WHERE}")
    tables = {split: _read_csv(there[0]) for split, there in paths.items()}
  for split, wanted in zip(("train", "test"), rows, strict=True):
    _check_rows(tables[split], wanted)
    for column in NUMERIC:
      tables[split].number(column)  # raises now, not after hours of training
  _check_seen(tables["train"], tables["test"])
  return tables["train"], tables["test"]


def _number(text: str) -> float:
  """Reads a number; NaN where it is none."""
  try:
    return float(text)
  except ValueError:
    return float("nan")


def _check_rows(table: Table, wanted: int) -> None:
  """Raises where a file has fewer or more rows than the original."""
  if table.rows < 2:
    raise ValueError(f"{table.name} has {table.rows} rows: nothing to learn.")
  if wanted and table.rows != wanted:
    raise ValueError(
      f"{table.name} has {table.rows} rows, the last in {table.unit} {table.numbers[-1]}, but the"
      f" original has {wanted}: the file is cut off or changed. Fetch it again; a file of your own"
      " is read with --config.data.rows='(0, 0)'."
    )


def _check_seen(train: Table, test: Table) -> None:
  """Raises where the files spell the categories of a column in two ways."""
  for column in CATEGORICAL:
    known, others = train.categories(column), test.categories(column)
    if not set(known) & set(others):
      raise ValueError(
        f"No value of column '{column}' in {test.name}, first {others[0]!r}, is in {train.name},"
        f" which has {known[0]!r}: one of them is written in another way. Write both alike."
      )


def _read_csv(path: pathlib.Path) -> Table:
  """Reads one comma-separated file, plain or compressed."""
  # Text -> code, in the order of the first occurrences.
  vocabularies: list[dict[str, int]] = [
    collections.defaultdict(itertools.count().__next__) for _ in COLUMNS
  ]
  codes = [[np.zeros(0, np.int32)] for _ in COLUMNS]
  lines = [np.zeros(0, np.int32)]
  for numbers, rows in _chunks(path):
    lines.append(np.asarray(numbers, np.int32))
    for column, vocabulary, parts in zip(zip(*rows, strict=True), vocabularies, codes, strict=True):
      parts.append(np.fromiter(map(vocabulary.__getitem__, column), np.int32, len(column)))
  columns = {
    name: Column(np.concatenate(parts), tuple(value.strip() for value in vocabulary))
    for name, vocabulary, parts in zip(COLUMNS, vocabularies, codes, strict=True)
  }
  return Table(path.name, columns, np.concatenate(lines))


def _chunks(path: pathlib.Path) -> Iterator[tuple[list[int], list[list[str]]]]:
  """Yields line numbers and fields of some thousand lines at a time."""
  opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
  done = 0
  try:
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
      first = file.readline()
      mark = text.separator(first, lambda fields: len(fields) == len(COLUMNS))
      lines = itertools.chain([first], file)
      reader = csv.reader(lines, delimiter=mark, skipinitialspace=True)
      numbered = ((reader.line_num, row) for row in reader)
      while found := list(itertools.islice(numbered, _CHUNK)):
        done = found[-1][0]
        filled = [(n, row) for n, row in found if len(row) > 1 or "".join(row).strip()]
        for number, row in filled:
          if len(row) != len(COLUMNS):
            raise ValueError(
              f"{path.name}, line {number}: {len(row)} fields, expected {len(COLUMNS)}. The file is"
              " cut off or damaged; fetch it again."
            )
        if filled:
          yield [number for number, _ in filled], [row for _, row in filled]
  except UnicodeDecodeError:
    text.read(path)  # raises, and names the line
    raise
  except (EOFError, OSError, csv.Error, zlib.error) as error:
    raise ValueError(
      f"{path.name} cannot be read on after line {done} ({error}): the file is cut off or damaged."
      " Fetch it again."
    ) from error


def _read_parquet(path: pathlib.Path) -> dict[str, Table]:
  """Reads both tables from one Parquet file with a column `split`."""
  try:
    parquet = importlib.import_module("pyarrow.parquet")
  except ImportError as error:
    raise ImportError(
      f"Reading {path.name} needs pyarrow: run `pip install pyarrow`, or put"
      f" {' and '.join(RAW.values())} into '{path.parent}' instead of it."
    ) from error
  try:
    table = parquet.read_table(path).unify_dictionaries()
  except (OSError, ValueError) as error:
    raise ValueError(
      f"{path.name} cannot be read ({error}): the file is cut off or damaged."
    ) from error
  missing = [c for c in (*COLUMNS, "split") if c not in table.column_names]
  if missing:
    raise ValueError(
      f"{path.name} has no column {', '.join(missing)}; it needs {', '.join(COLUMNS)} and split."
    )
  split = _arrow_column(table, "split")
  columns = {name: _arrow_column(table, name) for name in COLUMNS}
  whole = Table(path.name, columns, np.arange(1, table.num_rows + 1), "row")
  unknown = set(split.values) - set(RAW)
  if unknown:
    raise ValueError(
      f"{path.name}: column 'split' holds {sorted(unknown)}, only 'train' and 'test' are known."
    )
  found = {value: code for code, value in enumerate(split.values)}
  return {name: whole.take(np.flatnonzero(split.codes == found.get(name, -1))) for name in RAW}


def _arrow_column(table: Any, name: str) -> Column:
  """Turns a column of an Arrow table into codes and texts."""
  array = table.column(name).combine_chunks()
  if not hasattr(array, "dictionary"):
    array = array.dictionary_encode()
  if array.null_count:
    raise ValueError(f"Column '{name}' has {array.null_count} empty fields.")
  values = tuple(str(value).strip() for value in array.dictionary.to_pylist())
  return Column(array.indices.to_numpy(zero_copy_only=False).astype(np.int32), values)
