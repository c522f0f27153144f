"""Look-ups by name that tell a mistyped name what it may have meant."""

from __future__ import annotations

from collections.abc import Iterable
import difflib
from typing import Any


def hint(name: object, names: Iterable[str], cutoff: float = 0.6) -> str:
  """` Did you mean 'x'?` with the nearest of `names`, or nothing.

  Args:
    cutoff: how alike they must be, 0 (anything) to 1 (equal).
  """
  near = difflib.get_close_matches(str(name), list(names), 1, cutoff)
  return f" Did you mean {near[0]!r}?" if near else ""


def hint_dotted(name: str, names: Iterable[str]) -> str:
  """As `hint` for a dotted name: spelt nearly so, else called so in other groups, else the nearest.

  `train.lr` names all settings that are called `lr`.
  """
  known = tuple(names)
  if near := hint(name, known, 0.85):
    return near
  last = "." + name.rpartition(".")[2]
  alike = [repr(other) for other in known if ("." + other).endswith(last)]
  if len(alike) > 1:
    return f" Did you mean one of {', '.join(alike)}?"
  return f" Did you mean {alike[0]}?" if alike else hint(name, known)


def one_of(where: str, value: Any, known: Iterable[str]) -> str:
  """Returns `value`, which must be one of `known`.

  Raises:
    ValueError: it is not; names `where` it stands, all that is known, and the nearest.
  """
  names = tuple(known)
  if value not in names:
    raise ValueError(
      f"{where} is {value!r}; it must be one of {', '.join(names)}.{hint(value, names, 0.4)}"
    )
  return str(value)
