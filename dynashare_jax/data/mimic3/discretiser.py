"""From irregular measurements to one row an hour, for many stays at once.

The rows of all stays lie under one another in one table: a stay with n hours has n rows. Every step
is one pass over that table.

Source: YerevaNN/mimic3-benchmarks, `mimic3models/preprocessing.py` (Discretizer, Normalizer) and
  `mimic3models/multitask/utils.py`, as published: bins of 1 hour from the admission on, the last
  value in a bin wins, a bin without one repeats the bin before, before the first one the normal
  value stands, and every channel has a mask of what was observed.
"""

from __future__ import annotations

from collections.abc import Sequence
import itertools
from typing import NamedTuple

from jaxtyping import Bool, Float, Int, UInt8
import numpy as np

from dynashare_jax.data.mimic3 import columns

EPS = 1e-6  # hours: what the pipeline takes off before it rounds down
PACKED = len(columns.FLAG_COLUMNS) // 8  # bytes of an hour's flags


def _runs(places: Sequence[int]) -> tuple[tuple[slice, slice], ...]:
  """Stretches of neighbouring columns: where they come from and go to."""
  gaps = (np.flatnonzero(np.diff(places) != 1) + 1).tolist()
  return tuple(
    (slice(begin, end), slice(places[begin], places[end - 1] + 1))
    for begin, end in itertools.pairwise([0, *gaps, len(places)])
  )


_NUMBER_RUNS = _runs(columns.NUMBER_COLUMNS)
_FLAG_RUNS = _runs(columns.FLAG_COLUMNS)


def count_bins(hours: Float[np.ndarray, " S"]) -> Int[np.ndarray, " S"]:
  """Returns how many bins stays of some length have; 0 for one up to 1e-6 hours.

  Differs: the pipeline has two formulas for this and stops where they give different numbers, which
    is at 1, 8, 15, 31 and 32 hours plus 1e-6. This is the discretiser's.
  """
  return (np.asarray(hours) + 1.0 - EPS).astype(np.int64)


def bin_of(hours: Float[np.ndarray, " E"]) -> Int[np.ndarray, " E"]:
  """Returns the bin of a time: bin b holds what is later than b and up to b + 1 hours.

  Time 0 is in bin 0 too.
  """
  return (np.asarray(hours) - EPS).astype(np.int64)


class Events(NamedTuple):
  """Measurements, in the order of time.

  Attributes:
    row: of the table, where they belong.
    channel: which measurement.
    value: the number, or the number of a category's value.
  """

  row: Int[np.ndarray, " E"]
  channel: Int[np.ndarray, " E"]
  value: Float[np.ndarray, " E"]


def discretise(
  events: Events, counts: Int[np.ndarray, " S"]
) -> tuple[Float[np.ndarray, "R 17"], Bool[np.ndarray, "R 17"]]:
  """Fills the table of some stays.

  Args:
    events: of all stays. Of two in one place the later one counts.
    counts: rows of every stay, each at least 1.

  Returns:
    Values, categories as numbers; and whether they were observed in that hour.
  """
  rows = int(counts.sum())
  table = np.empty((rows, len(columns.CHANNELS)))
  observed = np.zeros(table.shape, bool)
  # NumPy promises that the last one of repeated places is kept.
  table[events.row, events.channel] = events.value
  observed[events.row, events.channel] = True
  first = np.cumsum(counts) - counts
  table[first] = np.where(observed[first], table[first], columns.normal_values()[None])
  known = observed.copy()
  known[first] = True  # so that nothing is taken from the stay before
  latest = np.where(known, np.arange(rows)[:, None], 0)
  np.maximum.accumulate(latest, axis=0, out=latest)
  return np.take_along_axis(table, latest, axis=0), observed


class Hours(NamedTuple):
  """Rows of the table as they are kept: 56 bytes an hour.

  Attributes:
    numbers: of the channels that are numbers, not normalised.
    flags: 47 one-hot columns and 17 masks in the order of `FLAG_COLUMNS`, a bit each.
  """

  numbers: Float[np.ndarray, "R 12"]
  flags: UInt8[np.ndarray, "R 8"]


def pack(table: Float[np.ndarray, "R 17"], observed: Bool[np.ndarray, "R 17"]) -> Hours:
  """Brings a table into the form that is kept."""
  hot = [
    table[:, place, None] == np.arange(len(columns.CHANNELS[place].values))
    for place in columns.CATEGORIES
  ]
  flags = np.packbits(np.concatenate([*hot, observed], axis=1), axis=1)
  return Hours(table[:, columns.NUMBERS].astype(np.float32), flags)


class Normaliser(NamedTuple):
  """Means and standard deviations of the 12 numbers; the rest stays as it is.

  Source: mimic3-benchmarks, Normalizer: only columns without a category or a mask are normalised.
  """

  mean: Float[np.ndarray, " 12"]
  std: Float[np.ndarray, " 12"]


def benchmark() -> Normaliser:
  """Returns the published state of the multitask problem; see `columns`."""
  return Normaliser(np.array(columns.MEANS), np.array(columns.STDS))


def fit(numbers: Float[np.ndarray, "R 12"]) -> Normaliser:
  """Computes means and standard deviations over all hours of some stays, float64.

  Deviations have the divisor R - 1 and are at least 1e-7.

  Args:
    numbers: not normalised; at least 2 rows.

  Source: mimic3-benchmarks, `create_normalizer_state.py`.
  Differs: the script reads training and validation stays, since it is run before they are split;
    here whoever calls decides. It adds up squares, which loses digits; this does not.
  """
  values = np.asarray(numbers, np.float64)
  mean = values.mean(axis=0)
  std = np.sqrt(((values - mean[None]) ** 2).sum(axis=0) / (len(values) - 1))
  return Normaliser(mean, np.maximum(std, 1e-7))


def expand(hours: Hours, normaliser: Normaliser, out: Float[np.ndarray, "R 76"]) -> None:
  """Writes the 76 columns of the pipeline to `out`, float32."""
  bits = np.unpackbits(hours.flags, axis=1)
  for source, place in _FLAG_RUNS:
    out[:, place] = bits[:, source]
  mean, std = (part.astype(np.float32)[None] for part in normaliser)
  scaled = (hours.numbers - mean) / std
  for source, place in _NUMBER_RUNS:
    out[:, place] = scaled[:, source]
