"""CelebA: 40 attributes of faces, each a binary task; or three tasks of some of them.

202,599 aligned pictures of 178 x 218 pixels in the official splits. `gender` is the attribute Male,
`age` is Young, `clothes` has the five attributes Wearing_ as one task with five labels.

Source: Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015; the three tasks and
  pictures of 32 x 32: GatedMTL (submission to ICLR 2024, later InterroGate).
Differs: the paper does not say how pictures are reduced, which attributes `clothes` has, or how
  training varies them. Here whole pictures are averaged down, which changes their shape, and half
  of them are mirrored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import types
from dynashare_jax.data.celeba import layouts as celeba_layouts
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store

TASKS = tuple(celeba_layouts.TASKS)


class Celeba(dense.DataSet):
  """CelebA.

  Inputs: RGB 0..1 `[H, W, 3]`. A task of one attribute: int32, 0 or 1; `clothes`: int32 `[5]`.

  Values of `config.data`:
    tasks: any of `TASKS`, in the wanted order. weights: of the tasks in the total loss. layout: a
    key of `celeba_layouts.HELP`, or auto. height, width: of all pictures; 0 as stored. crop: as
    large, or smaller for a random part in training.
  """

  def specs(
    self, config: ConfigDict, compat: ConfigDict, facts: Mapping[str, Any]
  ) -> Mapping[str, types.TaskSpec]:
    """Returns the tasks; see the base class."""
    del compat, facts
    size = dense_layouts.wanted_size(config) or celeba_layouts.SIZE
    if config.augment and any(cut > whole for cut, whole in zip(config.crop, size, strict=True)):
      raise ValueError(
        f"config.data.crop is {tuple(config.crop)}, but pictures are {dense_layouts.times(size)}"
        " (config.data.height and width): give both."
      )
    return {
      task: types.TaskSpec(task, "binary", classes=("no", "yes"))
      if len(names) == 1
      else types.TaskSpec(task, "multilabel", len(names), classes=names)
      for task, names in celeba_layouts.TASKS.items()
    }

  def find(self, wanted: dense.Wanted, data_dir: str | None) -> store.Original:
    """Finds the files."""
    return celeba_layouts.find(wanted, data_dir)

  def found(self, wanted: dense.Wanted, original: store.Original) -> dense.Found:
    """Decodes the files, or a converted copy of them."""
    return dense.Found(original.layout, original.keys, original.read, Decode(wanted.tasks))


DATASET = Celeba(
  name="celeba",
  title=celeba_layouts.TITLE,
  tasks=TASKS,
  sizes={"train": 162770, "validation": 19867, "test": 19962},
  stored={"auto": celeba_layouts.SIZE},
  values={
    "crop": (64, 64),
    "scales": (1.0, 1.0),
    "tasks": celeba_layouts.ATTRIBUTES,
    "weights": dict.fromkeys(TASKS, 1.0),
    "layout": "auto",
    "height": 64,
    "width": 64,
  },
)
defaults, compat = DATASET.defaults, DATASET.compat
build, outline, original = DATASET.build, DATASET.outline, DATASET.original


class Decode(dense_layouts.Decode):
  """Makes an example of raw fields; picklable."""

  def __call__(self, fields: Mapping[str, np.ndarray]) -> types.Batch:
    """Decodes an example: one attribute is a number, several are `[n]`."""
    known = np.ones((), bool)
    labels = {task: fields[task].astype(np.int32) for task in self.tasks}
    return dense_layouts.example(
      fields["image"],
      {task: (label[0] if len(label) == 1 else label, known) for task, label in labels.items()},
    )
