"""Labels of whole pictures in the columns of a table."""

from __future__ import annotations

import csv
import importlib
import io
import pickle

import ml_collections
import numpy as np
from PIL import Image
import pytest
import yaml

from dynashare_jax import types
from dynashare_jax.data.folder import dataset as folder
from dynashare_jax.data.pictures import store_writer

SIZE = (4, 6)
SWITCHES = ml_collections.ConfigDict({"selection": "validation", **folder.compat()})
CSV = """file,smiling,animal,hat,tie,age,part
a.jpg,1,cat,yes,no,31.5,train
b.png,-1,dog,no,,40,train
c,,cat,yes,no,,train
more/d.png,1,,no,no,20,train
e.png,-1,dog,yes,no,30,val
f.png,1,cat,no,yes,50,test
"""
TASKS = {
  "smiling": {"kind": "binary"},
  "animal": {"kind": "multiclass"},
  "worn": {"kind": "multilabel", "columns": ["hat", "tie"]},
  "age": {"kind": "number", "unit": "years"},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """Six pictures; a and f have depth."""
  root = tmp_path_factory.mktemp("pictures")
  for i, name in enumerate(("a", "b", "c", "more/d", "e", "f")):
    path = root / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), 10 * i, np.uint8)).save(path)
  (root / "depth").mkdir()
  for name in ("a", "f"):
    Image.fromarray(np.full(SIZE, 2500, np.uint16)).save(root / "depth" / f"{name}.png")
  return root


@pytest.fixture
def build(pictures, tmp_path):
  """Builds from a description with a table, in another folder than the pictures."""

  def make(text=CSV, tasks=TASKS, file="labels.csv", data=(), **values):
    if isinstance(text, str):
      (tmp_path / file).write_text(text, encoding="utf-8")
    described = {
      "root": str(pictures),
      "pictures": "images",
      "table": str(tmp_path / file),
      "tasks": tasks,
      "splits": {"column": "part"},
      **values,
    }
    described = {key: value for key, value in described.items() if value is not None}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    config = ml_collections.ConfigDict({**folder.defaults(), **dict(data)})
    return folder.build(config, SWITCHES, str(tmp_path), 0)

  return make


def _labels(dataset, task, split="train"):
  whole = dataset.arrays(split)
  return whole.targets[task].tolist(), whole.valid[task].tolist()


def test_cells_become_labels(build):
  """An ending that differs, none, a path; an empty cell is no label."""
  dataset = build(tasks={**TASKS, "depth": {"kind": "depth", "labels": "depth", "scale": 0.001}})
  assert dataset.spec.sizes == {"train": 4, "validation": 1, "test": 1}
  assert dataset.source("train").keys == ("a", "b", "c", "more/d")
  specs = {t.name: (t.kind, t.outputs, t.classes, t.unit) for t in dataset.spec.tasks}
  assert specs == {
    "smiling": ("binary", 1, ("no", "yes"), ""),
    "animal": ("multiclass", 2, ("cat", "dog"), ""),
    "worn": ("multilabel", 2, ("hat", "tie"), ""),
    "age": ("number", 1, (), "years"),
    "depth": ("depth", 1, (), "m"),
  }
  assert _labels(dataset, "smiling") == ([1, 0, 0, 1], [True, True, False, True])
  assert _labels(dataset, "animal") == ([0, 1, 0, 0], [True, True, True, False])
  assert _labels(dataset, "worn") == (
    [[1, 0], [0, 0], [1, 0], [0, 0]],
    [[True, True], [True, False], [True, True], [True, True]],
  )
  assert _labels(dataset, "age") == ([31.5, 40, 0, 20], [True, True, False, True])
  assert dataset.arrays("train").valid["depth"].all((1, 2)).tolist() == [True, False, False, False]
  types_of = {t: a.dtype for t, a in dataset.arrays("train").targets.items()}
  assert types_of["smiling"] == types_of["worn"] == np.int32 and types_of["age"] == np.float32
  age = dataset.spec.tasks[3]
  np.testing.assert_allclose([age.center, age.spread], [[30.5], [np.std([31.5, 40, 20])]])
  note, _ = (note for note in dataset.spec.notes if "warning" in note)  # and f alone has a tie
  assert note.endswith("tasks.worn: column 'tie' is 'no' for all of train: nothing can be learnt")
  folder.check(dataset)
  source = pickle.loads(pickle.dumps(dataset.source("train")))
  assert source[3].targets["age"] == 20


