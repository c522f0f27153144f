"""Pictures in folders: the description, values, partial labels, splits."""

from __future__ import annotations

import pickle

import ml_collections
import numpy as np
from PIL import Image
import pytest
import yaml

from dynashare_jax import types
from dynashare_jax.cli import data_check
from dynashare_jax.data.folder import dataset as folder
from dynashare_jax.data.folder import description as folder_description
from dynashare_jax.data.folder import files as folder_files

SIZE = (4, 6)
NAMES = ("a", "b", "c", "d", "e")
SWITCHES = ml_collections.ConfigDict({"selection": "validation", **folder.compat()})
# Of the set of 7 street views; its SOURCE.txt has ids, depths and sky.
SELMA_IDS = {
  1: 2,
  2: 4,
  5: 5,
  6: 0,
  7: 0,
  8: 1,
  9: 8,
  11: 3,
  12: 7,
  13: 10,
  18: 6,
  22: 9,
  40: 11,
  41: 12,
  100: 13,
  101: 14,
  102: 15,
  103: 16,
  104: 17,
  105: 18,
}
SELMA = {
  "pictures": "{town}/CAM_{camera}/{frame}.jpg",
  "tasks": {
    "segmentation": {
      "kind": "segmentation",
      "classes": 19,
      "map": SELMA_IDS,
      "labels": "{town}/SEGCAM_{camera}/{frame}.png",
      "unmapped": "ignore",
    },
    "depth": {
      "kind": "depth",
      "labels": "{town}/DEPTHCAM_{camera}/{frame}.png",
      "channels": [1, 256, 65536],
      "scale": 1000 / (2**24 - 1),
      "range": [0, 999],
    },
  },
  "splits": {
    "train": "*/FRONT*/*",
    "validation": ["*/LEFT/*", "*/RIGHT/*"],
    "test": ["*/BACK/*", "*/DESK/*"],
  },
}


