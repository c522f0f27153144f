"""NYU Depth V2: its layouts, values, axes of normals, switches and errors."""

from __future__ import annotations

import json
import pickle

import ml_collections
import numpy as np
from PIL import Image
import pytest
import scipy.io

from dynashare_jax import types
from dynashare_jax.data.nyuv2 import classes as nyuv2_classes
from dynashare_jax.data.nyuv2 import dataset as nyuv2
from dynashare_jax.data.nyuv2 import files as nyuv2_files
from dynashare_jax.data.nyuv2 import layouts as nyuv2_layouts
from dynashare_jax.data.pictures import augment as transforms
from dynashare_jax.data.pictures import surface_normals

SMALL = (4, 6)
CORNER = (96, 128)


def _config(**values):
  base = {**nyuv2.defaults(), "tasks": nyuv2.TASKS, "validation": "test"}
  return ml_collections.ConfigDict({**base, **values})


def _switches(**values):
  return ml_collections.ConfigDict({"selection": "test", **nyuv2.compat(), **values})


def _build(folder, config=None, **switches):
  return nyuv2.build(config or _config(), _switches(**switches), str(folder), 0)


def _save(path, array):
  """Writes an array as the ending says."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".npy":
    np.save(path, array)
  elif path.suffix == ".mat":
    scipy.io.savemat(path, {path.parent.name: array})
  else:
    Image.fromarray(array).save(
      path, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {})
    )


def _picture(number, shape=SMALL):
  rng = np.random.default_rng(number)
  return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)


def _corner(shape=CORNER):
  """Depth of a wall, a wall and a floor, and their exact normals (house)."""
  camera = surface_normals.kinect(shape)
  rows, columns = np.indices(shape) + 0.5
  rays = np.stack(
    [(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones(shape)], -1
  )
  units = np.array([[0.6, 0, -0.8], [-0.8, 0, -0.6], [0, -0.96, -0.28]])
  offsets = np.array([-1.6, -1.6, -0.9])
  with np.errstate(divide="ignore"):
    depths = offsets / (rays @ units.T)
  depths[depths <= 0] = np.inf
  return (depths.min(-1).astype(np.float32), units[depths.argmin(-1)].astype(np.float32))


def _stored(normals, text):
  """Normals of the house in the axes that `text` names."""
  axes = surface_normals.read_axes(text)
  stored = np.empty_like(normals)
  for i, (channel, sign) in enumerate(zip(axes.channels, axes.signs, strict=True)):
    stored[..., channel] = sign * normals[..., i]
  return stored


def _bytes(normals):
  return np.round((normals + 1) * 127.5).astype(np.uint8)


def _adashare(folder, stems=("0000", "0002"), shape=SMALL):
  """AdaShare's folders; one pixel of every kind in the first row."""
  for stem in stems:
    number = int(stem) if stem.isdigit() else 7
    seg = np.full(shape, number % 40, np.uint8)
    seg[0, :3] = 0, 39, 255
    normals = np.full((*shape, 3), (128, 0, 128), np.uint8)
    normals[0, :4] = (255, 128, 128), (128, 128, 255), (255, 255, 255), (127, 128, 127)
    depth = np.full(shape, 1 + number, np.float32)
    depth[0, :2] = 0, 2e-5
    for name, array in (
      ("img/{}.png", _picture(number, shape)),
      ("seg/{}.png", seg),
      ("normal_mask/{}.png", normals),
      ("depth/{}.npy", depth),
    ):
      _save(folder / name.format(stem), array)
  return folder


def _lists(folder, train, test):
  paths = lambda stems: [
    [f"img/{s}.png", f"seg/{s}.png", f"normal_mask/{s}.png", f"depth/{s}.npy"] for s in stems
  ]
  (folder / "nyu_v2_3task.json").write_text(
    json.dumps({"train": paths(train), "train1": [], "train2": [], "test": paths(test)})
  )


