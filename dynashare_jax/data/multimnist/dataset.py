"""MultiMNIST and its sisters: two pictures overlaid on one, and a class of each.

A picture of 28 x 28 pixels lies at the top left of 36 x 36, another one at the bottom right; where
both are, the brighter pixel counts. Task `left` is the class of the first, `right` that of the
second. The sisters take Fashion-MNIST for both, or a digit on the left and a Fashion item on the
right.

A third task, `reconstruction`, predicts the picture itself, pixel by pixel; it is not among the
default ones.

Source: Sabour et al. 2017 for the problem; Sener and Koltun 2018 for the two tasks and the overlay
by maximum; Lin et al. 2019 for the sisters.
Differs: corner to corner, 20 x 20 pixels in common (Sener: 22 x 22, then every picture is reduced
to 28 x 28; Lin: different digits only, each moved by up to 4 pixels); every original is once on the
left and once on the right (Sener: a partner is drawn for each, so that some come often); validation
has originals of its own (Sener: the test pictures).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import memory
from dynashare_jax.data import options
from dynashare_jax.data.multimnist import originals

SIDE = 36  # pixels of a picture
TASKS = ("left", "right")
RECONSTRUCTION = "reconstruction"
# Which originals lie on the left and on the right.
KINDS = {
  "mnist": ("mnist", "mnist"),
  "fashion": ("fashion_mnist", "fashion_mnist"),
  "fashion_and_mnist": ("mnist", "fashion_mnist"),
}


def defaults() -> dict[str, Any]:
  """Returns the default values of `config.data`.

  kind: one of `KINDS`. train, validation, test: examples; train and validation are made of the
  60,000 original training pictures, test of the 10,000 test pictures, each at most once a side.
  pair_seed: chooses what is overlaid (the training seed does not). tasks: any of `TASKS` and
  `RECONSTRUCTION`, in the wanted order. weights: of the tasks in the total loss.
  """
  return {
    "kind": "mnist",
    "train": 55_000,
    "validation": 5_000,
    "test": 10_000,
    "pair_seed": 0,
    "tasks": TASKS,
    "weights": {"left": 1.0, "right": 1.0, RECONSTRUCTION: 1.0},
  }


def compat() -> dict[str, Any]:
  """Returns no switch: the differences need other pictures, see the top of this file."""
  return {}


def outline(config: ConfigDict, compat: ConfigDict) -> types.DatasetSpec:
  """Returns the spec, which the files do not change.

  Raises:
    ValueError: a wrong value in `config`, or an unknown kind or task.
  """
  del compat
  names = KINDS[lookup.one_of("config.data.kind", config.kind, KINDS)]
  for split in types.SPLITS:
    options.check_range(split, config[split], 1)
  options.check_range("pair_seed", config.pair_seed, 0)
  classes = {side: originals.CLASSES[name] for side, name in zip(TASKS, names, strict=True)}

  def task(name: str) -> types.TaskSpec:
    weight = options.weight(config, name)
    if name == RECONSTRUCTION:
      return types.TaskSpec(name, "regression", 1, weight)
    return types.TaskSpec(name, "multiclass", 10, weight, classes[name])

  return types.DatasetSpec(
    name="multimnist",
    tasks=tuple(map(task, options.tasks("multimnist", config.tasks, (*TASKS, RECONSTRUCTION)))),
    input_kind="image",
    input_shape=(SIDE, SIDE, 1),
    sizes={split: int(config[split]) for split in types.SPLITS},
    notes=(f"{names[0]} at the top left, {names[1]} at the bottom right; the brighter counts",),
  )


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Reads the originals and chooses the pairs; they are overlaid when they are asked for.

  Args:
    config: `config.data`, fields as in `defaults`.
    data_dir: folder with the folders `mnist` and `fashion_mnist`, of which one may do.
    seed: not used: the examples depend on `config.pair_seed` alone.

  Returns:
    The data set. Inputs are float32 `[N, 36, 36, 1]` in 0..1, targets int32 `[N]`, and of
    `reconstruction` float32 `[N, 36, 36]`.

  Raises:
    FileNotFoundError: files are missing.
    ValueError: files are damaged, a wrong value in `config`, or more examples than originals.
  """
  del seed
  spec, shuffle = outline(config, compat), int(config.pair_seed)
  names = KINDS[config.kind]
  found = {name: originals.read(data_dir, name) for name in dict.fromkeys(names)}
  pools = {name: _pools(name, parts, spec.sizes, shuffle) for name, parts in found.items()}
  sources = {}
  for place, split in enumerate(types.SPLITS, 1):
    rng, part = np.random.default_rng((shuffle, place)), "test" if split == "test" else "train"
    sides = {}
    for side, name in zip(TASKS, names, strict=True):
      rows = rng.permutation(pools[name][split])
      sides[side] = originals.Originals(*(array[rows] for array in found[name][part]))
    sources[split] = memory.Rows(functools.partial(_batch, sides, [t.name for t in spec.tasks]))
  return memory.dataset(spec, sources, lambda rows: rows.batch)


def _pools(
  name: str, parts: Mapping[str, originals.Originals], sizes: Mapping[str, int], shuffle: int
) -> dict[str, np.ndarray]:
  """The rows of every split in their files, no original in two splits."""
  rng = np.random.default_rng((shuffle, 0))
  train, test = (rng.permutation(len(parts[part].labels)) for part in originals.PARTS)
  for splits, rows in ((("train", "validation"), train), (("test",), test)):
    wanted = sum(sizes[split] for split in splits)
    if wanted > len(rows):
      raise ValueError(
        f"config.data.{' and '.join(splits)}: {wanted} examples are asked for, but {name} has"
        f" {len(rows)} such pictures, each of which is once on a side."
      )
  first = len(train) - sizes["validation"]
  return {
    "train": train[: sizes["train"]],
    "validation": train[first:],
    "test": test[: sizes["test"]],
  }


def _batch(sides: Mapping[str, originals.Originals], names: Sequence[str]) -> types.Batch:
  """The examples of a split."""
  pictures = overlay(*(sides[side].pictures for side in TASKS)) / np.float32(255)
  present = np.ones(len(pictures), bool)
  targets: dict[str, types.Array] = {}
  valid: dict[str, types.Array] = {}
  for name in names:
    whole = name == RECONSTRUCTION
    targets[name] = pictures if whole else sides[name].labels.astype(np.int32)
    valid[name] = np.ones(pictures.shape, bool) if whole else present
  return types.Batch(pictures[..., None], targets, valid, present)


def overlay(left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Lays pictures `[N, 28, 28]` over one another: `[N, 36, 36]`, the brighter pixel counts."""
  free = (0, SIDE - originals.SIDE)
  behind = np.pad(left, ((0, 0), free, free))
  return np.maximum(behind, np.pad(right, ((0, 0), free[::-1], free[::-1])))
