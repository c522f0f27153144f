"""Exact geometry of simple indoor scenes: rays and what they hit.

World frame: x and y horizontal, z up, metres. Camera frame: x right, y down,
z forward. Points and directions carry their three components first, `[3, P]`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

PLANES = 6  # of the room: x low, x high, y low, y high, floor, ceiling
NEAR = 1e-4  # hits nearer than this are the surface the ray left

_TINY = 1e-9


class Camera(NamedTuple):
  """A pinhole camera with square pixels.

  Attributes:
    position: metres, world frame.
    rotation: rows are the camera's right, down and forward in the world.
    slope: tangent of half the horizontal field of view.
  """

  position: Float[Array, " 3"]
  rotation: Float[Array, "3 3"]
  slope: Float[Array, ""]


class Solids(NamedTuple):
  """Bodies of one shape, each turned about the vertical through its centre.

  Attributes:
    centre: metres, world frame.
    size: half extents in the body's own axes: a ball has (r, r, r), a cylinder (r, r, half height).
    yaw: radians, counter-clockwise seen from above.
    present: False leaves the body out of the scene.
  """

  centre: Float[Array, "N 3"]
  size: Float[Array, "N 3"]
  yaw: Float[Array, " N"]
  present: Bool[Array, " N"]


class Patches(NamedTuple):
  """Flat areas painted on the room: doors, windows, pictures, rugs.

  Attributes:
    plane: which of the room's `PLANES`.
    centre: in the plane: (y, z) on planes 0 and 1, (x, z) on planes 2 and 3,
      (x, y) on floor and ceiling.
    half: half extents, metres.
    frame: width of the frame, metres.
    label: class of the area.
    round: an ellipse instead of a rectangle.
    present: False leaves it out.
  """

  plane: Int[Array, " D"]
  centre: Float[Array, "D 2"]
  half: Float[Array, "D 2"]
  frame: Float[Array, " D"]
  label: Int[Array, " D"]
  round: Bool[Array, " D"]
  present: Bool[Array, " D"]


class Geometry(NamedTuple):
  """A room, the bodies in it, and the camera.

  Attributes:
    low: the room's lowest x, y, z.
    high: the room's highest x, y, z; the camera is between the two.
    balls: spheres.
    boxes: cuboids with vertical edges.
    tubes: upright cylinders with caps.
    patches: painted areas.
    camera: the camera, outside all bodies.
  """

  low: Float[Array, " 3"]
  high: Float[Array, " 3"]
  balls: Solids
  boxes: Solids
  tubes: Solids
  patches: Patches
  camera: Camera


class Hit(NamedTuple):
  """The first surface along each ray.

  Attributes:
    distance: in units of the ray's direction vector.
    point: where, world frame.
    local: where, in the body's own axes (world frame for the room).
    normal: unit, world frame, away from the body or into the room.
    body: 0 for the room, then balls, boxes and tubes in this order from 1.
    face: the smooth piece of the body: a plane of the room or face of a box (2 axis + positive
      side), 0 for a ball or a cylinder's side, 4 and 5 for a cylinder's bottom and top.
  """

  distance: Float[Array, " P"]
  point: Float[Array, "3 P"]
  local: Float[Array, "3 P"]
  normal: Float[Array, "3 P"]
  body: Int[Array, " P"]
  face: Int[Array, " P"]


def look(yaw: Array, pitch: Array) -> Float[Array, "3 3"]:
  """Returns the rotation of a camera without roll: rows right, down, forward in the world.

  Args:
    yaw: radians from the world's x towards its y.
    pitch: radians, positive looks up.
  """
  cy, sy = jnp.cos(yaw), jnp.sin(yaw)
  cp, sp = jnp.cos(pitch), jnp.sin(pitch)
  zero = jnp.zeros_like(cy)
  rows = (sy, -cy, zero), (sp * cy, sp * sy, -cp), (cp * cy, cp * sy, sp)
  return jnp.stack([jnp.stack(row) for row in rows])


def rotate(matrix: Float[Array, "3 3"], vectors: Float[Array, "3 P"]) -> Float[Array, "3 P"]:
  """Computes `matrix @ vectors` in full float32 on every device."""
  return jnp.sum(matrix[:, :, None] * vectors[None], axis=1)


def camera_hits(geometry: Geometry, height: int, width: int) -> Hit:
  """Returns the hit of each pixel's ray; `distance` is the depth along the optical axis."""
  camera = geometry.camera
  scale = camera.slope * (2.0 / width)
  x = (jnp.arange(width) + 0.5 - width / 2) * scale
  y = (jnp.arange(height) + 0.5 - height / 2) * scale
  x, y = jnp.broadcast_arrays(x[None, :], y[:, None])
  slopes = jnp.stack([x.ravel(), y.ravel(), jnp.ones(height * width)])  # x/z, y/z, 1
  return trace(geometry, camera.position[:, None], rotate(camera.rotation.T, slopes))


