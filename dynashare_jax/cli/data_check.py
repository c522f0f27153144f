"""Looks at every example of a data set before it is trained on."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import dataclasses
import itertools
from typing import Any

import jax
import numpy as np

from dynashare_jax import types
from dynashare_jax.cli import data_statistics as statistics
from dynashare_jax.data import loader
from dynashare_jax.train import labels

_SHOWN = 5  # names in a message
_LISTED = 20  # of one sort of problem
_PICTURES = 6  # examples that are kept to be drawn
_SPARSE = 0.01  # share of labelled pixels that deserves a word


@dataclasses.dataclass
class Split:
  """What was found in a split.

  Attributes:
    size: how many examples it has.
    seen: digest of an input -> name of the first example with it.
    repeated: how many inputs occurred before in the same split.
    checked: how many examples were read.
    unreadable: what was wrong with those that could not be read.
    wrong: labels that a task cannot have.
    private: whether nothing is shown of the inputs' values.
  """

  name: str
  size: int
  tasks: dict[str, statistics.Labels]
  private: bool
  inputs: statistics.Numbers = dataclasses.field(default_factory=statistics.Numbers)
  seen: dict[bytes, str] = dataclasses.field(default_factory=dict)
  repeated: int = 0
  checked: int = 0
  unreadable: list[str] = dataclasses.field(default_factory=list)
  wrong: list[str] = dataclasses.field(default_factory=list)

  def add(self, batch: types.Batch, names: Sequence[str], tasks: Sequence[types.TaskSpec]) -> None:
    """Adds examples with a leading axis."""
    self.checked += len(names)
    numbers = statistics.numbers_of(batch.inputs)
    if self.private:
      self.inputs.odd += int((~np.isfinite(numbers)).sum())
    else:
      self.inputs.add(numbers)
    for task in tasks:
      self.tasks[task.name].add(
        np.asarray(batch.targets[task.name]), np.asarray(batch.valid[task.name])
      )
      try:
        labels.check([task], batch, self.name)
      except ValueError as error:
        which = f"Example {names[0]!r}: " if len(names) == 1 else ""
        self.wrong.append(f"{which}{error}")
    for name, digest in zip(names, statistics.digests(batch.inputs), strict=True):
      self.repeated += digest in self.seen
      self.seen.setdefault(digest, name)

  def figures(self) -> dict[str, Any]:
    """All figures, for JSON."""
    return {
      "examples": self.size,
      "checked": self.checked,
      "unreadable": self.unreadable,
      "wrong_labels": self.wrong,
      "repeated_inputs": self.repeated,
      "inputs": self.inputs.figures(),
      "tasks": {n: t.figures() for n, t in self.tasks.items()},
    }


@dataclasses.dataclass
class Check:
  """What was found in a data set.

  Attributes:
    spec: of the data set.
    splits: split -> what was found.
    broken: what must be mended before training.
    warnings: what is worth a look.
    pictures: training examples, to be drawn.
  """

  spec: types.DatasetSpec
  splits: dict[str, Split]
  broken: list[str]
  warnings: list[str]
  pictures: list[types.Batch]

  def figures(self) -> dict[str, Any]:
    """All figures, for JSON."""
    spec = self.spec
    return {
      "dataset": spec.name,
      "found": list(spec.notes),
      "input_kind": spec.input_kind,
      "input_shape": list(spec.input_shape),
      "crop": spec.crop,
      "broken": self.broken,
      "warnings": self.warnings,
      "splits": {n: s.figures() for n, s in self.splits.items()},
    }


def check(
  dataset: types.Dataset,
  most: int = 0,
  threads: int = 2,
  progress: Callable[[str, int, int], object] = lambda *_: None,
) -> Check:
  """Reads a data set and looks for what would spoil a training.

  Args:
    most: examples of each split, evenly spread; 0 all.
    progress: called with the split, how many are done, and how many there are.
  """
  spec = dataset.spec
  splits: dict[str, Split] = {}
  pictures: list[types.Batch] = []
  for name, size in spec.sizes.items():
    split = Split(
      name, size, {t.name: statistics.Labels(t, spec.private) for t in spec.tasks}, spec.private
    )
    splits[name], chosen = split, _spread(size, most)
    if spec.input_kind != "image":
      split.add(loader.take(dataset.arrays(name), chosen), list(map(str, chosen)), spec.tasks)
      progress(name, len(chosen), len(chosen))
      continue
    kept = chosen[_spread(len(chosen), _PICTURES)] if name == "train" else []
    source = dataset.source(name)
    names = getattr(source, "keys", None)
    for done, (index, example) in enumerate(_read(source, chosen, threads), 1):
      if isinstance(example, ValueError):
        split.unreadable.append(str(example))
      else:
        pictures += [example] * (index in kept)
        one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], example)
        split.add(one, [names[index] if names else str(index)], spec.tasks)
      progress(name, done, len(chosen))
  return Check(spec, splits, *_problems(spec, splits), pictures)


def _read(
  source: Sequence[types.Batch], chosen: np.ndarray, threads: int
) -> Iterator[tuple[int, Any]]:
  """Examples in order, some read ahead; an error in place of one."""

  def one(index: int) -> Any:
    try:
      return source[index]
    except ValueError as error:
      return error

  with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
    coming = iter(chosen.tolist())
    submit = lambda count: [(i, pool.submit(one, i)) for i in itertools.islice(coming, count)]
    waiting = collections.deque(submit(2 * max(1, threads)))
    while waiting:
      index, future = waiting.popleft()
      yield index, future.result()
      waiting += submit(1)


def _spread(size: int, most: int) -> np.ndarray:
  """At most some indices, evenly spread."""
  if not most or most >= size:
    return np.arange(size)
  return np.linspace(0, size - 1, most).round().astype(np.int64)


def _problems(spec: types.DatasetSpec, splits: dict[str, Split]) -> tuple[list[str], list[str]]:
  """What is broken, and what is worth a look."""
  broken, warnings = [], []
  for split in splits.values():
    for sort, what in ((split.unreadable, "cannot be read"), (split.wrong, "have wrong labels")):
      broken += [f"{split.name}: {text}" for text in sort[:_LISTED]]
      if len(sort) > _LISTED:
        broken.append(f"{split.name}: {len(sort) - _LISTED} more {what}; all are in check.json.")
    if split.inputs.odd:
      broken.append(f"{split.name}: {split.inputs.odd} numbers of the inputs are not finite.")
    if spec.input_kind == "image" and (split.inputs.low < 0 or split.inputs.high > 1):
      warnings.append(
        f"{split.name}: inputs lie between {split.inputs.low:.3g} and {split.inputs.high:.3g}, not"
        " in 0..1."
      )
    for found in split.tasks.values():
      _task_problems(split, found, broken, warnings)
  for task in spec.tasks:
    warnings += _unseen(splits, task.name)
  warnings += _shared(spec, splits)
  return broken, warnings


def _task_problems(
  split: Split, task: statistics.Labels, broken: list[str], warnings: list[str]
) -> None:
  """Problems of one task in one split."""
  where = f"{split.name}: {task.task.name}"
  if not task.known:
    whole = split.checked + len(split.unreadable) == split.size
    (broken if whole else warnings).append(
      f"{where} has no label in the {split.checked} examples that were read."
    )
    return
  share = task.known / task.places
  if share < _SPARSE:
    warnings.append(f"{where} has labels for {100 * share:.2g}% of the pixels.")
  if task.labelled < task.examples:
    warnings.append(
      f"{where}: {task.examples - task.labelled} of {task.examples} examples have no label."
    )
  warnings += [f"{where}: {text}{'' if text.endswith('?') else '.'}" for text in task.doubts()]
  if task.unusual:
    wanted, _ = task.kind.usual(task.task)
    warnings.append(
      f"{where}: {task.unusual} of {task.known} labels are not {wanted}, as they should be."
    )


def _unseen(splits: dict[str, Split], task: str) -> list[str]:
  """Classes that are tested but never trained."""
  train = splits["train"].tasks[task]
  found = []
  for name, split in splits.items():
    figures = split.tasks[task].figures().get("classes", {})
    missing = [
      c for (c, n), trained in zip(figures.items(), train.counts, strict=False) if n and not trained
    ]
    if missing and train.known:
      more = ", ..." if len(missing) > _SHOWN else ""
      found.append(
        f"{name}: {task} has {len(missing)} class(es) that training"
        f" never shows: {', '.join(missing[:_SHOWN])}{more}."
      )
  return found


def _shared(spec: types.DatasetSpec, splits: dict[str, Split]) -> list[str]:
  """Inputs that occur in more than one split, or twice in one."""
  found = []
  for split in splits.values():
    if split.repeated and spec.input_kind == "image":
      found.append(f"{split.name}: {split.repeated} inputs repeat another one of this split.")
  for first, second in itertools.combinations(splits, 2):
    one, two = splits[first].seen, splits[second].seen
    both = [digest for digest in two if digest in one]
    pairs = [one[d] if one[d] == two[d] else f"{one[d]} = {two[d]}" for d in both[:_SHOWN]]
    if both:
      found.append(
        f"{first} and {second} have {len(both)} equal inputs, of {len(two)} in {second}:"
        f" {', '.join(pairs)}{', ...' if len(both) > _SHOWN else '.'}"
      )
  return found
