"""NYU Depth V2: indoor pictures with classes, surface normals and depth.

1449 frames of a Kinect, 795 for training and 654 for testing. The papers train on segmentation into
40 classes and normals, or on these and depth.

Source: Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012.
Differs: AdaShare's pictures of normals store 255 (n + 1) / 2 with red right, green forward and blue
  up; measured on its four samples against planes fitted to the depth: the angle has the median 1.7
  degrees, the cosine the mean 0.98, and at most 0.52 in any other axes. Its code never decodes
  them: it takes blue, green, red, none of them negative, for the direction, so that angles shrink
  to about a half, and the 1.4% of pixels without a normal that are not white count. `compat.normals
  = "raw"` does that. A validation split is cut out of training; the lists `train1` and `train2` are
  not used.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import options
from dynashare_jax.data.nyuv2 import classes as nyuv2_classes
from dynashare_jax.data.nyuv2 import layouts as nyuv2_layouts
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store
from dynashare_jax.data.pictures import surface_normals

TASKS = nyuv2_layouts.TASKS
NEAREST = 3e-5  # metres; what is not farther is no depth, as in AdaShare's code

_TRIES = 4  # pictures from which unknown axes of normals are found out


class NyuV2(dense.DataSet):
  """NYU Depth V2.

  Inputs: RGB 0..1 `[H, W, 3]`. segmentation: int32 `[H, W]`, from 0. normals: float32 `[H, W, 3]`,
  unit, x right, y down, z forward, pointing towards the camera. depth: float32 `[H, W]`, metres.

  Values of `config.data`:
    tasks: any of `TASKS`, in the wanted order. weights: of the tasks in the total
    loss. classes: 40 or 13. layout: a key of `nyuv2_layouts.HELP`, or auto. height,
    width: of all pictures; 0 as stored. samples_only: train and test on all examples
    that are found, to try things on a few. normal_axes: auto, or which channels of
    stored normals point right, down and forward, as in `+0 -2 +1`.

  Switches of `config.compat`:
    normals: `unit`, or `raw`: the authors take the bytes of a picture of normals,
    blue first, for their direction.
  """

  def specs(
    self, config: ConfigDict, compat: ConfigDict, facts: Mapping[str, Any]
  ) -> Mapping[str, types.TaskSpec]:
    """Returns the tasks; see the base class."""
    del facts
    _is_raw(compat)
    if config.classes not in nyuv2_classes.CLASSES:
      raise ValueError(f"config.data.classes is {config.classes}; it must be 40 or 13.")
    names = nyuv2_classes.CLASSES[config.classes]
    return {
      "segmentation": types.TaskSpec("segmentation", "segmentation", len(names), classes=names),
      "normals": types.TaskSpec("normals", "normals", 3),
      "depth": types.TaskSpec("depth", "depth", 1, unit="m"),
    }

  def find(self, wanted: dense.Wanted, data_dir: str | None) -> store.Original:
    """Finds the files, and the axes of their normals."""
    original, axes = nyuv2_layouts.find(wanted, data_dir), wanted.config.normal_axes
    if "normals" not in wanted.tasks or _is_raw(wanted.compat):
      return original
    if axes == "auto":
      axes = original.facts["axes"] or str(_match(original))
    return dataclasses.replace(original, facts={**original.facts, "axes": axes})

  def original(
    self, config: ConfigDict, compat: ConfigDict, data_dir: str | None
  ) -> store.Original:
    """Finds the files; a copy of them knows the axes even where they are not used."""
    return super().original(config, ConfigDict({**compat, "normals": "unit"}), data_dir)

  def found(self, wanted: dense.Wanted, original: store.Original) -> dense.Found:
    """Decodes the files, or a converted copy of them."""
    config, tasks, facts = wanted.config, wanted.tasks, original.facts
    keys, notes = _keys(original, config.samples_only)
    classes = nyuv2_classes.table(facts["classes"], config.classes)
    notes += (facts["note"],) if facts["note"] else ()
    axes = None
    if "normals" in tasks and _is_raw(wanted.compat):
      note = "compat: normals are raw bytes, blue first; mirroring leaves them, as no component of"
      notes += (f"{note} theirs can be negated",)
    elif "normals" in tasks:
      given = config.normal_axes
      axes = surface_normals.read_axes(facts["axes"] if given == "auto" else given)
      notes += (f"axes of stored normals (right, down, forward): {axes}",)
    decode = Decode(tasks, facts["first"], tuple(classes.tolist()), tuple(facts["void"]), axes)
    return dense.Found(original.layout, keys, original.read, decode, notes)


DATASET = NyuV2(
  name="nyuv2",
  title=nyuv2_layouts.TITLE,
  tasks=TASKS,
  sizes={"train": 795, "test": 654},
  stored={**nyuv2_layouts.SIZES, "auto": nyuv2_layouts.SIZES["official"]},
  values={
    "tasks": ("segmentation", "normals"),
    "weights": {"segmentation": 1.0, "normals": 20.0, "depth": 3.0},
    "classes": 40,
    "layout": "auto",
    "height": 0,
    "width": 0,
    "samples_only": False,
    "normal_axes": "auto",
  },
  switches={"normals": "unit"},
)
defaults, compat = DATASET.defaults, DATASET.compat
build, outline, original = DATASET.build, DATASET.outline, DATASET.original


@dataclasses.dataclass(frozen=True)
class Decode(dense_layouts.Decode):
  """Makes an example of raw fields; picklable.

  Attributes:
    first: id of the first stored class.
    table: of every stored class the class that is wanted.
    void: ids of pixels without a class.
    axes: of stored normals; None takes their bytes for the direction, as the authors do.
  """

  first: int
  table: tuple[int, ...]
  void: tuple[int, ...]
  axes: surface_normals.Axes | None

  def _segmentation(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    ids = fields["segmentation"]
    place = ids.astype(np.int64) - self.first
    valid = ~np.isin(ids, self.void)
    wrong = valid & ((place < 0) | (place >= len(self.table)))
    if wrong.any():
      last = self.first + len(self.table) - 1
      known = f"known are {self.first} to {last}, and {self.void} for none"
      raise ValueError(f"its segmentation has the id {ids[wrong][0]}; {known}.")
    table = np.array(self.table, np.int32)
    return np.where(valid, table[np.where(valid, place, 0)], 0), valid

  def _normals(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if self.axes is None:
      return _as_the_authors(fields["normals"])
    normals, valid = _decode_normals(fields["normals"])
    return np.where(valid[..., None], self.axes(normals), np.array([0, 0, -1], np.float32)), valid

  def _depth(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    valid = np.isfinite(fields["depth"]) & (fields["depth"] > NEAREST)
    return np.where(valid, fields["depth"], np.float32(0)), valid


def _decode_normals(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Unit normals in their stored axes; none where white, not finite, or shorter than 0.5."""
  parts = [stored[..., i] for i in range(3)]
  if stored.dtype == np.uint8:
    valid = (parts[0] & parts[1] & parts[2]) != 255
    parts = [p.astype(np.float32) * np.float32(2 / 255) - 1 for p in parts]
  else:
    valid = np.logical_and.reduce([np.isfinite(p) for p in parts])
    parts = [np.where(valid, p, 0).astype(np.float32) for p in parts]
  return surface_normals.unit(parts, valid)