def _save(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".npy":
    np.save(path, array)
  else:
    Image.fromarray(array).save(path)


def _picture(seed, size=SIZE):
  return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def _description(**values):
  return {
    "pictures": "images",
    "tasks": {
      "parts": {
        "kind": "segmentation",
        "labels": "parts/{name}.png",
        "classes": ["one", "two", "three"],
        "ignore": [255],
        "map": {7: "three", 0: 0, 1: 1},
      },
      "depth": {
        "kind": "depth",
        "labels": "depth/{name}.png",
        "scale": 0.001,
        "ignore": [0, 65535],
      },
    },
    "splits": {"train": ["a", "b", "c"], "validation": ["d"], "test": ["e"]},
    **values,
  }


def _write(path, description):
  (path / "dataset.yaml").write_text(yaml.safe_dump(description, sort_keys=False))


@pytest.fixture
def raw(tmp_path):
  """Five examples; only a and e have depth."""
  for i, name in enumerate(NAMES):
    _save(tmp_path / "images" / f"{name}.png", _picture(i))
    ids = np.full(SIZE, i % 2, np.uint8)
    ids[0, :2] = 7, 255
    _save(tmp_path / "parts" / f"{name}.png", ids)
  for name in ("a", "e"):
    depth = np.full(SIZE, 2500, np.uint16)
    depth[0, :3] = 0, 65535, 1
    _save(tmp_path / "depth" / f"{name}.png", depth)
  _write(tmp_path, _description())
  return tmp_path


def _build(path, **values):
  config = ml_collections.ConfigDict({**folder.defaults(), **values})
  return folder.build(config, SWITCHES, str(path), 0)


def test_values_are_decoded(raw):
  dataset = _build(raw)
  spec = dataset.spec
  assert spec.input_shape == (*SIZE, 3)
  assert spec.sizes == {"train": 3, "validation": 1, "test": 1}
  assert [(t.name, t.kind, t.outputs, t.classes, t.unit) for t in spec.tasks] == [
    ("parts", "segmentation", 3, ("one", "two", "three"), ""),
    ("depth", "depth", 1, (), "m"),
  ]
  first, second = dataset.source("train")[0], dataset.source("train")[1]
  np.testing.assert_array_equal(first.inputs, _picture(0) / np.float32(255))
  assert first.inputs.dtype == np.float32
  np.testing.assert_array_equal(first.targets["parts"][0, :3], [2, 0, 0])
  np.testing.assert_array_equal(first.valid["parts"][0, :3], [1, 0, 1])
  assert second.targets["parts"][1, 0] == 1
  assert first.targets["parts"].dtype == np.int32
  # 16 bits in millimetres; 0 and 65535 are no depth.
  np.testing.assert_array_equal(first.valid["depth"][0, :4], [0, 0, 1, 1])
  np.testing.assert_allclose(first.targets["depth"][0, :4], [0, 0, 0.001, 2.5], rtol=1e-6)


@pytest.mark.parametrize("dtype", (np.int16, np.int32, np.float32))
def test_ids_beyond_a_byte(raw, dtype):
  (raw / "parts" / "a.png").unlink()
  stored = np.full(SIZE, 300, dtype)
  stored[0, :3] = -1, 1000, 2
  _save(raw / "parts" / "a.npy", stored)
  parts = {"kind": "segmentation", "labels": "parts", "classes": 3, "ignore": -1}
  _write(
    raw,
    _description(
      tasks={"parts": {**parts, "map": {300: 2, 1000: 0, 2: 1, 0: 0, 1: 1, 7: 2, 255: 0}}}
    ),
  )
  example = _build(raw).source("train")[0]
  np.testing.assert_array_equal(example.targets["parts"][0, :4], [0, 0, 1, 2])
  np.testing.assert_array_equal(example.valid["parts"][0, :4], [0, 1, 1, 1])
  _write(raw, _description(tasks={"parts": parts}))
  with pytest.raises(ValueError, match="its parts has the ids 300.*, 1000.*; known are 0 to 2"):
    _build(raw)
  _write(raw, _description(tasks={"parts": {**parts, "unmapped": "ignore"}}))
  example = _build(raw).source("train")[0]
  assert example.valid["parts"].sum() == 1


def test_a_missing_label_file_means_no_label(raw):
  dataset = _build(raw)
  example = dataset.source("train")[1]
  assert not example.valid["depth"].any()
  assert example.targets["depth"].shape == SIZE
  assert np.isfinite(example.targets["depth"]).all()
  assert example.valid["parts"].mean() > 0.9
  whole = dataset.arrays("train")
  assert whole.valid["depth"].any((1, 2)).tolist() == [True, False, False]


def test_normals_from_bytes_words_and_floats(raw):
  wanted = np.array([0.6, 0.0, -0.8])
  forms = {
    ".png": np.round((wanted + 1) / 2 * 255).astype(np.uint8),
    ".npy": (3 * wanted).astype(np.float64),
  }
  for ending, vector in forms.items():
    stored = np.tile(vector, (*SIZE, 1)).astype(vector.dtype)
    stored[0, 0] = 255 if ending == ".png" else np.nan
    _save(raw / "normals" / f"a{ending}", stored)
    _write(
      raw,
      _description(tasks={"normals": {"kind": "normals", "labels": "normals", "ignore": [255]}}),
    )
    example = _build(raw).source("train")[0]
    np.testing.assert_allclose(example.targets["normals"][2, 3], wanted, atol=0.005)
    np.testing.assert_allclose(np.linalg.norm(example.targets["normals"], axis=-1), 1, rtol=1e-6)
    assert not example.valid["normals"][0, 0] and example.valid["normals"][1, 1]
    (raw / "normals" / f"a{ending}").unlink()
  words = np.round((wanted + 1) / 2 * 65535).astype(np.uint16)
  _save(raw / "normals" / "a.npy", np.tile(words, (*SIZE, 1)))
  _write(
    raw,
    _description(tasks={"normals": {"kind": "normals", "labels": "normals", "axes": "-2 +1 +0"}}),
  )
  example = _build(raw).source("train")[0]
  np.testing.assert_allclose(example.targets["normals"][0, 0], [0.8, 0, 0.6], atol=1e-4)


def test_regression_has_channels_scale_and_offset(raw):
  stored = np.arange(4 * 6 * 2, dtype=np.int16).reshape(*SIZE, 2)
  for name in NAMES:
    _save(raw / "flow" / f"{name}.npy", stored)
  _write(
    raw,
    _description(
      tasks={
        "flow": {
          "kind": "regression",
          "labels": "flow",
          "outputs": 2,
          "scale": "1e-1",
          "offset": -1,
          "range": [-0.95, 100],
          "unit": "px",
          "weight": 3,
        }
      }
    ),
  )
  dataset = _build(raw)
  assert dataset.spec.tasks[0] == types.TaskSpec("flow", "regression", 2, 3.0, unit="px")
  example = dataset.source("test")[0]
  np.testing.assert_allclose(example.targets["flow"][1], stored[1] * 0.1 - 1, rtol=1e-6)
  # A pixel with one channel out of range has no label.
  assert not example.valid["flow"][0, 0]
  assert example.valid["flow"].sum() == 23


def test_yes_and_no_are_mapped_as_classes_are(raw):
  for name in NAMES:
    _save(raw / "masks" / f"{name}.png", np.uint8([[0, 0, 255, 255, 7, 0]] * SIZE[0]))
  task = {"labels": "masks", "classes": 2, "map": {0: 0, 255: 1}, "ignore": 7}
  tasks = {kind: {"kind": kind, **task} for kind in ("saliency", "edges")}
  _write(raw, _description(tasks=tasks))
  example = _build(raw).source("test")[0]
  for kind in tasks:
    assert example.targets[kind][1].tolist() == [0, 0, 1, 1, 0, 0]
    assert example.valid[kind][1].tolist() == [True] * 4 + [False, True]


def test_everything_is_resized_alike(raw):
  dataset = _build(raw, height=2, width=3)
  example = dataset.source("train")[0]
  assert example.inputs.shape == (2, 3, 3)
  # Of two by two pixels the one at the lower right is picked.
  np.testing.assert_array_equal(example.targets["depth"], np.full((2, 3), 2.5, np.float32))
  with pytest.raises(ValueError, match="must both be at least 1, or both 0"):
    _build(raw, height=2)


def test_sources_go_to_worker_processes(raw):
  source = _build(raw).source("train")
  again = pickle.loads(pickle.dumps(source))
  for one, other in zip(source, again, strict=True):
    np.testing.assert_array_equal(one.inputs, other.inputs)
    np.testing.assert_array_equal(one.targets["depth"], other.targets["depth"])


def test_tasks_can_be_chosen(raw):
  assert [t.name for t in _build(raw, tasks=("depth",)).spec.tasks] == ["depth"]
  with pytest.raises(
    ValueError,
    match=r"config\.data\.tasks has 'dept'; .* has"
    r" parts, depth\. Did you mean 'depth'\?",
  ):
    _build(raw, tasks=("dept",))


def test_names_come_from_several_wildcards(tmp_path):
  for town in ("x", "y"):
    for camera in ("left", "right"):
      _save(tmp_path / town / f"cam_{camera}" / "7.png", _picture(1))
      _save(tmp_path / town / f"depth_{camera}" / f"{town}7.npy", np.ones(SIZE, np.float32))
  _save(tmp_path / "x" / "xcam_left" / "7.png", _picture(2))  # no match
  pattern = folder_files.Pattern.read("{town}/cam_{camera}/{frame}", "f")
  found = folder_files.find_pictures(str(tmp_path), pattern, "f")
  assert found == {
    "x/left/7": ("x", "left", "7"),
    "x/right/7": ("x", "right", "7"),
    "y/left/7": ("y", "left", "7"),
    "y/right/7": ("y", "right", "7"),
  }
  _write(
    tmp_path,
    {
      "pictures": "{town}/cam_{camera}/{frame}.png",
      "tasks": {"depth": {"kind": "depth", "labels": "{town}/depth_{camera}/{town}{frame}"}},
      "splits": {"train": "x/*", "validation": "y/left/*", "test": "y/right/7"},
    },
  )
  dataset = _build(tmp_path)
  assert dataset.source("train").keys == ("x/left/7", "x/right/7")
  assert dataset.source("test")[0].valid["depth"].all()
  # A wildcard that repeats is the same text everywhere.
  repeated = folder_files.Pattern.read("{a}/depth_{b}/{a}{c}.npy", "f")
  assert len(list(repeated.find(str(tmp_path)))) == 4
  wrong = folder_files.Pattern.read("{a}/depth_{b}/{b}{c}.npy", "f")
  assert not list(wrong.find(str(tmp_path)))


def test_splits_by_shares_and_text_files(raw):
  for i in range(20):
    _save(raw / "images" / "more" / f"{i:02}.png", _picture(i))
  (raw / "held.txt").write_text("# the hard ones\nmore/03\n\na\n")
  _write(
    raw, _description(splits={"train": 0.5, "validation": 0.25, "test": "held.txt", "seed": 1})
  )
  dataset = _build(raw)
  parts = {s: dataset.source(s).keys for s in types.SPLITS}
  assert parts["test"] == ("a", "more/03")
  assert len(parts["train"]) == 12 and len(parts["validation"]) == 5  # 23 left
  every = [key for keys in parts.values() for key in keys]
  assert len(set(every)) == len(every)
  assert _build(raw).source("train").keys == parts["train"]
  _write(
    raw, _description(splits={"train": 0.5, "validation": 0.25, "test": "held.txt", "seed": 2})
  )
  assert _build(raw).source("train").keys != parts["train"]


def test_without_splits_a_fifth_is_not_trained_on(raw):
  for name in "fghij":
    for part in ("images", "parts"):
      (raw / part / f"{name}.png").write_bytes((raw / part / "a.png").read_bytes())
  description = _description()
  del description["splits"]
  _write(raw, description)
  assert _build(raw).spec.sizes == {"train": 8, "validation": 1, "test": 1}


def test_a_root_may_lie_elsewhere(raw, tmp_path_factory):
  other = tmp_path_factory.mktemp("description")
  _write(other, _description(root=str(raw)))
  assert _build(other).spec.sizes["train"] == 3
  _write(raw / "parts", _description(root=".."))
  assert _build(raw, file="parts/dataset.yaml").spec.sizes["train"] == 3


@pytest.mark.parametrize(
  "change, message",
  [
    (
      {"piktures": "x"},
      r"dataset\.yaml: piktures is unknown\. Did you mean"
      r" 'pictures'\? Known are name, root, pictures, table, tasks, splits\.",
    ),
    (
      {"tasks": {}},
      r"yaml: tasks: must be a mapping with at least one key, but"
      r" is \{\}\.",
    ),
    ({"splits": {"train": 0.8}}, "splits.test: is missing; train and test"),
    (
      {"splits": {"train": 0.8, "test": 0.3}},
      "the shares train 0.8 and test 0.3 add up to 1.1; they must not exceed 1",
    ),
    (
      {"splits": {"train": ["a", "b"], "test": ["b"]}},
      "'b' is in train and in test. If that is meant, say overlap: true.",
    ),
    (
      {"splits": {"train": ["a", "q"], "test": ["b"]}},
      "splits.train: no example is called 'q'.* There are 5, first 'a'",
    ),
    (
      {"splits": {"train": [1], "test": ["b"]}},
      "splits.train: names must be texts, but one is 1: put it in quotes",
    ),
    (
      {"splits": {"train": 0.05, "test": 0.9}},
      "splits.train: 0.05 of 5 examples that no other split names is none",
    ),
    ({"splits": {"train": "no.txt", "test": 0.9}}, "there is no file .*no.txt"),
    ({"pictures": "nothing"}, "no file fits 'nothing/{name}' below"),
    ({"pictures": "../images"}, "must be a path below the root"),
    ({"pictures": "images/{}.png"}, "braces must hold a name, as in {name}"),
  ],
  ids=str,
)
def test_errors_name_file_key_and_what_is_allowed(raw, change, message):
  _write(raw, _description(**change))
  with pytest.raises(ValueError, match=message):
    _build(raw)


@pytest.mark.parametrize(
  "change, message",
  [
    (
      {"knd": "depth"},
      "tasks.depth.knd is unknown for a depth task. Did you"
      " mean 'kind'[?] Known are kind, labels, weight, ignore, channels",
    ),
    (
      {"kind": "deep"},
      "tasks.depth.kind: must be one of colour, depth, edges, normals, regression, saliency,"
      " segmentation, but is 'deep'. Did you mean 'depth'[?]",
    ),
    ({"kind": "segmentation"}, "tasks.depth.scale is unknown for a segmentation task. Known are"),
    ({"scale": [1]}, r"tasks.depth.scale: must be a finite number, but is \[1\]"),
    ({"scale": 0}, "tasks.depth.scale: must not be 0"),
    ({"range": [3, 1]}, r"range: must be \[lowest, highest\], but is \[3.0, 1"),
    ({"range": [3]}, "tasks.depth.range: must have 2 numbers, but has 1"),
    ({"weight": -1}, "tasks.depth.weight: must be at least 0, but is -1"),
    ({"labels": "depth/{nam}.png"}, "{nam} is not in pictures, which has {name}"),
    (
      {"labels": "deep"},
      "tasks.depth.labels: none of the 5 examples has a"
      " label; that of 'a' should be .*deep/a.png or .*a.jpg",
    ),
    ({"channels": [1, 256]}, "its depth has 1 channels, but 2 factors"),
  ],
  ids=str,
)
def test_errors_of_a_task(raw, change, message):
  description = _description()
  description["tasks"]["depth"] |= change
  _write(raw, description)
  with pytest.raises(ValueError, match=message):
    _build(raw)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"classes": 1}, "classes: must be their number or a list"),
    ({"map": {"x": 1}}, "parts.map.x: is no whole number"),
    (
      {"map": {3: "tree"}},
      "parts.map.3: must be a class from 0 to 2 or its"
      " name, but is 'tree'. Did you mean 'three'[?]",
    ),
    ({"unmapped": "drop"}, "must be one of error, ignore, but is 'drop'"),
    (
      {"map": {0: 0, 1: 1}},
      "its parts has the ids 7; known are 2 of its map."
      " Add them to tasks.parts.ignore or map, or say unmapped: ignore",
    ),
  ],
  ids=str,
)
def test_errors_of_classes(raw, change, message):
  description = _description()
  description["tasks"]["parts"] |= change
  _write(raw, description)
  with pytest.raises(ValueError, match=message):
    _build(raw)


