"""Reads the time series of single stays: text to measurements.

A file has the header of `mimic3_columns.HEADER` and a row for every time at
which something was measured; what was not measured is empty.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from jaxtyping import Float, Int
import numpy as np

from dynashare_jax.data.mimic3 import columns
from dynashare_jax.data.mimic3 import discretiser
from dynashare_jax.data.mimic3 import listfile
from dynashare_jax.data.mimic3 import problems as mimic3_problems

_CODES = columns.codes()
_WIDTH = len(columns.HEADER)


class Series(NamedTuple):
  """The measurements of a stay, channel by channel, each in the order of time.

  Attributes:
    hours: time of every row, ascending, from the admission on.
    row: of every measurement.
    channel: of every measurement.
    value: the number, or the number of a category's value.
  """

  hours: Float[np.ndarray, " N"]
  row: Int[np.ndarray, " E"]
  channel: Int[np.ndarray, " E"]
  value: Float[np.ndarray, " E"]


def parse(data: bytes, file: str, problems: mimic3_problems.Problems) -> Series | None:
  """Reads the file of a stay; None if anything is wrong.

  Args:
    file: its name, for messages.
    problems: all that are found are added.

  Differs: the pipeline's reader takes what Python takes for a number, "nan"
    and "inf" included, and stops at the first thing that is wrong; times
    before the admission, which the pipeline never writes, are refused.
  """
  lines = data.decode("utf-8-sig", "replace").replace("\r\n", "\n").split("\n")
  cut = bool(lines.pop())
  if cut:
    problems.add(file, len(lines) + 1, "", "the line does not end: the file is cut off")
  if not lines or tuple(lines[0].split(",")) != columns.HEADER:
    problems.add(
      file, 1, "", f"this is not the header of a time series: expected {', '.join(columns.HEADER)}"
    )
    return None
  if len(lines) == 1:
    problems.add(file, 0, "", "it has no row: a stay of zero length")
    return None
  series = _fast(lines)
  if series is None:
    _explain(lines, file, problems)
    return None
  return None if cut or _odd_times(series.hours, file, problems) else series


def _fast(lines: list[str]) -> Series | None:
  """Reads rows that are as they should be; None if any is not."""
  rows = [line.split(",") for line in lines[1:]]
  if any(len(row) != _WIDTH for row in rows):
    return None
  times, *texts = zip(*rows, strict=True)
  place: list[int] = []
  value: list[float] = []
  counts = []
  try:
    hours = np.array(list(map(float, times)))
    for column, codes in zip(texts, _CODES, strict=True):
      filled = list(filter(None, column))
      value += map(codes.__getitem__ if codes else float, filled)
      place += itertools.compress(range(len(rows)), column)
      counts.append(len(filled))
  except (ValueError, KeyError):
    return None
  values = np.array(value, np.float64)
  if not (np.isfinite(hours).all() and np.isfinite(values).all()):
    return None
  return Series(hours, np.array(place, np.int64), np.repeat(np.arange(len(counts)), counts), values)


def _explain(lines: list[str], file: str, problems: mimic3_problems.Problems) -> None:
  """Notes every cell that is wrong."""
  for number, line in enumerate(lines[1:], 2):
    cells = line.split(",")
    if len(cells) != _WIDTH:
      problems.add(file, number, "", f"expected {_WIDTH} columns; the line may be cut off")
      continue
    for cell, name, codes in zip(cells, columns.HEADER, (None, *_CODES), strict=True):
      if codes is not None:
        if cell and cell not in codes:
          what = f"expected one of the {len(codes)} values that the benchmark knows"
          problems.add(file, number, name, f"{what}, exactly as it writes them")
      elif (cell or name == columns.HEADER[0]) and listfile.numbers([cell], float) is None:
        problems.add(file, number, name, "expected a number")


def _odd_times(hours: np.ndarray, file: str, problems: mimic3_problems.Problems) -> bool:
  """Notes times that run backwards or lie before the admission."""
  # Source: mimic3-benchmarks, Discretizer: a time may be less than 1e-6 hours before the
  # one above it; `create_multitask.py`: none is 1e-6 hours or more before the admission.
  early = np.flatnonzero(hours <= -discretiser.EPS) + 2
  back = np.flatnonzero(hours[:-1] >= hours[1:] + discretiser.EPS) + 3
  for lines, what in (
    (early, "expected hours from the admission on, 0 or more"),
    (back, "the hours run backwards: expected no less than in the line above"),
  ):
    for line in lines.tolist():
      problems.add(file, line, columns.HEADER[0], what)
  return bool(len(early) or len(back))


def events(series: Series, hours: float, bins: int, first: int) -> discretiser.Events:
  """Places a stay's measurements in a table of many stays, channel by channel.

  Args:
    hours: its length; what is later than that does not count.
    first: row of the table for its first bin.

  Source: mimic3-benchmarks, Discretizer: rows count up to 1e-6 hours after the end.
  Differs: a row within those 1e-6 hours of a whole hour would fall out of the last bin, and the
    pipeline stops; here it is in the last bin.
  """
  bin_of_row = np.minimum(discretiser.bin_of(series.hours), bins - 1)
  counts = (series.hours <= hours + discretiser.EPS)[series.row]
  row = first + bin_of_row[series.row]
  return discretiser.Events(row[counts], series.channel[counts], series.value[counts])
