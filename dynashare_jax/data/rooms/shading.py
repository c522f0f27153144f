"""Colours of the built-in scenes: procedural textures and a point light.

Differs: nothing here follows a published renderer; the aim is pictures whose
labels need appearance, shape and context, at little cost.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dynashare_jax.data.rooms import labels as scene_labels
from dynashare_jax.data.rooms import render

TEXTURES = ("plain", "stripes", "checks", "marble", "speckle", "fade")


class Materials(NamedTuple):
  """Looks of M surfaces: the room's planes, then patches, then bodies.

  Attributes:
    first: colour in 0..1.
    second: the texture's other colour, and a patch's frame.
    texture: index into `TEXTURES`.
    axis: unit direction along which stripes, marble and fade change.
    frequency: repeats for each metre.
    phase: shift in repeats.
  """

  first: Float[Array, "M 3"]
  second: Float[Array, "M 3"]
  texture: Int[Array, " M"]
  axis: Float[Array, "M 3"]
  frequency: Float[Array, " M"]
  phase: Float[Array, " M"]


class Light(NamedTuple):
  """A point light and what comes from everywhere.

  Attributes:
    position: metres, world frame.
    strength: brightness of a white surface 1 m below.
    ambient: brightness without the point light.
    tint: factor on red, green and blue.
  """

  position: Float[Array, " 3"]
  strength: Float[Array, ""]
  ambient: Float[Array, ""]
  tint: Float[Array, " 3"]


class Scene(NamedTuple):
  """All that a picture depends on, but its noise, and the kind of room that it was drawn as.

  Attributes:
    geometry: where everything is.
    materials: looks.
    light: the lamp.
    kind: index into `scenes.KINDS`; -1 for a room of no kind.
  """

  geometry: render.Geometry
  materials: Materials
  light: Light
  kind: Int[Array, ""] | int = -1


class Seen(NamedTuple):
  """What the surfaces hit by rays look like; a picture is made of nothing else.

  Attributes:
    albedo: colour in 0..1 before light falls on it.
    light: brightness that reaches the surface, without the tint.
    shines: whether it is a window pane, which shows its albedo whatever reaches it.
  """

  albedo: Float[Array, "3 P"]
  light: Float[Array, " P"]
  shines: Bool[Array, " P"]


def hsv(
  hue: Float[Array, " M"], saturation: Float[Array, " M"], value: Float[Array, " M"]
) -> Float[Array, "M 3"]:
  """Converts hue (in turns), saturation and value in 0..1 to RGB."""
  k = jnp.mod(jnp.array([5.0, 3.0, 1.0])[None] + 6.0 * hue[:, None], 6.0)
  ramp = jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)
  return value[:, None] * (1.0 - saturation[:, None] * ramp)


def mix(
  texture: Int[Array, " P"],
  place: Float[Array, "3 P"],
  axis: Float[Array, "3 P"],
  phase: Float[Array, " P"],
) -> Float[Array, " P"]:
  """Returns the share of the second colour, 0 to 1.

  Args:
    texture: index into `TEXTURES`.
    place: position in the surface's own axes times its frequency, so that a
      pattern repeats each unit.
    axis: unit direction of the pattern.
    phase: shift in units.
  """
  turn = 2.0 * jnp.pi
  along = jnp.sum(axis * place, axis=0) + phase
  stripes = (jnp.mod(along, 1.0) < 0.5).astype(jnp.float32)
  checks = jnp.mod(jnp.sum(jnp.floor(place + phase[None] + 0.37), axis=0), 2.0)
  x, y, z = place
  bend = jnp.sin(1.7 * x + 2.9 * y + turn * phase)
  bend += jnp.sin(2.3 * y - 1.9 * z + 1.5 * bend)
  marble = 0.5 + 0.5 * jnp.sin(turn * along + 2.0 * bend)
  grain = jnp.sin(11.0 * x + 3.0 * bend) * jnp.sin(13.0 * y + 5.0 * z - bend)
  speckle = jnp.clip(0.5 + 1.5 * grain, 0.0, 1.0)
  fade = 0.5 + 0.5 * jnp.sin(0.3 * turn * along)
  result = jnp.zeros_like(along)
  for i, kind in enumerate((stripes, checks, marble, speckle, fade), 1):
    result = jnp.where(texture == i, kind, result)
  return result


def _albedo(
  materials: Materials,
  hit: render.Hit,
  patch: Int[Array, " P"],
  framed: Bool[Array, " P"],
  patches: int,
) -> Float[Array, "3 P"]:
  """Colour of the hit surfaces before light falls on them; `patch` is an index or -1."""
  planes = render.PLANES
  row = jnp.where(hit.body > 0, planes + patches - 1 + hit.body, hit.face)
  row = jnp.where(patch >= 0, planes + patch, row)
  scalars = jnp.stack([materials.frequency, materials.phase])
  parts = [materials.first.T, materials.second.T, materials.axis.T, scalars]
  table = jnp.concatenate(parts)[:, row]
  place = hit.local * table[9][None]
  share = mix(materials.texture[row], place, table[6:9], table[10])
  share = jnp.where(framed, 1.0, share)[None]
  return table[:3] * (1.0 - share) + table[3:6] * share


def look(scene: Scene, shadows: bool, hit: render.Hit) -> Seen:
  """Returns the colours of what rays hit, and the light that falls on it.

  Light follows Lambert's law with a point light that fades with distance, on top of an
  ambient light that is a little stronger on surfaces that look up. `shadows`: whether
  bodies throw hard shadows.
  """
  geometry, light = scene.geometry, scene.light
  classes, patch, framed = scene_labels.segmentation(geometry, hit)
  colour = _albedo(scene.materials, hit, patch, framed, geometry.patches.label.size)
  towards = light.position[:, None] - hit.point
  square = jnp.sum(towards * towards, axis=0)
  cosine = jnp.sum(towards * hit.normal, axis=0) / jnp.sqrt(square + 1e-6)
  direct = jnp.maximum(cosine, 0.0) * light.strength * 1.15
  direct = direct / (1.0 + 0.15 * square)
  if shadows:
    start = hit.point + 2e-3 * hit.normal
    direct *= 1.0 - render.occluded(geometry, start, light.position)
  slope = jnp.array([0.09, 0.05, 0.12])[:, None]
  around = light.ambient * (0.9 + jnp.sum(slope * hit.normal, axis=0))
  shines = (classes == scene_labels.CLASSES.index("window")) & ~framed
  return Seen(colour, around + direct, shines)


def shade(
  scene: Scene, height: int, width: int, shadows: bool, hit: render.Hit
) -> Float[Array, "height width 3"]:
  """Returns the picture without noise: albedo x light x tint, RGB cut at 0 and 1.

  Window panes shine by themselves. `shadows`: whether bodies throw hard shadows.
  """
  seen = look(scene, shadows, hit)
  lit = seen.light[None] * scene.light.tint[:, None]
  lit = jnp.where(seen.shines[None], 1.0, lit)
  image = jnp.clip(seen.albedo * lit, 0.0, 1.0)
  return image.T.reshape(height, width, 3)