def test_augmentation_leaves_them(build):
  data = {"crop": (3, 3), "scales": (1.0, 1.5), "mirror": True}
  dataset = build(tasks={**TASKS, "depth": {"kind": "depth", "labels": "depth"}}, data=data)
  example = dataset.source("train")[0]
  draws = dataset.augment.draw(0, "s", np.arange(8))
  assert 0 < draws.mirror.sum() < 8
  for place in range(8):
    varied = dataset.augment.example(example, dataset.augment.draw(0, "s", np.asarray(place)))
    assert varied.inputs.shape == (3, 3, 3) and varied.targets["depth"].shape == (3, 3)
    for task in TASKS:
      np.testing.assert_array_equal(varied.targets[task], example.targets[task])
      np.testing.assert_array_equal(varied.valid[task], example.valid[task])


def test_the_same_from_any_separator_file_and_copy(build, tmp_path):
  want = build()
  rows = list(csv.reader(io.StringIO(CSV)))
  forms = {mark: "".join(mark.join(row) + "\r\n" for row in rows) for mark in ";\t|"}
  forms["quoted"] = "\ufeff" + "".join(",".join(f'" {c} "' for c in row) + "\n\n" for row in rows)
  forms["floats"] = CSV.replace(",1,", ",1.0,").replace(",-1,", ",-1.00,")
  forms["returns"] = CSV.replace("\n", "\r")
  columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
  arrow = importlib.import_module("pyarrow")
  number = lambda cells: [float(c) if c else None for c in cells]
  columns |= {name: number(columns[name]) for name in ("smiling", "age")}
  columns["hat"] = [c == "yes" for c in columns["hat"]]
  importlib.import_module("pyarrow.parquet").write_table(
    arrow.table(columns), tmp_path / "labels.parquet"
  )
  store_writer.convert(
    folder.original(ml_collections.ConfigDict(folder.defaults()), SWITCHES, str(tmp_path)),
    "folder",
    str(tmp_path / "copy"),
  )
  config = ml_collections.ConfigDict(folder.defaults())
  others = [build(text) for text in forms.values()]
  others += [build(None, file="labels.parquet")]
  others += [folder.build(config, SWITCHES, str(tmp_path / "copy"), 0)]
  for got in others:
    assert got.spec.tasks == want.spec.tasks
    for split in types.SPLITS:
      for one, other in zip(got.arrays(split)[1:3], want.arrays(split)[1:3], strict=True):
        for task in TASKS:
          np.testing.assert_array_equal(one[task], other[task])
          assert one[task].dtype == other[task].dtype


@pytest.mark.parametrize(
  "cells, kind, classes",
  [
    (["0", "1", "1", "0", "", "1"], "binary", ("no", "yes")),
    (["TRUE", "False", "true", "", "true", "false"], "binary", ("no", "yes")),
    (["3", "1", "2", "10", "2", "3.0"], "multiclass", ("1", "2", "3", "10")),
    (["b", "a", "b", "a", "c", "c"], "multiclass", ("a", "b", "c")),
    (["0.5", "1", "7", "2", "1", "3"], "number", ()),
  ],
)
def test_the_kind_is_told_by_the_cells(build, cells, kind, classes):
  lines = CSV.splitlines()
  text = "\n".join(f"{line},{cell}" for line, cell in zip(lines, ["x", *cells], strict=True))
  dataset = build(text, {"x": {"column": "x"}})
  (task,) = dataset.spec.tasks
  assert (task.kind, task.classes) == (kind, classes)
  assert any(n.startswith(f"task x: {kind} (inferred: ") for n in dataset.spec.notes)


def test_classes_and_maps_are_given(build):
  listed = {"kind": "multiclass", "column": "animal", "classes": ["dog", "cat", "cow"]}
  mapped = {"kind": "multiclass", "column": "smiling", "map": {-1: "sad", 1: "glad"}}
  answers = {"kind": "binary", "column": "animal", "classes": ["dog", "cat"]}
  worn = {"kind": "binary", "column": "hat", "map": {True: 0, False: 1}}  # YAML's yes and no
  few = {"kind": "multiclass", "column": "animal", "map": {"cat": 1}, "classes": 2}
  few |= {"unmapped": "ignore"}
  rest = {"kind": "number", "column": "age", "ignore": [40], "range": [25, 100], "weight": 2}
  tasks = {"listed": listed, "mapped": mapped, "answers": answers, "few": few, "rest": rest}
  dataset = build(tasks={**tasks, "worn": worn})
  found = {task: _labels(dataset, task) for task in (*tasks, "worn")}
  assert found["listed"] == ([1, 0, 1, 0], [True, True, True, False])
  assert found["mapped"][0] == [1, 0, 0, 1]
  assert found["answers"] == found["listed"]
  assert found["few"] == ([1, 0, 1, 0], [True, False, True, False])
  assert found["rest"] == ([31.5, 0, 0, 0], [True, False, False, False])
  assert found["worn"][0] == [0, 1, 0, 1]
  specs = {t.name: t for t in dataset.spec.tasks}
  assert specs["mapped"].classes == ("sad", "glad") and specs["answers"].classes == ("dog", "cat")
  assert specs["listed"].outputs == 3 and specs["rest"].weight == 2


