"""Tables of many looks: reading, labels, splits, and one clear error for each fault."""

from __future__ import annotations

import csv
import gzip
import json
import pathlib
import runpy

import ml_collections
import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest
import yaml

from dynashare_jax import types
from dynashare_jax.checkpoints import workdir
from dynashare_jax.cli import predict
from dynashare_jax.data import columns
from dynashare_jax.data.series import dataset as series
from dynashare_jax.data.table import dataset as table
from dynashare_jax.infer import manifest

CONFIGS = pathlib.Path(__file__).resolve().parents[3] / "configs"
ROWS = 60


def _content():
  """Columns of texts: two inputs with gaps, a key, and labels of every kind."""
  rng = np.random.default_rng(0)
  age = [str(a) for a in rng.integers(18, 90, ROWS)]
  return {
    "key": [f"k{i}" for i in range(ROWS)],
    "age": ["" if i % 10 == 3 else a for i, a in enumerate(age)],
    "city": [("Köln", "Ulm", "Jena, Ost")[i % 3] for i in range(ROWS)],
    "pay": [f"{p:.2f}" for p in rng.gamma(2, 900, ROWS)],
    "churn": ["" if i % 12 == 5 else ("yes", "no")[i % 2] for i in range(ROWS)],
    "grade": [str(1 + i % 4) for i in range(ROWS)],
    "spend": [f"{s:.2f}" for s in rng.normal(5000, 100, ROWS)],
    "left": [str(i % 2) for i in range(ROWS)],
    "right": [str(i // 2 % 2) if i != 7 else "" for i in range(ROWS)],
  }


TASKS = {
  "churn": {},
  "grade": {},
  "spend": {"unit": "EUR"},
  "sides": {"columns": ["left", "right"]},
}


def _write(path, content, delimiter=",", encoding="utf-8", end="\n"):
  rows = [list(content), *zip(*content.values(), strict=True)]
  opened = gzip.open if path.suffix == ".gz" else open
  with opened(path, "wt", encoding=encoding, newline="") as file:
    csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(rows)


def _open(folder, content=None, file="t.csv", write=None, **keys):
  """The data set of a table that is written first."""
  if content is not None:
    _write(folder / file, content, **(write or {}))
  described = {"table": file, "tasks": TASKS} | keys
  text = yaml.safe_dump(described, allow_unicode=True, sort_keys=False)
  (folder / "dataset.yaml").write_text(text, encoding="utf-8")
  config = ml_collections.ConfigDict(table.defaults())
  return table.build(config, ml_collections.ConfigDict(), str(folder), 0)


def _all(data):
  """All splits as one, and the notes as one text."""
  parts = [data.arrays(split) for split in types.SPLITS]
  targets = {t.name: np.concatenate([p.targets[t.name] for p in parts]) for t in data.spec.tasks}
  return targets, "\n".join(data.spec.notes)


def test_the_smallest_file_is_enough(tmp_path):
  data = _open(tmp_path, _content())
  churn, grade, spend, sides = data.spec.tasks
  assert (churn.kind, churn.classes) == ("binary", ("no", "yes"))
  assert (grade.kind, grade.classes) == ("multiclass", ("1", "2", "3", "4"))
  assert (spend.kind, spend.unit) == ("number", "EUR")
  assert (sides.kind, sides.outputs, sides.classes) == ("multilabel", 2, ("left", "right"))
  assert data.spec.sizes == {"train": 48, "validation": 6, "test": 6}
  assert [column.name for column in data.spec.table.columns] == ["age", "city", "pay"]
  notes = _all(data)[1]
  assert "key (another text in every row, as an id)" in notes
  assert "task churn: binary (inferred: two values), yes is 'yes'" in notes
  assert "age" in notes and "seed 0" in notes
  train = data.arrays("train")
  np.testing.assert_allclose(spend.center, train.targets["spend"].mean(), rtol=1e-6)
  np.testing.assert_allclose(spend.spread, train.targets["spend"].std(), rtol=1e-5)


def test_labels_stay_with_their_rows(tmp_path):
  """Every row is found again by its pay, with its labels; an empty cell is no label."""
  content = _content()
  data = _open(tmp_path, content)
  seen = 0
  place = data.spec.table.numeric.index("pay")
  for split in types.SPLITS:
    batch = data.arrays(split)
    for i, pay in enumerate(batch.inputs["numeric"][:, place]):
      row = int(np.argmin(np.abs(np.array(content["pay"], float) - pay)))
      seen += 1
      assert batch.valid["churn"][i] == (content["churn"][row] != "")
      if batch.valid["churn"][i]:
        assert batch.targets["churn"][i] == (content["churn"][row] == "yes")
      assert batch.targets["grade"][i] == int(content["grade"][row]) - 1
      assert batch.targets["spend"][i] == np.float32(content["spend"][row])
      assert batch.valid["sides"][i].tolist() == [True, row != 7]
      assert batch.targets["sides"][i, 0] == int(content["left"][row])
  assert seen == ROWS


@pytest.mark.parametrize(
  "file, write, comma",
  [
    ("t.csv", {"delimiter": ";", "encoding": "latin-1"}, True),
    ("t.tsv", {"delimiter": "\t", "encoding": "utf-16"}, False),
    ("t.csv.gz", {"delimiter": "|", "encoding": "utf-8-sig", "end": "\r\n"}, False),
    ("t.parquet", {}, False),
  ],
)
def test_every_look_gives_the_same(tmp_path, file, write, comma):
  content = _content()
  (tmp_path / "plain").mkdir()
  plain = _open(tmp_path / "plain", content)
  if file.endswith("parquet"):
    kinds = dict.fromkeys(("age", "pay", "spend"), float)
    typed = {
      name: [kinds.get(name, str)(v) if v else None for v in values]
      for name, values in content.items()
    }
    parquet.write_table(pa.table(typed), tmp_path / file)
    other = _open(tmp_path, None, file)
  else:
    if comma:
      for name in ("pay", "spend"):
        content[name] = [v.replace(".", ",") for v in content[name]]
    other = _open(tmp_path, content, file, write)
    assert other.spec.table.decimal == ("," if comma else ".")
  for split in types.SPLITS:
    one, two = plain.arrays(split), other.arrays(split)
    for name, array in one.inputs.items():
      np.testing.assert_array_equal(array, two.inputs[name])
    for name, array in one.targets.items():
      np.testing.assert_array_equal(array, two.targets[name])
  assert [t.classes for t in plain.spec.tasks] == [t.classes for t in other.spec.tasks]


def test_a_group_never_parts(tmp_path):
  content = _content()
  content["patient"] = [f"p{i * i % 11}" for i in range(ROWS)]
  data = _open(tmp_path, content, splits={"group": "patient", "seed": 3})
  of = dict(zip(np.float32(content["pay"]).tolist(), content["patient"], strict=True))
  place = data.spec.table.numeric.index("pay")
  found = [
    {of[float(pay)] for pay in data.arrays(split).inputs["numeric"][:, place]}
    for split in types.SPLITS
  ]
  assert all(found) and sum(map(len, found)) == len(set.union(*found)) == 6
  assert "patient" not in [column.name for column in data.spec.table.columns]


def test_the_oldest_rows_train_and_equal_times_never_part(tmp_path):
  content = _content()
  days = [1 + (7 * i) % 20 for i in range(ROWS)]  # three rows a day
  content["day"] = [f"{d:02d}.01.2024" for d in days]
  splits = {"time": "day", "train": 0.7, "test": 0.15}
  data = _open(tmp_path, content, splits=splits)
  of = dict(zip(np.float32(content["pay"]).tolist(), days, strict=True))
  place = data.spec.table.numeric.index("pay")
  found = [
    sorted({of[float(pay)] for pay in data.arrays(split).inputs["numeric"][:, place]})
    for split in types.SPLITS
  ]
  assert found == [[*range(1, 15)], [15, 16, 17], [18, 19, 20]]


def test_a_column_or_files_name_the_splits(tmp_path):
  content = _content()
  content["part"] = [("Train", "train", "train", "val", "TEST")[i % 5] for i in range(ROWS)]
  data = _open(tmp_path, content, splits={"column": "part"})
  assert data.spec.sizes == {"train": 36, "validation": 12, "test": 12}
  for split, begin, end in (("train", 0, 40), ("test", 40, ROWS)):
    _write(tmp_path / f"{split}.csv", {n: v[begin:end] for n, v in _content().items()})
  tables = {"train": "train.csv", "test": "test.csv"}
  both = _open(tmp_path, table=tables)
  assert both.spec.sizes == {"train": 36, "validation": 4, "test": 20}
  spend = np.float32(_content()["spend"][40:])
  np.testing.assert_array_equal(both.arrays("test").targets["spend"], spend)


def test_one_number_is_one_class_however_it_is_spelt(tmp_path):
  content = _content()
  content["grade"] = [("1", "1.0", "2", "10")[i % 4] for i in range(ROWS)]
  grade = _open(tmp_path, content).spec.tasks[1]
  assert (grade.kind, grade.classes) == ("multiclass", ("1", "2", "10"))


@pytest.mark.parametrize("values", [("0", "1"), ("1", "2"), ("-1", "1"), ("nein", "ja")])
def test_of_two_values_yes_is_the_word_for_it_or_the_larger(tmp_path, values):
  content = _content()
  content["churn"] = [values[i % 2] for i in range(ROWS)]
  assert _open(tmp_path, content).spec.tasks[0].classes == values


def test_weights_of_classes(tmp_path):
  content = _content()
  content["grade"] = [str(1 + (i % 6 > 2) + (i % 6 > 4)) for i in range(ROWS)]
  tasks = {
    "churn": {"positive": "no", "class_weights": "balanced"},
    "grade": {"class_weights": "balanced"},
  }
  data = _open(tmp_path, content, tasks=tasks)
  churn, grade = data.spec.tasks
  assert churn.classes == ("yes", "no")
  train = data.arrays("train")
  target = train.targets["churn"][train.valid["churn"]]
  np.testing.assert_allclose(churn.positive_weight * target.sum(), (1 - target).sum())
  counts = np.bincount(train.targets["grade"])
  weighed = np.multiply(grade.class_weights, counts)
  np.testing.assert_allclose(weighed, len(train.present) / 3)
  named = _open(tmp_path, tasks={"grade": {"class_weights": {"2": 3}}})
  assert named.spec.tasks[0].class_weights == (1, 3, 1)


def test_classes_that_training_never_shows_are_told(tmp_path):
  content = _content()
  content["part"] = [("train", "val", "test")[i // 20] for i in range(ROWS)]
  content["grade"] = [*content["grade"][:-1], "9"]
  data = _open(tmp_path, content, splits={"column": "part"})
  assert (
    "tasks.grade: 1 labels of test have a class that train never shows, first '9'" in _all(data)[1]
  )
  assert data.spec.tasks[1].outputs == 5


def test_a_column_that_gives_a_label_away_is_told(tmp_path):
  content = _content()
  content["leak"] = [{"yes": "gone", "no": "here", "": "?"}[c] for c in content["churn"]]
  notes = _all(_open(tmp_path, content))[1]
  assert "column 'leak' tells churn in every row" in notes and "'city' tells" not in notes


FAULTS = {
  "unknown column": ({}, {"tasks": {"churm": {}}}, "no column 'churm'. Did you mean 'churn'"),
  "unknown key": ({}, {"taks": {}}, "taks is unknown"),
  "unknown option": ({}, {"tasks": {"churn": {"wieght": 1}}}, "tasks.churn.wieght is unknown"),
  "no identifier": ({}, {"tasks": {"my churn": {}}}, "tasks.my churn: a task's name has letters"),
  "label as input": ({}, {"inputs": ["age", "churn"]}, "inputs: 'churn' is the label of churn"),
  "one label twice": (
    {},
    {"tasks": {"a": {"column": "churn"}, "churn": {}}},
    "tasks.churn.column: 'churn' is the label of a already",
  ),
  "constant label": (
    {"churn": ["yes"] * ROWS},
    {},
    "tasks.churn: column 'churn' has one value, 'yes'",
  ),
  "no label": ({"churn": [""] * ROWS}, {}, "tasks.churn: column 'churn' has no value"),
  "wrong kind": ({}, {"tasks": {"grade": {"kind": "binary"}}}, "has 4 values"),
  "text for a number": (
    {},
    {"tasks": {"city": {"kind": "number"}}},
    "t.csv, line 2, column 'city': 'Köln' is no number",
  ),
  "a label of another sort": (
    {"spend": [*map(str, range(59)), "much"]},
    {},
    "t.csv, line 61, column 'spend': 'much' is no number, as 1 of 60 labels of spend",
  ),
  "labels with thousands": (
    {"spend": [f"{i},{i:03d}" for i in range(1, 61)]},
    {},
    "line 2, column 'spend': '1,001' seems to have a separator of thousands. Say thousands: ','",
  ),
  "a word for no label": (
    {"spend": ["k.A." if i % 7 == 0 else str(i + 0.5) for i in range(ROWS)]},
    {},
    "line 2, column 'spend': 'k.A.' is no number, as 9 of 60 labels of spend. Say ignore: .k.A.",
  ),
  "key of another kind": ({}, {"tasks": {"churn": {"unit": "m"}}}, "a binary task has no such key"),
  "mixed": ({"age": ["30"] * 59 + ["old"]}, {}, "t.csv, line 61, column 'age': 'old' is no number"),
  "infinite": ({"age": ["30", "inf"] * 30}, {}, "t.csv, line 3, column 'age': 'inf' is beyond"),
  "date": (
    {"age": ["2020-01-31"] * 59 + ["2020-02-31"]},
    {},
    "t.csv, line 61, column 'age': '2020-02-31' is no date",
  ),
  "group without value": (
    {"key": ["a", "b"] * 29 + ["a", ""]},
    {"splits": {"group": "key"}},
    "splits.group: 1 rows have no value, first .*t.csv, line 61, column 'key'",
  ),
  "one group": ({"key": ["a"] * ROWS}, {"splits": {"group": "key"}}, "the split .* has no row"),
  "unknown split": (
    {"key": ["train", "exam"] * 30},
    {"splits": {"column": "key"}},
    "t.csv, line 3, column 'key': 'exam' names no split",
  ),
  "shares": ({}, {"splits": {"train": 0.9, "test": 0.2}}, "the shares add up to 1.1"),
  "empty split": ({}, {"splits": {"train": 0.995, "test": 0.001}}, "the split .* has no row"),
  "two ways": ({}, {"splits": {"time": "age", "column": "key"}}, "time and column both say how"),
  "no file": (None, {"table": "u.csv"}, "table: there is no file .*Did you mean 't.csv'"),
  "thousands": (
    {"pay": ["1,234", "2,345"] * 30},
    {},
    "column 'pay': '1,234' seems to have a separator of thousands",
  ),
  "role": ({}, {"columns": {"age": "numeric"}}, "columns.age: must be one of number, category"),
  "excel": (None, {"table": "t.xlsx"}, "tables are read from CSV"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_clear_error(tmp_path, name):
  changed, keys, words = FAULTS[name]
  (tmp_path / "t.xlsx").touch()
  with pytest.raises(ValueError, match=words) as error:
    _open(tmp_path, _content() | (changed or {}), **keys)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "lines, words",
  [
    ("a,b,a\n1,2,3\n", "line 1: the columns 1 and 3 are both called 'a'"),
    ("a,b\n1,2\n\n3,4,5\n", "line 4: 3 fields, but the first line has 2"),
    ('a,b\n1,2\n3,"4\n5,6\n', "line 3: a quote is opened there and never closed"),
    ("a,b\n", "has no row"),
    ("", "has no row"),
    ("1.5,2\n3,4\n", "line 1: most names of columns are numbers"),
    ("a,b\n1,\0\n", "line 2: a byte of 0"),
  ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, lines, words):
  (tmp_path / "t.csv").write_text(lines)
  with pytest.raises(ValueError, match=words):
    _open(tmp_path, tasks={"a": {}})


def test_files_of_other_columns_are_refused(tmp_path):
  content = _content()
  _write(tmp_path / "a.csv", content)
  _write(tmp_path / "b.csv", {("Age" if n == "age" else n): v for n, v in content.items()})
  with pytest.raises(ValueError, match="b.csv has no column 'age', .*Did you mean 'Age'"):
    _open(tmp_path, file="*.csv")


class _Echo:
  """In place of a model: says what it is given."""

  def __init__(self, spec):
    arrays = {
      "categorical": np.zeros((2, len(spec.table.categorical)), np.int32),
      "numeric": np.zeros((2, len(spec.table.numeric)), np.float32),
    }
    self.manifest = json.loads(json.dumps({"inputs": manifest.inputs(spec, arrays)}))


def test_raw_rows_are_read_as_training_read_them(tmp_path, capsys):
  """The user's own file again: other order, more columns, gaps and unseen categories counted."""
  content = _content()
  for name in ("pay", "spend"):
    content[name] = [v.replace(".", ",") for v in content[name]]
  data = _open(tmp_path, content, missing=["-1"], write={"delimiter": ";", "encoding": "latin-1"})
  model = _Echo(data.spec)
  raw = {"more": ["1"] * ROWS, **dict(reversed(content.items()))}
  raw["age"] = ["-1" if age == "" else age for age in raw["age"]]
  _write(tmp_path / "rows.csv", raw, ";", "latin-1")
  found, _ = predict._read_table(model, tmp_path / "rows.csv")
  frame, _ = table.read_frame(
    table.table_description.parse(yaml.safe_load((tmp_path / "dataset.yaml").read_text()), "x"),
    str(tmp_path),
    (),
  )
  wanted = columns.Encoder(data.spec.table).encode(frame.columns)
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array)
  train = data.arrays("train").inputs["numeric"]
  assert {tuple(row) for row in train} <= {tuple(row) for row in found["numeric"]}
  assert (
    "7 columns that the model does not read are left out: more, right" in capsys.readouterr().out
  )
  raw["city"] = ["Bonn", *raw["city"][1:]]
  raw["pay"] = ["", *raw["pay"][1:]]
  _write(tmp_path / "rows.csv", raw, ";")
  predict._read_table(model, tmp_path / "rows.csv")
  told = capsys.readouterr().out
  assert "'city': 1 of 60 rows have categories" in told and "'pay': 1 of 60 rows" in told
  raw["pay"] = ["12,5", "cheap", *raw["pay"][2:]]
  _write(tmp_path / "rows.csv", raw, ";")
  with pytest.raises(ValueError, match="rows.csv, line 3, column 'pay': 'cheap' is no number"):
    predict._read_table(model, tmp_path / "rows.csv")
  del raw["city"]
  _write(tmp_path / "rows.csv", raw, ";")
  with pytest.raises(ValueError, match="rows.csv has no column 'city'"):
    predict._read_table(model, tmp_path / "rows.csv")


@pytest.mark.parametrize("name, module", [("table", table), ("series", series)])
def test_the_configuration_has_all_that_the_data_set_needs(name, module):
  config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
  assert config.dataset == name
  assert config.data.to_dict() == module.defaults()
  assert len(config.gates.target_rates) == sum(config.model.blocks)


def test_files_that_write_categories_in_two_ways_are_told(tmp_path):
  for split, begin, end in (("train", 0, 40), ("test", 40, ROWS)):
    part = {name: values[begin:end] for name, values in _content().items()}
    if split == "test":
      part["city"] = [f"'{city}'" for city in part["city"]]
    _write(tmp_path / f"{split}.csv", part)
  data = _open(tmp_path, table={"train": "train.csv", "test": "test.csv"})
  told = "warning: test: rows with a category that training had not, or rarely: city 20, of 20."
  assert told in data.spec.notes


def test_numbers_with_a_unit_are_told(tmp_path):
  content = _content()
  content["pay"] = [f"{i % 25} %" for i in range(ROWS)]
  notes = _all(_open(tmp_path, content))[1]
  assert "the texts of column 'pay', as '0 %'" in notes and "line 2" in notes


@pytest.mark.parametrize("decimal, part", [(",", "."), (",", " "), (".", ","), (".", "'")])
def test_thousands_are_found_where_decimals_tell(tmp_path, decimal, part):
  content = _content()
  plain = _open(tmp_path, content | {"pay": [f"{1000 + i * i}.25" for i in range(ROWS)]})
  for name in ("pay", "spend"):
    numbers = [1000 + i * i + 0.25 for i in range(ROWS)] if name == "pay" else content[name]
    texts = [f"{float(number):_.2f}" for number in numbers]
    content[name] = [t.replace(".", decimal).replace("_", part) for t in texts]
  data = _open(tmp_path, content, write={"delimiter": ";"})
  assert (data.spec.table.decimal, data.spec.table.thousands) == (decimal, part)
  assert f"thousands are parted by {part!r}." in data.spec.notes
  for split in types.SPLITS:
    one, other = plain.arrays(split), data.arrays(split)
    np.testing.assert_array_equal(one.inputs["numeric"], other.inputs["numeric"])
    np.testing.assert_array_equal(one.targets["spend"], other.targets["spend"])


def test_a_file_without_a_line_of_names(tmp_path):
  """Read with names that are said, in training and later; later rows may have a line of names."""
  content = _content()
  rows = ["|".join(row) for row in zip(*content.values(), strict=True)]
  (tmp_path / "t.csv").write_text("\n".join(rows), encoding="cp1250")
  keys = {"names": list(content), "encoding": "cp1250", "delimiter": "|"}
  data = _open(tmp_path, **keys)
  assert sum(data.spec.sizes.values()) == ROWS and data.spec.table.layout[1] == "cp1250"
  model = _Echo(data.spec)
  bare, _ = predict._read_table(model, tmp_path / "t.csv")
  _write(tmp_path / "named.csv", dict(reversed(content.items())), "|", "cp1250")
  named, _ = predict._read_table(model, tmp_path / "named.csv")
  for name, array in bare.items():
    assert len(array) == ROWS
    np.testing.assert_array_equal(array, named[name])
  assert data.spec.table.values[-1][1:] == ("Köln", "Ulm")


def test_a_finished_run_knows_its_columns(tmp_path):
  data = _open(tmp_path, _content(), missing=["-1"])
  workdir.write_spec(tmp_path, data.spec)
  assert workdir.read_spec(tmp_path) == data.spec