def test_adashare_values(tmp_path):
  _lists(_adashare(tmp_path, ("0000", "b", "0001")), ("b", "0000"), ("0001",))
  dataset = _build(tmp_path)
  assert dataset.source("train").keys == ("img/b.png", "img/0000.png")
  assert dataset.source("test").keys == ("img/0001.png",)
  assert dataset.spec.notes == (
    "found: adashare (2 train, 1 test)",
    "validation is the test split (compat.selection)",
    "split: nyu_v2_3task.json",
    "axes of stored normals (right, down, forward): +0 -2 +1",
  )
  example = dataset.source("train")[0]
  np.testing.assert_array_equal(example.inputs, _picture(7).astype(np.float32) / 255)
  assert example.inputs.dtype == np.float32
  assert example.present == np.ones((), bool)
  seg, valid = example.targets["segmentation"], example.valid["segmentation"]
  assert seg.dtype == np.int32
  np.testing.assert_array_equal(seg[0], [0, 39, 0, 7, 7, 7])
  np.testing.assert_array_equal(valid[0], [1, 1, 0, 1, 1, 1])
  normals, valid = example.targets["normals"], example.valid["normals"]
  np.testing.assert_array_equal(valid[0], [1, 1, 0, 0, 1, 1])
  # Red 255 points right; blue 255 up; green 0 towards the camera.
  np.testing.assert_allclose(
    normals[0], [[1, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0, -1], [0, 0, -1], [0, 0, -1]], atol=0.006
  )
  np.testing.assert_allclose((normals**2).sum(-1), 1, rtol=1e-5)
  depth, valid = example.targets["depth"], example.valid["depth"]
  np.testing.assert_array_equal(depth[0], np.float32([0, 0, 8, 8, 8, 8]))
  np.testing.assert_array_equal(valid[0], [0, 0, 1, 1, 1, 1])
  assert depth.dtype == normals.dtype == np.float32
  assert dataset.arrays("train").inputs.shape == (2, *SMALL, 3)


def test_tasks_and_their_order_and_weights(tmp_path):
  _adashare(tmp_path)
  spec = _build(tmp_path, _config(tasks=("depth", "segmentation"))).spec
  assert spec.tasks == (
    types.TaskSpec("depth", "depth", 1, 3.0, unit="m"),
    types.TaskSpec("segmentation", "segmentation", 40, 1.0, nyuv2_classes.CLASSES[40]),
  )
  two = nyuv2.build(ml_collections.ConfigDict(nyuv2.defaults()), _switches(), str(tmp_path), 0)
  assert [(t.name, t.weight) for t in two.spec.tasks] == [("segmentation", 1.0), ("normals", 20.0)]
  assert set(two.source("test")[0].targets) == {"segmentation", "normals"}


def test_a_task_that_is_not_wanted_needs_no_files(tmp_path):
  _adashare(tmp_path)
  for path in (tmp_path / "depth").iterdir():
    path.unlink()
  _build(tmp_path, _config(tasks=("segmentation", "normals")))
  with pytest.raises(ValueError, match=r"lacks 2 of 8 files, first depth/0002"):
    _build(tmp_path)


def test_file_numbers_tell_the_published_split(tmp_path):
  dataset = _build(_adashare(tmp_path, ("0000", "0001", "0002", "0013")))
  assert dataset.source("train").keys == ("img/0002.png",)
  assert dataset.source("test").keys == ("img/0000.png", "img/0001.png", "img/0013.png")
  assert "split: as published, by file numbers" in dataset.spec.notes
  _save(tmp_path / "img" / "1449.png", _picture(0))
  with pytest.raises(ValueError, match="1449.png is not named after a frame"):
    _build(tmp_path)


def test_a_few_samples_train_and_test(tmp_path):
  _adashare(tmp_path, ("0000", "0001"))
  with pytest.raises(ValueError, match="none of the 2 examples .* to train"):
    _build(tmp_path)
  dataset = _build(tmp_path, _config(samples_only=True))
  for split in types.SPLITS:
    assert dataset.source(split).keys == ("img/0000.png", "img/0001.png")
  assert any("samples_only" in note for note in dataset.spec.notes)


def test_thirteen_classes_follow_from_forty(tmp_path):
  dataset = _build(_adashare(tmp_path), _config(classes=13))
  seg = dataset.source("train")[0].targets["segmentation"]
  names = dataset.spec.tasks[0].classes
  assert dataset.spec.tasks[0].outputs == len(names) == 13
  # wall, other prop, none, then class 2: cabinet.
  assert [names[i] for i in seg[0, [0, 1, 3]]] == ["wall", "objects", "furniture"]