def test_files_that_do_not_fit_are_named(raw):
  _save(raw / "depth" / "b.png", np.ones((5, 6), np.uint16))
  with pytest.raises(
    ValueError,
    match="Example 'b': its depth is 5 x 6, its picture 4 x 6. Give config.data.height and width.",
  ):
    _build(raw).source("train")[1]
  (raw / "depth" / "b.png").write_bytes(b"no picture")
  with pytest.raises(ValueError, match=r"Example 'b': Cannot read .*b\.png"):
    _build(raw).source("train")[1]
  _save(raw / "images" / "a.jpg", _picture(0))
  with pytest.raises(ValueError, match="two pictures are called 'a'"):
    _build(raw)


def test_without_a_description(tmp_path):
  with pytest.raises(ValueError, match="tell with config.data_dir"):
    _build("")
  with pytest.raises(
    ValueError,
    match=r"There is no file .*dataset\.yaml that"
    r" describes.*\n  pictures: images",
  ):
    _build(tmp_path)
  (tmp_path / "dataset.yaml").write_text("pictures: [")
  with pytest.raises(ValueError, match=r"dataset\.yaml cannot be read: .*line"):
    _build(tmp_path)
  (tmp_path / "dataset.yaml").write_text("- a")
  with pytest.raises(ValueError, match="must hold the keys name, root"):
    _build(tmp_path)


