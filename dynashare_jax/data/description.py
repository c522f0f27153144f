"""YAML files that describe data sets: keys that stand once, values checked where they stand."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
import dataclasses
import itertools
import math
import numbers
import os
import pathlib
import reprlib
from typing import Any

import yaml  # type: ignore[import-untyped]

from dynashare_jax import lookup
from dynashare_jax.data import text

_PARTS = 200  # of a value in a message


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
  """The safe loader, which of a key that stands twice takes the last without a word."""

  def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    """Makes a mapping whose keys differ; what `<<` merges may be replaced."""
    lines: dict[Any, int] = {}
    for key_node, _ in node.value:
      key = key_node.value if key_node.tag.endswith(":merge") else self.construct_object(key_node)
      if isinstance(key, Hashable):
        line = key_node.start_mark.line + 1
        if key in lines:
          raise ValueError(f"the key {key!r} stands twice, in lines {lines[key]} and {line}")
        lines[key] = line
    return dict(super().construct_mapping(node, deep))


def read(path: str | os.PathLike[str], keys: Sequence[str], example: str) -> dict[str, Any]:
  """Reads the file that describes a data set.

  Args:
    keys: of a data set of this sort, for messages.
    example: of a file, as messages show it.

  Raises:
    ValueError: there is none, or it is no YAML mapping.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    raise ValueError(f"There is no file {file} that describes the data set. For example:{example}")
  content = text.read(file)
  try:
    found = yaml.load(content, _Loader)
  except (yaml.YAMLError, ValueError, RecursionError) as error:
    raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}.") from error
  if not isinstance(found, dict):
    raise ValueError(f"{file} must hold the keys {', '.join(keys)}. For example:{example}")
  return found


