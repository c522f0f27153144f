"""Balancers: how the losses of several tasks, or their gradients, become one update.

A file `<name>.py` is a balancer: its `build(tasks)` returns a `Balancer`, functions and a state as
in Optax. A balancer sees one of three things (its `level`):

* `losses`: the task losses alone; the step costs what it costs without a balancer,
* `gramian`: beside them the inner products `[T, T]` of the tasks' gradients in what they share,
* `gradients`: those gradients themselves.

Only what tasks share (leaves without an owner, but for gates and policy) is moved by weighed
gradients; a head moves by its own task's loss times the task's weight in the configuration, and
penalties are added with weight 1.
"""

from __future__ import annotations

from collections.abc import Callable
import importlib
import pkgutil
from typing import Any, NamedTuple

import jax

from dynashare_jax import lookup
from dynashare_jax import types

LEVELS = ("losses", "gramian", "gradients")


class Losses(NamedTuple):
  """The losses of a step.

  Attributes:
    value: `[T]` float32, mean over the valid labels of a task; 0 where it has none.
    labelled: bool `[T]`, whether a task has any label in the batch. One without takes no part.
    prior: the tasks' weights in the configuration (lambda_k of Eq. 6), T floats.
  """

  value: jax.Array
  labelled: jax.Array
  prior: tuple[float, ...]


class Balancer(NamedTuple):
  """A way to balance tasks.

  Attributes:
    name: of its file.
    weigh: `(losses, gramian, key, state) -> (weights, state)`: one weight per task, a sequence of
      floats or `[T]`. `gramian` is float32 `[T, T]`, None at level `losses`; `key` is a function
      of the seed and the step.
    level: what it sees, one of `LEVELS`.
    init: `(T) -> state`, arrays that a checkpoint keeps; it starts anew where an optimiser does.
    combine: at level `gradients`: `(rows, losses, weights, key) -> gradient`, where `rows` has
      one tree of shared gradients per task. None adds the weighed rows.
  """

  name: str
  weigh: Callable[..., tuple[Any, types.PyTree]]
  level: str = "losses"
  init: Callable[[int], types.PyTree] = lambda tasks: {}
  combine: Callable[..., types.PyTree] | None = None


def available() -> tuple[str, ...]:
  """Returns the names of the balancers that a configuration can choose."""
  return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def find(name: str, tasks: int) -> Balancer:
  """Returns a balancer for a number of tasks.

  Raises:
    ValueError: there is none of this name; names the nearest.
  """
  lookup.one_of("config.balance.name", name, available())
  made: Balancer = importlib.import_module(f"{__name__}.{name}").build(tasks)
  return made
