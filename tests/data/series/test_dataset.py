"""Series of raw rows: bins, gaps and scales by hand, splits, and one clear error for each fault."""

from __future__ import annotations

import csv
import json

import ml_collections
import numpy as np
import pytest
import yaml

from dynashare_jax import types
from dynashare_jax.checkpoints import workdir
from dynashare_jax.cli import predict
from dynashare_jax.data.series import dataset as series
from dynashare_jax.data.series import encoding
from dynashare_jax.infer import manifest

PEOPLE = 20
ROWS = types.TableSpec(
  ("ward",),
  (3,),
  ("hr",),
  ((0.0, 1.0),),
  (("A", "B"),),
  (types.ColumnSpec("hr", "number"), types.ColumnSpec("ward", "category")),
)
# Two series; the rows are in no order, and one belongs to none.
RAW = {
  "t": [5.0, 0.0, 1.9, 2.0, 30.0, 10.0, 11.0],
  "hr": ["120", "100", "110", "", "80", "90", "70"],
  "ward": ["B", "A", "", "", "C", "A", "A"],
}
OF = np.array([0, 0, 0, 0, 1, 1, -1])


def _spec(**values):
  return types.SeriesSpec(ROWS, None, (100.0,), (10.0,), "id", "t", **{"steps": 4} | values)


def _read(spec):
  found, notes = encoding.Encoder(spec).read(RAW, OF, {})
  return found["series"], found["length"].tolist(), notes


def test_every_row_is_a_step():
  values, length, _ = _read(_spec())
  assert length == [4, 2]
  # hr, whether it is there, ward A, ward B; what is missing is the value before.
  wanted = [[0, 1, 1, 0], [1, 1, 1, 0], [1, 0, 1, 0], [2, 1, 0, 1]]
  np.testing.assert_array_equal(values[0], wanted)
  # C is no ward of training; behind the end are zeros.
  np.testing.assert_array_equal(values[1], [[-1, 1, 1, 0], [-2, 1, 0, 0], [0] * 4, [0] * 4])


def test_bins_of_one_width():
  values, length, notes = _read(_spec(bin=2.0, keep="mean"))
  assert length == [3, 4]
  # 0 and 1.9 make a mean of 105; 2.0 begins the next bin, which has no hr.
  wanted = [[0.5, 1, 1, 0], [0.5, 0, 1, 0], [2, 1, 0, 1], [0] * 4]
  np.testing.assert_array_equal(values[0], wanted)
  # From 10 to 30 are 11 steps: the last 4 stay, and what came before is forgotten.
  np.testing.assert_array_equal(values[1, :, 1], [0, 0, 0, 1])
  assert any("1 of 2 series have more than 4 steps; the last of them stay" in n for n in notes)
  first = _read(_spec(bin=2.0, cut="first"))[0]
  np.testing.assert_array_equal(first[1, :, 0], [-1, -1, -1, -1])
  np.testing.assert_array_equal(first[1, :, 1], [1, 0, 0, 0])
  assert first[0, 0, 0] == 1  # the last of 100 and 110


def test_without_filling_a_gap_is_the_mean():
  values, _, _ = _read(_spec(fill=False, observed=False))
  np.testing.assert_array_equal(values[0, :, 0], [0, 1, 0, 2])
  assert values.shape == (2, 4, 3)


def test_what_a_whole_series_has_stands_at_every_step():
  static = types.TableSpec(
    ("sex",),
    (3,),
    ("age",),
    ((0.0, 1.0),),
    (("f", "m"),),
    (types.ColumnSpec("age", "number"), types.ColumnSpec("sex", "category")),
  )
  spec = types.SeriesSpec(ROWS, static, (100.0, 50.0), (10.0, 20.0), "id", "t", steps=4)
  encoder = encoding.Encoder(spec)
  assert encoder.channels == ((0, 1), (2, 3), (4,), (5, 6))
  own = {"age": [70.0, None], "sex": ["m", "f"]}
  values = encoder.read(RAW, OF, own)[0]["series"]
  np.testing.assert_array_equal(values[0, :, 4:], [[1, 0, 1]] * 4)
  np.testing.assert_array_equal(values[1, :, 4:], [[0, 1, 0]] * 2 + [[0, 0, 0]] * 2)


