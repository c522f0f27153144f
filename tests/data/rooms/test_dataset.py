"""The Rooms data set: splits, determinism, ranges, errors."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.data.rooms import dataset as rooms
from dynashare_jax.data.rooms import labels as scene_labels
from dynashare_jax.data.rooms import scenes as room_scenes


def build(seed: int = 0, **changes: Any) -> types.Dataset:
  """A small data set; most tests share one compiled renderer."""
  small = {"height": 24, "width": 32, "train": 64, "validation": 8, "test": 5}
  config = ConfigDict(rooms.defaults() | small | {"tasks": rooms.TASKS, "kinds": True})
  config.update(changes)
  return rooms.build(config, ConfigDict(rooms.compat()), None, seed)


@pytest.fixture(scope="module")
def dataset() -> types.Dataset:
  return build()


def leaves(batch: types.Batch) -> list[np.ndarray]:
  return jax.tree.leaves(batch)


def test_spec_describes_the_arrays(dataset: types.Dataset) -> None:
  spec = dataset.spec
  assert [t.name for t in spec.tasks] == list(rooms.TASKS)
  kinds = ["segmentation", "depth", "normals", "regression", "regression"]
  kinds += ["colour", "regression", "number", "multiclass"]
  assert [t.kind for t in spec.tasks] == kinds
  assert [t.outputs for t in spec.tasks] == [10, 1, 3, 1, 1, 3, 1, 3, 4]
  assert spec.tasks[0].classes == scene_labels.CLASSES
  assert spec.tasks[-1].classes == room_scenes.KINDS
  assert spec.tasks[1].unit == "m"
  for split, size in spec.sizes.items():
    batch = dataset.arrays(split)
    assert batch.inputs.shape == (size, *spec.input_shape)
    assert batch.inputs.dtype == np.float32
    assert batch.present.shape == (size,) and batch.present.all()
    for task in spec.tasks:
      target, valid = batch.targets[task.name], batch.valid[task.name]
      deep = (3,) if task.name in ("normals", "albedo", "light") else ()
      flat = () if task.name in ("light", "room") else (24, 32)
      assert target.shape == (size, *flat, *deep)
      whole = task.name in ("segmentation", "room")
      assert target.dtype == (np.int32 if whole else np.float32)
      assert valid.shape == (size, *flat) and valid.dtype == bool
      assert valid.all()
    assert all(isinstance(x, np.ndarray) for x in leaves(batch))


def test_ranges_and_every_class(dataset: types.Dataset) -> None:
  batch = dataset.arrays("train")
  for name in ("edges", "keypoints"):
    assert batch.targets[name].min() >= 0 and batch.targets[name].max() <= 1
    assert batch.targets[name].max() > 0.8
  assert batch.inputs.min() >= 0 and batch.inputs.max() <= 1
  depth = batch.targets["depth"]
  assert depth.min() > 0.1 and depth.max() < np.sqrt(2) * 8
  for name in ("normals", "light"):
    norm = np.linalg.norm(batch.targets[name], axis=-1)
    np.testing.assert_allclose(norm, 1, atol=1e-5)
  albedo, shading = batch.targets["albedo"], batch.targets["shading"]
  assert albedo.min() >= 0 and albedo.max() <= 1 and albedo.std() > 0.1
  assert shading.min() > 0.25 and shading.max() < 2.6 and shading.std() > 0.1
  seen = np.bincount(batch.targets["segmentation"].ravel(), minlength=10)
  assert seen.size == 10 and (seen > 0.003 * seen.sum()).all()
  # No scene is black or burnt out, and no two are alike.
  brightness = batch.inputs.mean((1, 2, 3))
  assert brightness.min() > 0.05 and brightness.max() < 0.95
  assert len({x.tobytes() for x in batch.inputs}) == 64


def test_source_equals_arrays(dataset: types.Dataset) -> None:
  source, whole = dataset.source("validation"), dataset.arrays("validation")
  assert len(source) == 8
  for i in (0, 7, 3, np.int64(5)):
    for one, many in zip(leaves(source[i]), leaves(whole), strict=True):
      assert one.dtype == many.dtype
      np.testing.assert_array_equal(one, many[i])
  np.testing.assert_array_equal(source[-1].inputs, whole.inputs[7])
  with pytest.raises(IndexError, match="among 8"):
    source[8]
  assert dataset.arrays("validation") is whole


def test_splits_are_disjoint_and_do_not_depend_on_the_seed(dataset: types.Dataset) -> None:
  again = build(seed=17, train=3, validation=9)
  for split in types.SPLITS:
    first, second = dataset.source(split), again.source(split)
    np.testing.assert_array_equal(first[2].inputs, second[2].inputs)
  pictures = [x.tobytes() for s in types.SPLITS for x in dataset.arrays(s).inputs]
  assert len(set(pictures)) == len(pictures) == 77


def test_scene_seed_changes_the_scenes(dataset: types.Dataset) -> None:
  other = build(scene_seed=1).source("train")[0]
  here = dataset.source("train")[0]
  assert np.abs(other.targets["depth"] - here.targets["depth"]).max() > 0.1


def test_same_key_same_scene_under_vmap(dataset: types.Dataset) -> None:
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(4))
  tasks = ("segmentation", "depth", "normals")
  render = functools.partial(rooms.render, height=24, width=32, tasks=tasks, kinds=True)
  batch = jax.jit(jax.vmap(render))(keys)
  whole = dataset.arrays("train")
  # Only a pixel right on an outline may round to the other side.
  for name, target in batch.targets.items():
    same = np.isclose(target, whole.targets[name][:4], atol=1e-4)
    assert same.mean() > 0.995, name
  assert np.isclose(batch.inputs, whole.inputs[:4], atol=1e-3).mean() > 0.99


def test_a_larger_picture_shows_the_same_scene(dataset: types.Dataset) -> None:
  large = build(height=72, width=96, tasks=("depth",), noise=0.0)
  large = large.source("train")[1].targets["depth"]
  small = dataset.arrays("train").targets["depth"][1]
  # The middle of three by three pixels is the small picture's pixel centre.
  assert np.isclose(large[1::3, 1::3], small, rtol=1e-3).mean() > 0.99


def test_noise_and_shadows_touch_only_the_image(dataset: types.Dataset) -> None:
  noisy = dataset.source("test")[1]
  only = {"tasks": ("depth",), "noise": 0.0}
  clean = build(**only).source("test")[1]
  bright = build(**only, shadows=False).source("test")[1]
  depth = noisy.targets["depth"]
  for other in (clean, bright):
    assert np.isclose(other.targets["depth"], depth, rtol=1e-4).mean() > 0.995
  middling = (clean.inputs > 0.1) & (clean.inputs < 0.9)
  grain = (noisy.inputs - clean.inputs)[middling]
  assert abs(np.median(np.abs(grain)) - 0.02 * 0.6745) < 0.002
  lighter = bright.inputs - clean.inputs
  assert (lighter > -1e-3).mean() > 0.995 and lighter.max() > 0.02


def test_scenes_of_no_kind_are_those_of_before_there_were_kinds() -> None:
  # Values that the data set had then: brightness, depth in metres, pixels of a class.
  tasks = ("segmentation", "depth", "normals", "edges", "keypoints")
  before = build(kinds=False, tasks=tasks, weights=rooms.defaults()["weights"])
  batch = before.arrays("test")
  np.testing.assert_allclose(
    batch.inputs.mean((1, 2, 3)), [0.47284, 0.44942, 0.42176, 0.44049, 0.56462], atol=2e-4
  )
  np.testing.assert_allclose(
    batch.targets["depth"].mean((1, 2)), [3.1772, 4.0951, 5.5463, 4.6824, 4.5653], rtol=1e-3
  )
  counts = np.bincount(batch.targets["segmentation"].ravel(), minlength=10)
  np.testing.assert_allclose(counts, [1516, 1206, 242, 90, 12, 56, 55, 101, 181, 381], atol=4)


def test_kinds_of_rooms_are_balanced_and_differ_in_what_is_in_them_but_not_in_the_light() -> None:
  keys = jax.random.split(jax.random.key(3), 4000)
  scenes = jax.jit(jax.vmap(functools.partial(room_scenes.sample, kinds=True)))(keys)
  plain = jax.jit(jax.vmap(room_scenes.sample))(keys)
  kind = np.asarray(scenes.kind)
  share = np.bincount(kind, minlength=4) / 4000
  assert len(room_scenes.KINDS) == 4 and np.abs(share - 0.25).max() < 0.03
  assert (np.asarray(plain.kind) == -1).all()
  # The camera and the lamp do not know of the kinds.
  for with_kinds, without in zip(
    jax.tree.leaves((scenes.light, scenes.geometry.camera, scenes.geometry.high)),
    jax.tree.leaves((plain.light, plain.geometry.camera, plain.geometry.high)),
    strict=True,
  ):
    np.testing.assert_allclose(with_kinds, without, rtol=1e-6, atol=1e-6)
  # A store is full of boxes, a playroom of balls, a gallery of pictures; none is always so.
  boxes = np.asarray(scenes.geometry.boxes.present).mean(1)
  balls = np.asarray(scenes.geometry.balls.present).mean(1)
  tubes = np.asarray(scenes.geometry.tubes.present).mean(1)
  painted = np.asarray(scenes.geometry.patches.present)[:, 4:7].mean(1)
  for name, much in {"store": boxes, "playroom": balls, "hall": tubes, "gallery": painted}.items():
    means = np.array([much[kind == k].mean() for k in range(4)])
    best = room_scenes.KINDS.index(name)
    assert means.argmax() == best and (np.delete(means, best) < means[best] - 0.25).all()
    assert means.min() > 0 and means.max() < 1


def test_a_scene_of_no_kind_has_no_label_of_room() -> None:
  render = jax.jit(lambda key: rooms.render(key, 8, 8, tasks=("room", "light")))
  made = render(jax.random.key(0))
  assert made.targets["room"] == -1 and not made.valid["room"] and made.valid["light"]


def test_tasks_in_any_order_and_weights() -> None:
  chosen = ("edges", "segmentation")
  dataset = build(tasks=chosen, weights={"edges": 3.5})
  assert [t.name for t in dataset.spec.tasks] == list(chosen)
  assert [t.weight for t in dataset.spec.tasks] == [3.5, 1.0]
  made = jax.eval_shape(lambda key: rooms.render(key, 8, 9, tasks=chosen), jax.random.key(0))
  assert set(made.targets) == set(made.valid) == set(chosen)
  assert made.inputs.shape == (8, 9, 3)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"tasks": ("depht",)}, "has 'depht'; rooms has.*mean 'depth'"),
    ({"tasks": ("depth", "zzz")}, "has 'zzz'; rooms has .*room.$"),
    ({"tasks": ()}, "name one or more of segmentation"),
    ({"tasks": ("depth", "depth")}, "each once"),
    ({"height": 7}, "data.height is 7"),
    ({"width": 0}, "data.width is 0"),
    ({"train": 0}, "data.train is 0"),
    ({"test": rooms.RANGE + 1}, "data.test is"),
    ({"kinds": False}, "task room needs .* config.data.kinds=True"),
    ({"noise": -0.1}, "data.noise"),
    ({"noise": float("nan")}, "data.noise"),
  ],
)
def test_wrong_configs_say_what_to_do(changes: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    build(**changes)


def test_unknown_split(dataset: types.Dataset) -> None:
  with pytest.raises(ValueError, match="no split 'val'; rooms has train"):
    dataset.arrays("val")
