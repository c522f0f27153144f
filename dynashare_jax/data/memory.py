"""Splits in memory: their rows one by one, and whole splits that are made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import threading
from typing import Any, TypeVar

import jax
import numpy as np

from dynashare_jax import types

_Source = TypeVar("_Source", bound=Sequence[types.Batch])


class Rows(Sequence[types.Batch]):
  """The examples of one batch, which is made when it is first asked for."""

  def __init__(self, make: Callable[[], types.Batch]) -> None:
    self._make = make

  @functools.cached_property
  def batch(self) -> types.Batch:
    """All examples."""
    return self._make()

  def __len__(self) -> int:
    return len(self.batch.present)

  def __getitem__(self, index: Any) -> Any:
    picked: types.Batch = jax.tree.map(lambda leaf: leaf[index], self.batch)
    return Rows(lambda: picked) if isinstance(index, slice) else picked


def stack(source: Sequence[types.Batch]) -> types.Batch:
  """Returns all examples of a source as one batch, each read straight into its place."""
  first = source[0]
  result: types.Batch = jax.tree.map(
    lambda leaf: np.empty((len(source), *np.shape(leaf)), np.asarray(leaf).dtype), first
  )
  leaves = jax.tree.leaves(result)
  for i in range(len(source)):
    for whole, part in zip(leaves, jax.tree.leaves(source[i]), strict=True):
      whole[i] = part
  return result


def pick(name: str, sources: Mapping[str, _Source], split: str) -> _Source:
  """Returns the source of a split.

  Raises:
    ValueError: the data set called `name` has no such split.
  """
  if split not in sources:
    raise ValueError(f"There is no split {split!r}; {name} has {', '.join(sources)}.")
  return sources[split]


def dataset(
  spec: types.DatasetSpec,
  sources: Mapping[str, _Source],
  whole: Callable[[_Source], types.Batch] = stack,
  augment: Any = None,
) -> types.Dataset:
  """Returns a data set of the sources of its splits.

  Args:
    sources: split -> random access to its examples.
    whole: makes one batch of a source; asked once per split, and kept.
  """
  kept: dict[str, types.Batch] = {}
  lock = threading.Lock()

  def arrays(split: str) -> types.Batch:
    source = pick(spec.name, sources, split)
    with lock:
      if split not in kept:
        kept[split] = whole(source)
      return kept[split]

  return types.Dataset(spec, arrays, functools.partial(pick, spec.name, sources), augment)
