"""Roles of columns and their encoding: numbers worked by hand, and what must be refused."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pytest

from dynashare_jax.data import cells
from dynashare_jax.data import columns
from dynashare_jax.data.cells import Spelling

ROWS = 40


def _kinds(**values):
  return {name: role.kind for name, role in columns.infer(values).items()}


def test_quantile_edges_by_hand() -> None:
  edges = columns.quantile_edges
  assert edges(np.arange(17.0), 4) == (0, 4, 8, 12, 16)
  assert edges(np.array([5.0, 5.0]), 16) == (5, 6)
  assert edges(np.arange(17.0), 1) == (0, 16)
  # A frequent value is an edge of its own; the rest keeps the other 3 bins.
  values = np.concatenate([np.zeros(90), np.arange(1.0, 11.0)])
  assert edges(values, 4) == (0, 1, 4, 7, 10)


@pytest.mark.parametrize(
  "text, decimal_mark, thousands, value",
  [
    ("1.5", ".", "", 1.5),
    ("-1,5e3", ",", "", -1500),
    ("\u22127", ".", "", -7),
    (".5", ".", "", 0.5),
    ("1.234,5", ",", ".", 1234.5),
    ("1,234,567", ".", ",", 1234567),
    ("12,34", ".", ",", None),  # no thousands
    ("1_000", ".", "", None),  # which Python reads
    ("0x1", ".", "", None),
    ("1,5", ".", "", None),
    ("12 %", ".", "", None),
    ("-inf", ".", "", -np.inf),
  ],
)
def test_numbers_are_read_as_they_are_spelt(text, decimal_mark, thousands, value):
  assert Spelling(decimal_mark, thousands).number(text) == value


def test_roles_are_told_by_the_values():
  rng = np.random.default_rng(0)
  number = rng.normal(size=ROWS)
  found = _kinds(
    number=number,
    numbers_as_texts=[f"{n:.3f}" for n in number],
    gaps=[None, "?", "NA", *map(str, range(ROWS - 3))],
    colour=np.array(["red", "blue"] * 20),
    truth=number > 0,
    mixed_truth=[True, None] * 20,
    postcode=["01067", "01069", "10115", "80331"] * 10,
    day=np.arange(ROWS).astype("datetime64[D]"),
    german=[f"{1 + i % 28:02d}.02.2021" for i in range(ROWS)],
    compact=[20210101 + i % 28 for i in range(ROWS)],
    constant=np.ones(ROWS),
    empty=[None] * ROWS,
    key=[f"k{i}" for i in range(ROWS)],
    row=np.arange(7, 7 + ROWS),
    user_id=rng.permutation(ROWS) * 3,
    userId=rng.permutation(ROWS) * 3,
    paid=rng.permutation(ROWS) * 3,
    count=rng.permutation(ROWS) * 3,
  )
  assert found == {
    "number": "number",
    "numbers_as_texts": "number",
    "gaps": "number",
    "colour": "category",
    "truth": "category",
    "mixed_truth": "category",
    "postcode": "category",
    "day": "date",
    "german": "date",
    "compact": "date",
    "constant": "ignored",
    "empty": "ignored",
    "key": "ignored",
    "row": "ignored",
    "user_id": "ignored",
    "userId": "ignored",
    "paid": "number",
    "count": "number",
  }


def test_a_frame_gives_the_same_as_lists_of_texts():
  """pandas' own types, and its ways to say that nothing is there."""
  rng = np.random.default_rng(1)
  whole = pd.array([None if i % 7 == 0 else i % 5 for i in range(ROWS)], dtype="Int64")
  frame = pd.DataFrame(
    {
      "whole": whole,
      "colour": pd.Categorical(rng.choice(["red", "blue"], ROWS)),
      "flag": pd.array([None, True, False, True] * 10, dtype="boolean"),
      "when": pd.date_range("2024-02-28", periods=ROWS, freq="6h", tz="Europe/Berlin"),
      "name": pd.array(["a", pd.NA, "b", "a"] * 10, dtype="string"),
      "price": [decimal.Decimal("1.5"), None, 2, np.float32(3)] * 10,
    }
  )
  texts = {
    "whole": ["" if v is pd.NA else str(v) for v in whole],
    "colour": list(map(str, frame.colour)),
    "flag": ["", "True", "False", "TRUE"] * 10,
    "when": [t.isoformat() for t in frame.when],
    "name": ["a", "NA", "b", "a "] * 10,
    "price": ["1.5", "", "2", "3.0"] * 10,
  }
  encoder = columns.Encoder.fit(dict(frame))
  other = columns.Encoder.fit(texts)
  assert encoder.spec.categorical == other.spec.categorical
  assert encoder.spec.values == other.spec.values
  for one in (encoder, other):
    for name, array in one.encode(dict(frame)).items():
      np.testing.assert_array_equal(array, encoder.encode(texts)[name], name)


