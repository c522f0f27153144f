"""The splits of rows: by share, group, time, a column or files."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dynashare_jax import types
from dynashare_jax.data import columns as columns_lib
from dynashare_jax.data import loader
from dynashare_jax.data.cells import Cells
from dynashare_jax.data.cells import Spelling
from dynashare_jax.data.table import description as table_description
from dynashare_jax.data.table import files

_NAMES = {
  **dict.fromkeys(("train", "training"), "train"),
  **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
  **dict.fromkeys(("test", "testing"), "test"),
}
Rows = dict[str, np.ndarray]


def assign(
  frame: files.Frame,
  splits: table_description.Splits,
  spelling: Spelling,
  of_file: Mapping[int, str],
) -> tuple[Rows, tuple[str, ...]]:
  """Returns the rows of every split, ascending, and what was done.

  Args:
    of_file: file of the frame -> its split; empty where files do not tell.

  Raises:
    ValueError: a split without rows, or a cell that does not tell where its row belongs.
  """
  notes: list[str] = []
  if splits.column:
    found = _by_column(frame, splits, spelling)
    how = f"by column {splits.column!r}"
  elif of_file:
    part = np.array([of_file[index] for index in range(len(frame.files))])[frame.file]
    found, how = {split: np.flatnonzero(part == split) for split in types.SPLITS}, "by files"
  else:
    found, how = _by_share(frame, np.arange(frame.rows), splits, splits.shares, spelling, notes)
  if not len(found["validation"]) and len(found["train"]):
    share = splits.shares["validation"]
    parts = {"train": 1 - share, "validation": share}
    cut, drawn = _by_share(frame, found["train"], splits, parts, spelling, notes)
    found, how = {**found, **cut}, f"{how}; validation is {share:g} of train, {drawn}"
  for split in types.SPLITS:
    if not len(found[split]):
      raise ValueError(f"{splits.place}: the split {split} has no row ({how}).")
  sizes = ", ".join(f"{split} {len(found[split])}" for split in types.SPLITS)
  rows = {split: found[split] for split in types.SPLITS}
  return rows, (f"splits {how}: {sizes} rows.", *dict.fromkeys(notes))


def _by_column(frame: files.Frame, splits: table_description.Splits, spelling: Spelling) -> Rows:
  cells = _complete(frame, splits.column, f"{splits.place}.column", spelling)
  named = [_NAMES.get(text.lower(), "") for text in cells.texts or ()]
  for code, name in enumerate(named):
    rows = np.flatnonzero(cells.values == code)
    if not name and len(rows):
      raise ValueError(
        f"{frame.where(int(rows[0]), splits.column)}: {(cells.texts or ())[code]!r} names no split;"
        f" known are {', '.join(_NAMES)}."
      )
  part = np.array(named)[cells.values]
  return {split: np.flatnonzero(part == split) for split in types.SPLITS}


def _by_share(
  frame: files.Frame,
  rows: np.ndarray,
  splits: table_description.Splits,
  shares: Mapping[str, float],
  spelling: Spelling,
  notes: list[str],
) -> tuple[Rows, str]:
  """Cuts some rows into shares, oldest first, whole groups, or drawn with the seed."""
  listed = ", ".join(f"{split} {share:g}" for split, share in shares.items())
  if splits.time:
    days = _times(frame, splits, spelling, notes)[rows]
    order = np.argsort(days, kind="stable")
    # Equal times never part: those at a cut are all in the later split.
    first = lambda at: int(np.searchsorted(days[order], days[order][at], "left"))
    return _cut(rows[order], shares, first), f"by time ({splits.time!r}, oldest first: {listed})"
  if splits.group:
    cells = _complete(frame, splits.group, f"{splits.place}.group", spelling)
    _, groups = np.unique(cells.values[rows], return_inverse=True)
    groups = groups.reshape(-1)
    count = int(groups.max(initial=-1)) + 1
    place = _draw(count, splits.seed)[groups] if count else groups
    order = np.argsort(place, kind="stable")
    first = lambda at: int(np.searchsorted(place[order], place[order][at], "left"))
    how = f"by whole groups ({count} of {splits.group!r}; {listed}; seed {splits.seed})"
    return _cut(rows[order], shares, first), how
  order = np.argsort(_draw(len(rows), splits.seed), kind="stable")
  return _cut(rows[order], shares, lambda at: at), f"by share ({listed}; seed {splits.seed})"


def _draw(count: int, seed: int) -> np.ndarray:
  """A place in a random order for each of some things."""
  order = np.asarray(loader.Order(count, count, seed, "splits").indices(0)[0])
  return np.argsort(order)


def _cut(rows: np.ndarray, shares: Mapping[str, float], start: Callable[[int], int]) -> Rows:
  """Cuts ordered rows into shares; `start` gives the first row that must stay with another."""
  found: Rows = {split: rows[:0] for split in types.SPLITS if split in shares}
  total, begin = 0.0, 0
  ends = []
  for share in shares.values():
    total += share
    end = min(round(total * len(rows)), len(rows))
    ends.append(start(end) if end < len(rows) else end)
  for split, end in zip((s for s in types.SPLITS if s in shares), ends, strict=True):
    found[split] = np.sort(rows[begin:end])
    begin = max(begin, end)
  return found


def _times(
  frame: files.Frame, splits: table_description.Splits, spelling: Spelling, notes: list[str]
) -> np.ndarray:
  """When every row is, as numbers that grow; adds what may be wrong to `notes`."""
  cells = _complete(frame, splits.time, f"{splits.place}.time", spelling)
  if len(cells.texts or ()) == 1:
    only = (cells.texts or ("",))[0]
    raise ValueError(f"{splits.place}.time: all rows of column {splits.time!r} have {only!r}.")
  raw = frame.column(splits.time, splits.place)
  given = {splits.time: columns_lib.Role("date", "as said", splits.date)} if splits.date else {}
  role = columns_lib.infer({splits.time: raw}, spelling, frame.where, given)[splits.time]
  if role.kind not in ("date", "number") and not raw.numbers(spelling)[1].any():
    role = columns_lib.Role("number")  # counts the rows, or is called an id
  if role.kind not in ("date", "number"):
    raise ValueError(
      f"{splits.place}.time: column {splits.time!r} has neither numbers nor dates of a known form,"
      f" but {role.reason}, first {(cells.texts or ('',))[0]!r}:"
      f" {columns_lib.how_dated(splits.time)}"
    )
  dated = role.kind == "date"
  values, wrong = raw.days(spelling, role.date) if dated else raw.numbers(spelling)
  if wrong.any():
    row = int(np.argmax(wrong))
    form = f"date of the format {role.date}" if dated else "number"
    raise ValueError(f"{frame.where(row, splits.time)}: {wrong.sum()} values are no {form}.")
  far = columns_lib.far_dates(splits.time, values, frame.where) if dated else []
  notes += [note for note in (role.warning, *far) if note]
  return values


def _complete(frame: files.Frame, name: str, place: str, spelling: Spelling) -> Cells:
  """A column as names, which must have a value in every row."""
  cells = frame.column(name, place).as_names(spelling)
  if (gone := cells.values < 0).any():
    raise ValueError(
      f"{place}: {gone.sum()} rows have no value, first"
      f" {frame.where(int(np.argmax(gone)), name)}: it does not tell where they belong. Mend it, or"
      " leave those rows out."
    )
  return cells
