"""The ray tracer against closed forms, its own depth, and a mirror."""

from __future__ import annotations

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynashare_jax.data.rooms import dataset as rooms
from dynashare_jax.data.rooms import labels as scene_labels
from dynashare_jax.data.rooms import render
from dynashare_jax.data.rooms import scenes as room_scenes
from dynashare_jax.data.rooms import shading

HEIGHT, WIDTH = 24, 32
CLASSES = scene_labels.CLASSES

Body = tuple[list[float], list[float], float]
Area = tuple[int, list[float], list[float], str]


def solids(bodies: Sequence[Body]) -> render.Solids:
  """Bodies of one shape (centre, half extents, yaw), as many as scenes have."""
  count = room_scenes.SHAPES
  rows = [*bodies, *[([0.0] * 3, [1.0] * 3, 0.0)] * (count - len(bodies))]
  return render.Solids(
    centre=jnp.array([row[0] for row in rows], jnp.float32),
    size=jnp.array([row[1] for row in rows], jnp.float32),
    yaw=jnp.array([row[2] for row in rows], jnp.float32),
    present=jnp.arange(count) < len(bodies),
  )


def painted(areas: Sequence[Area]) -> render.Patches:
  """Areas (plane, centre, half extents, class), as many as scenes have."""
  count = len(room_scenes.WALL_PATCHES) + 1
  rows = [*areas, *[(0, [0.0] * 2, [1.0] * 2, "rug")] * (count - len(areas))]
  return render.Patches(
    plane=jnp.array([row[0] for row in rows], jnp.int32),
    centre=jnp.array([row[1] for row in rows], jnp.float32),
    half=jnp.array([row[2] for row in rows], jnp.float32),
    frame=jnp.full(count, 0.05),
    label=jnp.array([CLASSES.index(row[3]) for row in rows], jnp.int32),
    round=jnp.zeros(count, bool),
    present=jnp.arange(count) < len(areas),
  )


def scene(
  balls: Sequence[Body] = (),
  boxes: Sequence[Body] = (),
  tubes: Sequence[Body] = (),
  patches: Sequence[Area] = (),
  pitch: float = 0.0,
  slope: float = 0.5,
) -> render.Geometry:
  """A room 8 x 6 x 4 m; the camera 5 m from the wall it looks at."""
  return render.Geometry(
    low=jnp.array([-3.0, -3.0, 0.0]),
    high=jnp.array([5.0, 3.0, 4.0]),
    balls=solids(balls),
    boxes=solids(boxes),
    tubes=solids(tubes),
    patches=painted(patches),
    camera=render.Camera(
      jnp.array([0.0, 0.0, 2.0]),
      render.look(jnp.float32(0.0), jnp.float32(pitch)),
      jnp.float32(slope),
    ),
  )


class Seen(NamedTuple):
  """All that is known of a picture, `[H, W, ...]`; key points `[K, ...]`."""

  depth: np.ndarray
  normals: np.ndarray
  classes: np.ndarray
  edges: np.ndarray
  heat: np.ndarray
  points: np.ndarray
  visible: np.ndarray
  hit: render.Hit


@functools.partial(jax.jit, static_argnums=(1, 2))
def compiled(geometry: render.Geometry, height: int, width: int) -> Seen:
  """One compilation for all scenes of a size, since all have one shape."""
  hit = render.camera_hits(geometry, height, width)
  normals = render.rotate(geometry.camera.rotation, hit.normal)
  points, visible = scene_labels.key_points(geometry)
  return Seen(
    hit.distance.reshape(height, width),
    normals.T.reshape(height, width, 3),
    scene_labels.segmentation(geometry, hit)[0].reshape(height, width),
    scene_labels.edges(hit, height, width),
    scene_labels.heat_map(geometry, height, width, 1.0),
    points.T,
    visible,
    hit,
  )


