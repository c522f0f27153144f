"""Reads the listfiles of the multitask problem: which stays, with their labels.

A line has the file of a stay, its length in hours, and for each task numbers between semicolons.
Tasks with a label every hour have the masks of hours 0, 1, 2, ... first, then the labels.

Source: mimic3-benchmarks, `create_multitask.py` writes them, `readers.py` (MultitaskReader) and
  `multitask/utils.py` (BatchGen) read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import os
import pathlib
from typing import Any, NamedTuple

from jaxtyping import Int, UInt8
import numpy as np

from dynashare_jax.data.mimic3 import columns
from dynashare_jax.data.mimic3 import discretiser
from dynashare_jax.data.mimic3 import problems as mimic3_problems

# Split -> listfile and the folder of its stays.
FILES = {
  "train": ("train_listfile.csv", "train"),
  "validation": ("val_listfile.csv", "train"),
  "test": ("test_listfile.csv", "test"),
}
HEADER = (
  "filename",
  "length of stay",
  "in-hospital mortality task (pos;mask;label)",
  "length of stay task (masks;labels)",
  "phenotyping task (labels)",
  "decompensation task (masks;labels)",
)
LONGEST = 1e5  # hours

# Columns of the hourly labels.
STAY_MASK, STAY, DECOMPENSATION_MASK, DECOMPENSATION = range(4)


class Listed(NamedTuple):
  """A line of a listfile.

  Attributes:
    name: of the stay's file.
    line: its number, from 1.
    hours: length of the stay.
    mortality: mask and label.
    phenotypes: 25 labels.
    stay: mask and class of hours 0, 1, ...; the class among those that `STAY_EDGES` part.
    decompensation: mask and label of hours 0, 1, ....
  """

  name: str
  line: int
  hours: float
  mortality: UInt8[np.ndarray, " 2"]
  phenotypes: UInt8[np.ndarray, " 25"]
  stay: UInt8[np.ndarray, "H 2"]
  decompensation: UInt8[np.ndarray, "H 2"]


class Labels(NamedTuple):
  """All labels of a split.

  Attributes:
    counts: bins of every stay.
    mortality: mask and label.
    phenotypes: labels.
    hourly: for every bin of every stay `STAY_MASK`, ...; 0 where the listfile has nothing.
    listed: how many hours of a stay have an entry for decompensation.
  """

  counts: Int[np.ndarray, " S"]
  mortality: UInt8[np.ndarray, "S 2"]
  phenotypes: UInt8[np.ndarray, "S 25"]
  hourly: UInt8[np.ndarray, "R 4"]
  listed: Int[np.ndarray, " S"]


def read(folder: pathlib.Path, problems: mimic3_problems.Problems) -> dict[str, list[Listed]]:
  """Reads the listfiles of all splits.

  Args:
    problems: those that are found are added: a listfile that is missing, empty
      or of another task, a line that cannot be read, a stay that is named
      twice, a stay without its file or without length.

  Returns:
    Split -> its stays in order, without those that have a problem.
  """
  seen: dict[tuple[str, str], str] = {}
  found: dict[str, list[Listed]] = {}
  for split, (name, part) in FILES.items():
    found[split] = []
    try:
      data = (folder / name).read_bytes()
    except OSError:
      what = "there is no such file, or it cannot be read; the multitask problem of"
      problems.add(name, 0, "", f"{what} mimic3-benchmarks has it after split_train_val")
      continue
    there = set(os.listdir(folder / part)) if (folder / part).is_dir() else ()
    for stay in _read_one(name, data, problems):
      report = functools.partial(problems.add, name, stay.line, HEADER[0])
      here = f"{name}, line {stay.line}"
      before = seen.setdefault((part, stay.name), here)
      if before != here:
        report(f"the stay is named twice, before in {before}")
      elif stay.name not in there:
        report(f"there is no file {part}/{stay.name}")
      else:
        found[split].append(stay)
  return found


def _read_one(file: str, data: bytes, problems: mimic3_problems.Problems) -> list[Listed]:
  """Reads the lines of a listfile."""
  lines = data.decode("utf-8-sig", "replace").split("\n")
  if lines.pop():
    problems.add(file, len(lines) + 1, "", "the line does not end: the file is cut off")
  lines = lines or [""]
  if tuple(lines[0].strip().split(",")) != HEADER:
    other = " (it is of another task)" if lines[0].startswith("stay,") else ""
    what = f"this is not the header of a listfile of the multitask problem{other}"
    problems.add(file, 1, "", f"{what}: expected {', '.join(HEADER)}")
    return []
  if len(lines) == 1:
    problems.add(file, 0, "", "it names no stay")
  stays = (
    _read_line(line.strip(), number, functools.partial(problems.add, file, number))
    for number, line in enumerate(lines[1:], 2)
  )
  return [stay for stay in stays if stay is not None]


def _read_line(line: str, number: int, report: Callable[[str, str], None]) -> Listed | None:
  """Reads a line; None after something that is wrong was reported."""
  cells = line.split(",")
  if len(cells) != len(HEADER):
    report("", f"expected {len(HEADER)} columns; the line may be cut off")
    return None
  name, hours_text, mortality, stay, phenotypes, decompensation = cells
  if not mimic3_problems.is_name(name):
    report(HEADER[0], "expected the name of a file, *_timeseries.csv")
    return None
  hours, bins = _length(hours_text, report)
  found: tuple[Any, ...] = (
    _mortality(mortality, report),
    _phenotypes(phenotypes, report),
    _hourly(stay, HEADER[3], bins, float, report),
    _hourly(decompensation, HEADER[5], bins, int, report),
  )
  return None if bins < 1 or any(p is None for p in found) else Listed(name, number, hours, *found)


def _length(text: str, report: Callable[[str, str], None]) -> tuple[float, int]:
  """Hours and bins of a stay; no bin after a problem was reported."""
  hours = numbers([text], float)
  if hours is None or not abs(hours[0]) < LONGEST:
    report(HEADER[1], f"expected a number of hours below {LONGEST:.0f}")
    return 0.0, 0
  bins = int(discretiser.count_bins(hours)[0])
  if bins < 1:
    report(HEADER[1], "expected more than 0 hours")
  return float(hours[0]), bins


def numbers(texts: Sequence[str], kind: type) -> np.ndarray | None:
  """Reads numbers; None if one is not a finite number."""
  try:
    values = np.array([kind(text) for text in texts], np.float64)
  except (ValueError, OverflowError):
    return None
  return values if np.isfinite(values).all() else None


def _flags(texts: Sequence[str], count: int) -> np.ndarray | None:
  """Reads numbers that are 0 or 1; None if there are others, or not so many."""
  values = numbers(texts, int)
  if values is None or len(values) != count or not np.isin(values, (0, 1)).all():
    return None
  return values


def _mortality(text: str, report: Callable[[str, str], None]) -> np.ndarray | None:
  """Mask and label; the label of a stay that does not count is 0."""
  # The position beside them is always bin 47, the last one that ends within 48 hours.
  position, *rest = text.split(";")
  values = _flags(rest, 2)
  if values is None or numbers([position], int) is None:
    report(HEADER[2], "expected a position, a mask and a label, 0 or 1")
    return None
  return np.array([values[0], values[0] * values[1]], np.uint8)


def _phenotypes(text: str, report: Callable[[str, str], None]) -> np.ndarray | None:
  values = _flags(text.split(";"), len(columns.PHENOTYPES))
  if values is None:
    report(HEADER[4], f"expected {len(columns.PHENOTYPES)} labels, 0 or 1")
    return None
  return values.astype(np.uint8)


def _hourly(
  text: str, column: str, bins: int, kind: type, report: Callable[[str, str], None]
) -> np.ndarray | None:
  """Masks and labels of a task with a label every hour."""
  what = "hours" if kind is float else "labels, 0 or 1"
  if not text.strip(";"):
    return np.zeros((0, 2), np.uint8)
  cut = text.split(";")
  half = len(cut) // 2
  masks = _flags(cut[:half], half)
  labels = numbers(cut[half:], float) if kind is float else _flags(cut[half:], half)
  if masks is None or labels is None or len(cut) % 2:
    report(column, f"expected as many masks, 0 or 1, as {what}")
    return None
  if bins and half > bins + 1:
    report(column, "it has more hours than the stay is long")
    return None
  if kind is float:
    labels = np.searchsorted(columns.STAY_EDGES, labels, side="right")
  return np.stack([masks, labels], axis=1).astype(np.uint8)


def labels_of(stays: list[Listed]) -> Labels:
  """Brings the labels of some stays to bins.

  The label of hour t lies in bin t - 1, the last one that a prediction may read. The label of hour
  0 gives way to that of hour 1.

  Source: mimic3-benchmarks, `multitask/utils.py`: label i goes to the bin of time i, in order, so
    that hours 0 and 1 both go to bin 0. A last bin that the stay leaves unfinished has none.
  """
  counts = discretiser.count_bins(np.array([s.hours for s in stays]))
  ends = np.cumsum(counts)
  hourly = np.zeros((int(counts.sum()), 4), np.uint8)
  for stay, end, count in zip(stays, ends, counts, strict=True):
    rows = hourly[end - count : end]
    _place(rows[:, STAY_MASK : STAY + 1], stay.stay)
    _place(rows[:, DECOMPENSATION_MASK:], stay.decompensation)
  return Labels(
    counts,
    np.stack([s.mortality for s in stays]),
    np.stack([s.phenotypes for s in stays]),
    hourly,
    np.array([len(s.decompensation) for s in stays]),
  )


def _place(rows: np.ndarray, entries: np.ndarray) -> None:
  """Puts entries of hours 0, 1, ... into the bins of a stay."""
  rows[:1] = entries[:1]
  rows[: max(0, len(entries) - 1)] = entries[1:]
