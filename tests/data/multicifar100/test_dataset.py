"""Multi-CIFAR100: both versions of the files byte by byte, tasks, splits, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
import pickle
import runpy
import struct
from typing import Any

from ml_collections import ConfigDict
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.data.multicifar100 import dataset
from dynashare_jax.data.multicifar100 import files

ROOT = pathlib.Path(__file__).resolve().parents[3]
COPIES = {"train": 4, "test": 2}  # pictures of every fine label, in place of 500 and 100
# The coarse label of every fine one: 37 goes round all residues, so that groups are mixed.
COARSE = (np.arange(100) * 37 + 11) % 20


def _rows(part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Pixels `[N, 3072]`, fine and coarse labels of a part, the labels mixed."""
  fine = np.random.default_rng(len(part)).permutation(np.repeat(np.arange(100), COPIES[part]))
  colours = np.repeat(np.arange(3, dtype=np.uint8)[None] * 100, len(fine), 0)
  pixels = np.repeat(colours, 1024, 1)
  pixels[:, 0] = np.arange(len(fine)) % 250  # of red, the first pixel tells pictures apart
  pixels[:, 1] = 50 * np.arange(len(fine)) // 250 + 7 * (part == "test")
  pixels[:, 1024 + 33] = fine  # green, row 1, column 1
  return pixels, fine, COARSE[fine]