def see(geometry: render.Geometry, height: int = HEIGHT, width: int = WIDTH) -> Seen:
  return jax.tree.map(np.asarray, compiled(geometry, height, width))


@functools.cache
def drawn(seed: int) -> shading.Scene:
  """A random scene."""
  return sample(jax.random.key(seed))


sample = jax.jit(room_scenes.sample)
occluded = jax.jit(render.occluded)


def slopes(height=HEIGHT, width=WIDTH, slope=0.5):
  """Written out again: (x/z, y/z) of pixel centres."""
  step = 2 * slope / width
  x = (np.arange(width) + 0.5 - width / 2) * step
  y = (np.arange(height) + 0.5 - height / 2) * step
  return np.meshgrid(x, y)


def test_wall_straight_ahead_has_its_distance_everywhere() -> None:
  depth, normals, classes, *_ = see(scene())
  # Half the picture is 0.5 wide and 0.375 high at 1 m: 2.5 m and 1.875 m at
  # the wall, which reaches 3 m to the sides and 2 m up and down.
  np.testing.assert_allclose(depth, 5.0, rtol=1e-6)
  np.testing.assert_allclose(normals, np.full_like(normals, [0, 0, -1]), atol=1e-6)
  assert (classes == CLASSES.index("wall")).all()


def test_floor_and_ceiling_follow_the_horizon() -> None:
  depth, normals, classes, *_ = see(scene(slope=4.0))
  _, y = slopes(slope=4.0)
  below, above = classes == 1, classes == 2
  assert below.sum() > 50 and above.sum() > 50
  np.testing.assert_allclose(depth[below], 2.0 / y[below], rtol=1e-5)
  np.testing.assert_allclose(depth[above], -2.0 / y[above], rtol=1e-5)
  np.testing.assert_allclose(normals[below], [[0, -1, 0]] * below.sum())
  np.testing.assert_allclose(normals[above], [[0, 1, 0]] * above.sum())


def test_ball_on_the_axis() -> None:
  depth, normals, classes, *_ = see(scene(balls=[([3.0, 0.0, 2.0], [0.8] * 3, 0.3)]))
  x, y = slopes()
  a = x**2 + y**2 + 1
  inside = 9.0 - a * (9.0 - 0.64)
  sure = np.abs(inside) > 1e-4
  ball = classes == CLASSES.index("ball")
  np.testing.assert_array_equal(ball[sure], (inside > 0)[sure])
  expected = (3.0 - np.sqrt(np.maximum(inside, 0))) / a
  np.testing.assert_allclose(depth[ball], expected[ball], rtol=1e-5)
  point = np.stack([x, y, np.ones_like(x)], -1) * expected[..., None]
  normal = (point - np.array([0, 0, 3.0])) / 0.8
  np.testing.assert_allclose(normals[ball], normal[ball], atol=1e-4)


def test_turned_box_shows_two_faces() -> None:
  # A quarter of a half turn: the vertical edge is nearest, at 3 - sqrt(2)/2.
  box = ([3.0, 0.0, 2.0], [0.5, 0.5, 5.0], np.pi / 4)
  depth, normals, classes, *_ = see(scene(boxes=[box]))
  x, _ = slopes()
  shown = classes == CLASSES.index("box")
  assert shown.sum() > 100
  near = 3.0 - np.sqrt(0.5)
  # On the faces, z = near + |x-coordinate| and the coordinate is z * slope.
  expected = near / (1.0 - np.abs(x))
  np.testing.assert_allclose(depth[shown], expected[shown], rtol=1e-5)
  half = np.sqrt(0.5)
  side = np.stack([np.sign(x) * half, 0 * x, 0 * x - half], -1)
  np.testing.assert_allclose(normals[shown], side[shown], atol=1e-6)