def test_everything_is_resized(tmp_path):
  dataset = _build(_adashare(tmp_path, shape=(8, 12)), _config(height=4, width=6))
  assert dataset.spec.input_shape == (4, 6, 3)
  example = dataset.source("train")[0]
  assert example.targets["normals"].shape == (4, 6, 3)
  # Labels are picked (rows and columns 1, 3, ...), never mixed.
  assert set(np.unique(example.targets["segmentation"])) <= {0, 2, 39}
  assert set(np.unique(example.targets["depth"])) == {3.0}


def test_published_facts():
  tests = [i for i in range(1449) if nyuv2_classes.is_test(i)]
  assert len(tests) == 654 and tests[:9] == [0, 1, 8, 13, 14, 15, 16, 17, 20]
  assert tests[-1] == 1448
  objects = nyuv2_classes.table(894, 40)
  names = nyuv2_classes.CLASSES[40]
  # Objects of the labelled file, from 1: 4 ceiling, 5 chair, 11 floor, 21 wall.
  assert [names[objects[i - 1]] for i in (4, 5, 11, 21)] == ["ceiling", "chair", "floor", "wall"]
  assert objects.shape == (894,) and set(objects) == set(range(40))
  coarse = nyuv2_classes.table(40, 13)
  assert [
    nyuv2_classes.CLASSES[13][coarse[names.index(n)]]
    for n in ("bed", "television", "blinds", "desk", "lamp")
  ] == ["bed", "tv", "window", "table", "objects"]
  np.testing.assert_array_equal(nyuv2_classes.table(894, 13), coarse[objects])


def _official(folder, shape=(24, 32)):
  """A labelled file with three frames, axes as MATLAB writes them."""
  h5py = pytest.importorskip("h5py", reason="h5py is not installed")
  depth, normals = _corner(shape)
  labels = np.zeros((3, *shape), np.uint16)
  labels[:, 0, :4] = 4, 21, 894, 0
  labels[2, 1:] = 5
  images = np.stack([_picture(i, shape) for i in range(3)])
  with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
    file["images"] = images.transpose(0, 3, 2, 1)
    file["labels"] = labels.transpose(0, 2, 1)
    file["depths"] = np.stack([depth * k for k in (1, 2, 3)]).transpose(0, 2, 1)
  scipy.io.savemat(
    folder / "splits.mat",
    {"trainNdxs": np.array([[3], [1]], np.uint16), "testNdxs": np.array([[2]], np.uint16)},
  )
  return images, depth, normals


def test_official_values(tmp_path):
  images, depth, exact = _official(tmp_path, CORNER)
  dataset = _build(tmp_path)
  assert dataset.source("train").keys == ("2", "0")
  assert dataset.source("test").keys == ("1",)
  assert "split: splits.mat; normals: planes fitted to depth" in (dataset.spec.notes)
  example = dataset.source("train")[0]
  np.testing.assert_array_equal(example.inputs, images[2].astype(np.float32) / 255)
  seg, valid = example.targets["segmentation"], example.valid["segmentation"]
  last = int(nyuv2_classes.table(894, 40)[-1])
  np.testing.assert_array_equal(seg[:2, :4], [[21, 0, last, 0], [4] * 4])
  np.testing.assert_array_equal(valid[:2, :4], [[1, 1, 1, 0], [1] * 4])
  np.testing.assert_array_equal(example.targets["depth"], depth * 3)
  known = example.valid["normals"]
  assert known.mean() > 0.3
  cosine = (example.targets["normals"] * exact).sum(-1)[known]
  angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
  assert np.median(angles) < 0.1 and angles.max() < 5


def test_official_without_its_splits_must_be_whole(tmp_path):
  _official(tmp_path)
  (tmp_path / "splits.mat").unlink()
  with pytest.raises(ValueError, match="has 3 frames, not 1449: put its split"):
    _build(tmp_path)


