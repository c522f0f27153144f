"""Rows of raw tables as series of steps: binned, filled, scaled. Nothing here knows of files."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from dynashare_jax import types
from dynashare_jax.data import columns as columns_lib
from dynashare_jax.data.cells import Cells
from dynashare_jax.data.cells import place
from dynashare_jax.data.cells import Spelling
from dynashare_jax.data.cells import Where


class Steps(NamedTuple):
  """Where rows go.

  Attributes:
    rows: in the order of time, those that are in no series and behind a cut left out.
    series: of each of these rows.
    step: of each of these rows.
    length: steps of every series, `[N]`.
    cut: how many series are longer than the most steps.
    doubled: how many rows have a series and a time that another row has, too.
  """

  rows: np.ndarray
  series: np.ndarray
  step: np.ndarray
  length: np.ndarray
  cut: int
  doubled: int


def place_rows(spec: types.SeriesSpec, series: np.ndarray, time: np.ndarray, count: int) -> Steps:
  """Puts rows into steps.

  Args:
    series: of every row, -1 for none.
    time: of every row.
    count: number of series.
  """
  rows = np.flatnonzero(series >= 0)
  rows = rows[np.lexsort((time[rows], series[rows]))]
  of, when = series[rows], time[rows]
  starts = np.searchsorted(of, np.arange(count))
  same = (of[1:] == of[:-1]) & (when[1:] == when[:-1])
  if spec.bin:
    # A time that a rounding puts just below a bin's edge lies on it.
    step = np.floor((when - when[starts[of]]) / spec.bin + 1e-6).astype(np.int64)
  else:
    step = np.arange(len(rows)) - starts[of]
  length = np.zeros(count, np.int64)
  np.maximum.at(length, of, step + 1)
  over = np.maximum(length - spec.steps, 0)
  if spec.cut == "last":
    step = step - over[of]
  kept = (step >= 0) & (step < spec.steps)
  length = np.minimum(length, spec.steps)
  return Steps(
    rows[kept],
    of[kept],
    step[kept],
    length.astype(np.int32),
    int((over > 0).sum()),
    int(same.sum()),
  )


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Makes series of raw rows.

  The channels are, column by column: a number or a date, 0 at its mean in training and 1 a standard
  deviation above, and whether it was there; a channel for every category; then the same of what a
  whole series has, at every step. What is missing is the last value before, else 0.

  Attributes:
    spec: all it needs.
  """

  spec: types.SeriesSpec

  @classmethod
  def of(cls, stored: Mapping[str, Any]) -> Encoder:
    """Makes an encoder of what JSON has kept of its spec, as `series` of an artefact's inputs."""
    return cls(types.SeriesSpec(**columns_lib.from_json(stored)))

  @property
  def channels(self) -> tuple[tuple[int, ...], ...]:
    """The channels of every column."""
    found: list[tuple[int, ...]] = []
    for table, static in ((self.spec.rows, False), (self.spec.static, True)):
      for _, width in _widths(table, self.spec.observed and not static):
        begin = found[-1][-1] + 1 if found else 0
        found.append(tuple(range(begin, begin + width)))
    return tuple(found)

  @property
  def shape(self) -> tuple[int, int]:
    """Most steps, and channels."""
    return self.spec.steps, sum(map(len, self.channels))

  def times(self, cells: Cells, where: Where) -> np.ndarray:
    """Returns the time of every row, in days where they are dates.

    Raises:
      ValueError: one is missing or of another form.
    """
    spec, spelling = self.spec, _spelling(self.spec.rows)
    numbers = cells.days(spelling, spec.date) if spec.date else cells.numbers(spelling)
    wrong = np.isnan(numbers[0]) | np.isinf(numbers[0])
    if wrong.any():
      wanted = f"a date of the format {spec.date}" if spec.date else "a number"
      raise ValueError(
        f"{where(int(np.argmax(wrong)), spec.time)}: {wrong.sum()} of {len(wrong)} rows have no"
        f" time there that is {wanted}."
      )
    return numbers[0]

  def read(
    self,
    columns: Mapping[str, Any],
    series: np.ndarray,
    static: Mapping[str, Any],
    where: Where = place,
    where_static: Where = place,
  ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Makes series.

    Args:
      columns: name -> values of the rows.
      series: number of the series that every row belongs to, -1 for none.
      static: name -> values of the series, if the spec has such; its length tells their number.
      where: names a cell of the rows in messages.
      where_static: names a cell of the series' own.

    Returns:
      `series` float32 `[N, steps, channels]` and `length` int32 `[N]`, and notes.

    Raises:
      ValueError: a column is missing, or a value is none that it can have.
    """
    spec = self.spec
    count = len(next(iter(static.values()))) if static else int(series.max()) + 1
    time = self.times(Cells.read(columns[spec.time], spec.time, where), where)
    steps = place_rows(spec, series, time, count)
    read = {c.name: Cells.read(columns[c.name], c.name, where) for c in spec.rows.columns}
    _check(spec.rows, read, where)
    made = np.zeros((count, *self.shape), np.float32)
    inside = np.arange(spec.steps)[None] < steps.length[:, None]
    widths = iter(_widths(spec.rows, spec.observed))
    at, numbers = 0, 0
    for column, width in widths:
      values = _values(column, spec.rows, read[column.name], where)[steps.rows]
      grid = self._grid(values, steps, count, column.role == "category")
      there = ~np.isnan(grid)
      if spec.fill:
        grid = _forward(grid)
      if column.role == "category":
        made[..., at : at + width] = grid[..., None] == np.arange(1, width + 1)
      else:
        scaled = (grid - spec.center[numbers]) / spec.spread[numbers]
        made[..., at] = np.where(np.isnan(scaled), 0, scaled)
        if spec.observed:
          made[..., at + 1] = there
        numbers += 1
      at += width
    if spec.static is not None:
      for column, width in _widths(spec.static, False):
        cells = Cells.read(static[column.name], column.name, where_static)
        values = _values(column, spec.static, cells, where_static)
        if column.role == "category":
          own = values[:, None] == np.arange(1, width + 1)
        else:
          scaled = (values - spec.center[numbers]) / spec.spread[numbers]
          own = np.where(np.isnan(scaled), 0, scaled)[:, None]
          numbers += 1
        made[..., at : at + width] = own[:, None]
        at += width
    made = np.where(inside[..., None], made, np.float32(0))
    return {"series": made, "length": steps.length}, _notes(spec, steps, count)

  def _grid(self, values: np.ndarray, steps: Steps, count: int, codes: bool) -> np.ndarray:
    """Values of every series and step, NaN where there is none."""
    grid = np.full((count, self.spec.steps), np.nan)
    good = ~np.isnan(values)
    at = steps.series[good], steps.step[good]
    if codes or self.spec.keep == "last":
      grid[at] = values[good]  # of equal places the last counts
      return grid
    sums, found = np.zeros_like(grid), np.zeros_like(grid)
    np.add.at(sums, at, values[good])
    np.add.at(found, at, 1)
    return np.where(found > 0, sums / np.maximum(found, 1), np.nan)


def _spelling(table: types.TableSpec) -> Spelling:
  return Spelling(table.decimal, table.thousands, table.missing)


def _widths(table: types.TableSpec | None, observed: bool) -> list[tuple[types.ColumnSpec, int]]:
  """How many channels every column has."""
  if table is None:
    return []
  known = dict(zip(table.categorical, table.values, strict=True))
  return [(c, len(known[c.name]) if c.role == "category" else 1 + observed) for c in table.columns]


def _values(
  column: types.ColumnSpec, table: types.TableSpec, cells: Cells, where: Where
) -> np.ndarray:
  """Numbers, days, or codes from 1 on; NaN where missing, 0 for other categories."""
  if column.role != "category":
    return columns_lib.numbers_of(column, cells, _spelling(table), where)
  known = dict(zip(table.categorical, table.values, strict=True))[column.name]
  texts = cells.as_texts(_spelling(table))
  codes = columns_lib.codes_of(texts, known).astype(np.float64)
  return codes if "" in known else np.where(texts.values < 0, np.nan, codes)


def _check(table: types.TableSpec, read: Mapping[str, Cells], where: Where) -> None:
  """Refuses what a column cannot have before anything is placed."""
  for column in table.columns:
    _values(column, table, read[column.name], where)


def _forward(grid: np.ndarray) -> np.ndarray:
  """Every NaN replaced by the last number before it."""
  steps = np.arange(grid.shape[1])[None]
  last = np.maximum.accumulate(np.where(np.isnan(grid), -1, steps), 1)
  return np.where(last < 0, np.nan, np.take_along_axis(grid, np.maximum(last, 0), 1))


def _notes(spec: types.SeriesSpec, steps: Steps, count: int) -> tuple[str, ...]:
  """What happened to the rows."""
  notes = []
  if steps.cut:
    notes.append(
      f"{steps.cut} of {count} series have more than {spec.steps} steps; the {spec.cut} of them"
      " stay."
    )
  if steps.doubled:
    how = "are steps of their own" if not spec.bin else f"go into one step ({spec.keep})"
    notes.append(f"warning: {steps.doubled} rows have the id and time of another; they {how}.")
  if empty := int((steps.length == 0).sum()):
    notes.append(f"warning: {empty} of {count} series have no row.")
  return tuple(notes)


def moments(
  table: types.TableSpec, columns: Mapping[str, Cells], rows: np.ndarray, where: Where
) -> list[tuple[float, float]]:
  """Returns mean and standard deviation of every number and date, of some rows; at least 1e-6."""
  found = []
  for column in table.columns:
    if column.role != "category":
      values = _values(column, table, columns[column.name], where)[rows]
      values = values[~np.isnan(values)]
      spread = float(np.float32(values.std()))
      found.append((float(np.float32(values.mean())), spread if spread > 1e-6 else 1.0))
  return found