def test_tube_from_the_side_and_from_above() -> None:
  tube = ([3.0, 0.0, 2.0], [0.5, 0.5, 0.4], 0.0)
  depth, normals, classes, *_ = see(scene(tubes=[tube]))
  shown = classes == CLASSES.index("cylinder")
  x, _ = slopes()
  a = 1 + x**2
  side = (3.0 - np.sqrt(np.maximum(9.0 - a * 8.75, 0))) / a
  caps = shown & (np.abs(normals[..., 1]) > 0.5)
  np.testing.assert_allclose(depth[shown & ~caps], side[shown & ~caps], rtol=1e-5)
  np.testing.assert_allclose(normals[shown & ~caps][:, 1], 0.0, atol=1e-6)
  # Straight down on a tube that stands on the floor: its cap is 1.2 m away.
  tube = ([0.0, 0.0, 0.4], [0.5, 0.5, 0.4], 0.0)
  depth, normals, classes, *_ = see(scene(tubes=[tube], pitch=-np.pi / 2, slope=0.3))
  shown = classes == CLASSES.index("cylinder")
  assert shown[HEIGHT // 2, WIDTH // 2]
  np.testing.assert_allclose(depth[shown], 1.2, rtol=1e-5)
  expected = [[0, 0, -1]] * shown.sum()
  np.testing.assert_allclose(normals[shown], expected, atol=1e-6)


def test_the_nearest_body_wins_and_an_absent_one_is_not_seen() -> None:
  balls = [([3.0, 0.0, 2.0], [0.5] * 3, 0.0), ([2.0, 0.0, 2.0], [0.2] * 3, 0.0)]
  geometry = scene(balls=balls)
  middle = (slice(11, 13), slice(15, 17))
  assert (see(geometry)[0][middle] < 1.81).all()
  near_away = geometry.balls._replace(present=jnp.arange(3) < 1)
  depth = see(geometry._replace(balls=near_away))[0][middle]
  assert (depth > 2.49).all() and (depth < 2.52).all()


def test_patches_are_classes_without_geometry() -> None:
  patches = [(1, [0.0, 2.0], [0.5, 0.25], "window")]
  depth, _, classes, *_ = see(scene(patches=patches))
  x, y = slopes()
  expected = (np.abs(5 * x) < 0.5) & (np.abs(5 * y) < 0.25)
  np.testing.assert_array_equal(classes == CLASSES.index("window"), expected)
  np.testing.assert_allclose(depth, 5.0, rtol=1e-6)


def test_round_patch_is_an_ellipse() -> None:
  patches = [(4, [1.5, 0.0], [1.0, 0.5], "rug")]
  geometry = scene(patches=patches, pitch=-1.0, slope=0.8)
  geometry = geometry._replace(patches=geometry.patches._replace(round=geometry.patches.present))
  seen = see(geometry)
  classes, hit = seen.classes.ravel(), seen.hit
  x, y, _ = hit.point
  inside = ((x - 1.5) / 1.0) ** 2 + (y / 0.5) ** 2 < 1
  inside &= hit.face == 4
  assert inside.sum() > 30
  np.testing.assert_array_equal(classes == CLASSES.index("rug"), inside)


def mirror(geometry: render.Geometry) -> render.Geometry:
  """The scene in a mirror at x = 0; its picture is flipped left to right."""
  flip = jnp.array([[-1.0, 1.0, 1.0]])

  def reflect(solids: render.Solids) -> render.Solids:
    return solids._replace(centre=solids.centre * flip, yaw=-solids.yaw)

  patches = geometry.patches
  on_side = patches.plane < 2
  plane = jnp.where(on_side, 1 - patches.plane, patches.plane)
  first = jnp.where(on_side, patches.centre[:, 0], -patches.centre[:, 0])
  centre = jnp.stack([first, patches.centre[:, 1]], 1)
  camera = geometry.camera
  rotation = camera.rotation * flip * jnp.array([-1.0, 1.0, 1.0])[:, None]
  return render.Geometry(
    low=jnp.stack([-geometry.high[0], geometry.low[1], geometry.low[2]]),
    high=jnp.stack([-geometry.low[0], geometry.high[1], geometry.high[2]]),
    balls=reflect(geometry.balls),
    boxes=reflect(geometry.boxes),
    tubes=reflect(geometry.tubes),
    patches=patches._replace(plane=plane, centre=centre),
    camera=camera._replace(position=camera.position * flip[0], rotation=rotation),
  )


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_mirrored_scene_gives_mirrored_maps(seed: int) -> None:
  geometry = drawn(seed).geometry
  depth, normals, classes, *_ = see(geometry)
  depth_m, normals_m, classes_m = (x[:, ::-1] for x in see(mirror(geometry))[:3])
  same = classes == classes_m  # a ray on an outline may fall on either side
  assert same.mean() > 0.99
  close = np.isclose(depth, depth_m, rtol=1e-3)
  assert close[same].mean() > 0.99
  sure = same & close
  error = np.abs(normals - normals_m * [[[-1, 1, 1]]]).max(-1)
  assert (error[sure] < 1e-2).mean() > 0.99


@pytest.mark.parametrize("seed", range(4))
def test_normals_agree_with_depth(seed: int) -> None:
  height, width = 96, 128
  geometry = drawn(seed).geometry
  seen = see(geometry, height, width)
  depth, normals = seen.depth, seen.normals
  assert (depth > 0).all() and np.isfinite(depth).all()
  np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-5)
  x, y = slopes(height, width, float(geometry.camera.slope))
  point = np.stack([x, y, np.ones_like(x)], -1) * depth[..., None]
  # Every surface that is seen faces the camera.
  ray = point / np.linalg.norm(point, axis=-1, keepdims=True)
  assert (np.sum(normals * ray, -1) < 1e-3).all()
  across = point[1:-1, 2:] - point[1:-1, :-2]
  down = point[2:, 1:-1] - point[:-2, 1:-1]
  normal = np.cross(down, across)
  normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
  edge = seen.edges[1:-1, 1:-1] > 0
  cosine = np.sum(normal * normals[1:-1, 1:-1], -1)[~edge]
  assert np.mean(cosine > 0.999) > 0.97
  assert np.quantile(cosine, 0.001) > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_edges_lie_where_depth_or_normals_jump(seed: int) -> None:
  seen = see(drawn(seed).geometry, 96, 128)
  depth, normals, edge = seen.depth, seen.normals, seen.edges > 0
  assert 0.01 < edge.mean() < 0.5
  # A plane's inverse depth is linear in the picture: its second difference
  # finds occlusions and creases, without the tracer's own piece numbers.
  jump = np.zeros_like(edge)
  for axis in (0, 1):
    second = np.abs(np.diff(1 / depth, n=2, axis=axis))
    turn = np.linalg.norm(np.diff(normals, axis=axis), axis=-1)
    pad = [(1, 1) if a == axis else (0, 0) for a in (0, 1)]
    jump |= np.pad(second > 2e-4, pad)
    for place in ((0, 1), (1, 0)):
      pad = [place if a == axis else (0, 0) for a in (0, 1)]
      jump |= np.pad(turn > 0.3, pad)
  near = jump.copy()
  near[1:] |= jump[:-1]
  near[:-1] |= jump[1:]
  near[:, 1:] |= near[:, :-1].copy()
  near[:, :-1] |= near[:, 1:].copy()
  assert near[edge].mean() > 0.98
  # And the other way round, for jumps too large for a smooth body.
  steep = np.abs(np.diff(depth, axis=1)) > 0.25 * depth[:, 1:]
  assert edge[:, 1:][steep].all()