def test_official_splits_must_fit(tmp_path):
  _official(tmp_path)
  scipy.io.savemat(tmp_path / "splits.mat", {"trainNdxs": [[1]], "testNdxs": [[4]]})
  with pytest.raises(ValueError, match="names frames 4 to 4, but .* has 3"):
    _build(tmp_path)
  (tmp_path / "splits.mat").write_bytes(b"no matlab file" * 20)
  with pytest.raises(ValueError, match=r"Cannot read .*splits.mat"):
    _build(tmp_path)


def test_without_h5py_the_error_tells_what_to_install(tmp_path, monkeypatch):
  (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"")

  def refuse(name):
    raise ImportError(name)

  monkeypatch.setattr(nyuv2_files.importlib, "import_module", refuse)
  with pytest.raises(ValueError, match=r"pip install 'h5py>=3.12'"):
    _build(tmp_path)


def test_a_damaged_labelled_file(tmp_path):
  pytest.importorskip("h5py", reason="h5py is not installed")
  (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"cut off")
  with pytest.raises(ValueError, match=r"Cannot read .*: is it whole\?"):
    _build(tmp_path)


def _mtan(folder, text="+0 -2 +1"):
  depth, normals = _corner()
  stored = _stored(normals, text).astype(np.float64)
  stored[0, :3] = 0
  for part, count in (("train", 11), ("val", 2)):
    for i in range(count):
      label = np.full(CORNER, i, np.float32)
      label[0, 0] = -1
      for name, array in (
        ("image", _picture(i, CORNER) / 255.0),
        ("label", label),
        ("depth", depth[..., None]),
        ("normal", stored),
      ):
        _save(folder / part / name / f"{i}.npy", array)
  return depth, normals


@pytest.mark.parametrize("text", ["+0 -2 +1", "-1 +0 -2"])
def test_mtan_values_and_axes_found_in_the_depth(tmp_path, text):
  depth, exact = _mtan(tmp_path, text)
  dataset = _build(tmp_path, _config(classes=13))
  assert dataset.spec.notes[0] == "found: mtan (11 train, 2 test)"
  assert dataset.spec.notes[-1].endswith(text)
  assert dataset.source("train").keys[-2:] == ("train/9", "train/10")
  example = dataset.source("train")[10]
  np.testing.assert_allclose(example.inputs, _picture(10, CORNER) / 255.0, atol=1e-7)
  assert example.inputs.dtype == np.float32
  np.testing.assert_array_equal(example.targets["segmentation"][0, :2], [0, 10])
  np.testing.assert_array_equal(example.valid["segmentation"][0, :2], [0, 1])
  np.testing.assert_array_equal(example.targets["depth"], depth)
  known = example.valid["normals"]
  np.testing.assert_array_equal(known[0, :4], [0, 0, 0, 1])
  np.testing.assert_allclose(example.targets["normals"][known], exact[known], atol=1e-6)


def test_mtan_knows_13_classes(tmp_path):
  _mtan(tmp_path)
  with pytest.raises(ValueError, match="config.data.classes to 13"):
    _build(tmp_path)
  resized = _build(tmp_path, _config(classes=13, height=48, width=64))
  inputs = resized.source("test")[1].inputs
  assert inputs.shape == (48, 64, 3) and inputs.dtype == np.float32
  assert 0 <= inputs.min() < inputs.max() <= 1


def test_labels_between_the_classes(tmp_path):
  _mtan(tmp_path)
  for wrong in (0.5, np.nan):
    label = np.zeros(CORNER)
    label[1, 1] = wrong
    _save(tmp_path / "val" / "label" / "1.npy", label)
    source = _build(tmp_path, _config(classes=13)).source("test")
    with pytest.raises(ValueError, match="'val/1': .* are no class ids"):
      source[1]


def test_axes_that_do_not_show_must_be_given(tmp_path):
  _mtan(tmp_path)
  flat = np.full(CORNER, 2.0, np.float32)
  for path in tmp_path.glob("*/depth/*.npy"):
    _save(path, flat)
  with pytest.raises(ValueError, match="do not show in the depth.* Give"):
    _build(tmp_path, _config(classes=13))
  given = _build(tmp_path, _config(classes=13, normal_axes="+0 +1 -2"))
  assert given.spec.notes[-1].endswith("+0 +1 -2")
  for path in tmp_path.glob("*/depth/*.npy"):
    path.unlink()
  with pytest.raises(ValueError, match="find out the axes.*Or give"):
    _build(tmp_path, _config(classes=13, tasks=("normals",)))