class _Pickled(list):
  """Writes pickles as Python 2 wrote those of CIFAR-100: protocol 2, texts as byte strings."""

  def put(self, thing: Any) -> None:
    """Appends a dictionary, list, text, number or array."""
    if isinstance(thing, Mapping):
      self.append(b"}(")
      for key, value in thing.items():
        self.put(key)
        self.put(value)
      self.append(b"u")
    elif isinstance(thing, list):
      self.append(b"](")
      for value in thing:
        self.put(value)
      self.append(b"e")
    elif isinstance(thing, int):
      self.append(b"J" + struct.pack("<i", thing))
    elif isinstance(thing, np.ndarray):
      self.append(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01"
      )
      for length in thing.shape:
        self.put(length)
      self.append(b"\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN")
      self.append(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
      self.put(thing.tobytes())
      self.append(b"tb")
    else:
      text = thing if isinstance(thing, bytes) else thing.encode()
      short = len(text) < 256
      self.append(b"U" + bytes([len(text)]) if short else b"T" + struct.pack("<i", len(text)))
      self.append(text)

  @classmethod
  def of(cls, thing: Any) -> bytes:
    """Returns a whole pickle."""
    made = cls()
    made.put(thing)
    return b"\x80\x02" + b"".join(made) + b"."


NAMES = {
  "fine_label_names": [f"thing {i}".replace(" ", "_") for i in range(100)],
  "coarse_label_names": list(dataset.TASKS),
}


def _stored(part: str) -> dict[str, Any]:
  pixels, fine, coarse = _rows(part)
  return {
    "filenames": [f"picture_{i}.png" for i in range(len(fine))],
    "batch_label": "training batch 1 of 1",
    "fine_labels": fine.tolist(),
    "coarse_labels": coarse.tolist(),
    "data": pixels,
  }


def _python(folder: pathlib.Path) -> pathlib.Path:
  place = folder / "cifar-100-python"
  place.mkdir()
  for part in COPIES:
    (place / part).write_bytes(_Pickled.of(_stored(part)))
  (place / "meta").write_bytes(_Pickled.of(NAMES))
  return place


def _binary(folder: pathlib.Path) -> pathlib.Path:
  place = folder / "cifar-100-binary"
  place.mkdir()
  for part in COPIES:
    pixels, fine, coarse = _rows(part)
    rows = np.concatenate([coarse[:, None], fine[:, None], pixels], 1).astype(np.uint8)
    (place / f"{part}.bin").write_bytes(rows.tobytes())
  for name, listed in NAMES.items():
    (place / f"{name}.txt").write_text("\n".join(listed) + "\n\n")
  return place


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Both versions; not to be changed."""
  folder = tmp_path_factory.mktemp("cifar")
  _python(folder)
  _binary(folder)
  return folder


def _open(folder: pathlib.Path | None, **values: Any) -> types.Dataset:
  config = ConfigDict({**dataset.defaults(), "validation_share": 0.25, **values})
  return dataset.build(config, ConfigDict(), folder and str(folder), 0)


def test_both_versions_give_the_same_pictures_and_labels(written: pathlib.Path) -> None:
  one, two = (files.read(str(written / f"cifar-100-{kind}")) for kind in ("python", "binary"))
  for part, (pixels, fine, coarse) in {part: _rows(part) for part in COPIES}.items():
    for found in (one.parts[part], two.parts[part]):
      assert found.pictures.dtype == np.uint8
      np.testing.assert_array_equal(found.fine, fine)
      np.testing.assert_array_equal(found.coarse, coarse)
      np.testing.assert_array_equal(found.pictures[:, 0, 0, 0], pixels[:, 0])
      np.testing.assert_array_equal(found.pictures[:, 1, 1, 1], fine)
      assert (found.pictures[:, 5, 7] == [0, 100, 200]).all()
  assert one[1:] == two[1:]
  assert one.members == tuple(tuple(np.flatnonzero(c == COARSE).tolist()) for c in range(20))


def test_the_folder_of_either_version_will_do(written: pathlib.Path) -> None:
  assert files._find(str(written))[0].name == "cifar-100-python"
  assert files._find(str(written / "cifar-100-binary"))[0].name == "cifar-100-binary"


def test_every_picture_has_a_label_of_its_own_task_alone(written: pathlib.Path) -> None:
  data = _open(written)
  assert data.spec.sizes == {"train": 300, "validation": 100, "test": 200}
  seen = []
  for split, size in data.spec.sizes.items():
    batch = data.arrays(split)
    assert batch.inputs.shape == (size, 32, 32, 3) and batch.inputs.dtype == np.float32
    numbers = np.rint(255 * batch.inputs)
    fine = numbers[:, 1, 1, 1].astype(int)
    seen += [tuple(row) for row in numbers[:, 0, :2, 0]]
    assert (np.sum(list(batch.valid.values()), 0) == 1).all()
    for place, task in enumerate(data.spec.tasks):
      own = np.flatnonzero(place == COARSE)
      known = batch.valid[task.name]
      np.testing.assert_array_equal(own[batch.targets[task.name][known]], fine[known])
      assert np.bincount(batch.targets[task.name][known]).tolist() == [size // 100] * 5
      assert task.classes == tuple(NAMES["fine_label_names"][c] for c in own)
  assert len(set(seen)) == len(seen) == 600


def test_pictures_are_padded_cropped_and_mirrored(written: pathlib.Path) -> None:
  data = _open(written, tasks=("trees",))
  augment, example = data.augment, data.source("train")[0]
  assert (augment.crop, augment.scales, augment.padding, augment.mirror) == (
    (32, 32),
    (1.0, 1.0),
    4,
    True,
  )
  draw = augment.draw(0, "x", np.arange(40))
  for i in range(40):
    found = augment.example(example, type(draw)(*(part[i] for part in draw)))
    wide = np.pad(example.inputs, ((4, 4), (4, 4), (0, 0)))
    wide = wide[:, ::-1] if draw.mirror[i] else wide
    top, left = (int(9 * place[i]) for place in (draw.row, draw.column))
    np.testing.assert_array_equal(found.inputs, wide[top : top + 32, left : left + 32])
    assert found.targets == example.targets
  assert _open(written, tasks=("trees",), augment=False).augment is None


def _change(folder: pathlib.Path, **values: Any) -> None:
  """Writes `train` of the Python version again, with other values."""
  (folder / "train").write_bytes(_Pickled.of({**_stored("train"), **values}))


def _cut_pickle(folder: pathlib.Path) -> None:
  path = folder / "train"
  path.write_bytes(path.read_bytes()[:-3000])


def _evil(folder: pathlib.Path) -> None:
  (folder / "train").write_bytes(b"cos\nsystem\n(S'touch evil'\ntR.")


def _other_type(folder: pathlib.Path) -> None:
  text = (folder / "train").read_bytes()
  (folder / "train").write_bytes(text.replace(b"U\x02u1", b"U\x02f4"))


PIXELS, FINE, GROUP = _rows("train")
PYTHON = {
  "cut off": (_cut_pickle, "train cannot be read .*it is cut off"),
  "no pickle": (lambda f: (f / "meta").write_bytes(b"<html>"), "meta cannot be read"),
  "code": (_evil, "asks for os.system, which CIFAR-100 has no use for"),
  "modern": (
    lambda f: (f / "train").write_bytes(pickle.dumps({"data": PIXELS}, 4)),
    "it asks for numpy",
  ),
  "another pickle": (lambda f: (f / "train").write_bytes(_Pickled.of([1])), "'fine_labels'"),
  "no data": (lambda f: _change(f, data="x"), "train has no array 'data' of bytes"),
  "another type": (_other_type, "train has no array 'data' of bytes"),
  "fewer pictures": (lambda f: _change(f, data=PIXELS[:-1]), "400 fine and 400 coarse.*399"),
  "fewer pixels": (lambda f: _change(f, data=PIXELS[:, 1:]), r"\(400, 3071\) in"),
  "fewer labels": (lambda f: _change(f, coarse_labels=GROUP[1:].tolist()), "and 399 coarse"),
  "label no number": (lambda f: _change(f, fine_labels=["a"] * 400), "no whole numbers"),
  "label out of range": (
    lambda f: _change(f, fine_labels=[100, *FINE[1:].tolist()]),
    "fine label of picture 0 is 100; they are 0 to 99",
  ),
  "one class more": (
    lambda f: _change(f, fine_labels=[int(FINE[0] + 1) % 100, *FINE[1:].tolist()]),
    "has 3 pictures of the fine label .*, but 5 of",
  ),
  "groups": (
    lambda f: _change(f, coarse_labels=[(int(GROUP[0]) + 1) % 20, *GROUP[1:].tolist()]),
    "has the fine labels .*each has 5",
  ),
  "names": (lambda f: (f / "meta").write_bytes(_Pickled.of({**NAMES, "fine_label_names": []})),
    "names of 0 fine labels; CIFAR-100 has 100"),
  "other names": (
    lambda f: (f / "meta").write_bytes(
      _Pickled.of({**NAMES, "coarse_label_names": [f"c{i}" for i in range(20)]})
    ),
    "coarse label 0 is called 'c0', that of CIFAR-100 'aquatic_mammals'",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", PYTHON)
def test_damaged_python_files_are_named(tmp_path: pathlib.Path, name: str) -> None:
  change, message = PYTHON[name]
  change(_python(tmp_path))
  with pytest.raises(ValueError, match=message):
    _open(tmp_path)
  assert not pathlib.Path("evil").exists()


@pytest.mark.parametrize(
  ("cut", "message"),
  [
    (1, "train.bin has 1229599 bytes, which is no multiple of 3074"),
    (3074, "train.bin has 3 pictures of the fine label .*, but 4 of .*cut off"),
    (400 * 3074, "train.bin has 0 bytes"),
  ],
)
def test_binary_files_that_are_cut_off_are_named(
  tmp_path: pathlib.Path, cut: int, message: str
) -> None:
  path = _binary(tmp_path) / "train.bin"
  path.write_bytes(path.read_bytes()[:-cut])
  with pytest.raises(ValueError, match=message):
    _open(tmp_path)


def test_missing_files_are_named_with_where_to_get_them(tmp_path: pathlib.Path) -> None:
  with pytest.raises(FileNotFoundError, match="config.data_dir is empty.*https://"):
    _open(None)
  with pytest.raises(FileNotFoundError, match="no cifar-100-python and no cifar-100-binary in"):
    _open(tmp_path)
  (_binary(tmp_path) / "test.bin").unlink()
  with pytest.raises(FileNotFoundError, match="There is no test.bin in .*--config.data_dir=DIR"):
    _open(tmp_path)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"tasks": ("tree",)}, "config.data.tasks has 'tree'.*Did you mean 'trees'"),
    ({"padding": -1}, "config.data.padding is -1; it must be at least 0"),
    ({"weights": {}}, "no weight of 'aquatic_mammals'"),
  ],
)
def test_wrong_values_are_refused(values: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    _open(None, **values)


def test_the_configuration_has_the_defaults_and_the_official_sizes() -> None:
  config = runpy.run_path(str(ROOT / "configs" / "multicifar100.py"))["get_config"]()
  assert config.data.to_dict() == dataset.defaults()
  spec = dataset.outline(config.data, config.compat)
  assert spec.sizes == {"train": 45_000, "validation": 5_000, "test": 10_000}
  assert len(spec.tasks) == 20 and {task.outputs for task in spec.tasks} == {5}
  assert config.train.batch_size == 32 * 20 and config.train.sampling == "tasks"
