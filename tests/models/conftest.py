"""A network small enough to be traced and run in a moment."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.models.backbones import mlp
from dynashare_jax.models.backbones import resnet
from dynashare_jax.models.trunks import contract as trunk_contract
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import gumbel
from dynashare_jax.ops import routing

BATCH = 4


@dataclasses.dataclass(frozen=True)
class Tiny:
  """A trunk of three blocks, its inputs and its variables."""

  trunk: skip_trunk.SkipTrunk
  inputs: jax.Array
  variables: dict[str, Any]

  @property
  def blocks(self) -> int:
    return self.trunk.backbone.num_blocks

  @property
  def tasks(self) -> int:
    return self.trunk.tasks

  def noise(self, seed: int = 0) -> jax.Array:
    return gumbel.logistic_noise(jax.random.key(seed), jnp.arange(BATCH), (self.tasks, self.blocks))

  def forward(
    self, decisions: skip_trunk.Decisions, train: bool = True, params: Any = None
  ) -> tuple[jax.Array, trunk_contract.Signals, Any]:
    """Features `[T, B, ...]`, signals, and the new running averages."""
    variables = dict(self.variables)
    if params is not None:
      variables["params"] = params
    frozen, moving = _split(decisions)
    return _jitted_forward(self.trunk, frozen, train, variables, self.inputs, moving)

  def value(self, decisions: skip_trunk.Decisions, weights: jax.Array) -> dict[str, Any]:
    """All that training sees: features, gradients, statistics, signals."""
    frozen, moving = _split(decisions)
    return _value(self.trunk, frozen, self.variables, self.inputs, moving, weights)


def _split(decisions: skip_trunk.Decisions) -> tuple[Any, Any]:
  """What is known when a pass is compiled, and the arrays."""
  arrays = {k: getattr(decisions, k) for k in ("policy", "noise", "threshold")}
  frozen = decisions._replace(policy=None, noise=None, threshold=None)
  return frozen, arrays


# Compiling takes most of the time of these tests.
QUICK = {"xla_backend_optimization_level": 0}


def _forward(trunk: Any, frozen: Any, train: bool, variables: Any, inputs: Any, moving: Any) -> Any:
  (features, signals), changed = trunk.apply(
    variables, inputs, frozen._replace(**moving), train, mutable=["batch_stats"]
  )
  return jnp.stack(features), signals, changed.get("batch_stats", {})


_jitted_forward = jax.jit(_forward, static_argnums=(0, 1, 2), compiler_options=QUICK)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _value(
  trunk: Any, frozen: Any, variables: Any, inputs: Any, moving: Any, weights: Any
) -> dict[str, Any]:
  def loss(params: Any, policy: Any) -> Any:
    features, signals, stats = _forward(
      trunk, frozen, True, variables | {"params": params}, inputs, moving | {"policy": policy}
    )
    return jnp.sum(features * weights), (features, signals, stats)

  grads, (features, signals, stats) = jax.grad(loss, (0, 1), has_aux=True)(
    variables["params"], moving["policy"]
  )
  return {
    "features": features,
    "signals": signals,
    "stats": stats,
    "grads": grads[0],
    "policy_grads": grads[1],
  }


@functools.cache
def _make(
  kind: str = "image",
  tasks: int = 3,
  gated: tuple[bool, ...] | None = None,
  dtype: Any = jnp.float32,
) -> Tiny:
  """A tiny trunk with parameters that are nowhere 0 or 1.

  Its last block but one changes the features' shape. A trunk has a block for
  every entry of `gated`: two (`short` only) or three.
  """
  if kind == "mlp":
    backbone: Any = mlp.ResidualMlp(3, width=6, hidden=8, dropout=0.0)
    shape: tuple[int, ...] = (BATCH, 5)
  elif kind == "short":
    backbone = resnet.ResNet(1, (1, 1), (4, 6), (1, 2), (1, 2), "series")
    shape = (BATCH, 22, 2)
  elif kind == "series":
    backbone = resnet.ResNet(1, (1, 2), (4, 6), (1, 2), (1, 2), "series")
    shape = (BATCH, 22, 2)
  else:
    backbone = resnet.ResNet(2, (1, 2), (4, 6), (1, 2), (1, 2), "small", dtype=dtype)
    shape = (BATCH, 8, 12, 3)
  blocks = backbone.num_blocks
  gated = gated or (False,) * blocks
  trunk = skip_trunk.SkipTrunk(backbone, tasks, gated, gate_hidden=5, dtype=dtype)
  rng = np.random.default_rng(1)
  inputs = jnp.asarray(rng.normal(size=shape), jnp.float32)
  shapes = jax.eval_shape(
    lambda: trunk.init(
      jax.random.key(0), inputs, skip_trunk.Decisions(routing.all_run(blocks, tasks)), False
    )
  )
  params = jax.tree.map(
    lambda leaf: jnp.asarray(
      rng.normal(1.0 if leaf.ndim == 1 else 0.0, 0.3, leaf.shape), leaf.dtype
    ),
    shapes["params"],
  )
  stats = jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.full(leaf.shape, float("var" in jax.tree_util.keystr(path)), leaf.dtype),
    shapes.get("batch_stats", {}),
  )
  return Tiny(trunk, inputs, {"params": params, "batch_stats": stats})


@pytest.fixture(scope="session")
def tiny() -> Any:
  """Makes a tiny trunk: `tiny(kind, tasks, gated, dtype)`."""
  return _make
