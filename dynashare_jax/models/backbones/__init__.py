"""Backbones: a stem, residual blocks and their shortcuts, one file a family.

A file `<name>.py` has `build(config, spec, dtype) -> nn.Module`. The module has
`num_blocks` and the methods `stem(inputs, pass_)`, `shortcut(block, x, pass_)`,
`branch(block, x, pass_)`, `merge(residual, z)` and `final(x)`; features are
`[G, B, ..., C]` with G groups of tasks that share a computation. Where
`spec.lengths` says that inputs are series of different lengths, it is causal,
and keeps padding out of batch statistics (`Pass.mask`).
"""

from __future__ import annotations

from collections.abc import Callable
import importlib
import pkgutil
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dynashare_jax import lookup
from dynashare_jax.models import series


class Pass(NamedTuple):
  """What every layer must know of the forward pass.

  Attributes:
    train: dropout on, batch statistics in use.
    updates: `[G]`, a group's part of one update of the running averages: the
      fraction of all tasks that it stands for, 0 if they skip the layer.
    steps: of series of different lengths; else None.
  """

  train: bool
  updates: jax.Array
  steps: series.Steps | None = None

  def mask(self, x: jax.Array) -> jax.Array | None:
    """Which steps of features `[G, B, time, C]` count; None: all."""
    return None if self.steps is None else self.steps.mask(x.shape[2])


def available() -> tuple[str, ...]:
  """Names of the backbones that a config can choose."""
  return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def find(name: str) -> ModuleType:
  """Returns the module of a backbone family.

  Raises:
    ValueError: there is no such backbone; names the nearest.
  """
  names = available()
  if name not in names:
    raise ValueError(
      f"Unknown backbone {name!r} in config.model.backbone."
      f"{lookup.hint(name, names)} Available: {', '.join(names)}."
    )
  return importlib.import_module(f"{__name__}.{name}")


def each_group(layer: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  """Applies a layer of `[B, ..., C]` to every group of `[G, B, ..., C]`.

  On a CPU one after the other, which was measured faster; elsewhere in one
  call. There the examples come first in the merged axis: they are what devices
  split, and a merged axis keeps the split of its first part only. With groups
  first, every device would gather and compute the whole batch.
  """
  groups, batch = x.shape[:2]
  if groups == 1 or jax.default_backend() == "cpu":
    # One split: every `x[g]` would have a gradient of the size of x.
    parts = jax.lax.split(x, [1] * groups)
    return jnp.stack([layer(part[0]) for part in parts])
  x = x.swapaxes(0, 1).reshape((batch * groups,) + x.shape[2:])
  x = layer(x)
  return x.reshape((batch, groups) + x.shape[1:]).swapaxes(0, 1)


def count_blocks(config: Any) -> int:
  """Blocks of all segments of `config.model` together.

  Raises:
    ValueError: none.
  """
  count = sum(config.blocks)
  if count < 1:
    raise ValueError(
      f"config.model.blocks must add up to at least 1, but is {tuple(config.blocks)}."
    )
  return count
