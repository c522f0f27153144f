"""What every trunk says of itself: its units, its leaves, and what it can be cut to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import re
from typing import Any, NamedTuple

from flax import linen as nn
import jax


class Signals(NamedTuple):
  """What a trunk returns beside the features.

  Attributes:
    executed: `[T, B, U]` in [0, 1], how much of unit u was executed for task t.
    charges: scalars that the trunk alone can compute, such as a penalty on its mixing weights.
      A `Sharing` weighs them.
    own: what this kind of trunk returns beside, such as the decisions of its gates.
  """

  executed: jax.Array
  charges: Mapping[str, jax.Array] = {}
  own: Any = ()


class Labelled(NamedTuple):
  """A batch's inputs in training, where norms are each task's own.

  Attributes:
    inputs: leading axis B.
    rows: bool `[T, B]`, which rows have a label of a task.
  """

  inputs: Any
  rows: jax.Array


def unlabelled(inputs: Any) -> tuple[Any, jax.Array | None]:
  """Returns a batch's inputs, and the rows of `Labelled` ones."""
  return (inputs.inputs, inputs.rows) if isinstance(inputs, Labelled) else (inputs, None)


class Leaf(NamedTuple):
  """What is known of the leaves below one name of the parameter tree.

  Attributes:
    group: their parameter group; a phase trains groups, an optimiser moves one.
    owner: the one task that they belong to; None where tasks share them.
  """

  group: str
  owner: int | None = None


class Trunk(nn.Module):
  """Turns one input into features for every task; base class of all trunks.

  A trunk defines

  * `units`: how many units it executes or skips (blocks; 1 where nothing is skipped),
  * `leaves() -> {prefix: Leaf}`: for every `/`-joined beginning of a path in its parameters and
    statistics, the group and the owner; the longest beginning counts,
  * `__call__(inputs, control, train) -> (features of every task, Signals)`; features are
    `[B, ..., C]`, and `control` is what the method's `Sharing` decides,

  and, where it can say more, what follows.

  Attributes:
    own_norms: whether norms may be each task's own (`config.model.norm='task'`): then `inputs` are
      `Labelled` in training.
  """

  own_norms = False

  @nn.nowrap
  def begin(self, params: Any) -> Any:
    """Returns fresh parameters as training begins with them; by default as they are."""
    return params

  @nn.nowrap
  def only(self, tasks: Sequence[int]) -> tuple[Trunk, Mapping[str, str]] | None:
    """Returns the trunk of some tasks, and the new name of every prefix of `leaves` it keeps.

    None (the default) means that every task needs the whole trunk.
    """
    del tasks
    return None

  @nn.nowrap
  def lean(self, structure: Any) -> tuple[Trunk, Callable[[str, Any], Any]] | None:
    """Returns a smaller trunk that computes what this one does with a finished structure.

    It is told nothing more. Beside it, what it keeps of a leaf that both have: `(path in the trunk,
    array) -> array`. None (the default): there is none.
    """
    del structure
    return None

  @nn.nowrap
  def common(self, control: Any) -> bool:
    """Returns whether under a control all tasks read the same features; traced."""
    del control
    return False

  @nn.nowrap
  def apart(self, control: Any) -> list[Any] | None:
    """Returns what `only((t,))` is told of every task t, where that saves work; traced.

    None (the default): the gradients of every task's features are to be taken through one pass of
    all tasks. Else each task has a pass of its own. `only` keeps the trunk's names then, and every
    leaf of the signals begins with the axis of the tasks.
    """
    del control
    return None

  @nn.nowrap
  def weights_of(self) -> tuple[str, ...]:
    """Returns the beginning of the paths of every unit's shared weights; none (the default): ()."""
    return ()

  @nn.nowrap
  def shown(self) -> Any:
    """Returns the backbone whose features a description lists; None (the default) lists none."""
    return None


def alike(params: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Returns parameters in which all parts `name_0`, `name_1`, ... have the values of the first."""
  return {
    k: params[f"{name}_0"] if re.fullmatch(rf"{name}_\d+", k) else v for k, v in params.items()
  }


def leaf_of(rules: Mapping[str, Leaf], path: str) -> Leaf | None:
  """Returns what the longest fitting prefix says of a `/`-joined path; None where none fits."""
  prefix = longest(rules, path)
  return None if prefix is None else rules[prefix]


def longest(prefixes: Iterable[str], path: str) -> str | None:
  """Returns the longest prefix of whole names that a path begins with; `a` fits `a_3` too."""
  fits = (p for p in prefixes if re.match(rf"{re.escape(p)}(_\d+)?(/|$)", path))
  return max(fits, key=len, default=None)
