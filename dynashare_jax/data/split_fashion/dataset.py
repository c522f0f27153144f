"""Fashion-MNIST with its ten classes shared out over tasks: 5 of 2 classes, or 2 of 5.

Every picture has a label of one task (see `data.disjoint`). Tasks are named by their classes:
`classes_01` tells T-shirts from trousers.

Source: Xiao et al., Fashion-MNIST, 2017. The division by neighbouring classes is that of Split
  MNIST (Zenke et al. 2017), whose tasks come one after another; here all train together.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from dynashare_jax import types
from dynashare_jax.data import disjoint
from dynashare_jax.data.multimnist import originals

NAME = "fashion_mnist"  # of its files
PARTS = {
  5: ("classes_01", "classes_23", "classes_45", "classes_67", "classes_89"),
  2: ("classes_01234", "classes_56789"),
}
TASKS = {
  name: tuple(map(int, name.removeprefix("classes_"))) for names in PARTS.values() for name in names
}
SIZES = {"train": 6000, "test": 1000}  # pictures of one class


def defaults() -> dict[str, Any]:
  """Returns the default values of `config.data`; see `disjoint.defaults`."""
  return {**disjoint.defaults(tuple(TASKS)), "tasks": PARTS[5]}


def compat() -> dict[str, Any]:
  """Returns no switch: no published code trains on this."""
  return {}


def outline(config: ConfigDict, compat: ConfigDict) -> types.DatasetSpec:
  """Returns the spec, which the files do not change.

  Raises:
    ValueError: a wrong value in `config`, or a class that two of the tasks have.
  """
  del compat
  shape, names = (originals.SIDE, originals.SIDE, 1), originals.CLASSES[NAME]
  spec = disjoint.outline("split_fashion", config, TASKS, shape, SIZES, names)
  owned = [place for task in spec.tasks for place in TASKS[task.name]]
  if len(set(owned)) < len(owned):
    raise ValueError(
      f"config.data.tasks is {tuple(config.tasks)}, where two tasks have a class in common; take"
      f" some of {', '.join(PARTS[5])}, or some of {', '.join(PARTS[2])}."
    )
  return spec


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Reads the files.

  Args:
    config: `config.data`, fields as in `defaults`.
    data_dir: folder with the folder `fashion_mnist`.
    seed: not used: `config.split_seed` chooses the examples of validation.

  Returns:
    The data set. Inputs are float32 `[N, 28, 28, 1]` in 0..1, targets int32 `[N]`.

  Raises:
    FileNotFoundError: files are missing.
    ValueError: files are damaged, or a wrong value in `config`.
  """
  del seed
  spec, found = outline(config, compat), originals.read(data_dir, NAME)
  parts = {
    part: disjoint.Examples(each.pictures[..., None], each.labels) for part, each in found.items()
  }
  return disjoint.dataset(spec, config, TASKS, parts)
