"""Tables as Markdown, CSV and LaTeX, from plain rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import csv
import dataclasses
import io
import itertools
import math
import re
from typing import Any

import numpy as np

UP = "↑"
DOWN = "↓"
MISSING = "–"
MINUS = "−"


@dataclasses.dataclass(frozen=True)
class Cell:
  """A number of a table, possibly a mean over seeds; NaN prints as a dash.

  Attributes:
    std: sample standard deviation, or None where there is one run only.
    digits: decimals; None picks four significant digits.
    signed: whether a positive number gets a plus sign.
    interval: its ends, shown in brackets; None where there is none.
  """

  value: float
  std: float | None = None
  digits: int | None = None
  signed: bool = False
  interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Column:
  """Heading of a column and how to read its numbers.

  Attributes:
    higher_is_better: draws the arrow and decides which cell is bold; None for
      columns that have no better or worse.
    unit: shown after the title, in brackets.
    group: heading over neighbouring columns of the same group (LaTeX, CSV).
    align: `left` or `right`; numbers go right.
  """

  title: str
  higher_is_better: bool | None = None
  unit: str = ""
  group: str = ""
  align: str = "right"


Entry = Cell | str | float | int | None


@dataclasses.dataclass(frozen=True)
class Table:
  """Columns and rows; every row has one entry per column, and floats print like `Cell(value)`."""

  columns: tuple[Column, ...]
  rows: tuple[tuple[Entry, ...], ...]

  def __post_init__(self) -> None:
    """Raises ValueError if a row's length is not the number of columns."""
    for place, row in enumerate(self.rows):
      if len(row) != len(self.columns):
        raise ValueError(
          f"Row {place} of the table has {len(row)} entries for"
          f" {len(self.columns)} columns. Give one entry a column."
        )


def table(columns: Iterable[Any], rows: Iterable[Sequence[Any]], words: int = 1) -> Table:
  """Builds a table of columns or plain titles, the first `words` of which are aligned left."""
  titles = [
    Column(c, align="left" if i < words else "right") if isinstance(c, str) else c
    for i, c in enumerate(columns)
  ]
  return Table(tuple(titles), tuple(map(tuple, rows)))


def section(title: str, text: str, found: Table) -> str:
  """Returns a section of a page: heading, a paragraph unless it is empty, and a table."""
  head = f"## {escape_markdown(title)}"
  return "\n\n".join(part for part in (head, text, markdown(found)) if part)


def mean_std(values: Sequence[float], digits: int | None = None, signed: bool = False) -> Cell:
  """Returns mean and sample standard deviation of the finite values, one per seed.

  The cell's `std` is None for fewer than two finite values.
  """
  finite = [v for v in values if math.isfinite(v)]
  if not finite:
    return Cell(math.nan, None, digits, signed)
  std = float(np.std(finite, ddof=1)) if len(finite) > 1 else None
  return Cell(float(np.mean(finite)), std, digits, signed)


def decimals(value: float) -> int:
  """Returns the decimals that show a value with four significant digits (at most 6)."""
  if not math.isfinite(value) or value == 0:
    return 2
  return int(min(max(3 - math.floor(math.log10(abs(value))), 0), 6))


def format_number(value: float, digits: int | None = None, signed: bool = False) -> str:
  """Writes one number as text: `0.4831`, `−1.20`, `1,234`; a dash for NaN."""
  if math.isnan(value):
    return MISSING
  if math.isinf(value):
    return "∞" if value > 0 else MINUS + "∞"
  digits = decimals(value) if digits is None else digits
  text = f"{abs(value):,.{digits}f}"
  negative = value < 0 and float(text.replace(",", "")) != 0
  return (MINUS if negative else "+" if signed and value > 0 else "") + text


