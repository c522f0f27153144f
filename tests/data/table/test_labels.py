"""The same columns of labels are the same tasks from a table, series, a folder and Python."""

from __future__ import annotations

import csv
import gzip

import ml_collections
import numpy as np
from PIL import Image
import pytest
import yaml

import dynashare_jax as ds
from dynashare_jax.data.folder import dataset as folder
from dynashare_jax.data.pictures import store_writer
from dynashare_jax.data.series import dataset as series
from dynashare_jax.data.table import dataset as table

ROWS = 24
SWITCHES = ml_collections.ConfigDict({"selection": "validation", **folder.compat()})
PARTS = [("train", "train", "validation", "test")[i // 3 % 4] for i in range(ROWS)]
LABELS = {
  "answer": [("yes", "no", "")[i % 3] for i in range(ROWS)],
  "side": [("left", "right")[i // 2 % 2] for i in range(ROWS)],
  "grade": [("1", "2", "10")[i // 3 % 3] for i in range(ROWS)],
  "digit": [str(i // 2) for i in range(ROWS)],
  "town": [("Köln", "Ulm", "Jena")[i // 2 % 3] for i in range(ROWS)],
  "size": [str(0.5 * i) for i in range(ROWS)],
  "left": [("on", "off")[i % 2] for i in range(ROWS)],
  "right": ["" if i == 3 else ("on", "off")[i // 2 % 2] for i in range(ROWS)],
  "high": [str(1.5 + i) for i in range(ROWS)],
  "low": [str(0.25 * i) for i in range(ROWS)],
}
# Tasks of several columns; the others are called as their column.
SEVERAL = {"sides": {"columns": ["left", "right"]}, "ends": {"columns": ["high", "low"]}}
KINDS = {
  "answer": ("binary", 1, ("no", "yes")),
  "side": ("binary", 1, ("left", "right")),
  "grade": ("multiclass", 3, ("1", "2", "10")),
  "digit": ("multiclass", 12, tuple(map(str, range(12)))),
  "town": ("multiclass", 3, ("Jena", "Köln", "Ulm")),
  "size": ("number", 1, ()),
  "sides": ("multilabel", 2, ("left", "right")),
  "ends": ("number", 2, ("high", "low")),
}


def _written(path, columns):
  rows = [list(columns), *zip(*columns.values(), strict=True)]
  opened = gzip.open if path.suffix == ".gz" else open
  with opened(path, "wt", encoding="cp1252", newline="") as file:
    csv.writer(file, delimiter=";").writerows(rows)


def _build(room, root, described, switches=None):
  (root / "dataset.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
  config = ml_collections.ConfigDict(room.defaults())
  return room.build(config, switches or ml_collections.ConfigDict(), str(root), 0)


@pytest.fixture
def doors(tmp_path):
  """Opens the labels through every door."""
  ids = {"id": [f"p{i:02d}" for i in range(ROWS)]}
  (tmp_path / "images").mkdir()
  for name in ids["id"]:
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
  _written(tmp_path / "own.csv.gz", ids | LABELS | {"part": PARTS})
  _written(
    tmp_path / "x.csv", ids | {"x": [i * i % 7 for i in range(ROWS)]} | LABELS | {"part": PARTS}
  )
  visits = {
    "id": ids["id"] * 2,
    "time": [*range(2 * ROWS)],
    "hr": [i * i % 7 for i in range(2 * ROWS)],
  }
  _written(tmp_path / "visits.csv", visits)
  rooms = {
    table: {"table": "x.csv"},
    series: {"series": "visits.csv", "labels": "own.csv.gz"},
    folder: {"pictures": "images", "table": "own.csv.gz"},
  }

  def make(tasks):
    more = {"tasks": tasks, "splits": {"column": "part"}}
    return {
      room.NAME: _build(room, tmp_path, keys | more, SWITCHES if room is folder else None)
      for room, keys in rooms.items()
    }

  return make


def _same(one, other):
  for split in ("train", "validation", "test"):
    first, second = one.arrays(split), other.arrays(split)
    for name in first.targets:
      np.testing.assert_array_equal(first.valid[name], second.valid[name])
      np.testing.assert_array_equal(first.targets[name], second.targets[name])


def test_every_door_finds_the_same(doors):
  found = doors({name: SEVERAL.get(name, {}) for name in KINDS})
  arrays = {n: np.array(v, float if n == "size" else None) for n, v in LABELS.items()}
  arrays |= {name: arrays[name].astype(int) for name in ("grade", "digit")}
  sides = np.stack([arrays[n] == "on" for n in ("left", "right")], 1).astype(float)
  arrays["sides"] = np.where(np.stack([arrays["left"], arrays["right"]], 1) == "", np.nan, sides)
  arrays["ends"] = np.stack([arrays[n].astype(float) for n in ("high", "low")], 1)
  python = ds.arrays(
    {"x": [i * i % 7 for i in range(ROWS)]}, {n: arrays[n] for n in KINDS}, split=PARTS
  ).dataset
  for name, data in (found | {"python": python}).items():
    tasks = {task.name: (task.kind, task.outputs, task.classes) for task in data.spec.tasks}
    if name == "python":  # numbers that are classes themselves have no other name
      for task in ("digit", "sides", "ends"):
        tasks[task] = (*tasks[task][:2], KINDS[task][2])
    if name == "folder":  # what a word of a pair is called there
      assert tasks["answer"] == ("binary", 1, ("no", "yes"))
    assert tasks == KINDS, name
    _same(found["table"], data)
    assert any(note.startswith("task size: number (inferred: numbers)") for note in data.spec.notes)


def test_every_door_weighs_classes_maps_and_ignores(doors, tmp_path):
  tasks = {
    "answer": {"positive": "no", "class_weights": "balanced"},
    "side": {"map": {"left": "up", "right": "down"}, "positive_weight": 3},
    "town": {"kind": "multiclass", "ignore": ["Jena"], "class_weights": {"Ulm": 2.5}},
    "size": {"range": [1, 9], "center": 5, "spread": 2},
  }
  found = doors(tasks)
  config = ml_collections.ConfigDict(folder.defaults())
  original = folder.original(config, SWITCHES, str(tmp_path))
  store_writer.convert(original, "folder", str(tmp_path / "copy"))
  found["copy"] = folder.build(config, SWITCHES, str(tmp_path / "copy"), 0)
  for name, data in found.items():
    answer, side, town, size = data.spec.tasks
    train = data.arrays("train")
    known = train.targets["answer"][train.valid["answer"]]
    assert answer.positive_weight == (known == 0).sum() / known.sum(), name
    assert side.classes == ("up", "down") and side.positive_weight == 3
    assert town.classes == ("Köln", "Ulm") and town.class_weights == (1, 2.5)
    assert (size.center, size.spread) == ((5,), (2,))
    assert train.valid["town"].mean() == pytest.approx(2 / 3, abs=0.1)
    _same(found["table"], data)