def test_edges_of_a_wall_are_none_and_textures_make_none() -> None:
  patches = [(1, [0.0, 2.0], [0.5, 0.25], "door")]
  assert not see(scene(patches=patches)).edges.any()


def test_key_points_of_a_box() -> None:
  box = ([2.5, 0.0, 2.0], [0.5, 0.3, 0.2], 0.0)
  seen = see(scene(boxes=[box]))
  points, visible = seen.points[8:], seen.visible[8:]
  # Seen are the four corners of the near face, x = 2.
  np.testing.assert_array_equal(visible, np.isclose(points[:, 0], 2.0))
  assert visible.sum() == 4
  # 32 pixels for 1 m at 1 m: 0.3 m at 2 m are 4.8 pixels, 0.2 m are 3.2.
  column = np.array([-4.8, 4.8]) + 15.5
  row = np.array([-3.2, 3.2]) + 11.5
  j, i = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
  expected = np.max(
    [np.exp(-((i - r) ** 2 + (j - c) ** 2) / 2) for r in row for c in column], axis=0
  )
  np.testing.assert_allclose(seen.heat, expected, atol=1e-5)


def test_hidden_centres_and_points_behind_make_no_heat() -> None:
  ball = ([3.0, 0.0, 2.0], [0.3] * 3, 0.0)
  screen = ([2.0, 0.0, 2.0], [0.1, 1.0, 1.0], 0.0)
  behind = ([-2.0, 0.0, 2.0], [0.3] * 3, 0.0)
  middle = (slice(11, 13), slice(15, 17))
  assert see(scene(balls=[ball])).heat[middle].min() > 0.7
  hidden = see(scene(balls=[ball, behind], boxes=[screen]))
  first = 8 + 8 * room_scenes.SHAPES
  np.testing.assert_array_equal(hidden.visible[first : first + 2], [False, True])
  assert hidden.heat[middle].max() < 1e-3
  assert not see(scene(balls=[behind])).heat.any()


