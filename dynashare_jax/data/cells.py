"""The cells of a column as numbers, dates or texts, and how a table spells them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import datetime
import decimal as decimals
import functools
import itertools
import numbers as number_types
import re
from typing import Any
import unicodedata

import numpy as np

# Texts, in small letters, that say yes where the other of two values does not.
YES = (
  "true",
  "yes",
  "y",
  "1",
  "positive",
  "pos",
  "t",
  "ja",
  "oui",
  "si",
  "sí",
  "sim",
  "evet",
  "да",
)
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "<NA>", "NaT", "#N/A", "?")
NO_NUMBER = ("None", "none", "-", "--", ".")  # missing, too, in a column of numbers or dates
ISO = "iso"  # in place of a format: as 2024-01-31, with a time and a zone or without
_DAY = np.timedelta64(1, "D")
# Blanks that look like a plain one or like nothing.
_BLANKS = {0xA0: " ", 0x202F: " ", 0x2007: " ", 0x200B: None, 0x2060: None, 0xFEFF: None}
_PADDED = re.compile(r"[+-]?0\d")
_WHOLE = re.compile(r"[+-]?\d+\.0+")
EXACT = 2**53  # larger whole numbers, such as ids, may be others as floats
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")
_ZONE = re.compile(r"(Z|[+-]\d\d:?\d\d)$")
_UTC = re.compile(r" ?(UTC|GMT)$")
_DAYS = (
  *("%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y.%m.%d"),
  *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y"),
  *("%b %d, %Y", "%B %d, %Y", "%Y-%m"),
)
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", "T%H%M%S", "T%H:%M:%S")
FORMATS = (ISO, "%Y%m%d", "%Y%m%dT%H%M%S", *(day + time for day in _DAYS for time in _TIMES))

Where = Callable[[int, str], str]


def place(row: int, column: str) -> str:
  """Returns where a cell is, of a column that came from no file; rows count from 1."""
  return f"column {column!r}, row {row + 1}"


@dataclasses.dataclass(frozen=True)
class Spelling:
  """How a table writes numbers and missing values.

  Attributes:
    decimal: `.` or `,`.
    thousands: what parts the thousands; empty for nothing.
    missing: texts, also of numbers, that mean a missing value beside `MISSING`.
  """

  decimal: str = "."
  thousands: str = ""
  missing: tuple[str, ...] = ()

  def number(self, text: str) -> float | None:
    """Returns the number that a text is, None where it is none."""
    return _reader(self.decimal, self.thousands)(text)


@functools.cache
def _reader(decimal: str, thousands: str) -> Callable[[str], float | None]:
  """What reads the numbers of a spelling."""
  point = re.escape(decimal)
  thousands = " " if thousands.isspace() else thousands
  plain = re.compile(rf"[+-]?(\d+({point}\d*)?|{point}\d+)([eE][+-]?\d+)?").fullmatch
  parted = re.compile(rf"[+-]?\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+({point}\d*)?").fullmatch

  def read(text: str) -> float | None:
    text = text.replace("\u2212", "-").strip()
    if thousands and parted(text):
      text = text.replace(thousands, "")
    if plain(text):
      return float(text.replace(decimal, "."))
    return float(text) if _INFINITE.fullmatch(text) else None

  return read


@dataclasses.dataclass(frozen=True)
class Cells:
  """A column in one form.

  Attributes:
    values: float64 `[N]`, datetime64 `[N]`, or int32 codes `[N]` of texts; NaN, NaT or -1 is
      missing.
    texts: what the codes 0, 1, ... stand for, without blanks around; None for numbers and dates.
    known: spelling or format -> what it makes of `texts`, which is read once.
  """

  values: np.ndarray
  texts: tuple[str, ...] | None = None
  known: dict[Any, np.ndarray] = dataclasses.field(default_factory=dict, repr=False, compare=False)

  @classmethod
  def read(cls, values: Any, name: str, where: Where = place) -> Cells:
    """Reads a list, an array or a column of a frame.

    Numbers, truth values, texts, dates and times (in UTC without their zone), and None, NaN, NaT
    or what else is not equal to itself for missing ones. A mixture is read as texts.

    Raises:
      ValueError: more than one axis, or a cell of another type; names it.
    """
    if isinstance(values, Cells):
      return values
    if hasattr(values, "dtype") or hasattr(values, "__array__"):
      array = np.asarray(values)
    else:
      array = np.fromiter(values, object, len(values))
    if array.ndim != 1:
      raise ValueError(f"Column {name!r} has the shape {array.shape}; it must have one axis.")
    if array.dtype.kind in "iu" and array.size and not _exact(array.min(), array.max()):
      return cls.of_texts([str(value) for value in array.tolist()])
    if array.dtype.kind in "iuf":
      return cls(array.astype(np.float64))
    if array.dtype.kind == "M":
      return cls(array.astype("datetime64[us]"))
    if array.dtype.kind == "m":
      return cls(array / _DAY)
    if array.dtype.kind == "b":
      return cls(array.astype(np.int32), ("false", "true"))
    return cls._of_objects(array.astype(object), name, where)

  @classmethod
  def _of_objects(cls, array: np.ndarray, name: str, where: Where) -> Cells:
    """Cells of any types, each of its own."""
    kept = [row for row, value in enumerate(array) if not _absent(value)]
    found = {_sort(array[row]) for row in kept}
    if "" in found:
      row = next(row for row in kept if not _sort(array[row]))
      raise ValueError(
        f"{where(row, name)}: {array[row]!r:.40} is no number, text, truth value or date."
      )
    if found <= {"number"} and all(_exact(array[row]) for row in kept):
      numbers = np.full(len(array), np.nan)
      numbers[kept] = [_float(array[row]) for row in kept]
      return cls(numbers)
    if found == {"date"}:
      _check_zones([(row, array[row]) for row in kept], name, where)
      times = np.full(len(array), "NaT", "datetime64[us]")
      times[kept] = [_instant(array[row]) for row in kept]
      return cls(times)
    codes = np.full(len(array), -1, np.int32)
    values = array[kept].tolist() if found == {"text"} else [text_of(array[row]) for row in kept]
    cells = cls.of_texts(values)
    codes[kept] = cells.values
    return cls(codes, cells.texts)

  @classmethod
  def of_texts(cls, values: Sequence[str]) -> Cells:
    """Makes cells of texts, as `text_of` writes them; none is missing."""
    known: dict[str, int] = {}
    codes = np.fromiter((known.setdefault(v, len(known)) for v in values), np.int32, len(values))
    return cls.coded(codes, list(known))

  @classmethod
  def coded(cls, codes: np.ndarray, values: Sequence[str]) -> Cells:
    """Makes cells of int32 codes `[N]` of texts, which are written as `text_of` does."""
    texts: dict[str, int] = {}
    alike = [texts.setdefault(text_of(text), len(texts)) for text in values]
    return cls(np.array(alike, np.int32)[codes] if alike else codes, tuple(texts))

  @classmethod
  def join(cls, parts: Sequence[Cells]) -> Cells:
    """Puts columns behind one another; numbers, dates and texts together become texts."""
    if len(parts) == 1:
      return parts[0]
    if len({part.kind for part in parts}) > 1:
      parts = [part.as_texts(Spelling()) for part in parts]
    if parts[0].texts is None:
      return cls(np.concatenate([part.values for part in parts]))
    texts: dict[str, int] = {}
    codes = []
    for part in parts:
      alike = [texts.setdefault(text, len(texts)) for text in part.texts or ()]
      codes.append(np.array([*alike, -1], np.int32)[part.values])
    return cls(np.concatenate(codes), tuple(texts))

  def __len__(self) -> int:
    return len(self.values)

  def take(self, rows: np.ndarray) -> Cells:
    """Returns some rows."""
    return Cells(self.values[rows], self.texts, self.known)

  @property
  def kind(self) -> str:
    """`number`, `date` or `text`."""
    if self.texts is not None:
      return "text"
    return "date" if self.values.dtype.kind == "M" else "number"

  def codes(self, spelling: Spelling) -> np.ndarray:
    """Returns a number for every different value, int64 `[N]`, and -1 for missing ones."""
    if self.texts is None:
      _, codes = np.unique(self.values, return_inverse=True)
      return np.where(self.missing(spelling), -1, codes.reshape(-1))
    return np.where(self.missing(spelling), -1, self.values.astype(np.int64))

  def as_texts(self, spelling: Spelling) -> Cells:
    """Returns the same as texts, missing ones -1."""
    if self.texts is None:
      distinct, codes = np.unique(self.values, return_inverse=True)
      cells = Cells(codes.reshape(-1).astype(np.int32), tuple(text_of(v) for v in distinct))
      return Cells(np.where(self.missing(spelling), -1, cells.values), cells.texts)
    return Cells(np.where(self.missing(spelling), -1, self.values), self.texts, self.known)

  def written(self) -> list[str]:
    """Returns every cell as a text, as it was written but for blanks around it; empty for none."""
    cells = self.as_texts(Spelling()) if self.texts is None else self
    texts = [*(cells.texts or ()), ""]  # behind them, of -1
    return [texts[code] for code in cells.values]

  def dated(self, spelling: Spelling) -> bool:
    """Returns whether all values are dates, or texts of dates in ISO form."""
    if self.texts is None:
      return self.kind == "date"
    there = [self.texts[code] for code in np.unique(self.codes(spelling)) if code >= 0]
    return bool(there) and not any(np.isnat(date_of(text, ISO)) for text in there)

  def as_names(self, spelling: Spelling) -> Cells:
    """Returns the same as texts by which rows belong together: of numbers 1 and 1.0 are one."""
    cells = self.as_texts(spelling)
    texts: dict[str, int] = {}
    same = [texts.setdefault(whole(text), len(texts)) for text in cells.texts or ()]
    return Cells(np.array([*same, -1], np.int32)[cells.values], tuple(texts))

  def missing(self, spelling: Spelling, strict: bool = False) -> np.ndarray:
    """Returns which rows are missing, `[N]`.

    Args:
      strict: whether `NO_NUMBER` means missing, too, and -999.0 where -999 does.
    """
    spellings = spelling, Spelling()  # YAML writes decimal points
    read = [other.number(text) for text in spelling.missing for other in spellings]
    marks = [mark for mark in read if mark is not None]
    if self.texts is None:
      if self.kind == "date":
        dates = [date_of(text, ISO) for text in spelling.missing]
        return np.isnat(self.values) | np.isin(self.values, [d for d in dates if not np.isnat(d)])
      gone = np.isnan(self.values)
      return gone | np.isin(self.values, marks) if self.values.dtype.kind == "f" else gone
    words = {*MISSING, *spelling.missing, *(NO_NUMBER if strict else ())}
    told = np.array([*(text in words for text in self.texts), True], bool)
    if marks:
      # -999 is -999.0, too, but 0 no code as 00.
      padded = np.array([*(bool(_PADDED.match(text)) for text in self.texts), False])
      told |= np.isin(self.parsed(spelling), marks) & ~padded
    return told[self.values]

  def numbers(self, spelling: Spelling) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 `[N]` with NaN for missing ones, and which cells are no number."""
    gone = self.missing(spelling, strict=True)
    if self.texts is None:
      values = _days(self.values) if self.kind == "date" else self.values
      return np.where(gone, np.nan, values), np.zeros(len(self), bool)
    parsed = self.parsed(spelling)[self.values]
    return np.where(gone, np.nan, parsed), np.isnan(parsed) & ~gone

  def parsed(self, spelling: Spelling) -> np.ndarray:
    """Returns the number that every text is, float64, NaN where it is none, and NaN behind them."""
    key = spelling.decimal, spelling.thousands
    if key not in self.known:
      read = _reader(*key)
      self.known[key] = np.array([*map(read, self.texts or ()), None], np.float64)
    return self.known[key]

  def days(self, spelling: Spelling, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns days since 1970-01-01, float64 `[N]` as `numbers`, and which cells are no date."""
    gone = self.missing(spelling, strict=True)
    if self.kind == "date":
      return np.where(gone, np.nan, _days(self.values)), np.zeros(len(self), bool)
    cells = self.as_texts(spelling)
    if form not in cells.known:
      read = [date_of(text, form) for text in cells.texts or ()]
      cells.known[form] = np.array([*read, np.datetime64("NaT")], "datetime64[us]")
    parsed = cells.known[form][cells.values]
    wrong = np.isnat(parsed) & ~gone
    return np.where(gone, np.nan, _days(parsed)), wrong


def _absent(value: Any) -> bool:
  """None, and what is not equal to itself: NaN, NaT; what cannot tell, as pandas' NA."""
  if value is None:
    return True
  if isinstance(value, str | list | tuple | dict | set | np.ndarray):
    return False
  try:
    return bool(value != value)
  except (TypeError, ValueError):
    return True


def _sort(value: Any) -> str:
  """Which form a single cell has."""
  if isinstance(value, bool | np.bool_):
    return "truth"
  if isinstance(value, number_types.Real | decimals.Decimal):
    return "number"
  if isinstance(value, datetime.date | np.datetime64):
    return "date"
  return "text" if isinstance(value, str) else ""


def _check_zones(values: Sequence[tuple[int, Any]], name: str, where: Where) -> None:
  """Refuses times of which some name a zone and others do not."""
  times = [(row, v.tzinfo is None) for row, v in values if isinstance(v, datetime.datetime)]
  lacking = [row for row, bare in times if bare]
  if 0 < len(lacking) < len(times):
    raise ValueError(f"{where(lacking[0], name)}: this time names no zone, but others do.")


def _exact(*values: Any) -> bool:
  """Whether none is a whole number that a float would take for its neighbour, as long ids are."""
  whole = [abs(_float(v)) for v in values if isinstance(v, number_types.Integral)]
  return all(v < EXACT or v == float("inf") for v in whole)


def _float(value: Any) -> float:
  try:
    return float(value)
  except OverflowError:
    return float("inf")


def _instant(value: Any) -> np.datetime64:
  """A date or time; with a zone, that of UTC; NaT where there is none, as at the end of time."""
  if isinstance(value, datetime.datetime) and value.tzinfo is not None:
    try:
      value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    except OverflowError:
      return np.datetime64("NaT")
  return np.datetime64(value, "us")


def _days(values: np.ndarray) -> np.ndarray:
  return np.where(np.isnat(values), np.nan, (values - np.datetime64(0, "us")) / _DAY)


def text_of(value: Any) -> str:
  """Returns a cell as a category's name: whole numbers without a point, truth in small letters."""
  if isinstance(value, str):
    value = unicodedata.normalize("NFC", value.translate(_BLANKS).strip())
    return value.lower() if value.lower() in ("true", "false") else value
  if isinstance(value, bool | np.bool_):
    return str(bool(value)).lower()
  if isinstance(value, number_types.Integral):
    return str(int(value))
  if isinstance(value, number_types.Real | decimals.Decimal):
    value = _float(value)
    return str(int(value)) if value.is_integer() and abs(value) < EXACT else repr(value)
  if isinstance(value, np.datetime64):
    return str(value)
  return str(value.isoformat())


def whole(text: str) -> str:
  """Returns 1 of 1.0, and any other text as it is."""
  return text.partition(".")[0] if _WHOLE.fullmatch(text) else text


def date_of(text: str, form: str) -> np.datetime64:
  """Returns the time that a text is by a format of `strptime` or `ISO`; NaT where it is none."""
  try:
    if form == ISO:
      if not _ISO.fullmatch(text):
        return np.datetime64("NaT")
      return _instant(datetime.datetime.fromisoformat(_UTC.sub("+00:00", text)))
    return _instant(datetime.datetime.strptime(text, form))
  except ValueError:
    return np.datetime64("NaT")


_GROUPED = re.compile(r"[+-]?\d{1,3}([.,' \u00a0\u202f])\d{3}(?:\1\d{3})*(?:([.,])\d+)?")


def zoned(text: str) -> bool | None:
  """Returns whether a time in ISO form names its zone; None for a date without a time."""
  return bool(_ZONE.search(_UTC.sub("Z", text)[10:])) if len(text) > 10 else None


def grouped(text: str) -> str:
  """Returns what seems to part the thousands of a number, as `,` in 1,234; else nothing."""
  found = _GROUPED.fullmatch(text)
  return found.group(1) if found else ""


def _marks(texts: Iterable[str]) -> tuple[str, str, str]:
  """The decimal mark and the separator of thousands of the first text that has both, and this."""
  matches = filter(None, map(_GROUPED.fullmatch, texts))
  both = (m for m in matches if m.group(2) and m.group(2) != m.group(1))
  found = next(both, None)
  return (found.group(2), found.group(1), found.group()) if found else ("", "", "")


def detect(columns: Mapping[str, Cells], missing: Iterable[str] = ()) -> tuple[Spelling, list[str]]:
  """Finds out whether a table writes decimal points or commas, from all of its columns.

  What parts thousands is found out where a number has a decimal mark, too, as 1.234,56.

  Returns:
    The spelling, with a point where nothing tells, and warnings about columns that look otherwise.
  """
  seen: dict[str, dict[str, str]] = {".": {}, ",": {}}  # mark -> column -> first such number
  base = Spelling(missing=tuple(missing))
  parts: dict[str, str] = {}  # mark -> what parts thousands beside it
  marks = {*MISSING, *NO_NUMBER, *base.missing}
  for name, cells in columns.items():
    texts = cells.texts or ()
    given = np.array([text not in marks for text in texts], bool)
    told, apart, number = _marks(itertools.compress(texts, given))
    if (
      told
      and (given & ~np.isnan(cells.parsed(Spelling(told, apart))[:-1])).sum() > 0.9 * given.sum()
    ):
      seen[told][name], parts[told] = number, parts.get(told, apart)
      continue
    for mark, found in seen.items():
      known = given & ~np.isnan(cells.parsed(Spelling(mark))[:-1])
      if known.sum() <= 0.9 * given.sum():
        continue
      # 1,234 may have a separator of thousands.
      written = (texts[place] for place in np.flatnonzero(known))
      clear = next((t for t in written if mark in t and grouped(t) != mark), "")
      if clear:
        found[name] = clear
  warnings = []
  if seen["."] and seen[","]:
    (other, text), one = next(iter(seen[","].items())), next(iter(seen["."]))
    warnings = [
      f"warning: column {other!r} has texts as {text!r}, but column {one!r} has decimal points:"
      " they are read as texts. If they are numbers, say decimal: ','."
    ]
  decimal = "," if seen[","] and not seen["."] else "."
  base = dataclasses.replace(base, decimal=decimal, thousands=parts.get(decimal, ""))
  return base, [*warnings, *_perhaps_grouped(columns, base)]


def _perhaps_grouped(columns: Mapping[str, Cells], spelling: Spelling) -> list[str]:
  """Warns of columns as 987, 1.234, 12.345, whose mark may be no decimal point."""
  warnings = []
  for name, cells in columns.items():
    numbers = [text for text in cells.texts or () if spelling.number(text) is not None]
    marked = [text for text in numbers if spelling.decimal in text]
    plain = [text for text in numbers if spelling.decimal not in text]
    if not marked or not plain or any(len(text.lstrip("+-")) > 3 for text in plain):
      continue
    if all(grouped(text) == spelling.decimal and text.lstrip("+-")[0] != "0" for text in marked):
      warnings.append(
        f"warning: the numbers of column {name!r}, as {marked[0]!r} beside {plain[0]!r}, have three"
        f" digits behind the mark or none: if it parts thousands, say thousands:"
        f" {spelling.decimal!r} and the other mark as decimal."
      )
  return warnings
