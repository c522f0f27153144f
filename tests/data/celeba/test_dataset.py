"""CelebA: the official lists to the letter, tasks, splits, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
import pathlib
import runpy
from typing import Any

from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from dynashare_jax import types
from dynashare_jax.data.celeba import dataset
from dynashare_jax.data.celeba import layouts

ROOT = pathlib.Path(__file__).resolve().parents[3]
PARTS = (0, 0, 2, 1, 0, 2)  # of six pictures
VALUES = np.random.default_rng(0).integers(0, 2, (6, 40))
NAMES = [f"{i + 1:06}.jpg" for i in range(6)]


def _write(folder: pathlib.Path, places: tuple[str, str, str] = ("Img", "Anno", "Eval")) -> None:
  """Six grey pictures, each brighter than the one before, and the two lists."""
  pictures, attributes, partition = (folder / place for place in places)
  (pictures / "img_align_celeba").mkdir(parents=True)
  for i, name in enumerate(NAMES):
    grey = np.full((218, 178, 3), 40 * i, np.uint8)
    grey[:109, :89] = 255  # a corner, by which mirroring is seen
    Image.fromarray(grey).save(pictures / "img_align_celeba" / name, quality=95)
  for place in (attributes, partition):
    place.mkdir(exist_ok=True)
  rows = (" ".join(f"{2 * v - 1:2}" for v in row) for row in VALUES)
  lines = ["6", " ".join(layouts.ATTRIBUTES) + " "]
  lines += [f"{name} {row}" for name, row in zip(NAMES, rows, strict=True)]
  (attributes / "list_attr_celeba.txt").write_text("\r\n".join(lines) + "\r\n")
  listed = "".join(f"{name} {part}\n" for name, part in zip(NAMES, PARTS, strict=True))
  (partition / "list_eval_partition.txt").write_text(listed)


def _config(**values: Any) -> ConfigDict:
  small = {"height": 8, "width": 6, "crop": (8, 6), **values}
  return ConfigDict({**dataset.defaults(), **small})


def _switches() -> ConfigDict:
  return ConfigDict(dataset.compat())


def _open(folder: pathlib.Path | None, **values: Any) -> types.Dataset:
  return dataset.build(_config(**values), _switches(), folder and str(folder), 0)


def test_every_attribute_is_a_task_and_splits_are_the_official_ones(tmp_path: pathlib.Path) -> None:
  _write(tmp_path)
  data = _open(tmp_path)
  assert data.spec.sizes == {"train": 3, "validation": 1, "test": 2}
  assert len(data.spec.tasks) == 40 and {task.kind for task in data.spec.tasks} == {"binary"}
  for place, split in enumerate(("train", "validation", "test")):
    batch = data.arrays(split)
    rows = [i for i, part in enumerate(PARTS) if part == place]
    assert list(data.source(split).keys) == [NAMES[i] for i in rows]
    assert batch.inputs.shape == (len(rows), 8, 6, 3)
    np.testing.assert_allclose(batch.inputs[:, 7, 5, 0], np.array(rows) * 40 / 255, atol=0.02)
    np.testing.assert_allclose(batch.inputs[:, 0, 0], 1, atol=0.02)
    for column, task in enumerate(layouts.ATTRIBUTES):
      assert batch.targets[task].dtype == np.int32
      np.testing.assert_array_equal(batch.targets[task], VALUES[rows, column])
      assert batch.valid[task].all() and batch.valid[task].shape == (len(rows),)


def test_the_three_tasks_of_the_paper_in_a_flat_folder(tmp_path: pathlib.Path) -> None:
  _write(tmp_path, ("", "", ""))
  data = _open(tmp_path, tasks=("clothes", "age", "gender"))
  clothes, age, gender = data.spec.tasks
  worn = tuple(f"Wearing_{w}" for w in ("Earrings", "Hat", "Lipstick", "Necklace", "Necktie"))
  assert (clothes.kind, clothes.outputs, clothes.classes) == ("multilabel", 5, worn)
  assert age.kind == gender.kind == "binary"
  test = data.arrays("test")
  assert data.source("test")[0].targets["clothes"].shape == (5,)
  rows = [2, 5]
  np.testing.assert_array_equal(test.targets["clothes"], VALUES[rows, 34:39])
  np.testing.assert_array_equal(test.targets["gender"], VALUES[rows, 20])
  np.testing.assert_array_equal(test.targets["age"], VALUES[rows, 39])


def test_training_pictures_are_mirrored_whole(tmp_path: pathlib.Path) -> None:
  _write(tmp_path)
  data = _open(tmp_path, tasks=("age",))
  example, draw = data.source("train")[1], data.augment.draw(0, "x", np.arange(8))
  found = [
    data.augment.example(example, type(draw)(*(part[i] for part in draw))).inputs for i in range(8)
  ]
  assert 0 < draw.mirror.sum() < 8
  for picture, mirrored in zip(found, draw.mirror, strict=True):
    np.testing.assert_array_equal(picture, example.inputs[:, ::-1] if mirrored else example.inputs)


def _edit(file: str, change: Callable[[list[str]], Any]) -> Callable[[pathlib.Path], None]:
  """Changes the lines of a list."""

  def edit(folder: pathlib.Path) -> None:
    (path,) = folder.rglob(file)
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines))

  return edit


def _swap(line: int, old: str, new: str) -> Callable[[list[str]], None]:
  def change(lines: list[str]) -> None:
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new, 1)

  return change


_ATTRIBUTES, _PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"
BROKEN = {
  "no number": (_edit(_ATTRIBUTES, lambda t: t.pop(0)), "line 1: there must be the number"),
  "unknown": (
    _edit(_ATTRIBUTES, _swap(1, "Young", "Yuong")),
    "line 2: there is no attribute 'Yuong'. Did you mean 'Young'",
  ),
  "lacking": (_edit(_ATTRIBUTES, _swap(1, "Bald ", "")), "line 2: .*40 attributes.*lacks Bald"),
  "twice": (_edit(_ATTRIBUTES, _swap(1, "Bald ", "Bald Bald ")), "has an attribute twice"),
  "few values": (_edit(_ATTRIBUTES, lambda t: t.append("x.jpg 1 -1")), "line 9: it has 2 values"),
  "zero": (_edit(_ATTRIBUTES, _swap(4, " 1 ", " 0 ")), "line 5: a value is '0'; they are -1 and 1"),
  "row twice": (_edit(_ATTRIBUTES, lambda t: t.append(t[2])), "line 9: 000001.jpg comes twice"),
  "rows": (_edit(_ATTRIBUTES, lambda t: t.pop()), "lists 5 pictures, but line 1 says 6"),
  "columns": (_edit(_PARTITION, _swap(1, " 0", " 0 1")), "line 2: it must have a picture and 0"),
  "part": (_edit(_PARTITION, _swap(3, " 1", " 3")), "line 4: it must have a picture and 0"),
  "stranger": (
    _edit(_PARTITION, _swap(3, "000004", "000009")),
    "line 4: 000009.jpg is not in the list of attributes",
  ),
  "split twice": (_edit(_PARTITION, lambda t: t.append(t[0])), "line 7: 000001.jpg comes twice"),
  "unsplit": (_edit(_PARTITION, lambda t: t.pop(2)), "lacks 1 of the 6 .*first 000003.jpg"),
  "no list": (
    lambda f: next(f.rglob(_PARTITION)).unlink(),
    "there is no file .*Eval/list_eval_partition.txt. It needs",
  ),
  "picture": (
    lambda f: next(f.rglob("000003.jpg")).unlink(),
    "lacks 1 of the 6 pictures that .* lists, first 000003.jpg",
  ),
  "size": (
    lambda f: Image.new("RGB", (178, 200)).save(next(f.rglob("000001.jpg"))),
    "it is 200 x 178; aligned pictures are 218 x 178",
  ),
  "damaged": (
    lambda f: next(f.rglob("000001.jpg")).write_bytes(b"<html>"),
    "Cannot read .*000001.jpg",
  ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(tmp_path: pathlib.Path, name: str) -> None:
  change, message = BROKEN[name]
  _write(tmp_path)
  change(tmp_path)
  with pytest.raises(ValueError, match=message):
    _open(tmp_path, tasks=("age",))


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"tasks": ("Yong",)}, "config.data.tasks has 'Yong'; CelebA has.*Did you mean 'Young'"),
    ({"crop": (9, 6)}, r"config.data.crop is \(9, 6\), but pictures are 8 x 6"),
    ({"layout": "kaggle"}, "config.data.layout"),
    ({}, "CelebA: tell where it lies with config.data_dir.*https://"),
  ],
)
def test_wrong_values_are_refused(values: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=f"(?s){message}"):
    _open(None, **values)


def test_the_configurations_have_the_defaults_and_the_official_sizes() -> None:
  make = runpy.run_path(str(ROOT / "configs" / "celeba.py"))["get_config"]
  config = make()
  assert config.data.to_dict() == dataset.defaults()
  groups = make("groups")
  assert tuple(groups.data.tasks) == tuple(layouts.GROUPS)
  spec = dataset.outline(groups.data, groups.compat)
  assert spec.input_shape == (32, 32, 3) and spec.crop == (32, 32)
  assert spec.sizes == {"train": 162_770, "validation": 19_867, "test": 19_962}
  for each in (config, groups):
    assert len(each.gates.target_rates) == sum(each.model.blocks)
  with pytest.raises(ValueError, match="celeba.py:all: choose one of attributes, groups"):
    make("all")
