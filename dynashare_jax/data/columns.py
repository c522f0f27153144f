"""Roles of raw columns, and their encoding as codes and numbers, fitted on training rows.

  roles = infer(columns)  # name -> Role
  encoder = Encoder.fit({name: column[train] for name, column in columns.items()}, roles)
  inputs = encoder.encode(columns)

Columns are lists, arrays or columns of frames, see `cells.Cells.read`. Nothing here knows of files.

Source: Gorishniy et al. 2022, "On Embeddings for Numerical Features in Tabular
Deep Learning", Sec. 3.2, for quantile bins of a piecewise-linear encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import re
from typing import Any, NamedTuple

from jaxtyping import Float
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import cells as cells_lib
from dynashare_jax.data.cells import Cells
from dynashare_jax.data.cells import place
from dynashare_jax.data.cells import Spelling
from dynashare_jax.data.cells import Where

NUMBER, CATEGORY, DATE, IGNORED = KINDS = ("number", "category", "date", "ignored")
MOST_CATEGORIES = 255
_NEARLY = 0.9  # share of numbers, or dates, from which other texts look like faults
_FEW_ROWS = 20  # with fewer, texts that all differ say nothing
_SOME = 2000  # rows that are looked at first
_RARE_ROWS = 100  # from so many rows on, categories of one row are "other"
_LISTED = 12  # names in a note
_MONTHS = tuple(map(str, range(1, 13)))
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_ID = re.compile(
  r"(?i:^unnamed|^__index_level_\d+__$|(^|[_ .-])(id|uuid|guid|key|index|nr|no)$)|[a-z]I[dD]$"
)
_WITH_UNIT = re.compile(r"([$€£¥] ?)?[+-]?\d+([.,']\d{3})*([.,]\d+)?( ?([%°$€£¥]|[A-Za-z]{1,3}))?")
_DATED = re.compile(  # perhaps a date
  r"\d{1,4}([-./])\d{1,2}\1\d{2,4}(\D|$)|(\d{1,2}\.? )?[^\W\d]{3,}\.? (\d{1,2}, )?\d{4}(\D|$)"
)
_YEARS = 36525  # days of 100 years
_FILLERS = re.compile(r"-?9{2,}|-?9{2,}\.0+")  # -999, 99999: often a missing value


class Role(NamedTuple):
  """What a column is.

  Attributes:
    kind: of `KINDS`.
    reason: in a few words, why.
    date: format of a date, see `types.ColumnSpec`.
    warning: what of it may be wrong; empty for nothing.
  """

  kind: str
  reason: str = ""
  date: str = ""
  warning: str = ""


def quantile_edges(values: Float[np.ndarray, " N"], bins: int) -> tuple[float, ...]:
  """Places at most `bins` bins at the quantiles of the values, without repeats.

  A value that alone would fill a bin is an edge of its own, and the other edges
  are quantiles of the other values. Without that, columns that are mostly zero
  (wages, gains, losses) keep one single bin.

  Returns:
    At least two ascending edges; the first is the least and the last the
    greatest value (or one more than it, for a column with a single value).
  """
  distinct, counts = np.unique(values, return_counts=True)
  edges = frequent = distinct[counts * bins > len(values)]
  others = values[~np.isin(values, frequent)]
  if len(others):
    steps = np.linspace(0.0, 1.0, bins - len(frequent) + 1)
    edges = np.concatenate([frequent, np.quantile(others, steps)])
  edges = np.unique(edges.astype(np.float32))
  if len(edges) == 1:
    edges = np.append(edges, edges[0] + 1)
  return tuple(float(edge) for edge in edges)


def infer(
  columns: Mapping[str, Any],
  spelling: Spelling | None = None,
  where: Where = place,
  given: Mapping[str, Role | str] | None = None,
) -> dict[str, Role]:
  """Finds out what every column is, best of all rows: a part of them has gaps in row numbers.

  A number has numbers alone, a date has dates of one form, all other texts and truth values are
  categories; ignored are columns with one value or none, row numbers and ids.

  Args:
    columns: name -> values.
    spelling: None: as `cells.detect` finds it.
    where: names a cell (row from 0, column) in messages.
    given: name -> role that is known.

  Raises:
    ValueError: numbers or dates with a few other texts between them, or with what may part
      thousands; names the cell, and what to say. An unknown column or role in `given`.
  """
  read = {name: Cells.read(values, name, where) for name, values in columns.items()}
  if spelling is None:
    spelling, _ = cells_lib.detect(read)
  found = {}
  for name in given or {}:
    if name not in read:
      raise ValueError(f"There is no column {name!r}.{lookup.hint(name, read)}")
  for name, cells in read.items():
    role = (given or {}).get(name, "")
    if isinstance(role, str) and role:
      role = Role(lookup.one_of(f"The role of column {name!r}", role, KINDS), "as said")
    if not isinstance(role, Role):
      role = _role(name, cells, spelling, where)
    elif role.kind == DATE and not role.date:
      role = _role(name, cells, spelling, where)
      if role.kind != DATE:
        raise ValueError(
          f"Column {name!r} is said to be a date, but is a {role.kind} ({role.reason}): say its"
          f' format, as columns: {{{name}: {{date: "%d.%m.%Y"}}}}.'
        )
    found[name] = role
  return found


def _role(name: str, cells: Cells, spelling: Spelling, where: Where) -> Role:
  gone = cells.missing(spelling)
  if gone.all():
    return Role(IGNORED, "no value")
  if cells.kind == DATE:
    return Role(DATE, "dates", cells_lib.ISO)
  numbers, wrong = cells.numbers(spelling)
  codes = np.unique(cells.codes(spelling)[~gone])
  if len(codes) == 1 and not gone.any():
    row = int(np.argmax(~gone))
    text = cells_lib.text_of(cells.values[row] if cells.texts is None else cells.texts[codes[0]])
    return Role(IGNORED, f"one value, {text[:20]!r}")
  distinct = [(cells.texts or ())[code] for code in codes] if cells.texts is not None else []
  if not wrong.any():
    return _numeric_role(name, cells, numbers, distinct)
  texts = cells.as_texts(spelling)
  if (role := _date_role(name, texts, distinct, spelling, where)) is not None:
    return role
  known = np.isfinite(numbers).sum()
  share = known / max(1, known + wrong.sum())
  row = int(np.argmax(wrong))
  text = (texts.texts or ())[texts.values[row]]
  _check_thousands(name, distinct, spelling, where, texts)
  _check_marks(name, distinct, spelling, where, texts)
  if share >= _NEARLY:
    raise ValueError(
      f"{where(row, name)}: {text[:40]!r} is no number, as {wrong.sum()} of the {len(cells)} values"
      f" of this column; {known} are. Say missing: [{text[:40]}] if it means a missing value, or"
      f" columns: {{{name}: category}} if all are texts."
    )
  cell = f"{text[:40]!r} ({where(row, name)})"
  others = [text for text in distinct if spelling.number(text) is None]
  units = sum(bool(_WITH_UNIT.fullmatch(text)) for text in others)
  warning = ""
  if sum(bool(_DATED.match(text)) for text in distinct) >= _NEARLY * len(distinct):
    warning = (
      f"warning: the texts of column {name!r}, as {cell}, look like dates, but of no known form, or"
      f" of several: {how_dated(name)}"
    )
  elif len(distinct) > _FEW_ROWS and units >= _NEARLY * len(others):
    warning = (
      f"warning: the texts of column {name!r}, as {cell}, are numbers with something beside them,"
      " and are read as texts: leave that out of the file."
    )
  elif known:
    warning = (
      f"warning: {known} of {len(cells)} values of column {name!r} are numbers, the others texts,"
      f" first {cell}: all are read as texts. If those mean a missing value, add them to missing."
    )
  role = _lone_texts(len(distinct), int((~gone).sum())) or Role(CATEGORY, f"{len(distinct)} texts")
  return role._replace(warning=warning)


def _numeric_role(name: str, cells: Cells, numbers: np.ndarray, texts: list[str]) -> Role:
  """What a column is whose values are all numbers, written as some texts if it has such."""
  values = numbers[np.isfinite(numbers)]
  if len(values) == len(cells) and values.min() == values.max():
    return Role(IGNORED, f"one value, {values[0]:g}")
  whole = bool((values == np.floor(values)).all())
  if whole and len(values) and values.min() >= 19000101 and values.max() <= 21001231:
    days = [cells_lib.date_of(str(int(v)), "%Y%m%d") for v in np.unique(values)]
    if not np.isnat(days).any():
      return Role(DATE, "as 20240131", "%Y%m%d")
  unique = len(np.unique(values)) == len(cells) >= _FEW_ROWS
  if unique and whole and abs(steps := np.diff(values)).max() == 1 == abs(steps.sum()) / len(steps):
    return Role(IGNORED, "counts the rows")
  if unique and whole and _ID.search(name):
    return Role(IGNORED, "another whole number in every row, and called an id")
  if any(re.fullmatch(r"0\d+", text) for text in texts):
    category = Role(CATEGORY, f"{len(texts)} numbers with leading zeros")
    return _lone_texts(len(texts), len(values)) or category
  return Role(NUMBER, "whole numbers" if whole else "numbers")


def _lone_texts(distinct: int, rows: int) -> Role | None:
  """The role of texts that hardly ever repeat, which no code can be learnt for."""
  if rows < _FEW_ROWS or distinct <= rows / 2:
    return None
  every = distinct == rows
  return Role(IGNORED, f"{'' if every else 'nearly '}another text in every row, as an id")


def _date_role(
  name: str, texts: Cells, distinct: list[str], spelling: Spelling, where: Where
) -> Role | None:
  """The format that reads all dates; None where they are none."""
  distinct = [text for text in distinct if text not in cells_lib.NO_NUMBER]
  gone = texts.missing(spelling, strict=True)
  if not all(any(c.isdigit() for c in text) for text in distinct[:5]):
    return None
  reads = lambda form: [not np.isnat(cells_lib.date_of(text, form)) for text in distinct[:10]]
  likely = [form for form in cells_lib.FORMATS if np.mean(reads(form)) >= 0.3]
  faults = {form: texts.days(spelling, form)[1] for form in likely}
  shares = {form: 1 - wrong.sum() / (~gone).sum() for form, wrong in faults.items()}
  if not shares or max(shares.values()) < _NEARLY:
    return None
  form = max(shares, key=lambda f: shares[f])
  wrong = faults[form]
  if wrong.any():
    row = int(np.argmax(wrong))
    text = (texts.texts or ())[texts.values[row]]
    raise ValueError(
      f"{where(row, name)}: {text[:40]!r} is no date as {distinct[0]!r} is (format {form}); such"
      f" are {wrong.sum()} of {(~gone).sum()} values. Mend it, say missing: [{text[:40]}], or"
      f" columns: {{{name}: category}}."
    )
  warnings = _date_doubts(name, distinct, form)
  other = form.replace("%d", "%?").replace("%m", "%d").replace("%?", "%m")
  if other != form and shares.get(other) == 1:
    warnings.append(
      f"warning: column {name!r}, as {distinct[0]!r}, is read as {form}, but {other} fits all of it"
      f', too: say columns: {{{name}: {{date: "{other}"}}}} if that is meant.'
    )
  return Role(DATE, f"as {distinct[0]!r}", form, " ".join(warnings))


def _date_doubts(name: str, distinct: list[str], form: str) -> list[str]:
  """Warns of years of two digits that span long, and of times of which some name no zone."""
  if "%y" in form:
    years = [cells_lib.date_of(text, form).astype("datetime64[Y]").item().year for text in distinct]
    if max(years) - min(years) > 50:
      return [
        f"warning: the years of column {name!r} have two digits, and are read as {min(years)} to"
        f" {max(years)}: write all four."
      ]
  zones = [cells_lib.zoned(text) for text in distinct] if form == cells_lib.ISO else []
  if True in zones and False in zones:
    lacking = distinct[zones.index(False)]
    return [
      f"warning: {zones.count(False)} of the {len(zones)} times of column {name!r}, as {lacking!r},"
      f" name no zone as {distinct[zones.index(True)]!r} does, and are read as UTC: write one."
    ]
  return []


def how_dated(name: str) -> str:
  """Returns the advice to say how the dates of a column are written."""
  return f'say how they are written, as columns: {{{name}: {{date: "%d.%m.%Y %H:%M"}}}}.'


def _check_marks(
  name: str, distinct: list[str], spelling: Spelling, where: Where, texts: Cells
) -> None:
  """Refuses numbers of which some have a decimal point and others a comma."""
  other = Spelling("," if spelling.decimal == "." else ".")
  foreign = [t for t in distinct if spelling.number(t) is None and other.number(t) is not None]
  if not foreign or sum(spelling.number(t) is None for t in distinct) > len(foreign) * 1.1:
    return
  if own := next((t for t in distinct if spelling.decimal in t and spelling.number(t)), ""):
    row = int(np.argmax(texts.values == (texts.texts or ()).index(foreign[0])))
    raise ValueError(
      f"{where(row, name)}: {foreign[0]!r} has another decimal mark than {own!r} in the same"
      f" column. Write all with one, or say columns: {{{name}: category}} if these are texts."
    )


def _check_thousands(
  name: str, distinct: list[str], spelling: Spelling, where: Where, texts: Cells
) -> None:
  """Refuses numbers with what parts the thousands."""
  others = [text for text in distinct if spelling.number(text) is None]
  apart = [text for text in others if cells_lib.grouped(text)]
  if apart and len(others) - len(apart) <= (1 - _NEARLY) * len(distinct):
    code = (texts.texts or ()).index(apart[0])
    mark = cells_lib.grouped(apart[0])
    comma = " (or decimal: ',' if it is that)" * (mark == "," and spelling.decimal == ".")
    row = int(np.argmax(texts.values == code))
    raise ValueError(
      f"{where(row, name)}: {apart[0]!r} seems to have a separator of thousands. Say"
      f" thousands: {mark!r}{comma}, or columns: {{{name}: category}}."
    )


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Turns raw columns into codes and numbers.

  Numbers and dates (in days since 1970, with the hours) stay unscaled, the median of training where
  missing. Categories are, column by column: its own, of a date the month and the day of the week,
  of a number that training lacked in places whether it is missing.

  Attributes:
    spec: all it needs; raw columns and features.
    notes: what fitting found worth telling, one line each.
  """

  spec: types.TableSpec
  notes: tuple[str, ...] = ()

  @classmethod
  def fit(
    cls,
    columns: Mapping[str, Any],
    roles: Mapping[str, Role | str] | None = None,
    bins: int = 16,
    most_categories: int = MOST_CATEGORIES,
    spelling: Spelling | None = None,
    where: Where = place,
  ) -> Encoder:
    """Fits codes, bins and what fills gaps on the training rows.

    Args:
      columns: name -> values of the training rows.
      roles: name -> role; those of other columns are inferred.
      bins: most bins of a number.
      most_categories: most codes of a column; rarer categories, and from 100 rows on those of a
        single row, share the code 0 with what training lacks.
      spelling: None: as `cells.detect` finds it.
      where: names a cell in messages.

    Raises:
      ValueError: no column left, a value that its role cannot have, or what `infer` refuses.
    """
    for field, value in (("bins", bins), ("most_categories", most_categories)):
      if value < 1:
        raise ValueError(f"{field} is {value}; it must be 1 or more.")
    read = {name: Cells.read(values, name, where) for name, values in columns.items()}
    warnings: list[str] = []
    if spelling is None:
      spelling, warnings = cells_lib.detect(read)
    found = infer(read, spelling, where, roles)
    fitted = _Fit(spelling, bins, most_categories, where)
    for name, role in found.items():
      if role.kind != IGNORED:
        fitted.add(name, read[name], role)
    if not fitted.columns:
      each = "; ".join(f"{name}: {role.reason}" for name, role in found.items())
      raise ValueError(f"No column is left as an input ({each or 'there is none'}).")
    warnings += [role.warning for role in found.values() if role.warning]
    gaps = [f"{name} {count}" for name, count in fitted.gaps.items()]
    if gaps:
      fitted.notes.append(
        f"training rows without a value, in {len(gaps)} columns: {_listed(gaps)}."
      )
    return cls(fitted.spec(), (*describe(found), *warnings, *fitted.notes))

  @classmethod
  def of(cls, stored: Mapping[str, Any]) -> Encoder:
    """Makes an encoder of what JSON has kept of its spec, as `table` of an artefact's inputs."""
    return cls(types.TableSpec(**from_json(stored)))

  @property
  def spelling(self) -> Spelling:
    """How raw numbers and missing values are written."""
    return Spelling(self.spec.decimal, self.spec.thousands, self.spec.missing)

  def encode(self, columns: Mapping[str, Any], where: Where = place) -> dict[str, np.ndarray]:
    """Returns `categorical` int32 `[N, C]` and `numeric` float32 `[N, D]`; see `read`."""
    return self.read(columns, where)[0]

  def read(
    self, columns: Mapping[str, Any], where: Where = place
  ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Encodes rows, and counts what training did not have.

    Args:
      columns: name -> values; more columns than it knows are not looked at.

    Raises:
      ValueError: a column is missing, or a value is none that it can have; names the cell.
    """
    spelling, rows, notes = self.spelling, 0, list[str]()
    features: dict[str, np.ndarray] = {}
    known = dict(zip(self.spec.categorical, self.spec.values, strict=True))
    for column in self.spec.columns:
      if column.name not in columns:
        raise ValueError(
          f"There is no column {column.name!r}.{lookup.hint(column.name, columns)} The model reads"
          f" {_listed([c.name for c in self.spec.columns])}."
        )
      cells = Cells.read(columns[column.name], column.name, where)
      rows = len(cells)
      if column.role == CATEGORY:
        codes = codes_of(cells.as_texts(spelling), known[column.name])
        features[column.name] = codes
        if unseen := int((codes == 0).sum()):
          text = "categories that training had not, or rarely"
          notes.append(f"column {column.name!r}: {unseen} of {rows} rows have {text}")
        continue
      values = numbers_of(column, cells, spelling, where)
      gone = np.isnan(values)
      features |= _features(column, values, gone)
      if gone.any() and not column.flag:
        filled = f"{gone.sum()} of {rows} rows have no value, as none had in training"
        notes.append(f"column {column.name!r}: {filled}; its median, {column.fill:g}, stands there")
    stacked = lambda names, dtype: (
      np.stack([features[name] for name in names], 1).astype(dtype)
      if names
      else np.zeros((rows, 0), dtype)
    )
    return {
      "categorical": stacked(self.spec.categorical, np.int32),
      "numeric": stacked(self.spec.numeric, np.float32),
    }, tuple(notes)


def called_id(names: Iterable[str]) -> str:
  """Returns the first column whose name is that of ids or row numbers; empty where none is."""
  return next(filter(_ID.search, names), "")


def describe(roles: Mapping[str, Role]) -> tuple[str, ...]:
  """Returns a line for every kind of column: names, and of some the reason."""
  lines = []
  for kind in KINDS:
    names = {name: role.reason for name, role in roles.items() if role.kind == kind}
    told = kind != NUMBER
    each = [f"{name} ({why})" if why and told else name for name, why in names.items()]
    if each:
      lines.append(f"{kind} columns, {len(each)}: {_listed(each)}.")
  return tuple(lines)


def _listed(names: Iterable[str]) -> str:
  """Some names, and how many more there are."""
  every = list(names)
  more = f" and {len(every) - _LISTED} more" if len(every) > _LISTED else ""
  return ", ".join(every[:_LISTED]) + more


def fillers(name: str, values: np.ndarray, where: Where = place) -> list[str]:
  """Warns of -999, 99999 and their like where they lie far from all other numbers of a column."""
  distinct, counts = np.unique(values[~np.isnan(values)], return_counts=True)
  notes = []
  for at, rest in ((-1, distinct[:-1]), (0, distinct[1:])):
    if len(rest) < 2 or not _FILLERS.fullmatch(text := cells_lib.text_of(distinct[at])):
      continue
    away = min(abs(distinct[at] - rest[0]), abs(distinct[at] - rest[-1]))
    if away > (rest[-1] - rest[0]) / 2 or distinct[at] < 0 <= rest[0]:
      row = int(np.argmax(values == distinct[at]))
      notes.append(
        f"warning: {counts[at]} values of column {name!r} are {text}, far from all others"
        f" ({rest[0]:g} to {rest[-1]:g}), first {where(row, name)}: if that means a missing value,"
        f" say missing: [{text}]."
      )
  return notes


def tells(cells: Cells, labels: np.ndarray, spelling: Spelling) -> bool:
  """Returns whether a column gives the label of every row away.

  Either each of few values has one label; or values and labels belong together one by one, and, of
  so many that this says nothing, also ascend or descend together.
  """
  if len(labels) > 2 * _SOME:  # A value with two labels among some rows is one among all.
    some = np.linspace(0, len(labels) - 1, _SOME).astype(int)
    codes, part = cells.take(some).codes(spelling), labels[some]
    if len({*zip(codes.tolist(), part.tolist(), strict=True)}) > len(np.unique(codes)):
      return False
  _, label = np.unique(labels, return_inverse=True)
  _, code = np.unique(cells.codes(spelling), return_inverse=True)
  rows, count = len(label), int(code.max(initial=0)) + 1
  both = len(np.unique(code.astype(np.int64) * (label.max(initial=0) + 1) + label))
  if both == count <= rows / 10:
    return True
  if not both == count == label.max(initial=0) + 1:
    return False
  values, wrong = cells.numbers(spelling)
  if both < _NEARLY * rows:
    return True
  if wrong.any() or np.isnan(values).any():
    return False
  steps = np.diff(label[np.argsort(values, kind="stable")])
  return bool((steps >= 0).all() or (steps <= 0).all())


def far_dates(name: str, days: np.ndarray, where: Where = place) -> list[str]:
  """Warns of 9999-12-31, 0001-01-01 and their like, a century from all other dates of a column."""
  distinct, counts = np.unique(days[~np.isnan(days)], return_counts=True)
  notes = []
  for at, near in ((-1, -2), (0, 1)):
    if len(distinct) > 2 and abs(distinct[at] - distinct[near]) > _YEARS:
      text = str(np.datetime64(int(np.floor(distinct[at])), "D"))
      row = int(np.argmax(days == distinct[at]))
      notes.append(
        f"warning: {counts[at]} values of column {name!r} are {text}, a century from all others,"
        f" first {where(row, name)}: if that means a missing value, say missing: ['{text}'], as it"
        " is written."
      )
  return notes


def _alike(name: str, texts: Iterable[str]) -> list[str]:
  """Warns of categories that differ in capitals or blanks alone."""
  groups: dict[str, list[str]] = {}
  for text in texts:
    groups.setdefault(" ".join(text.casefold().split()), []).append(text)
  found = [group for group in groups.values() if len(group) > 1]
  if not found:
    return []
  first = " and ".join(map(repr, found[0][:3]))
  more = f", and {len(found) - 1} more such" if len(found) > 1 else ""
  return [
    f"warning: categories of column {name!r} differ in capitals or blanks alone: {first}{more}."
  ]


class _Fit:
  """The features of all columns so far."""

  def __init__(self, spelling: Spelling, bins: int, most: int, where: Where) -> None:
    self.spelling, self.bins, self.most, self.where = spelling, bins, most, where
    self.columns: list[types.ColumnSpec] = []
    self.notes: list[str] = []
    self.gaps: dict[str, int] = {}
    self._numeric: dict[str, tuple[float, ...]] = {}
    self._categorical: dict[str, tuple[str, ...]] = {}

  def add(self, name: str, cells: Cells, role: Role) -> None:
    """Adds the features of a column."""
    if role.kind == CATEGORY:
      self.columns.append(types.ColumnSpec(name, role.kind))
      self._add_codes(name, self._values(name, cells))
      return
    column = types.ColumnSpec(name, role.kind, date=role.date)
    values = numbers_of(column, cells, self.spelling, self.where)
    gone = np.isnan(values)
    known = values[~gone]
    if not len(known):
      self.notes.append(f"warning: column {name!r} has no value in training, and is left out.")
      return
    flag = bool(gone.any())
    column = dataclasses.replace(column, fill=float(np.float32(np.median(known))), flag=flag)
    self.columns.append(column)
    self._numeric[name] = quantile_edges(known, self.bins)
    if flag and role.kind == NUMBER:
      self._add_codes(_flag(name), ("no", "yes"))
    if role.kind == DATE:
      self._add_codes(f"{name} (month)", _MONTHS)
      self._add_codes(f"{name} (weekday)", _WEEKDAYS)
    if gone.any():
      self.gaps[name] = int(gone.sum())
    tell = fillers if role.kind == NUMBER else far_dates
    self.notes += tell(name, values, self.where)

  def _add_codes(self, name: str, values: tuple[str, ...]) -> None:
    if name in self._categorical:
      raise ValueError(f"Two inputs would be called {name!r}: rename that column.")
    self._categorical[name] = values

  def _values(self, name: str, cells: Cells) -> tuple[str, ...]:
    """The categories with a code of their own, sorted; an empty text for missing ones."""
    texts = cells.as_texts(self.spelling)
    counts = np.bincount(texts.values + 1, minlength=len(texts.texts or ()) + 1)
    numbered = zip(("", *(texts.texts or ())), counts.tolist(), strict=True)
    found = {text: count for text, count in numbered if count}
    self.notes += _alike(name, found)
    least = 2 if len(cells) >= _RARE_ROWS else 1
    common = sorted(found, key=lambda text: (-found[text], text))
    kept = [text for text in common if found[text] >= least][: self.most] or common[:1]
    if len(kept) < len(found):
      lost = sum(found.values()) - sum(found[text] for text in kept)
      self.notes.append(
        f"column {name!r}: {len(found)} categories; the {len(found) - len(kept)} rarest, of"
        f" {100 * lost / len(cells):.2g}% of the training rows, share one code with unseen ones."
      )
    return tuple(sorted(kept, key=int if all(map(str.isdecimal, kept)) else None))

  def spec(self) -> types.TableSpec:
    """All columns as one spec."""
    categorical = self._categorical
    return types.TableSpec(
      tuple(categorical),
      tuple(1 + len(known) for known in categorical.values()),
      tuple(self._numeric),
      tuple(self._numeric.values()),
      tuple(categorical.values()),
      tuple(self.columns),
      self.spelling.decimal,
      self.spelling.thousands,
      self.spelling.missing,
    )


def from_json(value: Any) -> Any:
  """Returns JSON's lists as tuples, at every depth."""
  if isinstance(value, Mapping):
    return {name: from_json(inner) for name, inner in value.items()}
  return tuple(map(from_json, value)) if isinstance(value, list | tuple) else value


def _flag(name: str) -> str:
  return f"{name} (missing)"


def numbers_of(
  column: types.ColumnSpec, cells: Cells, spelling: Spelling, where: Where
) -> np.ndarray:
  """Returns the values of a number or a date (in days), NaN where missing.

  Raises:
    ValueError: a cell is neither, or beyond float32; names the first and tells how many.
  """
  date = column.role == DATE
  values, wrong = cells.days(spelling, column.date) if date else cells.numbers(spelling)
  with np.errstate(over="ignore", invalid="ignore"):
    large = np.isinf(values.astype(np.float32))
  for rows, what in ((wrong, "no date" if date else "no number"), (large, "beyond 32 bits")):
    if rows.any():
      row = int(np.argmax(rows))
      if cells.texts is None:
        text = str(cells.values[row])
      else:
        text = repr(cells.texts[cells.values[row]][:40])
      form = f" of the format {column.date}" if date and column.date else ""
      raise ValueError(
        f"{where(row, column.name)}: {text} is {what}{form}, as {rows.sum()} of {len(rows)} rows."
      )
  return values


def _features(
  column: types.ColumnSpec, values: np.ndarray, gone: np.ndarray
) -> dict[str, np.ndarray]:
  """A number's or a date's features by name."""
  name = column.name
  found = {name: np.where(gone, column.fill, values)}
  if column.flag and column.role == NUMBER:
    found[_flag(name)] = 1 + gone.astype(np.int32)
  if column.role == DATE:
    days = np.floor(np.where(gone, 0, values)).astype(np.int64)
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12
    found[f"{name} (month)"] = np.where(gone, 0, 1 + months)
    found[f"{name} (weekday)"] = np.where(gone, 0, 1 + (days + 3) % 7)  # 1970-01-01: a Thursday
  return found


def codes_of(cells: Cells, known: tuple[str, ...]) -> np.ndarray:
  """Returns codes of texts: their place in `known` from 1 on, 0 for others."""
  codes = {text: code for code, text in enumerate(known, 1)}
  table = [codes.get(text, 0) for text in cells.texts or ()] + [codes.get("", 0)]
  return np.array(table, np.int32)[cells.values]
