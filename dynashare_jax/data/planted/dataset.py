"""Planted problems: small regressions for which the right way to share is known beforehand.

Tasks are linear read-outs of random residual networks ("teachers") of 16 normal inputs,
standardised and with noise of standard deviation 0.1, so that the least possible squared error is
0.01 and that of a constant 1.01. Tasks of one teacher help each other, those of two compete for
the width.
"""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any, NamedTuple

from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import memory
from dynashare_jax.data import options

INPUTS = 16
OUTPUTS = 4
NOISE = 0.1
_WIDTH, _HIDDEN = 16, 24  # of the teachers
_FIRST = 1000  # seed of the problem 0


class Problem(NamedTuple):
  """What is planted.

  Attributes:
    teachers: blocks of every teacher; 0 is a linear map.
    reads: for every task, the teacher that it reads.
    poor: tasks with few labels.
    answer: in words, what a good method finds.
    halves: whether task 0 and 1 follow teacher 0 where the first two inputs sum to more than 0, and
      a linear map elsewhere.
  """

  teachers: tuple[int, ...]
  reads: tuple[int, ...]
  answer: str
  poor: tuple[int, ...] = ()
  halves: bool = False


PROBLEMS = {
  "conflict": Problem(
    (3, 3),
    (0, 0, 1, 1),
    "two pairs of tasks: share within a pair, not across, half of the blocks each",
  ),
  "poor": Problem(
    (3, 3), (0, 0, 1, 1), "as conflict; the tasks with few labels gain most", poor=(1, 3)
  ),
  "unneeded": Problem((6, 0), (0, 0, 1, 1), "the first two tasks need all blocks, the others none"),
  "unequal": Problem(
    (5, 1), (0, 0, 1, 1), "two pairs that share nothing; the first needs 5 blocks, the second 1"
  ),
  "instance": Problem(
    (4,), (0, 0), "half of the examples need depth, the others are linear", halves=True
  ),
  "none": Problem((3,), (0, 0, 0, 0), "no conflict: share everything"),
}


def defaults() -> dict[str, Any]:
  """Returns the default values of `config.data`.

  problem: a name in `PROBLEMS`. number: which random instance of it (the training seed does not
  change it). train, validation, test: examples. labels: of a poor task, in training. tasks: the
  tasks' names, in order; empty is all of the problem. scales: a factor above 0 on the targets of
  each of `tasks`, noise included, so that squared errors and losses have its square; empty is 1.
  """
  return {
    "problem": "conflict",
    "number": 0,
    "train": 8192,
    "validation": 2048,
    "test": 2048,
    "labels": 512,
    "tasks": (),
    "scales": (),
  }


def compat() -> dict[str, Any]:
  """Returns no switch: no published code exists for this data set."""
  return {}


