"""Networks with random weights, ready to be executed in every way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cases
from dynashare_jax import methods
from dynashare_jax import types
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.ops import compaction as compaction_lib
from dynashare_jax.train import experiment as experiment_lib

PAIRS = 1 / 3  # of the (task, block) pairs that a route skips
RATE = 0.55  # of the gates on the last half of the blocks
WAYS = {
  "rows": compaction_lib.Compaction(compaction_lib.ROWS),
  "4 buckets": compaction_lib.Compaction(compaction_lib.BUCKETS, 4),
  "8 buckets": compaction_lib.Compaction(compaction_lib.BUCKETS, 8),
  "16 buckets": compaction_lib.Compaction(compaction_lib.BUCKETS, 16),
}


def route(tasks: int, blocks: int, skip: float = PAIRS, seed: int = 0) -> np.ndarray:
  """A random route `[T, L]` that skips a fraction of all pairs.

  Args:
    tasks: T.
    blocks: L; the first two are never skipped.
    skip: fraction of the T * L pairs, rounded to whole pairs.
    seed: of the draw.
  """
  rng = np.random.default_rng(seed)
  free = tasks * (blocks - 2)
  closed = rng.permutation(free)[: round(skip * tasks * blocks)]
  found = np.ones((tasks, blocks), int)
  found[:, 2:] = ~np.isin(np.arange(free), closed).reshape(tasks, blocks - 2)
  return found


def half_gated(blocks: int) -> tuple[float, ...]:
  """Target rates of gates on the last half of the blocks."""
  first = blocks - blocks // 2
  return (1.0,) * first + (RATE,) * (blocks - first)


def rooms_config(blocks: Sequence[int] = (2, 2, 2, 2)) -> Any:
  """The Deeplab-style ResNet of configs/base.py with linear heads.

  Args:
    blocks: of every segment.
  """
  config = cases.load_config("base")
  config.dataset = "random"
  config.model.blocks = tuple(blocks)
  config.gates.target_rates = half_gated(sum(blocks))
  return config


def census_config() -> Any:
  """The MLP of configs/census.py, gates on the last half of its blocks."""
  config = cases.load_config("census")
  config.gates.target_rates = half_gated(sum(config.model.blocks))
  return config


def trained(
  config: Any, dataset: types.Dataset, chosen: np.ndarray, gates: bool
) -> trained_lib.Trained:
  """A model that looks trained: random weights in every leaf.

  Kernels keep the size of what passes through, so that nothing overflows.

  Args:
    config: of the network.
    dataset: random data.
    chosen: route `[T, L]`.
    gates: whether instance gates decide.
  """
  config.train.batch_size = config.eval.batch_size = 1
  experiment = experiment_lib.build(
    config, dataset, methods.find(config.method).build, jax.devices()[:1]
  )
  rng = np.random.default_rng(4)

  def leaf(path: Any, shape: Any) -> jax.Array:
    draw = rng.standard_normal(shape.shape, np.float32)
    name = jax.tree_util.keystr(path)
    if "scale" in name or "var" in name:
      draw = 1 + 0.1 * np.abs(draw)
    elif len(shape.shape) > 1:
      draw = draw * np.sqrt(2 / np.prod(shape.shape[:-1]))
    else:
      draw = 0.1 * draw
    return jnp.asarray(draw, shape.dtype)

  params, stats = jax.tree_util.tree_map_with_path(
    leaf, jax.eval_shape(lambda: experiment.fresh("init"))
  )
  structure = experiment.sharing.of(chosen, gates)
  return trained_lib.Trained(experiment, params, stats, structure, pathlib.Path(), 0)


def images(rows: int, height: int, width: int) -> jax.Array:
  """Images `[rows, H, W, 3]` that differ in colour, contrast and texture."""
  rng = np.random.default_rng(5)
  draw = lambda *shape: rng.standard_normal((rows, *shape), np.float32)
  ramp = draw(1, 1, 3) * np.linspace(-1, 1, height, dtype=np.float32)[None, :, None, None]
  noise = np.exp(0.7 * draw(1, 1, 1)) * draw(height, width, 3)
  return jnp.asarray(draw(1, 1, 3) + ramp + 0.5 * noise)


def rows_of(inputs: Any, first: int, count: int) -> Any:
  """Rows `first` to `first + count` of every array."""
  return jax.tree.map(lambda a: a[first : first + count], inputs)


def thresholds(
  model: trained_lib.Trained, inputs: Any, rate: float = RATE, batch: int = 8
) -> np.ndarray:
  """Scores `[L]` that a fraction of the (group, example) rows exceed.

  Block after block, because a block's decisions change later scores; midway
  between two scores, so that rounding decides nothing.

  Args:
    model: with gates.
    inputs: leading axis divisible by `batch`.
    rate: wanted at every gated block.
    batch: examples a call.
  """
  size = jax.tree.leaves(inputs)[0].shape[0]
  run = jax.jit(lambda v, x, t: model.forward(threshold=t)(v, x)[1].own.relevance)
  found = np.zeros(len(model.gated), np.float32)
  for block, split in enumerate(model.plan.splits):
    if not model.gated[block] or not split.running:
      continue
    scores = np.concatenate(
      [
        run(model.variables, rows_of(inputs, i, batch), found)[:, :, block]
        for i in range(0, size, batch)
      ],
      1,
    )
    first = [group[0] for group in split.groups[: split.running]]
    ordered = np.sort(scores[first].ravel())[::-1]
    place = round(rate * ordered.size)
    found[block] = (ordered[place - 1] + ordered[place]) / 2
  return found


class Runner:
  """A compiled forward pass over several batches.

  Attributes:
    compile_cpu_seconds: processor time of tracing and compiling.
    temporary_bytes: memory of activations and scratch.
    examples: of one call.
  """

  def __init__(
    self,
    model: trained_lib.Trained,
    execution: trained_lib.Execution,
    inputs: Any,
    batch: int,
    threshold: Any = None,
  ) -> None:
    """Compiles and runs once.

    Args:
      model: to execute.
      execution: how.
      inputs: of all examples of a call.
      batch: examples a batch; divides the number of examples.
      threshold: `[L]` of the gates.
    """
    self.examples = jax.tree.leaves(inputs)[0].shape[0]
    self._batches = [rows_of(inputs, i, batch) for i in range(0, self.examples, batch)]
    self._variables = model.variables
    self._run, self.compile_cpu_seconds = compiled(
      model.forward(execution, threshold=threshold), self._variables, self._batches[0]
    )
    memory = self._run.memory_analysis()
    self.temporary_bytes = int(memory.temp_size_in_bytes) if memory else 0
    self()

  def __call__(self) -> None:
    """Executes all batches, one after another."""
    for batch in self._batches:
      jax.block_until_ready(self._run(self._variables, batch))

  def again(self, calls: int) -> None:
    """Executes the first batch several times and waits for the last."""
    for _ in range(calls):
      done = self._run(self._variables, self._batches[0])
    jax.block_until_ready(done)

  def results(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Logits of all examples, and what they executed `[T, N, L]`."""
    logits, executed = [], []
    for batch in self._batches:
      out, signals = self._run(self._variables, batch)
      logits.append(jax.device_get(out))
      executed.append(np.asarray(signals.executed))
    joined = jax.tree.map(lambda *a: np.concatenate(a), *logits)
    return joined, np.concatenate(executed, 1)


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
  """A function compiled for its arguments, and its processor seconds."""
  began = time.process_time()
  done = jax.jit(function).lower(*args).compile()
  return done, time.process_time() - began


def largest_difference(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
  """Over all tasks, relative to the largest number of a task's logits."""
  return max(float(np.abs(found[k] - wanted[k]).max() / np.abs(wanted[k]).max()) for k in wanted)
