"""Cityscapes: its layouts, classes, parts, depths, splits and errors."""

from __future__ import annotations

import json
import pickle

import ml_collections
import numpy as np
from PIL import Image
import pytest

from dynashare_jax import types
from dynashare_jax.data.cityscapes import dataset as cityscapes
from dynashare_jax.data.cityscapes import labels as cityscapes_labels
from dynashare_jax.data.cityscapes import layouts as cityscapes_layouts
from dynashare_jax.data.pictures import augment as transforms

SIZE = (8, 16)
STORED = {"height": 0, "width": 0}
# Every label id with its train id and category, as they are published.
PUBLISHED = (
  (0, 255, "void"),
  (1, 255, "void"),
  (2, 255, "void"),
  (3, 255, "void"),
  (4, 255, "void"),
  (5, 255, "void"),
  (6, 255, "void"),
  (7, 0, "flat"),
  (8, 1, "flat"),
  (9, 255, "flat"),
  (10, 255, "flat"),
  (11, 2, "construction"),
  (12, 3, "construction"),
  (13, 4, "construction"),
  (14, 255, "construction"),
  (15, 255, "construction"),
  (16, 255, "construction"),
  (17, 5, "object"),
  (18, 255, "object"),
  (19, 6, "object"),
  (20, 7, "object"),
  (21, 8, "nature"),
  (22, 9, "nature"),
  (23, 10, "sky"),
  (24, 11, "human"),
  (25, 12, "human"),
  (26, 13, "vehicle"),
  (27, 14, "vehicle"),
  (28, 15, "vehicle"),
  (29, 255, "vehicle"),
  (30, 255, "vehicle"),
  (31, 16, "vehicle"),
  (32, 17, "vehicle"),
  (33, 18, "vehicle"),
)


def _config(**values):
  base = {**cityscapes.defaults(), **STORED, "validation": "test"}
  return ml_collections.ConfigDict({**base, **values})


def _switches(**values):
  return ml_collections.ConfigDict({"selection": "test", **cityscapes.compat(), **values})


def _build(folder, config=None, **switches):
  return cityscapes.build(config or _config(), _switches(**switches), str(folder), 0)