def _nyud_mt(folder, seg, normals, depth):
  exact_depth, exact = _corner()
  stored = _stored(exact, "+0 +1 +2")
  label = np.ones(CORNER, np.uint8)
  label[0, :3] = 0, 40, 255
  for key in ("7", "9", "11"):
    _save(folder / "images" / f"{key}.jpg", _picture(0, CORNER))
    _save(folder / "segmentation" / f"{key}{seg}", label)
    _save(folder / "normals" / f"{key}{normals}", stored if normals == ".npy" else _bytes(stored))
    _save(folder / "depth" / f"{key}{depth}", exact_depth)
  (folder / "gt_sets").mkdir()
  (folder / "gt_sets" / "train.txt").write_text("9\n7\n")
  (folder / "gt_sets" / "val.txt").write_text("11\n")
  return exact_depth, exact


@pytest.mark.parametrize("endings", [(".png", ".npy", ".npy"), (".mat", ".jpg", ".mat")])
def test_nyud_mt_values(tmp_path, endings):
  depth, exact = _nyud_mt(tmp_path, *endings)
  dataset = _build(tmp_path)
  assert dataset.spec.notes[0] == "found: nyud_mt (2 train, 1 test)"
  assert dataset.source("train").keys == ("9", "7")
  example = dataset.source("test")[0]
  with Image.open(tmp_path / "images" / "11.jpg") as picture:
    np.testing.assert_array_equal(example.inputs, np.asarray(picture, np.float32) / np.float32(255))
  np.testing.assert_array_equal(example.targets["segmentation"][0, :4], [0, 39, 0, 0])
  np.testing.assert_array_equal(example.valid["segmentation"][0, :4], [0, 1, 0, 1])
  np.testing.assert_array_equal(example.targets["depth"], depth)
  cosine = (example.targets["normals"] * exact).sum(-1)
  assert np.quantile(cosine[example.valid["normals"]], 0.01) > 0.99
  assert example.valid["normals"].mean() > 0.98


def test_a_folder_that_holds_nothing_known(tmp_path):
  (tmp_path / "pictures").mkdir()
  (tmp_path / "README").write_text("")
  with pytest.raises(ValueError) as error:
    _build(tmp_path)
  text = str(error.value)
  assert "holds README, pictures/, which is not one of its layouts" in text
  for name, help_text in nyuv2_layouts.HELP.items():
    assert f"\n  {name}:\n" in text and help_text in text
    assert "http" in help_text
  for data_dir, message in (
    ("", "tell where it lies with config.data_dir"),
    (str(tmp_path / "no"), "there is no folder"),
  ):
    with pytest.raises(ValueError, match=message):
      nyuv2.build(_config(), _switches(), data_dir or None, 0)


def test_a_folder_that_holds_two(tmp_path):
  _lists(_adashare(tmp_path), ("0002",), ("0000",))
  (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"")
  with pytest.raises(ValueError, match="holds official and adashare; choose"):
    _build(tmp_path)
  assert _build(tmp_path, _config(layout="adashare")).spec.sizes["train"] == 1
  with pytest.raises(ValueError, match="which is not mtan. It must hold"):
    _build(tmp_path, _config(layout="mtan"))
  with pytest.raises(ValueError, match="Did you mean 'adashare'"):
    _build(tmp_path, _config(layout="adshare"))


def test_lists_that_are_none(tmp_path):
  _adashare(tmp_path)
  for text, message in (
    ("{", "Cannot read"),
    ("[1]", "'train' must list"),
    ('{"train": [["a", "b"]]}', "'train' must list"),
    ('{"train": [], "test": [[1, 2, 3, 4]]}', "'test' must list"),
  ):
    (tmp_path / "nyu_v2_3task.json").write_text(text)
    with pytest.raises(ValueError, match=message):
      _build(tmp_path)
  _lists(tmp_path, ("0002", "0003"), ("0000",))
  with pytest.raises(ValueError, match=r"lacks 4 of 12 files, first img/0003"):
    _build(tmp_path)


