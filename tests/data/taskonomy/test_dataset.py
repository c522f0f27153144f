"""Tiny-Taskonomy: its layouts, values, switches, splits and errors."""

from __future__ import annotations

import json
import pickle

import ml_collections
import numpy as np
from PIL import Image
import pytest

from dynashare_jax import types
from dynashare_jax.data.taskonomy import dataset as taskonomy
from dynashare_jax.data.taskonomy import layouts as taskonomy_layouts

SIZE = (8, 12)
BUILDINGS = {"train": ("hanson", "merom"), "val": ("darden",), "test": ("ihlen",)}
FILES = {
  "image": ("rgb", "rgb"),
  "segmentation": ("segment_semantic", "segmentsemantic"),
  "normals": ("normal", "normal"),
  "depth": ("depth_zbuffer", "depth_zbuffer"),
  "keypoints": ("keypoints2d", "keypoints2d"),
  "edges": ("edge_texture", "edge_texture"),
}


def _config(**values):
  base = {**taskonomy.defaults(), "height": 0, "width": 0}
  return ml_collections.ConfigDict({**base, **values})


def _switches(**values):
  return ml_collections.ConfigDict({"selection": "validation", **taskonomy.compat(), **values})


def _build(folder, config=None, **switches):
  return taskonomy.build(config or _config(), _switches(**switches), str(folder), 0)


def _save(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path)


def _fields(number=0):
  """One example; the first row has every kind of value."""
  rng = np.random.default_rng(number)
  seg = np.full(SIZE, 3, np.uint8)
  seg[0, :3] = 0, 1, 17
  normals = np.full((*SIZE, 3), (127, 127, 255), np.uint8)
  normals[0, :5] = (
    (255, 128, 128),
    (0, 127, 127),
    (127, 128, 127),
    (255, 255, 127),
    (127, 127, 255),
  )
  depth = np.full(SIZE, 511, np.uint16)
  depth[0, :5] = 0, 64499, 1023, 7, 64500
  depth[1, 0] = 65535
  keypoints = np.full(SIZE, 100, np.uint16)
  keypoints[0, :4] = 0, 164, 328, 65535
  edges = np.full(SIZE, 1000, np.uint16)
  edges[0, :4] = 0, 2621, 5243, 65535
  return {
    "image": rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
    "segmentation": seg,
    "normals": normals,
    "depth": depth,
    "keypoints": keypoints,
    "edges": edges,
  }


def _official(
  folder,
  pattern="{domain}/{building}",
  buildings=BUILDINGS,
  views=((0, 0), (10, 1), (2, 0)),
  files=FILES,
):
  number = 0
  lines = ["id,train,val,test"]
  for split, names in buildings.items():
    for name in names:
      lines.append(name + "".join(f",{int(s == split)}" for s in ("train", "val", "test")))
      for point, view in views:
        for field, array in _fields(number).items():
          domain, ending = files[field]
          place = pattern.format(domain=domain, building=name)
          _save(folder / place / f"point_{point}_view_{view}_domain_{ending}.png", array)
        number += 1
  # As published: lines end as on an old Macintosh.
  (folder / "train_val_test_tiny.csv").write_bytes("\r".join(lines).encode())
  return folder


@pytest.mark.parametrize("pattern", taskonomy_layouts.PLACES)
def test_official_splits(tmp_path, pattern):
  dataset = _build(_official(tmp_path, pattern))
  assert dataset.source("train").keys == (
    "hanson/point_0_view_0",
    "hanson/point_2_view_0",
    "hanson/point_10_view_1",
    "merom/point_0_view_0",
    "merom/point_2_view_0",
    "merom/point_10_view_1",
  )
  assert [k.split("/")[0] for k in dataset.source("validation").keys] == (["darden"] * 3)
  assert dataset.spec.sizes == {"train": 6, "validation": 3, "test": 3}
  assert dataset.spec.notes[:3] == (
    "found: official (6 train, 3 validation, 3 test)",
    "official validation split",
    "split: train_val_test_tiny.csv",
  )
  example = dataset.source("train")[2]  # the second that was written
  np.testing.assert_array_equal(example.inputs, _fields(1)["image"].astype(np.float32) / 255)
  assert example.present == np.ones((), bool)
  assert dataset.arrays("test").inputs.shape == (3, *SIZE, 3)