def _as_the_authors(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Bytes as directions."""
  # Source: AdaShare's code: OpenCV reads blue first, the bytes are normalised, and a
  # pixel counts where none of them is 255.
  if stored.dtype != np.uint8:
    needed = "needs normals stored as pictures, as AdaShare has them; these are arrays"
    raise ValueError(f"config.compat.normals 'raw' {needed}.")
  red, green, blue = (stored[..., i].astype(np.float32) for i in range(3))
  length = np.maximum(np.sqrt(blue**2 + green**2 + red**2), np.float32(1))
  valid = np.maximum(np.maximum(red, green), blue) < 255
  return np.stack([p / length for p in (blue, green, red)], -1), valid


def _is_raw(compat: ConfigDict) -> bool:
  return options.switch(compat, "normals", ("unit", "raw")) == "raw"


def _match(original: store.Original) -> surface_normals.Axes:
  """Axes of stored normals that are not known, by the planes of the depth."""
  assert isinstance(original.read, dense_layouts.Reader)
  read = dataclasses.replace(original.read, fields=("normals", "depth"), size=None)
  keys = (*original.keys["train"], *original.keys["test"])
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
      "The axes of the normals do not show in the depth: the mean cosine to fitted planes is"
      f" {best:.2f} for '{axes}', {second:.2f} for the next. Give config.data.normal_axes."
    )
  return axes


def _pair(fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Stored and fitted normals of the pixels that have both."""
  depth = fields["depth"]
  stored, valid = _decode_normals(fields["normals"])
  fitted, usable = surface_normals.fit(depth, surface_normals.kinect(depth.shape))
  return stored[valid & usable], fitted[valid & usable]


def _keys(
  original: store.Original, samples_only: bool
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
  """Splits, and a note where they are not the published ones."""
  keys = dict(original.keys)
  every = tuple(dict.fromkeys((*keys["train"], *keys["test"])))
  if samples_only:
    note = "samples_only: train, validation and test are the same examples"
    return dict.fromkeys(types.SPLITS, every), (note,)
  for split, part in keys.items():
    if not part:
      raise ValueError(
        f"NYU v2: none of the {len(every)} examples of {original.layout} belongs to {split}."
        " To try things on all of them, without a split, set config.data.samples_only."
      )
  return keys, ()