def test_bins_equal_a_slow_twin():
  rng = np.random.default_rng(0)
  time, of = rng.uniform(0, 50, 300), rng.integers(0, 12, 300)
  spec = _spec(bin=3.0, steps=9)
  steps = encoding.place_rows(spec, of, time, 12)
  found = {int(r): (int(s), int(t)) for r, s, t in zip(*steps[:3], strict=True)}
  for row in range(300):
    mine = time[of == of[row]]
    last = int((mine.max() - mine.min()) // 3)
    step = int((time[row] - mine.min()) // 3) - max(0, last - 8)
    assert found.get(row) == ((int(of[row]), step) if step >= 0 else None)
    assert steps.length[of[row]] == min(last + 1, 9)


def _write(path, header, rows, delimiter=","):
  path.parent.mkdir(exist_ok=True)
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def _visits():
  rng = np.random.default_rng(1)
  return [
    [f"p{p}", f"{1 + k:02d}.03.2024 {p % 24:02d}:00", f"{60 + p + rng.normal():.2f}", "AB"[k % 2]]
    for p in range(PEOPLE)
    for k in range(2 + p % 3)
  ]


HEAD = ["who", "time", "hr", "ward"]
KEYS = {
  "series": "visits.csv",
  "id": "who",
  "labels": "out.csv",
  "static": ["age"],
  "tasks": {"died": {}, "days": {}},
}


def _outcomes():
  return [[f"p{p}", p % 2, "" if p == 3 else 1.5 * p, 20 + 2 * p] for p in range(PEOPLE)]


def _open(folder, visits=None, outcomes=None, **keys):
  _write(folder / "visits.csv", HEAD, visits or _visits(), ";")
  _write(folder / "out.csv", ["who", "died", "days", "age"], outcomes or _outcomes())
  described = {name: value for name, value in (KEYS | keys).items() if value is not None}
  (folder / "dataset.yaml").write_text(yaml.safe_dump(described))
  config = ml_collections.ConfigDict(series.defaults())
  return series.build(config, ml_collections.ConfigDict(), str(folder), 0)


def test_a_long_table_with_labels_of_their_own(tmp_path):
  data = _open(tmp_path, bin="1d")
  assert data.spec.input_shape == (4, 5) and data.spec.lengths
  assert data.spec.channels == ((0, 1), (2, 3), (4,))
  assert data.spec.sizes == {"train": 16, "validation": 2, "test": 2}
  ages = data.spec.series.center[1], data.spec.series.spread[1]
  for split in types.SPLITS:
    batch = data.arrays(split)
    people = np.rint(batch.inputs["series"][:, 0, 4] * ages[1] + ages[0]).astype(int) // 2 - 10
    np.testing.assert_array_equal(batch.inputs["length"], 2 + people % 3)
    np.testing.assert_array_equal(batch.targets["died"], people % 2)
    np.testing.assert_array_equal(batch.valid["days"], people != 3)
    known = batch.valid["days"]
    np.testing.assert_array_equal(batch.targets["days"][known], 1.5 * people[known])
  workdir.write_spec(tmp_path, data.spec)
  assert workdir.read_spec(tmp_path) == data.spec


def test_labels_may_stand_in_every_row(tmp_path):
  visits = [[*row, int(row[0][1:]) % 2] for row in _visits()]
  _write(tmp_path / "visits.csv", [*HEAD, "died"], visits)
  keys = {"labels": None, "static": None, "tasks": {"died": {}}}
  (tmp_path / "dataset.yaml").write_text(
    yaml.safe_dump({n: v for n, v in (KEYS | keys).items() if v is not None})
  )
  config = ml_collections.ConfigDict(series.defaults())
  data = series.build(config, None, str(tmp_path), 0)
  assert sum(data.spec.sizes.values()) == PEOPLE
  visits[-1][-1] = 0
  _write(tmp_path / "visits.csv", [*HEAD, "died"], visits)
  with pytest.raises(ValueError, match="column 'died': another value than in the first row"):
    series.build(config, None, str(tmp_path), 0)


def test_a_file_for_every_series(tmp_path):
  visits = _visits()
  for p in range(PEOPLE):
    mine = [row[1:] for row in visits if row[0] == f"p{p}"]
    _write(tmp_path / "stays" / f"p{p}.csv", HEAD[1:], mine)
  one = _open(tmp_path, bin="1d", static=None)
  _write(tmp_path / "out.csv", ["id", "died", "days", "age"], _outcomes())
  described = KEYS | {"series": "stays/*.csv", "bin": "1d"}
  del described["id"], described["static"]
  (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(described))
  two = series.build(ml_collections.ConfigDict(series.defaults()), None, str(tmp_path), 0)
  np.testing.assert_array_equal(
    one.arrays("train").inputs["series"], two.arrays("train").inputs["series"]
  )


def test_ids_on_one_side_only_are_counted(tmp_path):
  outcomes = [row for row in _outcomes() if row[0] != "p4"] + [["q", 1, 1, 1]]
  data = _open(tmp_path, outcomes=outcomes)
  notes = "\n".join(data.spec.notes)
  assert "1 of 20 ids with labels have no row, first 'q'" in notes
  assert "1 series have no labels, first 'p4'" in notes
  assert sum(data.spec.sizes.values()) == 19


@pytest.mark.parametrize(
  "keys, words",
  [
    ({"bin": 2}, "bin: the times of column 'time' are dates: give it a unit"),
    ({"bin": "2 moons"}, "bin: must be a number, or one with a unit"),
    ({"id": "patient"}, "id: .*no column 'patient'"),
    ({"time": "when"}, "time: .*no column 'when'"),
    ({"static": ["died"]}, "static: 'died' is the label of a task"),
    ({"static": ["agee"]}, "static: .*no column 'agee'. Did you mean 'age'"),
    ({"labels": None, "static": None}, "has no column 'd"),
    (
      {"visits": [*_visits(), ["p1", "", "1", "A"]]},
      "line 61, column 'time': 1 of 60 rows have no",
    ),
    (
      {"visits": [*_visits(), ["", "01.03.2024 00:00", "1", "A"]]},
      "line 61, .*: 1 rows have no id",
    ),
    ({"outcomes": [*_outcomes(), ["p1", 1, 1, 1]]}, "line 22, column 'who': 'p1' stands twice"),
    ({"outcomes": [[f"x{p}", p % 2, 1, 2] for p in range(9)]}, "no id of .*'x0'"),
  ],
)
def test_a_fault_is_one_clear_error(tmp_path, keys, words):
  with pytest.raises(ValueError, match=words) as error:
    _open(tmp_path, **keys)
  assert "\n" not in str(error.value)


def test_raw_rows_are_read_as_training_read_them(tmp_path, capsys):
  data = _open(tmp_path, bin="1d")
  arrays = {
    "series": np.zeros((1, *data.spec.input_shape), np.float32),
    "length": np.zeros(1, np.int32),
  }

  class Model:
    """Has a manifest alone."""

  model = Model()
  model.manifest = json.loads(json.dumps({"inputs": manifest.inputs(data.spec, arrays)}))
  visits = [[*row, 20 + 2 * int(row[0][1:]), "x"] for row in _visits()]
  _write(tmp_path / "rows.csv", [*HEAD, "age", "more"], visits, ";")
  found, ids = predict._read_series(model, tmp_path / "rows.csv")
  assert ids == [f"p{p}" for p in range(PEOPLE)]
  assert "1 columns that the model does not read are left out: more" in capsys.readouterr().out
  seen = {row.tobytes() for row in found["series"]}
  for split in types.SPLITS:
    assert {row.tobytes() for row in data.arrays(split).inputs["series"]} <= seen
