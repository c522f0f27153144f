"""What a training run is made of, at any moment."""

from __future__ import annotations

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp


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
    params: `network`, and `policy` (what the method's `Sharing` learns).
    stats: running batch statistics of the network.
    opt: optimiser state of the current phase.
    best: see `Best`.
    anchor: network parameters and statistics at the end of the search, if re-trainings start from
      them; else empty.
    routes: the structures to re-train, leaves `[N, ...]`; of skipped blocks the routes
      `[N, T, L]`. Zeros before they are known.
    balance: the balancer's state; anew with each optimiser.
    memory: what the method's `Sharing` keeps beside.
  """

  params: Any
  stats: Any
  opt: Any
  best: Best
  anchor: Any
  routes: Any
  balance: Any = struct.field(default_factory=dict)
  memory: Any = struct.field(default_factory=dict)


def init_network(network: Any, inputs: Any, control: Any, key: jax.Array) -> tuple[Any, Any]:
  """Initialises parameters and batch statistics; to compile, which leaves out the forward pass.

  Args:
    inputs: a small batch of inputs.
    control: under which all of the trunk runs.
  """
  variables = network.init({"params": key}, inputs, control, False)
  return network.begin(variables["params"]), variables.get("batch_stats", {})


def start(
  params: Any, stats: Any, learnt: Any, tasks: int, structures: Any, keep_anchor: bool, memory: Any
) -> State:
  """Makes the state before the first step; `opt` and `balance` are set when a phase begins."""
  anchor = copied({"params": params, "stats": stats}) if keep_anchor else {}
  zeros = jnp.zeros((tasks,), jnp.int32)
  return State(
    params={"network": params, "policy": learnt},
    stats=stats,
    opt={},
    best=Best(copied(params), copied(stats), jnp.full((tasks,), -jnp.inf), zeros, jnp.array(zeros)),
    anchor=anchor,
    routes=structures,
    memory=memory,
  )


@jax.jit
def copied(tree: Any) -> Any:
  """Returns a tree whose arrays share no memory with those of another, by one program."""
  return jax.tree.map(jnp.copy, tree)
