"""The jitted training step of a phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dynashare_jax import types
from dynashare_jax.sharing import contract
from dynashare_jax.train import forward as forward_lib
from dynashare_jax.train import gradients as gradients_lib
from dynashare_jax.train import optim
from dynashare_jax.train import state as state_lib
from dynashare_jax.types import PyTree


def advance(
  objective: forward_lib.Objective,
  tx: optax.GradientTransformation,
  spec: forward_lib.Spec,
  state: state_lib.State,
  batch: types.Batch,
  moving: contract.Moving,
  step: jax.Array,
) -> tuple[state_lib.State, dict[str, jax.Array]]:
  """Makes one update from one batch.

  Batch statistics move only with the backbone: a policy step leaves the network exactly as it was.

  Differs: in the authors' code running statistics also move in policy steps.
  """
  pass_ = forward_lib.Pass(objective, spec, state, batch, moving, step)
  if spec.measure:
    return measured(pass_)
  grads, aside = gradients_lib.gradients(pass_)
  parts = aside.parts | _pulled(objective.sharing, spec, grads, state, moving)
  groups = optim.groups(state.params, objective.network.leaves())
  free = objective.sharing.free(moving)
  params, opt = optim.update(tx, grads, state.opt, state.params, spec.trainable, groups, free)
  stats, balance = state.stats, aside.balance
  if "backbone" in spec.trainable:
    stats = aside.stats
    if objective.balancer.after is not None:
      # The step's own random draws; the statistics that move on the way are not kept.
      now = pass_.losses(params)[-1].losses
      balance = objective.balancer.after(aside.losses, now, balance)
  return state.replace(
    params=params, stats=stats, opt=opt, balance=balance, memory=aside.memory
  ), parts


def measured(pass_: forward_lib.Pass) -> tuple[state_lib.State, dict[str, jax.Array]]:
  """Shows the sharing what the tasks' gradients are like; moves no parameter.

  These are their products, unit by unit, or their magnitudes, weight by weight.
  """
  objective, state = pass_.objective, pass_.state
  sharing = objective.sharing

  def losses_of(params: PyTree) -> Any:
    values, _, aside = pass_._replace(plain=sharing.magnitudes).losses(params)
    return values, aside

  if sharing.magnitudes:
    used = {**state.params, "network": sharing.used(state.params["network"], state.memory)}
    magnitudes, aside = gradients_lib.magnitudes(used, losses_of)
    memory = sharing.score(state.memory, magnitudes, aside.losses.labelled)
    return state.replace(memory=memory), aside.parts
  found, aside = gradients_lib.gramians(objective.network, state.params, losses_of)
  labelled = aside.losses.labelled.astype(jnp.float32)
  found = found * jnp.outer(labelled, labelled)[None]
  return state.replace(memory=sharing.observe(state.memory, found)), aside.parts


def _pulled(
  sharing: contract.Sharing,
  spec: forward_lib.Spec,
  grads: PyTree,
  state: state_lib.State,
  moving: contract.Moving,
) -> dict[str, jax.Array]:
  """Mean absolute gradients of what is learnt, of the task losses and of each penalty."""
  if "policy" not in spec.trainable:
    return {}
  size = lambda tree: (
    sum(jnp.abs(g).sum() for g in jax.tree.leaves(tree))
    / max(sum(g.size for g in jax.tree.leaves(tree)), 1)
  )
  own = sharing.pulls(spec.sharing, state.params["policy"], state.memory, moving)
  rest = grads["policy"]
  for pull in own.values():
    rest = jax.tree.map(jnp.subtract, rest, pull)
  return {f"pull/{name}": jnp.asarray(size(tree)) for name, tree in ({"tasks": rest} | own).items()}


def take(arrays: types.Batch, indices: jax.Array, sharding: Any) -> types.Batch:
  """Takes rows of a resident split, sharded over the mesh's data axis."""
  rows = jax.tree.map(lambda a: jnp.take(a, indices, axis=0), arrays)
  return jax.lax.with_sharding_constraint(rows, sharding)


def make(
  objective: forward_lib.Objective,
  optimizer: Callable[[Any], optax.GradientTransformation],
  spec: forward_lib.Spec,
  sharding: jax.sharding.NamedSharding,
  augment: Any = None,
  shardings: Any = None,
) -> Any:
  """Compiles many steps in one dispatch.

  Args:
    optimizer: makes the phase's optimiser from `Moving.horizon`.
    spec: of the phase; one call compiles one program a number of steps S.
    sharding: of the batch; results lie on every device.
    augment: how examples are varied, see `types.Dataset`.
    shardings: gives those of the state's leaves; default every device has all.

  Returns:
    `(state, arrays, indices [S, B], moving, draws) -> (state, parts [S])`, with the old state
    donated. `arrays` is a whole split (or a single batch), `indices` the rows of every step, and
    `draws` what is random of each row's augmentation (default None: rows are taken as they are).
  """

  def run(
    state: state_lib.State,
    arrays: types.Batch,
    indices: jax.Array,
    moving: contract.Moving,
    draws: Any = None,
  ) -> tuple[state_lib.State, dict[str, jax.Array]]:
    """Steps through the rows of `indices`, one update each."""
    tx = optimizer(moving.horizon)

    def one(carry: state_lib.State, row: Any) -> Any:
      step, chosen, draw = row
      batch = take(arrays, chosen, sharding)
      if draw is not None:
        batch = jax.lax.with_sharding_constraint(augment.batch(batch, draw), sharding)
      return advance(objective, tx, spec, carry, batch, moving, step)

    count = indices.shape[0]
    numbers = moving.step + jnp.arange(count, dtype=jnp.int32)
    if count == 1:
      first = jax.tree.map(lambda a: a[0], (numbers, indices, draws))
      state, parts = one(state, first)
      return state, jax.tree.map(lambda p: p[None], parts)
    return jax.lax.scan(one, state, (numbers, indices, draws))

  def placed(state: state_lib.State, *rest: Any, **named: Any) -> Any:
    """`run`, with the state where it was."""
    state, parts = run(state, *rest, **named)
    return jax.lax.with_sharding_constraint(state, shardings(state)), parts

  everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
  if shardings is not None:
    return jax.jit(placed, donate_argnums=0, out_shardings=(None, everywhere))
  return jax.jit(run, donate_argnums=0, out_shardings=everywhere)


def moving_of(
  sharing: contract.Sharing,
  phase: contract.Phase,
  seed: int,
  offset: int,
  step: int,
  structure: Any,
  horizon: Any = (),
) -> contract.Moving:
  """Returns what changes between the steps of a phase without compiling.

  Args:
    seed: of the run; part of no compiled program.
    offset: steps of the phase that are done.
    step: global steps that are done.
    structure: of the phase's candidate.
    horizon: of the phase's optimiser; what `make` compiles has to be told it.
  """
  return contract.Moving(
    jnp.asarray(seed, jnp.int32),
    jnp.asarray(step, jnp.int32),
    sharing.knobs(phase, offset, step),
    jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), structure),
    horizon,
  )
