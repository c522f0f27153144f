"""Tables as Markdown, CSV and LaTeX, from plain rows."""

from __future__ import annotations

from collections.abc import Sequence
import csv
import dataclasses
import io
import math

import numpy as np

UP = "↑"
DOWN = "↓"
MISSING = "–"
MINUS = "−"


@dataclasses.dataclass(frozen=True)
class Cell:
  """A number of a table, possibly a mean over seeds.

  Attributes:
    value: the number; NaN prints as a dash.
    std: sample standard deviation, or None where there is one run only.
    digits: decimals; None picks four significant digits.
    signed: whether a positive number gets a plus sign.
  """

  value: float
  std: float | None = None
  digits: int | None = None
  signed: bool = False


@dataclasses.dataclass(frozen=True)
class Column:
  """Heading of a column and how to read its numbers.

  Attributes:
    title: heading.
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
  """Columns and rows; every row has one entry a column.

  Attributes:
    columns: headings.
    rows: entries; plain floats print like `Cell(value)`.
  """

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


def mean_std(values: Sequence[float], digits: int | None = None, signed: bool = False) -> Cell:
  """Mean and sample standard deviation of the finite values.

  Args:
    values: one number a seed; NaN is left out.
    digits: decimals of the cell.
    signed: whether the cell shows a plus sign.

  Returns:
    A cell; its `std` is None for fewer than two finite values.
  """
  finite = [v for v in values if math.isfinite(v)]
  if not finite:
    return Cell(math.nan, None, digits, signed)
  std = float(np.std(finite, ddof=1)) if len(finite) > 1 else None
  return Cell(float(np.mean(finite)), std, digits, signed)


def decimals(value: float) -> int:
  """Decimals that show a value with four significant digits (at most 6)."""
  if not math.isfinite(value) or value == 0:
    return 2
  return int(min(max(3 - math.floor(math.log10(abs(value))), 0), 6))


def format_number(value: float, digits: int | None = None, signed: bool = False) -> str:
  """One number as text: `0.4831`, `−1.20`, `1,234`; a dash for NaN."""
  if math.isnan(value):
    return MISSING
  if math.isinf(value):
    return "∞" if value > 0 else MINUS + "∞"
  digits = decimals(value) if digits is None else digits
  text = f"{abs(value):,.{digits}f}"
  negative = value < 0 and float(text.replace(",", "")) != 0
  return (MINUS if negative else "+" if signed and value > 0 else "") + text


def format_entry(entry: Entry) -> str:
  """An entry as Markdown text without emphasis."""
  if entry is None:
    return MISSING
  if isinstance(entry, str):
    return entry
  if isinstance(entry, (bool, int, np.integer)):
    return f"{int(entry):,}"
  cell = entry if isinstance(entry, Cell) else Cell(float(entry))
  text = format_number(cell.value, cell.digits, cell.signed)
  if cell.std is None or math.isnan(cell.value):
    return text
  digits = decimals(cell.value) if cell.digits is None else cell.digits
  return f"{text} ± {format_number(cell.std, digits)}"


def _value(entry: Entry) -> float:
  if entry is None or isinstance(entry, str):
    return math.nan
  return float(entry.value if isinstance(entry, Cell) else entry)


def best_rows(table: Table) -> list[set[int]]:
  """For every column the rows whose printed number is best.

  Rows that print the same number are all best. Columns without a direction,
  with fewer than two numbers or with one number only have no best row.

  Args:
    table: the table.

  Returns:
    One set of row indices a column.
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
      i: format_entry(row[place]).split(" ± ")[0]
      for i, row in enumerate(table.rows)
      if math.isfinite(values[i])
    }
    winner = shown[values.index(best)]
    ties = {i for i, text in shown.items() if text == winner}
    found.append(ties if len(ties) < len(shown) else set())
  return found


def heading(column: Column, arrow: bool = True) -> str:
  """Title, unit and direction of a column: `abs error (m) ↓`."""
  text = column.title + (f" ({column.unit})" if column.unit else "")
  if arrow and column.higher_is_better is not None:
    text += f" {UP if column.higher_is_better else DOWN}"
  return text