def test_the_example_in_messages_is_a_description():
  found = yaml.safe_load(folder_description.EXAMPLE)
  parsed = folder_description.parse(found, "example", ".")
  assert [t.name for t in parsed.tasks] == ["segmentation", "depth"]
  assert parsed.splits == {"train": 0.8, "test": 0.2}


def test_street_views_with_two_wildcard_folders(data_folder, tmp_path):
  root = data_folder / "selma_demo"
  if not root.is_dir():
    pytest.skip(f"no {root}")
  _write(tmp_path, {"root": str(root), **SELMA})
  dataset = _build(tmp_path, height=160, width=320)
  assert dataset.spec.sizes == {"train": 3, "validation": 2, "test": 2}
  assert dataset.source("train").keys[0] == (
    "Town01_Opt_ClearNight/FRONT/Town01_Opt_ClearNight_14825380774802470444"
  )
  for split, skies in (("train", (0.03, 0.05)), ("validation", (0.15, 0.35))):
    example = dataset.source(split)[0]
    known = example.valid["segmentation"]
    sky, road = (known & (example.targets["segmentation"] == c) for c in (10, 0))
    assert skies[0] < sky.mean() < skies[1] and road.mean() > 0.2
    assert not example.valid["depth"][sky].any()  # at 1000 m: out of range
    assert example.valid["depth"][road].all()
    # Of a flat road, seen without roll, 1 / depth falls evenly from row to row.
    inverse = np.array(
      [1 / np.median(example.targets["depth"][row][road[row]]) for row in range(110, 156, 5)]
    )
    np.testing.assert_allclose(np.diff(inverse), np.diff(inverse).mean(), rtol=0.02)
  source = _build(tmp_path).source("train")
  fields = source.read(source.keys[0])
  red, green, blue = fields["depth"][500, 700].tolist()
  assert green > 0  # more than one byte counts
  assert source[0].targets["depth"][500, 700] == pytest.approx(
    1000 * (red + 256 * green + 65536 * blue) / (2**24 - 1), rel=1e-6
  )


