"""NYU Depth V2: indoor pictures with classes, surface normals and depth.

1449 frames of a Kinect, 795 for training and 654 for testing. The papers train
on segmentation into 40 classes and normals, or on these and depth.

Source: Silberman et al., Indoor Segmentation and Support Inference from RGBD
  Images, ECCV 2012.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import types
from dynashare_jax.data.nyuv2 import classes as nyuv2_classes
from dynashare_jax.data.nyuv2 import files as nyuv2_files
from dynashare_jax.data.nyuv2 import layouts as nyuv2_layouts
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store
from dynashare_jax.data.pictures import surface_normals

TASKS = nyuv2_layouts.TASKS
NEAREST = 3e-5  # metres; what is not farther is no depth, as in AdaShare's code

_TRIES = 4  # pictures from which unknown axes of normals are found out
_SIZES = {"train": 795, "test": 654}


def defaults() -> dict[str, Any]:
  """Default values of `config.data`: those of `dense.defaults`, and these.

  Returns:
    tasks: any of `TASKS`, in the wanted order. weights: of the tasks in the
    total loss. classes: 40 or 13. layout: a key of `nyuv2_layouts.HELP`, or
    auto. height, width: of all pictures; 0 as stored. samples_only: train and
    test on all examples that are found, to try things on a few. normal_axes:
    auto, or which channels of stored normals point right, down and forward, as
    in `+0 -2 +1`.
  """
  return {
    **dense.defaults(),
    "tasks": ("segmentation", "normals"),
    "weights": {"segmentation": 1.0, "normals": 20.0, "depth": 3.0},
    "classes": 40,
    "layout": "auto",
    "height": 0,
    "width": 0,
    "samples_only": False,
    "normal_axes": "auto",
  }


def compat() -> dict[str, Any]:
  """Switches at their corrected values: those of `dense.compat`, and this.

  Returns:
    normals: `unit`, or `raw`: the authors take the bytes of a picture of
    normals, blue first, for their direction.
  """
  return {**dense.compat(), "normals": "unit"}


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Finds the data set; pictures are read when they are asked for.

  Args:
    config: `config.data`, fields as in `defaults`.
    compat: switches as in the function `compat`.
    data_dir: a folder in one of the layouts of `nyuv2_layouts.HELP`.
    seed: not used.

  Returns:
    The data set. Inputs: RGB 0..1 `[H, W, 3]`. segmentation: int32 `[H, W]`,
    from 0. normals: float32 `[H, W, 3]`, unit, x right, y down, z forward,
    pointing towards the camera. depth: float32 `[H, W]`, metres.

  Raises:
    ValueError: a wrong value in `config`, no data set in the folder, or an
      example that cannot be read.

  Differs: AdaShare's pictures of normals store 255 (n + 1) / 2 with red right,
    green forward and blue up; measured on its four samples against planes
    fitted to the depth: the angle has the median 1.7 degrees, the cosine the
    mean 0.98, and at most 0.52 in any other axes. Its code never decodes them:
    it takes blue, green, red, none of them negative, for the direction, so that
    angles shrink to about a half, and the 1.4% of pixels without a normal that
    are not white count. `compat.normals = "raw"` does that. A validation split
    is cut out of training; the lists `train1` and `train2` are not used.
  """
  del seed
  tasks, size = _chosen(config), dense_layouts.wanted_size(config)
  raw = _is_raw(compat)
  layout = _layout(config, data_dir, tasks, size)
  keys, notes = _keys(layout, config.samples_only, data_dir)
  classes = nyuv2_classes.table(layout.classes, config.classes)
  decode = Decode(
    tasks, layout.first, tuple(classes.tolist()), layout.void, _axes(layout, config, tasks, raw)
  )
  notes += (layout.note,) if layout.note else ()
  if "normals" in tasks:
    notes += _about_normals(decode)
  found = dense.Found(_told(layout), keys, layout.read, decode, notes)
  return dense.assemble(
    "nyuv2", _specs(tasks, config, compat), found, config, _switches(compat, raw)
  )


def original(config: ConfigDict, compat: ConfigDict, data_dir: str | None) -> store.Original:
  """What `data.store` converts; see there."""
  del compat
  tasks, size = _chosen(config), dense_layouts.wanted_size(config)
  layout = _layout(config, data_dir, tasks, size)
  axes = _axes(layout, config, tasks, raw=False)
  facts = {
    "classes": layout.classes,
    "first": layout.first,
    "void": list(layout.void),
    "axes": str(axes),
    "note": layout.note,
  }
  return store.Original(_told(layout), layout.keys, layout.read, facts, ("image", *tasks), size)


