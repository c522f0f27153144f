"""PASCAL-Context with five dense tasks: classes, parts of people, normals, saliency, edges.

4,998 pictures for training and 5,105 for validation, which are the test split here, as in the
multi-task papers. Parts are labelled where there are people; normals and saliency are the output of
networks, as Maninis et al. distilled it.

Source: Chen et al., Detect What You Can, CVPR 2014; Mottaghi et al., The Role of Context, CVPR
  2014; Maninis et al., Attentive Single-Tasking of Multiple Tasks (ASTMT), CVPR 2019.
Differs: pictures and labels are brought to one size before edges are found, so that they are one
  pixel wide at that size; ASTMT resizes the edges. It also rotates training pictures by up to 20
  degrees. Its labels of another size than the picture are stretched; here they are an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import types
from dynashare_jax.data.pascal_context import edges
from dynashare_jax.data.pascal_context import labels as context_labels
from dynashare_jax.data.pascal_context import layouts as context_layouts
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store
from dynashare_jax.data.pictures import surface_normals

TASKS = context_layouts.TASKS


class PascalContext(dense.DataSet):
  """PASCAL-Context.

  Inputs: RGB 0..1 `[H, W, 3]`. segmentation: int32 `[H, W]`, 21 classes; void has no label.
  human_parts: int32 `[H, W]`, 0 is none of a person's parts; a picture without labelled parts has
  no label at all. normals: float32 `[H, W, 3]`, unit, the axes as stored, of which the first is
  horizontal; only of classes that indoor scenes have. saliency, edges: int32 `[H, W]`, 0 or 1.

  Values of `config.data`:
    tasks: any of `TASKS`, in the wanted order. weights: of the tasks in the total loss. layout: a
    key of `context_layouts.HELP`, or auto. height, width: of all pictures, which differ in size as
    stored.
  """

  def specs(
    self, config: ConfigDict, compat: ConfigDict, facts: Mapping[str, Any]
  ) -> Mapping[str, types.TaskSpec]:
    """Returns the tasks; see the base class."""
    del compat, facts
    if not dense_layouts.wanted_size(config):
      raise ValueError(
        "config.data.height and width are 0, but pictures of PASCAL-Context differ in size: give"
        " them one, such as 512 and 512."
      )
    classes, parts = context_labels.CLASSES, context_labels.PARTS
    return {
      "segmentation": types.TaskSpec("segmentation", "segmentation", len(classes), classes=classes),
      "human_parts": types.TaskSpec("human_parts", "segmentation", len(parts), classes=parts),
      "normals": types.TaskSpec("normals", "normals", 3),
      "saliency": types.TaskSpec("saliency", "saliency", classes=("background", "salient")),
      "edges": types.TaskSpec("edges", "edges", classes=("none", "edge")),
    }

  def fields(self, config: ConfigDict, compat: ConfigDict) -> tuple[str, ...]:
    """Returns the label map that edges are found in, where normals need it."""
    return ("edges",) * ("normals" in config.tasks and "edges" not in config.tasks)

  def find(self, wanted: dense.Wanted, data_dir: str | None) -> store.Original:
    """Finds the files."""
    return context_layouts.find(wanted, data_dir)

  def found(self, wanted: dense.Wanted, original: store.Original) -> dense.Found:
    """Decodes the files, or a converted copy of them."""
    return dense.Found(original.layout, original.keys, original.read, Decode(wanted.tasks))


DATASET = PascalContext(
  name="pascal_context",
  title=context_layouts.TITLE,
  tasks=TASKS,
  sizes={"train": 4998, "test": 5105},
  stored={"auto": (512, 512)},
  values={
    "crop": (512, 512),
    "scales": (0.75, 1.25),
    "tasks": TASKS,
    "weights": {
      "segmentation": 1.0,
      "human_parts": 2.0,
      "normals": 10.0,
      "saliency": 5.0,
      "edges": 50.0,
    },
    "layout": "auto",
    "height": 512,
    "width": 512,
  },
)
defaults, compat = DATASET.defaults, DATASET.compat
build, outline, original = DATASET.build, DATASET.outline, DATASET.original

_Labels = tuple[np.ndarray, np.ndarray]  # and where they are valid


class Decode(dense_layouts.Decode):
  """Makes an example of raw fields; picklable."""

  def _segmentation(self, fields: Mapping[str, np.ndarray]) -> _Labels:
    ids = fields["segmentation"].astype(np.int32)
    valid = ids != context_labels.VOID
    last = len(context_labels.CLASSES) - 1
    wrong = ids[valid & ((ids < 0) | (ids > last))]
    if wrong.size:
      raise ValueError(
        f"its segmentation has the id {wrong[0]}; known are 0 to {last}, and {context_labels.VOID}"
        " for void."
      )
    return np.where(valid, ids, 0), valid

  def _human_parts(self, fields: Mapping[str, np.ndarray]) -> _Labels:
    size = fields["image"].shape[:2]
    if "human_parts" not in fields:
      return np.zeros(size, np.int32), np.zeros(size, bool)
    return fields["human_parts"].astype(np.int32), np.ones(size, bool)

  def _normals(self, fields: Mapping[str, np.ndarray]) -> _Labels:
    stored = fields["normals"]
    parts = [stored[..., i].astype(np.float32) * np.float32(2 / 255) - 1 for i in range(3)]
    return surface_normals.unit(parts, np.isin(fields["edges"], context_labels.NORMALS))

  def _saliency(self, fields: Mapping[str, np.ndarray]) -> _Labels:
    salient = fields["saliency"] > 127  # above a half
    return salient.astype(np.int32), np.ones(salient.shape, bool)

  def _edges(self, fields: Mapping[str, np.ndarray]) -> _Labels:
    found = edges.between(fields["edges"])
    return found.astype(np.int32), np.ones(found.shape, bool)
