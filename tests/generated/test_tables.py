"""Tables as they come: cells, roles and labels as they were written, or refused."""

from __future__ import annotations

import codecs
import datetime
import decimal
import gzip
import io
import math
import pathlib
import re
import tempfile

from generated import cases
import hypothesis
from hypothesis import strategies as st
import ml_collections
import numpy as np
import pyarrow as pa
from pyarrow import parquet
import yaml

from dynashare_jax.data.table import dataset as table
from dynashare_jax.data.table import files as table_files

SPLITS = ("train", "validation", "test")
MISSING = ("", "NA", "N/A", "NaN", "NULL", "null", "<NA>", "NaT", "#N/A", "?")
WORDS = (
  "Köln",
  "Ulm",
  "Jena, Ost",
  'the "old" town',
  "a;b",
  "tab\tbed",
  "two\nlines",
  " São ",
  "x|y",
)
FORMS = ("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S")


class Column:
  """A column: what it is, its cells as texts, and what they mean.

  Attributes:
    role: number, category or date.
    cells: the texts of the file.
    meant: of every row the number, text or day (None: missing).
    form: of dates.
  """

  def __init__(self, role, cells, meant, form=""):
    self.role, self.cells, self.meant, self.form = role, list(cells), list(meant), form

  def __repr__(self):
    return f"{self.role}: {self.cells}"


def _number(value, comma, how, thousands=""):
  """A number as some table writes it."""
  text = {"exponent": "{:.3e}".format, "plus": "{:+}".format}.get(how, repr)(value)
  if how == "parted" and thousands and "e" not in text:
    whole, point, rest = text.partition(".")
    parted = f"{int(whole):,}".replace(",", "_")
    parted = f"-{parted}" if whole.startswith("-") and not parted.startswith("-") else parted
    return (parted + ("," if comma else ".") * bool(point) + rest).replace("_", thousands)
  text = f" {text} " if how == "blanks" else text
  return text.replace(".", ",") if comma else text


@st.composite
def columns(draw, rows, comma, keys):
  """A column that is an input."""
  role = draw(st.sampled_from(("number", "number", "category", "date")))
  void = keys.get("missing", ())
  form = ""
  if role == "number":
    how = draw(st.sampled_from(("plain", "exponent", "plus", "blanks", "parted")))
    many = st.one_of(
      st.one_of(st.integers(-1000, 1000), st.sampled_from((-999.0, -999))),
      st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda v: float(f"{v:.4g}")),
    )
    values = draw(st.lists(many, min_size=rows, max_size=rows))
    cells = [_number(v, comma, how, keys.get("thousands", "")) for v in values]
    values = [float(f"{v:.3e}") if how == "exponent" else float(v) for v in values]
    values = [None if v in void else v for v in values]
  elif role == "category":
    words = draw(st.lists(st.sampled_from(WORDS), min_size=2, max_size=4, unique=True))
    cells = draw(st.lists(st.sampled_from(words), min_size=rows, max_size=rows))
    values = [cell.strip() for cell in cells]
  else:
    form = draw(st.sampled_from(FORMS))
    moments = st.datetimes(datetime.datetime(1950, 1, 1), datetime.datetime(2060, 1, 1))
    drawn = draw(st.lists(moments, min_size=rows, max_size=rows))
    cells = [moment.strftime(form) for moment in drawn]
    start = datetime.datetime(1970, 1, 1)
    values = [
      (datetime.datetime.strptime(cell, form) - start) / datetime.timedelta(days=1)
      for cell in cells
    ]
  gone = draw(st.sets(st.integers(0, rows - 1), max_size=2))
  marks = MISSING + (("None", "-", ".") if role != "category" else ())
  marks += tuple(map(str, keys.get("missing", ())))
  for row in gone:
    cells[row] = draw(st.sampled_from(marks))
    values[row] = None
  return Column(role, cells, values, form)