def test_other_names_of_folders_and_files(tmp_path):
  files = {
    **FILES,
    "segmentation": ("segmentsemantic", "segment_semantic"),
    "depth": ("depth_euclidean", "depth_euclidean"),
  }
  example = _build(_official(tmp_path, files=files)).source("test")[0]
  assert example.targets["segmentation"][0, 2] == 16


def test_segmentation_values(tmp_path):
  _official(tmp_path)
  dataset = _build(tmp_path)
  task = dataset.spec.tasks[0]
  assert (task.outputs, task.classes[0], task.classes[16]) == (17, "background", "vase")
  example = dataset.source("test")[0]
  labels, valid = (example.targets["segmentation"], example.valid["segmentation"])
  assert labels.dtype == np.int32
  np.testing.assert_array_equal(labels[0, :4], [0, 0, 16, 2])
  np.testing.assert_array_equal(valid[0, :4], [0, 1, 1, 1])
  assert valid.sum() == valid.size - 1
  authors = _build(tmp_path, unlabelled="background").source("test")[0]
  np.testing.assert_array_equal(authors.targets["segmentation"], labels)
  assert authors.valid["segmentation"].all()


def test_normals_values(tmp_path):
  _official(tmp_path)
  example = _build(tmp_path).source("test")[0]
  normals, valid = example.targets["normals"], example.valid["normals"]
  half = 0.5**0.5
  np.testing.assert_allclose(
    normals[0, [0, 1, 3, 4]], [[1, 0, 0], [-1, 0, 0], [half, half, 0], [0, 0, 1]], atol=0.006
  )
  np.testing.assert_allclose((normals**2).sum(-1), 1, rtol=1e-5)
  # The third is too short, the fifth and one below have no depth.
  np.testing.assert_array_equal(valid[0, :6], [1, 1, 0, 1, 0, 1])
  assert not valid[1, 0] and valid.sum() == valid.size - 3
  authors = _build(tmp_path, normal_mask="none").source("test")[0]
  assert authors.valid["normals"].all()
  np.testing.assert_array_equal(authors.targets["normals"], normals)


def test_normals_alone_still_read_depth_for_their_mask(tmp_path):
  _official(tmp_path)
  config = _config(tasks=("normals",))
  example = _build(tmp_path, config).source("test")[0]
  assert set(example.targets) == {"normals"}
  assert not example.valid["normals"][1, 0]
  for path in (tmp_path / "depth_zbuffer").rglob("*.png"):
    path.unlink()
  assert _build(tmp_path, config, normal_mask="none").source("test")[0].valid["normals"].all()
  with pytest.raises(
    ValueError,
    match="has no depth of hanson: there is no"
    " depth_zbuffer/hanson/point_<i>_view_<j>_domain_depth",
  ):
    _build(tmp_path, config)


def test_depth_values(tmp_path):
  dataset = _build(_official(tmp_path))
  assert dataset.spec.tasks[2] == types.TaskSpec("depth", "regression", 1, 2.0, unit="log")
  example = dataset.source("test")[0]
  depth, valid = example.targets["depth"], example.valid["depth"]
  assert depth.dtype == np.float32
  # 1 + d is 1, 64500, 2^10, 2^3, none, 2^9; all to the base 2^16.
  np.testing.assert_allclose(
    depth[0, :6], [0, np.log2(64500) / 16, 10 / 16, 3 / 16, 0, 9 / 16], rtol=1e-6
  )
  np.testing.assert_array_equal(valid[0, :6], [1, 1, 1, 1, 0, 1])
  assert not valid[1, 0] and valid.sum() == valid.size - 2


def test_keypoints_and_edges_values(tmp_path):
  example = _build(_official(tmp_path)).source("test")[0]
  # 0.005 times 2^16 is 327.68; 0.08 times 2^16 is 5242.88.
  for task, half, full in (("keypoints", 164 / 327.68, 1), ("edges", 2621 / 5242.88, 1)):
    values = example.targets[task]
    assert values.dtype == np.float32 and example.valid[task].all()
    np.testing.assert_allclose(values[0, :4], [-1, 2 * half - 1, full, full], atol=1e-6)
  np.testing.assert_allclose(example.targets["keypoints"][1, 1], 2 * 100 / 327.68 - 1, rtol=1e-6)


