"""Backbones: a stem, residual blocks and their shortcuts, one file per family.

A file `<name>.py` has `build(config, spec, dtype) -> Backbone`, see `base`. Where `spec.lengths`
says that inputs are series of different lengths, the network is causal, and keeps padding out of
batch statistics (`Pass.mask`). A file may have `PRETRAINED`, see `base.Pretrained`.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from dynashare_jax import lookup
from dynashare_jax.models.backbones import base

Backbone, Layer, Pass, each_group = base.Backbone, base.Layer, base.Pass, base.each_group


def available() -> tuple[str, ...]:
  """Returns the names of the backbones that a config can choose."""
  return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base"))


def find(name: str) -> ModuleType:
  """Returns the module of a backbone family.

  Raises:
    ValueError: there is no such backbone; names the nearest.
  """
  name = lookup.one_of("config.model.backbone", name, available())
  return importlib.import_module(f"{__name__}.{name}")
