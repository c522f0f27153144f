"""Evaluation of a whole split: sums until the last division."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import loader
from dynashare_jax.objectives import alignment
from dynashare_jax.objectives import kinds
from dynashare_jax.objectives import views as views_lib
from dynashare_jax.objectives.kinds import base as kinds_base
from dynashare_jax.sharing import contract

Values = dict[str, dict[str, float]]
_LOGITS = 2**22  # most numbers that a constant prediction is repeated to


class Result(NamedTuple):
  """What an evaluation found.

  Attributes:
    metrics: task -> metric -> value.
    losses: task -> mean loss over its valid labels.
    rate: `[T, L]`, fraction of examples that execute block l for task t.
    histogram: `[T, L + 1]`, how many examples execute that many blocks.
    details: task -> name -> numbers, of kinds that have more to tell than
      their metrics, such as `iou` of every class.
  """

  metrics: Values
  losses: dict[str, float]
  rate: np.ndarray
  histogram: np.ndarray
  details: Mapping[str, Mapping[str, np.ndarray]] = {}


@dataclasses.dataclass(eq=False)
class Evaluator:
  """Evaluates a network on splits; compiles once per structure's static side.

  Predictions of several views of a picture (other scales, mirrored) are averaged; execution rates
  and histograms are those of the first view. Losses are then taken at the size of the labels; of
  a single plain view at the size of the logits.

  Attributes:
    network: a `models.trunks.network.Network`.
    tasks: in order.
    sharing: of the method.
    sharding: of the batch.
    views: of the pictures; all tasks must be dense, unless it is the plain one alone.
  """

  network: Any
  tasks: tuple[types.TaskSpec, ...]
  sharing: contract.Sharing
  sharding: Any
  views: tuple[views_lib.View, ...] = (views_lib.PLAIN,)

  def __post_init__(self) -> None:
    self._compiled = functools.lru_cache(maxsize=32)(self._compile)

  def run(
    self, params: Any, stats: Any, batches: Callable[[], Any], structure: Any, **options: Any
  ) -> Result:
    """Goes once through a split; returns pooled metrics, whatever the batch size.

    Args:
      batches: gives an iterator of `(arrays, indices [B], present [B])`.
      structure: that is evaluated, see `Sharing`.
      **options: of `Sharing.at_test`.
    """
    return result(self.tasks, self.parts(params, stats, batches, structure, **options))

  def parts(
    self, params: Any, stats: Any, batches: Callable[[], Any], structure: Any, **options: Any
  ) -> Iterator[tuple[Any, Any]]:
    """Goes once through a split; yields sums and row-wise scores of every batch, on the host.

    Args:
      params, stats, batches, structure, **options: as `run`.
    """
    static, arrays_ = self.sharing.at_test(structure, **options)
    call = self._compiled(static)
    for number, (arrays, indices, present) in enumerate(batches()):
      yield jax.device_get(call(params, stats, arrays, indices, present, arrays_, number))

  def _compile(self, static: Any) -> Any:
    """The jitted evaluation of one batch."""

    def batch_sums(
      params: Any,
      stats: Any,
      arrays: types.Batch,
      indices: jax.Array,
      present: jax.Array,
      structure: Any,
      number: jax.Array,
    ) -> tuple[Any, Any]:
      """Sums and scores of the rows `indices` of a split."""
      batch = loader.take(arrays, indices, present)
      batch = jax.lax.with_sharding_constraint(batch, self.sharding)
      places = number * indices.shape[0] + jnp.arange(indices.shape[0])
      control = self.sharing.control_at_test(static, structure, places)
      logits, signals = self.logits(params, stats, batch.inputs, control, dense_sizes(batch))
      return self._sums(batch, logits, signals.executed)

    everywhere = jax.sharding.NamedSharding(self.sharding.mesh, jax.sharding.PartitionSpec())
    return jax.jit(batch_sums, out_shardings=everywhere)

  def logits(
    self, params: Any, stats: Any, inputs: Any, control: Any, sizes: Mapping[str, tuple[int, int]]
  ) -> tuple[dict[str, jax.Array], Any]:
    """Returns what the network says of inputs `[B, ...]`, averaged over the views.

    Args:
      control: what the trunk is told; the same for every view.
      sizes: of every dense task's labels, (H, W).

    Returns:
      Logits of every task (of averaged views: at the size of the labels), and the signals of the
      first view.
    """

    def apply(inputs: Any) -> Any:
      return self.network.apply({"params": params, "batch_stats": stats}, inputs, control, False)

    return views_lib.averaged(self.tasks, self.views, apply, inputs, sizes)

  def _sums(
    self, batch: types.Batch, logits: dict[str, jax.Array], executed: jax.Array
  ) -> tuple[Any, Any]:
    """Additive sums and row-wise scores of a batch."""
    sums: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    for task in self.tasks:
      kind = kinds.find(task.kind)
      args = (task, logits[task.name], batch.targets[task.name], batch.valid[task.name])
      loss = kind.loss(*args)
      sums[task.name] = {"metrics": kind.sums(*args, batch.present), "loss": loss}
      scores[task.name] = kind.scores(*args)
    here = batch.present.astype(jnp.float32)
    blocks = executed.shape[2]
    counts = jax.nn.one_hot(executed.sum(2).round().astype(jnp.int32), blocks + 1)
    sums["executed"] = {
      "rate": jnp.einsum("tbl,b->tl", executed, here),
      "histogram": jnp.einsum("tbn,b->tn", counts, here),
      "examples": here.sum(),
    }
    return sums, scores


def result(tasks: tuple[types.TaskSpec, ...], parts: Iterable[tuple[Any, Any]]) -> Result:
  """Adds the batches of an evaluation, as `Evaluator.parts` yields them, and divides at last."""
  totals: Any = None
  scores: list[Any] = []
  for sums, rows in parts:
    totals = kinds_base.added(totals, sums)
    scores.append(rows)
  metrics: Values = {}
  losses = {}
  details = {}
  for task in tasks:
    kind = kinds.find(task.kind)
    sums = totals[task.name]["metrics"]
    metrics[task.name] = kind.finish(task, sums, kinds_base.joined([s[task.name] for s in scores]))
    if more := kind.details(task, sums):
      details[task.name] = more
    total, count = totals[task.name]["loss"]
    losses[task.name] = float(total / count) if count else float("nan")
  executed = totals["executed"]
  return Result(
    metrics, losses, executed["rate"] / executed["examples"], executed["histogram"], details
  )


def dense_sizes(batch: types.Batch) -> dict[str, tuple[int, int]]:
  """Height and width of the labels of every task that has pixels."""
  shapes = {name: valid.shape for name, valid in batch.valid.items()}
  return {name: (shape[1], shape[2]) for name, shape in shapes.items() if len(shape) > 2}


def resident_batches(arrays: types.Batch, batch_size: int) -> Callable[[], Any]:
  """Batches of a split that lives on the device."""
  size = arrays.present.shape[0]
  indices, present = loader.padded_batches(size, batch_size)
  return lambda: ((arrays, i, p) for i, p in zip(indices, present, strict=True))


def streamed_batches(
  source: Any,
  batch_size: int,
  place: Callable[[Any], Any],
  threads: int = 2,
  workers: int = 0,
  part: tuple[int, int] = (0, 1),
) -> Callable[[], Any]:
  """Batches of a split that is read while it is evaluated.

  Args:
    batch_size: examples a batch, over all processes.
    place: puts this process's part of a batch onto the devices.
    part: which part of a batch this process reads, of how many.
  """
  rows = np.arange(batch_size, dtype=np.int32)
  every = np.ones((batch_size,), bool)  # The stream has marked its padding.

  def batches() -> Any:
    for batch in loader.evaluation_stream(source, batch_size, *part, threads, workers):
      yield place(batch), rows, every

  return batches


def constants(
  tasks: tuple[types.TaskSpec, ...],
  train: types.Batch,
  test_batches: types.Batch | Iterable[types.Batch],
) -> Values:
  """Returns task -> metric -> value of the best constant prediction, fitted on training labels.

  Args:
    train: labels to fit on: all of them, or some that stand for all.
    test_batches: labels to score, in batches or as one whole split; inputs are not read
      (`train.constants` gives both without whole splits). Tasks that are scored as the authors do
      need the batches of the evaluation, because their values depend on them.

  Raises:
    ValueError: no batch to score.
  """
  fitted = {
    task.name: np.asarray(
      kinds.find(task.kind).constant(task, train.targets[task.name], train.valid[task.name])
    )
    for task in tasks
  }
  if isinstance(test_batches, types.Batch):
    test_batches = (test_batches,)
  totals: dict[str, Any] = {}
  rows: dict[str, list[Any]] = {task.name: [] for task in tasks}
  for batch in test_batches:
    for task in tasks:
      for sums, scores in _constant_sums(task, fitted[task.name], batch):
        totals[task.name] = kinds_base.added(totals.get(task.name), sums)
        rows[task.name].append(scores)
  if not totals:
    raise ValueError("There are no labels to score a constant prediction on.")
  return {
    task.name: kinds.find(task.kind).finish(
      task, totals[task.name], kinds_base.joined(rows[task.name])
    )
    for task in tasks
  }


def _constant_sums(
  task: types.TaskSpec, one: np.ndarray, batch: types.Batch
) -> Iterator[tuple[Any, Any]]:
  """Sums and scores of a constant on a batch, in parts that fit into memory.

  A task that is scored as the authors do is not cut: batches count there.
  """
  kind = kinds.find(task.kind)
  target = np.asarray(batch.targets[task.name])
  valid = np.asarray(batch.valid[task.name])
  present = np.asarray(batch.present)
  most = max(_LOGITS // max(math.prod(valid.shape[1:]) * one.shape[-1], 1), 1)
  if alignment.by_authors(task):
    most = len(target)
  for begin in range(0, len(target), most):
    part = slice(begin, begin + most)
    shape = valid[part].shape[: one.ndim] + one.shape[-1:]
    logits = jnp.broadcast_to(jnp.asarray(one).reshape((1,) * (len(shape) - 1) + (-1,)), shape)
    args = (task, logits, target[part], valid[part])
    yield kind.sums(*args, present[part]), jax.device_get(kind.scores(*args))


def score(tasks: tuple[types.TaskSpec, ...], values: Values, constant: Values) -> np.ndarray:
  """Returns one number per task for model selection, float32 `[T]`, higher is better.

  Percentages count as value / 100, errors as 1 - error / error of the constant
  prediction; a task's metrics are averaged.

  Args:
    values: of the model, on validation.
    constant: of the best constant prediction, on validation.

  Differs: the authors divide by the test results of a single-task run; this needs no other run.
  """
  found = []
  for task in tasks:
    parts = []
    for metric in kinds.find(task.kind).metrics(task):
      value = values[task.name][metric.name]
      if metric.higher_is_better:
        parts.append(value / 100 if metric.unit == "%" else value)
      else:
        parts.append(1 - value / max(constant[task.name][metric.name], 1e-9))
    parts = [p for p in parts if np.isfinite(p)]
    found.append(np.mean(parts) if parts else 0.0)
  return np.asarray(found, np.float32)
