"""Arrays that a program holds, as a data set: `dynashare_jax.arrays` makes it, and runs name it."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from dynashare_jax import types


def defaults() -> dict[str, Any]:
  """Returns the default values of `config.data`.

  tasks: names, for the record. fingerprint: of inputs, labels and splits, so that a run is resumed
  on no others.
  """
  return {"tasks": (), "fingerprint": ""}


def compat() -> dict[str, Any]:
  """Returns no switches."""
  return {}


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Refuses: nothing on disk has the arrays.

  Raises:
    ValueError: always.
  """
  raise ValueError(
    "This run was trained on arrays in memory, which no file has: hand them over again from Python,"
    " as in dynashare_jax.load(folder).evaluate(data)."
  )
