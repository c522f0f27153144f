"""One whole backbone per task: single-task networks, trained side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import operator
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import backbones
from dynashare_jax.models import series
from dynashare_jax.models.trunks import contract
from dynashare_jax.ops import routing


class ColumnTrunk(contract.Trunk):
  """One whole backbone per task; every block is executed.

  Attributes:
    columns: one backbone per task.
  """

  columns: tuple[Any, ...]
  own_norms = True

  @property
  def units(self) -> int:
    """Blocks of one backbone."""
    return int(self.columns[0].num_blocks)

  @nn.nowrap
  def leaves(self) -> Mapping[str, contract.Leaf]:
    """Returns one rule per column: its task owns it."""
    return {f"columns_{t}": contract.Leaf("backbone", t) for t in range(len(self.columns))}

  @nn.nowrap
  def only(self, tasks: Sequence[int]) -> tuple[contract.Trunk, Mapping[str, str]]:
    """Returns the columns of some tasks."""
    names = {f"columns_{t}": f"columns_{place}" for place, t in enumerate(tasks)}
    return ColumnTrunk(tuple(self.columns[t] for t in tasks)), names

  @nn.nowrap
  def shown(self) -> Any:
    """Returns the first column; all are alike."""
    return self.columns[0]

  def __call__(
    self, inputs: Any, control: Any, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs every column on the same inputs; refuses a `control` that skips a block."""
    if any(mode != routing.RUN for row in getattr(control, "modes", ()) for mode in row):
      raise ValueError("Single-task networks execute every block: their routing is `all_run`.")
    inputs, rows = contract.unlabelled(inputs)
    whole = backbones.Pass(train, jnp.ones((1,)), series.steps_of(inputs))
    features = []
    for task, column in enumerate(self.columns):
      pass_ = whole if rows is None else whole._replace(rows=rows[task : task + 1])
      x = column.stem(inputs, pass_)
      for block in range(column.num_blocks):
        residual = column.shortcut(block, x, pass_)
        x = column.merge(residual, column.branch(block, x, pass_))
      features.append(jax.tree.map(operator.itemgetter(0), column.final(x)))
    batch = jax.tree.leaves(features)[0].shape[0]
    return features, contract.Signals(jnp.ones((len(self.columns), batch, self.units)))
