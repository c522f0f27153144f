"""Figures of a split, added up example by example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np

from dynashare_jax import types
from dynashare_jax.objectives import kinds
from dynashare_jax.train import labels

_VALUES = 2_000_000  # labels of a task among which is looked for what seems wrong
_EACH = 2_000  # of them from one picture


@dataclasses.dataclass
class Numbers:
  """Range and moments of numbers.

  Attributes:
    count: of finite numbers.
    odd: how many are not finite.
    low: lowest finite number.
    high: highest finite number.
    sums: of numbers and of their squares, for every last axis `[2, C]`.
  """

  count: int = 0
  odd: int = 0
  low: float = np.inf
  high: float = -np.inf
  sums: np.ndarray | None = None

  def add(self, values: np.ndarray) -> None:
    """Adds numbers `[..., C]`."""
    finite = np.isfinite(values)
    whole = bool(finite.all())
    self.odd += 0 if whole else int(finite.size - finite.sum())
    good = values if whole else values[finite]
    if not good.size:
      return
    self.count += good.size
    self.low = min(self.low, float(good.min()))
    self.high = max(self.high, float(good.max()))
    flat = (values if whole else np.where(finite, values, 0)).reshape(-1, values.shape[-1])
    sums = np.stack([flat.sum(0, np.float64), np.einsum("nc,nc->c", flat, flat, dtype=np.float64)])
    self.sums = sums if self.sums is None else self.sums + sums

  def figures(self) -> dict[str, Any]:
    """Lowest, highest, mean and standard deviation, for JSON."""
    if not self.count or self.sums is None:
      return {"low": None, "high": None, "mean": [], "std": [], "non_finite": self.odd}
    each = self.count / self.sums.shape[1]
    mean = self.sums[0] / each
    std = np.sqrt(np.maximum(self.sums[1] / each - mean**2, 0))
    return {
      "low": self.low,
      "high": self.high,
      "mean": mean.tolist(),
      "std": std.tolist(),
      "non_finite": self.odd,
    }


class Labels:
  """Figures of one task's labels."""

  def __init__(self, task: types.TaskSpec, private: bool = False) -> None:
    """Starts with nothing; of private data no values are told."""
    self.task, self.private = task, private
    self._sample: list[np.ndarray] = []
    self.examples = self.labelled = self.places = self.known = self.unusual = 0
    self.shapes: dict[str, int] = {}
    self.kind = kinds.find(task.kind)
    nothing = np.zeros((0, task.outputs)), np.zeros(0, bool)
    self.counts, self.base = self.kind.counts(task, *nothing)  # of classes, and of all
    self.numbers = Numbers()

  def add(self, target: np.ndarray, valid: np.ndarray) -> None:
    """Adds labels `[B, ...]`; `valid` has leading axes of them."""
    target, valid = np.asarray(target), np.asarray(valid, bool)
    self.examples += len(valid)
    known = valid.reshape(len(valid), -1)
    self.labelled += int(known.any(1).sum())
    self.places += known.size
    self.known += int(known.sum())
    shape = " x ".join(map(str, target.shape[1:])) or "one value"
    self.shapes[shape] = self.shapes.get(shape, 0) + len(valid)
    chosen = target[valid]
    if not chosen.size:
      return
    if sum(map(len, self._sample)) < _VALUES and not self.private:
      most = _EACH if len(valid) == 1 else _VALUES
      self._sample.append(labels.sample(self.task, target, valid, most))
    counts, base = self.kind.counts(self.task, target, valid)
    self.counts, self.base = self.counts + counts, self.base + base
    self.unusual += int((~self.kind.usual(self.task)[1](chosen)).sum())
    values = chosen.astype(np.float32, copy=False)
    self.numbers.add(values.reshape(-1, 1) if values.ndim == 1 else values)

  def doubts(self) -> list[str]:
    """What looks wrong, if anything."""
    sample = np.concatenate(self._sample) if self._sample else np.zeros(0)
    return self.kind.doubts(self.task, sample) if sample.size else []

  def figures(self) -> dict[str, Any]:
    """All of it, for JSON."""
    found = {
      "kind": self.task.kind,
      "unit": self.task.unit,
      "examples_with_labels": self.labelled,
      "valid_share": self.known / self.places if self.places else 0.0,
      "shapes": self.shapes,
      "unusual": self.unusual,
      **self.numbers.figures(),
    }
    if len(self.counts):
      names = self.task.classes or tuple(f"class {i}" for i in range(len(self.counts)))
      found["classes"] = {n: int(c) for n, c in zip(names, self.counts, strict=True)}
    return found


def digests(inputs: types.PyTree) -> Iterator[bytes]:
  """A short number of every example's input: equal where inputs are equal.

  Args:
    inputs: an array `[B, ...]` or a mapping of such.
  """
  leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(inputs)]
  for i in range(len(leaves[0])):
    digest = hashlib.blake2b(digest_size=16)
    for leaf in leaves:
      digest.update(leaf[i].data if leaf.ndim > 1 else leaf[i].tobytes())
    yield digest.digest()


def numbers_of(inputs: types.PyTree) -> np.ndarray:
  """Inputs as numbers `[..., C]`; of a table the numeric columns.

  Of series with lengths the steps before their end, `[steps, C]`.
  """
  if not isinstance(inputs, Mapping):
    return np.asarray(inputs)
  if "length" not in inputs:
    return np.asarray(inputs["numeric"])
  series = np.asarray(inputs["series"])
  steps = np.arange(series.shape[1])[None]
  return series[steps < np.asarray(inputs["length"])[:, None]]
