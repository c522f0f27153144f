"""Examples that worker processes can read; importable by its own name."""

from __future__ import annotations

import numpy as np

from dynashare_jax import types


def read(key: str) -> dict[str, np.ndarray]:
  """Raw fields of the example called `key`, a number; 13 is damaged."""
  if key == "13":
    raise OSError("cannot read 13.png")
  rng = np.random.default_rng(int(key))
  return {
    "image": rng.integers(0, 256, (10, 12, 3)).astype(np.uint8),
    "depth": rng.uniform(1, 5, (10, 12)).astype(np.float32),
  }


def decode(fields: dict[str, np.ndarray]) -> types.Batch:
  """The example; depths above 4.5 are no labels."""
  depth = fields["depth"]
  return types.Batch(
    fields["image"].astype(np.float32) / 255,
    {"depth": depth},
    {"depth": depth < 4.5},
    np.ones((), bool),
  )


def vary(example: types.Batch, place: int) -> types.Batch:
  """Adds the place to the depths."""
  return example._replace(targets={"depth": example.targets["depth"] + place})
