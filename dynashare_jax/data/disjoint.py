"""The classes of a data set, shared out over tasks: an example has a label of its own task alone.

Of every other task it has none, as `valid` says. `config.train.sampling=tasks` gives every task an
equal share of each batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import loader
from dynashare_jax.data import memory
from dynashare_jax.data import options

Tasks = Mapping[str, Sequence[int]]  # name of a task -> its classes, in the order of its labels


class Examples(NamedTuple):
  """Pictures with a class each.

  Attributes:
    pictures: uint8 `[N, H, W, C]`.
    classes: integers `[N]`.
  """

  pictures: np.ndarray
  classes: np.ndarray


def defaults(tasks: Sequence[str]) -> dict[str, Any]:
  """Returns the values of `config.data` that these data sets have.

  tasks: any, in the wanted order; pictures of no chosen task are left out. weights: of the tasks in
  the total loss. validation_share: of the training pictures of every class, that validation gets.
  split_seed: chooses them (the training seed does not).
  """
  return {
    "tasks": tuple(tasks),
    "weights": dict.fromkeys(tasks, 1.0),
    "validation_share": 0.1,
    "split_seed": 0,
  }


def outline(
  name: str,
  config: ConfigDict,
  tasks: Tasks,
  shape: tuple[int, int, int],
  sizes: Mapping[str, int],
  names: Sequence[str] = (),
) -> types.DatasetSpec:
  """Returns what is known of a data set before it is on disk.

  Args:
    name: of its module.
    config: `config.data`, fields as in `defaults`.
    tasks: all that it has.
    shape: of a picture, `(H, W, C)`.
    sizes: published part, `train` or `test` -> pictures of one class.
    names: of the classes, where they are known.

  Raises:
    ValueError: a wrong value in `config`.
  """
  chosen = options.tasks(name, config.tasks, tasks)
  share = config.validation_share
  kept, cut = _cut(np.zeros(sizes["train"], int), config)
  counts = {"train": len(kept), "validation": len(cut), "test": sizes["test"]}
  several = sum(len(tasks[task]) for task in chosen)
  called = lambda task: tuple(names[place] for place in tasks[task]) if names else ()
  return types.DatasetSpec(
    name=name,
    tasks=tuple(
      types.TaskSpec(
        task, "multiclass", len(tasks[task]), options.weight(config, task), called(task)
      )
      for task in chosen
    ),
    input_kind="image",
    input_shape=shape,
    sizes={split: several * count for split, count in counts.items()},
    notes=(
      "a picture has a label of one task; to give each its share of every batch:"
      " config.train.sampling=tasks",
      f"validation: {100 * share:g}% of the training pictures of every class, seeded",
    ),
  )


def dataset(
  spec: types.DatasetSpec,
  config: ConfigDict,
  tasks: Tasks,
  parts: Mapping[str, Examples],
  augment: Any = None,
) -> types.Dataset:
  """Returns the data set of what was read.

  Args:
    spec: of `outline`; sizes are counted anew.
    parts: `train`, of which validation is cut, and `test`.

  Returns:
    The data set. Inputs are float32 `[N, H, W, C]` in 0..1, targets int32 `[N]`.

  Raises:
    ValueError: a class of a chosen task has too few pictures.
  """
  own = {task.name: tuple(tasks[task.name]) for task in spec.tasks}
  wanted = [place for places in own.values() for place in places]
  train, test = (np.flatnonzero(np.isin(parts[p].classes, wanted)) for p in ("train", "test"))
  kept, cut = _cut(parts["train"].classes[train], config)
  rows = {"train": train[kept], "validation": train[cut], "test": test}
  sources = {}
  for split, places in rows.items():
    found = parts["test" if split == "test" else "train"]
    some = lambda found=found, places=places: Examples(*(array[places] for array in found))
    sources[split] = memory.Rows(functools.partial(_batch, own, some))
  sizes = {split: len(places) for split, places in rows.items()}
  spec = dataclasses.replace(spec, sizes=sizes)
  return memory.dataset(spec, sources, lambda rows: rows.batch, augment)


def labels(
  classes: np.ndarray, tasks: Tasks
) -> tuple[dict[str, types.Array], dict[str, types.Array]]:
  """Returns of every task the labels of examples, int32 `[N]`, 0 without one, and where it has one.

  Args:
    classes: of the examples, integers `[N]`.
  """
  targets: dict[str, types.Array] = {}
  valid: dict[str, types.Array] = {}
  for name, places in tasks.items():
    is_of = classes[:, None] == np.asarray(places)[None]
    targets[name], valid[name] = is_of.argmax(1).astype(np.int32), is_of.any(1)
  return targets, valid


def _cut(classes: np.ndarray, config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
  """The places of training and of validation, both ascending; each class has its share in both."""
  parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
  for place in np.unique(classes):
    rows = np.flatnonzero(classes == place)
    halves = loader.halves(len(rows), int(config.split_seed), 1 - config.validation_share)
    for part, half in zip(parts, halves, strict=True):
      part.append(rows[half])
  kept, cut = (np.sort(np.concatenate(part)) for part in parts)
  return kept, cut


def _batch(tasks: Tasks, some: Any) -> types.Batch:
  """The examples of a split."""
  examples = some()
  targets, valid = labels(examples.classes, tasks)
  inputs = examples.pictures.astype(np.float32) / np.float32(255)
  return types.Batch(inputs, targets, valid, np.ones(len(inputs), bool))
