"""Checks of `config.data` and `config.compat` that the data sets share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
import math
from typing import Any

from dynashare_jax import lookup


def tasks(title: str, chosen: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
  """Returns `config.data.tasks`, checked.

  Args:
    title: of the data set, for messages.
    known: the tasks of the data set.

  Raises:
    ValueError: an unknown task, one that comes twice, or none.
  """
  for task in chosen:
    if task not in known:
      raise ValueError(
        f"config.data.tasks has {task!r}; {title} has {', '.join(known)}."
        f"{lookup.hint(task, known, 0.4)}"
      )
  if not chosen or len(set(chosen)) < len(chosen):
    raise ValueError(
      f"config.data.tasks is {tuple(chosen)}; name one or more of {', '.join(known)}, each once."
    )
  return tuple(chosen)


def weight(config: Any, task: str) -> float:
  """Returns a task's weight in the total loss, from `config.data.weights`.

  Raises:
    ValueError: there is none.
  """
  if task not in config.weights:
    raise ValueError(f"config.data.weights has no weight of {task!r}.")
  return float(config.weights[task])


def switch(compat: Any, name: str, known: Sequence[str]) -> str:
  """Returns a value of `config.compat`; the first of `known`, where it has none.

  Raises:
    ValueError: another value.
  """
  return lookup.one_of(f"config.compat.{name}", compat.get(name, known[0]), known)


def check_range(field: str, value: float, low: float, high: float = math.inf) -> None:
  """Checks a number of `config.data`.

  Raises:
    ValueError: it is not within `low` and `high`, or not a number.
  """
  if not low <= value <= high:
    limit = f"at least {low}" if high == math.inf else f"from {low} to {high}"
    raise ValueError(f"config.data.{field} is {value}; it must be {limit}.")
