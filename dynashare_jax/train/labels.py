"""Counts labels before they are trained on, and refuses those that a task cannot have."""

from __future__ import annotations

from collections.abc import Sequence
import concurrent.futures
from typing import NamedTuple

from absl import logging
import jax
import numpy as np

from dynashare_jax import types
from dynashare_jax.objectives import kinds

_SHOWN = 3  # wrong values in a message
_TASKS = 12  # in a line
_VALUES = 1_000_000  # labels of a task among which is looked for what seems wrong
LOOKED = 64  # streamed examples of a split that are looked at for labels before training


class Labelled(NamedTuple):
  """How much of a split has labels.

  Attributes:
    split: its name.
    size: how many examples it has.
    looked: how many of them were looked at.
    examples: task -> how many of those have a label.
    shares: task -> share of their labels or pixels that are valid.
    doubts: what looks wrong, a line for each.
  """

  split: str
  size: int
  looked: int
  examples: dict[str, int]
  shares: dict[str, float]
  doubts: tuple[str, ...]

  def __str__(self) -> str:
    """One line: the examples with a label of each task, where partial the share of its pixels."""
    fewest = sorted(self.examples, key=self.examples.__getitem__)[:_TASKS]
    parts = [f"{n} {self.examples[n]}{self._share(n)}" for n in self.examples if n in fewest]
    more = len(self.examples) - len(parts)
    rest = f", {more} tasks with as many or more" if more else ""
    of = f"{self.looked} examples" + f" of {self.size}" * (self.looked < self.size)
    return f"labels in {self.split}, {of}: {', '.join(parts)}{rest}"

  def _share(self, task: str) -> str:
    even = abs(self.shares[task] - self.examples[task] / self.looked) < 5e-4
    return "" if even else f" ({100 * self.shares[task]:.3g}%)"


class _Part(NamedTuple):
  """What is counted of one task in some examples; `sample` are some of the valid labels."""

  examples: int
  known: int
  places: int
  sample: np.ndarray


def look(dataset: types.Dataset, split: str, resident: bool, threads: int = 1) -> Labelled:
  """Counts the labels of a split and looks for what seems wrong.

  Of data that are not resident at most `LOOKED` examples are read by some threads, evenly spread.
  """
  tasks, size = dataset.spec.tasks, dataset.spec.sizes[split]
  if resident:
    parts, looked = [_count(tasks, dataset.arrays(split), _VALUES)], size
  else:
    source = dataset.source(split)
    places = np.unique(np.linspace(0, len(source) - 1, LOOKED).astype(int)).tolist()
    looked = len(places)

    def one(place: int) -> dict[str, _Part]:
      batch = source[place]._replace(inputs=())
      return _count(tasks, jax.tree.map(lambda a: np.asarray(a)[None], batch), _VALUES // LOOKED)

    with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
      parts = list(pool.map(one, places))
  examples, shares, doubts = {}, {}, []
  for task in tasks:
    found = [part[task.name] for part in parts]
    examples[task.name] = sum(part.examples for part in found)
    shares[task.name] = sum(part.known for part in found) / sum(part.places for part in found)
    kind = kinds.find(task.kind)
    # Of labels of whole examples a few may be alike by chance.
    if (kind.dense or looked == size) and not dataset.spec.private:
      sample = np.concatenate([part.sample for part in found])
      doubts += [f"{task.name}: {text}" for text in kind.doubts(task, sample)]
  return Labelled(split, size, looked, examples, shares, tuple(doubts))


def _count(tasks: Sequence[types.TaskSpec], batch: types.Batch, most: int) -> dict[str, _Part]:
  """Counts labels of some examples, and keeps at most some of them."""
  found = {}
  for task in tasks:
    target = np.asarray(batch.targets[task.name])
    valid = np.asarray(batch.valid[task.name], bool)
    known = valid.reshape(len(valid), -1)
    some = sample(task, target, valid, most)
    found[task.name] = _Part(int(known.any(1).sum()), int(known.sum()), known.size, some)
  return found


def sample(task: types.TaskSpec, target: np.ndarray, valid: np.ndarray, most: int) -> np.ndarray:
  """Returns at most some valid labels of examples, `[n]`, or `[n, O]` with NaN for missing ones."""
  if valid.ndim == target.ndim == 2 and task.outputs == target.shape[1] > 1:
    known = valid.any(1)
    found = np.where(valid, target, np.nan)[known] if target.dtype.kind == "f" else target[known]
  else:
    found = target[valid]
  if len(found) <= most:
    return found
  return found[np.random.default_rng(0).integers(0, len(found), most)]


def check_any(dataset: types.Dataset, split: str, resident: bool, threads: int = 1) -> Labelled:
  """Looks at a split as `look` does, and for a label of every task.

  Of data of which only some examples are looked at, a warning says where none of these has a label.

  Raises:
    ValueError: a task has no label in a split that was looked at as a whole; names both.
  """
  found = look(dataset, split, resident, threads)
  lacking = [name for name, count in found.examples.items() if not count]
  if not lacking:
    return found
  names = ", ".join(map(repr, lacking))
  whose = f"task {names} has" if len(lacking) == 1 else f"tasks {names} have"
  if found.looked < found.size:
    logging.warning(
      "The %s no valid label in %d of %d examples, evenly spread, of the split %r: are there any?",
      *(whose, found.looked, found.size, split),
    )
    return found
  raise ValueError(
    f"The {whose} no valid label in the split {split!r} of {dataset.spec.name}: nothing could be"
    " learnt or measured. Correct the data, or leave it out of config.data.tasks."
  )


def check(tasks: Sequence[types.TaskSpec], batch: types.Batch, split: str) -> None:
  """Looks at every label once, on the host. What is not valid may hold anything.

  Args:
    batch: a whole split, or a part of it.

  Raises:
    ValueError: names the task, the split, the wrong values and how many.
  """
  for task in tasks:
    target = np.asarray(batch.targets[task.name])
    valid = np.asarray(batch.valid[task.name], bool)
    allowed, rule = kinds.find(task.kind).allowed(task)
    good = rule(target)
    bad = ~good & valid.reshape(valid.shape + (1,) * (good.ndim - valid.ndim))
    if bad.any():
      values = np.unique(target[bad])
      more = ", ..." if len(values) > _SHOWN else ""
      shown = ", ".join(f"{v:g}" for v in values[:_SHOWN]) + more
      raise ValueError(
        f"Task {task.name!r} has {int(bad.sum())} labels in the split {split!r} that a {task.kind}"
        f" task cannot have: {shown}; allowed are {allowed}. Mark what is no label as not valid,"
        " or correct the data or the task's number of outputs."
      )
