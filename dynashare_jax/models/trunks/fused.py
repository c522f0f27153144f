"""One backbone per task, whose features are fused after blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import fusions
from dynashare_jax.models import series
from dynashare_jax.models.backbones import base
from dynashare_jax.models.trunks import contract


class FusedColumnTrunk(contract.Trunk):
  """One backbone per task, in step; at some places every column reads all of them.

  Every task needs all columns, whichever tasks have labels.

  Attributes:
    columns: one backbone per task.
    fuse: of the stem, then of every block: what fuses the columns' features after it, or None.
    layers: mixes the features after the last blocks for the heads, or None.
    mixed: how many last blocks it mixes.
    aligned: whether all columns start with the weights of the first, so that a channel means the
      same in all of them.
    orthogonal: weight of a penalty on what the halves of the last layer of every block have in
      common; 0: none.

  Source: Misra et al. 2016; Ruder et al. 2019; Gao et al. 2019, as AdaShare's tables have them.
  """

  columns: tuple[Any, ...]
  fuse: tuple[Any, ...]
  layers: Any = None
  mixed: int = 1
  aligned: bool = True
  orthogonal: float = 0.0

  @property
  def units(self) -> int:
    """Blocks of one backbone."""
    return int(self.columns[0].num_blocks)

  @nn.nowrap
  def leaves(self) -> Mapping[str, contract.Leaf]:
    """Returns the rules of columns, which all tasks use, and of what fuses them."""
    backbone, fusion = contract.Leaf("backbone"), contract.Leaf("fusion")
    return {"columns": backbone, "fuse": fusion, "layers": fusion}

  @nn.nowrap
  def begin(self, params: Any) -> Any:
    """Returns parameters in which all columns are alike, if they are to be."""
    return contract.alike(params, "columns") if self.aligned else params

  def __call__(
    self, inputs: Any, control: Any, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs all columns block by block."""
    del control
    pass_ = base.Pass(train, jnp.ones((1,)), series.steps_of(inputs))
    x = self._fused(0, [column.stem(inputs, pass_) for column in self.columns], pass_)
    places = [x]
    for block in range(self.units):
      run = lambda c, x, b=block: c.merge(c.shortcut(b, x, pass_), c.branch(b, x, pass_))
      x = self._fused(block + 1, [run(c, a) for c, a in zip(self.columns, x, strict=True)], pass_)
      places.append(x)
    if self.layers is not None:
      x = self.layers(places[-self.mixed :])
    features = [column.final(a)[0] for column, a in zip(self.columns, x, strict=True)]
    executed = jnp.ones((len(features), features[0].shape[0], self.units))
    charges = {"orthogonal": self.orthogonal * self._overlap()} if self.orthogonal else {}
    return features, contract.Signals(executed, charges)

  def _fused(self, place: int, x: list[jax.Array], pass_: base.Pass) -> list[jax.Array]:
    """The columns' features after the stem (place 0) or a block."""
    return x if self.fuse[place] is None else self.fuse[place](x, pass_)

  def _overlap(self) -> jax.Array:
    """What the halves of every block's last layer have in common, summed over columns."""
    found = []
    for column in self.columns:
      for block in range(self.units):
        weights = column.variables["params"]
        for name in column.layers(block)[-1].name.split("/"):
          weights = weights[name]
        found.append(fusions.overlap(weights["kernel"]))
    return jnp.stack(found).sum()