def test_tasks_and_their_weights(tmp_path):
  _official(tmp_path)
  spec = _build(tmp_path, metrics="authors").spec
  assert [(t.name, t.kind, t.outputs, t.weight, t.metrics) for t in spec.tasks] == [
    ("segmentation", "segmentation", 17, 1.0, "authors"),
    ("normals", "normals", 3, 3.0, "authors"),
    ("depth", "regression", 1, 2.0, "authors"),
    ("keypoints", "regression", 1, 7.0, "authors"),
    ("edges", "regression", 1, 7.0, "authors"),
  ]
  assert spec.crop == (224, 224)
  assert not any(task.class_weights for task in spec.tasks)
  two = _build(tmp_path, _config(tasks=("edges", "depth")))
  assert list(two.source("test")[0].targets) == ["edges", "depth"]


def test_the_authors_weigh_classes_by_a_file(tmp_path):
  _official(tmp_path)
  with pytest.raises(ValueError, match="no file .*semseg_prior_factor.npy"):
    _build(tmp_path, class_weights="prior")
  factors = np.linspace(0.5, 9, 17)
  np.save(tmp_path / taskonomy.PRIOR, factors)
  first, *others = _build(tmp_path, class_weights="prior").spec.tasks
  assert first.class_weights == tuple(factors)
  assert not any(task.class_weights for task in others)
  np.save(tmp_path / taskonomy.PRIOR, factors[1:])
  with pytest.raises(ValueError, match="must hold 17 numbers above 0"):
    _build(tmp_path, class_weights="prior")


def test_mirroring_negates_the_first_component(tmp_path):
  dataset = _build(_official(tmp_path), _config(crop=SIZE, scales=(1.0, 1.0)))
  assert dataset.augment.normals_negated
  example = dataset.source("train")[0]
  draw = dataset.augment.draw(0, "a", np.int64(0))._replace(
    scale=np.float32(1), mirror=np.bool_(True)
  )
  mirrored = dataset.augment.example(example, draw)
  expected = example.targets["normals"][:, ::-1] * np.float32([-1, 1, 1])
  np.testing.assert_array_equal(mirrored.targets["normals"], expected)
  np.testing.assert_array_equal(mirrored.targets["depth"], example.targets["depth"][:, ::-1])


def test_everything_is_resized(tmp_path):
  _official(tmp_path)
  config = _config(height=4, width=6)
  dataset = _build(tmp_path, config)
  assert dataset.spec.input_shape == (4, 6, 3)
  example = dataset.source("train")[0]
  whole = _build(tmp_path).source("train")[0]
  for task in taskonomy.TASKS:
    np.testing.assert_array_equal(example.targets[task], whole.targets[task][1::2, 1::2])
  assert abs(example.inputs.mean() - whole.inputs.mean()) < 0.01
  picked = _build(tmp_path, config, pictures="nearest").source("train")[0]
  np.testing.assert_array_equal(picked.inputs, whole.inputs[1::2, 1::2])
  assert not np.array_equal(picked.inputs, example.inputs)
  raw = dataset.source("train").read("merom/point_0_view_0")
  assert {name: array.dtype.name for name, array in raw.items()} == {
    "image": "uint8",
    "segmentation": "uint8",
    "normals": "uint8",
    "depth": "uint16",
    "keypoints": "uint16",
    "edges": "uint16",
  }


def test_the_default_size_is_the_papers(tmp_path):
  config = ml_collections.ConfigDict(taskonomy.defaults())
  dataset = taskonomy.build(config, _switches(), str(_official(tmp_path)), 0)
  assert dataset.source("test")[0].inputs.shape == (256, 256, 3)


def test_switches_may_be_absent(tmp_path):
  switches = ml_collections.ConfigDict(
    {"depth": "scaled", "mirror": "negated", "selection": "validation"}
  )
  example = taskonomy.build(_config(), switches, str(_official(tmp_path)), 0).source("test")[0]
  assert not example.valid["segmentation"][0, 0]