def _layout(
  config: ConfigDict, data_dir: str | None, tasks: tuple[str, ...], size: tuple[int, int] | None
) -> nyuv2_layouts.Layout:
  """The files, or a converted copy of them."""
  if data_dir and store.is_copy(data_dir):
    copy = store.open_copy(data_dir, "nyuv2", ("image", *tasks), size)
    facts = copy.facts
    return nyuv2_layouts.Layout(
      copy.layout,
      copy.keys,
      copy.read,
      facts["classes"],
      facts["first"],
      tuple(facts["void"]),
      surface_normals.read_axes(facts["axes"]),
      facts["note"],
    )
  return nyuv2_layouts.find(data_dir, config.layout, tasks, size)


def _told(layout: nyuv2_layouts.Layout) -> str:
  """What was found, with the numbers of examples."""
  if isinstance(layout.read, store.Reader):
    return layout.name
  counts = ", ".join(f"{len(layout.keys[s])} {s}" for s in _SIZES)
  return f"{layout.name} ({counts})"


def outline(config: ConfigDict, compat: ConfigDict) -> types.DatasetSpec:
  """What is known before the data set is on disk; see `dense.outline`.

  Raises:
    ValueError: a wrong value in `config`.
  """
  tasks = _chosen(config)
  size = dense_layouts.wanted_size(config) or nyuv2_layouts.SIZES.get(
    config.layout, nyuv2_layouts.SIZES["official"]
  )
  return dense.outline(
    "nyuv2", _specs(tasks, config, compat), size, _SIZES, config, _switches(compat, _is_raw(compat))
  )