def format_entry(entry: Entry) -> str:
  """Writes an entry as text without emphasis."""
  if entry is None:
    return MISSING
  if isinstance(entry, str):
    return entry
  if isinstance(entry, (bool, int, np.integer)):
    return f"{int(entry):,}"
  cell = entry if isinstance(entry, Cell) else Cell(float(entry))
  text = format_number(cell.value, cell.digits, cell.signed)
  if math.isnan(cell.value):
    return text
  digits = decimals(cell.value) if cell.digits is None else cell.digits
  if cell.std is not None:
    text += f" ± {format_number(cell.std, digits)}"
  if cell.interval is not None:
    low, high = (format_number(end, digits, cell.signed) for end in cell.interval)
    text += f" [{low}, {high}]"
  return text


def _spread(entry: Entry) -> dict[str, float]:
  """What a cell tells beside its value, by the names of its columns in a CSV."""
  found: dict[str, float] = {}
  if isinstance(entry, Cell):
    if entry.std is not None:
      found["std"] = entry.std
    if entry.interval is not None:
      found["low"], found["high"] = entry.interval
  return found


def _value(entry: Entry) -> float:
  if entry is None or isinstance(entry, str):
    return math.nan
  return float(entry.value if isinstance(entry, Cell) else entry)


def printable(text: str) -> str:
  """Returns a text in one line, without control characters and what no encoding can write."""
  if text.isprintable():
    return text
  return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def escape_markdown(text: str) -> str:
  """Spells out what Markdown would read as HTML, a link or the end of a cell."""
  for letters, written in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("](", "]\\(")):
    text = text.replace(letters, written)
  return printable(text)


def escape_csv(text: str) -> str:
  """Puts an apostrophe before a text, not a number, that a spreadsheet would run as a formula."""
  text = printable(text)
  if not text.startswith(("=", "+", "-", "@")):
    return text
  try:
    float(text)
  except ValueError:
    return f"'{text}"
  return text


def best_rows(table: Table) -> list[set[int]]:
  """Returns for every column the indices of the rows whose printed number is best.

  Rows that print the same number are all best. Columns without a direction,
  with fewer than two numbers or with one number only have no best row.
  """
  found: list[set[int]] = []
  for place, column in enumerate(table.columns):
    values = [_value(row[place]) for row in table.rows]
    finite = [v for v in values if math.isfinite(v)]
    if column.higher_is_better is None or len(set(finite)) < 2:
      found.append(set())
      continue
    best = max(finite) if column.higher_is_better else min(finite)
    shown = {
      i: re.split(r" ± | \[", format_entry(row[place]))[0]
      for i, row in enumerate(table.rows)
      if math.isfinite(values[i])
    }
    winner = shown[values.index(best)]
    ties = {i for i, text in shown.items() if text == winner}
    found.append(ties if len(ties) < len(shown) else set())
  return found


def heading(column: Column, arrow: bool = True) -> str:
  """Writes title, unit and direction of a column: `abs error (m) ↓`."""
  text = column.title + (f" ({column.unit})" if column.unit else "")
  if arrow and column.higher_is_better is not None:
    text = directed(text, column.higher_is_better)
  return text


def directed(title: str, higher_is_better: bool) -> str:
  """Appends an arrow that says which way is better."""
  return f"{title} {UP if higher_is_better else DOWN}"


def metric_column(metric: Mapping[str, Any], title: str = "", group: str = "") -> Column:
  """Returns the column of a metric of `results.json`, named after it unless given a title."""
  return Column(
    title or metric["name"], bool(metric["higher_is_better"]), metric.get("unit") or "", group
  )


def _bodies(
  table: Table, escape: Callable[[str], str], bold: str, bold_best: bool = True
) -> list[list[str]]:
  """The entries as escaped text, the best of a column within the template `bold`."""
  best = best_rows(table) if bold_best else [set() for _ in table.columns]
  return [
    [
      bold % escape(format_entry(entry)) if i in rows else escape(format_entry(entry))
      for entry, rows in zip(row, best, strict=True)
    ]
    for i, row in enumerate(table.rows)
  ]


