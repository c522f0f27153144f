"""Augmentation: geometric identities, the host against the device, draws."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.data import loader
from dynashare_jax.data.pictures import augment as transforms
from dynashare_jax.data.rooms import dataset as rooms
from dynashare_jax.data.rooms import render
from dynashare_jax.data.rooms import scenes as room_scenes

TASKS = (
  types.TaskSpec("segmentation", "segmentation", 5),
  types.TaskSpec("depth", "depth", unit="m"),
  types.TaskSpec("normals", "normals", 3),
  types.TaskSpec("scene", "multiclass", 4),
)


def _example(height=12, width=16, seed=0):
  rng = np.random.default_rng(seed)
  normals = rng.normal(size=(height, width, 3)).astype(np.float32)
  return types.Batch(
    rng.random((height, width, 3), np.float32),
    {
      "segmentation": rng.integers(0, 5, (height, width)).astype(np.int32),
      "depth": rng.uniform(1, 9, (height, width)).astype(np.float32),
      "normals": normals / np.linalg.norm(normals, axis=-1, keepdims=True),
      "scene": np.int32(2),
    },
    {
      "segmentation": rng.random((height, width)) < 0.8,
      "depth": rng.random((height, width)) < 0.8,
      "normals": rng.random((height, width)) < 0.8,
      "scene": np.ones((), bool),
    },
    np.ones((), bool),
  )


def _draw(scale=1.0, mirror=False, row=0.0, column=0.0, colour=(1, 1, 1)):
  return transforms.Draw(
    np.float32(scale),
    np.bool_(mirror),
    np.float32(row),
    np.float32(column),
    np.asarray(colour, np.float32),
  )


def _equal(first, second):
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_nothing_drawn_changes_nothing():
  example = _example()
  augment = transforms.Augmentation(TASKS, (12, 16))
  _equal(augment.example(example, _draw()), example)


def test_padding_moves_the_crop_over_the_picture_and_black_around_it():
  example = _example()
  augment = transforms.Augmentation(TASKS, (12, 16), (1.0, 1.0), padding=4)
  wide = np.pad(example.inputs, ((4, 4), (4, 4), (0, 0)))
  for place, (top, left) in ((0.0, (0, 0)), (0.5, (4, 4)), (0.999, (8, 8))):
    for mirror in (False, True):
      found = augment.example(example, _draw(mirror=mirror, row=place, column=place))
      whole = wide[:, ::-1] if mirror else wide
      np.testing.assert_array_equal(found.inputs, whole[top : top + 12, left : left + 16])
  assert not found.valid["depth"][8:].any() and not found.valid["depth"][:, 12:].any()


def test_mirroring_exchanges_left_and_right_and_turns_normals():
  example = _example()
  augment = transforms.Augmentation(TASKS, (12, 16))
  found = augment.example(example, _draw(mirror=True))
  np.testing.assert_array_equal(found.inputs, example.inputs[:, ::-1])
  for name in ("segmentation", "depth"):
    np.testing.assert_array_equal(found.targets[name], example.targets[name][:, ::-1])
  np.testing.assert_array_equal(
    found.targets["normals"], example.targets["normals"][:, ::-1] * np.float32([-1, 1, 1])
  )
  for name in ("segmentation", "depth", "normals"):
    np.testing.assert_array_equal(found.valid[name], example.valid[name][:, ::-1])
  assert found.targets["scene"] == 2 and found.valid["scene"]
  _equal(augment.example(found, _draw(mirror=True)), example)


def test_the_authors_leave_mirrored_normals_and_scaled_depths():
  example = _example()
  plain = transforms.Augmentation(TASKS, (12, 16), depth_scaled=False, normals_negated=False)
  found = plain.example(example, _draw(mirror=True))
  np.testing.assert_array_equal(found.targets["normals"], example.targets["normals"][:, ::-1])
  twice = dataclasses.replace(plain, crop=(24, 32)).example(example, _draw(scale=2.0))
  np.testing.assert_array_equal(
    twice.targets["depth"], example.targets["depth"].repeat(2, 0).repeat(2, 1)
  )


def test_enlarging_repeats_labels_and_brings_depths_nearer():
  example = _example()
  augment = transforms.Augmentation(TASKS, (24, 32))
  found = augment.example(example, _draw(scale=2.0))
  for name, factor in (("segmentation", 1), ("depth", 2), ("normals", 1)):
    np.testing.assert_array_equal(
      found.targets[name], (example.targets[name] / factor).repeat(2, 0).repeat(2, 1)
    )
    np.testing.assert_array_equal(found.valid[name], example.valid[name].repeat(2, 0).repeat(2, 1))


def test_pictures_are_scaled_bilinearly():
  """A ramp stays a ramp: pixel centres lie at half integers."""
  columns = np.arange(16, dtype=np.float32) / 16
  example = _example()._replace(inputs=np.broadcast_to(columns[None, :, None], (12, 16, 3)).copy())
  augment = transforms.Augmentation(TASKS, (24, 32))
  found = augment.example(example, _draw(scale=2.0)).inputs
  want = (((np.arange(32) + 0.5) / 2 - 0.5) / 16).clip(0, 15 / 16)
  np.testing.assert_allclose(found[5, :, 1], want, atol=1e-6)


def test_small_pictures_are_padded_on_all_sides():
  example = _example(4, 6)
  augment = transforms.Augmentation(TASKS, (8, 8))
  found = augment.example(example, _draw(row=0.9, column=0.9))
  inside = np.zeros((8, 8), bool)
  inside[2:6, 1:7] = True
  np.testing.assert_array_equal(found.inputs[2:6, 1:7], example.inputs)
  assert not found.inputs[~inside].any()
  for name in ("segmentation", "depth", "normals"):
    np.testing.assert_array_equal(found.valid[name][2:6, 1:7], example.valid[name])
    assert not found.valid[name][~inside].any()


@pytest.mark.parametrize("place, first", [(0.0, 0), (0.5, 3), (0.9999999, 5)])
def test_a_crop_lies_anywhere_inside(place, first):
  example = _example(12, 16)
  augment = transforms.Augmentation(TASKS, (7, 16))
  found = augment.example(example, _draw(row=place))
  np.testing.assert_array_equal(found.inputs, example.inputs[first : first + 7])
  np.testing.assert_array_equal(found.targets["depth"], example.targets["depth"][first : first + 7])


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_the_device_varies_as_the_host_does(jitter):
  examples = [_example(20, 26, seed) for seed in range(8)]
  augment = transforms.Augmentation(TASKS, (15, 17), jitter=jitter)
  draws = augment.draw(3, "x", np.arange(8))
  singles = [
    augment.example(e, jax.tree.map(lambda d, i=i: d[i], draws)) for i, e in enumerate(examples)
  ]
  batch = loader.stack(examples)
  found = jax.jit(augment.batch)(batch, draws)
  want = loader.stack(singles)
  np.testing.assert_allclose(found.inputs, want.inputs, atol=2e-6)
  assert len({float(s) for s in draws.scale}) == 8
  assert 0 < draws.mirror.sum() < 8
  for name in want.targets:
    np.testing.assert_allclose(found.targets[name], want.targets[name], rtol=1e-6)
    np.testing.assert_array_equal(found.valid[name], want.valid[name])


def test_colours_by_hand():
  """Brightness 0.5 halves; without contrast or saturation all is grey."""
  image = np.zeros((1, 2, 3), np.float32)
  image[0, 0] = (0.8, 0.4, 0.2)
  image[0, 1] = (0.2, 0.2, 0.2)
  example = _example(1, 2)._replace(inputs=image)
  augment = transforms.Augmentation(TASKS, (1, 2), jitter=1.0)
  vary = lambda *colour: augment.example(example, _draw(colour=colour)).inputs
  np.testing.assert_allclose(vary(0.5, 1, 1), image / 2, atol=1e-6)
  grey = 0.299 * 0.8 + 0.587 * 0.4 + 0.114 * 0.2
  np.testing.assert_allclose(vary(1, 0, 1), np.full_like(image, (grey + 0.2) / 2), atol=1e-6)
  np.testing.assert_allclose(vary(1, 1, 0)[0, 0], (grey,) * 3, atol=1e-6)
  np.testing.assert_allclose(vary(2, 1, 1)[0, 0], (1.0, 0.8, 0.4), atol=1e-6)


def test_draws_depend_on_seed_stream_and_place_alone():
  augment = transforms.Augmentation(TASKS, (4, 4), jitter=0.3)
  whole = augment.draw(7, "warmup", np.arange(12).reshape(3, 4))
  part = augment.draw(7, "warmup", np.asarray(6))
  _equal(jax.tree.map(lambda d: d[1, 2], whole), part)
  for other in (
    augment.draw(8, "warmup", np.asarray(6)),
    augment.draw(7, "retrain", np.asarray(6)),
    augment.draw(7, "warmup", np.asarray(7)),
  ):
    assert other.scale != part.scale and other.row != part.row
  many = augment.draw(0, "x", np.arange(2000))
  assert 0.5 <= many.scale.min() < 0.51 and 1.49 < many.scale.max() <= 1.5
  assert 0.45 < many.mirror.mean() < 0.55
  assert many.colour.min() >= 0.7 and many.colour.max() <= 1.3
  assert abs(many.row.mean() - 0.5) < 0.02


def test_wrong_values_are_refused():
  with pytest.raises(ValueError, match="0 < low <= high"):
    transforms.Augmentation(TASKS, (4, 4), (0.0, 1.0))
  with pytest.raises(ValueError, match="at least 1 pixel"):
    transforms.Augmentation(TASKS, (0, 4))
  with pytest.raises(ValueError, match="in \\[0, 1\\], but is 1.5"):
    transforms.Augmentation(TASKS, (4, 4), jitter=1.5)
  with pytest.raises(ValueError, match="padding must be at least 0 pixels, but is -1"):
    transforms.Augmentation(TASKS, (8, 8), padding=-1)


def _mirrored(geometry: render.Geometry) -> render.Geometry:
  """The scene in a mirror: y becomes the room's depth minus y."""
  flip = jnp.array([1.0, -1.0, 1.0])
  move = jnp.array([0.0, 1.0, 0.0]) * geometry.high
  turn = lambda bodies: bodies._replace(
    centre=bodies.centre * flip[None] + move[None], yaw=-bodies.yaw
  )
  camera = geometry.camera
  rotation = camera.rotation * flip[None] * jnp.array([-1.0, 1.0, 1.0])[:, None]
  patches = geometry.patches
  plane = jnp.where(patches.plane == 2, 3, jnp.where(patches.plane == 3, 2, patches.plane))
  first, second = patches.centre.T
  deep = geometry.high[1]
  centre = jnp.stack(
    [jnp.where(plane < 2, deep - first, first), jnp.where(plane > 3, deep - second, second)], -1
  )
  return geometry._replace(
    balls=turn(geometry.balls),
    boxes=turn(geometry.boxes),
    tubes=turn(geometry.tubes),
    patches=patches._replace(plane=plane, centre=centre),
    camera=camera._replace(position=camera.position * flip + move, rotation=rotation),
  )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_mirrored_map_is_the_map_of_the_mirrored_scene(seed):
  height, width = 24, 32
  tasks = ("segmentation", "depth", "normals")

  @functools.partial(jax.jit, static_argnums=1)
  def see(key, mirrored):
    scene = room_scenes.sample(key)
    if mirrored:
      scene = scene._replace(geometry=_mirrored(scene.geometry))
    hit = render.camera_hits(scene.geometry, height, width)
    return rooms.labels(scene, hit, height, width, tasks)

  key = jax.random.key(seed)
  targets = jax.tree.map(np.asarray, see(key, False))
  specs = (types.TaskSpec("segmentation", "segmentation", 99), *TASKS[1:3])
  all_valid = {name: np.ones((height, width), bool) for name in tasks}
  example = types.Batch(
    np.zeros((height, width, 3), np.float32), targets, all_valid, np.ones((), bool)
  )
  augment = transforms.Augmentation(specs, (height, width))
  found = augment.example(example, _draw(mirror=True)).targets
  want = see(key, True)
  same = np.abs(found["depth"] - want["depth"]) < 1e-3
  assert same.mean() > 0.995  # rounding moves the outline of a body
  angle = (found["normals"] * want["normals"]).sum(-1)[same]
  assert (angle > 0.9999).mean() > 0.995
  assert (found["segmentation"] == want["segmentation"]).mean() > 0.99
  assert np.abs(targets["normals"][..., 0]).max() > 0.3
