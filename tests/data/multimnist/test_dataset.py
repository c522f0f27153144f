"""MultiMNIST: what lies where, which originals are in which split, and what is refused."""

from __future__ import annotations

import gzip
import pathlib
import re
import runpy
from typing import Any

from ml_collections import ConfigDict
import numpy as np
import pytest

from dynashare_jax import runs
from dynashare_jax import types
from dynashare_jax.data.multimnist import dataset
from dynashare_jax.data.multimnist import originals

ROOT = pathlib.Path(__file__).resolve().parents[3]
SIZES = {"train": 12, "validation": 6, "test": 8}
NAMES = [f"{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
FILES = [f"{name}-ubyte" for name in NAMES]


def _idx(array: np.ndarray) -> bytes:
  """The bytes of an IDX file."""
  lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
  return bytes((0, 0, 8, array.ndim)) + lengths + array.astype(np.uint8).tobytes()


def _write(folder: pathlib.Path, name: str, train: int = 20, test: int = 9) -> None:
  """Originals of one brightness each, by which they are told apart; labels are its last digit."""
  (folder / name).mkdir(parents=True)
  first = 1 if name == "mnist" else 101
  for place, count in ((0, train), (1, test)):
    shades = np.arange(count) + first + 50 * place
    pictures = np.broadcast_to(shades[:, None, None], (count, 28, 28))
    (folder / name / FILES[2 * place]).write_bytes(_idx(pictures))
    (folder / name / FILES[2 * place + 1]).write_bytes(_idx(shades % 10))


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """Small files of both data sets."""
  for name in originals.CLASSES:
    _write(tmp_path, name)
  return tmp_path


def _open(folder: pathlib.Path | None, **values: Any) -> types.Dataset:
  config = ConfigDict({**dataset.defaults(), **SIZES, **values})
  return dataset.build(config, ConfigDict(), folder and str(folder), 0)


def _shades(data: types.Dataset, split: str) -> np.ndarray:
  """The originals of every example `[N, 2]`, left and right, by their brightness."""
  pictures = np.rint(255 * data.arrays(split).inputs[..., 0])
  return pictures[:, [0, -1], [0, -1]].astype(int)


def test_the_overlay_by_hand() -> None:
  left, right = np.zeros((2, 1, 28, 28), np.uint8)
  left[0, 27, 27], left[0, 10, 9] = 50, 200
  right[0, 0, 0], right[0, 2, 1], right[0, 27, 27] = 10, 90, 255
  found = dataset.overlay(left, right)
  assert found.shape == (1, 36, 36) and found.dtype == np.uint8
  wanted = np.zeros((36, 36), np.uint8)
  wanted[27, 27], wanted[10, 9], wanted[8, 8], wanted[35, 35] = 50, 200, 10, 255
  np.testing.assert_array_equal(found[0], wanted)  # 90 lies at (10, 9), below the brighter 200


def test_labels_are_those_of_the_originals_on_their_sides(folder: pathlib.Path) -> None:
  for kind in dataset.KINDS:
    data = _open(folder, kind=kind)
    for split, size in SIZES.items():
      batch, shades = data.arrays(split), _shades(data, split)
      assert batch.inputs.shape == (size, 36, 36, 1) and batch.inputs.dtype == np.float32
      np.testing.assert_array_equal(batch.targets["left"], shades[:, 0] % 10)
      np.testing.assert_array_equal(batch.targets["right"], shades[:, 1] % 10)
      fashion = [kind == "fashion", kind != "mnist"]
      np.testing.assert_array_equal(shades > 100, np.tile(fashion, (size, 1)))
      assert all(valid.all() for valid in batch.valid.values())
  tasks = {task.name: task.classes[0] for task in data.spec.tasks}
  assert tasks == {"left": "0", "right": "T-shirt/top"}


@pytest.mark.parametrize("kind", dataset.KINDS)
def test_no_original_is_in_two_splits_and_none_twice_on_a_side(
  folder: pathlib.Path, kind: str
) -> None:
  data = _open(folder, kind=kind)
  found = {split: _shades(data, split) for split in SIZES}
  for sides in found.values():
    for side in sides.T:
      assert len(set(side)) == len(side)
    if kind != "fashion_and_mnist":  # The same originals are on both sides.
      np.testing.assert_array_equal(*map(np.sort, sides.T))
      assert (sides[:, 0] != sides[:, 1]).any()
  every = [set(sides.ravel()) for sides in found.values()]
  assert sum(map(len, every)) == len(set.union(*every))
  assert all((sides % 100 > 50).all() == (split == "test") for split, sides in found.items())


def test_pairs_depend_on_their_own_seed_and_on_the_size_of_their_split_alone(
  folder: pathlib.Path,
) -> None:
  one, same, other = _open(folder), _open(folder, train=3), _open(folder, pair_seed=1)
  for split in ("validation", "test"):
    np.testing.assert_array_equal(_shades(one, split), _shades(same, split))
  for split in SIZES:
    assert (_shades(one, split) != _shades(other, split)).any()
    np.testing.assert_array_equal(one.source(split)[2].inputs, one.arrays(split).inputs[2])


def test_the_order_of_the_tasks_changes_no_picture_and_no_label(folder: pathlib.Path) -> None:
  one, turned, left = (
    _open(folder, tasks=t) for t in (("left", "right"), ("right", "left"), ["left"])
  )
  assert [task.name for task in turned.spec.tasks] == ["right", "left"]
  for split in SIZES:
    np.testing.assert_array_equal(one.arrays(split).inputs, turned.arrays(split).inputs)
    np.testing.assert_array_equal(one.arrays(split).inputs, left.arrays(split).inputs)
    assert list(left.arrays(split).targets) == ["left"]
    for name, labels in one.arrays(split).targets.items():
      np.testing.assert_array_equal(labels, turned.arrays(split).targets[name])


def test_a_third_task_is_the_picture_itself(folder: pathlib.Path) -> None:
  data = _open(folder, tasks=("left", "reconstruction"))
  assert [(task.name, task.kind) for task in data.spec.tasks] == [
    ("left", "multiclass"),
    ("reconstruction", "regression"),
  ]
  for split in SIZES:
    batch = data.arrays(split)
    np.testing.assert_array_equal(batch.targets["reconstruction"], batch.inputs[..., 0])
    assert batch.valid["reconstruction"].all()
    assert batch.valid["reconstruction"].shape == batch.inputs.shape[:3]
    assert list(batch.targets) == ["left", "reconstruction"]


def test_compressed_files_are_the_same_and_only_the_folders_of_the_kind_are_read(
  folder: pathlib.Path,
) -> None:
  plain = _shades(_open(folder), "train")
  for path in (folder / "mnist").iterdir():
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
  for path in (folder / "fashion_mnist").iterdir():
    path.unlink()
  np.testing.assert_array_equal(_shades(_open(folder), "train"), plain)


def test_missing_files_are_named_with_where_to_get_them(folder: pathlib.Path) -> None:
  (folder / "mnist" / FILES[1]).unlink()
  with pytest.raises(FileNotFoundError) as error:
    _open(folder)
  assert str(error.value).startswith(
    f"There is no {FILES[1]} in '{folder / 'mnist'}'. Put {FILES[0]}, "
  )
  assert "https://" in str(error.value) and "--config.data_dir=DIR" in str(error.value)
  with pytest.raises(FileNotFoundError, match="config.data_dir is empty.*DIR/fashion_mnist"):
    _open(None, kind="fashion")


_PICTURES, _LABELS = np.zeros((20, 28, 28)), np.zeros(20)
_GOOD = _idx(_PICTURES)


@pytest.mark.parametrize(
  ("file", "content", "message"),
  [
    (0, b"", "starts with the number 0, an IDX file of 3 axes with 2051"),
    (0, _idx(_LABELS), "starts with the number 2049, an IDX file of 3 axes with 2051"),
    (0, gzip.compress(_GOOD, mtime=0), "starts with the number 529205248"),
    (0, _GOOD[:11], "has 11 bytes, but 16 are expected for 20 x 0 x 0: it is cut off"),
    (0, _GOOD[:-1], "has 15695 bytes, but 15696 are expected for 20 x 28 x 28: it is cut off"),
    (0, _GOOD + b"\0", "has 15697 bytes, but 15696 are expected"),
    (0, _idx(np.zeros((20, 28, 27))), "has pictures of 28 x 27 pixels; they must be 28 x 28"),
    (1, _GOOD, "starts with the number 2051, an IDX file of 1 axes with 2049"),
    (1, _idx(_LABELS[1:]), "-images-idx3-ubyte has 20 pictures, but .* has 19 labels"),
    (1, _idx(np.arange(20)), "label 10 is 10; labels are 0 to 9"),
  ],
  ids=range(10),
)
def test_damaged_files_are_named(
  folder: pathlib.Path, file: int, content: bytes, message: str
) -> None:
  path = folder / "mnist" / FILES[file]
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    _open(folder)
  assert str(path) in str(error.value)


@pytest.mark.parametrize("cut", [5, 30])
def test_a_compressed_file_that_is_cut_off_is_named(folder: pathlib.Path, cut: int) -> None:
  path = folder / "mnist" / f"{FILES[2]}.gz"
  (folder / "mnist" / FILES[2]).unlink()
  path.write_bytes(gzip.compress(_GOOD)[:cut])
  with pytest.raises(ValueError, match=f"{re.escape(str(path))} cannot be read .*Fetch it again"):
    _open(folder)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"kind": "fashon"}, "Did you mean 'fashion'"),
    ({"tasks": ("lefd",)}, "Did you mean 'left'"),
    ({"tasks": ()}, "name one or more of left, right"),
    ({"test": 0}, "config.data.test is 0; it must be at least 1"),
    ({"pair_seed": -1}, "config.data.pair_seed is -1"),
    ({"weights": {"left": 1.0}}, "no weight of 'right'"),
    ({"train": 15}, "train and validation: 21 examples are asked for, but mnist has 20"),
    ({"test": 10}, "config.data.test: 10 examples are asked for, but mnist has 9"),
  ],
)
def test_wrong_values_are_refused(
  folder: pathlib.Path, values: dict[str, Any], message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    _open(folder, **values)


def test_the_configuration_has_the_defaults_and_is_described_without_data() -> None:
  make = runpy.run_path(str(ROOT / "configs" / "multimnist.py"))["get_config"]
  for kind in dataset.KINDS:
    assert make(kind).data.to_dict() == {**dataset.defaults(), "kind": kind}
  text = runs.describe(make("fashion_and_mnist"))
  assert "image 36 x 36 x 1, 2 tasks" in text
  assert "mnist at the top left, fashion_mnist at the bottom right" in text


def test_real_files(data_folder: pathlib.Path) -> None:
  for name in originals.CLASSES:
    if not (data_folder / name).is_dir():
      pytest.skip(f"no {name} in {data_folder}")
  data = dataset.build(
    ConfigDict({**dataset.defaults(), "kind": "fashion_and_mnist"}),
    ConfigDict(),
    str(data_folder),
    0,
  )
  test = data.arrays("test")
  # All originals of the test files: how many there are of every digit, and of every item.
  digits = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
  assert np.bincount(test.targets["left"]).tolist() == digits
  assert np.bincount(test.targets["right"]).tolist() == [1000] * 10
  assert test.inputs.min() == 0 and test.inputs.max() == 1
  both = sum(np.bincount(data.arrays(s).targets["left"]) for s in ("train", "validation"))
  assert both.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
