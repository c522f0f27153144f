"""Table builders: numbers as text, best cells, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math

import pytest

from dynashare_jax.report import tables

TABLE = tables.Table(
  columns=(
    tables.Column("method", align="left"),
    tables.Column("miou", True, "%", group="seg"),
    tables.Column("abs", False, "m", group="depth"),
    tables.Column("time", unit="s"),
  ),
  rows=(
    ("single", tables.Cell(40.0, 1.5, 1), 0.5, 3),
    ("a|b_c", tables.Cell(42.25, 0.25, 1), 0.625, None),
    ("none", math.nan, math.nan, 7),
  ),
)


@pytest.mark.parametrize(
  ("value", "digits", "signed", "text"),
  [
    (1234.5, 1, False, "1,234.5"),
    (0.48312, None, False, "0.4831"),
    (48.312, None, False, "48.31"),
    (0.0, None, False, "0.00"),
    (3.0, 2, True, "+3.00"),
    (-3.0, 2, True, "−3.00"),
    (-0.001, 2, True, "0.00"),  # no minus before what prints as zero
    (math.nan, 2, True, "–"),
    (-math.inf, 2, False, "−∞"),
    (1e-9, None, False, "0.000000"),
  ],
)
def test_numbers_as_text(value, digits, signed, text):
  assert tables.format_number(value, digits, signed) == text


def test_mean_and_sample_standard_deviation_leave_nan_out():
  cell = tables.mean_std([1.0, 2.0, math.nan, 6.0])
  assert cell.value == 3.0
  assert cell.std == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
  assert tables.mean_std([2.0]).std is None
  assert math.isnan(tables.mean_std([math.nan]).value)


def test_best_follows_the_direction_and_ignores_nan():
  assert tables.best_rows(TABLE) == [set(), {1}, {0}, set()]


def test_rows_that_print_alike_are_best_together():
  column = (tables.Column("x", True),)
  rows = tuple((tables.Cell(v, None, 1),) for v in (2.04, 2.01, 1.0))
  assert tables.best_rows(tables.Table(column, rows)) == [{0, 1}]
  assert tables.best_rows(tables.Table(column, rows[:2])) == [set()]


def test_markdown_is_aligned_bold_and_escaped():
  lines = tables.markdown(TABLE).splitlines()
  assert len({len(line) for line in lines}) == 1
  assert [c.strip() for c in lines[0].strip("|").split("|")] == [
    "method",
    "miou (%) ↑",
    "abs (m) ↓",
    "time (s)",
  ]
  rule = [c.strip() for c in lines[1].strip("|").split("|")]
  assert not rule[0].endswith(":")
  assert all(c.endswith(":") for c in rule[1:])
  assert "**42.2 ± 0.2**" in lines[3] and r"a\|b_c" in lines[3]
  assert "**0.5000**" in lines[2]
  assert "**" not in tables.markdown(TABLE, bold_best=False)


def test_csv_keeps_full_precision_and_reads_back():
  head, *rows = csv.reader(io.StringIO(tables.csv_text(TABLE)))
  assert head == ["method", "seg/miou (%)", "seg/miou (%) std", "depth/abs (m)", "time (s)"]
  assert rows[1] == ["a|b_c", "42.25", "0.25", "0.625", ""]
  assert rows[2] == ["none", "", "", "", "7"]


def test_latex_escapes_groups_and_emphasises():
  text = tables.latex(TABLE, "50 % & more", "tab:x")
  assert r"\multicolumn{1}{c}{seg}" in text
  assert r"\cmidrule(lr){2-2} \cmidrule(lr){3-3}" in text
  assert r"\textbf{42.2 $\pm$ 0.2}" in text
  assert r"a|b\_c" in text and r"miou (\%) $\uparrow$" in text
  assert r"\caption{50 \% \& more}" in text and r"\label{tab:x}" in text
  body = [row for row in text.splitlines() if row.endswith(r"\\")]
  cells = {row.count(" & ") for row in body[1:]}
  assert cells == {3}, "every row has four cells"


def test_latex_groups_of_several_empty_columns_keep_their_width():
  columns = (tables.Column("a"), tables.Column("b"), tables.Column("c", group="g"))
  text = tables.latex(tables.Table(columns, ((1.0, 2.0, 3.0),)))
  heads = text.splitlines()[2]
  assert heads.count("&") == 2 and r"\cmidrule(lr){3-3}" in text


def test_a_row_of_another_length_is_refused():
  with pytest.raises(ValueError, match="Row 1 .* 1 entries for 2 columns"):
    tables.Table((tables.Column("a"), tables.Column("b")), ((1, 2), (1,)))


@pytest.mark.parametrize(
  ("name", "markdown", "latex"),
  [
    ("line\n\n# Heading", "line # Heading", r"line \# Heading"),
    ("<script>x</script>", "&lt;script>x&lt;/script>", r"$<$script$>$x$<$/script$>$"),
    ("[x](javascript:y)", r"[x]\(javascript:y)", "{[}x](javascript:y)"),
    ("\x1b[31mred\x00", "[31mred", "{[}31mred"),
    ("a\\|b", r"a\\\|b", r"a\textbackslash{}|b"),
    ("lone \udc80", "lone", "lone"),
  ],
)
def test_names_do_not_break_the_table_that_they_stand_in(name, markdown, latex):
  found = tables.Table((tables.Column(name, align="left"), tables.Column("x")), ((name, 1.0),))
  lines = tables.markdown(found).splitlines()
  assert len(lines) == 3
  assert all(line.startswith(f"| {markdown} ") for line in (lines[0], lines[2]))
  rows = [line for line in tables.latex(found).splitlines() if line.endswith(r"\\")]
  assert [row.split(" & ")[0] for row in rows] == [latex, latex]
  tables.csv_text(found).encode()


@pytest.mark.parametrize(
  ("text", "written"),
  [
    ("=1+1", "'=1+1"),
    ("@x", "'@x"),
    ("+cmd", "'+cmd"),
    ("-x", "'-x"),
    ("-1.5", "-1.5"),
    ("a", "a"),
  ],
)
def test_no_name_is_a_formula(text, written):
  found = tables.Table((tables.Column(text), tables.Column("x")), ((text, -1.5),))
  head, row = csv.reader(io.StringIO(tables.csv_text(found)))
  assert head[0] == row[0] == written and row[1] == "-1.5"


def test_an_interval_stands_in_brackets_and_in_columns_of_its_own():
  found = tables.table(
    [tables.Column("x"), tables.Column("m", True, "%")],
    [["a", tables.Cell(1.25, None, 1, True, (-0.5, 2.0))], ["b", tables.Cell(0.5, 0.25, 1)]],
  )
  text = tables.markdown(found)
  assert "**+1.2 [−0.5, +2.0]**" in text and " 0.5 ± 0.2 |" in text
  head, first, second = csv.reader(io.StringIO(tables.csv_text(found)))
  assert head == ["x", "m (%)", "m (%) low", "m (%) high", "m (%) std"]
  assert first == ["a", "1.25", "-0.5", "2", ""] and second == ["b", "0.5", "", "", "0.25"]