def trace(geometry: Geometry, origin: Float[Array, "3 #P"], direction: Float[Array, "3 P"]) -> Hit:
  """Returns the first hit of rays that start inside the room and outside all bodies."""
  safe = jnp.where(jnp.abs(direction) < _TINY, _TINY, direction)
  ahead = jnp.where(safe > 0, geometry.high[:, None], geometry.low[:, None])
  exits = (ahead - origin) / safe  # distance to the room's planes ahead, one for each axis
  room = jnp.min(exits, axis=0)
  entries = body_distances(geometry, origin, direction)
  distances = jnp.concatenate([room[None], entries])
  body = jnp.argmin(distances, axis=0).astype(jnp.int32)
  distance = jnp.min(distances, axis=0)
  point = origin + direction * distance[None]
  return _surface(geometry, point, direction, distance, body, exits)


def body_distances(
  geometry: Geometry, origin: Float[Array, "3 #P"], direction: Float[Array, "3 P"]
) -> Float[Array, "N P"]:
  """Returns the distance at which rays enter each body; infinity for a miss.

  Balls come first, then boxes, then tubes, as in `Hit.body`.
  """
  parts = []
  shapes = (geometry.balls, geometry.boxes, geometry.tubes)
  distances = (_ball_distance, _box_distance, _tube_distance)
  for solids, distance in zip(shapes, distances, strict=True):
    start, along = _to_local(solids, origin, direction)
    enters, leaves = distance(solids.size[:, :, None], start, along)
    hit = (enters < leaves) & (enters > NEAR) & solids.present[:, None]
    parts.append(jnp.where(hit, enters, jnp.inf))
  return jnp.concatenate(parts)


def occluded(
  geometry: Geometry, points: Float[Array, "3 P"], target: Float[Array, " 3"]
) -> Bool[Array, " P"]:
  """Returns whether a body stands between points on surfaces and a target point."""
  entries = body_distances(geometry, points, target[:, None] - points)
  return jnp.any(entries < 1.0, axis=0)


def _to_local(
  solids: Solids, origin: Float[Array, "3 #P"], direction: Float[Array, "3 P"]
) -> tuple[Float[Array, "N 3 #P"], Float[Array, "N 3 P"]]:
  """Rays in the bodies' own axes."""
  start = origin[None] - solids.centre[:, :, None]
  cos, sin = jnp.cos(solids.yaw)[:, None], jnp.sin(solids.yaw)[:, None]

  def turn(v: Array) -> Array:
    x, y, z = v[:, 0], v[:, 1], v[:, 2]
    turned = jnp.broadcast_arrays(cos * x + sin * y, cos * y - sin * x, z)
    return jnp.stack(turned, axis=1)

  along = jnp.broadcast_to(direction[None], (solids.yaw.size, *direction.shape))
  return turn(start), turn(along)


