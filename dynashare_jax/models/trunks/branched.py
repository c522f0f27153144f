"""One column of blocks per task; every column reads one of all columns, block by block: a tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import series
from dynashare_jax.models.backbones import base
from dynashare_jax.models.trunks import contract

Tree = tuple[tuple[int, ...], ...]


class Choice(NamedTuple):
  """Which column each column reads at each block; one of the two.

  Attributes:
    tree: `tree[block][column]`, known when a pass is compiled: what no task needs is not computed.
    weights: `[L, K, K]`, mixtures of all columns for every column; rows sum to 1.
  """

  tree: Tree | None
  weights: jax.Array | None = None


class BranchedTrunk(contract.Trunk):
  """One backbone per task, cut into blocks whose inputs are chosen among all columns.

  Task t reads the last block of column t. Its input is that of its parent, and so on to the inputs:
  tasks whose columns have one ancestor share all that lies below it.

  Attributes:
    columns: one backbone per task.
    ends: the columns that are read, one per task.
    aligned: whether all columns start with the weights of the first.

  Source: Guo et al. 2020 (Learning to Branch); Brueggemann et al. 2020.
  """

  columns: tuple[Any, ...]
  ends: tuple[int, ...]
  aligned: bool = True

  @property
  def units(self) -> int:
    """Blocks of one column."""
    return int(self.columns[0].num_blocks)

  @nn.nowrap
  def leaves(self) -> Mapping[str, contract.Leaf]:
    """Returns the rule of the columns: any task may use any of them."""
    return {"columns": contract.Leaf("backbone")}

  @nn.nowrap
  def only(self, tasks: Sequence[int]) -> tuple[contract.Trunk, Mapping[str, str]]:
    """Returns the trunk whose other ends are not read; the tree says what they need."""
    return self.clone(ends=tuple(self.ends[t] for t in tasks)), {"columns": "columns"}

  @nn.nowrap
  def begin(self, params: Any) -> Any:
    """Returns parameters in which all columns are alike, if they are to be."""
    return contract.alike(params, "columns") if self.aligned else params

  def __call__(
    self, inputs: Any, control: Choice, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs the columns, or of a tree those blocks that some task needs."""
    pass_ = base.Pass(train, jnp.ones((1,)), series.steps_of(inputs))
    needed = _needed(control.tree or (range(len(self.columns)),) * self.units, self.ends)
    if control.tree is None:
      needed = [tuple(range(len(self.columns)))] * (self.units + 1)
    x = {k: self.columns[k].stem(inputs, pass_) for k in needed[0]}
    for block, here in enumerate(needed[1:]):
      read = {k: _read(control, block, k, x) for k in here}
      x = {k: _run(self.columns[k], block, read[k], pass_) for k in here}
    features = [self.columns[k].final(x[k])[0] for k in self.ends]
    executed = jnp.ones((len(features), features[0].shape[0], self.units))
    return features, contract.Signals(executed)


def _run(column: Any, block: int, x: Any, pass_: base.Pass) -> Any:
  """A block of a column."""
  return column.merge(column.shortcut(block, x, pass_), column.branch(block, x, pass_))


def _read(control: Choice, block: int, column: int, x: Mapping[int, Any]) -> Any:
  """The input of a column's block."""
  if control.tree is not None:
    return x[control.tree[block][column]]
  assert control.weights is not None
  weights = control.weights[block, column]
  mixed = lambda *leaves: sum(w * a for w, a in zip(weights, leaves, strict=True)).astype(
    leaves[0].dtype
  )
  return jax.tree.map(mixed, *x.values())


def _needed(tree: Sequence[Sequence[int]], ends: Sequence[int]) -> list[tuple[int, ...]]:
  """The columns that are needed of the stem, and of every block."""
  found = [tuple(sorted(set(ends)))]
  for parents in reversed(tree):
    found.append(tuple(sorted({parents[k] for k in found[-1]})))
  return found[::-1]


def paths(tree: Sequence[Sequence[int]], ends: Sequence[int]) -> list[list[int]]:
  """Returns for every end the columns whose blocks it runs, from the first block to the last."""
  found = []
  for column in ends:
    path = [column]
    for parents in tree[:0:-1]:
      path.append(parents[path[-1]])
    found.append(path[::-1])
  return found