def answer(problem: str, blocks: int) -> np.ndarray:
  """Returns the route `[T, L]` that the problem was planted for.

  With several teachers that have blocks, each has blocks of its own: the first teacher the first
  part of them, and so on. A lone one has all.
  """
  planted = PROBLEMS[lookup.one_of("config.data.problem", problem, PROBLEMS)]
  deep = [i for i, depth in enumerate(planted.teachers) if depth]
  parts = np.array_split(np.arange(blocks), len(deep))
  route = np.zeros((len(planted.reads), blocks), np.float32)
  for task, teacher in enumerate(planted.reads):
    if teacher in deep:
      route[task, parts[deep.index(teacher)]] = 1
  return np.ones_like(route) if planted.halves else route


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Makes the data set; nothing is drawn before it is asked for.

  Args:
    config: `config.data`, fields as in `defaults`.
    seed: not used: the examples depend on `config.number` alone.

  Raises:
    ValueError: a wrong value in `config`, or an unknown problem or task.
  """
  del compat, data_dir, seed
  planted = PROBLEMS[lookup.one_of("config.data.problem", config.problem, PROBLEMS)]
  every = tuple(f"t{task}" for task in range(len(planted.reads)))
  names = tuple(config.tasks) or every
  options.tasks("planted", names, every)
  for field in (*types.SPLITS, "labels"):
    options.check_range(field, config[field], 1)
  options.check_range("number", config.number, 0)
  scales = tuple(config.scales) or (1.0,) * len(names)
  if len(scales) != len(names) or not all(0 < scale < math.inf for scale in scales):
    raise ValueError(
      f"config.data.scales is {scales}; give one number above 0 for each of {', '.join(names)},"
      " or none at all."
    )
  sizes = {split: int(config[split]) for split in types.SPLITS}
  spec = types.DatasetSpec(
    name="planted",
    tasks=tuple(types.TaskSpec(name, "number", OUTPUTS) for name in names),
    input_kind="series",
    input_shape=(1, INPUTS),
    sizes=sizes,
    notes=(f"planted problem {config.problem!r}: {planted.answer}",),
  )
  factors = dict(zip(names, scales, strict=True))
  numbers = int(config.number), int(config.labels)
  whole = memory.Rows(lambda: _draw(planted, *numbers, sizes, factors))
  ends = np.cumsum([0, *sizes.values()])
  sources = {
    split: memory.Rows(_part(whole, ends[i], ends[i + 1])) for i, split in enumerate(types.SPLITS)
  }
  return memory.dataset(spec, sources, lambda rows: rows.batch)


def _part(whole: memory.Rows, first: int, last: int) -> Callable[[], types.Batch]:
  """Makes some rows of all examples."""
  return lambda: whole[int(first) : int(last)].batch


def _draw(
  planted: Problem, number: int, labels: int, sizes: dict[str, int], scales: dict[str, float]
) -> types.Batch:
  """All splits behind one another, of the tasks that have a scale."""
  rng = np.random.default_rng(_FIRST + number)
  count = sum(sizes.values())
  x = rng.standard_normal((count, INPUTS)).astype(np.float32)
  features = [_teacher(rng, depth, x) for depth in planted.teachers]
  targets, valid = {}, {}
  easy = _teacher(rng, 0, x) if planted.halves else None
  for task, teacher in enumerate(planted.reads):
    y = _read(rng, features[teacher])
    if easy is not None:
      y = _standard(np.where((x[:, 0] + x[:, 1] > 0)[:, None], y, _read(rng, easy)))
    noisy = y + NOISE * rng.standard_normal(y.shape)
    targets[f"t{task}"] = noisy.astype(np.float32)
    known = np.ones(count, bool)
    known[labels if task in planted.poor else count : sizes["train"]] = False
    valid[f"t{task}"] = known
  return types.Batch(
    x[:, None],
    {name: np.float32(scale) * targets[name] for name, scale in scales.items()},
    {name: valid[name] for name in scales},
    np.ones(count, bool),
  )


def _read(rng: np.random.Generator, features: np.ndarray) -> np.ndarray:
  """A random linear read-out with mean 0 and variance 1."""
  return _standard(features @ rng.standard_normal((features.shape[1], OUTPUTS)))


def _standard(y: np.ndarray) -> np.ndarray:
  """The same with mean 0 and variance 1 in every column."""
  return np.asarray((y - y.mean(0)) / y.std(0))


def _teacher(rng: np.random.Generator, depth: int, x: np.ndarray) -> np.ndarray:
  """A random residual network's features `[N, 16]`."""
  draw = lambda rows, columns: rng.standard_normal((rows, columns)) / np.sqrt(rows)
  y = x @ draw(INPUTS, _WIDTH)
  for _ in range(depth):
    z = (y - y.mean(1, keepdims=True)) / (y.std(1, keepdims=True) + 1e-5)
    hidden = z @ draw(_WIDTH, _HIDDEN) * 1.5 + 0.3 * rng.standard_normal(_HIDDEN)
    y = y + np.maximum(hidden, 0) @ draw(_HIDDEN, _WIDTH) * 1.6
  return np.asarray(y)