@dataclasses.dataclass(frozen=True)
class Part:
  """A mapping of the file, and where it stands."""

  raw: Mapping[str, Any]
  file: str
  place: str

  @property
  def where(self) -> str:
    """The file and the place in it."""
    return f"{self.file}: {self.place}"

  def refusal(self, key: Any, why: str, hint: str = "") -> ValueError:
    """Makes the error that a key's value is wrong, for `why`, without a full stop."""
    return ValueError(f"{self.file}: {self._path(key)}: {why}.{hint}")

  def _path(self, key: Any) -> str:
    name = str(key) if str(key).isprintable() else repr(key)
    return f"{self.place}.{name}" if self.place else name

  def check_keys(self, known: Sequence[str], of: str = "") -> None:
    """Refuses other keys than those known (` for a depth task`, where `of` says so)."""
    for key in self.raw:
      if key not in known:
        raise ValueError(
          f"{self.file}: {self._path(key)} is unknown{of}."
          f"{lookup.hint(key, known)} Known are {', '.join(known)}."
        )

  def mapping(self, key: str) -> Part:
    """Returns the mapping of a key, which must have keys of its own."""
    value = self.raw.get(key)
    if not isinstance(value, dict) or not value:
      raise self.refusal(key, f"must be a mapping with at least one key, but is {shown(value)}")
    return Part(dict(value), self.file, self._path(key))

  def tasks(self) -> dict[str, Part]:
    """Returns the mappings of `tasks`, by name, which may have no key; or a list of names alone."""
    listed = self.raw.get("tasks")
    if isinstance(listed, list) and listed and all(isinstance(name, str) for name in listed):
      tasks = Part({name: {} for name in listed}, self.file, self._path("tasks"))
    else:
      tasks = self.mapping("tasks")
    found = {}
    for name, raw in dict[Any, Any](tasks.raw).items():
      if not str(name).isidentifier() or isinstance(name, bool) or name in ("image", "total"):
        raise tasks.refusal(
          name,
          "a task's name has letters, digits and _, begins with no digit, and is not image or"
          f" total; the column may have another name: {{label: {{column: {name}}}}}",
        )
      if not isinstance(raw or {}, dict):
        raise tasks.refusal(name, f"must be a mapping as {{}}, but is {shown(raw)}")
      found[str(name)] = Part(dict(raw or {}), self.file, f"{tasks.place}.{name}")
    return found

  def text(self, key: str, default: str | None = None) -> str:
    """Returns a text; without a default it must be there, and not be empty."""
    value = self.raw.get(key, default)
    if not isinstance(value, str) or (not value and default is None):
      raise self.refusal(key, f"must be a text, but is {shown(value)}{quoted(value)}")
    return str(value)

  def line(self, key: str, default: str | None = None) -> str:
    """Returns a text in one line, as paths and formats are."""
    value = self.text(key, default)
    if not value.isprintable():
      raise self.refusal(key, f"must be a text in one line, but is {shown(value)}")
    return value

  def number(self, key: str, default: float) -> float:
    """Returns a finite number."""
    value = self.raw.get(key, default)
    found = number_of(value)
    if found is None or math.isinf(found):
      raise self.refusal(key, f"must be a finite number, but is {shown(value)}")
    return found

  def whole(self, key: str, default: int, least: int, most: int = 2**53) -> int:
    """Returns a whole number of some range."""
    value = self.number(key, default)
    if value != math.floor(value) or not least <= value <= most:
      wanted = f"from {least} to {most}" if most < 2**53 else f"of at least {least}"
      raise self.refusal(key, f"must be a whole number {wanted}, but is {value:g}")
    return int(value)

  def numbers(self, key: str, count: int | None = None) -> tuple[float, ...]:
    """Returns a list of numbers, or of one that stands alone; of `count`, if it is said."""
    value = self.raw.get(key, [])
    if count in (None, 1) and number_of(value) is not None:
      value = [value]
    found = [number_of(v) for v in value] if isinstance(value, list | tuple) else [None]
    good = tuple(number for number in found if number is not None)
    if len(good) < len(found):
      raise self.refusal(key, f"must be a list of numbers, but is {shown(value)}")
    if key in self.raw and count not in (None, len(good)):
      raise self.refusal(key, f"must have {count} numbers, but has {len(good)}")
    return good

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

  def choice(self, key: str, allowed: Sequence[Any]) -> Any:
    """Returns one of some values, by default the first."""
    value = self.raw.get(key, allowed[0])
    if not any(value is a or (value == a and isinstance(a, str)) for a in allowed):
      names = [str(a).lower() if isinstance(a, bool) else a for a in allowed]
      why = f"must be one of {', '.join(names)}, but is {shown(value)}"
      raise self.refusal(key, why, lookup.hint(value, names))
    return value


def number_of(value: Any) -> float | None:
  """Returns a number, never NaN, or None; YAML takes 1e-3, without a point, for a text."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
    return None
  try:
    found = float(value)
  except (ValueError, OverflowError):
    return None
  return None if math.isnan(found) else found


def quoted(value: Any) -> str:
  """Returns the advice to quote a word that YAML takes for true or false; nothing for others."""
  values = value if isinstance(value, list | tuple) else [value]
  if not any(isinstance(v, bool) for v in values):
    return ""
  return ": YAML reads yes, no, on and off so; put the word in quotes"


def _is_large(value: Any) -> bool:
  """Whether a value has more than some parts: anchors make huge ones of a few lines."""
  parts, seen = [value], 0
  while parts and seen < _PARTS:
    part, seen = parts.pop(), seen + 1
    if isinstance(part, dict):
      parts += itertools.chain.from_iterable(itertools.islice(part.items(), _PARTS))
    elif isinstance(part, list | tuple):
      parts += part[:_PARTS]
  return bool(parts)


def shown(value: Any) -> str:
  """Returns a value for a message, cut where it is long."""
  text = "missing" if value is None else (reprlib.repr if _is_large(value) else repr)(value)
  return text if len(text) < 60 else f"{text[:56]} ..."