def markdown(table: Table, bold_best: bool = True) -> str:
  """Writes a table in GitHub's Markdown, aligned in the source too; no newline at the end.

  The best number of a column with a direction is bold if `bold_best`.
  """
  body = _bodies(table, escape_markdown, "**%s**", bold_best)
  head = [escape_markdown(heading(column)) for column in table.columns]
  widths = [max(3, *map(len, texts)) for texts in zip(head, *body, strict=True)]
  right = [column.align == "right" for column in table.columns]

  def line(texts: Sequence[str]) -> str:
    cells = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)]
    return "| " + " | ".join(cells) + " |"

  rule = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)]
  return "\n".join([line(head), line(rule), *map(line, body)])


def csv_text(table: Table) -> str:
  """Writes a table as CSV with full precision; a spread takes a column more, an interval two.

  Missing numbers are empty fields. A group's name precedes its columns'
  titles (`segmentation/miou`).
  """
  places = range(len(table.columns))
  spreads = [
    list(dict.fromkeys(key for row in table.rows for key in _spread(row[place])))
    for place in places
  ]
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  head = []
  for column, more in zip(table.columns, spreads, strict=True):
    name = f"{column.group}/" if column.group else ""
    name += heading(column, arrow=False)
    name = escape_csv(name)
    head += [name, *(f"{name} {key}" for key in more)]
  writer.writerow(head)
  for row in table.rows:
    fields: list[str] = []
    for entry, more in zip(row, spreads, strict=True):
      text = escape_csv(entry) if isinstance(entry, str) else _plain(_value(entry))
      spread = _spread(entry)
      fields += [text, *(_plain(spread.get(key, math.nan)) for key in more)]
    writer.writerow(fields)
  return out.getvalue()


def _plain(value: float) -> str:
  if math.isnan(value):
    return ""
  return str(int(value)) if value == int(value) else repr(float(value))


_SYMBOLS = (
  rf"\ \textbackslash{{}} ~ \textasciitilde{{}} ^ \textasciicircum{{}} {UP} $\uparrow$"
  rf" {DOWN} $\downarrow$ ± $\pm$ {MINUS} $-$ {MISSING} -- Δ $\Delta$ ° $^\circ$ ∞ $\infty$"
  r" ² $^2$ ³ $^3$ < $<$ > $>$ × $\times$ · $\cdot$"
).split()  # a letter, and what LaTeX writes for it, in turn
_ESCAPES = {letter: "\\" + letter for letter in "&%$#_{}"} | {
  "[": "{[}"
}  # An option, after the end of a row.
_ESCAPES |= dict(zip(_SYMBOLS[::2], _SYMBOLS[1::2], strict=True))


def escape_latex(text: str) -> str:
  """Spells out every character that LaTeX would misread."""
  return "".join(_ESCAPES.get(letter, letter) for letter in printable(text))


def latex(table: Table, caption: str = "", label: str = "") -> str:
  r"""Writes a table as LaTeX, groups of columns under one heading, ending with a newline.

  It needs `\usepackage{booktabs}` only. Without a caption it is a bare `tabular`.
  """
  spec = "".join("r" if c.align == "right" else "l" for c in table.columns)
  lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
  lines += _latex_groups(table.columns)
  lines += [" & ".join(escape_latex(heading(c)) for c in table.columns) + r" \\", r"\midrule"]
  lines += [" & ".join(texts) + r" \\" for texts in _bodies(table, escape_latex, r"\textbf{%s}")]
  lines += [r"\bottomrule", r"\end{tabular}"]
  if caption:
    lines = [r"\begin{table}", r"\centering", *lines]
    lines.append(rf"\caption{{{escape_latex(caption)}}}")
    lines += [rf"\label{{{label}}}"] if label else []
    lines.append(r"\end{table}")
  return "\n".join(lines) + "\n"


def _latex_groups(columns: Sequence[Column]) -> list[str]:
  """The line of group headings with its rules, if any column has a group."""
  if not any(column.group for column in columns):
    return []
  cells, rules, place = [], [], 1
  for group, members in itertools.groupby(column.group for column in columns):
    width, text = len(list(members)), escape_latex(group)
    cells.append(rf"\multicolumn{{{width}}}{{c}}{{{text}}}" if group else " & ".join([""] * width))
    if group:
      rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
    place += width
  return [" & ".join(cells) + r" \\", " ".join(rules)]
