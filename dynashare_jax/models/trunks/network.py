"""A trunk and one head per task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

from flax import linen as nn
import jax

from dynashare_jax.models import series
from dynashare_jax.models.trunks import contract


class Network(nn.Module):
  """A trunk and one head per task.

  Attributes:
    trunk: gives every task its features.
    heads: one per task, in the tasks' order.
    names: the tasks.
    rows: places of the tasks among the trunk's features; empty: all, in order.
  """

  trunk: Any
  heads: tuple[nn.Module, ...]
  names: tuple[str, ...]
  rows: tuple[int, ...] = ()

  def __call__(
    self, inputs: Any, control: Any, train: bool
  ) -> tuple[dict[str, jax.Array], contract.Signals]:
    """Computes every task's logits (float32) and the trunk's signals."""
    features, signals = self.features(inputs, control, train)
    return self.logits(features, inputs, train), signals

  def features(
    self, inputs: Any, control: Any, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Computes what every head reads, and the trunk's signals."""
    features, signals = self.trunk(inputs, control, train)
    return [features[r] for r in self.rows] if self.rows else features, signals

  def logits(self, features: Sequence[Any], inputs: Any, train: bool) -> dict[str, jax.Array]:
    """Computes every task's logits (float32) from its features."""
    steps = series.steps_of(inputs)
    more = () if steps is None else (steps,)
    return {
      name: head(x, train, *more)
      for name, head, x in zip(self.names, self.heads, features, strict=True)
    }

  @nn.nowrap
  def begin(self, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fresh parameters as training begins with them."""
    return {**params, "trunk": self.trunk.begin(params["trunk"])}

  @nn.nowrap
  def leaves(self) -> Mapping[str, contract.Leaf]:
    """Returns the rules of the trunk, and those of the heads."""
    rules = {f"trunk/{prefix}": leaf for prefix, leaf in self.trunk.leaves().items()}
    return rules | {f"heads_{t}": contract.Leaf("heads", t) for t in range(len(self.heads))}

  @nn.nowrap
  def lean(self, structure: Any) -> tuple[Network, Callable[[str, Any], Any]] | None:
    """Returns a smaller network for a finished structure, and what it keeps of a leaf, if any."""
    if (found := self.trunk.lean(structure)) is None:
      return None
    trunk, cut = found

    def kept(path: str, leaf: Any) -> Any:
      part, _, rest = path.partition("/")
      return cut(rest, leaf) if part == "trunk" else leaf

    return self.clone(trunk=trunk), kept

  @nn.nowrap
  def only(self, tasks: Sequence[int]) -> tuple[Network, Callable[[str], str | None]]:
    """Returns the network of some tasks, and the new `/`-joined path of a leaf it keeps.

    Where the trunk cannot be cut it stays whole, and the other tasks' features are not read.
    """
    tasks = tuple(tasks)
    new = {f"heads_{t}": f"heads_{place}" for place, t in enumerate(tasks)}
    found = self.trunk.only(tasks)
    trunk, rows = self.trunk, tuple(self.rows[t] for t in tasks) if self.rows else tasks
    if found is not None:
      trunk, rows = found[0], ()
      new |= {f"trunk/{old}": f"trunk/{name}" for old, name in found[1].items()}
    else:
      new |= {p: p for p in self.leaves() if p.startswith("trunk/")}
    cut = Network(
      trunk, tuple(self.heads[t] for t in tasks), tuple(self.names[t] for t in tasks), rows
    )
    return cut, functools.partial(_renamed, tuple(self.leaves()), new)


def _renamed(prefixes: tuple[str, ...], new: Mapping[str, str], path: str) -> str | None:
  """The new path of a leaf; None where it is dropped."""
  prefix = contract.longest(prefixes, path)
  return new[prefix] + path[len(prefix) :] if prefix is not None and prefix in new else None