def markdown(table: Table, bold_best: bool = True) -> str:
  """A table in GitHub's Markdown, its columns aligned in the source as well.

  Args:
    table: the table.
    bold_best: whether the best number of a column with a direction is bold.

  Returns:
    Text without a newline at the end.
  """
  best = best_rows(table) if bold_best else [set() for _ in table.columns]
  body = []
  for i, row in enumerate(table.rows):
    texts = [format_entry(entry).replace("|", "\\|") for entry in row]
    marks = [i in rows for rows in best]
    body.append([f"**{t}**" if m else t for t, m in zip(texts, marks, strict=True)])
  head = [heading(column).replace("|", "\\|") for column in table.columns]
  widths = [max(3, *map(len, texts)) for texts in zip(head, *body, strict=True)]
  right = [column.align == "right" for column in table.columns]

  def line(texts: Sequence[str]) -> str:
    cells = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)]
    return "| " + " | ".join(cells) + " |"

  rule = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)]
  return "\n".join([line(head), line(rule), *map(line, body)])


def csv_text(table: Table) -> str:
  """A table as CSV with full precision; a mean over seeds takes two columns.

  Args:
    table: the table.

  Returns:
    Text; missing numbers are empty fields. A group's name precedes its
    columns' titles (`segmentation/miou`).
  """
  spread = [
    any(
      isinstance(row[i], Cell) and row[i].std is not None  # type: ignore[union-attr]
      for row in table.rows
    )
    for i in range(len(table.columns))
  ]
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  head = []
  for column, wide in zip(table.columns, spread, strict=True):
    name = f"{column.group}/" if column.group else ""
    name += heading(column, arrow=False)
    head += [name, f"{name} std"] if wide else [name]
  writer.writerow(head)
  for row in table.rows:
    fields: list[str] = []
    for entry, wide in zip(row, spread, strict=True):
      text = entry if isinstance(entry, str) else _plain(_value(entry))
      std = entry.std if isinstance(entry, Cell) else None
      fields += [text, "" if std is None else _plain(std)] if wide else [text]
    writer.writerow(fields)
  return out.getvalue()


def _plain(value: float) -> str:
  if math.isnan(value):
    return ""
  return str(int(value)) if value == int(value) else repr(float(value))


_ESCAPES = {
  "\\": r"\textbackslash{}",
  "&": r"\&",
  "%": r"\%",
  "$": r"\$",
  "#": r"\#",
  "_": r"\_",
  "{": r"\{",
  "}": r"\}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
  UP: r"$\uparrow$",
  DOWN: r"$\downarrow$",
  "±": r"$\pm$",
  MINUS: "$-$",
  MISSING: "--",
  "Δ": r"$\Delta$",
  "°": r"$^\circ$",
  "∞": r"$\infty$",
  "²": "$^2$",
  "³": "$^3$",
  "<": "$<$",
  ">": "$>$",
  "×": r"$\times$",
  "·": r"$\cdot$",
}


def escape_latex(text: str) -> str:
  """Text with every character that LaTeX would misread spelt out."""
  return "".join(_ESCAPES.get(letter, letter) for letter in text)


def latex(table: Table, caption: str = "", label: str = "") -> str:
  r"""A table as LaTeX (`booktabs`), groups of columns under one heading.

  Args:
    table: the table.
    caption: caption of the float; empty writes the bare `tabular`.
    label: label of the float.

  Returns:
    Text with a newline at the end. It needs `\usepackage{booktabs}` only.
  """
  best = best_rows(table)
  spec = "".join("r" if c.align == "right" else "l" for c in table.columns)
  lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
  lines += _latex_groups(table.columns)
  lines += [" & ".join(escape_latex(heading(c)) for c in table.columns) + r" \\", r"\midrule"]
  for i, row in enumerate(table.rows):
    texts = [escape_latex(format_entry(entry)) for entry in row]
    marks = [i in rows for rows in best]
    texts = [rf"\textbf{{{t}}}" if m else t for t, m in zip(texts, marks, strict=True)]
    lines.append(" & ".join(texts) + r" \\")
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
  spans: list[tuple[str, int]] = []
  for column in columns:
    if spans and spans[-1][0] == column.group:
      spans[-1] = (column.group, spans[-1][1] + 1)
    else:
      spans.append((column.group, 1))
  for group, width in spans:
    text = escape_latex(group)
    cells.append(rf"\multicolumn{{{width}}}{{c}}{{{text}}}" if group else " & ".join([""] * width))
    if group:
      rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
    place += width
  return [" & ".join(cells) + r" \\", " ".join(rules)]
