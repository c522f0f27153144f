"""Backbones: a stem, residual blocks and their shortcuts, one file a family.

A file `<name>.py` has `build(config, spec, dtype) -> nn.Module`. The module has
`num_blocks` and the methods `stem(inputs, pass_)`, `shortcut(block, x, pass_)`,
`branch(block, x, pass_)`, `merge(residual, z)` and `final(x)`; features are
`[G, B, ..., C]` with G groups of tasks that share a computation.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import NamedTuple

import jax

from dynashare_jax import lookup


class Pass(NamedTuple):
  """What every layer must know of the forward pass.

  Attributes:
    train: dropout on, batch statistics in use.
    updates: `[G]`, a group's part of one update of the running averages: the
      fraction of all tasks that it stands for, 0 if they skip the layer.
  """

  train: bool
  updates: jax.Array


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