def test_encoding_by_hand():
  table = {
    "age": [10.0, None, 30.0, 20.0],
    "job": ["cook", "king", None, "cook"],
    "born": [datetime.date(1970, 1, 2), datetime.date(2024, 2, 29), None, None],
  }
  encoder = columns.Encoder.fit(table)
  assert encoder.spec.categorical == ("age (missing)", "job", "born (month)", "born (weekday)")
  assert encoder.spec.cardinalities == (3, 4, 13, 8)
  assert encoder.spec.values[1] == ("", "cook", "king")
  found, notes = encoder.read({**table, "job": ["cook", "queen", "", "king"], "more": [1, 2, 3, 4]})
  # Month 1 and 2; a Friday and a Thursday.
  np.testing.assert_array_equal(
    found["categorical"], [[1, 2, 1, 5], [2, 0, 2, 4], [1, 1, 0, 0], [1, 3, 0, 0]]
  )
  middle = (1 + 19782) / 2
  np.testing.assert_array_equal(
    found["numeric"], [[10, 1], [20, 19782], [30, middle], [20, middle]]
  )
  assert len(notes) == 1 and "'job': 1 of 4 rows" in notes[0]


def test_an_encoder_comes_back_from_json():
  texts = {"a": ["1,5", "2,5", "", "-9"], "b": ["x", "y", "x", ""], "c": ["1.2.2024"] * 3 + [""]}
  encoder = columns.Encoder.fit(texts, spelling=Spelling(",", ".", ("-9",)))
  stored = json.loads(json.dumps(dataclasses.asdict(encoder.spec)))
  again = columns.Encoder.of(stored)
  assert again.spec == encoder.spec
  raw = {"a": ["1.000,5", "-9", "0", "0"], "b": ["x"] * 4, "c": ["29.02.2024"] * 4}
  np.testing.assert_array_equal(encoder.encode(raw)["numeric"], again.encode(raw)["numeric"])
  assert again.encode(raw)["numeric"][:2, 0].tolist() == [1000.5, 2.0]


def test_rare_categories_share_the_code_of_unseen_ones():
  texts = ["a"] * 60 + ["b"] * 30 + ["c"] * 8 + ["d"] * 2 + ["e"]
  encoder = columns.Encoder.fit({"x": texts}, most_categories=3)
  assert encoder.spec.values == (("a", "b", "c"),)
  assert "5 categories; the 2 rarest, of 3% of the training rows" in " ".join(encoder.notes)
  codes = encoder.encode({"x": ["c", "d", "e", "new"]})["categorical"][:, 0]
  assert codes.tolist() == [3, 0, 0, 0]
  # Of a single row, too, once there are 100 rows.
  assert columns.Encoder.fit({"x": texts}).spec.values == (("a", "b", "c", "d"),)
  assert columns.Encoder.fit({"x": texts[50:]}).spec.values == (("a", "b", "c", "d", "e"),)


def test_only_training_rows_are_fitted():
  table = {"x": np.arange(100.0) ** 2, "y": ["a", "b", "c", "d"] * 25}
  train = np.arange(50)
  fitted = columns.Encoder.fit({n: np.asarray(v)[train] for n, v in table.items()}).spec
  assert fitted.edges[0][-1] == 49**2
  assert columns.Encoder.fit(table).spec.edges[0][-1] == 99**2


