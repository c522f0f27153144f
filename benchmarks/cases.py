"""Training steps of dynashare_jax on random data, ready to be timed."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import pathlib
import runpy
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]

from dynashare_jax import methods  # noqa: E402
from dynashare_jax import types  # noqa: E402
from dynashare_jax.distributed import mesh as mesh_lib  # noqa: E402
from dynashare_jax.train import experiment as experiment_lib  # noqa: E402
from dynashare_jax.train import forward as forward_lib  # noqa: E402
from dynashare_jax.train import step as step_lib  # noqa: E402

# Codes of the 31 categorical and bin edges of the 8 numeric columns of Census.
_CARDINALITIES = (
  10,
  53,
  48,
  4,
  25,
  16,
  6,
  11,
  3,
  4,
  7,
  9,
  7,
  7,
  52,
  39,
  9,
  11,
  10,
  11,
  4,
  5,
  6,
  44,
  44,
  44,
  6,
  4,
  4,
  4,
  3,
)
_EDGES = (17, 17, 17, 16, 17, 17, 7, 17)
CENSUS_TASKS = ("income", "marital", "education")
EXAMPLES = 199_523  # of the Census training file


def load_config(name: str, *setting: str) -> Any:
  """Reads a file of `configs/`; a setting is what follows the colon."""
  path = str(ROOT / "configs" / f"{name}.py")
  return runpy.run_path(path)["get_config"](*setting)


def _dataset(spec: types.DatasetSpec, inputs: Any, targets: dict[str, np.ndarray]) -> types.Dataset:
  """A data set whose splits are all the same examples."""
  batch = types.Batch(
    inputs,
    targets,
    {t: np.ones(v.shape[: 3 if v.ndim > 2 else 1], bool) for t, v in targets.items()},
    np.ones(spec.sizes["train"], bool),
  )
  return types.Dataset(spec, lambda split: batch, lambda split: [])


def census(rows: int, tasks: Sequence[str] = CENSUS_TASKS, onehot: int = 0) -> types.Dataset:
  """Random rows with the columns of Census-Income.

  Args:
    rows: examples.
    tasks: names of binary tasks.
    onehot: length of one long vector; 0 keeps codes and numbers.
  """
  rng = np.random.default_rng(0)
  if onehot:
    table, shape = None, (onehot, 1)
    inputs: Any = rng.random((rows, onehot, 1), np.float32)
  else:
    table = types.TableSpec(
      tuple(f"code_{i}" for i in range(len(_CARDINALITIES))),
      _CARDINALITIES,
      tuple(f"number_{i}" for i in range(len(_EDGES))),
      tuple(tuple(np.linspace(0, 1, n).tolist()) for n in _EDGES),
    )
    shape = (len(_CARDINALITIES) + len(_EDGES),)
    inputs = {
      "categorical": rng.integers(0, _CARDINALITIES, (rows, len(_CARDINALITIES)), np.int32),
      "numeric": rng.random((rows, len(_EDGES)), np.float32),
    }
  spec = types.DatasetSpec(
    "random",
    tuple(types.TaskSpec(t, "binary") for t in tasks),
    "table" if table else "series",
    shape,
    dict.fromkeys(types.SPLITS, rows),
    table,
  )
  targets = {t: (rng.random(rows) > 0.5).astype(np.float32) for t in tasks}
  return _dataset(spec, inputs, targets)


def scenes(rows: int, count: int, height: int = 48, width: int = 64) -> types.Dataset:
  """Random images with `count` dense tasks: segmentation, depth, normals."""
  rng = np.random.default_rng(0)
  shape = (rows, height, width)
  tasks, targets = [], {}
  for index in range(count):
    kind = ("segmentation", "depth", "normals")[index % 3]
    name = f"{kind}_{index}"
    outputs = {"segmentation": 8, "depth": 1, "normals": 3}[kind]
    tasks.append(types.TaskSpec(name, kind, outputs))
    if kind == "segmentation":
      targets[name] = rng.integers(0, outputs, shape).astype(np.int32)
    elif kind == "depth":
      targets[name] = (1 + rng.random(shape)).astype(np.float32)
    else:
      raw = rng.normal(size=(*shape, 3)) + [0.0, 0.0, 3.0]
      unit = raw / np.linalg.norm(raw, axis=-1, keepdims=True)
      targets[name] = unit.astype(np.float32)
  spec = types.DatasetSpec(
    "random", tuple(tasks), "image", (height, width, 3), dict.fromkeys(types.SPLITS, rows)
  )
  images = rng.random((*shape, 3)).astype(np.float32)
  return _dataset(spec, images, targets)


def random_route(tasks: int, blocks: int, skip: float = 0.3) -> np.ndarray:
  """A route `[T, L]` that skips a fraction of all but the first two blocks."""
  rng = np.random.default_rng(1)
  route = np.ones((tasks, blocks), int)
  for row in route:
    count = round(skip * blocks)
    row[2 + rng.permutation(blocks - 2)[:count]] = 0
  return route


def _any_state(experiment: experiment_lib.Experiment, index: int) -> Any:
  """A state of the right shapes; quick, as nothing is initialised."""

  def make() -> Any:
    state = experiment.with_optimizer(experiment.initial_state(), index)
    return state.replace(best={}, anchor={})

  rng = np.random.default_rng(3)
  shapes = jax.eval_shape(make)
  return shapes.replace(
    params=jax.tree.map(lambda s: 0.05 * rng.standard_normal(s.shape, np.float32), shapes.params),
    stats=jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes.stats),
    opt=jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes.opt),
    balance=jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes.balance),
    routes=jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes.routes),
    memory=jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes.memory),
  )


class Stepper:
  """A compiled training step that carries its state from call to call.

  Attributes:
    compile_cpu_seconds: processor time of tracing and compiling.
    temporary_bytes: scratch memory of the compiled program, without its
      arguments and results.
    flops: of a call, as the compiler counts them.
    state: after the last step; the next call gives its memory away.
    examples: that one call trains on.
  """

  def __init__(
    self,
    config: Any,
    dataset: types.Dataset,
    phase: str,
    route: np.ndarray | None = None,
    prefix: int = 0,
    steps: int = 1,
  ) -> None:
    """Builds and compiles.

    Args:
      config: of the run; its batch size and method decide.
      dataset: random data.
      phase: `warmup`, `weights` (soft decisions, all blocks but the shared
        prefix open) or `retrain`.
      route: `[T, L]` of a re-training.
      prefix: first blocks that all tasks share while they are closed.
      steps: a call.
    """
    experiment = experiment_lib.build(config, dataset, methods.find(config.method).build)
    phases = experiment.method.phases
    index = [number for number, p in enumerate(phases) if p.name == phase][-1]
    chosen = phases[index]
    sharing = experiment.sharing
    if sharing.skips:
      sharing = dataclasses.replace(sharing, prefixes=(prefix,))
    if route is None:
      route = np.ones((len(experiment.tasks), experiment.units), int)
    if phase == "weights":
      settings = chosen.settings._replace(open_blocks=experiment.units - prefix)
      chosen = dataclasses.replace(chosen, settings=settings)
    static = sharing.static(chosen, route)
    spec = forward_lib.Spec(static, chosen.trainable, chosen.optimizer)
    optimizer = functools.partial(experiment.optimizer, spec.optimizer)
    sharding = mesh_lib.batch_sharding(experiment.mesh)
    run = step_lib.make(experiment.objective, optimizer, spec, sharding)
    self.state = mesh_lib.place_replicated(_any_state(experiment, index), experiment.mesh)
    self._arrays = mesh_lib.place_replicated(dataset.arrays("train"), experiment.mesh)
    self.examples = steps * config.train.batch_size
    rows = dataset.spec.sizes["train"]
    order = np.random.default_rng(2).integers(0, rows, self.examples, np.int32)
    self._rows = jnp.asarray(order.reshape(steps, -1))
    horizon = experiment.horizon(index)
    self._inputs = step_lib.moving_of(sharing, chosen, config.seed, 0, 0, route, horizon)
    began = time.process_time()
    self._run = run.lower(self.state, self._arrays, self._rows, self._inputs).compile()
    self.compile_cpu_seconds = time.process_time() - began
    memory = self._run.memory_analysis()
    self.temporary_bytes = int(memory.temp_size_in_bytes) if memory else 0
    self.flops = float((self._run.cost_analysis() or {}).get("flops", float("nan")))

  def __call__(self) -> None:
    """Trains for the compiled number of steps and waits for the end."""
    self.state, parts = self._run(self.state, self._arrays, self._rows, self._inputs)
    jax.block_until_ready((self.state, parts))
