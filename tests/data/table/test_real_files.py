"""Tables and series as real programs write them: what is alike is one, what is odd is told."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import gzip
import re
import types

import ml_collections
import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest
import yaml

from dynashare_jax.cli import predict
from dynashare_jax.data import cells
from dynashare_jax.data import columns
from dynashare_jax.data.series import dataset as series
from dynashare_jax.data.table import dataset as table
from dynashare_jax.data.table import files

ROWS = 60
BIG = 2**53  # floats take the next whole number for this one


def _content(**more):
  """Two inputs and a label, and more columns, `[ROWS]` each."""
  rng = np.random.default_rng(0)
  return {
    "age": [str(a) for a in rng.integers(18, 90, ROWS)],
    "pay": [f"{p:.2f}" for p in rng.gamma(2, 900, ROWS)],
    "churn": [str(c) for c in rng.integers(0, 2, ROWS)],
    **more,
  }


def _text(content):
  rows = [list(content), *zip(*content.values(), strict=True)]
  return "\n".join(",".join(map(str, row)) for row in rows) + "\n"


def _described(folder, module, **keys):
  text = yaml.safe_dump(keys, allow_unicode=True, sort_keys=False)
  (folder / "dataset.yaml").write_text(text, encoding="utf-8")
  config = ml_collections.ConfigDict(module.defaults())
  return module.build(config, ml_collections.ConfigDict(), str(folder), 0)


def _open(folder, content, **keys):
  """The data set of a table, given as columns or as a text or bytes."""
  raw = _text(content) if isinstance(content, dict) else content
  (folder / "t.csv").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
  return _described(folder, table, **{"table": "t.csv", "tasks": ["churn"]} | keys)


def _visits(write=str, time=lambda step: step, count=12):
  """Rows of series, and a row of labels for each."""
  ids = [write(i) for i in range(count) for _ in range(4)]
  times = [time(step) for _ in range(count) for step in range(4)]
  rows = {"id": ids, "time": times, "pulse": [60 + i % 17 for i in range(4 * count)]}
  return rows, {"id": [str(i) for i in range(count)], "died": [i % 2 for i in range(count)]}


def _open_series(folder, rows, own, **keys):
  (folder / "v.csv").write_text(_text(rows), encoding="utf-8")
  (folder / "o.csv").write_text(_text(own), encoding="utf-8")
  keys = {"series": "v.csv", "labels": "o.csv", "tasks": ["died"]} | keys
  return _described(folder, series, **keys)


@pytest.mark.parametrize(
  "keys, head",
  [
    ({"id": "customer"}, "customer"),
    ({"splits": {"group": "home"}}, "home"),
    ({}, "file no"),  # the first that is called an id and is not read
    ({"id": "customer", "inputs": ["age", "pay"]}, "customer"),
  ],
)
def test_predictions_carry_the_id_of_a_row_as_it_is_written(tmp_path, keys, head):
  """Leading zeros, long numbers, signs and words for missing values stay."""
  texts = ["007", str(BIG + 1), "-12x", "NA", "=A1", "1.0", "1.00", "", "Köln", '"a, b"']
  named = {name: [f"{name[0]}{i}" for i in range(ROWS)] for name in ("home", "customer", "file no")}
  spec = _open(tmp_path, _content(**named), **keys).spec.table
  assert [column.name for column in spec.columns] == ["age", "pay"]
  spec = dataclasses.asdict(spec)
  model = types.SimpleNamespace(manifest={"inputs": {"kind": "table", "table": spec}})
  others = [name for name in ("customer", "home", "file no") if name != head]
  rows = {name: [name] * 10 for name in others} | {"age": ["1"] * 10, "pay": ["2"] * 10}
  (tmp_path / "new.csv").write_text(_text(rows | {head: texts}), encoding="utf-8")
  arrays, ids = predict._read_table(model, tmp_path / "new.csv")
  assert ids == {head: [*texts[:-1], "a, b"]} and len(arrays["numeric"]) == 10
  path = predict._write_csv(tmp_path / "p.csv", [{"churn": "-@"}] * 10, ids)
  with open(path, encoding="utf-8", newline="") as file:
    assert [row[0] for row in csv.reader(file)] == [head, *ids[head]]
  content = {"age": [1, 2], "pay": [1.5, 2], head: pa.array([BIG + 1, 3], pa.int64())}
  parquet.write_table(pa.table(content), tmp_path / "new.parquet")
  _, ids = predict._read_table(model, tmp_path / "new.parquet")
  assert ids == {head: [str(BIG + 1), "3"]}


def test_an_id_is_a_column_and_neither_label_nor_input(tmp_path):
  for keys, words in (
    ({"id": "churn"}, "id: 'churn' is the label of churn"),
    ({"id": "age", "inputs": ["age"]}, "inputs: 'age' is the id"),
    ({"id": "ago"}, "no column 'ago'. Did you mean 'age'"),
  ):
    with pytest.raises(ValueError, match=words):
      _open(tmp_path, _content(), **keys)
  spec = _open(tmp_path, _content(), id="age").spec
  assert spec.table.id == "age" and spec.table.numeric == ("pay",)
  assert any("age (names the row)" in note for note in spec.notes)


@pytest.mark.parametrize(
  "one, other", [("Köln", "Ko\u0308ln"), ("a b", "a\u00a0b"), ("x", "x\u200b")]
)
def test_texts_that_look_the_same_are_one_category(one, other):
  read = cells.Cells.of_texts([one, other, "else"])
  assert read.values.tolist() == [0, 0, 1]


@pytest.mark.parametrize("write", [str, lambda i: f"{i}.0" if i % 2 else str(i)])
def test_a_group_or_series_whose_number_is_spelt_in_two_ways_is_one(tmp_path, write):
  people = [i // 4 for i in range(ROWS)]
  spelt = [f"{p}.0" if i % 2 else str(p) for i, p in enumerate(people)]
  data = _open(tmp_path, _content(person=spelt), splits={"group": "person"})
  assert f"{len(set(people))} of 'person'" in data.spec.notes[0]
  assert sum(_open_series(tmp_path, *_visits(write)).spec.sizes.values()) == 12


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()])
def test_long_whole_numbers_stay_apart(tmp_path, kind):
  content = {name: pa.array(list(map(float, cells_))) for name, cells_ in _content().items()}
  content["person"] = pa.array([BIG + i // 3 for i in range(ROWS)], kind)
  content["churn"] = pa.array([BIG + i % 3 for i in range(ROWS)], kind)
  parquet.write_table(pa.table(content), tmp_path / "t.parquet")
  keys = {"table": "t.parquet", "tasks": ["churn"], "splits": {"group": "person"}}
  data = _described(tmp_path, table, **keys)
  assert f"{ROWS // 3} of 'person'" in data.spec.notes[0]
  assert data.spec.tasks[0].classes == tuple(str(BIG + i) for i in range(3))
  assert cells.Cells.read([BIG, BIG + 1, None], "x").values.tolist() == [0, 1, -1]


def test_a_number_that_means_missing_does_so_however_it_is_spelt():
  read = cells.Cells.of_texts(["-999", "-999.0", "5", "9999-12-31"])
  gone = read.missing(cells.Spelling(missing=("-999", "9999-12-31")))
  assert gone.tolist() == [True, True, False, True]
  codes = cells.Cells.of_texts(["0", "0.0", "00", "1"])
  assert codes.missing(cells.Spelling(missing=("0",))).tolist() == [True, True, False, False]
  dates = cells.Cells.read(np.array(["9999-12-31", "2024-01-05"], "datetime64[D]"), "x")
  assert dates.missing(cells.Spelling(missing=("9999-12-31",))).tolist() == [True, False]


@pytest.mark.parametrize("form", ["%m/%d/%Y %I:%M %p", "%Y-%m-%d %H:%M UTC", "%Y-%m-%d %H:%M GMT"])
def test_dates_of_half_days_and_of_named_zones_are_read(form):
  days = [np.datetime64("2024-01-31T15:30") + np.timedelta64(i, "D") for i in range(30)]
  values = {"when": [day.item().strftime(form) for day in days]}
  found = columns.Encoder.fit(values).encode(values)["numeric"][:, 0]
  np.testing.assert_allclose(found - found[0], np.arange(30), atol=1e-3)
  assert found[0] == pytest.approx(19753 + 15.5 / 24, abs=2e-3)


DOUBTS = {
  "two-digit years": ([f"0{1 + i % 9}.05.{40 + i:02d}" for i in range(30)], "two digits"),
  "zones": (
    [f"2024-01-{1 + i:02d}T10:00" + "+09:00" * (i % 2) for i in range(28)],
    "14 of the 28 times .* name no zone",
  ),
  "far": (["9999-12-31" if i % 3 else f"2024-01-{1 + i:02d}" for i in range(28)], "a century"),
  "language": ([f"{1 + i}. Dezember 1960" for i in range(28)], "look like dates"),
  "two forms": (
    [f"{1 + i:02d}/05/2024" if i % 2 else f"05/{1 + i:02d}/2024" for i in range(28)],
    "look like dates",
  ),
  "thousands": (["1.234", "987", "12.345", "450"] * 7, "have three digits behind the mark"),
  "capitals": (["Ulm", "ulm", "Bonn", "Köln"] * 7, "'Ulm' and 'ulm'"),
  "blanks": (["New York", "New  York", "Bonn"] * 9, "blanks alone"),
  "words": (
    [["n.a.", "missing"][i % 2] if i % 5 == 0 else f"{i}.5" for i in range(30)],
    "to missing",
  ),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_what_may_be_read_wrongly_is_told(name):
  values, words = DOUBTS[name]
  given = {"x": values, "y": [i % 7 for i in range(len(values))]}
  notes = [note for note in columns.Encoder.fit(given).notes if "warning" in note]
  assert len(notes) == 1
  assert re.search(words, notes[0])


@pytest.mark.parametrize("text", ["192.168.{}.{}", "{}.{}.0", "52.{}, 13.{}", "1{}/7{}"])
def test_texts_with_several_numbers_are_no_dates_and_no_numbers(text):
  values = [text.format(i % 9, i % 7) for i in range(60)]
  notes = columns.Encoder.fit({"x": values, "y": [i % 7 for i in range(60)]}).notes
  assert not [note for note in notes if "warning" in note]


@pytest.mark.parametrize("time", ["%d/%m/%Y", "%d.%m.%y"])
def test_doubts_of_a_time_that_orders_are_told(tmp_path, time):
  """Splits by time, and times of series, whose column is no input."""
  days = [np.datetime64("1960-02-03") + np.timedelta64(390 * i, "D") for i in range(ROWS)]
  if "%Y" in time:
    days = [np.datetime64(f"2024-{1 + i % 12:02d}-{1 + i % 11:02d}") for i in range(ROWS)]
  texts = [day.item().strftime(time) for day in days]
  word = "fits all of it" if "%Y" in time else "two digits"
  data = _open(tmp_path, _content(when=texts), splits={"time": "when"})
  assert word in "\n".join(data.spec.notes)
  data = _open_series(tmp_path, *_visits(time=lambda step: texts[15 * step]))
  assert word in "\n".join(data.spec.notes)


def test_a_time_of_no_known_form_is_refused_with_advice(tmp_path):
  quarters = [f"{2000 + i // 4}-Q{1 + i % 4}" for i in range(ROWS)]
  with pytest.raises(ValueError, match="say how they are written, as columns: {when"):
    _open(tmp_path, _content(when=quarters), splits={"time": "when"})
  with pytest.raises(ValueError, match="all rows of column 'when' have '2024-01-01'"):
    _open(tmp_path, _content(when=["2024-01-01"] * ROWS), splits={"time": "when"})
  with pytest.raises(ValueError, match="say how they are written, as columns: {time"):
    _open_series(tmp_path, *_visits(time=lambda step: f"2024-Q{1 + step}"))


def test_dates_are_no_labels(tmp_path):
  days = [f"2024-01-{1 + i % 9:02d}" for i in range(ROWS)]
  with pytest.raises(ValueError, match="column 'churn' holds dates, which no task predicts"):
    _open(tmp_path, _content() | {"churn": days})


def test_points_and_commas_in_one_column_are_refused():
  values = [f"{i},5" if i % 3 == 0 else f"{i}.5" for i in range(30)]
  with pytest.raises(ValueError, match="row 1: '0,5' has another decimal mark than '1.5'"):
    columns.infer({"x": values})


@pytest.mark.parametrize("blank", [" ", "\u00a0", "\u202f"])
def test_any_blank_parts_thousands(tmp_path, blank):
  content = _content(people=[f"{i}{blank}000" for i in range(1, ROWS + 1)])
  data = _open(tmp_path, content, thousands=" ")
  place = data.spec.table.numeric.index("people")
  assert data.arrays("train").inputs["numeric"][:, place].min() >= 1000


def test_steps_beyond_32_bits_are_cut(tmp_path):
  data = _open_series(tmp_path, *_visits(time=lambda step: step * 1e6), bin=0.001, steps=3)
  assert set(data.arrays("train").inputs["length"].tolist()) == {3}


FILES = {
  "excel's separator": lambda text: "sep=;\n" + text.replace(",", ";"),
  "carriage returns": lambda text: text.replace(",", ";").replace("\n", "\r"),
  "empty lines of a sheet": lambda text: text + ",,\n" * 5,
}


@pytest.mark.parametrize("name", FILES)
def test_files_as_spreadsheets_write_them_are_read(tmp_path, name):
  data = _open(tmp_path, FILES[name](_text(_content())))
  assert sum(data.spec.sizes.values()) == ROWS
  assert data.spec.table.numeric == ("age", "pay")


BROKEN = {
  "names again": (lambda text: text + text, "line 62: the line of names stands again"),
  "a remark": (lambda text: f"# of today\n{text}", "line 2: 3 fields, but above it stands '# of"),
  "row numbers": (
    lambda text: text.replace("\n", "\n7,").removesuffix("7,"),
    "line 2: 4 fields.*give the first line a name",
  ),
  "open quote": (lambda text: text.replace("\n", '\n"', 1), "line 2: a quote is opened there"),
  "long field": (
    lambda text: text.replace("\n", "\n" + "7" * 140000, 1),
    "line 2: a field is longer",
  ),
  "backslash": (
    lambda text: text.replace("age", '"a \\"b\\" c"', 1),
    "line 1: .*a quote within quotes is written",
  ),
  "blanks": (lambda text: text.replace(",", " "), "If that is several, say delimiter"),
  "zip": (lambda text: b"PK\x03\x04" + text.encode(), "no text, but a zip archive or an Excel"),
  "gzip": (lambda text: gzip.compress(text.encode()), "give it the ending .gz"),
  "wide": (lambda text: text.encode("utf-16-le"), "If it is UTF-16, say encoding"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name):
  broken, words = BROKEN[name]
  with pytest.raises(ValueError, match=words):
    _open(tmp_path, broken(_text(_content())))


def test_a_first_row_that_comes_again_is_no_line_of_names(tmp_path):
  rows = _text(_content()).split("\n", 1)[1]
  data = _open(tmp_path, rows + rows, names=["age", "pay", "churn"])
  assert sum(data.spec.sizes.values()) == 2 * ROWS


def test_series_to_predict_are_the_tables_of_a_folder(tmp_path, capsys):
  rows, own = _visits()
  own["ward"] = ["A" if i % 3 else "B" for i in range(12)]
  spec = _open_series(tmp_path, rows, own, static=["ward"]).spec.series
  folder = tmp_path / "new"
  folder.mkdir()
  text = _text(rows | {"ward": ["A", "B"] * 24})
  (folder / "a.csv").write_text(text, encoding="utf-8")
  (folder / "README.md").write_text("of today", encoding="utf-8")
  described = {"inputs": {"kind": "series", "series": dataclasses.asdict(spec)}}
  model = types.SimpleNamespace(manifest=described)
  _, ids = predict._read_series(model, folder)
  assert len(ids) == 12
  assert "'ward' has several values in 12 of 12 series" in capsys.readouterr().out
  (folder / "a.csv").unlink()
  with pytest.raises(ValueError, match="There is no table in"):
    predict._read_series(model, folder)


@pytest.mark.parametrize(
  "keys, words",
  [
    ({"tasks": {"t": {"column": True}}}, "tasks.t.column: .* put the word in quotes"),
    ({"missing": False}, "missing: must be a list of texts.*put the word in quotes"),
    ({"columns": {True: "ignore"}}, "a column is True: .*put the word in quotes"),
    ({"tasks": ["total"]}, "is not image or total"),
    (
      {"table": {"train": "t.csv", "test": "t.csv"}},
      "table.test: .*t.csv is in another split, too",
    ),
  ],
)
def test_words_of_yaml_and_names_that_mean_something_else_are_refused(tmp_path, keys, words):
  with pytest.raises(ValueError, match=words):
    _open(tmp_path, _content(), **keys)


def test_rows_of_train_that_are_tested_are_told(tmp_path):
  rows = _text(_content()).split("\n", 1)
  notes = _open(tmp_path, f"{rows[0]}\n{rows[1] * 3}").spec.notes
  assert sum("stand in train, too" in note for note in notes) == 2
  few = {"sex": ["f", "m"] * 60, "town": list("abc") * 40, "churn": ["yes", "no", "no", "yes"] * 30}
  for content in (_content(), few):  # of few columns rows are equal, though they are others
    notes = _open(tmp_path, content).spec.notes
    assert not any("stand in train, too" in note for note in notes)


def test_files_that_begin_as_others_are_read(tmp_path):
  for name in ("PAR1", "BZh1"):
    (tmp_path / "t.csv").write_text(f"{name},b\n1,2\n")
    assert [*files.read([str(tmp_path / "t.csv")], files.Layout()).columns] == [name, "b"]


def test_dates_at_the_end_of_time_are_none():
  for text in ("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-05:00"):
    assert np.isnat(cells.date_of(text, cells.ISO))


def test_columns_of_parquet_that_hold_no_cells_are_left_out(tmp_path):
  content = {name: pa.array(list(map(float, values))) for name, values in _content().items()}
  content["near"] = pa.array([[1, 2]] * ROWS)
  content["stay"] = pa.array([datetime.timedelta(hours=6 * (i % 7)) for i in range(ROWS)])
  content["__index_level_0__"] = pa.array(list(range(ROWS, 0, -1)))
  parquet.write_table(pa.table(content), tmp_path / "t.parquet")
  data = _described(tmp_path, table, table="t.parquet", tasks=["churn"])
  assert data.spec.table.numeric == ("age", "pay", "stay")
  assert data.arrays("train").inputs["numeric"][:, 2].max() == 1.5  # days
  assert any("'near' of" in note and "is left out" in note for note in data.spec.notes)


def test_lines_without_any_value_are_told_where_rows_are_predicted(tmp_path, capsys):
  spec = _open(tmp_path, _content()).spec.table
  (tmp_path / "new.csv").write_text("age,pay\n31,5\n,\n32,6\n", encoding="utf-8")
  found, _ = predict._read_raw(columns.Encoder(spec), tmp_path / "new.csv")
  assert found["numeric"].tolist() == [[31, 5], [32, 6]]
  assert "1 lines of" in capsys.readouterr().out