@st.composite
def labels(draw, rows, comma, keys):
  """A column of labels, and its kind."""
  kind = draw(st.sampled_from(("binary", "multiclass", "number")))
  if kind == "binary":
    pair = draw(
      st.sampled_from((("no", "yes"), ("0", "1"), ("-1", "1"), ("False", "true"), ("b", "a")))
    )
    yes = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    yes[:6] = [True, False] * 3
    cells = [pair[one] for one in yes]
    # Without a word for yes, the second in order.
    values = [float(one != (pair == ("b", "a"))) for one in yes]
  elif kind == "multiclass":
    names = draw(st.sampled_from((("Ulm", "Köln", "Jena"), ("3", "10", "7"), ("03", "10", "07"))))
    cells = draw(st.lists(st.sampled_from(names), min_size=rows, max_size=rows))
    cells[:6] = [*names, *names]
    order = sorted(names, key=lambda n: (float(n) if n.isdigit() else 0.0, n))
    values = [order.index(cell) for cell in cells]
  else:
    numbers = draw(
      st.lists(st.floats(-1e5, 1e5).map(lambda v: float(f"{v:.5g}")), min_size=rows, max_size=rows)
    )
    numbers[:6] = [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    cells = [_number(v, comma, "plain") for v in numbers]
    values = [None if v in keys.get("missing", ()) else v for v in numbers]
  for row in draw(st.sets(st.integers(6, rows - 1), max_size=2)):
    marks = MISSING + tuple(map(str, keys.get("missing", ())))
    cells[row], values[row] = draw(st.sampled_from(marks)), None
  return Column(kind, cells, values)


def _quoted(cell, delimiter, always):
  """A field as CSV has it."""
  special = always or any(mark in cell for mark in (delimiter, '"', "\n", "\r"))
  return '"' + cell.replace('"', '""') + '"' if special else cell


@st.composite
def files(draw):
  """A table of one file, how it is written, and the columns in it."""
  rows = draw(st.integers(9, 19))
  delimiter = draw(st.sampled_from(",;\t|"))
  comma = draw(st.booleans())
  keys = {}
  if draw(st.integers(0, 2)) == 0:
    keys["missing"] = [-999, "unknown"]
  if draw(st.integers(0, 2)) == 0:
    keys["thousands"] = draw(st.sampled_from(("'", "\u00a0", "." if comma else ",")))
    keys["decimal"] = "," if comma else "."
  made = {"part": Column("split", [SPLITS[i % 3] for i in range(rows)], [])}
  for place in range(draw(st.integers(1, 4))):
    made[draw(st.sampled_from(("in ", "Größe", "a,b "))) + str(place)] = draw(
      columns(rows, comma, keys)
    )
  for place in range(draw(st.integers(1, 2))):
    made[f"label{place}"] = draw(labels(rows, comma, keys))
  made = {name: made[name] for name in draw(st.permutations(list(made)))}
  encoding = draw(st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252")))
  always = draw(st.booleans())
  end = draw(st.sampled_from(("\n", "\r\n", "\r")))
  lines = [list(made), *zip(*(column.cells for column in made.values()), strict=True)]
  if draw(st.integers(0, 4)) == 0:
    keys |= {"names": lines.pop(0), "delimiter": delimiter}
  text = end.join(
    delimiter.join(_quoted(cell, delimiter, always) for cell in line) for line in lines
  )
  text += draw(st.sampled_from(("", end, end + end)))
  return made, text, delimiter, encoding, comma, keys


def _description(made, **more):
  tasks = {name: {} for name, column in made.items() if name.startswith("label")}
  return {"table": "t.csv", "tasks": tasks, "splits": {"column": "part"}, **more}


def _read(description, name, content):
  """The data set, or why there is none."""
  with tempfile.TemporaryDirectory() as place:
    root = pathlib.Path(place)
    (root / name).write_bytes(content)
    (root / "dataset.yaml").write_text(yaml.safe_dump(description, allow_unicode=True))
    config = ml_collections.ConfigDict(table.defaults())
    return cases.attempt(
      lambda: table.build(config, ml_collections.ConfigDict(), str(root), 0),
      f"{root}/",
      "column '",
      "Column '",
      "No column",
    )


def _rows_of(made):
  """Split -> its rows."""
  part = made["part"].cells
  return {split: [row for row, cell in enumerate(part) if cell == split] for split in SPLITS}


def _check_labels(made, found):
  """Compares targets and where they count, of every split."""
  for spec in found.spec.tasks:
    column = made[spec.name]
    assert spec.kind == column.role, (spec.name, column.cells)
    for split, rows in _rows_of(made).items():
      batch = found.arrays(split)
      meant = [column.meant[row] for row in rows]
      assert batch.valid[spec.name].tolist() == [value is not None for value in meant]
      known = [value or 0 for value in meant]
      np.testing.assert_array_equal(batch.targets[spec.name], np.float32(known), spec.name)


def _check_inputs(made, found):
  """Compares every feature with what the cells mean."""
  spec = found.spec.table
  rows = _rows_of(made)
  inputs = {split: found.arrays(split).inputs for split in SPLITS}
  for read in spec.columns:
    column = made[read.name]
    assert read.role == column.role, (read, column.cells)
    train = [column.meant[row] for row in rows["train"]]
    for split in SPLITS:
      meant = [column.meant[row] for row in rows[split]]
      if read.role == "category":
        place = spec.categorical.index(read.name)
        known = spec.values[place]
        wanted = {text or "" for text in train}
        assert set(known) == wanted, (known, wanted)
        codes = inputs[split]["categorical"][:, place]
        texts = [known[code - 1] if code else None for code in codes]
        assert texts == [(v or "") if (v or "") in wanted else None for v in meant]
        continue
      values = inputs[split]["numeric"][:, spec.numeric.index(read.name)]
      median = float(np.median([v for v in train if v is not None]))
      wanted = [median if value is None else value for value in meant]
      np.testing.assert_allclose(values, np.float32(wanted), rtol=1e-6, err_msg=read.name)
      codes = dict(zip(spec.categorical, inputs[split]["categorical"].T, strict=True))
      if f"{read.name} (missing)" in spec.categorical:
        assert None in train
        told = [2 if value is None else 1 for value in meant]
        assert codes[f"{read.name} (missing)"].tolist() == told
      if read.role == "date":
        days = [
          None if v is None else datetime.date(1970, 1, 1) + datetime.timedelta(math.floor(v))
          for v in meant
        ]
        months = [day.month if day else 0 for day in days]
        assert codes[f"{read.name} (month)"].tolist() == months
        assert codes[f"{read.name} (weekday)"].tolist() == [
          day.isoweekday() if day else 0 for day in days
        ]


def _lines(end, delimiter):
  """A case of `files` with other ends of lines."""
  made = {
    "part": Column("split", [SPLITS[i % 3] for i in range(9)], []),
    "in 0": Column("number", [str(i % 4) for i in range(9)], [i % 4 for i in range(9)]),
    "label0": Column("binary", ["0", "0", "0", "1", "1", "1"] * 2, [0, 0, 0, 1, 1, 1] * 2),
  }
  lines = [list(made), *zip(*(column.cells for column in made.values()), strict=False)]
  return made, end.join(map(delimiter.join, lines)), delimiter, "utf-8", False, {}


@hypothesis.example(_lines("\r", ";"))
@hypothesis.given(files())
@cases.some(0.1)
def test_a_table_is_read_as_it_was_written(case):
  made, text, _, encoding, _, keys = case
  roles = {
    n: {"date": c.form} if c.role == "date" else c.role
    for n, c in made.items()
    if not n.startswith(("label", "part"))
  }
  more = {"columns": roles, **keys}
  content = text.encode(encoding)
  found, refusal = _read(_description(made, **more), "t.csv", content)
  assert not refusal, refusal
  _check_labels(made, found)
  _check_inputs(made, found)
  inputs = {column.name for column in found.spec.table.columns}
  empty = {
    n for n in roles if not any(made[n].meant[row] is not None for row in _rows_of(made)["train"])
  }
  assert inputs == set(roles) - empty


def _inferred(column):
  """What the page says that a column is, and None where it also says that it may be refused."""
  known = [value for value in column.meant if value is not None]
  if not known or (len(set(known)) == 1 and len(known) == len(column.meant)):
    return "ignored"
  return column.role


def _one(column):
  """A case of `files` whose only input is a column of nine rows."""
  made, _, delimiter, *rest = _lines("\n", ",")
  made["in 0"] = column
  lines = [list(made), *zip(*(each.cells for each in made.values()), strict=False)]
  return made, "\n".join(map(delimiter.join, lines)), delimiter, *rest


DAYS = Column("date", ["None", *["2000-01-01", "2000-01-02"] * 4], [None, *[10957.0, 10958.0] * 4])


@hypothesis.example(_one(DAYS), False)
@hypothesis.example(_one(Column("number", ["0"] * 8 + ["0.0"], [0.0] * 9)), False)
@hypothesis.given(files(), st.booleans())
@cases.some(0.08)
def test_roles_and_spelling_are_found_out(case, packed):
  made, text, _, encoding, comma, keys = case
  content = text.encode(encoding)
  name = "t.csv.gz" if packed else "t.csv"
  content = gzip.compress(content, mtime=0) if packed else content
  found, refusal = _read(_description(made, table=name, **keys), name, content)
  ins = {n: c for n, c in made.items() if not n.startswith(("label", "part"))}
  if not any(_inferred(column) != "ignored" for column in ins.values()):
    assert "No column is left" in refusal
    return
  cells = [cell.strip() for c in made.values() if c.role == "number" for cell in c.cells]
  for column in ins.values():  # which of two numbers is the day, only a day after the 12th tells
    known = [cell for cell in column.cells if re.match(r"\d\d[./]", cell)]
    hypothesis.assume(
      not known or any("12" < part < "32" for cell in known for part in re.split("[./]", cell)[:2])
    )
  if refusal:
    # 1,234 may be either; the page says that it is refused.
    assert comma and any(re.fullmatch(r"[+-]?\d{1,3},\d{3}", cell) for cell in cells), refusal
    return
  _check_inputs(made, found)
  _check_labels(made, found)
  lost = {column.name for column in found.spec.table.columns} ^ set(ins)
  for name in lost:
    train = [ins[name].meant[row] for row in _rows_of(made)["train"]]
    assert _inferred(ins[name]) == "ignored" or not any(v is not None for v in train), ins[name]


def _parsed(text, delimiter):
  """The fields of every line by the letters of RFC 4180; None where a quote is wrong."""
  lines, line, field, state = [], [], "", "start"
  text = text.replace("\r\n", "\n").replace("\r", "\n") if '"' not in text else text
  at = 0
  while at <= len(text):
    letter = text[at] if at < len(text) else "\0"
    end = letter in "\r\n\0" and (letter != "\0" or at == len(text))
    if state == "quoted":
      if at == len(text):
        return None
      if letter == '"':
        state = "closed"
      else:
        field += letter
    elif state == "closed" and letter == '"':
      field, state = field + '"', "quoted"
    elif letter == delimiter or end:
      if not (end and not line and state == "start" and not field):
        line.append(field)
      field, state = "", "start"
      if end:
        if letter == "\r" and text[at + 1 : at + 2] == "\n":
          at += 1
        lines.append(line)
        line = []
    elif state == "closed":
      return None
    elif state == "start" and letter == '"':
      state = "quoted"
    elif state != "start" or letter != " ":
      field, state = field + letter, "plain"
    at += 1
  return [line for line in lines if len(line) > 1 or "".join(line).strip()]


def _meaning(lines):
  """Column -> texts of its cells; None where the page says that it is refused."""
  if not lines or len(lines) < 2:
    return None
  header = [name.strip() or f"unnamed {i}" for i, name in enumerate(lines[0], 1)]
  numbers = [n for n in header if n.replace(".", "", 1).lstrip("-").isdigit()]
  if len(set(header)) < len(header) or len(numbers) > len(header) / 2:
    return None
  rows = [line for line in lines[1:] if any(cell.strip() for cell in line)]
  if not rows or any(len(line) != len(header) or line == lines[0] for line in rows):
    return None
  found = {}
  for place, name in enumerate(header):
    cells = [line[place].translate({0xFEFF: None}).strip() for line in rows]
    cells = [cell.lower() if cell.lower() in ("true", "false") else cell for cell in cells]
    if not (name.startswith("unnamed ") and set(cells) == {""}):
      found[name] = cells
  return found


@st.composite
def mangled(draw):
  """A table with a few letters more, less or others."""
  _, text, delimiter, encoding, *_ = draw(files())
  for _ in range(draw(st.integers(1, 3))):
    at = draw(st.integers(0, len(text)))
    new = draw(
      st.sampled_from(('"', delimiter, "\n", "\r", "\r\n", "x", " ", "", "\0", "\u2028", "\ufeff"))
    )
    text = text[:at] + new + text[at + draw(st.integers(0, 2)) :]
  return text, delimiter, encoding, draw(st.booleans())


@hypothesis.given(mangled())
@cases.some(0.06)
def test_a_mangled_table_is_refused_or_read_letter_by_letter(case):
  text, delimiter, encoding, told = case
  hypothesis.assume(not text.encode(encoding, "replace").startswith(codecs.BOM_UTF8 * 2))
  try:
    content = text.encode(encoding)
  except UnicodeEncodeError:
    hypothesis.reject()
  with tempfile.TemporaryDirectory() as place:
    path = pathlib.Path(place) / "t.csv"
    path.write_bytes(content)
    layout = table_files.Layout(delimiter if told else "")
    found, refusal = cases.attempt(lambda: table_files.read([str(path)], layout), str(path))
  lines = None if "\0" in text else _parsed(text.removeprefix("\ufeff"), delimiter)
  wanted = _meaning(lines)
  if refusal:
    assert wanted is None or not told, refusal
    return
  read = {
    name: [cells.texts[code] for code in cells.values] for name, cells in found.columns.items()
  }
  if told:
    assert read == wanted
  elif read != wanted:  # another separator fits as well
    others = [_meaning(_parsed(text.removeprefix("\ufeff"), mark)) for mark in ",;\t|"]
    assert read in others


@st.composite
def arrow(draw):
  """A column of Arrow, and what its values mean: numbers, seconds since 1970 or texts."""
  rows = 8
  name = draw(st.sampled_from(list(TYPES)))
  kind = TYPES[name]
  rng = np.random.default_rng(draw(st.integers(0, 999)))
  gone = rng.random(rows) < draw(st.sampled_from((0, 0.3)))
  mark = lambda values: [None if lost else v for v, lost in zip(values, gone, strict=True)]
  if name.startswith(("int", "uint")):
    top = min(np.iinfo(name).max, 2**62)
    values = mark([int(v) for v in rng.integers(0, draw(st.sampled_from((2, 100, top))), rows)])
    exact = all(abs(v or 0) < 2**53 for v in values)
    meant = [None if v is None else float(v) if exact else str(v) for v in values]
    return pa.array(values, kind), meant
  if name in ("half", "float", "double"):
    code = {"half": np.float16, "float": np.float32, "double": np.float64}[name]
    values = mark([code(v) for v in rng.normal(0, 10, rows)])
    return pa.array(values, kind), [None if v is None else float(v) for v in values]
  if name == "decimal":
    values = mark([decimal.Decimal(int(v)) / 100 for v in rng.integers(-999, 999, rows)])
    return pa.array(values, kind), [None if v is None else float(v) for v in values]
  if name == "bool":
    values = mark([bool(v) for v in rng.integers(0, 2, rows)])
    return pa.array(values, kind), [None if v is None else str(v).lower() for v in values]
  if name in ("string", "large_string", "dictionary"):
    values = mark([WORDS[v] for v in rng.integers(0, len(WORDS), rows)])
    return pa.array(values, kind), [None if v is None else v.strip() for v in values]
  if name.startswith(("timestamp", "date")):
    seconds = rng.integers(-(10**9), 10**9, rows).tolist()
    seconds = [s // 86400 * 86400 if "date" in name else s for s in seconds]
    moments = [datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=s) for s in seconds]
    if "date" in name:
      moments = [m.date() for m in moments]
    if "zone" in name:
      moments = [m.replace(tzinfo=datetime.UTC) for m in moments]
    return pa.array(mark(moments), kind), mark([float(s) for s in seconds])
  if name == "duration":
    values = mark([datetime.timedelta(hours=int(v)) for v in rng.integers(-99, 99, rows)])
    return pa.array(values, kind), [
      None if v is None else v / datetime.timedelta(days=1) for v in values
    ]
  other = {
    "binary": b"x",
    "list": [1, 2],
    "struct": {"a": 1},
    "time": datetime.time(3),
    "null": None,
  }[name]
  values = [other] * rows
  return pa.array(values, kind), [None if name == "null" else ...] * rows


TYPES = {
  **{name: pa.type_for_alias(name) for name in ("int8", "int16", "int32", "int64")},
  **{name: pa.type_for_alias(name) for name in ("uint8", "uint16", "uint32", "uint64")},
  "half": pa.float16(),
  "float": pa.float32(),
  "double": pa.float64(),
  "decimal": pa.decimal128(9, 2),
  "bool": pa.bool_(),
  "string": pa.string(),
  "large_string": pa.large_string(),
  "dictionary": pa.dictionary(pa.int8(), pa.string()),
  "date32": pa.date32(),
  "date64": pa.date64(),
  "time": pa.time32("s"),
  "timestamp s": pa.timestamp("s"),
  "timestamp ns": pa.timestamp("ns"),
  "timestamp us zone": pa.timestamp("us", "Europe/Berlin"),
  "binary": pa.binary(),
  "list": pa.list_(pa.int8()),
  "struct": pa.struct({"a": pa.int8()}),
  "duration": pa.duration("s"),
  "null": pa.null(),
}


@st.composite
def parquets(draw):
  """A Parquet file's columns, its bytes, and whether they are whole."""
  names = draw(st.lists(st.sampled_from(("a", "b ", "Größe", "a")), min_size=1, max_size=3))
  made = [draw(arrow()) for _ in names]
  with tempfile.TemporaryDirectory() as place:
    path = pathlib.Path(place) / "t"
    kept = pa.table([array for array, _ in made], names=names)
    parquet.write_table(kept, path, compression=draw(st.sampled_from(("none", "snappy", "zstd"))))
    content = path.read_bytes()
  whole = draw(st.integers(0, 3)) > 0
  if not whole:
    content = content[: draw(st.integers(0, len(content) - 1))]
  return names, made, content, whole


def _packed(*columns):
  """A case of `parquets`: name, values and what they mean."""
  out = io.BytesIO()
  arrays = [pa.array(values) for _, values, _ in columns]
  names = [name for name, _, _ in columns]
  parquet.write_table(pa.table(arrays, names=names), out)
  made = [(array, meant) for array, (_, _, meant) in zip(arrays, columns, strict=True)]
  return names, made, out.getvalue(), True


IDS = [2**53, 2**53 + 1, 3]


@hypothesis.example(_packed(("id", IDS, list(map(str, IDS)))))
@hypothesis.example(_packed(("id", [*IDS, None], [*map(str, IDS), None])))
@hypothesis.example(_packed(("a", [1, 2], [1.0, 2.0]), ("a", [1, 2], [1.0, 2.0])))
@hypothesis.example(_packed(("days", [datetime.timedelta(hours=36), None], [1.5, None])))
@hypothesis.given(parquets())
@cases.some(0.05)
def test_parquet_is_read_by_its_types(case):
  names, made, content, whole = case
  with tempfile.TemporaryDirectory() as place:
    path = pathlib.Path(place) / "t.parquet"
    path.write_bytes(content)
    found, refusal = cases.attempt(
      lambda: table_files.read([str(path)], table_files.Layout()), str(path)
    )
  twice = len(set(names)) < len(names)
  unread = any(... in meant for _, meant in made)
  if unread and refusal and whole and not twice:
    return
  if not whole or twice:
    assert refusal, (names, made)
    return
  assert not refusal, refusal
  known = {n: m for n, m in zip(names, made, strict=True) if ... not in m[1]}
  assert [name for name in found.columns if name in known] == list(known)
  for name, (array, meant) in known.items():
    cells = found.columns[name]
    if cells.kind == "date":
      values = [
        None if np.isnat(v) else v.astype("datetime64[s]").astype(float) for v in cells.values
      ]
    elif cells.kind == "number":
      values = [None if np.isnan(v) else float(v) for v in cells.values]
    else:
      values = [None if code < 0 else cells.texts[code] for code in cells.values]
    assert values == meant, array.type
