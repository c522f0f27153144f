"""Arrays, columns and frames as data sets."""

from __future__ import annotations

import dataclasses
import datetime
import warnings

import numpy as np
import pandas as pd
import pytest

import dynashare_jax as ds
from dynashare_jax.library import data as data_lib

RNG = np.random.default_rng(0)
ROWS = 40
TABLE = RNG.normal(size=(ROWS, 3)).astype(np.float32)
LABELS = {"a": (TABLE[:, 0] > 0), "b": 100 + 10 * TABLE[:, 1]}


def _equal(one, other):
  for split in ("train", "validation", "test"):
    first, second = one.dataset.arrays(split), other.dataset.arrays(split)
    for name in first.inputs:
      np.testing.assert_array_equal(first.inputs[name], second.inputs[name])
    for name in first.targets:
      np.testing.assert_array_equal(first.targets[name], second.targets[name])
      np.testing.assert_array_equal(first.valid[name], second.valid[name])


def test_columns_frames_and_arrays_are_the_same_data():
  plain = ds.arrays(TABLE, LABELS)
  named = {f"x{i}": TABLE[:, i] for i in range(3)}
  _equal(plain, ds.arrays(named, LABELS))
  _equal(plain, ds.arrays(pd.DataFrame(named), pd.DataFrame(LABELS)))
  assert plain.fingerprint == ds.arrays(pd.DataFrame(named), LABELS).fingerprint
  assert plain.dataset.spec.sizes == {"train": 32, "validation": 4, "test": 4}
  assert [task.kind for task in plain.tasks] == ["binary", "number"]
  other = ds.arrays(TABLE, LABELS, seed=1)
  assert other.fingerprint != plain.fingerprint
  assert "a (binary)" in repr(plain) and "split at random" in repr(plain)