@dataclasses.dataclass(frozen=True)
class Decode:
  """Makes an example of raw fields; picklable.

  Attributes:
    tasks: in order.
    first: id of the first stored class.
    table: of every stored class the class that is wanted.
    void: ids of pixels without a class.
    axes: of stored normals; None takes their bytes for the direction, as the
      authors do.
  """

  tasks: tuple[str, ...]
  first: int
  table: tuple[int, ...]
  void: tuple[int, ...]
  axes: surface_normals.Axes | None

  def __call__(self, fields: Mapping[str, np.ndarray]) -> types.Batch:
    """Decodes an example; labels that are not valid are finite.

    Raises:
      ValueError: an id that is neither a class nor void.
    """
    decoders = {"segmentation": self._segmentation, "normals": self._normals, "depth": _depth}
    found = {task: decoders[task](fields[task]) for task in self.tasks}
    return dense_layouts.example(fields["image"], found)

  def _segmentation(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = ids.astype(np.int64) - self.first
    valid = ~np.isin(ids, self.void)
    wrong = valid & ((place < 0) | (place >= len(self.table)))
    if wrong.any():
      last = self.first + len(self.table) - 1
      raise ValueError(
        f"its segmentation has the id {ids[wrong][0]}; known are"
        f" {self.first} to {last}, and {self.void} for none."
      )
    table = np.array(self.table, np.int32)
    return np.where(valid, table[np.where(valid, place, 0)], 0), valid

  def _normals(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if self.axes is None:
      return _as_the_authors(stored)
    normals, valid = decode_normals(stored)
    return np.where(valid[..., None], self.axes(normals), np.array([0, 0, -1], np.float32)), valid


def decode_normals(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Unit normals in their stored axes.

  Args:
    stored: `[H, W, 3]`, uint8 255 (n + 1) / 2 with white for none, or floats
      with zeros for none.

  Returns:
    Float32 `[H, W, 3]`; bool `[H, W]`, False where there is none: white, not
    finite, or shorter than a half.
  """
  parts = [stored[..., i] for i in range(3)]
  if stored.dtype == np.uint8:
    valid = (parts[0] & parts[1] & parts[2]) != 255
    parts = [p.astype(np.float32) * np.float32(2 / 255) - 1 for p in parts]
  else:
    valid = np.logical_and.reduce([np.isfinite(p) for p in parts])
    parts = [np.where(valid, p, 0).astype(np.float32) for p in parts]
  return surface_normals.unit(parts, valid)


def _as_the_authors(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Bytes as directions.

  Source: AdaShare's code: OpenCV reads blue first, the bytes are normalised,
    and a pixel counts where none of them is 255.
  """
  if stored.dtype != np.uint8:
    raise ValueError(
      "config.compat.normals 'raw' needs normals stored as"
      " pictures, as AdaShare has them; these are arrays."
    )
  red, green, blue = (stored[..., i].astype(np.float32) for i in range(3))
  length = np.maximum(np.sqrt(blue**2 + green**2 + red**2), np.float32(1))
  valid = np.maximum(np.maximum(red, green), blue) < 255
  return np.stack([p / length for p in (blue, green, red)], -1), valid


def _depth(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  valid = np.isfinite(stored) & (stored > NEAREST)
  return np.where(valid, stored, np.float32(0)), valid


def _axes(
  layout: nyuv2_layouts.Layout, config: ConfigDict, tasks: Sequence[str], raw: bool
) -> surface_normals.Axes | None:
  """Axes of the stored normals: given, known, or found out."""
  if raw or "normals" not in tasks:
    return None if raw else surface_normals.Axes()
  if config.normal_axes != "auto":
    return surface_normals.read_axes(config.normal_axes)
  if layout.axes is not None:
    return layout.axes
  assert isinstance(layout.read, nyuv2_files.Reader)
  read = dataclasses.replace(layout.read, tasks=("normals", "depth"), size=None)
  keys = (*layout.keys["train"], *layout.keys["test"])
  chosen = [keys[i] for i in np.linspace(0, len(keys) - 1, _TRIES).astype(int)] if keys else []
  try:
    pairs = [_pair(read(key)) for key in dict.fromkeys(chosen)]
  except ValueError as error:
    raise ValueError(
      f"To find out the axes of the normals: {error} Or give config.data.normal_axes."
    ) from error
  axes, best, second = surface_normals.match(pairs)
  if best < 0.7 or best - second < 0.1:
    raise ValueError(
      "The axes of the normals do not show in the depth: the mean cosine to"
      f" fitted planes is {best:.2f} for '{axes}', {second:.2f} for the next."
      " Give config.data.normal_axes."
    )
  return axes


def _pair(fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Stored and fitted normals of the pixels that have both."""
  depth = fields["depth"]
  stored, valid = decode_normals(fields["normals"])
  camera = surface_normals.kinect((depth.shape[0], depth.shape[1]))
  fitted, usable = surface_normals.fit(depth, camera)
  return stored[valid & usable], fitted[valid & usable]


def _keys(
  layout: nyuv2_layouts.Layout, samples_only: bool, data_dir: str | None
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
  """Splits, and a note where they are not the published ones."""
  if samples_only:
    every = tuple(dict.fromkeys((*layout.keys["train"], *layout.keys["test"])))
    return (
      dict.fromkeys(types.SPLITS, every),
      ("samples_only: train, validation and test are the same examples",),
    )
  empty = [split for split in _SIZES if not layout.keys[split]]
  if empty:
    total = sum(map(len, layout.keys.values()))
    raise ValueError(
      f"NYU v2: none of the {total} examples in {data_dir} belongs"
      f" to {empty[0]}. To try things on all of them, without a split, set"
      " config.data.samples_only."
    )
  return dict(layout.keys), ()


def _about_normals(decode: Decode) -> tuple[str, ...]:
  if decode.axes is None:
    return (
      "compat: normals are raw bytes, blue first; mirroring leaves them,"
      " as no component of theirs can be negated",
    )
  return (f"axes of stored normals (right, down, forward): {decode.axes}",)


def _switches(compat: ConfigDict, raw: bool) -> ConfigDict:
  """Raw normals cannot be mirrored but plainly."""
  switches = ConfigDict(dict(compat))
  if raw:
    switches.mirror = "plain"
  return switches


def _is_raw(compat: ConfigDict) -> bool:
  if compat.normals not in ("unit", "raw"):
    raise ValueError(f"config.compat.normals is {compat.normals!r}; it must be 'unit' or 'raw'.")
  return bool(compat.normals == "raw")


def _specs(
  tasks: Sequence[str], config: ConfigDict, compat: ConfigDict
) -> tuple[types.TaskSpec, ...]:
  """How the rest of the house sees the tasks."""
  metrics = compat.get("metrics", "pooled")
  if config.classes not in nyuv2_classes.CLASSES:
    raise ValueError(f"config.data.classes is {config.classes}; it must be 40 or 13.")
  names = nyuv2_classes.CLASSES[config.classes]
  made = {
    "segmentation": types.TaskSpec("segmentation", "segmentation", len(names), classes=names),
    "normals": types.TaskSpec("normals", "normals", 3),
    "depth": types.TaskSpec("depth", "depth", 1, unit="m"),
  }
  return tuple(
    dataclasses.replace(made[t], weight=dense_layouts.weight(config, t), metrics=metrics)
    for t in tasks
  )


def _chosen(config: ConfigDict) -> tuple[str, ...]:
  return dense_layouts.chosen_tasks("NYU v2", tuple(config.tasks), TASKS)