def test_damaged_examples_are_named(tmp_path):
  dataset = _build(_adashare(tmp_path))
  source = dataset.source("test")
  _save(tmp_path / "seg" / "0000.png", np.full(SMALL, 41, np.uint8))
  with pytest.raises(
    ValueError,
    match="'img/0000.png': its segmentation has "
    r"the id 41; known are 0 to 39, and \(255,\) for none",
  ):
    source[0]
  _save(tmp_path / "seg" / "0000.png", _picture(0))
  with pytest.raises(ValueError, match=r"segmentation has the shape \(4, 6, 3"):
    source[0]
  _save(tmp_path / "seg" / "0000.png", np.zeros((4, 5), np.uint8))
  with pytest.raises(ValueError, match="its parts differ in size"):
    source[0]
  sized = _build(tmp_path, _config(height=4, width=6)).source("test")
  assert sized[0].targets["segmentation"].shape == SMALL
  (tmp_path / "seg" / "0000.png").write_bytes(b"")
  with pytest.raises(ValueError, match="Cannot read .*seg/0000.png"):
    source[0]


@pytest.mark.parametrize(
  "values, message",
  [
    ({"tasks": ()}, r"is \(\); name one or more of"),
    ({"tasks": ("depth", "depth")}, "each once"),
    ({"tasks": ("normal",)}, "Did you mean 'normals'"),
    ({"classes": 14}, "must be 40 or 13"),
    ({"height": 4}, "both be at least 1"),
    ({"height": -4, "width": 4}, "both be at least 1"),
    ({"normal_axes": "x y z"}, "config.data.normal_axes is 'x y z'"),
  ],
)
def test_wrong_values(tmp_path, values, message):
  with pytest.raises(ValueError, match=message):
    _build(_adashare(tmp_path), _config(**values))


def test_the_authors_take_bytes_for_directions(tmp_path):
  _adashare(tmp_path)
  stored = np.full((*SMALL, 3), (90, 30, 60), np.uint8)
  stored[0, :3] = (255, 3, 4), (127, 128, 127), (0, 0, 0)
  _save(tmp_path / "normal_mask" / "0002.png", stored)
  dataset = _build(tmp_path, normals="raw")
  example = dataset.source("train")[0]
  normals, valid = example.targets["normals"], example.valid["normals"]
  # OpenCV reads blue, green, red: (60, 30, 90) / sqrt(12600).
  np.testing.assert_allclose(normals[1, 1], [0.534522, 0.267261, 0.801784], atol=1e-6)
  # What is nearly no normal is a direction; one byte of 255 is none.
  np.testing.assert_allclose(normals[0, 1], [0.575835, 0.580369, 0.575835], atol=1e-6)
  np.testing.assert_array_equal(normals[0, 2], [0, 0, 0])
  np.testing.assert_array_equal(valid[0], [0, 1, 1, 1, 1, 1])
  assert not dataset.augment.normals_negated
  assert "raw bytes, blue first; mirroring leaves them" in (dataset.spec.notes[-1])
  with pytest.raises(ValueError, match="compat.normals is 'byte'"):
    _build(tmp_path, normals="byte")


def test_raw_normals_need_pictures(tmp_path):
  _mtan(tmp_path)
  with pytest.raises(ValueError, match="needs normals stored as pictures"):
    _build(tmp_path, _config(classes=13), normals="raw")


@pytest.mark.parametrize("mirror, sign", [("negated", -1), ("plain", 1)])
def test_a_mirrored_normal_points_to_the_other_side(tmp_path, mirror, sign):
  _adashare(tmp_path)
  dataset = _build(tmp_path, _config(crop=SMALL, scales=(1.0, 1.0)), mirror=mirror)
  example = dataset.source("train")[0]
  one = np.float32(1)
  draw = transforms.Draw(one, np.bool_(True), np.float32(0), np.float32(0), np.ones(3, np.float32))
  mirrored = dataset.augment.example(example, draw)
  right = mirrored.targets["normals"][0, -1]
  np.testing.assert_allclose(right, [sign, 0, 0], atol=0.006)
  assert mirrored.valid["normals"][0, -1]
  np.testing.assert_allclose(mirrored.targets["normals"][0, -2], [0, -1, 0], atol=0.006)


