"""Cityscapes: street scenes with classes, depth and parts of things.

2975 pictures for training and 500 for validation, which are the test split
here, as in all the multi-task papers: the official test labels are not public.
AdaShare and DynaShare train on segmentation into 19 classes and depth, MTAN
also into the 7 categories, Auto-Lambda and MPPS also on 10 classes of parts.

Source: Cordts et al., The Cityscapes Dataset for Semantic Urban Scene
  Understanding, CVPR 2016; Meletis et al., Cityscapes-Panoptic-Parts and
  PASCAL-Panoptic-Parts datasets for Scene Understanding, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data.cityscapes import labels as cityscapes_labels
from dynashare_jax.data.cityscapes import layouts as cityscapes_layouts
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store

TASKS = cityscapes_layouts.TASKS
# Kind of depth -> its unit in tables. `disparity` is in units of 256 pixels of
# the original picture, `pixels` in those of the picture that is trained on.
DEPTHS = {"disparity": "disparity", "pixels": "px", "metres": "m"}
NEAREST = 3e-5  # what is not above is no depth, as in AdaShare's code

_SIZES = {"train": 2975, "test": 500}
_WIDTH = cityscapes_layouts.SIZES["official"][1]  # of the original pictures


def defaults() -> dict[str, Any]:
  """Default values of `config.data`: those of `dense.defaults`, and these.

  Returns:
    tasks: any of `TASKS`, in the wanted order. weights: of the tasks in the
    total loss. classes: 19 or 7. layout: a key of `cityscapes_layouts.HELP`, or
    auto. height, width: of all pictures, such as (256, 512) or (128, 256); 0 as
    stored. depth: a key of `DEPTHS`; disparity, which is inverse depth, is what
    the papers use. farthest: metres beyond which there is no depth, where it is
    in metres; 0 for no limit.
  """
  return {
    **dense.defaults(),
    "crop": (224, 224),
    "tasks": ("segmentation", "depth"),
    "weights": {"segmentation": 1.0, "depth": 20.0, "parts": 1.0},
    "classes": 19,
    "layout": "auto",
    "height": 256,
    "width": 512,
    "depth": "disparity",
    "farthest": 80.0,
  }


def compat() -> dict[str, Any]:
  """Switches at their corrected values: those of `dense.compat`."""
  return dense.compat()


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Finds the data set; pictures are read when they are asked for.

  Args:
    config: `config.data`, fields as in `defaults`.
    compat: switches as in the function `compat`.
    data_dir: a folder in one of the layouts of `cityscapes_layouts.HELP`.
    seed: not used.

  Returns:
    The data set. Inputs: RGB 0..1 `[H, W, 3]`. segmentation and parts: int32
    `[H, W]`, from 0; -1 where there is no class. depth: float32 `[H, W]`, in
    the unit of `DEPTHS`, 0 where it is not known.

  Raises:
    ValueError: a wrong value in `config`, no data set in the folder, or an
      example that cannot be read.

  Differs: the papers' depth is what MTAN's and AdaShare's files hold and is not
    explained there. It is the official 16-bit number divided by 65535: both
    have the maximum 0.4922 (32257 / 65535). Numbers 0 (not known) and 1
    (infinitely far) are below AdaShare's threshold 3e-5. `disparity` is this,
    whatever the layout. The 7 classes are the categories without void; labels
    that are left out of the 19 are left out of them too. The stored 7 classes
    of MTAN's and AdaShare's files are taken to be in the same order.
  """
  del seed
  tasks, size = _chosen(config), dense_layouts.wanted_size(config)
  specs = _specs(tasks, config, compat)
  layout = _layout(config, data_dir, _fields(config, tasks), size)
  if "depth" in tasks and not layout.coded and config.depth != "disparity":
    raise ValueError(
      f"config.data.depth is {config.depth!r}, but the layout {layout.name}"
      " holds disparity without its scale: set it to disparity."
    )
  table = cityscapes_labels.table(layout.labels, config.classes)
  decode = Decode(tasks, tuple(table.tolist()), config.depth, layout.coded, float(config.farthest))
  found = dense.Found(
    _told(layout), layout.keys, layout.read, decode, _notes(layout, tasks, config)
  )
  return dense.assemble("cityscapes", specs, found, config, compat)


def original(config: ConfigDict, compat: ConfigDict, data_dir: str | None) -> store.Original:
  """What `data.store` converts; see there."""
  del compat
  tasks, size = _chosen(config), dense_layouts.wanted_size(config)
  fields = _fields(config, tasks)
  layout = _layout(config, data_dir, fields, size)
  facts = {"labels": layout.labels, "coded": layout.coded}
  return store.Original(_told(layout), layout.keys, layout.read, facts, ("image", *fields), size)


def _layout(
  config: ConfigDict, data_dir: str | None, fields: tuple[str, ...], size: tuple[int, int] | None
) -> cityscapes_layouts.Layout:
  """The files, or a converted copy of them."""
  if data_dir and store.is_copy(data_dir):
    copy = store.open_copy(data_dir, "cityscapes", ("image", *fields), size)
    return cityscapes_layouts.Layout(
      copy.layout, copy.keys, copy.read, copy.facts["labels"], copy.facts["coded"]
    )
  return cityscapes_layouts.find(data_dir, config.layout, fields, config.classes, size)


def _told(layout: cityscapes_layouts.Layout) -> str:
  """What was found, with the numbers of examples."""
  if isinstance(layout.read, store.Reader):
    return layout.name
  counts = ", ".join(f"{len(layout.keys[s])} {s}" for s in _SIZES)
  return f"{layout.name} ({counts})"


