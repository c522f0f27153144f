"""Rooms: procedural indoor scenes with exact labels, nothing to download.

A scene is drawn from a PRNG key and rendered with analytic ray-primitive intersections: a textured
room with doors, windows, pictures and a rug, up to nine balls, boxes and cylinders, a pinhole
camera and a point light. Textures tell materials apart but say nothing of depth and normals;
albedo must ignore the light that shading and light read. So the tasks share some features and
differ in others.

Use `render` to make scenes of any size on the fly, under `jit` and `vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import memory
from dynashare_jax.data import options
from dynashare_jax.data.rooms import labels as scene_labels
from dynashare_jax.data.rooms import render as tracer
from dynashare_jax.data.rooms import scenes as room_scenes
from dynashare_jax.data.rooms import shading

DENSE = ("segmentation", "depth", "normals", "edges", "keypoints", "albedo", "shading")
TASKS = (*DENSE, "light", "room")
_WEIGHTS = {
  "segmentation": 1.0,
  "depth": 1.0,
  "normals": 5.0,
  "edges": 5.0,
  "keypoints": 5.0,
  "albedo": 5.0,
  "shading": 5.0,
  "light": 3.0,
  "room": 1.0,
}
RANGE = 1 << 28  # keys between the starts of two splits
SMALLEST = 8  # pixels


def defaults() -> dict[str, Any]:
  """Returns the default values of `config.data`.

  height, width: pixels, at least 8. train, validation, test: examples. tasks: any
  of `TASKS`, in the wanted order. noise: standard deviation of the image noise.
  shadows: whether bodies throw hard shadows. kinds: whether scenes are of one of
  `scenes.KINDS`, which the task room asks for; other scenes are drawn then.
  scene_seed: chooses the scenes (the training seed does not). weights: of the tasks
  in the total loss.
  """
  return {
    "height": 48,
    "width": 64,
    "train": 2048,
    "validation": 256,
    "test": 256,
    "tasks": ("segmentation", "depth", "normals"),
    "noise": 0.02,
    "shadows": True,
    "kinds": False,
    "scene_seed": 0,
    "weights": _WEIGHTS,
  }


def compat() -> dict[str, Any]:
  """Returns no switch: no published code exists for this data set."""
  return {}


def render(
  key: Array,
  height: int,
  width: int,
  noise: float = 0.02,
  shadows: bool = True,
  tasks: Sequence[str] = TASKS,
  kinds: bool = False,
) -> types.Batch:
  """Renders one random scene, an example without the leading axis.

  Pure: works under `jit` (all but `key` static) and `vmap` over keys.

  Args:
    key: typed PRNG key of the scene.
    noise: standard deviation of the image noise, whose values are cut at 0, 1.
    shadows: whether bodies throw hard shadows.
    tasks: labels to make, any of `TASKS`; see `labels`.
    kinds: whether the scene is of one of `scenes.KINDS`; else room has no label.

  Returns:
    The example; inputs are RGB float32 `[H, W, 3]` in 0..1.
  """
  scene_key, noise_key = jax.random.split(key)
  scene = room_scenes.sample(scene_key, kinds)
  hit = tracer.camera_hits(scene.geometry, height, width)
  image = shading.shade(scene, height, width, shadows, hit)
  if noise > 0:
    grain = jax.random.normal(noise_key, image.shape)
    image = jnp.clip(image + noise * grain, 0.0, 1.0)
  targets = labels(scene, hit, height, width, tasks, shadows)
  valid: dict[str, types.Array] = {
    name: jnp.ones((height, width) if name in DENSE else (), bool) for name in tasks
  }
  if "room" in tasks:
    valid["room"] = targets["room"] >= 0
  return types.Batch(image, targets, valid, jnp.ones((), bool))


def labels(
  scene: shading.Scene,
  hit: tracer.Hit,
  height: int,
  width: int,
  tasks: Sequence[str] = TASKS,
  shadows: bool = True,
) -> dict[str, types.Array]:
  """Returns the labels of a scene, any of `TASKS`.

  The picture without noise is albedo x shading x the lamp's tint, cut at 0 and 1 (without
  the tint on window panes). `shadows`: whether bodies throw them, as in `render`.

  Returns:
    segmentation: int32 index into `labels.CLASSES`.
    depth: float32 metres along the optical axis (not along the ray).
    normals: float32 `[H, W, 3]`, unit, in the camera frame (x right, y down,
      z forward), pointing towards the camera.
    edges: float32, 1 on both sides of occlusions, creases and contacts.
    keypoints: float32 in 0..1, Gaussians at visible room and box corners and at the centres of
      visible balls and cylinders; standard deviation height / 40, at least 1 pixel.
    albedo: float32 `[H, W, 3]` in 0..1, RGB of the surface without light and noise.
    shading: float32, the brightness of the light that reaches the surface, about 0.3 to 2.5;
      1 on window panes, which shine by themselves.
    light: float32 `[3]`, unit, from the camera towards the lamp, in the camera frame.
    room: int32 index into `scenes.KINDS`; -1 for a scene of no kind.
  """
  geometry, shape, sigma = scene.geometry, (height, width), max(1.0, height / 40)
  look = functools.cache(lambda: shading.look(scene, shadows, hit))
  make: dict[str, Callable[[], Array]] = {
    "segmentation": lambda: scene_labels.segmentation(geometry, hit)[0].reshape(shape),
    "depth": lambda: hit.distance.reshape(shape),
    "normals": lambda: tracer.rotate(geometry.camera.rotation, hit.normal).T.reshape(*shape, 3),
    "edges": lambda: scene_labels.edges(hit, height, width),
    "keypoints": lambda: scene_labels.heat_map(geometry, height, width, sigma),
    "albedo": lambda: look().albedo.T.reshape(*shape, 3),
    "shading": lambda: jnp.where(look().shines, 1.0, look().light).reshape(shape),
    "light": lambda: scene_labels.direction(geometry.camera, scene.light.position),
    "room": lambda: jnp.asarray(scene.kind, jnp.int32),
  }
  return {name: make[name]() for name in tasks}


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Makes the data set; nothing is rendered before it is asked for.

  Args:
    config: `config.data`, fields as in `defaults`.
    seed: not used: the scenes depend on `config.scene_seed` alone.

  Returns:
    The data set. `arrays` keeps what it rendered; `source` renders one example
    for each access, bit-identical to `arrays` on the same device.

  Raises:
    ValueError: a wrong value in `config`, or an unknown task.
  """
  del compat, data_dir, seed
  _check(config)
  sizes = {split: int(config[split]) for split in types.SPLITS}
  height, width = int(config.height), int(config.width)
  spec = types.DatasetSpec(
    name="rooms",
    tasks=tuple(_task(name, config) for name in config.tasks),
    input_kind="image",
    input_shape=(height, width, 3),
    sizes=sizes,
    notes=("procedural scenes; segmentation is not balanced over classes",),
  )
  noise, shadows, kinds = float(config.noise), bool(config.shadows), bool(config.kinds)
  compiled = _renderer(height, width, noise, shadows, tuple(config.tasks), kinds)
  example = functools.partial(compiled, jax.random.key(int(config.scene_seed)))
  sources = {s: _Source(example, i * RANGE, sizes[s]) for i, s in enumerate(types.SPLITS)}
  return memory.dataset(spec, sources)


