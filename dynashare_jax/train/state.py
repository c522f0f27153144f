"""What a training run is made of, at any moment."""

from __future__ import annotations

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from dynashare_jax.models import trunks
from dynashare_jax.ops import routing


class Best(struct.PyTreeNode):
  """The best model so far on validation.

  Attributes:
    params: network parameters.
    stats: batch statistics.
    scores: `[T]`, higher is better; -inf before the first evaluation.
    candidate: int32 `[T]`, which re-training it comes from.
    step: int32 `[T]`, the global step.
  """

  params: Any
  stats: Any
  scores: jax.Array
  candidate: jax.Array
  step: jax.Array


class State(struct.PyTreeNode):
  """All that a checkpoint holds; random keys are never part of it.

  Attributes:
    params: `network` and `policy` (logits `[T, L, 2]`).
    stats: running batch statistics of the network.
    opt: optimiser state of the current phase.
    best: see `Best`.
    anchor: network parameters and statistics at the end of the search, if
      re-trainings start from them; else empty.
    routes: `[N, T, L]`, the routes to re-train; zeros before they are known.
  """

  params: Any
  stats: Any
  opt: Any
  best: Best
  anchor: Any
  routes: jax.Array


def init_network(
  network: Any, inputs: Any, blocks: int, tasks: int, key: jax.Array
) -> tuple[Any, Any]:
  """Fresh parameters and batch statistics, in one compiled call.

  Args:
    network: a `models.trunks.Network`.
    inputs: a small batch of inputs.
    blocks: L.
    tasks: T.
    key: of the initialisation.
  """
  decisions = trunks.Decisions(routing.all_run(blocks, tasks))
  # Compiled, the forward pass that only tells shapes is left out.
  make = jax.jit(lambda k: network.init({"params": k}, inputs, decisions, False))
  variables = make(key)
  return variables["params"], variables.get("batch_stats", {})


def start(params: Any, stats: Any, logits: jax.Array, candidates: int, keep_anchor: bool) -> State:
  """The state before the first step; `opt` is set when a phase begins."""
  tasks, blocks = logits.shape[:2]
  copy = lambda tree: jax.tree.map(jnp.array, tree)
  anchor = {"params": copy(params), "stats": copy(stats)} if keep_anchor else {}
  return State(
    params={"network": params, "policy": {"logits": logits}},
    stats=stats,
    opt={},
    best=Best(
      copy(params),
      copy(stats),
      jnp.full((tasks,), -jnp.inf),
      jnp.zeros((tasks,), jnp.int32),
      jnp.zeros((tasks,), jnp.int32),
    ),
    anchor=anchor,
    routes=jnp.zeros((candidates, tasks, blocks)),
  )
