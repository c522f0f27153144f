"""Batches for the training loop: from the device, or streamed by Grain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import loader
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.train import checks
from dynashare_jax.train import evaluate
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import labels


class Feed:
  """Gives every phase its batches; a batch is a function of the step alone."""

  def __init__(self, experiment: experiment_lib.Experiment) -> None:
    """Prepares; splits are placed on the devices when they are asked for."""
    mesh = experiment.mesh
    self._experiment = experiment
    self._config = experiment.config.train
    # Which part of a streamed batch this process loads, of how many.
    self._part = mesh_lib.rank(mesh), len(mesh_lib.processes(mesh))
    self._resident: dict[str, types.Batch] = {}
    self._orders: dict[str, tuple[np.ndarray, loader.Order | loader.TaskOrder]] = {}
    self._streams: dict[int, tuple[int, Iterator[types.Batch]]] = {}

  def check(self) -> list[labels.Labelled]:
    """Counts labels; refuses those that a task cannot have, in resident splits (`labels.check`).

    Streamed batches are checked when they are read. Refuses also shares of a batch that cannot be,
    and tasks without any label in training or test (see `labels.check_any`).
    """
    dataset = self._experiment.dataset
    for index in range(len(self._experiment.method.phases)):
      self._order(index)
    if self._config.resident:
      for name in types.SPLITS:
        labels.check(dataset.spec.tasks, dataset.arrays(name), name)
    told = self._config.resident, self._config.threads
    return [
      (labels.look if name == "validation" else labels.check_any)(dataset, name, *told)
      for name in types.SPLITS
    ]

  def split(self, name: str) -> types.Batch:
    """Returns a resident split, replicated on all devices."""
    if name not in self._resident:
      arrays = self._experiment.dataset.arrays(name)
      self._resident[name] = mesh_lib.place_replicated(arrays, self._experiment.mesh)
    return self._resident[name]

  def release(self, name: str) -> None:
    """Frees a resident split."""
    self._resident.pop(name, None)

  def _order(self, index: int) -> tuple[np.ndarray, loader.Order | loader.TaskOrder]:
    """Rows of a phase's part of the training data, and their order."""
    phase = self._experiment.method.phases[index]
    if phase.name not in self._orders:
      spec = self._experiment.dataset.spec
      rows = checks.part_indices(self._experiment.config, spec, phase.data)
      # Cycles of a search continue one order; every candidate sees the same.
      told = self._config.batch_size, self._experiment.config.seed, phase.name
      if self._config.sampling == "tasks":
        labelled = self._experiment.dataset.arrays("train").valid
        has = lambda task: np.asarray(labelled[task])[rows].reshape(len(rows), -1).any(1)
        places = {task.name: np.flatnonzero(has(task.name)) for task in self._experiment.tasks}
        self._orders[phase.name] = rows, loader.TaskOrder(places, *told)
      else:
        self._orders[phase.name] = rows, loader.Order(len(rows), *told)
    return self._orders[phase.name]

  def first(self, index: int) -> int:
    """Returns where a phase begins in the order of its name."""
    phases = self._experiment.method.phases
    phase = phases[index]
    if phase.candidate >= 0:
      return 0
    return sum(p.steps for p in phases[:index] if p.name == phase.name)

  def chunk(self, index: int, offset: int, count: int) -> tuple[types.Batch, jax.Array, Any]:
    """Returns the batches of some steps of a phase.

    Args:
      offset: steps of it that are done.
      count: steps wanted; must be 1 unless the data are resident.

    Returns:
      Arrays, rows `[count, B]` of them, and draws `[count, B]` of what the step has yet to vary:
      None without augmentation, and when the data are streamed, which varies them on the host.
    """
    rows, order = self._order(index)
    position = self.first(index) + offset
    if self._config.resident:
      chosen = rows[order.indices(position, count)]
      return (self.split("train"), jnp.asarray(chosen), self._draws(index, position, count))
    if count != 1:
      raise ValueError(f"A streamed chunk is one step, not {count}.")
    batch = self._streamed(index, position)
    return batch, jnp.arange(self._config.batch_size)[None], None

  def outline(self, index: int, count: int) -> tuple[types.Batch, jax.Array, Any]:
    """Returns what `chunk` does of resident data, for the first steps of a phase.

    The split is its shapes, for which one example is read; rows are zeros.
    """
    dataset, everywhere = self._experiment.dataset, mesh_lib.replicated(self._experiment.mesh)
    size = dataset.spec.sizes["train"]

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
      kind = jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype)
      return jax.ShapeDtypeStruct((size, *np.shape(leaf)), kind, sharding=everywhere)

    arrays = jax.tree.map(shape, dataset.source("train")[0])
    rows = jnp.zeros((count, self._config.batch_size), jnp.int32)
    return arrays, rows, self._draws(index, 0, count)

  def _draws(self, index: int, position: int, count: int) -> Any:
    augment = self._experiment.dataset.augment
    if augment is None:
      return None
    size = self._config.batch_size
    places = position * size + np.arange(count * size).reshape(count, size)
    return augment.draw(*self._vary_stream(index), places)

  def _vary_stream(self, index: int) -> tuple[int, str]:
    """Seed and stream of a phase's augmentation."""
    phase = self._experiment.method.phases[index]
    return self._experiment.config.seed, f"augment/{phase.name}"

  def _streamed(self, index: int, position: int) -> types.Batch:
    at, stream = self._streams.get(index, (-1, iter(())))
    if at != position:
      rows, order = self._order(index)
      assert isinstance(order, loader.Order)  # Shares are of resident data alone.
      source = loader.Subset(self._experiment.dataset.source("train"), rows)
      self._streams.clear()
      stream = loader.stream(
        source,
        order,
        position,
        *self._part,
        self._config.threads,
        self._config.workers,
        self._vary(index),
      )
    batch = next(stream)
    labels.check(self._experiment.tasks, batch, "train")
    self._streams[index] = (position + 1, stream)
    return mesh_lib.place_batch(batch, self._experiment.mesh)

  def _vary(self, index: int) -> Any:
    """The function that varies the streamed examples of a phase on the host, or None."""
    augment = self._experiment.dataset.augment
    if augment is None:
      return None
    return functools.partial(_varied, augment, *self._vary_stream(index))

  def evaluation(self, split: str) -> Callable[[], Any]:
    """Returns a source of the batches of a whole split, in order, the last one padded."""
    size = self._experiment.config.eval.batch_size
    if self._config.resident:
      return evaluate.resident_batches(self.split(split), size)

    def place(batch: types.Batch) -> types.Batch:
      labels.check(self._experiment.tasks, batch, split)
      return mesh_lib.place_batch(batch, self._experiment.mesh)

    return evaluate.streamed_batches(
      self._experiment.dataset.source(split),
      size,
      place,
      self._config.threads,
      self._config.workers,
      self._part,
    )


def _varied(augment: Any, seed: int, stream: str, example: types.Batch, place: int) -> types.Batch:
  """One example at its place in the order; worker processes call it."""
  draw = augment.draw(seed, stream, np.asarray(place))
  varied: types.Batch = augment.example(example, draw)
  return varied