def _quadratic(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
  """Interval where a t^2 + 2 b t + c < 0; empty as (inf, -inf)."""
  square = b * b - a * c
  root = jnp.sqrt(jnp.maximum(square, 0.0))
  hit = square > 0.0
  return jnp.where(hit, (-b - root) / a, jnp.inf), jnp.where(hit, (-b + root) / a, -jnp.inf)


def _ball_distance(size: Array, start: Array, along: Array) -> tuple[Array, Array]:
  a = jnp.sum(along * along, axis=1)
  b = jnp.sum(start * along, axis=1)
  c = jnp.sum(start * start, axis=1) - size[:, 0] ** 2
  return _quadratic(a, b, c)


def _slab(size: Array, start: Array, along: Array) -> tuple[Array, Array]:
  """Interval inside `|coordinate| < size`."""
  inverse = 1.0 / jnp.where(jnp.abs(along) < _TINY, _TINY, along)
  middle, reach = -start * inverse, size * jnp.abs(inverse)
  return middle - reach, middle + reach


def _box_distance(size: Array, start: Array, along: Array) -> tuple[Array, Array]:
  enters, leaves = _slab(size, start, along)
  return jnp.max(enters, axis=1), jnp.min(leaves, axis=1)


def _tube_distance(size: Array, start: Array, along: Array) -> tuple[Array, Array]:
  flat, ahead = start[:, :2], along[:, :2]
  a = jnp.maximum(jnp.sum(ahead * ahead, axis=1), _TINY)
  b = jnp.sum(flat * ahead, axis=1)
  c = jnp.sum(flat * flat, axis=1) - size[:, 0] ** 2
  side_in, side_out = _quadratic(a, b, c)
  cap_in, cap_out = _slab(size[:, 2], start[:, 2], along[:, 2])
  return jnp.maximum(side_in, cap_in), jnp.minimum(side_out, cap_out)


def _surface(
  geometry: Geometry, point: Array, direction: Array, distance: Array, body: Array, exits: Array
) -> Hit:
  """Normal, face and local coordinates of the hit bodies."""
  rows = _frames(geometry)[:, body]
  x, y, z = point - rows[:3]
  cos, sin = rows[6], rows[7]
  local = jnp.stack([cos * x + sin * y, cos * y - sin * x, z])
  scaled = local / rows[3:6]
  radius = jnp.sqrt(scaled[0] ** 2 + scaled[1] ** 2)
  balls, boxes = geometry.balls.yaw.size, geometry.boxes.yaw.size
  in_room, is_ball = body == 0, (body > 0) & (body <= balls)
  is_tube = body > balls + boxes
  smooth = is_ball | (is_tube & (radius > jnp.abs(scaled[2])))
  axis = jnp.argmax(jnp.abs(scaled), axis=0)
  axis = jnp.where(in_room, jnp.argmin(exits, axis=0), axis)
  axis = jnp.where(is_tube, 2, axis)
  outward = jnp.where(in_room[None], -direction, scaled)
  chosen = jnp.arange(3)[:, None] == axis[None]
  positive = jnp.any(chosen & (outward >= 0.0), axis=0)
  flat = jnp.where(chosen, jnp.where(positive, 1.0, -1.0)[None], 0.0)
  upright = jnp.where(is_ball, scaled[2], 0.0)
  curved = jnp.stack([scaled[0], scaled[1], upright])
  length = jnp.sqrt(jnp.sum(curved * curved, axis=0))
  curved = curved / jnp.maximum(length, _TINY)[None]
  x, y, z = jnp.where(smooth[None], curved, flat)
  normal = jnp.stack([cos * x - sin * y, sin * x + cos * y, z])
  # A room's normals point inwards: its upper plane has the negative one.
  face = jnp.where(smooth, 0, 2 * axis + (positive ^ in_room))
  return Hit(distance, point, local, normal, body, face.astype(jnp.int32))


def _frames(geometry: Geometry) -> Float[Array, "8 bodies"]:
  """Centre, size, cosine and sine of the yaw of the room and all bodies."""
  parts = [jnp.array([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]])]  # the room
  for solids in (geometry.balls, geometry.boxes, geometry.tubes):
    turn = jnp.stack([jnp.cos(solids.yaw), jnp.sin(solids.yaw)], axis=1)
    parts.append(jnp.concatenate([solids.centre, solids.size, turn], axis=1))
  return jnp.concatenate(parts).T
