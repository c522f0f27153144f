"""Cityscapes: street scenes with classes, depth and parts of things.

2975 pictures for training and 500 for validation, which are the test split here, as in all the
multi-task papers: the official test labels are not public. AdaShare and DynaShare train on
segmentation into 19 classes and depth, MTAN also into the 7 categories, Auto-Lambda and MPPS also
on 10 classes of parts.

Source: Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016;
  Meletis et al., Cityscapes-Panoptic-Parts and PASCAL-Panoptic-Parts datasets for Scene
  Understanding, 2020.
Differs: the papers' depth is what MTAN's and AdaShare's files hold and is not explained there. It
  is the official 16-bit number divided by 65535: both have the maximum 0.4922 (32257 / 65535).
  Numbers 0 (not known) and 1 (infinitely far) are below AdaShare's threshold 3e-5. `disparity` is
  this, whatever the layout. The 7 classes are the categories without void; labels that are left out
  of the 19 are left out of them too. The stored 7 classes of MTAN's and AdaShare's files are taken
  to be in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import options
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

_WIDTH = cityscapes_layouts.SIZES["official"][1]  # of the original pictures


class Cityscapes(dense.DataSet):
  """Cityscapes.

  Inputs: RGB 0..1 `[H, W, 3]`. segmentation and parts: int32 `[H, W]`, from 0; -1 where there is no
  class. depth: float32 `[H, W]`, in the unit of `DEPTHS`, 0 where it is not known.

  Values of `config.data`:
    tasks: any of `TASKS`, in the wanted order. weights: of the tasks in the total
    loss. classes: 19 or 7. layout: a key of `cityscapes_layouts.HELP`, or auto.
    height, width: of all pictures, such as (256, 512) or (128, 256); 0 as stored.
    depth: a key of `DEPTHS`; disparity, which is inverse depth, is what the papers use. farthest:
    metres beyond which there is no depth, where it is in metres; 0 for no limit.
  """

  def specs(
    self, config: ConfigDict, compat: ConfigDict, facts: Mapping[str, Any]
  ) -> Mapping[str, types.TaskSpec]:
    """Returns the tasks; see the base class."""
    del compat, facts
    lookup.one_of("config.data.depth", config.depth, DEPTHS)
    options.check_range("farthest", config.farthest, 0)
    if config.classes not in cityscapes_labels.CLASSES:
      raise ValueError(f"config.data.classes is {config.classes}; it must be 19 or 7.")
    names, parts = cityscapes_labels.CLASSES[config.classes], cityscapes_labels.PARTS
    unit, inverse = DEPTHS[config.depth], config.depth != "metres"
    return {
      "segmentation": types.TaskSpec("segmentation", "segmentation", len(names), classes=names),
      "depth": types.TaskSpec("depth", "depth", 1, unit=unit, inverse=inverse),
      "parts": types.TaskSpec("parts", "segmentation", len(parts), classes=parts),
    }

  def fields(self, config: ConfigDict, compat: ConfigDict) -> tuple[str, ...]:
    """Returns the camera, where it is needed."""
    return ("camera",) * ("depth" in config.tasks and config.depth == "metres")

  def find(self, wanted: dense.Wanted, data_dir: str | None) -> store.Original:
    """Finds the files."""
    return cityscapes_layouts.find(wanted, data_dir)

  def found(self, wanted: dense.Wanted, original: store.Original) -> dense.Found:
    """Decodes the files, or a converted copy of them."""
    config, tasks, coded = wanted.config, wanted.tasks, original.facts["coded"]
    if "depth" in tasks and not coded and config.depth != "disparity":
      raise ValueError(
        f"config.data.depth is {config.depth!r}, but the layout {original.layout}"
        " holds disparity without its scale: set it to disparity."
      )
    table = cityscapes_labels.table(original.facts["labels"], config.classes)
    decode = Decode(tasks, tuple(table.tolist()), config.depth, coded, float(config.farthest))
    notes = _notes(tasks, coded, config)
    return dense.Found(original.layout, original.keys, original.read, decode, notes)


DATASET = Cityscapes(
  name="cityscapes",
  title=cityscapes_layouts.TITLE,
  tasks=TASKS,
  sizes={"train": 2975, "test": 500},
  stored={**cityscapes_layouts.SIZES, "auto": cityscapes_layouts.SIZES["mtan"]},
  values={
    "crop": (224, 224),
    "tasks": ("segmentation", "depth"),
    "weights": {"segmentation": 1.0, "depth": 20.0, "parts": 1.0},
    "classes": 19,
    "layout": "auto",
    "height": 256,
    "width": 512,
    "depth": "disparity",
    "farthest": 80.0,
  },
)
defaults, compat = DATASET.defaults, DATASET.compat
build, outline, original = DATASET.build, DATASET.outline, DATASET.original


@dataclasses.dataclass(frozen=True)
class Decode(dense_layouts.Decode):
  """Makes an example of raw fields; picklable.

  Attributes:
    classes: see `cityscapes_labels.table`.
    depth: a key of `DEPTHS`.
    coded: see `cityscapes_layouts.find`.
    farthest: metres beyond which there is no depth; 0 for no limit.
  """

  classes: tuple[int, ...]
  depth: str
  coded: bool
  farthest: float

  def _segmentation(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    ids = fields["segmentation"].astype(np.int32)
    table = np.array(self.classes, np.int32)
    inside = (ids >= -1) & (ids < len(table))
    labels = np.where(inside, table[np.where(inside, ids, 0)], -2)
    if labels.min() < cityscapes_labels.VOID:
      wrong = ids[labels < cityscapes_labels.VOID][0]
      raise ValueError(f"its segmentation has the id {wrong}, which is neither a class nor void.")
    return labels, labels != cityscapes_labels.VOID

  def _parts(self, fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    parts, last = fields["parts"].astype(np.int32), len(cityscapes_labels.PARTS) - 1
    if self.coded:
      parts = cityscapes_labels.parts(parts)
    labels = np.where(parts == 255, cityscapes_labels.VOID, parts)
    low, high = labels.min(), labels.max()
    if low < cityscapes_labels.VOID or high > last:
      raise ValueError(f"its parts have ids {low} to {high}; known are -1 to {last}.")
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


def _notes(tasks: tuple[str, ...], coded: bool, config: ConfigDict) -> tuple[str, ...]:
  """What the numbers of depth are."""
  if "depth" not in tasks:
    return ()
  if config.depth == "metres":
    limit = f", up to {config.farthest:g} m" if config.farthest else ""
    return (f"depth in metres: baseline times focal length / disparity{limit}",)
  unit = "in pixels of the picture" if config.depth == "pixels" else "as the files hold it"
  if coded and config.depth == "disparity":
    unit = "the official 16-bit number / 65535"
  return (f"depth is disparity, so inverse depth: {unit}",)
