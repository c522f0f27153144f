"""Mappings of a file that describes a data set in folders."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from dynashare_jax.data import description
from dynashare_jax.data.description import shown


@dataclasses.dataclass(frozen=True)
class Part(description.Part):
  """A mapping of the file, and where it stands; wrong values raise `refusal`."""

  @property
  def where(self) -> str:
    """The file and the place in it."""
    return f"{self.file}: {self.place}"

  def mapping(self, key: str) -> Part:
    """Returns the mapping of a key, which must have keys of its own."""
    found = super().mapping(key)
    return Part(found.raw, found.file, found.place)

  def numbers(self, key: str, count: int | None = None) -> tuple[float, ...]:
    """Returns a list of numbers, or of one that stands alone; of `count`, if it is said."""
    alone = count == 1 and description.number_of(self.raw.get(key)) is not None
    return super().numbers(key, None if alone else count)

  def listed(self, key: str) -> tuple[Any, ...]:
    """Returns a list, or one value in place of it; empty where it is not given."""
    value = self.raw.get(key, ())
    return tuple(value) if isinstance(value, list | tuple) else (value,)

  def texts(self, key: str) -> tuple[str, ...]:
    """Returns a list of at least one text, or one in place of it."""
    found = self.listed(key)
    if not found or not all(isinstance(value, str) and value for value in found):
      raise self.refusal(key, f"must be a list of texts, but is {shown(self.raw.get(key))}")
    return found

  def weight(self) -> float:
    """Returns the weight of a task in the total loss."""
    found = self.number("weight", 1.0)
    if not 0 <= found < math.inf:
      raise self.refusal("weight", f"must be at least 0, but is {found:g}")
    return found
