"""Labels of the built-in scenes, from their exact geometry."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dynashare_jax.data.rooms import render

_NAMES = "wall floor ceiling door window picture rug ball box cylinder"
CLASSES = tuple(_NAMES.split())
_PLANE_CLASS = (0, 0, 0, 0, 1, 2)


def segmentation(
  geometry: render.Geometry, hit: render.Hit
) -> tuple[Int[Array, " P"], Int[Array, " P"], Bool[Array, " P"]]:
  """Finds the class of each pixel.

  Returns:
    Class of `CLASSES`; index of the patch, or -1; whether the pixel is on the patch's frame.
  """
  patches = geometry.patches
  x, y, z = hit.point
  across = jnp.where(hit.face < 2, y, x)
  up = jnp.where(hit.face < 4, z, y)
  offset = jnp.abs(jnp.stack([across, up])[None] - patches.centre[:, :, None])
  half = patches.half[:, :, None]
  frame = patches.frame[:, None]
  margin = jnp.min(half - offset, axis=1)
  radius = jnp.sqrt(jnp.sum((offset / half) ** 2, axis=1))
  rim = (1.0 - radius) * jnp.min(half, axis=1)
  margin = jnp.where(patches.round[:, None], rim, margin)
  on_plane = (hit.body == 0)[None] & (hit.face[None] == patches.plane[:, None])
  inside = on_plane & patches.present[:, None] & (margin > 0.0)
  bars = (patches.label == CLASSES.index("window"))[:, None]
  bars = bars & (jnp.min(offset, axis=1) < 0.5 * frame)
  framed = jnp.any(inside & ((margin < frame) | bars), axis=0)
  found = jnp.any(inside, axis=0)
  index = jnp.where(found, jnp.argmax(inside, axis=0), -1).astype(jnp.int32)
  classes = jnp.asarray(_PLANE_CLASS, jnp.int32)[hit.face]
  classes = jnp.where(found, patches.label[index], classes)
  balls, boxes = geometry.balls.yaw.size, geometry.boxes.yaw.size
  shape = (hit.body > balls).astype(jnp.int32) + (hit.body > balls + boxes)
  classes = jnp.where(hit.body > 0, CLASSES.index("ball") + shape, classes)
  return classes.astype(jnp.int32), index, framed


def edges(hit: render.Hit, height: int, width: int) -> Float[Array, "height width"]:
  """Returns 1 where a pixel and one beside, above or below see different pieces.

  A piece is a smooth part of one body, so these are exactly the occlusions, creases and contacts;
  textures and painted areas make none. Lines are two pixels wide.
  """
  piece = (hit.body * render.PLANES + hit.face).reshape(height, width)
  across = piece[:, 1:] != piece[:, :-1]
  down = piece[1:] != piece[:-1]
  result = jnp.pad(across, ((0, 0), (0, 1))) | jnp.pad(across, ((0, 0), (1, 0)))
  result |= jnp.pad(down, ((0, 1), (0, 0))) | jnp.pad(down, ((1, 0), (0, 0)))
  return result.astype(jnp.float32)


def key_points(geometry: render.Geometry) -> tuple[Float[Array, "3 K"], Bool[Array, " K"]]:
  """Returns points worth finding, and whether the camera has a free view of them.

  They are world coordinates of the room's 8 corners, 8 corners for each box, and
  the centres of balls and tubes. A corner is seen when no surface is in front of
  it; a centre when the first surface towards it is the body's own. Whether it
  lies in the image is another matter: see `heat_map`.
  """
  boxes = geometry.boxes
  cube = jnp.array(list(itertools.product((-1.0, 1.0), repeat=3)))
  middle = (geometry.low + geometry.high) / 2
  room = middle[None] + cube * (geometry.high - middle)[None]
  x, y, z = jnp.moveaxis(cube[None] * boxes.size[:, None], -1, 0)
  cos, sin = jnp.cos(boxes.yaw)[:, None], jnp.sin(boxes.yaw)[:, None]
  corners = jnp.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)
  box_corners = (corners + boxes.centre[:, None]).reshape(-1, 3)
  centres = jnp.concatenate([geometry.balls.centre, geometry.tubes.centre])
  points = jnp.concatenate([room, box_corners, centres]).T
  position = geometry.camera.position[:, None]
  hit = render.trace(geometry, position, points - position)
  balls, count = geometry.balls.yaw.size, boxes.yaw.size
  own = jnp.arange(centres.shape[0]) + 1
  own = jnp.where(own > balls, own + count, own)
  seen = hit.distance > 1.0 - 1e-3
  present = jnp.repeat(boxes.present, 8)
  visible = seen[:8], seen[8 : 8 + 8 * count] & present, hit.body[8 + 8 * count :] == own
  return points, jnp.concatenate(visible)


def project(
  camera: render.Camera, points: Float[Array, "3 K"], height: int, width: int
) -> tuple[Float[Array, " K"], Float[Array, " K"], Float[Array, " K"]]:
  """Returns column, row (pixel centres at whole numbers) and depth of world points."""
  x, y, z = render.rotate(camera.rotation, points - camera.position[:, None])
  scale = width / (2.0 * camera.slope * jnp.where(z > render.NEAR, z, jnp.inf))
  return x * scale + width / 2 - 0.5, y * scale + height / 2 - 0.5, z


def direction(camera: render.Camera, point: Float[Array, " 3"]) -> Float[Array, " 3"]:
  """Returns the unit vector from the camera to a world point, in the camera frame."""
  away = render.rotate(camera.rotation, (point - camera.position)[:, None])[:, 0]
  return away / jnp.sqrt(jnp.sum(away**2))


def heat_map(
  geometry: render.Geometry, height: int, width: int, sigma: float
) -> Float[Array, "height width"]:
  """Draws Gaussians of height 1 at the visible key points; their maximum, 0 to 1.

  `sigma` is the standard deviation in pixels.
  """
  points, visible = key_points(geometry)
  column, row, z = project(geometry.camera, points, height, width)
  inside = (jnp.abs(column - width / 2 + 0.5) <= width / 2) & (z > render.NEAR)
  inside &= jnp.abs(row - height / 2 + 0.5) <= height / 2
  weight = (visible & inside).astype(jnp.float32)
  factor = -0.5 / sigma**2
  x = jnp.exp(factor * (jnp.arange(width)[None] - column[:, None]) ** 2)
  y = jnp.exp(factor * (jnp.arange(height)[None] - row[:, None]) ** 2) * weight[:, None]
  return jnp.max(y[:, :, None] * x[:, None, :], axis=0)
