"""Collects the problems of the files, without a word of what they hold."""

from __future__ import annotations

from collections.abc import Sequence
import re
from typing import NamedTuple

SHOWN = 20
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}_timeseries\.csv")


class Problem(NamedTuple):
  """One problem.

  Attributes:
    file: relative to the folder of the data.
    line: from 1; 0 for the whole file.
    column: its name, or empty.
    what: is wrong, or was expected.
  """

  file: str
  line: int
  column: str
  what: str

  def __str__(self) -> str:
    line = f", line {self.line}" if self.line else ""
    column = f", column '{self.column}'" if self.column else ""
    return f"{self.file}{line}{column}: {self.what}"


class Problems:
  """What was found so far; the first `SHOWN` are kept, all are counted.

  Patients' values must not leave the machine in an error message: a problem names a file, a line, a
  column and what was expected there, never what stands there.

  Attributes:
    kept: the first ones.
    total: how many there are.
  """

  def __init__(self) -> None:
    self.kept: list[Problem] = []
    self.total = 0

  def add(self, file: str, line: int, column: str, what: str) -> None:
    """Notes a problem; arguments as in `Problem`."""
    self.total += 1
    if len(self.kept) < SHOWN:
      self.kept.append(Problem(file, line, column, what))

  def extend(self, kept: Sequence[Problem], total: int) -> None:
    """Adds what another collection kept and counted."""
    self.kept += kept[: SHOWN - len(self.kept)]
    self.total += total

  def check(self, folder: str) -> None:
    """Raises if there is any problem in the files of a folder.

    Raises:
      ValueError: with up to `SHOWN` problems, one per line.
    """
    if not self.total:
      return
    count = f"{self.total} problem" + "s" * (self.total > 1)
    lines = [f"The MIMIC-III files in {folder} have {count}; nothing was converted.", *self.kept]
    if more := self.total - len(self.kept):
      lines.append(f"and {more} more.")
    raise ValueError("\n  ".join(map(str, lines)))


def is_name(text: str) -> bool:
  """Returns whether a cell is the name of a file that the pipeline may have written.

  A cell that is not must not be shown: it may be anything.
  """
  return _NAME.fullmatch(text) is not None