def test_published_buildings(tmp_path):
  sizes = {s: len(b) for s, b in taskonomy_layouts.BUILDINGS.items()}
  assert sizes == {"train": 25, "validation": 5, "test": 5}
  every = [b for part in taskonomy_layouts.BUILDINGS.values() for b in part]
  assert len(set(every)) == 35
  _official(tmp_path)
  (tmp_path / "train_val_test_tiny.csv").unlink()
  with pytest.raises(
    ValueError,
    match=r"no pictures of 31 of the 35 buildings,"
    r" first klickitat.*put a train_val_test_tiny.csv",
  ):
    _build(tmp_path)


def test_all_published_buildings_need_no_list(tmp_path):
  names = {"val" if s == "validation" else s: b for s, b in taskonomy_layouts.BUILDINGS.items()}
  _official(tmp_path, buildings=names, views=((0, 0),))
  (tmp_path / "train_val_test_tiny.csv").unlink()
  dataset = _build(tmp_path, _config(tasks=("depth",)))
  assert dataset.spec.sizes == {"train": 25, "validation": 5, "test": 5}
  assert "split: the published buildings" in dataset.spec.notes


def test_a_few_examples_without_a_file_are_left_out(tmp_path):
  views = tuple((i, 0) for i in range(26))
  _official(tmp_path, views=views)
  lost = "normal/merom/point_7_view_0_domain_normal.png"
  (tmp_path / lost).unlink()
  dataset = _build(tmp_path)
  assert dataset.spec.sizes["train"] == 51
  assert "merom/point_7_view_0" not in dataset.source("train").keys
  assert f"1 of 104 examples lack files and are left out, first {lost}" in dataset.spec.notes
  assert _build(tmp_path, _config(tasks=("edges",))).spec.sizes["train"] == 52
  for i in range(2):
    (tmp_path / "edge_texture/ihlen" / f"point_{i}_view_0_domain_edge_texture.png").unlink()
  with pytest.raises(ValueError, match=rf"files of 3 of 104 .*first {lost}"):
    _build(tmp_path)


def test_damaged_files_are_named(tmp_path):
  _official(tmp_path)
  stem = "ihlen/point_0_view_0_domain_"
  cases = (
    ("edge_texture", np.zeros(SIZE, np.uint8), "edges has 16"),
    ("segment_semantic", np.full(SIZE, 18, np.uint8), "has the id 18"),
    ("rgb", np.zeros((4, 4, 3), np.uint8), "parts differ in size"),
  )
  for domain, array, text in cases:
    ending = "segmentsemantic" if domain.startswith("seg") else domain
    path = tmp_path / domain / f"{stem}{ending}.png"
    good = path.read_bytes()
    _save(path, array)
    with pytest.raises(ValueError, match=f"'ihlen/point_0_view_0': .*{text}"):
      _build(tmp_path).source("test")[0]
    path.write_bytes(good)
  path = tmp_path / "normal" / f"{stem}normal.png"
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(ValueError, match=r"Cannot read .*domain_normal.png"):
    _build(tmp_path).source("test")[0]


def test_a_list_of_buildings_of_another_form(tmp_path):
  _official(tmp_path)
  (tmp_path / "train_val_test_tiny.csv").write_text("name,train\nhanson,1\n")
  with pytest.raises(ValueError, match="must have the columns id, train, val"):
    _build(tmp_path)


def _adashare(folder, small=("ihlen/point_2_view_0",)):
  _official(folder)
  entry = lambda key: [f"{domain}/{key}_domain_{ending}.png" for domain, ending in FILES.values()]
  keys = {
    "train": ("hanson/point_0_view_0", "merom/point_2_view_0"),
    "train1": (),
    "train2": (),
    "test_small": small,
    "test": ("ihlen/point_0_view_0", "ihlen/point_2_view_0"),
  }
  (folder / "taskonomy.json").write_text(
    json.dumps({split: [entry(key) for key in part] for split, part in keys.items()})
  )
  return folder


