"""Kinds of tasks: one file with one class each, found by the file's name.

`base.Kind` is the contract. A new file is a new kind; the contract tests find it.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from dynashare_jax import lookup
from dynashare_jax.objectives.kinds import base

METRICS = ("pooled", "authors")  # values of TaskSpec.metrics


def available() -> tuple[str, ...]:
  """Lists the names of all kinds, sorted."""
  names = (module.name for module in pkgutil.iter_modules(__path__))
  return tuple(sorted(name for name in names if name != "base"))


@functools.cache
def find(kind: str) -> base.Kind:
  """Finds a kind by `TaskSpec.kind`, for example `segmentation`.

  Returns:
    The object of the class `Segmentation` of the file `segmentation.py`.

  Raises:
    ValueError: there is no such file.
  """
  lookup.one_of("the kind of a task", kind, available())
  module = importlib.import_module(f"{__name__}.{kind}")
  found: base.Kind = getattr(module, kind.title().replace("_", ""))()
  return found


def dense(kind: str) -> base.Dense:
  """Finds a kind whose tasks have labels of pixels.

  Raises:
    ValueError: there is no such kind, or its tasks have none.
  """
  found = find(kind)
  if not isinstance(found, base.Dense):
    raise ValueError(f"tasks of the kind {kind!r} have no pixels.")
  return found
