"""A data set of a few numbers, for tests: found by name like any other."""

from __future__ import annotations

from typing import Any

import numpy as np

from dynashare_jax import types


def defaults() -> dict[str, Any]:
  """Sizes, tasks, and a way to spoil or change the labels of one task."""
  return {
    "train": 64,
    "validation": 20,
    "test": 24,
    "tasks": ("a", "b"),
    "images": False,
    "bad": (),
    "seed_b": 0,
  }


def compat() -> dict[str, Any]:
  """No switches."""
  return {}


def build(config: Any, compat: Any, data_dir: str | None, seed: int) -> types.Dataset:
  """Random inputs; labels that a linear rule gives, some of them missing."""
  del compat, data_dir, seed
  make = _images if config.images else _vectors
  splits = {name: make(config, config[name], number) for number, name in enumerate(types.SPLITS)}
  if config.bad:  # split, task, value; as text, for a setting is never NaN
    split, task, value = config.bad
    target = splits[split].targets[task]
    target[(3,) + (0,) * (target.ndim - 1)] = float(value)
    splits[split].valid[task][3] = True
  spec = types.DatasetSpec(
    name="stripes",
    tasks=tuple(_task(n, config.images) for n in config.tasks),
    input_kind="image" if config.images else "series",
    input_shape=(8, 8, 3) if config.images else (6,),
    sizes={name: config[name] for name in types.SPLITS},
  )
  return types.Dataset(spec, lambda name: splits[name], lambda name: _Source(splits[name]))


class _Source:
  """Single examples of a split."""

  def __init__(self, batch: types.Batch) -> None:
    self._batch = batch

  def __len__(self) -> int:
    return len(self._batch.present)

  def __getitem__(self, index: int) -> types.Batch:
    import jax

    return jax.tree.map(lambda leaf: leaf[index], self._batch)


def _task(name: str, images: bool) -> types.TaskSpec:
  if images:
    return {
      "a": types.TaskSpec("a", "segmentation", 3),
      "b": types.TaskSpec("b", "depth", 1, 2.0, unit="m"),
    }[name]
  return {
    "a": types.TaskSpec("a", "binary"),
    "b": types.TaskSpec("b", "multiclass", 3, 0.5),
    "c": types.TaskSpec("c", "number", 2, unit="kg", loss="huber"),
  }[name]


def _vectors(config: Any, size: int, number: int) -> types.Batch:
  rng = np.random.default_rng(number)
  x = rng.normal(size=(size, 6)).astype(np.float32)
  rule = np.random.default_rng(100 + config.seed_b).normal(size=(6, 3))
  targets = {
    "a": (x[:, 0] + x[:, 1] > 0).astype(np.float32),
    "b": np.argmax(x @ rule, 1).astype(np.int32),
    "c": (x @ rule[:, :2]).astype(np.float32),
  }
  return _batch(config, x, targets, rng, (size,))


def _images(config: Any, size: int, number: int) -> types.Batch:
  rng = np.random.default_rng(number)
  x = rng.uniform(size=(size, 8, 8, 3)).astype(np.float32)
  targets = {"a": np.argmax(x, 3).astype(np.int32), "b": (1 + x.sum(3)).astype(np.float32)}
  return _batch(config, x, targets, rng, (size, 8, 8))


def _batch(
  config: Any,
  x: np.ndarray,
  targets: dict[str, np.ndarray],
  rng: np.random.Generator,
  shape: tuple[int, ...],
) -> types.Batch:
  valid = {name: rng.uniform(size=shape) > 0.1 for name in targets}
  return types.Batch(
    x,
    {n: targets[n] for n in config.tasks},
    {n: valid[n] for n in config.tasks},
    np.ones(len(x), bool),
  )