def test_disparity_is_an_inverse_depth(raw):
  description = yaml.safe_load((raw / "dataset.yaml").read_text())
  description["tasks"]["depth"]["inverse"] = True
  _write(raw, description)
  task = next(t for t in _build(raw).spec.tasks if t.name == "depth")
  assert task.inverse and task.unit == ""
  description["tasks"]["depth"]["inverse"] = "yes"
  _write(raw, description)
  with pytest.raises(ValueError, match="depth.inverse: must be one of false, true, but is"):
    _build(raw)


@pytest.mark.parametrize("dtype", ("uint16", "<f2", ">f4", "f8"))
def test_pictures_of_every_type_are_resized(raw, dtype):
  for name in NAMES:
    (raw / "images" / f"{name}.png").unlink()
    top = 65535 if dtype == "uint16" else 1
    array = np.full(SIZE if dtype == "f8" else (*SIZE, 3), top).astype(dtype)
    _save(raw / "images" / f"{name}.npy", array)
  for size in (SIZE, (2, 3)):
    found = _build(raw, height=size[0], width=size[1]).source("train")[0].inputs
    np.testing.assert_array_equal(found, np.ones((*size, 3), np.float32))


def test_a_jpeg_is_no_label_of_classes(raw):
  ids = np.zeros(SIZE, np.uint8)
  Image.fromarray(ids).save(raw / "parts" / "b.png", "JPEG")
  with pytest.raises(ValueError, match=r"Example 'b': Cannot read .*b\.png .*this is JPEG"):
    _build(raw).source("train")[1]


