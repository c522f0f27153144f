"""Normals fitted to depth: planes, holes, exact scenes, axes."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from dynashare_jax.data.pictures import surface_normals
from dynashare_jax.data.rooms import dataset as rooms
from dynashare_jax.data.rooms import scenes as room_scenes

CAMERA = surface_normals.Camera(60.0, 64.0, 33.0, 23.5)
SHAPE = (48, 64)


def _rays(camera=CAMERA, shape=SHAPE):
  rows, columns = np.indices(shape) + 0.5
  return np.stack(
    [(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones(shape)], -1
  )


def _plane(normal, distance=2.0):
  """Depth of the plane through (0, 0, distance), and its unit normal."""
  unit = np.array(normal) / np.linalg.norm(normal)
  return unit[2] * distance / (_rays() @ unit), unit


def _angles(one, other):
  cosine = (one.astype(np.float64) * other).sum(-1)
  return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


@pytest.mark.parametrize(
  "normal", [(0, 0, -1), (0.4, 0, -1), (0, -0.8, -1), (-0.5, 0.6, -1), (0.9, -0.7, -1)]
)
@pytest.mark.parametrize("radius", [1, 3, 10])
def test_a_plane_has_one_normal(normal, radius):
  depth, unit = _plane(normal)
  assert depth.min() > 0
  normals, valid = surface_normals.fit(depth, CAMERA, radius)
  assert normals.shape == (*SHAPE, 3) and normals.dtype == np.float32
  whole = (slice(radius, -radius), slice(radius, -radius))
  assert valid[whole].all()
  assert _angles(normals, unit)[valid].max() < 0.01


def test_noise_of_a_kinect_turns_a_plane_by_less_than_half_a_degree():
  depth, unit = _plane((0.3, -0.4, -1))
  noisy = depth + np.random.default_rng(0).normal(0, 0.002, SHAPE)
  normals, valid = surface_normals.fit(noisy, CAMERA, radius=10)
  assert valid.mean() > 0.9
  assert np.median(_angles(normals, unit)[valid]) < 0.5


def test_normals_point_towards_the_camera_and_have_length_1():
  rng = np.random.default_rng(1)
  normals, valid = surface_normals.fit(rng.uniform(1, 1.05, SHAPE), CAMERA, 3, roughest=1.0)
  assert valid.any()
  assert ((normals * _rays()).sum(-1)[valid] <= 0).all()
  np.testing.assert_allclose((normals**2).sum(-1), 1, rtol=1e-5)


def test_unknown_depth_is_left_out_not_taken_for_0():
  depth, unit = _plane((0.4, 0.2, -1))
  holes = np.random.default_rng(2).random(SHAPE) < 0.3
  for nothing in (0.0, np.nan, -1.0, np.inf):
    normals, valid = surface_normals.fit(np.where(holes, nothing, depth), CAMERA, 4)
    assert not valid[holes].any() and valid[~holes].mean() > 0.99
    assert _angles(normals, unit)[valid].max() < 0.01
    assert (normals[~valid] == (0, 0, -1)).all()


def test_too_few_points_and_points_on_a_line_have_no_normal():
  depth, _ = _plane((0.4, 0.2, -1))
  lonely = np.zeros(SHAPE)
  lonely[20:22, 20:22] = depth[20:22, 20:22]
  assert not surface_normals.fit(lonely, CAMERA, 4)[1].any()
  line = np.zeros(SHAPE)
  line[20] = depth[20]
  assert not surface_normals.fit(line, CAMERA, 4, fewest=0.01)[1].any()


def test_a_window_across_an_edge_has_no_normal():
  depth = np.full(SHAPE, 2.0)
  depth[:, 32:] = 3.0
  _, valid = surface_normals.fit(depth, CAMERA, 4)
  assert not valid[:, 28:36].any()
  assert valid[:, :28].all() and valid[:, 36:].all()


def test_it_equals_a_slow_twin():
  rng = np.random.default_rng(3)
  depth = 2 + 0.1 * rng.random((12, 16))
  depth[rng.random(depth.shape) < 0.2] = 0
  normals, valid = surface_normals.fit(depth, CAMERA, 2, roughest=1.0)
  points = _rays(shape=depth.shape) * depth[..., None]
  for i, j in itertools.product(range(12), range(16)):
    window = points[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].reshape(-1, 3)
    window = window[window[:, 2] > 0]
    assert valid[i, j] == (depth[i, j] > 0 and len(window) >= 0.25 * 25)
    if valid[i, j]:
      unit = np.linalg.eigh(np.cov(window.T))[1][:, 0]
      unit *= -np.sign(unit @ points[i, j])
      np.testing.assert_allclose(normals[i, j], unit, atol=1e-5)


def test_it_finds_the_exact_normals_of_rooms():
  key = jax.random.key(0)
  slope = lambda key: room_scenes.sample(jax.random.split(key)[0]).geometry.camera.slope
  draw = lambda key: rooms.render(key, 120, 160, noise=0.0, tasks=("depth", "normals"))
  slope, example = jax.jit(lambda key: (slope(key), draw(key)))(key)
  focal = 80 / float(slope)
  camera = surface_normals.Camera(focal, focal, 80, 60)
  normals, valid = surface_normals.fit(
    np.asarray(example.targets["depth"]), camera, 2, roughest=0.002
  )
  angles = _angles(normals, np.asarray(example.targets["normals"]))[valid]
  assert valid.mean() > 0.8
  assert np.median(angles) < 0.1 and angles.mean() < 0.5
  assert (angles < 5).mean() > 0.98


def test_wrong_arguments():
  with pytest.raises(ValueError, match=r"not the shape \(4, 4, 1\)"):
    surface_normals.fit(np.ones((4, 4, 1)), CAMERA)
  with pytest.raises(ValueError, match="radius 0"):
    surface_normals.fit(np.ones((4, 4)), CAMERA, 0)


def test_the_camera_of_nyu():
  whole = surface_normals.kinect((480, 640))
  assert whole == pytest.approx((518.857901, 519.469611, 325.082449, 253.236166))
  half = surface_normals.kinect((240, 320))
  assert half == pytest.approx(tuple(x / 2 for x in whole))
  cropped = surface_normals.kinect((425, 560))
  assert cropped == pytest.approx((whole.fx, whole.fy, whole.cx - 40, whole.cy - 27.5))


@pytest.mark.parametrize("text", ["+0 +1 +2", "+0 -2 +1", "-1 -0 -2"])
def test_axes_are_found_again_and_written_as_they_are_read(text):
  rng = np.random.default_rng(4)
  house = rng.normal(size=(500, 3))
  house /= np.linalg.norm(house, axis=1, keepdims=True)
  axes = surface_normals.read_axes(text)
  assert str(axes) == text
  stored = np.empty_like(house)
  for i, (channel, sign) in enumerate(zip(axes.channels, axes.signs, strict=True)):
    stored[:, channel] = sign * house[:, i]
  np.testing.assert_array_equal(axes(stored), house)
  found, best, second = surface_normals.match(
    [(stored[:200], house[:200]), (stored[200:], house[200:])]
  )
  assert found == axes and best == pytest.approx(1.0) and second < 0.5


@pytest.mark.parametrize("text", ["", "0 1 2", "+0 +1", "+0 +0 +1", "+0 +1 +3"])
def test_axes_that_are_none(text):
  with pytest.raises(ValueError, match="config.data.normal_axes is"):
    surface_normals.read_axes(text)


def test_a_single_wall_does_not_tell_the_axes():
  wall = np.tile([[0.0, 0.0, -1.0]], (50, 1))
  _, best, second = surface_normals.match([(wall, wall)])
  assert best == second == 1.0
