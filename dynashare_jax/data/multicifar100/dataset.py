"""Multi-CIFAR100: each of the 20 coarse labels of CIFAR-100 is a task of its 5 fine labels.

Every picture has a label of one task (see `data.disjoint`); of each task 2,500 pictures are for
training, 500 for test. A task's labels are its fine labels in ascending order.

Source: Rosenbaum et al. 2018, Routing networks, for the tasks; Liu et al. 2022 (Auto-Lambda) and
  Shi et al. 2023 (MPPS) train on all at once.
Differs: validation is cut from train, they have none.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from dynashare_jax import types
from dynashare_jax.data import disjoint
from dynashare_jax.data import options
from dynashare_jax.data.multicifar100 import files
from dynashare_jax.data.pictures import augment

# The coarse labels in order.
_NAMES = (
  "aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices "
  "household_furniture insects large_carnivores large_man-made_outdoor_things "
  "large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals "
  "non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2"
)
TASKS = tuple(_NAMES.split())
SIZES = {"train": 500, "test": 100}  # pictures of one fine label

_SHAPE = (files.SIDE, files.SIDE, 3)


def defaults() -> dict[str, Any]:
  """Returns the default values of `config.data`: those of `disjoint.defaults`, and these.

  augment: whether training pictures are varied at all. padding: black pixels on every side, before
  a part of the picture's own size is cut out at random. mirror: half of the training pictures.
  """
  return {**disjoint.defaults(TASKS), "augment": True, "padding": 4, "mirror": True}


def compat() -> dict[str, Any]:
  """Returns no switch: the authors' code differs in nothing that the data set decides."""
  return {}


def outline(config: ConfigDict, compat: ConfigDict) -> types.DatasetSpec:
  """Returns the spec, of which the files change the names of the classes alone.

  Raises:
    ValueError: a wrong value in `config`, or an unknown task.
  """
  del compat
  options.check_range("padding", config.padding, 0)
  size = files.CLASSES // files.GROUPS
  places = {task: range(size * i, size * (i + 1)) for i, task in enumerate(TASKS)}
  return disjoint.outline("multicifar100", config, places, _SHAPE, SIZES)


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Reads the files.

  Args:
    config: `config.data`, fields as in `defaults`.
    data_dir: see `files.read`.
    seed: not used: `config.split_seed` chooses the examples of validation.

  Returns:
    The data set. Inputs are RGB float32 `[N, 32, 32, 3]` in 0..1, targets int32 `[N]`.

  Raises:
    FileNotFoundError: files are missing.
    ValueError: files are damaged, or a wrong value in `config`.
  """
  del seed
  outline(config, compat)  # Checks before anything is read.
  found = files.read(data_dir)
  if found.coarse != TASKS:
    place, theirs = next(
      (i, name)
      for i, (name, own) in enumerate(zip(found.coarse, TASKS, strict=True))
      if name != own
    )
    raise ValueError(
      f"The coarse label {place} is called {theirs!r}, that of CIFAR-100 {TASKS[place]!r}: these"
      " are other files. Fetch them again."
    )
  members = dict(zip(TASKS, found.members, strict=True))
  spec = disjoint.outline("multicifar100", config, members, _SHAPE, SIZES, found.fine)
  varied = augment.Augmentation(
    spec.tasks, _SHAPE[:2], (1.0, 1.0), bool(config.mirror), padding=int(config.padding)
  )
  parts = {part: disjoint.Examples(each.pictures, each.fine) for part, each in found.parts.items()}
  return disjoint.dataset(spec, config, members, parts, varied if config.augment else None)