@dataclasses.dataclass(frozen=True)
class _Source(Sequence[types.Batch]):
  """Random access to the scenes of one split."""

  example: Callable[[Any], types.Batch]
  offset: int
  size: int

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, index: Any) -> types.Batch:  # type: ignore[override]
    if not -self.size <= index < self.size:
      raise IndexError(f"rooms: no example {index} among {self.size}")
    scene = self.example(np.uint32(self.offset + int(index) % self.size))
    return jax.tree.map(np.asarray, scene)


@functools.lru_cache(maxsize=16)
def _renderer(
  height: int, width: int, noise: float, shadows: bool, tasks: tuple[str, ...], kinds: bool
) -> Callable[[Array, Any], types.Batch]:
  """Compiled: (key of all scenes, number of a scene) -> the example."""

  def example(key: Array, number: Array) -> types.Batch:
    return render(jax.random.fold_in(key, number), height, width, noise, shadows, tasks, kinds)

  return jax.jit(example)


def _task(name: str, config: ConfigDict) -> types.TaskSpec:
  """How the rest of the house sees a task."""
  weight = options.weight(config, name)
  if name == "segmentation":
    return types.TaskSpec(name, name, len(scene_labels.CLASSES), weight, scene_labels.CLASSES)
  if name == "depth":
    return types.TaskSpec(name, name, 1, weight, unit="m")
  if name == "normals":
    return types.TaskSpec(name, name, 3, weight)
  if name == "albedo":
    return types.TaskSpec(name, "colour", 3, weight)
  if name == "light":
    return types.TaskSpec(name, "number", 3, weight)
  if name == "room":
    kinds = room_scenes.KINDS
    return types.TaskSpec(name, "multiclass", len(kinds), weight, kinds)
  return types.TaskSpec(name, "regression", 1, weight)


def _check(config: ConfigDict) -> None:
  """Refuses what cannot be rendered, with the reason."""
  options.tasks("rooms", config.tasks, TASKS)
  if "room" in config.tasks and not config.kinds:
    raise ValueError("The task room needs scenes of several kinds: set config.data.kinds=True.")
  for field in ("height", "width"):
    options.check_range(field, config[field], SMALLEST)
  for split in types.SPLITS:
    options.check_range(split, config[split], 1, RANGE)
  options.check_range("noise", config.noise, 0)