def test_examples_can_be_read_in_other_processes(tmp_path):
  dataset = _build(_adashare(tmp_path))
  source = dataset.source("train")
  twin = pickle.loads(pickle.dumps(source))
  for task in nyuv2.TASKS:
    np.testing.assert_array_equal(twin[0].targets[task], source[0].targets[task])
  fields = source.read(source.keys[0])
  assert {k: v.dtype for k, v in fields.items()} == {
    "image": np.uint8,
    "segmentation": np.uint8,
    "normals": np.uint8,
    "depth": np.float32,
  }


def test_the_labelled_file_can_be_read_in_other_processes(tmp_path):
  _official(tmp_path)
  source = _build(tmp_path, _config(tasks=("depth",))).source("train")
  twin = pickle.loads(pickle.dumps(source))
  assert isinstance(twin.read, nyuv2_files.LabeledReader)
  np.testing.assert_array_equal(twin[1].inputs, source[1].inputs)


def test_an_outline_needs_no_files():
  spec = nyuv2.outline(
    ml_collections.ConfigDict(nyuv2.defaults()), _switches(selection="validation")
  )
  assert spec.input_shape == (480, 640, 3) and spec.crop == (321, 321)
  assert spec.sizes == {"train": 716, "validation": 79, "test": 654}
  assert [t.outputs for t in spec.tasks] == [40, 3]
  small = nyuv2.outline(_config(layout="mtan", classes=13), _switches())
  assert small.input_shape == (288, 384, 3)
  sized = nyuv2.outline(_config(height=60, width=80), _switches())
  assert sized.input_shape == (60, 80, 3)


@pytest.fixture(name="samples", scope="module")
def _samples(data_folder):
  folder = data_folder / "nyuv2_adashare_samples"
  if not folder.is_dir():
    pytest.skip(f"no {folder}")
  return folder


def test_real_samples(samples):
  dataset = _build(samples, _config(samples_only=True))
  assert dataset.spec.input_shape == (480, 640, 3)
  source = dataset.source("test")
  assert source.keys == tuple(f"img/{s}.png" for s in ("0061", "0295", "0774", "1314"))
  example = source[0]
  seg = example.targets["segmentation"][example.valid["segmentation"]]
  np.testing.assert_array_equal(np.unique(seg), [0, 7, 16, 20, 24, 26, 39])
  assert example.valid["segmentation"].mean() == pytest.approx(0.870316, abs=1e-6)
  depth = example.targets["depth"]
  assert (depth.min(), depth.max()) == pytest.approx((1.2457045, 2.4128911))
  assert example.valid["depth"].all()
  for example in source:
    normals, valid = example.targets["normals"], example.valid["normals"]
    np.testing.assert_allclose((normals**2).sum(-1), 1, rtol=1e-5)
    assert 0.59 < valid.mean() < 0.78
    assert not valid[:41].any() and not valid[472:].any()
    assert normals[valid][:, 2].mean() < -0.5  # towards the camera


def test_real_normals_agree_with_planes_fitted_to_the_depth(samples):
  source = _build(samples, _config(samples_only=True)).source("test")
  everything, pairs = [], []
  for example in source:
    fitted, usable = surface_normals.fit(
      example.targets["depth"], surface_normals.kinect((480, 640))
    )
    both = usable & example.valid["normals"]
    one, other = example.targets["normals"][both], fitted[both]
    everything.append(np.degrees(np.arccos(np.clip((one * other).sum(-1), -1, 1))))
    pairs.append((one, other))
    assert np.median(everything[-1]) < 4
  angles = np.concatenate(everything)
  assert np.median(angles) < 2 and angles.mean() < 5
  axes, best, second = surface_normals.match(pairs)
  assert axes == surface_normals.Axes() and best > 0.97 and second < 0.6


def test_real_labels_of_13_classes(samples):
  dataset = _build(samples, _config(samples_only=True, classes=13, tasks=("segmentation",)))
  for place, key in enumerate(dataset.source("test").keys):
    with Image.open(samples / key.replace("img", "seg13")) as picture:
      stored = np.asarray(picture).astype(np.int32)  # from 1, 0 for none
    example = dataset.source("test")[place]
    np.testing.assert_array_equal(
      np.where(example.valid["segmentation"], example.targets["segmentation"] + 1, 0), stored
    )