@pytest.mark.parametrize(
  "place, picture, label",
  [
    ("parts", "x.png", "x.PNG"),
    ("parts", "x.JPG", "x.Png"),
    ("parts/{name}.png", "x.PNG", "x.PNG"),
    ("parts/{name}", "x.Jpeg", "x.NPY"),
    ("parts/{name}", "x.TIF", "x.tif"),
    ("parts", "Gr\u00f6\u00dfe.png", "Gro\u0308\u00dfe.png"),
    ("parts/{name}.png", "Gro\u0308\u00dfe.png", "Gr\u00f6\u00dfe.PNG"),
    ("ma\u00dfe \u00e9/{name}", "x.png", "x.png"),
  ],
)
def test_no_label_is_lost_by_spelling(raw, place, picture, label):
  folder = place.partition("/")[0].replace("\u00e9", "e\u0301")
  (raw / "parts").rename(raw / folder)
  ids = np.full(SIZE, 2, np.uint8)
  Image.new("RGB", SIZE[::-1]).save(raw / "images" / picture)
  if label.endswith("NPY"):
    with open(raw / folder / label, "wb") as file:
      np.save(file, ids)
  else:
    Image.fromarray(ids).save(raw / folder / label)
  task = {"kind": "segmentation", "classes": 3, "ignore": [255, 7], "labels": place}
  stem = picture.rpartition(".")[0]
  splits = {"train": ["a", "b", stem], "test": ["c"]}
  _write(raw, _description(tasks={"parts": task}, splits=splits, pictures="images/{name}"))
  dataset = _build(raw, validation_share=0.4)
  names = [*dataset.source("train").keys, *dataset.source("validation").keys]
  read = dataset.source("train").read
  assert len(names) == 3 and (read(*({*names} - {"a", "b"}))["parts"] == 2).all()
  assert not any("warning" in note for note in dataset.spec.notes)


def test_files_that_are_not_used_are_counted(raw):
  unused = ["parts/z.png", "parts/b.PNG", "parts/more/a.png", "parts/c.bmp", "depth/f.png"]
  hidden = ["parts/._a.png", "depth/._b.png", "parts/notes.txt", "images/._a.png"]
  for name in (*unused, *hidden):
    (raw / name).parent.mkdir(exist_ok=True)
    (raw / name).write_bytes(b"")
  tasks = _description()["tasks"]
  tasks["parts"]["labels"] = "parts"
  _write(raw, _description(tasks=tasks))
  for chosen in ((), ("depth",)):
    (note,) = (n for n in _build(raw, tasks=chosen).spec.notes if "warning" in n)
    assert note.startswith("warning: 5 files beside the labels") and note.endswith("depth/f.png")


