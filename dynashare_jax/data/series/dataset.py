"""Your own series, in a long table or a file each, that a small YAML file describes.

See docs/tables.md for the file, with an example.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import columns as columns_lib
from dynashare_jax.data import options
from dynashare_jax.data.cells import Cells
from dynashare_jax.data.cells import Spelling
from dynashare_jax.data.series import description as series_description
from dynashare_jax.data.series import encoding
from dynashare_jax.data.table import dataset as table
from dynashare_jax.data.table import files
from dynashare_jax.data.table import splits as table_splits

NAME = "series"
MOST_STEPS = 256
_PLAIN = Spelling()
_FREE = 2**31 - 1  # steps that no series has


def defaults() -> dict[str, Any]:
  """Returns the default values of `config.data`; see `table.defaults`."""
  return table.defaults()


def compat() -> dict[str, Any]:
  """Returns no switch: no published code exists for this data set."""
  return {}


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Reads the tables, and fits their encoding on the training series.

  Args:
    config: `config.data`, fields as in `defaults`.
    data_dir: folder with the description.
    seed: not used; the description has the seed of its shares.

  Returns:
    The data set. Inputs are a dict of `series` float32 `[N, steps, channels]` and `length` int32
    `[N]`, see `encoding.Encoder`. Targets are those of `data.table`, one for each series.

  Raises:
    ValueError: names the file and the key, or the file, line and column.
  """
  del compat, seed
  keys, example = series_description.KEYS, series_description.EXAMPLE
  raw, path = table.read_description(config, data_dir, NAME, keys, example)
  wanted = series_description.parse(raw, path)
  known = {task.name: task for task in wanted.rows.tasks}
  tasks = [known[t] for t in options.tasks(path, tuple(config.tasks) or tuple(known), known)]
  folder = os.path.dirname(path)
  frame, _ = table.read_frame(wanted.rows, folder, () if wanted.labels else wanted.rows.labels)
  frame.column(wanted.time, f"{path}: time")
  names = ids(frame, wanted.id, f"{path}: id")
  spelling, warnings = table.read_spelling(frame, wanted.rows)
  own, own_names, own_spelling, own_notes = _labels(wanted, frame, names, spelling, folder)
  series = _numbers(names, own_names)
  own, own_names, series, lost = _with_rows(wanted, own, own_names, names, series)
  rows, split_notes = table_splits.assign(own, wanted.rows.splits, own_spelling, {})
  found = [table.read_labels(task, own, rows, own_spelling) for task in tasks]
  fitted = _fit(wanted, frame, series, own, rows["train"], spelling, own_spelling)
  inputs, notes = fitted.encoder.read(frame.columns, series, own.columns, frame.where, own.where)
  return table.assemble(
    NAME,
    table.Made(inputs, rows, found),
    input_kind="series",
    input_shape=fitted.encoder.shape,
    lengths=True,
    channels=fitted.encoder.channels,
    series=fitted.encoder.spec,
    notes=(
      *frame.notes,
      *own_notes,
      *warnings,
      *lost,
      *split_notes,
      *fitted.notes,
      *notes,
      *(note for labels in found for note in labels.notes),
      *table.tells(_constant(fitted.encoder.spec, frame, series, own), found, spelling),
    ),
  )


def ids(frame: files.Frame, column: str, place: str) -> list[str]:
  """Returns the id of every row: of a column, or the name of its file without ending.

  Raises:
    ValueError: there is no such column, or a row has no id.
  """
  if not column:
    stems = [pathlib.Path(path).name.removesuffix(".gz").rpartition(".")[0] for path in frame.files]
    return [stems[index] for index in frame.file]
  cells = frame.column(column, place).as_names(Spelling())
  if (gone := cells.values < 0).any():
    raise ValueError(
      f"{frame.where(int(np.argmax(gone)), column)}: {gone.sum()} rows have no id: mend them, or"
      " leave them out."
    )
  return [(cells.texts or ())[code] for code in cells.values]