@pytest.mark.parametrize(
  "values, words",
  [
    ([*map(str, np.arange(0.5, 30)), "tall"], "column 'x', row 31: 'tall' is no number"),
    (["1,234", "2,500", "12,000"] * 9, "column 'x', row 1: '1,234' seems to have a separator of"),
    (
      [*(f"2021-03-{d:02d}" for d in range(1, 31)), "31 March"],
      "column 'x', row 31: '31 March' is no date",
    ),
    ([1.5, 2.5, [3]], "column 'x', row 3: \\[3\\] is no number, text"),
    ([1.0, 2.0, 3e39], "column 'x', row 3: 3e\\+39 is beyond 32 bits"),
    (["1.0", "2", "inf"], "column 'x', row 3: 'inf' is beyond 32 bits"),
    ([1, 10**400, 2], "column 'x', row 2: inf is beyond 32 bits"),
    (np.zeros((3, 2)), "has the shape"),
    ([None, None], "No column is left as an input \\(x: no value\\)"),
  ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(values, words):
  with pytest.raises(ValueError, match=words):
    columns.Encoder.fit({"x": values})


def test_a_wrong_value_of_later_rows_is_refused_with_its_place():
  encoder = columns.Encoder.fit({"age": [1.0, 2.0], "day": ["2021-01-31", "2021-02-28"]})
  good = {"age": ["1", "2"], "day": ["2021-01-31", ""]}
  with pytest.raises(ValueError, match="column 'age', row 2: 'old' is no number, as 1 of 2 rows"):
    encoder.encode(good | {"age": ["1", "old"]})
  with pytest.raises(ValueError, match="column 'day', row 1: '2021-02-30' is no date"):
    encoder.encode(good | {"day": ["2021-02-30", ""]})
  with pytest.raises(ValueError, match="There is no column 'age'. Did you mean 'ages'"):
    encoder.encode({"ages": [1], "day": [""]})
  _, notes = encoder.read(good | {"age": ["", "2"]})
  assert any("'age': 1 of 2 rows have no value" in note for note in notes)


def test_texts_between_numbers_make_a_category_and_a_warning():
  role = columns.infer({"x": ["1", "2", "b", "b"] * 10})["x"]
  assert role.kind == "category"
  assert "20 of 40 values of column 'x' are numbers" in role.warning and "row 3" in role.warning


def test_numbers_with_a_unit_are_told_also_where_all_differ():
  role = columns.infer({"x": [f"€ {i}.50" for i in range(ROWS)]})["x"]
  assert role.kind == "ignored" and "numbers with something beside them" in role.warning


def test_suspicious_numbers_are_counted():
  usual = [*range(20, 80)] * 2
  for text, values in (("999", [*usual, 999, 999]), ("-99", [*usual, -99, -99])):
    notes = columns.Encoder.fit({"age": values}).notes
    told = [note for note in notes if note.startswith("warning")]
    assert len(told) == 1 and f"2 values of column 'age' are {text}" in told[0]
    assert "row 121" in told[0]
  assert not columns.fillers("age", np.arange(1000.0), cells.place)  # 999 is one of many


def test_decimal_marks_are_found_over_all_columns():
  read = lambda **texts: {n: cells.Cells.read(t, n) for n, t in texts.items()}
  comma = read(a=["1,5", "2"], b=["1,234", "2,345"])
  assert cells.detect(comma)[0].decimal == ","
  assert cells.detect(read(b=["1,234", "2,345"]))[0].decimal == "."  # perhaps thousands
  spelling, warnings = cells.detect(read(a=["1,5", "2"], b=["1.5", "2"]))
  assert spelling.decimal == "." and "decimal: ','" in warnings[0]


def test_days_and_months_that_could_be_swapped_are_told():
  both = columns.infer({"x": ["01/02/2021", "03/04/2021", "05/06/2021"]})["x"]
  assert both.date == "%d/%m/%Y" and "%m/%d/%Y" in both.warning
  one = columns.infer({"x": ["01/02/2021", "03/25/2021", "05/06/2021"]})["x"]
  assert one.date == "%m/%d/%Y" and not one.warning
