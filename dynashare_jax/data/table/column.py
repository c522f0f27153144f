"""A column of labels: its different cells, and where they stand."""

from __future__ import annotations

from collections.abc import Callable, Collection
import dataclasses
import math
import re
from typing import Any

import numpy as np

from dynashare_jax.data.cells import Cells
from dynashare_jax.data.cells import EXACT
from dynashare_jax.data.cells import MISSING
from dynashare_jax.data.cells import NO_NUMBER
from dynashare_jax.data.cells import Spelling
from dynashare_jax.data.cells import text_of
from dynashare_jax.data.cells import whole


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of labels.

  Attributes:
    name: of the column.
    codes: int32 `[N]`, of every row the place of its cell in `texts`; -1 has no label.
    texts: the different cells, numbers by size; 1 and 1.0 are the same.
    spelt: how each is first written.
    numbers: float64, the number that each is, NaN where it is none.
    where: of a row, for messages.
    marks: texts that stand in place of a label.
    dates: whether these are dates.
    real: whether these are of a type of real numbers, and so no ids.
  """

  name: str
  codes: np.ndarray
  texts: tuple[str, ...]
  spelt: tuple[str, ...]
  numbers: np.ndarray
  where: Callable[[int], str]
  marks: tuple[str, ...] = ()
  dates: bool = False
  real: bool = False

  @classmethod
  def of(
    cls,
    name: str,
    cells: Cells,
    where: Callable[[int], str],
    spelling: Spelling | None = None,
    ignore: Collection[str] = (),
  ) -> Column:
    """Makes a column of cells.

    Args:
      spelling: of numbers, and with it the usual words for a missing cell; None: decimal points,
        and empty cells alone are missing.
      ignore: cells that are no label.
    """
    gone = {"", *ignore} | ({*MISSING, *spelling.missing} if spelling else set())
    weak = {*NO_NUMBER} if spelling else set()
    plain = Spelling(spelling.decimal, spelling.thousands) if spelling else Spelling()
    dates = cells.kind == "date"
    if cells.texts is None:
      there = ~np.isnat(cells.values) if dates else ~np.isnan(cells.values)
      distinct, inverse = np.unique(cells.values[there], return_inverse=True)
      codes = np.full(len(cells), -1, np.int32)
      codes[there] = inverse.reshape(-1)
      numbers = np.full(len(distinct), np.nan) if dates else distinct.astype(np.float64)
      texts = tuple(map(text_of, distinct))
      marks = {plain.number(mark) for mark in gone} - {None}
      gone |= {text for text, value in zip(texts, numbers, strict=True) if value in marks}
    else:
      codes, texts, numbers = cells.values, cells.texts, cells.parsed(plain)[:-1]
    kept = [place for place in np.unique(codes[codes >= 0]) if texts[place] not in gone]
    if all(not math.isnan(numbers[place]) or texts[place] in weak for place in kept):
      marks = {plain.number(mark) for mark in gone}  # 13.0 is none where 13 is none
      kept = [p for p in kept if not math.isnan(numbers[p]) and numbers[p] not in marks]
      padded = any(re.fullmatch(r"0\d+", texts[place]) for place in kept)
      exact = all(abs(numbers[place]) < EXACT for place in kept)
      named = lambda p: text_of(float(numbers[p])) if exact else whole(texts[p])
      names = {place: texts[place] if padded else named(place) for place in kept}
    else:
      names = {place: texts[place] for place in kept}
    value = {text: numbers[place] for place, text in names.items()}
    order = sorted(value, key=lambda text: (np.nan_to_num(value[text], posinf=np.inf), text))
    code = {text: number for number, text in enumerate(order)}
    known = np.full(len(texts) + 1, -1, np.int32)
    known[kept] = [code[names[place]] for place in kept]
    first = {names[place]: texts[place] for place in reversed(kept)}
    return cls(
      name,
      known[codes],
      tuple(order),
      tuple(first[text] for text in order),
      np.array([value[text] for text in order], np.float64),
      where,
      tuple(sorted({texts[p] for p in np.unique(codes[codes >= 0]) if p not in names} - {""})),
      cells.dated(spelling or Spelling()),
    )

  def scattered(self, rows: np.ndarray, count: int) -> Column:
    """Returns the same as some rows, `[N]`, of a count, of which the others have no label."""
    codes = np.full(count, -1, np.int32)
    codes[rows] = self.codes
    return dataclasses.replace(self, codes=codes)

  def place(self, text: str) -> str:
    """Returns where a text first stands."""
    return self.where(int(np.argmax(self.codes == self.texts.index(text))))

  def first(self, which: Any) -> str:
    """Returns which of some texts, a mask of `texts`, stands first."""
    return self.texts[self.codes[int(np.argmax(np.array([*which, False], bool)[self.codes]))]]