def test_shadow_falls_behind_the_body() -> None:
  geometry = scene(balls=[([2.0, 0.0, 2.0], [0.5] * 3, 0.0)])
  points = jnp.array([[4.9, 0.0, 2.0], [4.9, 2.0, 2.0]]).T
  dark = occluded(geometry, points, jnp.array([0.0, 0.0, 2.0]))
  np.testing.assert_array_equal(dark, [True, False])
  # A body behind the light throws none.
  dark = occluded(geometry, points, jnp.array([3.0, 0.0, 2.0]))
  np.testing.assert_array_equal(dark, [False, False])


def test_lambert_on_a_wall() -> None:
  random = drawn(0)
  white = random.materials._replace(
    first=jnp.ones_like(random.materials.first), texture=jnp.zeros_like(random.materials.texture)
  )
  lit = shading.Light(jnp.array([4.0, 0.0, 2.0]), jnp.float32(0.5), jnp.float32(0.0), jnp.ones(3))
  place = scene()
  image = jax.jit(shading.shade, static_argnums=(1, 2, 3))(
    shading.Scene(place, white, lit), HEIGHT, WIDTH, True, see(place).hit
  )
  x, y = slopes()
  square = 1 + (5 * x) ** 2 + (5 * y) ** 2
  expected = 0.5 * 1.15 / np.sqrt(square) / (1 + 0.15 * square)
  np.testing.assert_allclose(image[..., 0], expected, rtol=1e-4)


LIT = ("segmentation", "albedo", "shading", "light")


