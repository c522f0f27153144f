"""A network small enough to be traced and run in a moment."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
import pytest

from dynashare_jax.models import trunks
from dynashare_jax.models.backbones import mlp
from dynashare_jax.models.backbones import resnet
from dynashare_jax.ops import gumbel
from dynashare_jax.ops import routing

BATCH = 4


@dataclasses.dataclass(frozen=True)
class Tiny:
  """A trunk of three blocks, its inputs and its variables."""

  trunk: trunks.SkipTrunk
  inputs: jax.Array
  variables: dict[str, Any]

  @property
  def blocks(self) -> int:
    return self.trunk.backbone.num_blocks

  @property
  def tasks(self) -> int:
    return self.trunk.tasks

  def noise(self, seed: int = 0) -> jax.Array:
    return gumbel.logistic_noise(
      jax.random.key(seed), jnp.arange(BATCH), (self.tasks, self.blocks)
    )

  def forward(
    self, decisions: trunks.Decisions, train: bool = True, params: Any = None
  ) -> tuple[jax.Array, trunks.Signals, Any]:
    """Features `[T, B, ...]`, signals, and the new running averages."""
    variables = dict(self.variables)
    if params is not None:
      variables["params"] = params
    (features, signals), changed = self.trunk.apply(
      variables, self.inputs, decisions, train, mutable=["batch_stats"]
    )
    return jnp.stack(features), signals, changed.get("batch_stats", {})

  def value(
    self, decisions: trunks.Decisions, weights: jax.Array
  ) -> dict[str, Any]:
    """All that training sees: features, gradients, statistics, signals."""

    def loss(params: Any, policy: Any) -> Any:
      features, signals, stats = self.forward(
        decisions._replace(policy=policy), params=params
      )
      return jnp.sum(features * weights), (features, signals, stats)

    (_, (features, signals, stats)), grads = jax.value_and_grad(
      loss, (0, 1), has_aux=True
    )(self.variables["params"], decisions.policy)
    return {
      "features": features,
      "signals": signals,
      "stats": stats,
      "grads": grads[0],
      "policy_grads": grads[1],
    }


def _make(
  kind: str = "image",
  tasks: int = 3,
  gated: tuple[bool, ...] = (False, False, False),
  dtype: Any = jnp.float32,
) -> Tiny:
  """A tiny trunk with parameters that are nowhere 0 or 1."""
  if kind == "mlp":
    backbone: Any = mlp.ResidualMlp(3, width=6, hidden=8, dropout=0.0)
    shape: tuple[int, ...] = (BATCH, 5)
  elif kind == "series":
    backbone = resnet.ResNet(1, (1, 2), (4, 6), (1, 2), (1, 2), "series")
    shape = (BATCH, 22, 2)
  else:
    backbone = resnet.ResNet(
      2, (1, 2), (4, 6), (1, 2), (1, 2), "small", dtype=dtype
    )
    shape = (BATCH, 8, 12, 3)
  trunk = trunks.SkipTrunk(backbone, tasks, gated, gate_hidden=5, dtype=dtype)
  inputs = jax.random.normal(jax.random.key(1), shape)
  variables = trunk.init(
    jax.random.key(2), inputs, trunks.Decisions(routing.all_run(3, tasks)),
    False,
  )
  leaves, tree = jax.tree.flatten(variables["params"])
  leaves = [
    0.3 * jax.random.normal(jax.random.key(10 + n), leaf.shape)
    + (1.0 if leaf.ndim == 1 else 0.0)
    for n, leaf in enumerate(leaves)
  ]
  return Tiny(
    trunk, inputs, {**variables, "params": jax.tree.unflatten(tree, leaves)}
  )


@pytest.fixture(scope="session")
def tiny() -> Any:
  """Makes a tiny trunk: `tiny(kind, tasks, gated, dtype)`."""
  return _make
