"""One backbone whose weights all tasks share, and whose norms are each task's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models.backbones import base
from dynashare_jax.models.trunks import contract


class NormedTrunk(contract.Trunk):
  """One backbone with `models.norm.TaskNorm`, which every task runs on the whole batch.

  In training a task's norms read the rows that have a label of it, and no others.

  Attributes:
    backbone: shared by all tasks but for the norms.
    tasks: how many.
  """

  backbone: Any
  tasks: int
  own_norms = True

  @property
  def units(self) -> int:
    """Blocks of the backbone."""
    return int(self.backbone.num_blocks)

  @nn.nowrap
  def leaves(self) -> Mapping[str, contract.Leaf]:
    """Returns the rule of the backbone; a leaf of a norm holds all tasks'."""
    return {"backbone": contract.Leaf("backbone")}

  @nn.nowrap
  def weights_of(self) -> tuple[str, ...]:
    """Returns the blocks of the backbone."""
    return tuple(f"backbone/block_{block}" for block in range(self.units))

  def __call__(
    self, inputs: Any, control: Any, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs all blocks, with a group for every task from the first norm on."""
    del control
    inputs, rows = contract.unlabelled(inputs)
    pass_ = base.Pass(train, jnp.ones((self.tasks,)), rows=rows)
    features = base.of_groups(self.backbone.final(self.backbone.features(inputs, pass_)[-1]))
    batch = jax.tree.leaves(features)[0].shape[0]
    return features, contract.Signals(jnp.ones((self.tasks, batch, self.units)))