def _save(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".npy":
    np.save(path, array)
  else:
    Image.fromarray(array).save(path)


def _picture(number):
  rng = np.random.default_rng(number)
  return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def _ids():
  """A picture with every label id, and 255."""
  ids = np.zeros(SIZE, np.uint8)
  ids.flat[:34] = np.arange(34)
  ids.flat[34] = 255
  return ids


def _codes():
  """Disparities: not known, infinitely far, and d = 1/256, 1, 10, 126 px."""
  codes = np.full(SIZE, 257, np.uint16)
  codes[0, :6] = 0, 1, 2, 257, 2561, 32257
  return codes


def _uids():
  uids = np.full(SIZE, 7, np.int32)
  uids[0, :12] = (
    24,
    26002,
    2401001,
    2500302,
    2499903,
    2400004,
    2400105,
    2600000,
    2600101,
    2712302,
    2800405,
    3200101,
  )
  uids[1, :2] = 2700003, 2600104
  return uids


PARTS = ([0, 0, 1, 2, 3, 4, 0, 0, 5, 6, 9, 0], [7, 8])
NAMES = (
  ("train", "aachen", "aachen_000001_000019"),
  ("train", "ulm", "ulm_000000_000019"),
  ("val", "munster", "munster_000002_000019"),
)


def _official(folder, names=NAMES, ids="labelIds", nested=False):
  def root(kind, archive="trainvaltest"):
    return folder / f"{kind}_{archive}" / kind if nested else folder / kind

  for number, (part, city, stem) in enumerate(names):
    _save(root("leftImg8bit") / part / city / f"{stem}_leftImg8bit.png", _picture(number))
    labels = _ids()
    if ids == "labelTrainIds":
      table = np.full(256, 255, np.uint8)
      for label, train, _ in PUBLISHED:
        table[label] = train
      labels = table[labels]
    _save(root("gtFine") / part / city / f"{stem}_gtFine_{ids}.png", labels)
    _save(root("disparity") / part / city / f"{stem}_disparity.png", _codes())
    _save(
      root("gtFinePanopticParts", "trainval") / part / city / f"{stem}_gtFinePanopticParts.tif",
      _uids(),
    )
    camera = root("camera") / part / city / f"{stem}_camera.json"
    camera.parent.mkdir(parents=True, exist_ok=True)
    camera.write_text(
      json.dumps(
        {
          "extrinsic": {"baseline": 0.25, "pitch": 0.05},
          "intrinsic": {"fx": 2000.0, "fy": 2100.0, "u0": 1, "v0": 1},
        }
      )
    )
  return folder


@pytest.mark.parametrize("nested", [False, True])
def test_official_splits_and_pictures(tmp_path, nested):
  dataset = _build(_official(tmp_path, nested=nested))
  assert dataset.source("train").keys == (
    "train/aachen/aachen_000001_000019",
    "train/ulm/ulm_000000_000019",
  )
  assert dataset.source("test").keys == ("val/munster/munster_000002_000019",)
  assert dataset.spec.notes == (
    "found: official (2 train, 1 test)",
    "validation is the test split (compat.selection)",
    "depth is disparity, so inverse depth: the official 16-bit number / 65535",
  )
  example = dataset.source("train")[1]
  assert example.inputs.dtype == np.float32
  np.testing.assert_array_equal(example.inputs, _picture(1).astype(np.float32) / 255)
  assert example.present == np.ones((), bool)
  assert dataset.arrays("train").inputs.shape == (2, *SIZE, 3)


@pytest.mark.parametrize("ids", ["labelIds", "labelTrainIds"])
@pytest.mark.parametrize("classes", [19, 7])
def test_every_label_id(tmp_path, ids, classes):
  dataset = _build(_official(tmp_path, ids=ids), _config(classes=classes))
  task = dataset.spec.tasks[0]
  assert task.outputs == len(task.classes) == classes
  example = dataset.source("test")[0]
  labels, valid = (example.targets["segmentation"], example.valid["segmentation"])
  assert labels.dtype == np.int32 and valid.dtype == np.bool_
  for label, train, category in PUBLISHED:
    known = train != 255
    assert valid.flat[label] == known
    if not known:
      assert labels.flat[label] == -1
    elif classes == 19:
      assert labels.flat[label] == train
    else:
      assert task.classes[labels.flat[label]] == category
  assert not valid.flat[34:].any()
  np.testing.assert_array_equal(labels.flat[34:], -1)


def test_class_names():
  names = cityscapes_labels.CLASSES[19]
  assert [names[i] for i in (0, 8, 13, 18)] == ["road", "vegetation", "car", "bicycle"]
  assert cityscapes_labels.CLASSES[7] == (
    "flat",
    "construction",
    "object",
    "nature",
    "sky",
    "human",
    "vehicle",
  )


def test_parts_of_universal_ids(tmp_path):
  dataset = _build(_official(tmp_path), _config(tasks=("segmentation", "parts", "depth")))
  task = dataset.spec.tasks[1]
  assert (task.kind, task.outputs, task.weight) == ("segmentation", 10, 1.0)
  assert task.classes[1] == "human torso" and task.classes[8] == ("vehicle license plate")
  example = dataset.source("test")[0]
  parts = example.targets["parts"]
  assert parts.dtype == np.int32 and example.valid["parts"].all()
  np.testing.assert_array_equal(parts[0, :12], PARTS[0])
  np.testing.assert_array_equal(parts[1, :2], PARTS[1])
  assert not parts[2:].any()


def test_disparity_by_hand(tmp_path):
  example = _build(_official(tmp_path)).source("test")[0]
  depth, valid = example.targets["depth"], example.valid["depth"]
  assert depth.dtype == np.float32
  np.testing.assert_array_equal(valid[0, :6], [0, 0, 1, 1, 1, 1])
  np.testing.assert_allclose(
    depth[0, :6], [0, 0, 3.05180e-5, 0.00392157, 0.0390783, 0.492210], rtol=1e-5
  )


def test_metres_by_hand(tmp_path):
  _official(tmp_path)
  dataset = _build(tmp_path, _config(depth="metres"))
  assert dataset.spec.tasks[1].unit == "m"
  assert dataset.augment.depth_scaled
  assert dataset.spec.notes[-1] == (
    "depth in metres: baseline times focal length / disparity, up to 80 m"
  )
  example = dataset.source("test")[0]
  # 0.25 m times 2000 px is 500: / 10 and / 126 px; 500 m is too far.
  np.testing.assert_array_equal(example.valid["depth"][0, :6], [0, 0, 0, 0, 1, 1])
  np.testing.assert_allclose(example.targets["depth"][0, :6], [0, 0, 0, 0, 50, 3.968254], rtol=1e-6)
  every = _build(tmp_path, _config(depth="metres", farthest=0.0))
  example = every.source("test")[0]
  np.testing.assert_array_equal(example.valid["depth"][0, :6], [0, 0, 1, 1, 1, 1])
  np.testing.assert_allclose(example.targets["depth"][0, 2:4], [128000, 500])


def test_pixels_by_hand(tmp_path):
  _official(tmp_path)
  example = _build(tmp_path, _config(depth="pixels")).source("test")[0]
  # One pixel of 16 is 128 of the original 2048.
  np.testing.assert_array_equal(example.valid["depth"][0, :6], [0, 1, 1, 1, 1, 1])
  np.testing.assert_allclose(
    example.targets["depth"][0, :6], np.array([0, 0, 1 / 256, 1, 10, 126]) / 128, rtol=1e-6
  )
  half = _build(tmp_path, _config(depth="pixels", height=4, width=8))
  assert half.source("test")[0].targets["depth"].max() == np.float32(1 / 256)


def test_enlarging_a_picture_multiplies_disparity_and_divides_metres(tmp_path):
  _official(tmp_path)
  for depth, factor in (("disparity", 2), ("metres", 0.5)):
    dataset = _build(tmp_path, _config(depth=depth, tasks=("depth",), crop=(16, 32), farthest=0.0))
    example = dataset.source("train")[0]
    draw = transforms.Draw(
      np.float32(2), np.bool_(False), np.float32(0), np.float32(0), np.ones(3, np.float32)
    )
    found = dataset.augment.example(example, draw).targets["depth"]
    np.testing.assert_allclose(
      found, factor * example.targets["depth"].repeat(2, 0).repeat(2, 1)[:16, :32], rtol=1e-6
    )


def test_tasks_order_and_weights(tmp_path):
  spec = _build(
    _official(tmp_path), _config(tasks=("depth", "segmentation")), metrics="authors"
  ).spec
  assert spec.tasks == (
    types.TaskSpec("depth", "depth", 1, 20.0, unit="disparity", inverse=True, metrics="authors"),
    types.TaskSpec(
      "segmentation", "segmentation", 19, 1.0, cityscapes_labels.CLASSES[19], metrics="authors"
    ),
  )
  assert spec.crop == (224, 224)


def test_everything_is_resized(tmp_path):
  dataset = _build(_official(tmp_path), _config(tasks=cityscapes.TASKS, height=4, width=8))
  assert dataset.spec.input_shape == (4, 8, 3)
  example = dataset.source("train")[0]
  for task in cityscapes.TASKS:
    assert example.targets[task].shape == example.valid[task].shape == (4, 8)
  # Labels are picked: rows and columns 1, 3, ...
  whole = _build(tmp_path).source("train")[0].targets["segmentation"]
  np.testing.assert_array_equal(example.targets["segmentation"], whole[1::2, 1::2])
  assert abs(example.inputs.mean() - _picture(0).mean() / 255) < 0.01
  raw = dataset.source("train").read("train/ulm/ulm_000000_000019")
  assert {name: (array.dtype.name, array.shape[:2]) for name, array in raw.items()} == {
    "image": ("uint8", (4, 8)),
    "segmentation": ("uint8", (4, 8)),
    "depth": ("uint16", (4, 8)),
    "parts": ("int32", (4, 8)),
  }


def test_the_default_size_is_the_papers(tmp_path):
  config = ml_collections.ConfigDict(cityscapes.defaults())
  dataset = cityscapes.build(config, _switches(), str(_official(tmp_path)), 0)
  assert dataset.source("test")[0].inputs.shape == (256, 512, 3)


def test_validation_from_train_or_test(tmp_path):
  names = [("train", "ulm", f"ulm_{i:06}_000019") for i in range(10)]
  names += [("val", "lindau", f"lindau_{i:06}_000019") for i in range(4)]
  _official(tmp_path, names)
  keys = lambda d: {s: set(d.source(s).keys) for s in types.SPLITS}
  share = keys(_build(tmp_path, _config(validation="train"), selection="validation"))
  assert [len(share[s]) for s in types.SPLITS] == [9, 1, 4]
  assert len(share["train"] | share["validation"]) == 10
  assert all(key.startswith("val/") for key in share["test"])
  halves = keys(_build(tmp_path, selection="validation"))
  assert [len(halves[s]) for s in types.SPLITS] == [10, 2, 2]
  assert not halves["validation"] & halves["test"]


def test_missing_files_are_named(tmp_path):
  _official(tmp_path)
  lost = "disparity/val/munster/munster_000002_000019_disparity.png"
  (tmp_path / lost).unlink()
  with pytest.raises(ValueError, match=rf"lacks 1 of 9 files, first {lost}"):
    _build(tmp_path)
  _build(tmp_path, _config(tasks=("segmentation",)))
  for path in (tmp_path / "camera").rglob("*.json"):
    path.unlink()
  with pytest.raises(ValueError, match=r"lacks 4 of 12 .*aachen.*camera.json"):
    _build(tmp_path, _config(depth="metres"))


def test_damaged_files_are_named(tmp_path):
  _official(tmp_path)
  place = "val/munster/munster_000002_000019"
  camera = tmp_path / "camera" / f"{place}_camera.json"
  camera.write_text('{"extrinsic": {}}')
  with pytest.raises(ValueError, match=r"munster.*baseline and intrinsic.fx"):
    _build(tmp_path, _config(depth="metres")).source("test")[0]
  camera.write_text('{"extrinsic": {"baseline": 0}, "intrinsic": {"fx": 1}}')
  with pytest.raises(ValueError, match=r"must be above 0; they are \[0.0, 1"):
    _build(tmp_path, _config(depth="metres")).source("test")[0]
  _save(tmp_path / "disparity" / f"{place}_disparity.png", np.zeros(SIZE, np.uint8))
  with pytest.raises(ValueError, match="8 bits a pixel; disparity has 16"):
    _build(tmp_path).source("test")[0]
  (tmp_path / "leftImg8bit" / f"{place}_leftImg8bit.png").write_bytes(b"cut")
  with pytest.raises(ValueError, match="Example 'val/munster.*Cannot read"):
    _build(tmp_path).source("test")[0]


def test_ids_that_are_no_labels(tmp_path):
  _official(tmp_path)
  ids = _ids()
  ids[3, 3] = 34
  _save(tmp_path / "gtFine/val/munster/munster_000002_000019_gtFine_labelIds.png", ids)
  with pytest.raises(ValueError, match="munster.*has the id 34, which is neit"):
    _build(tmp_path).source("test")[0]


def test_parts_that_differ_in_size(tmp_path):
  _official(tmp_path)
  _save(
    tmp_path / "disparity/val/munster/munster_000002_000019_disparity.png",
    np.zeros((4, 8), np.uint16),
  )
  with pytest.raises(ValueError, match="parts differ in size.*height and wid"):
    _build(tmp_path).source("test")[0]
  assert (
    _build(tmp_path, _config(height=8, width=16)).source("test")[0].targets["depth"].shape == SIZE
  )


def _arrays(number):
  """Label arrays of 19 and 7 classes with void, and depth."""
  labels = np.full(SIZE, number % 19, np.float64)
  labels[0, :4] = -1, 255, 0, 18
  coarse = np.full(SIZE, 4, np.float64)
  coarse[0, :4] = -1, 255, 0, 6
  depth = np.full((*SIZE, 1), 0.25, np.float64)
  depth[0, :3, 0] = 0, 2e-5, np.nan
  return labels, coarse, depth


def _check_arrays(dataset, example, number, classes):
  np.testing.assert_allclose(example.inputs, _picture(number) / 255, atol=1e-7)
  assert example.inputs.dtype == np.float32
  labels, valid = (example.targets["segmentation"], example.valid["segmentation"])
  np.testing.assert_array_equal(
    labels[0, :5], [-1, -1, 0, classes - 1, number % 19 if classes == 19 else 4]
  )
  np.testing.assert_array_equal(valid[0, :5], [0, 0, 1, 1, 1])
  depth, valid = example.targets["depth"], example.valid["depth"]
  np.testing.assert_array_equal(depth[0, :4], np.float32([0, 0, 0, 0.25]))
  np.testing.assert_array_equal(valid[0, :4], [0, 0, 0, 1])
  assert depth.shape == SIZE and depth.dtype == np.float32
  assert dataset.spec.tasks[1].unit == "disparity"


def _adashare(folder):
  names = {"train": (3, 2), "train1": (3,), "train2": (2,), "test": (5,)}
  lists = {}
  for split, numbers in names.items():
    lists[split] = [
      [f"{kind}/{i}.npy" for kind in ("image", "depth", "label_2", "label_7", "label_19")]
      for i in numbers
    ]
    for i in numbers:
      labels, coarse, depth = _arrays(i)
      for kind, array in (
        ("image", _picture(i) / 255.0),
        ("depth", depth),
        ("label_7", coarse),
        ("label_19", labels),
      ):
        _save(folder / kind / f"{i}.npy", array)
  (folder / "cityscape.json").write_text(json.dumps(lists))
  return folder


@pytest.mark.parametrize("classes", [19, 7])
def test_adashare_values(tmp_path, classes):
  dataset = _build(_adashare(tmp_path), _config(classes=classes))
  assert dataset.spec.notes[0] == "found: adashare (2 train, 1 test)"
  assert dataset.spec.notes[-1].startswith(
    "depth is disparity, so inverse depth: as the files hold it"
  )
  assert dataset.source("train").keys == ("image/3.npy", "image/2.npy")
  _check_arrays(dataset, dataset.source("test")[0], 5, classes)


def test_adashare_has_no_parts_and_no_cameras(tmp_path):
  _adashare(tmp_path)
  with pytest.raises(ValueError, match="AdaShare's files have no parts"):
    _build(tmp_path, _config(tasks=("parts",)))
  with pytest.raises(ValueError, match="layout adashare has no cameras"):
    _build(tmp_path, _config(depth="metres"))
  with pytest.raises(ValueError, match="adashare .* holds disparity without its"):
    _build(tmp_path, _config(depth="pixels"))


def test_adashare_lists_of_another_form(tmp_path):
  _adashare(tmp_path)
  (tmp_path / "cityscape.json").write_text('{"train": [["a", "b"]]}')
  with pytest.raises(ValueError, match="'train' must list, for every example"):
    _build(tmp_path)
  (tmp_path / "cityscape.json").write_text("{")
  with pytest.raises(ValueError, match=r"Cannot read .*cityscape.json"):
    _build(tmp_path)


def _mtan(folder, labels=("label_7", "label_19")):
  for part, count in (("train", 11), ("val", 2)):
    for i in range(count):
      fine, coarse, depth = _arrays(i)
      parts = np.zeros(SIZE, np.float32)
      parts[0, :3] = 9, -1, 255
      for kind, array in (("image", _picture(i) / 255.0), ("depth", depth), ("part", parts)):
        _save(folder / part / kind / f"{i}.npy", array)
      for kind in labels:
        _save(folder / part / kind / f"{i}.npy", fine if kind == "label_19" else coarse)
  return folder


@pytest.mark.parametrize(
  ("labels", "classes"),
  [
    (("label_7", "label_19"), 7),
    (("label_7", "label_19"), 19),
    (("label",), 7),
    (("label_19",), 19),
  ],
)
def test_mtan_values(tmp_path, labels, classes):
  dataset = _build(_mtan(tmp_path, labels), _config(classes=classes))
  assert dataset.spec.notes[0] == "found: mtan (11 train, 2 test)"
  assert dataset.source("train").keys[-2:] == ("train/9", "train/10")
  assert dataset.source("test").keys == ("val/0", "val/1")
  _check_arrays(dataset, dataset.source("train")[10], 10, classes)


def test_mtan_parts(tmp_path):
  example = _build(_mtan(tmp_path), _config(tasks=("parts",))).source("test")[0]
  np.testing.assert_array_equal(example.targets["parts"][0, :4], [9, -1, -1, 0])
  np.testing.assert_array_equal(example.valid["parts"][0, :4], [1, 0, 0, 1])


def test_7_classes_follow_from_19_but_not_the_other_way(tmp_path):
  _mtan(tmp_path, ("label_19",))
  labels = _build(tmp_path, _config(classes=7)).source("train")[10].targets["segmentation"]
  # Void, void, road, bicycle, then class 10: sky.
  np.testing.assert_array_equal(labels[0, :5], [-1, -1, 0, 6, 4])
  other = _mtan(tmp_path / "other", ("label",))
  with pytest.raises(ValueError, match="set config.data.classes to 7"):
    _build(other)


def test_arrays_that_are_wrong(tmp_path):
  config = _config(tasks=("segmentation",))
  _mtan(tmp_path)
  labels = np.zeros(SIZE)
  for wrong, text in (
    (0.5, "no class ids"),
    (np.nan, "no class ids"),
    (19, "has the id 19"),
    (-2, "has the id -2"),
  ):
    labels[1, 1] = wrong
    _save(tmp_path / "val" / "label_19" / "1.npy", labels)
    with pytest.raises(ValueError, match=f"'val/1': .*{text}"):
      _build(tmp_path, config).source("test")[1]
  _save(tmp_path / "val" / "image" / "1.npy", _picture(0) * 1.0)
  with pytest.raises(ValueError, match="'val/1': .*floats of 0 to 1"):
    _build(tmp_path, config).source("test")[1]


def test_float_pictures_are_resized(tmp_path):
  dataset = _build(_mtan(tmp_path), _config(height=4, width=8))
  inputs = dataset.source("test")[1].inputs
  assert inputs.shape == (4, 8, 3) and inputs.dtype == np.float32
  assert abs(inputs.mean() - _picture(1).mean() / 255) < 0.01


def _auto_lambda(folder):
  for part, count in (("train", 2), ("val", 1)):
    for i in range(count):
      _save(folder / part / "image" / f"{i}.png", _picture(i))
      _save(folder / part / "seg" / f"{i}.png", _ids())
      _save(folder / part / "depth" / f"{i}.png", _codes())
      _save(folder / part / "part_seg" / f"{i}.tif", _uids())
  return folder


def test_auto_lambda_values(tmp_path):
  dataset = _build(_auto_lambda(tmp_path), _config(tasks=cityscapes.TASKS, depth="pixels"))
  assert dataset.spec.notes[0] == "found: auto_lambda (2 train, 1 test)"
  example = dataset.source("test")[0]
  assert example.targets["segmentation"].flat[26] == 13
  np.testing.assert_array_equal(example.targets["parts"][0, :12], PARTS[0])
  np.testing.assert_allclose(example.targets["depth"][0, 5], 126 / 128)


def test_what_a_worker_process_gets(tmp_path):
  config = _config(tasks=cityscapes.TASKS, depth="metres")
  source = _build(_official(tmp_path), config).source("train")
  copy = pickle.loads(pickle.dumps(source))
  for task in cityscapes.TASKS:
    np.testing.assert_array_equal(copy[1].targets[task], source[1].targets[task])


def test_one_error_lists_all_layouts(tmp_path):
  (tmp_path / "notes.txt").write_text("")
  (tmp_path / "gtFine").mkdir()
  with pytest.raises(ValueError) as caught:
    _build(tmp_path)
  text = str(caught.value)
  assert text.startswith(
    f"Cityscapes: {tmp_path} holds gtFine/, notes.txt, which is not one of its layouts."
  )
  for name, told in cityscapes_layouts.HELP.items():
    assert f"\n  {name}:\n      {told}" in text
    assert "https://" in told
  with pytest.raises(ValueError, match=r"there is no folder .*nowhere.* It "):
    _build(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="tell where it lies with config.data_d"):
    cityscapes.build(_config(), _switches(), None, 0)


def test_two_layouts_in_one_folder(tmp_path):
  _mtan(_official(tmp_path))
  with pytest.raises(ValueError, match="holds official and mtan; choose one"):
    _build(tmp_path)
  chosen = _build(tmp_path, _config(layout="mtan"))
  assert chosen.spec.notes[0].startswith("found: mtan")
  with pytest.raises(ValueError, match="which is not adashare"):
    _build(tmp_path, _config(layout="adashare"))


def test_pictures_of_one_split_only(tmp_path):
  _official(tmp_path, NAMES[:2])
  with pytest.raises(ValueError, match=r"no picture .*val/<city>/<id>_left"):
    _build(tmp_path)


@pytest.mark.parametrize(
  ("values", "text"),
  [
    ({"tasks": ("segmentaton",)}, "Did you mean 'segmentation'"),
    ({"tasks": ()}, "name one or more"),
    ({"tasks": ("depth", "depth")}, "each once"),
    ({"classes": 20}, "it must be 19 or 7"),
    ({"depth": "meters"}, "config.data.depth is 'meters'.*Did you mean 'metr"),
    ({"layout": "offical"}, "Did you mean 'official'"),
    ({"height": 4, "width": 0}, "must both be at least 1"),
    ({"farthest": -1.0}, "farthest is -1.0; it must be at least 0"),
    ({"weights": {"depth": 1.0}}, "no weight of 'segmentation'"),
  ],
)
def test_wrong_values(tmp_path, values, text):
  config = ml_collections.ConfigDict({**cityscapes.defaults(), **STORED, **values})
  with pytest.raises(ValueError, match=text):
    cityscapes.build(config, _switches(), str(_official(tmp_path)), 0)


def test_outline_needs_no_data(tmp_path):
  config = ml_collections.ConfigDict(cityscapes.defaults())
  spec = cityscapes.outline(config, _switches())
  assert spec.sizes == {"train": 2975, "validation": 500, "test": 500}
  assert spec.input_shape == (256, 512, 3) and spec.crop == (224, 224)
  assert cityscapes.outline(_config(layout="official"), _switches()).input_shape == (1024, 2048, 3)
  built = cityscapes.build(config, _switches(), str(_official(tmp_path)), 0)
  assert built.spec.tasks == spec.tasks
