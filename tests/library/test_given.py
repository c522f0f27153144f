"""Arrays as callers hand them over: what is missing stays so, what cannot be meant is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import dynashare_jax as ds
from dynashare_jax.library import data as data_lib
from dynashare_jax.library import given

N = 60
RNG = np.random.default_rng(0)
TABLE = {"age": RNG.integers(18, 90, N), "pay": RNG.gamma(2, 900, N)}
ANSWERS = RNG.integers(0, 2, N)
SPEND = RNG.normal(50, 9, N)
PICTURES = RNG.random((N, 6, 8, 3))
MASK = np.arange(N) % 2 == 0


def _known(data):
  parts = [data.dataset.arrays(split).valid for split in data.rows]
  return sum(int(part["y"].sum()) for part in parts)


@pytest.mark.parametrize(
  "labels, known",
  [
    (np.ma.masked_array(SPEND, MASK), N // 2),
    (np.ma.masked_array(ANSWERS, MASK), N // 2),
    (["yes", float("nan"), "no"] * (N // 3), 2 * N // 3),
    (["yes", None, "no"] * (N // 3), 2 * N // 3),
  ],
)
def test_what_is_masked_or_nan_is_no_label(labels, known):
  data = ds.arrays(TABLE, {"y": labels})
  assert _known(data) == known
  assert "nan" not in data.tasks[0].classes


@pytest.mark.parametrize(
  "values, filled",
  [
    (np.ma.masked_array([1.5, 2.5], [True, False]), [None, 2.5]),
    (np.ma.masked_array([1, 2], [False, True]), [1, None]),
    (np.ma.masked_array(["a", "b"], [True, False]), [None, "b"]),
    (np.ma.masked_array([1, 2]), [1, 2]),
  ],
)
def test_masked_values_are_missing(values, filled):
  found = [None if v is None or v != v else v for v in given.array(values, "x").tolist()]
  assert found == filled
  ids = np.ma.masked_array(np.ones((1, 1, 2), np.uint8), [[[True, False]]])
  assert given.array(ids, "x").tolist() == [[[-1, 1]]]


def _frame():
  return pd.DataFrame(TABLE)


REFUSED = {
  "channels first": (np.zeros((N, 3, 16, 16)), {"y": ANSWERS}, {}, "channels seem to come first"),
  "own label": (TABLE | {"y": ANSWERS}, {"y": ANSWERS}, {}, "have the labels of 'y', too"),
  "order": (
    _frame(),
    pd.DataFrame({"y": ANSWERS}).sample(frac=1, random_state=1),
    {},
    "have another order than those of the inputs",
  ),
  "two names": ({1: SPEND, "1": SPEND}, {"y": ANSWERS}, {}, "Two columns are called '1'"),
  "ragged": (
    {"a": [[1], [1, 2]] * (N // 2)},
    {"y": ANSWERS},
    {},
    "column 'a': the rows have several",
  ),
  "scalar": ({"a": 3}, {"y": ANSWERS}, {}, "'a' of the inputs has one value, not a column"),
  "void": (
    PICTURES,
    {"y": np.where(PICTURES[..., 0] < 0.1, 255, 3).astype(np.uint8)},
    {},
    "ids up to 3, and 255",
  ),
  "other size": (
    PICTURES,
    {"y": np.arange(N * 12).reshape(N, 3, 4) % 3},
    {},
    "must have \\(60, 6, 8\\)",
  ),
  "on a table": (TABLE, {"y": np.arange(N * 48).reshape(N, 6, 8) % 3}, {}, "are no pictures"),
  "no ids": (
    PICTURES,
    {"y": PICTURES[..., 0] * 3},
    {"tasks": [ds.segmentation("y", 4)]},
    "no whole",
  ),
  "normals first": (
    PICTURES,
    {"y": np.moveaxis(PICTURES, -1, 1)},
    {"tasks": [ds.normals("y")]},
    "Its channels come first",
  ),
  "normals of bytes": (
    PICTURES,
    {"y": (255 * PICTURES).astype(np.uint8)},
    {"tasks": [ds.normals("y")]},
    "of bytes 2 \\* labels / 255 - 1",
  ),
  "long": (np.zeros((N, 5, 2)), {"y": ANSWERS}, {"length": np.full(N, 6)}, "from 1 to the 5 steps"),
  "negative": (np.zeros((N, 5, 2)), {"y": ANSWERS}, {"length": np.full(N, -1)}, "from 1 to the 5"),
  "part": (np.zeros((N, 5, 2)), {"y": ANSWERS}, {"length": np.full(N, 2.5)}, "whole numbers"),
  "mask of texts": (TABLE, {"y": SPEND}, {"valid": {"y": ["False"] * N}}, "must be true or false"),
  "mask of NaN": (
    TABLE,
    {"y": SPEND},
    {"valid": {"y": np.full(N, np.nan)}},
    "must be true or false",
  ),
  "rows of floats": (
    TABLE,
    {"y": SPEND},
    {"split": {"train": np.arange(40) + 0.5, "validation": [45], "test": [50]}},
    "must be numbers of rows or a mask",
  ),
  "row twice": (
    TABLE,
    {"y": SPEND},
    {"split": {"train": [1, 1, 2, 3], "validation": [45], "test": [50]}},
    "split\\['train'\\] has row 1 twice",
  ),
  "short mask": (
    TABLE,
    {"y": SPEND},
    {"split": {"train": np.ones(9, bool), "validation": [45], "test": [50]}},
    "is a mask \\(9,\\); there are 60 rows",
  ),
  "two shares": (TABLE, {"y": SPEND}, {"split": (0.8, 0.2)}, "it must have three"),
  "group in two": (
    TABLE,
    {"y": SPEND},
    {"groups": np.arange(N) // 2, "split": ["train", "validation", "test"] * (N // 3)},
    "rows 0 and 1 are of one group",
  ),
  "durations": (TABLE, {"y": np.arange(N) * np.timedelta64(1, "h")}, {}, "are durations"),
  "no dict": (TABLE, {"y": SPEND}, {"valid": MASK}, "valid is a dict of task -> mask"),
  "seed": (TABLE, {"y": SPEND}, {"seed": -1}, "seed must be a whole number"),
  "zones": (
    {"t": [pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-01-02")] * (N // 2)},
    {"y": ANSWERS},
    {},
    "row 2: this time names no zone",
  ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused(name):
  inputs, targets, options, words = REFUSED[name]
  with pytest.raises(ValueError, match=words):
    ds.arrays(inputs, targets, **options)


NOTED = {
  "dark": (PICTURES / 255, {"y": ANSWERS}, "divided by 255 twice"),
  "one yes": (TABLE, {"y": np.eye(3)[np.arange(N) % 3]}, "exclude one another"),
  "twin": (
    TABLE | {"z": np.where(ANSWERS, "gone", "here")},
    {"y": ANSWERS},
    "'z' tells y in every",
  ),
  "scaled": (TABLE | {"z": 9 - 3 * SPEND}, {"y": SPEND}, "'z' tells y in every row"),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_may_be_wrong_is_told(name):
  inputs, targets, words = NOTED[name]
  warnings = [note for note in ds.arrays(inputs, targets).notes if note.startswith("warning")]
  assert len(warnings) == 1
  assert words in warnings[0]
  # A column and labels that differ in every row tell nothing as long as their order does not.
  quiet = ds.arrays(TABLE, {"y": SPEND}).notes
  assert not [note for note in quiet if note.startswith("warning")]


def test_labels_of_pixels_take_the_form_of_their_task():
  depth = np.where(PICTURES[..., :1] < 0.3, 0, PICTURES[..., :1])
  directions = np.where(PICTURES[..., :1] < 0.3, 0, [[[[0, 0, -2.0]]]])
  tasks = [ds.depth("far"), ds.normals("up"), ds.segmentation("on", 2)]
  targets = {"far": depth, "up": directions, "on": PICTURES[..., 0] > 0.5}
  data = ds.arrays(PICTURES, targets, tasks=tasks)
  part, rows = data.dataset.arrays("train"), data.rows["train"]
  assert part.targets["far"].shape == (len(rows), 6, 8)
  for name in ("far", "up"):
    np.testing.assert_array_equal(part.valid[name], PICTURES[rows, ..., 0] >= 0.3)
  np.testing.assert_allclose(
    part.targets["up"][part.valid["up"]], [[0, 0, -1]] * part.valid["up"].sum()
  )
  np.testing.assert_array_equal(part.targets["on"], PICTURES[rows, ..., 0] > 0.5)
  assert any("pixels are not above 0" in note for note in data.notes)


def test_padding_may_hold_anything():
  steps = np.where(np.arange(5)[None, :, None] < 3, 1.0, np.nan) * np.ones((N, 5, 2))
  data = ds.arrays(steps, {"y": ANSWERS}, length=np.full(N, 3))
  assert np.isfinite(data.dataset.arrays("train").inputs["series"]).all()


def test_groups_spelt_in_two_ways_are_one():
  groups = np.array([f"{i // 6}" + ".0" * (i % 2) for i in range(N)])
  data = ds.arrays(TABLE, {"y": SPEND}, groups=groups)
  parts = [{int(row) // 6 for row in rows} for rows in data.rows.values()]
  assert sum(map(len, parts)) == N // 6


@pytest.mark.parametrize(
  "rows, words",
  [
    ({"age": 3, "pay": 4}, "one value, not a column"),
    ({"age": [3, 4], "pay": [4]}, "must be of one length"),
    (np.zeros((2, 2)), "The columns have names, as age, pay"),
  ],
)
def test_rows_to_predict_that_cannot_be_read_are_refused(rows, words):
  spec = ds.arrays(TABLE, {"y": ANSWERS}).dataset.spec
  with pytest.raises(ValueError, match=words):
    data_lib.encode_inputs(spec, rows)