def number(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Numbers series by their first rows: of every row its series, of every series its first row."""
  known: dict[str, int] = {}
  series = np.array([known.setdefault(name, len(known)) for name in names], np.int64)
  return series, np.unique(series, return_index=True)[1]


def _labels(
  wanted: series_description.Description,
  frame: files.Frame,
  names: list[str],
  spelling: Spelling,
  folder: str,
) -> tuple[files.Frame, list[str], Spelling, tuple[str, ...]]:
  """A row of labels and static columns for every series, their ids, and notes."""
  where = wanted.rows.where
  if not wanted.labels:
    series, first = number(names)
    own = frame.take(first)
    _check_constant(wanted, frame, series, first, spelling)
    return own, [names[row] for row in first], spelling, ()
  paths = files.find(folder, wanted.labels, f"{where}: labels")
  key = wanted.id or "id"
  layout = dataclasses.replace(wanted.rows.layout, names=())
  own = files.read(paths, layout, {*wanted.rows.labels, key})
  own_names = ids(own, key, f"{where}: labels")
  lines: dict[str, int] = {}
  for row, name in enumerate(own_names):
    if name in lines:
      raise ValueError(
        f"{own.where(row, key)}: {name!r} stands twice, first {own.where(lines[name], key)}."
      )
    lines[name] = row
  for name in wanted.static:
    own.column(name, f"{where}: static")
  own_spelling, notes = table.read_spelling(own, wanted.rows)
  used = {key, *wanted.static, *wanted.rows.labels, *wanted.rows.splits.columns}
  if left := [name for name in own.columns if name not in used]:
    notes.append(
      f"columns of {paths[0]} that are no inputs: {', '.join(left[:12])}"
      f"{', ...' * (len(left) > 12)}; static: [{left[0]}] makes channels of them."
    )
  return own, own_names, own_spelling, (*own.notes, *notes)


def changes(
  cells: Cells, series: np.ndarray, first: np.ndarray, spelling: Spelling = _PLAIN
) -> np.ndarray:
  """Returns which rows have another value than the first row of their series, bool `[N]`.

  Args:
    series: number of the series of every row.
    first: the first row of every series.
    spelling: of numbers and missing values.
  """
  codes = cells.codes(spelling)
  return np.asarray(codes != codes[first][series])


def _check_constant(
  wanted: series_description.Description,
  frame: files.Frame,
  series: np.ndarray,
  first: np.ndarray,
  spelling: Spelling,
) -> None:
  """Refuses labels, and what splits go by, that differ between the rows of a series."""
  for name in (*wanted.rows.labels, *wanted.rows.splits.columns):
    other = changes(frame.column(name, wanted.rows.where), series, first, spelling)
    if other.any():
      raise ValueError(
        f"{frame.where(int(np.argmax(other)), name)}: another value than in the first row of the"
        " same series; labels and splits have one value a series. Put them into a table of labels."
      )


def _constant(
  spec: types.SeriesSpec, frame: files.Frame, series: np.ndarray, own: files.Frame
) -> dict[str, Cells]:
  """The inputs that have one value a series, by name, a row for each series."""
  rows = np.flatnonzero(series >= 0)
  _, first = np.unique(series[rows], return_index=True)
  found = {c.name: own.columns[c.name] for c in (spec.static.columns if spec.static else ())}
  for column in spec.rows.columns:
    cells = frame.columns[column.name].take(rows)
    if not changes(cells, series[rows], first).any():
      found[column.name] = cells.take(first)
  return found


def _numbers(names: list[str], own: list[str]) -> np.ndarray:
  """The place of every row's id among the series; -1 where it has none."""
  known = {name: number for number, name in enumerate(own)}
  return np.array([known.get(name, -1) for name in names], np.int64)


def _with_rows(
  wanted: series_description.Description,
  own: files.Frame,
  own_names: list[str],
  names: list[str],
  series: np.ndarray,
) -> tuple[files.Frame, list[str], np.ndarray, tuple[str, ...]]:
  """Leaves series without rows out, and counts these and ids without labels."""
  notes = []
  has = np.bincount(series[series >= 0], minlength=len(own_names)) > 0
  if not has.any():
    raise ValueError(
      f"{wanted.rows.where}: no id of {own.files[0]}, as {own_names[0]!r}, is in the series, which"
      f" have {names[0]!r}: are both written alike?"
    )
  if lacking := int((~has).sum()):
    name = own_names[int(np.argmin(has))]
    notes.append(
      f"warning: {lacking} of {len(has)} ids with labels have no row, first {name!r}; they are left"
      " out."
    )
  if unknown := {n for n, s in zip(names, series, strict=True) if s < 0}:
    notes.append(
      f"warning: {len(unknown)} series have no labels, first {min(unknown)!r}; they are left out."
    )
  kept = np.flatnonzero(has)
  place = np.cumsum(has) - 1
  return (
    own.take(kept),
    [own_names[number] for number in kept],
    np.where(series >= 0, place[series], -1),
    tuple(notes),
  )


@dataclasses.dataclass(frozen=True)
class _Fitted:
  """What training series tell."""

  encoder: encoding.Encoder
  notes: tuple[str, ...]


def _fit(
  wanted: series_description.Description,
  frame: files.Frame,
  series: np.ndarray,
  own: files.Frame,
  train: np.ndarray,
  spelling: Spelling,
  own_spelling: Spelling,
) -> _Fitted:
  """Fits columns, scales and the number of steps on the training series."""
  rows = wanted.rows
  apart = {wanted.id, wanted.time, *rows.labels, *rows.splits.columns}
  chosen = rows.inputs or tuple(name for name in frame.columns if name not in apart)
  for name in (*rows.inputs, *rows.roles):
    if name not in wanted.static:
      frame.column(name, rows.where)
  part = np.flatnonzero(np.isin(series, train))
  columns = table.fit_inputs(frame, rows, chosen, part, spelling)
  notes = list(columns.notes)
  center = encoding.moments(columns.spec, frame.columns, part, frame.where)
  static = None
  if wanted.static:
    fitted = table.fit_inputs(own, rows, wanted.static, train, own_spelling)
    static = fitted.spec
    notes += [f"static: {note}" for note in fitted.notes]
    center += encoding.moments(static, own.columns, train, own.where)
  date, warning = _date(wanted, frame, spelling)
  notes += [warning] * bool(warning)
  if wanted.bin and wanted.dated != bool(date):
    other = "dates: give it a unit, as 30min" if date else "numbers: give it none"
    raise ValueError(f"{rows.where}: bin: the times of column {wanted.time!r} are {other}.")
  spec = types.SeriesSpec(
    columns.spec,
    static,
    tuple(c for c, _ in center),
    tuple(s for _, s in center),
    wanted.id,
    wanted.time,
    date,
    wanted.bin,
    wanted.keep,
    wanted.fill,
    wanted.observed,
    1,
    wanted.cut,
  )
  steps, told = _steps(wanted, spec, frame, series, own.rows)
  spec = dataclasses.replace(spec, steps=steps)
  return _Fitted(encoding.Encoder(spec), (*notes, *told))


def _date(
  wanted: series_description.Description, frame: files.Frame, spelling: Spelling
) -> tuple[str, str]:
  """The format of the times, empty for numbers, and what may be wrong with it."""
  cells: Cells = frame.columns[wanted.time]
  given = wanted.rows.roles.get(wanted.time)
  if given is not None and given.date:
    return given.date, ""
  role = columns_lib.infer({wanted.time: cells}, spelling, frame.where)[wanted.time]
  if role.kind == "date":
    return role.date or "iso", role.warning
  if cells.numbers(spelling)[1].any():
    raise ValueError(
      f"{wanted.rows.where}: time: column {wanted.time!r} has neither numbers nor dates of a known"
      f" form, but {role.reason}: {columns_lib.how_dated(wanted.time)}"
    )
  return "", ""


def _steps(
  wanted: series_description.Description,
  spec: types.SeriesSpec,
  frame: files.Frame,
  series: np.ndarray,
  count: int,
) -> tuple[int, list[str]]:
  """The most steps of a series, and a note on how long they are and how far apart."""
  time = encoding.Encoder(spec).times(frame.columns[wanted.time], frame.where)
  span = float(time.max()) - float(time.min())
  if wanted.bin and span / wanted.bin >= 2**53:
    raise ValueError(
      f"{wanted.rows.where}: bin: steps of {wanted.bin:g} are too many for times that are {span:g}"
      " apart."
    )
  free = dataclasses.replace(spec, steps=_FREE)
  length = encoding.place_rows(free, series, time, count).length
  steps = wanted.steps or min(int(length.max()), MOST_STEPS)
  notes = [
    f"series of {length.min()} to {length.max()} steps, median {int(np.median(length))}; at most"
    f" {steps} are read."
  ]
  order = np.lexsort((time, series))
  if spec.date:
    notes += columns_lib.far_dates(wanted.time, time, frame.where)
  gaps = np.diff(time[order])[np.diff(series[order]) == 0]
  gaps = gaps[gaps > 0]
  if not wanted.bin and len(gaps) and gaps.max() > 1.5 * np.median(gaps):
    unit = " days" if spec.date else ""
    notes.append(
      f"warning: times are irregular ({gaps.min():.4g} to {gaps.max():.4g}{unit} from row to row),"
      " and every row is a step: say bin for steps of one width."
    )
  return steps, notes
