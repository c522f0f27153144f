"""Sharing methods, one file each: its trunk, its phases and its routes."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from dynashare_jax import lookup


def available() -> tuple[str, ...]:
  """Names of the methods that a config can choose."""
  return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def find(name: str) -> ModuleType:
  """Returns the module of a method.

  Raises:
    ValueError: there is no such method; names the nearest.
  """
  names = available()
  if name not in names:
    raise ValueError(
      f"Unknown method {name!r} in config.method.{lookup.hint(name, names)} Available:"
      f" {', '.join(names)}."
    )
  return importlib.import_module(f"{__name__}.{name}")