def test_frames_of_other_makers_are_the_same_data():
  """Gaps, dates, categories and lists of labels, from polars (lazy, too) and Arrow."""
  polars = pytest.importorskip("polars")
  columns = {
    "n": [None if i % 7 == 0 else TABLE[i, 0].item() for i in range(ROWS)],
    "whole": [None if i % 9 == 0 else i * i % 31 for i in range(ROWS)],
    "day": [datetime.date(2024, 1, 1 + i * i % 28) for i in range(ROWS)],
    "town": [None if i % 11 == 0 else "abc"[i % 3] for i in range(ROWS)],
    "flag": [None if i % 13 == 0 else i % 2 == 0 for i in range(ROWS)],
  }
  frame = polars.DataFrame(columns).with_columns(polars.col("town").cast(polars.Categorical))
  labels = {"a": [None if i % 5 == 0 else i % 2 == 0 for i in range(ROWS)], "b": columns["n"]}
  labels |= {"two": [[i % 2, i // 2 % 2] for i in range(ROWS)]}
  told = polars.DataFrame(labels)
  wanted = ds.arrays(columns, labels)
  assert [task.kind for task in wanted.tasks] == ["binary", "number", "multilabel"]
  others = [(frame, told), (frame.lazy(), told.lazy()), (frame.to_arrow(), told.to_arrow())]
  for inputs, targets in [*others, (pd.DataFrame(columns), pd.DataFrame(labels))]:
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      found = ds.arrays(inputs, targets)
    _equal(wanted, found)
    assert found.tasks == wanted.tasks and found.fingerprint == wanted.fingerprint
  first = data_lib.encode_inputs(wanted.dataset.spec, frame[:3])
  every = data_lib.encode_inputs(wanted.dataset.spec, columns)
  for name, array in first.items():
    np.testing.assert_array_equal(array, every[name][:3])


def test_missing_labels_are_those_of_a_mask():
  known = RNG.random(ROWS) > 0.3
  known[:4] = True
  holes = {"b": np.where(known, LABELS["b"], np.nan)}
  _equal(
    ds.arrays(TABLE, holes),
    ds.arrays(TABLE, {"b": np.where(known, LABELS["b"], 0.0)}, {"b": known}),
  )
  texts = {"c": pd.Series(np.where(LABELS["a"], "yes", "no"), dtype="string").where(known)}
  made = ds.arrays(TABLE, texts)
  objects = np.where(known, np.where(LABELS["a"], "yes", "no").astype(object), np.nan)
  for given in (made, ds.arrays(TABLE, {"c": objects}), ds.arrays(TABLE, {"c": list(objects)})):
    assert given.tasks[0].classes == ("no", "yes")
    whole = np.concatenate([given.dataset.arrays(s).valid["c"] for s in given.rows])
    np.testing.assert_array_equal(whole, known[np.concatenate(list(given.rows.values()))])


def test_splits_by_name_by_rows_and_by_group():
  names = np.repeat(["train", "validation", "test"], [20, 10, 10])
  named = ds.arrays(TABLE, LABELS, split=names)
  rows = {"train": names == "train", "validation": range(20, 30), "test": range(39, 29, -1)}
  given = ds.arrays(TABLE, LABELS, split=rows)
  _equal(named, given)
  np.testing.assert_array_equal(named.dataset.arrays("test").targets["b"], LABELS["b"][30:])
  groups = np.arange(ROWS) // 4
  parted = ds.arrays(TABLE, LABELS, split=(0.6, 0.2, 0.2), groups=groups)
  found = [set(groups[rows]) for rows in parted.rows.values()]
  assert [len(group) for group in found] == [6, 2, 2] and not found[0] & found[1] | found[
    2
  ] & found[0]


def test_tasks_by_name_and_a_column_alone():
  frame = pd.DataFrame(LABELS)
  one = ds.arrays(TABLE, frame["b"])
  _equal(one, ds.arrays(TABLE, {"b": LABELS["b"]}))
  both = ds.arrays(TABLE, frame, tasks=[ds.regression("b", unit="m"), "a"])
  assert [(task.name, task.kind, task.unit) for task in both.tasks] == [
    ("b", "number", "m"),
    ("a", "binary", ""),
  ]
  assert "task a: binary (inferred: two values)" in repr(both) and "task b:" not in repr(both)


def test_labels_that_no_task_names_are_told():
  (name, *others), note = LABELS, "warning: labels that no task names are left out: "
  data = ds.arrays(TABLE, LABELS, tasks=[ds.arrays(TABLE, {name: LABELS[name]}).tasks[0]])
  assert [task.name for task in data.tasks] == [name]
  assert note + ", ".join(others) in data.notes
  assert not [line for line in ds.arrays(TABLE, LABELS).notes if line.startswith(note)]


def test_other_rows_are_read_as_training_was():
  frame = pd.DataFrame({"n": np.arange(ROWS), "c": list("abcd") * (ROWS // 4)})
  kinds = {"k": np.array(["red", "blue", "red", "green"] * (ROWS // 4), object)}
  data = ds.arrays(frame, kinds)
  new = ds.arrays(
    pd.DataFrame({"c": ["a", "d"] * 5, "n": np.arange(10.0), "more": range(10)}),
    {"k": ["green", "red"] * 5},
    tasks=[ds.multiclass("k", ["green", "red"])],
  )
  spec = data.dataset.spec
  read = new.encoded(spec).arrays("train")
  names = [spec.tasks[0].classes[i] for i in read.targets["k"]]
  wanted = np.array(["green", "red"] * 5)[new.rows["train"]]
  assert names == wanted.tolist()
  codes = dict(zip(spec.table.categorical, read.inputs["categorical"].T, strict=True))["c"]
  known = spec.table.values[spec.table.categorical.index("c")]
  assert [known[code - 1] for code in codes] == np.array(["a", "d"] * 5)[new.rows["train"]].tolist()
  with pytest.warns(UserWarning, match="1 of 2 rows have categories"):
    data_lib.encode_inputs(spec, {"n": [1, 2], "c": ["a", "new"]})
  with pytest.raises(ValueError, match="no labels of k"):
    ds.arrays(frame, {"j": kinds["k"]}).encoded(spec)


@pytest.mark.parametrize(
  ("trained", "new", "wanted"),
  [
    ([1, 2, 3], [1, 2, 1], [0, 1, 0]),  # names, of which some are places of others
    (["1", "2", "3"], ["2", "1", "2"], [1, 0, 1]),
    ([0, 1, 2], [0, 2, 0], [0, 2, 0]),
    ([1, 2, 1], [1, 1, 1], [0, 0, 0]),
    ([0, 1, 2], [2, 3, 2], "not those that the network knows"),
    ([1, 2, 3], [1, 4, 1], "'4' is none of the classes"),
  ],
)
def test_labels_of_other_rows_are_the_classes_of_training(trained, new, wanted):
  """Places would shift them by one, or number them anew."""
  many = lambda labels: {"k": np.array(labels)[np.arange(ROWS) % 3]}
  rows = {"n": np.arange(ROWS)}
  data, other = ds.arrays(rows, many(trained)), ds.arrays(rows, many([7, 8, 9]))
  other = dataclasses.replace(other, targets=many(new))
  if isinstance(wanted, str):
    with pytest.raises(ValueError, match=wanted):
      other.encoded(data.dataset.spec)
    return
  read = other.encoded(data.dataset.spec).arrays("train").targets["k"]
  assert read.tolist() == many(wanted)["k"][other.rows["train"]].tolist()


def test_pictures_and_series():
  pictures = RNG.integers(0, 256, (ROWS, 4, 4, 3), np.uint8)
  data = ds.arrays(pictures, {"a": LABELS["a"]})
  assert data.dataset.spec.input_kind == "image"
  found = data.dataset.arrays("train").inputs
  np.testing.assert_array_equal(found, (pictures / np.float32(255))[data.rows["train"]])
  series = RNG.normal(size=(ROWS, 5, 2))
  lengths = RNG.integers(1, 6, ROWS)
  made = ds.arrays(series, {"a": LABELS["a"]}, length=lengths).dataset
  assert made.spec.lengths and made.spec.input_shape == (5, 2)
  assert made.arrays("test").inputs["length"].dtype == np.int32


FRAME = pd.DataFrame(TABLE, columns=["x", "y", "z"])


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    ((TABLE, {}), "no targets"),
    ((TABLE, {"a": LABELS["a"][:-1]}), r"'a' have the shape \(39,\), but there are 40"),
    ((TABLE, LABELS["a"]), "dict or a frame"),
    ((TABLE[:, 0], LABELS), "a table .N, columns."),
    ((pd.DataFrame(TABLE, columns=["x", "x", "y"]), LABELS), "column 'x' twice"),
    (({"x": TABLE[:, 0], "y": TABLE[1:, 1]}, LABELS), "of one length"),
    ((TABLE, {"a": np.ones(ROWS)}), "nothing to learn"),
    ((TABLE, {"two words": LABELS["a"]}), "cannot be called"),
    ((np.zeros((ROWS, 4, 4), np.uint8), LABELS), r"inputs\[..., None\]"),
    ((RNG.normal(size=(ROWS, 4, 4, 3)), LABELS), "divide them"),
    ((np.full((ROWS, 4, 4, 3), np.nan), LABELS), "finite numbers"),
    ((np.zeros((ROWS, 4, 4, 3), np.uint16), LABELS), "uint16"),
    (({"x": ["n.a.", *map(str, TABLE[1:, 0])]}, LABELS), "'n.a.'.*from Python give None"),
  ],
)
def test_data_that_cannot_be(arguments, told):
  with pytest.raises(ValueError, match=told):
    ds.arrays(*arguments)


@pytest.mark.parametrize(
  ("options", "told"),
  [
    ({"split": (0.5, 0.5, 0.5)}, "sum to 1"),
    ({"split": ["train"] * ROWS}, "'validation' has no rows"),
    ({"split": ["trian"] * ROWS}, "mean 'train'"),
    ({"split": {"train": range(30), "validation": [30], "test": [30]}}, "two splits"),
    ({"split": {"train": range(30), "validation": [30], "test": [99]}}, "outside 0 to 39"),
    ({"groups": [None] * ROWS}, "groups must have a value"),
    ({"tasks": [ds.binary("c")]}, "'c'; it must be one of a, b"),
    ({"tasks": [ds.binary("a"), ds.binary("a")]}, "each once"),
    ({"tasks": [ds.binary("b")]}, "column 'b' has 40 values"),
    ({"valid": {"c": [True] * ROWS}}, "A name in valid is 'c'"),
    ({"valid": {"a": [True]}}, r"valid\['a'\] has the shape"),
    ({"valid": {"a": [False] * ROWS}}, "no label at all"),
    ({"length": [5] * ROWS}, "length is"),
  ],
)
def test_options_that_cannot_be(options, told):
  with pytest.raises(ValueError, match=told):
    ds.arrays(TABLE, LABELS, **options)
