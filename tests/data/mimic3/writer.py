"""Writes invented intensive care stays as the benchmark's pipeline does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

import numpy as np

from dynashare_jax.data.mimic3 import columns
from dynashare_jax.data.mimic3 import listfile as mimic3_listfile

Row = tuple[str, dict[str, str]]  # hours, channel -> cell


@dataclasses.dataclass
class Stay:
  """An invented stay; labels follow from its length and its first row.

  Attributes:
    rows: of the time series.
    hours: length of the stay.
    subject: number of the patient, in the name of the file.
    dies: after how many hours, 0 for not at all.
    phenotypes: numbers of those that are there.
  """

  rows: Sequence[Row]
  hours: float
  subject: int
  dies: float = 0.0
  phenotypes: Sequence[int] = ()

  @property
  def name(self) -> str:
    return f"{self.subject}_episode1_timeseries.csv"

  def series(self) -> str:
    """The file of the time series."""
    lines = [",".join(columns.HEADER)]
    for hours, cells in self.rows:
      lines.append(",".join([hours, *(cells.get(c.name, "") for c in columns.CHANNELS)]))
    return "\n".join([*lines, ""])

  def line(self) -> str:
    """The line of a listfile."""
    first = float(self.rows[0][0]) if self.rows else 0.0
    times = np.arange(int(self.hours + 1e-6) + 1)
    mask = (times > 4) & (times > first)
    left = [f"{self.hours - t:.6f}" for t in times]
    alive = times[times <= (self.dies or 1e9)]
    soon = [int(self.dies > 0 and self.dies - t < 24) for t in alive]
    counts = int(self.hours >= 48 and first <= 48)
    positive = [int(i in self.phenotypes) for i in range(25)]
    return (
      ",".join(
        [
          self.name,
          f"{self.hours:.6f}",
          f"{47 * counts};{counts};{int(self.dies > 0)}",
          _joined(mask, left),
          _joined(positive),
          _joined(mask[: len(soon)], soon),
        ]
      )
      + "\n"
    )


def _joined(*parts: Sequence[object]) -> str:
  texts = [v if isinstance(v, str) else str(int(v)) for p in parts for v in p]
  return ";".join(texts)


def write(folder: pathlib.Path, stays: Mapping[str, Sequence[Stay]]) -> pathlib.Path:
  """Writes all files of the multitask problem; returns the folder."""
  for split, (listfile, part) in mimic3_listfile.FILES.items():
    (folder / part).mkdir(parents=True, exist_ok=True)
    lines = [",".join(mimic3_listfile.HEADER) + "\n"]
    for stay in stays[split]:
      (folder / part / stay.name).write_text(stay.series())
      lines.append(stay.line())
    (folder / listfile).write_text("".join(lines))
  return folder


def some(count: int, seed: int = 0, first: int = 1) -> list[Stay]:
  """Random stays of 5 to 80 hours, whose numbers are easy to recognise."""
  rng = np.random.default_rng(seed)
  found = []
  for number in range(count):
    hours = round(float(rng.uniform(5, 80)), 6)
    times = np.sort(rng.uniform(0, hours, rng.integers(2, 30)))
    rows = [(repr(float(t)), _cells(rng)) for t in times]
    rows[-1][1]["Heart Rate"] = "91.4142"  # the last row of a bin wins
    found.append(
      Stay(
        rows,
        hours,
        first + number,
        hours + 1 if rng.random() < 0.4 else 0.0,
        rng.integers(0, 25, 3).tolist(),
      )
    )
  return found


def _cells(rng: np.random.Generator) -> dict[str, str]:
  chosen = [c for c in columns.CHANNELS if rng.random() < 0.3]
  return {
    c.name: str(rng.choice(c.values))
    if c.values
    else f"{float(c.normal) * rng.uniform(0.5, 2):.7f}"
    for c in chosen
  }


def few(folder: pathlib.Path, sizes: tuple[int, int, int] = (6, 2, 3)) -> pathlib.Path:
  """Writes a few random stays."""
  train, validation, test = sizes
  return write(
    folder,
    {
      "train": some(train, 0, 100),
      "validation": some(validation, 1, 200),
      "test": some(test, 2, 300),
    },
  )
