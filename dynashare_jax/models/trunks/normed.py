"""One backbone whose weights all tasks share, and whose norms are each task's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import norm
from dynashare_jax.models.backbones import base
from dynashare_jax.models.trunks import contract


class NormedTrunk(contract.Trunk):
  """One backbone with `models.norm.TaskNorm`, which every task runs on the whole batch.

  In training a task's norms read the rows that have a label of it, and no others.

  Attributes:
    backbone: shared by all tasks but for the norms.
    tasks: how many there are norms of.
    kept: those whose features are computed, at test; empty: all.
  """

  backbone: Any
  tasks: int
  kept: tuple[int, ...] = ()
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

  @nn.nowrap
  def only(self, tasks: Sequence[int]) -> tuple[contract.Trunk, Mapping[str, str]]:
    """Returns the trunk that runs some tasks alone; leaves stay those of all."""
    read = self.kept or tuple(range(self.tasks))
    return self.clone(kept=tuple(read[t] for t in tasks)), {"backbone": "backbone"}

  def __call__(
    self, inputs: Any, control: Any, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs all blocks, with a group for every task from the first norm on."""
    del control
    inputs, rows = contract.unlabelled(inputs)
    count = len(self.kept) or self.tasks
    pass_ = base.Pass(train, jnp.ones((count,)), rows=rows)
    run: Any = _features
    if self.kept:
      picked = functools.partial(jax.tree_util.tree_map_with_path, self._picked)
      run = nn.map_variables(_features, ("params", "batch_stats"), picked)
    features = base.of_groups(run(self.backbone, inputs, pass_))
    batch = jax.tree.leaves(features)[0].shape[0]
    return features, contract.Signals(jnp.ones((count, batch, self.units)))

  @nn.nowrap
  def _picked(self, path: Any, leaf: jax.Array) -> jax.Array:
    """A leaf as the kept tasks have it."""
    of_tasks = any(getattr(name, "key", "") == norm.TASKS for name in path)
    return leaf[jnp.asarray(self.kept)] if of_tasks else leaf


def _features(backbone: Any, inputs: Any, pass_: base.Pass) -> Any:
  """What heads read, of all groups."""
  return backbone.final(backbone.features(inputs, pass_)[-1])