def test_adashare_values(tmp_path):
  _adashare(tmp_path)
  dataset = _build(tmp_path, _config(validation="test"))
  assert dataset.spec.notes[:3] == (
    "found: adashare (2 train, 2 test)",
    "validation: one half of the 2 test examples, seeded",
    "split: taskonomy.json",
  )
  assert dataset.source("train").keys == (
    "rgb/hanson/point_0_view_0_domain_rgb.png",
    "rgb/merom/point_2_view_0_domain_rgb.png",
  )
  example = dataset.source("train")[0]
  official = _build(tmp_path, _config(layout="official")).source("train")[0]
  np.testing.assert_array_equal(example.inputs, official.inputs)
  for task in taskonomy.TASKS:
    np.testing.assert_array_equal(example.targets[task], official.targets[task])
    np.testing.assert_array_equal(example.valid[task], official.valid[task])


def test_test_small_validates_where_the_authors_select_on_test(tmp_path):
  dataset = _build(_adashare(tmp_path), selection="test")
  assert [len(dataset.source(s)) for s in types.SPLITS] == [2, 1, 2]
  assert dataset.source("validation").keys == ("rgb/ihlen/point_2_view_0_domain_rgb.png",)
  assert "validation is test_small: 1 examples of test (compat.selection)" in dataset.spec.notes
  lists = json.loads((tmp_path / "taskonomy.json").read_text())
  del lists["test_small"]
  (tmp_path / "taskonomy.json").write_text(json.dumps(lists))
  dataset = _build(tmp_path, selection="test")
  assert dataset.source("validation").keys == dataset.source("test").keys


def test_adashare_lists_that_do_not_fit(tmp_path):
  _adashare(tmp_path)
  lost = "depth_zbuffer/hanson/point_0_view_0_domain_depth_zbuffer.png"
  (tmp_path / lost).unlink()
  with pytest.raises(ValueError, match=rf"lacks files of 1 of 4 .* {lost}"):
    _build(tmp_path, _config(validation="test"))
  (tmp_path / "taskonomy.json").write_text('{"train": [["a"]], "test": []}')
  with pytest.raises(ValueError, match="'train' must list.* keypoints, edges"):
    _build(tmp_path)


def test_what_a_worker_process_gets(tmp_path):
  _adashare(tmp_path)
  for config in (_config(layout="official"), _config(validation="test")):
    source = _build(tmp_path, config).source("train")
    copy = pickle.loads(pickle.dumps(source))
    for task in taskonomy.TASKS:
      np.testing.assert_array_equal(copy[1].targets[task], source[1].targets[task])


def test_one_error_lists_all_layouts(tmp_path):
  (tmp_path / "depth_zbuffer").mkdir()
  with pytest.raises(ValueError) as caught:
    _build(tmp_path)
  text = str(caught.value)
  assert text.startswith(
    f"Tiny-Taskonomy: {tmp_path} holds depth_zbuffer/, which is not one of its layouts."
  )
  for name, told in taskonomy_layouts.HELP.items():
    assert f"\n  {name}:\n      {told}" in text
    assert "https://" in told


@pytest.mark.parametrize(
  ("values", "switches", "text"),
  [
    ({"tasks": ("normal",)}, {}, "Did you mean 'normals'"),
    ({"layout": "x"}, {}, "it must be one of auto, official, adashare"),
    ({}, {"normal_mask": "deep"}, "compat.normal_mask is 'deep'.*depth, none"),
    ({}, {"unlabelled": "x"}, "it must be one of void, background"),
    ({}, {"pictures": "x"}, "it must be one of smooth, nearest"),
    ({"weights": {"depth": 1.0}}, {}, "no weight of 'segmentation'"),
  ],
)
def test_wrong_values(tmp_path, values, switches, text):
  config = ml_collections.ConfigDict({**taskonomy.defaults(), **values})
  with pytest.raises(ValueError, match=text):
    _build(_official(tmp_path), config, **switches)


def test_outline_needs_no_data(tmp_path):
  config = ml_collections.ConfigDict(taskonomy.defaults())
  spec = taskonomy.outline(config, _switches())
  assert spec.sizes == {"train": 275000, "validation": 52000, "test": 54514}
  assert spec.input_shape == (256, 256, 3)
  assert taskonomy.outline(_config(), _switches()).input_shape == (512, 512, 3)
  built = taskonomy.build(config, _switches(), str(_official(tmp_path)), 0)
  assert built.spec.tasks == spec.tasks