@functools.partial(jax.jit, static_argnums=1)
def lit(random: shading.Scene, shadows: bool = True) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The picture without noise and the labels that tell surfaces from light."""
  hit = render.camera_hits(random.geometry, HEIGHT, WIDTH)
  image = shading.shade(random, HEIGHT, WIDTH, shadows, hit)
  return image, rooms.labels(random, hit, HEIGHT, WIDTH, LIT, shadows)


@pytest.mark.parametrize("seed", range(4))
def test_a_picture_is_albedo_times_shading_times_tint(seed: int) -> None:
  random = drawn(seed)
  image, targets = jax.tree.map(np.asarray, lit(random))
  albedo, light = targets["albedo"], targets["shading"][..., None]
  error = np.abs(np.clip(albedo * light * np.asarray(random.light.tint), 0, 1) - image).max(-1)
  pane = error > 1e-5
  assert pane.mean() < 0.3
  # What is not is a pane of a window, which shines by itself.
  np.testing.assert_allclose(image[pane], albedo[pane], atol=1e-6)
  assert (targets["segmentation"][pane] == CLASSES.index("window")).all()
  assert (light[pane] == 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_albedo_does_not_know_of_the_light_nor_shading_of_the_materials(seed: int) -> None:
  random, other = drawn(seed), drawn(seed + 10)
  image, first = jax.tree.map(np.asarray, lit(random))
  moved = random.light._replace(position=random.light.position * jnp.array([0.5, 0.7, 0.9]))
  dark, second = jax.tree.map(np.asarray, lit(random._replace(light=moved)))
  np.testing.assert_array_equal(first["albedo"], second["albedo"])
  assert np.abs(image - dark).max() > 0.02 < np.abs(first["shading"] - second["shading"]).max()
  assert np.abs(first["light"] - second["light"]).max() > 0.02
  painted_over, third = jax.tree.map(np.asarray, lit(random._replace(materials=other.materials)))
  for name in ("shading", "light"):
    np.testing.assert_array_equal(first[name], third[name])
  assert np.abs(image - painted_over).max() > 0.1 < np.abs(first["albedo"] - third["albedo"]).max()


@pytest.mark.parametrize("seed", range(4))
def test_light_points_from_the_camera_to_the_lamp_that_is_drawn(seed: int) -> None:
  random = drawn(seed)
  geometry, lamp = random.geometry, np.asarray(random.light.position, np.float64)
  _, targets = jax.tree.map(np.asarray, lit(random))
  right, down, forward = np.asarray(geometry.camera.rotation, np.float64)
  away = lamp - np.asarray(geometry.camera.position, np.float64)
  away /= np.linalg.norm(away)
  seen_from = [away @ right, away @ down, away @ forward]
  np.testing.assert_allclose(targets["light"], seen_from, atol=1e-5)
  # Light that surfaces get is ambient and no more where they are turned away from that lamp.
  hit = see(geometry).hit
  turned = ((lamp[:, None] - hit.point) * hit.normal).sum(0) < 0
  turned = turned.reshape(HEIGHT, WIDTH)
  up = hit.normal.T.reshape(HEIGHT, WIDTH, 3) @ [0.09, 0.05, 0.12]
  ambient = float(random.light.ambient) * (0.9 + up)
  pane = targets["segmentation"] == CLASSES.index("window")
  np.testing.assert_allclose(targets["shading"][turned & ~pane], ambient[turned & ~pane], rtol=1e-5)
  lighter = targets["shading"] > ambient - 1e-5
  assert lighter[~pane].all() and (targets["shading"] > ambient + 0.05)[~pane].mean() > 0.2


def test_light_by_hand() -> None:
  # The camera at (0, 0, 2) looks along x; its right is -y.
  camera = scene().camera
  lamp = scene_labels.direction(camera, jnp.array([3.0, -4.0, 2.0]))
  np.testing.assert_allclose(lamp, [0.8, 0.0, 0.6], atol=1e-6)
  above = scene_labels.direction(camera, jnp.array([4.0, 0.0, 5.0]))
  np.testing.assert_allclose(above, [0.0, -0.6, 0.8], atol=1e-6)


def test_shading_is_dark_in_a_shadow_and_only_there() -> None:
  random = drawn(2)
  shade, bright = lit(random)[1]["shading"], lit(random, False)[1]["shading"]
  lifted = np.asarray(bright - shade)
  assert (lifted >= 0).all() and 0.02 < (lifted > 0.02).mean() < 0.7