def test_several_tables_and_a_key(build, tmp_path):
  (tmp_path / "other.csv").write_text("n,picture,z\n0,images/a,1\n1,images/f.png,0\n")
  (tmp_path / "first.csv").write_text("n,picture,part\n0,a,0\n1,b.png,0\n2,x/images/f.png,2\n")
  files = [str(tmp_path / name) for name in ("other.csv", "first.csv")]
  dataset = build(
    None,
    {"z": {"kind": "binary", "classes": ["bad", "good"]}},
    table={"file": files, "key": "picture"},
    splits={"column": "part", "train": 0, "validation": 1, "test": [2, 3]},
    data={"validation_share": 0.5},
  )
  assert dataset.spec.sizes == {"train": 1, "validation": 1, "test": 1}
  assert _labels(dataset, "z", "test") == ([0], [True])
  notes = [note for note in dataset.spec.notes if "warning" in note]
  assert any("4 of 6 pictures have no row in" in n and "first 'b'" in n for n in notes)
  assert any("puts 3 of 6 pictures in no split" in n for n in notes)


def test_files_of_a_pattern_are_one_table(build, tmp_path):
  head, *lines = CSV.splitlines(keepends=True)
  for number, part in enumerate((lines[:2], lines[2:])):
    (tmp_path / f"part-{number}.csv").write_text("".join([head, *part]))
  wanted, found = build(), build(None, table=str(tmp_path / "part-*.csv"))
  for task in TASKS:
    assert _labels(found, task, "train") == _labels(wanted, task, "train")
  assert not any("have no row" in note for note in found.spec.notes)


def _changed(old, new):
  assert CSV.count(old) == 1, old
  return CSV.replace(old, new)


@pytest.mark.parametrize(
  "text, message",
  [
    ("file,smiling\n", "labels.csv has no row below its header"),
    (
      _changed("b.png,-1,dog", "b.png,-1"),
      "labels.csv, line 3: 6 fields, but the first line has 7",
    ),
    (
      _changed("cat,yes,no,31.5", 'cat,yes,no,"31.5'),
      "labels.csv, line 2: a quote is opened there",
    ),
    (_changed("b.png", "images/a"), "the picture 'a' has two rows, in lines 2 and 3. Keep one"),
    (_changed("hat,tie", "hat,hat"), r"tasks.worn: the column 'hat' stands twice in .*labels.csv"),
    (_changed("smiling", "smilin"), "tasks.smiling: .* no column 'smiling'. Did you mean 'smilin'"),
    (
      _changed("c,,cat", "c,0,cat"),
      "line 3, column 'smiling': '-1' beside '1' .*line 2, .* is no answer",
    ),
    (
      _changed("c,,cat", "c,maybe,cat"),
      "line 4, column 'smiling': 'maybe' beside .* tasks.smiling.ig",
    ),
    (_changed("31.5", '"31,5"'), "line 2, column 'age': '31,5' is no number of 32 bits"),
    (_changed("31.5", "1e39"), "line 2, column 'age': '1e39' is no number of 32 bits"),
    (
      CSV.replace("dog", "cat"),
      "tasks.animal: column 'animal' has one value, 'cat': there is nothing",
    ),
    (
      CSV.replace(".png", ".x"),
      "table: 4 of the 6 rows .* name no picture, first 'b.x' .line 3, c",
    ),
    (
      "".join(f"{i},{line}\n" for i, line in enumerate(CSV.splitlines())),
      "6 of the 6 rows .*, first '1' .*The first picture is 'a'. The column 'file' does: say .*key",
    ),
    (CSV.replace("test", "tst"), "splits.test: no row of column 'part' .* says 'test'; they say"),
  ],
)
def test_a_wrong_table_is_refused(build, text, message):
  with pytest.raises(ValueError, match=message):
    build(text)


