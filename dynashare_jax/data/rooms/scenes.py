"""Draws the scenes of the Rooms data set: layout, looks, light and camera."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from dynashare_jax.data.rooms import labels as scene_labels
from dynashare_jax.data.rooms import render
from dynashare_jax.data.rooms import shading

SHAPES = 3  # bodies of each shape
WALL_PATCHES = ("door",) * 2 + ("window",) * 2 + ("picture",) * 3

# Of a patch: ranges of its half width and half height and place of its centre
# above the floor in metres (a door stands on the floor), and the width of its frame.
_PATCH = {
  "door": (0.38, 0.55, 0.95, 1.08, 0.0, 0.08),
  "window": (0.45, 0.85, 0.4, 0.65, 1.5, 0.07),
  "picture": (0.3, 0.7, 0.25, 0.55, 1.6, 0.06),
  "rug": (0.7, 1.5, 0.6, 1.4, 0.0, 0.12),
}

# Ranges from which the looks of a surface are drawn: hue, saturation, value,
# hue and value of the second colour relative to the first, repeats a metre,
# and the chance of a texture.
_LOOKS = {
  "wall": (0.0, 1.0, 0.04, 0.38, 0.60, 0.95, 0.05, 0.70, 0.95, 0.8, 3.0, 0.6),
  "floor": (0.0, 0.15, 0.1, 0.6, 0.40, 0.80, 0.03, 0.60, 0.90, 0.7, 2.5, 0.8),
  "ceiling": (0.0, 1.0, 0.0, 0.1, 0.8, 0.98, 0.02, 0.85, 0.97, 0.6, 1.5, 0.3),
  "door": (0.03, 0.12, 0.2, 0.7, 0.35, 0.90, 0.02, 0.55, 0.80, 1.5, 4.0, 0.6),
  "window": (0.5, 0.6, 0.1, 0.5, 0.92, 1.00, 0.03, 0.40, 1.00, 0.5, 1.0, 0.3),
  "picture": (0.0, 1.0, 0.3, 0.9, 0.40, 1.0, 0.5, 0.25, 0.90, 2.0, 6.0, 0.9),
  "rug": (0.0, 1.0, 0.35, 0.9, 0.35, 0.85, 0.5, 0.50, 1.30, 1.5, 4.0, 0.8),
  "body": (0.0, 1.0, 0.25, 0.95, 0.45, 1.0, 0.5, 0.45, 1.20, 1.5, 6.0, 0.65),
}


class _Kind(NamedTuple):
  """What is usual in a kind of room; the light is not among it.

  Attributes:
    bodies: chance of each ball, box and cylinder to be there.
    patches: chance of each door, window, picture and rug to be there.
    textured: factor on the chance of a texture of walls, floor and ceiling.
  """

  bodies: Any
  patches: Any
  textured: Any


_ANY = _Kind((0.75,) * 3, (0.85,) * 4, (1.0,) * 3)
_KINDS = {
  "hall": _Kind((0.2, 0.25, 0.95), (0.95, 0.4, 0.3, 0.5), (0.7, 1.1, 1.7)),
  "store": _Kind((0.15, 0.95, 0.5), (0.6, 0.15, 0.1, 0.1), (0.3, 0.4, 0.3)),
  "playroom": _Kind((0.95, 0.5, 0.3), (0.5, 0.9, 0.6, 0.95), (1.5, 1.0, 1.3)),
  "gallery": _Kind((0.3, 0.3, 0.3), (0.5, 0.2, 0.95, 0.3), (0.2, 0.8, 0.3)),
}
KINDS = tuple(_KINDS)


def sample(key: Array, kinds: bool = False) -> shading.Scene:
  """Draws a random scene; the same typed key gives the same scene at every size.

  The room has 4 to 8 m by 4 to 8 m by 2.4 to 3.4 m, its lowest corner at the
  origin. Bodies keep to cells of a 3 x 3 grid on the floor and so do not touch
  each other; some float. A body too near the camera is left out.

  Args:
    kinds: whether the scene is of one of `KINDS`, all equally likely. They differ in how
      often bodies, painted areas and textures are there; no single one gives the kind
      away, and camera and light have one distribution in all.
  """
  usual, kind = _ANY, jnp.int32(-1)
  if kinds:
    kind = jax.random.randint(jax.random.fold_in(key, 1), (), 0, len(KINDS))
    table = [np.array(column, np.float32) for column in zip(*_KINDS.values(), strict=True)]
    usual = _Kind(*(jnp.asarray(column)[kind] for column in table))
  bodies, patches = 3 * SHAPES, len(WALL_PATCHES) + 1
  surfaces = render.PLANES + patches + bodies
  shapes = (3,), (7,), (9,), (9, bodies), (8,), (7, patches), (6,), (11, surfaces)
  room, view, cells, shape, slots, areas, lamp, looks = _uniform(key, shapes)
  high = jnp.array([4.0, 4.0, 2.4]) + room * jnp.array([4.0, 4.0, 1.0])
  camera = _camera(view, high)
  balls, boxes, tubes = _bodies(cells, shape, high, camera.position, usual)
  painted = _patches(slots, areas, high, usual)
  geometry = render.Geometry(jnp.zeros(3), high, balls, boxes, tubes, painted, camera)
  return shading.Scene(geometry, _materials(looks, usual), _light(lamp, high), kind)


def _uniform(key: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
  """Numbers in [0, 1) of several shapes; one draw compiles much faster."""
  sizes = list(map(math.prod, shapes))
  parts = jnp.split(jax.random.uniform(key, (sum(sizes),)), np.cumsum(sizes)[:-1].tolist())
  return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _between(
  share: Float[Array, " *N"], low: Array | np.ndarray | float, high: Array | np.ndarray | float
) -> Float[Array, " *N"]:
  return jnp.asarray(low + share * (high - low))


def _camera(u: Float[Array, " 7"], high: Float[Array, " 3"]) -> render.Camera:
  """Somewhere off the middle, looking across the room."""
  yaw = _between(u[0], -jnp.pi, jnp.pi)
  rotation = render.look(yaw, _between(u[1], -0.38, 0.08))
  ahead = jnp.stack([jnp.cos(yaw), jnp.sin(yaw)])
  room = high[:2] / 2 - 0.35
  reach = jnp.min(room / jnp.maximum(jnp.abs(ahead), 1e-3))
  flat = -ahead * reach * _between(u[2], 0.55, 1.0) + _between(u[3:5], -0.5, 0.5)
  flat = jnp.clip(flat, -room, room) + high[:2] / 2
  up = _between(u[5], 1.0, jnp.minimum(1.9, high[2] - 0.5))
  slope = jnp.tan(_between(u[6], 0.5, 0.74))  # 57 to 85 degrees across
  return render.Camera(jnp.append(flat, up), rotation, slope)


def _bodies(
  order: Float[Array, " 9"],
  u: Float[Array, "9 N"],
  high: Float[Array, " 3"],
  camera: Float[Array, " 3"],
  usual: _Kind,
) -> list[render.Solids]:
  """Balls, boxes and tubes, each in its own cell of the floor."""
  count = 3 * SHAPES
  cells = jnp.argsort(order)[:count]
  cell = high[:2] / 3
  radius = _between(u[0], 0.25, jnp.minimum(0.45 * jnp.min(cell), 0.8))
  middle = jnp.stack([cells % 3, cells // 3], axis=1) + 0.5
  slack = cell[None] / 2 - radius[:, None]
  flat = middle * cell[None] + _between(u[1:3].T, -1.0, 1.0) * slack
  kind = np.arange(count) // SHAPES
  tilt = _between(u[3], 0.45, 1.1)  # of a box's floor plan
  ball = radius * 0.85
  tube = radius * _between(u[3], 0.35, 0.9)
  tall = _between(u[4], 0.15, jnp.minimum(0.8, 0.34 * high[2]))
  wide = jnp.where(kind == 1, radius * jnp.cos(tilt), tube)
  deep = jnp.where(kind == 1, radius * jnp.sin(tilt), tube)
  size = jnp.stack([wide, deep, tall], axis=1)
  size = jnp.where((kind == 0)[:, None], ball[:, None], size)
  room = 0.8 * high[2] - 2.0 * size[:, 2]
  lift = jnp.where(u[5] < 0.2, u[6] * jnp.maximum(room, 0.0), 0.0)
  centre = jnp.concatenate([flat, (size[:, 2] + lift)[:, None]], axis=1)
  gap = jnp.sqrt(jnp.sum((flat - camera[None, :2]) ** 2, axis=1)) - radius
  present = (u[7] < jnp.asarray(usual.bodies)[kind]) & (gap > 0.7)
  solids = render.Solids(centre, size, _between(u[8], -jnp.pi, jnp.pi), present)
  parts = (slice(begin, begin + SHAPES) for begin in range(0, count, SHAPES))
  return [render.Solids(*(x[part] for x in solids)) for part in parts]


def _patches(
  order: Float[Array, " 8"], u: Float[Array, "7 D"], high: Float[Array, " 3"], usual: _Kind
) -> render.Patches:
  """Patches on different halves of walls, and a rug on the floor."""
  count = len(WALL_PATCHES)
  slots = jnp.argsort(order)[:count]
  plane = slots // 2
  length = jnp.where(plane < 2, high[1], high[0])
  names = (*WALL_PATCHES, "rug")
  rows = np.array([_PATCH[name] for name in names], np.float32).T
  chance = jnp.asarray(usual.patches)[np.array([list(_PATCH).index(name) for name in names])]
  wide = _between(u[0], rows[0], rows[1])
  tall = _between(u[1], rows[2], rows[3])
  slack = length / 4 - wide[:count]
  along = length * (0.25 + 0.5 * (slots % 2)) + _between(u[2, :count], -1.0, 1.0) * slack
  up = jnp.where(rows[4] > 0.0, rows[4] + _between(u[3], -0.1, 0.15), tall)
  wall = jnp.stack([along, up[:count]], axis=1)
  half = jnp.stack([wide, tall], axis=1)
  inner = high[:2] / 2 - half[count]
  rug = high[:2] / 2 + _between(u[4, :2], -0.8, 0.8) * inner
  labels = [scene_labels.CLASSES.index(name) for name in names]
  return render.Patches(
    plane=jnp.append(plane, 4).astype(jnp.int32),
    centre=jnp.concatenate([wall, rug[None]]),
    half=half,
    frame=jnp.asarray(rows[5]),
    label=jnp.array(labels, jnp.int32),
    round=(u[5] < 0.5) & (jnp.arange(count + 1) == count),
    present=u[6] < chance,
  )


def _light(u: Float[Array, " 6"], high: Float[Array, " 3"]) -> shading.Light:
  """A lamp below the ceiling."""
  flat = high[:2] * _between(u[:2], 0.2, 0.8)
  position = jnp.append(flat, high[2] * _between(u[2], 0.85, 0.93))
  tint = 1.0 + _between(u[3], -0.08, 0.12) * jnp.array([1.0, 0.0, -1.0])
  return shading.Light(position, _between(u[4], 0.9, 1.6), _between(u[5], 0.4, 0.65), tint)


def _materials(u: Float[Array, "11 M"], usual: _Kind) -> shading.Materials:
  """Looks of the planes, the patches and the bodies."""
  names = ["wall"] * 4 + ["floor", "ceiling", *WALL_PATCHES, "rug"]
  names += ["body"] * (3 * SHAPES)
  looks = np.array([_LOOKS[name] for name in names], np.float32).T
  # Walls look alike, but for one room in three whose first wall differs.
  alike = (np.arange(len(names)) < 4) & (np.arange(len(names)) > 0)
  u = jnp.where(alike[None], u[:, 1:2], u)
  same = (jnp.arange(len(names)) == 0) & (u[10, 0] < 0.67)
  u = jnp.where(same[None], u[:, 1:2], u)
  hue = _between(u[0], looks[0], looks[1])
  saturation = _between(u[1], looks[2], looks[3])
  value = _between(u[2], looks[4], looks[5])
  hue2 = hue + _between(u[3], -looks[6], looks[6])
  value2 = jnp.clip(value * _between(u[4], looks[7], looks[8]), 0.0, 1.0)
  kinds = len(shading.TEXTURES) - 1
  factors = jnp.asarray(usual.textured)[np.array([0] * 4 + [1, 2])]
  chance = looks[11] * jnp.ones(len(names)).at[: render.PLANES].set(factors)
  texture = jnp.where(u[5] < chance, 1 + jnp.floor(u[5] / chance * kinds), 0)
  # Along an axis of the surface, or askew.
  spin = jnp.floor(u[6] * 3.0)
  straight = (spin[:, None] == jnp.arange(3)[None]).astype(jnp.float32)
  turn, rise = 2.0 * jnp.pi * u[7], _between(u[8], -1.0, 1.0)
  flat = jnp.sqrt(1.0 - rise**2)
  askew = [flat * jnp.cos(turn), flat * jnp.sin(turn), rise]
  pick = (jnp.mod(u[6] * 3.0, 1.0) < 0.65)[:, None]
  return shading.Materials(
    first=shading.hsv(hue, saturation, value),
    second=shading.hsv(hue2, saturation, value2),
    texture=texture.astype(jnp.int32),
    axis=jnp.where(pick, straight, jnp.stack(askew, axis=1)),
    frequency=_between(u[9], looks[9], looks[10]),
    phase=u[10],
  )
