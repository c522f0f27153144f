"""Stays as a model takes them: padded series, labels and their validity."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
from jaxtyping import Bool, Int, UInt8
import numpy as np

from dynashare_jax import types
from dynashare_jax.data.mimic3 import columns
from dynashare_jax.data.mimic3 import discretiser
from dynashare_jax.data.mimic3 import listfile
from dynashare_jax.data.mimic3 import store as mimic3_store

WIDTH = len(columns.COLUMNS)
_KEPT = len(columns.STAY_EDGES) + 1  # classes of the remaining stay in a store

_COUNTED = 2048  # stays at a time

Field = tuple[np.ndarray, np.ndarray]  # targets and what is valid


@dataclasses.dataclass(frozen=True)
class Options:
  """The form of stays for a model; picklable.

  Attributes:
    tasks: in order.
    hours: T, at which series are cut.
    normaliser: of the numbers.
    lengths: whether inputs have the length of every series.
    masked: whether labels that the benchmark masks are not valid.
    straight: whether series are `[T, 76]`; otherwise the same numbers row by
      row in `[76, T]`, turned round.
    all_stays: whether the first stay of a split is there too.
    stay_classes: the classes of the remaining stay, `benchmark` or `authors`.
  """

  tasks: tuple[str, ...]
  hours: int
  normaliser: discretiser.Normaliser
  lengths: bool = True
  masked: bool = True
  straight: bool = True
  all_stays: bool = True
  stay_classes: str = "benchmark"


def stay_class(kept: UInt8[np.ndarray, "..."], which: str) -> Int[np.ndarray, "..."]:
  """Returns classes of the remaining stay, int32, 0 to 9.

  Args:
    kept: among all classes that `STAY_EDGES` part.
    which: `benchmark`, whose last class begins at 14 days, or `authors`, at 15.

  Source: mimic3-benchmarks, `metrics.py` (CustomBins): under 1 day, single days
    up to 8, 8 to 14, more.
  """
  merged = (_KEPT - 2) if which == "authors" else (_KEPT - 1)
  table = np.arange(_KEPT, dtype=np.int32)
  table[merged:] -= 1
  return table[kept]


class Stays(Sequence[types.Batch]):
  """The stays of a split, one by one or as batches; picklable."""

  def __init__(self, store: mimic3_store.Store, split: str, options: Options) -> None:
    """Maps the files; nothing is read."""
    self._made_of = store, split, options
    self._options = options
    self._split = store.split(split)
    self._skip = 0 if options.all_stays else 1

  def __reduce__(self) -> Any:
    """Lets another process map the files itself."""
    return Stays, self._made_of

  def __len__(self) -> int:
    return len(self._split.starts) - self._skip

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    if not -len(self) <= index < len(self):
      raise IndexError(f"There are {len(self)} stays, none has number {index}.")
    return jax.tree.map(lambda a: a[0], self.batch(np.array([index % len(self)])))

  def whole(self) -> types.Batch:
    """Returns all stays as one batch."""
    return self.batch(np.arange(len(self)))

  def batch(self, indices: Int[np.ndarray, " B"]) -> types.Batch:
    """Returns some stays.

    Inputs: `series` float32 `[B, T, 76]`, zeros from the end of a stay on, and `length` int32
    `[B]`, at most T; without lengths the series alone. Targets and valid: see `dataset.build`.
    """
    tasks, (rows, starts, length) = self._options.tasks, self._places(indices)
    series, fields = self._series(starts, length), self._fields(rows, starts, length)
    return types.Batch(
      {"series": series, "length": length.astype(np.int32)} if self._options.lengths else series,
      {task: fields[task][0] for task in tasks},
      {task: fields[task][1] for task in tasks},
      np.ones(len(rows), bool),
    )

  def label_counts(self) -> dict[str, tuple[int, int]]:
    """Counts of every task the valid labels, and those of them that are 1."""
    found = dict.fromkeys(self._options.tasks, (0, 0))
    for begin in range(0, len(self), _COUNTED):
      some = np.arange(begin, min(begin + _COUNTED, len(self)))
      fields = self._fields(*self._places(some))
      for task, (labels, positive) in found.items():
        target, valid = fields[task]
        chosen = target[valid]
        found[task] = (labels + chosen.size, positive + int((chosen == 1).sum()))
    return found

  def _places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of stays in the files, their first rows, and how many of these are taken."""
    rows = np.asarray(indices, np.int64) + self._skip
    length = np.minimum(self._split.labels.counts[rows], self._options.hours)
    return rows, self._split.starts[rows], length

  def _series(self, starts: np.ndarray, length: np.ndarray) -> np.ndarray:
    hours, options = self._split.hours, self._options
    series = np.zeros((len(starts), options.hours, WIDTH), np.float32)
    for out, begin, count in zip(series, starts.tolist(), length.tolist(), strict=True):
      some = discretiser.Hours(
        hours.numbers[begin : begin + count], hours.flags[begin : begin + count]
      )
      discretiser.expand(some, options.normaliser, out[:count])
    if options.straight:
      return series
    return np.ascontiguousarray(series.reshape(-1, WIDTH, options.hours).transpose(0, 2, 1))

  def _fields(self, rows: np.ndarray, starts: np.ndarray, length: np.ndarray) -> dict[str, Field]:
    """Targets of all tasks, and which are valid."""
    options, labels = self._options, self._split.labels
    hourly = np.zeros((len(rows), options.hours, 4), np.uint8)
    for out, begin, count in zip(hourly, starts.tolist(), length.tolist(), strict=True):
      out[:count] = labels.hourly[begin : begin + count]
    stay = stay_class(hourly[..., listfile.STAY], options.stay_classes)
    dying = hourly[..., listfile.DECOMPENSATION].astype(np.float32)
    stay_valid, dying_valid = (
      hourly[..., mask].astype(bool) for mask in (listfile.STAY_MASK, listfile.DECOMPENSATION_MASK)
    )
    died_valid, died = labels.mortality[rows].T
    found = {
      "mortality": (died.astype(np.float32), died_valid.astype(bool)),
      "length_of_stay": (stay, stay_valid),
      "decompensation": (dying, dying_valid),
    }
    if options.masked:
      found = {task: (target * valid, valid) for task, (target, valid) in found.items()}
    else:
      kept = _authors_hours(labels.listed[rows], options.hours)
      found["length_of_stay"] = stay * kept, stay_valid
      found["decompensation"] = dying * kept, dying_valid
      found = {task: (target, np.ones_like(valid)) for task, (target, valid) in found.items()}
    found["phenotyping"] = labels.phenotypes[rows].astype(np.float32), np.ones(len(rows), bool)
    return found


def _authors_hours(listed: Int[np.ndarray, " B"], hours: int) -> Bool[np.ndarray, "B T"]:
  """Bins whose hourly labels the authors' reader fills; `listed` are for decompensation."""
  # Source: authors' code: labels of hours 1, 2, ... up to the last one listed for
  # decompensation, and to hour T - 1, go to bins 0, 1, ..., those of the remaining stay too.
  last = np.minimum(listed, hours)
  return np.arange(hours)[None] + 1 < last[:, None]