@pytest.mark.parametrize(
  "cell, told",
  [
    ("?", "is the class '?' no label? Then add it to "),
    ("Dog", "the class 'Dog' and 'dog' differ in capitals"),
    ("7", "the class '7' is one of 1 among 3, of which the others are texts"),
  ],
)
def test_classes_that_look_wrong_are_told(build, cell, told):
  text = _changed("e.png,-1,dog", f"e.png,-1,{cell}")
  want = f"labels.csv, line 6, column 'animal': {told}"
  assert any(n.startswith("warning: ") and want in n for n in build(text).spec.notes)
  listed = {"kind": "multiclass", "column": "animal", "classes": ["cat", "dog", cell]}
  assert not any(told in note for note in build(text, {"x": listed}).spec.notes)


@pytest.mark.parametrize(
  "tasks, message",
  [
    ({"a-b": {"kind": "binary"}}, "tasks.a-b: a task's name has letters, digits and _"),
    (
      {"x": {"kind": "binry"}},
      "x.kind: must be one of .*binary.*, but is 'binry'. Did you mean 'bin",
    ),
    (
      {"x": {"kind": "regression", "column": "age"}},
      "one of binary, multiclass, multilabel, number",
    ),
    ({"x": {"kind": "binary", "labels": "y"}}, "x.labels is unknown for a binary task. Known are"),
    ({"x": {"kind": "binary", "columns": ["hat", "tie"]}}, "a binary task has one column, not 2"),
    ({"x": {"columns": ["hat", "hat"]}}, "x.columns: names a column twice"),
    (
      {"x": {"kind": "multiclass", "classes": [False, True]}},
      "YAML reads yes and no as true and f",
    ),
    (
      {"hat": {"kind": "binary", "map": {"yes": 2, "no": 0}, "classes": 2}},
      "map.yes: must be a class",
    ),
    (
      {"animal": {"kind": "multiclass", "classes": ["cat", "dig"]}},
      "line 3, .*'dog' is none of the cl",
    ),
    ({"age": {"kind": "number", "spread": 0}}, "age.spread: must be above 0, but is 0"),
    ({"part": {"kind": "number"}}, "line 2, column 'part': 'train' is no number of 32 bits"),
    (
      {"x": {"columns": ["age", "animal"]}},
      "column 'animal': 'cat' is no number. Say with .*x.kind",
    ),
  ],
)
def test_wrong_tasks_are_refused(build, tasks, message):
  with pytest.raises(ValueError, match=message):
    build(tasks=tasks)


def test_what_needs_a_table_says_so(build):
  with pytest.raises(ValueError, match="tasks.smiling: needs labels, or table: the file with its"):
    build(table=None, splits={"train": 0.5, "test": 0.5})
  with pytest.raises(ValueError, match="table: there is no file .*no.csv"):
    build(table="no.csv")


def test_a_name_that_fits_two_pictures_is_refused(build, pictures, tmp_path):
  (tmp_path / "more").mkdir()
  for place in ("x/1.png", "y/1.png", "y/2.png"):
    (tmp_path / "more" / place).parent.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "more" / place)
  values = {"root": str(tmp_path), "pictures": "more", "tasks": {"s": {"kind": "binary"}}}
  text = "file,s,part\n2,1,test\ny/1,0,train\nx/1,1,train\n"
  values["data"] = {"validation_share": 0.5}
  assert build(text, **values).source("test").keys == ("y/2",)
  with pytest.raises(ValueError, match=r"line 5, column 'file': '1\.png' may be 'x/1' or 'y/1'"):
    build(f"{text}1.png,0,train\n", **values)


def test_labels_that_teach_nothing_are_counted(build):
  rows = CSV.replace(",-1,", ",1,").replace("e.png,1,dog", "e.png,-1,cow")
  notes = build(rows).spec.notes
  for want in (
    "tasks.smiling: column 'smiling' is 'yes' for all of train: nothing can be learnt",
    "tasks.smiling: 1 labels of validation have a class that train never shows, first 'no' ('e')",
    "tasks.animal: 1 labels of validation have a class that train never shows, first 'cow' ('e')",
  ):
    assert any(note.startswith("warning: ") and want in note for note in notes), want
  empty = CSV.replace("f.png,1,", "f.png,,")
  with pytest.raises(ValueError, match="tasks.smiling: none of the 1 examples in test has a label"):
    folder.check(build(empty))
  none = CSV.replace(",1,", ",,").replace(",-1,", ",,")
  with pytest.raises(
    ValueError, match="tasks.smiling: column 'smiling' has no value, and so no label"
  ):
    build(none)