def test_linked_folders_are_followed_once(raw):
  (raw / "images" / "more").symlink_to(raw / "images", target_is_directory=True)
  (raw / "linked").symlink_to(raw / "images", target_is_directory=True)
  _write(raw, _description(pictures="linked"))
  assert _build(raw).spec.sizes["train"] == 3


@pytest.mark.parametrize(
  "old, new, message",
  [
    ("pictures:", "pictures: x\npictures:", "'pictures' stands twice, in lines 1 and 2"),
    ("  depth:", "  parts: {kind: depth}\n  depth:", "'parts' stands twice"),
    ("    scale: 0.001", "    scale: 0.001\n    scale: 1", "'scale' stands twice"),
    ("      7: three", "      7: three\n      0x7: one", "7 stands twice"),
    ("      7: three", "      7: three\n      '7': one", "map.7: the stored id 7 stands twice"),
    ("splits:", "splits: {}\nsplits:", "'splits' stands twice"),
  ],
  ids=str,
)
def test_keys_that_stand_twice_are_refused(raw, old, new, message):
  text = (raw / "dataset.yaml").read_text()
  assert old in text
  (raw / "dataset.yaml").write_text(text.replace(old, new, 1))
  with pytest.raises(ValueError, match=rf"dataset\.yaml.*{message}"):
    _build(raw)


def test_merged_keys_may_be_replaced(raw):
  text = (raw / "dataset.yaml").read_text().replace("  depth:", "  depth: &d", 1)
  more = "  far: {<<: *d, scale: 1}\n"
  (raw / "dataset.yaml").write_text(text.replace("splits:", more + "splits:", 1), "utf-8-sig")
  assert [t.name for t in _build(raw).spec.tasks] == ["parts", "depth", "far"]
  (raw / "dataset.yaml").write_bytes(b"pictures: x\nname: Stra\xdfe\n")
  with pytest.raises(ValueError, match=r"dataset\.yaml, line 2: the byte 0xdf is not UTF-8"):
    _build(raw)


@pytest.mark.parametrize(
  "task, change, split, more",
  [
    ("depth", {"scale": -0.001}, "train", "Its scale is negative: -0.001"),
    ("depth", {"range": [50, 60]}, "train", ""),
    ("depth", {"offset": -100}, "train", ""),
    ("parts", {"ignore": [0, 1, 7, 255]}, "train", ""),
    ("parts", {"ignore": [0, 7, 255]}, "test", ""),
    ("parts", {"map": {1: 1}, "unmapped": "ignore"}, "test", ""),
  ],
  ids=str,
)
def test_a_split_without_a_label_is_refused(raw, task, change, split, more):
  description = _description()
  description["tasks"][task] |= change
  folder.check(_build(raw))
  _write(raw, description)
  with pytest.raises(ValueError, match=rf"tasks\.{task}: no pixel of .* in {split} has .*{more}"):
    folder.check(_build(raw))


@pytest.mark.parametrize(
  "key, value",
  [
    *(("scale", text) for text in (".nan", "nan", ".inf", "-.inf")),
    *(("offset", ".nan"), ("weight", ".nan"), ("range", "[0, .nan]"), ("range", "[.nan, 1]")),
  ],
)
def test_nan_is_no_setting(raw, key, value):
  task = f"{{kind: depth, labels: depth, {key}: {value}}}"
  text = f"pictures: images\ntasks: {{depth: {task}}}\nsplits: {{train: [a], test: [e]}}\n"
  (raw / "dataset.yaml").write_text(text)
  with pytest.raises(ValueError, match=rf"depth\.{key}: must be a (list of|finite) number"):
    _build(raw)


FAULTS = {
  "grey16": None,
  "exif_square": None,
  "upper_case_labels": None,
  "low_bit_labels": None,
  "float16_pictures": None,
  "task_twice": "the key 'segmentation' stands twice",
  "task_twice/id_twice.yaml": "the key 1 stands twice",
  "low_bit_labels/ignore.yaml": None,
  "void_only": "tasks.segmentation: no pixel of the 2 examples in test has a label",
  "void_only/negative_scale.yaml": "tasks.depth: no pixel .* Its scale is negative: -0.001",
}