def _fields(config: ConfigDict, tasks: tuple[str, ...]) -> tuple[str, ...]:
  """Stored fields that the tasks need."""
  metres = "depth" in tasks and config.depth == "metres"
  return (*tasks, "camera") if metres else tasks


def outline(config: ConfigDict, compat: ConfigDict) -> types.DatasetSpec:
  """What is known before the data set is on disk; see `dense.outline`.

  Raises:
    ValueError: a wrong value in `config`.
  """
  tasks = _chosen(config)
  size = dense_layouts.wanted_size(config) or cityscapes_layouts.SIZES.get(
    config.layout, cityscapes_layouts.SIZES["mtan"]
  )
  return dense.outline("cityscapes", _specs(tasks, config, compat), size, _SIZES, config, compat)


@dataclasses.dataclass(frozen=True)
class Decode:
  """Makes an example of raw fields; picklable.

  Attributes:
    tasks: in order.
    classes: see `cityscapes_labels.table`.
    depth: a key of `DEPTHS`.
    coded: see `cityscapes_layouts.Layout`.
    farthest: metres beyond which there is no depth; 0 for no limit.
  """

  tasks: tuple[str, ...]
  classes: tuple[int, ...]
  depth: str
  coded: bool
  farthest: float

  def __call__(self, fields: Mapping[str, np.ndarray]) -> types.Batch:
    """Decodes an example; labels that are not valid are finite.

    Raises:
      ValueError: an id that is neither a class nor void.
    """
    decoders = {"segmentation": self._segmentation, "depth": self._depth, "parts": self._parts}
    found = {task: decoders[task](fields) for task in self.tasks}
    return dense_layouts.example(fields["image"], found)

  def _segmentation(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    ids = fields["segmentation"].astype(np.int32)
    table = np.array(self.classes, np.int32)
    inside = (ids >= -1) & (ids < len(table))
    labels = np.where(inside, table[np.where(inside, ids, 0)], -2)
    if labels.min() < cityscapes_labels.VOID:
      raise ValueError(
        "its segmentation has the id"
        f" {ids[labels < cityscapes_labels.VOID][0]}, which is"
        " neither a class nor void."
      )
    return labels, labels != cityscapes_labels.VOID

  def _parts(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    parts = fields["parts"].astype(np.int32)
    if self.coded:
      parts = cityscapes_labels.parts(parts)
    labels = np.where(parts == 255, cityscapes_labels.VOID, parts)
    if not (labels.min() >= cityscapes_labels.VOID and labels.max() < len(cityscapes_labels.PARTS)):
      raise ValueError(
        f"its parts have ids {labels.min()} to {labels.max()};"
        f" known are -1 to {len(cityscapes_labels.PARTS) - 1}."
      )
    return labels, labels != cityscapes_labels.VOID

  def _depth(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    stored = fields["depth"].astype(np.float32)
    if not self.coded:
      valid = np.isfinite(stored) & (stored > NEAREST)
      return np.where(valid, stored, np.float32(0)), valid
    disparity = (stored - 1) / np.float32(256)  # in original pixels
    if self.depth == "disparity":
      depth = stored / np.float32(65535)
      valid = depth > NEAREST
    elif self.depth == "pixels":
      depth = disparity * np.float32(stored.shape[1] / _WIDTH)
      valid = stored > 0
    else:
      valid = disparity > 0
      baseline, focal = fields["camera"]
      depth = baseline * focal / np.where(valid, disparity, np.float32(1))
      valid &= (depth <= self.farthest) | (self.farthest == 0)
    return np.where(valid, depth, np.float32(0)), valid


def _notes(
  layout: cityscapes_layouts.Layout, tasks: tuple[str, ...], config: ConfigDict
) -> tuple[str, ...]:
  """What is worth telling of depth."""
  if "depth" not in tasks:
    return ()
  if config.depth == "metres":
    limit = f", up to {config.farthest:g} m" if config.farthest else ""
    return (f"depth in metres: baseline times focal length / disparity{limit}",)
  told = {"disparity": "the official 16-bit number / 65535", "pixels": "in pixels of the picture"}[
    config.depth
  ]
  if not layout.coded:
    told = "as the files hold it"
  return (f"depth is disparity, so inverse depth: {told}",)


def _specs(
  tasks: tuple[str, ...], config: ConfigDict, compat: ConfigDict
) -> tuple[types.TaskSpec, ...]:
  """How the rest of the house sees the tasks."""
  lookup.one_of("config.data.depth", config.depth, tuple(DEPTHS))
  if not config.farthest >= 0:
    raise ValueError(f"config.data.farthest must be at least 0, but is {config.farthest}.")
  if config.classes not in cityscapes_labels.CLASSES:
    raise ValueError(f"config.data.classes is {config.classes}; it must be 19 or 7.")
  names = cityscapes_labels.CLASSES[config.classes]
  parts = cityscapes_labels.PARTS
  made = {
    "segmentation": types.TaskSpec("segmentation", "segmentation", len(names), classes=names),
    "depth": types.TaskSpec(
      "depth", "depth", 1, unit=DEPTHS[config.depth], inverse=config.depth != "metres"
    ),
    "parts": types.TaskSpec("parts", "segmentation", len(parts), classes=parts),
  }
  return tuple(
    dataclasses.replace(
      made[task], weight=dense_layouts.weight(config, task), metrics=compat.get("metrics", "pooled")
    )
    for task in tasks
  )


def _chosen(config: ConfigDict) -> tuple[str, ...]:
  return dense_layouts.chosen_tasks(cityscapes_layouts.TITLE, tuple(config.tasks), TASKS)