@pytest.mark.parametrize("case", FAULTS)
def test_inputs_that_failed_once(data_folder, case):
  name, _, file = case.partition("/")
  root = data_folder / "faults" / name
  if not root.is_dir():
    pytest.skip(f"no {root}")
  values = {"file": file or "dataset.yaml"}
  if FAULTS[case]:
    with pytest.raises(ValueError, match=FAULTS[case]):
      folder.check(_build(root, **values))
    return
  size = (12, 16) if name == "float16_pictures" else (0, 0)
  dataset = _build(root, **values, height=size[0], width=size[1])
  folder.check(dataset)
  inputs, levels = [], set()
  for split in types.SPLITS:
    for example in dataset.source(split):
      assert all(known.any() for known in example.valid.values())
      inputs.append(example.inputs)
      levels |= set(example.targets["segmentation"][example.valid["segmentation"]].tolist())
  assert levels == {0, 1, 2, 3} and len(inputs) == 10
  assert 0.2 < np.mean(inputs) < 0.8 and np.max(inputs) <= 1


def _folder(path, labels, kind, suffix=".npy", pictures="images", **keys):
  """Ten pictures of 24x32 with a label each, `labels(i)`."""
  for i in range(10):
    _save(path / "images" / f"{i:02d}.png", _picture(i, (24, 32)))
    _save(path / pictures / f"{i:02d}{suffix}", labels(i))
  task = {"kind": kind, "labels": f"{pictures}/{{name}}{suffix}", **keys}
  _write(path, _description(tasks={"t": task}, splits={"train": 0.6, "test": 0.4}))


@pytest.mark.parametrize("shape", [(32, 24), (4, 24, 32)])
@pytest.mark.parametrize("size", [{}, {"height": 24, "width": 32}])
def test_a_label_of_another_form_is_refused_also_where_it_could_be_resized(tmp_path, shape, size):
  _folder(tmp_path, lambda i: np.zeros(shape, np.uint8), "segmentation", pictures="ids", classes=4)
  with pytest.raises(ValueError, match="Example '..': its t is .*, of another form"):
    _build(tmp_path, **size)


def test_labels_beside_pictures_are_no_pictures(tmp_path):
  labels = lambda i: np.full((24, 32), i % 4, np.uint8)
  _folder(tmp_path, labels, "segmentation", "_seg.png", classes=4)
  data = _build(tmp_path)
  assert sum(data.spec.sizes.values()) == 10
  assert any("10 files are labels of others" in note for note in data.spec.notes)


def test_pictures_that_are_the_label_of_several_stay_pictures(tmp_path):
  for i in range(10):
    for view in ("front", "left"):
      _save(tmp_path / view / f"{i}.png", _picture(i))
  task = {"kind": "colour", "labels": "left/{name}.png"}
  values = {"pictures": "{view}/{name}.png", "splits": {"train": 0.6, "test": 0.4}}
  _write(tmp_path, _description(tasks={"t": task}, **values))
  assert sum(_build(tmp_path).spec.sizes.values()) == 20


def test_a_label_that_is_missing_is_told_with_a_file_that_may_be_meant(tmp_path):
  labels = lambda i: np.full((24, 32), i % 4, np.uint8)
  _folder(tmp_path, labels, "segmentation", "_mask.png", pictures="ids", classes=4)
  tasks = {"t": {"kind": "segmentation", "labels": "ids", "classes": 4}}
  _write(tmp_path, _description(tasks=tasks, splits={"train": 0.6, "test": 0.4}))
  with pytest.raises(ValueError, match="Did you mean '.*_mask.png'"):
    _build(tmp_path)


@pytest.mark.parametrize("store, told", [(lambda n: n, 0), (lambda n: (n + 1) / 2, 3)])
def test_normals_that_point_away_are_told(tmp_path, store, told):
  """As those of 0 to 1 that nobody scaled do."""
  rng = np.random.default_rng(0)
  normals = rng.normal(size=(24, 32, 3)) * [1, 1, 0.1] - [0, 0, 1]
  normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
  _folder(tmp_path, lambda i: store(normals), "normals", pictures="up")
  warnings = data_check.check(_build(tmp_path)).warnings
  assert sum("away from the camera" in text for text in warnings) == told
