"""The jitted training step of a phase."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynashare_jax import types
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.objectives import balancing
from dynashare_jax.objectives import kinds
from dynashare_jax.ops import resize
from dynashare_jax.ops import streams
from dynashare_jax.sharing import contract
from dynashare_jax.train import optim
from dynashare_jax.train import state as state_lib
from dynashare_jax.types import PyTree

# Groups that move by the plain sum of the task losses, whatever the balancer.
UNBALANCED = ("gates", "policy")


@dataclasses.dataclass(frozen=True)
class Spec:
  """Everything about the steps of a phase that is known when they are compiled.

  Attributes:
    sharing: see `Sharing.static`.
    trainable: groups that move.
    optimizer: name of the optimiser settings.
    steps: how long the optimiser lives, for schedules.
    measure: whether steps only measure gradients, see `Phase.measure`.
  """

  sharing: Hashable
  trainable: tuple[str, ...]
  optimizer: str
  steps: int
  measure: bool = False


class Objective(NamedTuple):
  """What a step minimises, and of what.

  Attributes:
    network: a `models.trunks.network.Network`.
    tasks: in order.
    sharing: of the method.
    balancer: of the task losses; in phases that do not train the backbone it is not asked.
    at_labels: whether dense losses are taken at the size of the labels, from enlarged logits;
      else at that of the logits, from reduced labels.
  """

  network: Any
  tasks: tuple[types.TaskSpec, ...]
  sharing: contract.Sharing
  balancer: balancing.Balancer
  at_labels: bool = False


class Aside(NamedTuple):
  """What a step computes beside gradients.

  Attributes:
    parts: losses, penalties and rates by name, for the log.
    stats: new batch statistics.
    memory: of the sharing.
    balance: state of the balancer.
    losses: of the tasks.
    runs: bool `[T, U]`, whether a task executes a unit for any example.
  """

  parts: dict[str, jax.Array]
  stats: PyTree
  memory: PyTree
  balance: PyTree
  losses: balancing.Losses
  runs: jax.Array


def task_losses(
  tasks: Sequence[types.TaskSpec],
  logits: dict[str, jax.Array],
  batch: types.Batch,
  at_labels: bool = False,
) -> list[types.Sums]:
  """Sums every task's loss over its valid labels.

  Args:
    at_labels: see `Objective`.
  """
  found = []
  for task in tasks:
    kind = kinds.find(task.kind)
    values: types.Array = logits[task.name]
    valid = batch.valid[task.name]
    if at_labels and kind.dense:
      values = resize.enlarge(values, (valid.shape[1], valid.shape[2]))
    found.append(kind.loss(task, values, batch.targets[task.name], valid))
  return found


def forward(
  objective: Objective,
  spec: Spec,
  params: PyTree,
  state: state_lib.State,
  batch: types.Batch,
  moving: contract.Moving,
  step: jax.Array,
) -> tuple[list[jax.Array], jax.Array, Aside]:
  """Computes a batch's mean loss per task, the sum of the penalties, and what comes beside."""
  pass_ = _Pass(objective, spec, state, batch, moving, step)
  control = pass_.control(params)
  (logits, signals), stats = pass_.apply(params, state.stats, batch.inputs, control, True)
  return pass_.judge(params, control, logits, signals, stats)


class _Pass(NamedTuple):
  """A forward pass of a training step; arguments as of `forward`."""

  objective: Objective
  spec: Spec
  state: state_lib.State
  batch: types.Batch
  moving: contract.Moving
  step: jax.Array

  def control(self, params: PyTree) -> PyTree:
    """What the trunk is told."""
    size = self.batch.present.shape[0]
    sharing, static = self.objective.sharing, self.spec.sharing
    return sharing.control(static, params["policy"], self.moving, self.step, size)

  def apply(self, params: PyTree, stats: PyTree, *args: Any, method: str | None = None) -> Any:
    """What the network, or a method of it, gives, and the new batch statistics."""
    found, changed = self.objective.network.apply(
      {"params": params["network"], "batch_stats": stats},
      *args,
      method=method,
      mutable=["batch_stats"],
      rngs={"dropout": streams.stream_key(self.moving.seed, "dropout", self.step)},
    )
    return found, changed.get("batch_stats", stats)

  def judge(
    self, params: PyTree, control: PyTree, logits: Any, signals: trunks.Signals, stats: PyTree
  ) -> tuple[list[jax.Array], jax.Array, Aside]:
    """Losses, penalties and what comes beside, as of `forward`."""
    (sharing, tasks), static = (self.objective.sharing, self.objective.tasks), self.spec.sharing
    learnt, memory = params["policy"], self.state.memory
    sums = task_losses(tasks, logits, self.batch, self.objective.at_labels)
    values = [jnp.asarray(s.total / jnp.maximum(s.count, 1.0)) for s in sums]
    losses = balancing.Losses(
      jnp.stack(values), jnp.stack([s.count > 0 for s in sums]), tuple(t.weight for t in tasks)
    )
    charges = sharing.charges(static, learnt, memory, self.moving, control, signals, losses)
    charge: Any = sum(charges.values())
    total = _dot(losses.prior, values) + charge
    parts = {f"loss/{task.name}": value for task, value in zip(tasks, values, strict=True)}
    parts |= {f"penalty/{name}": value for name, value in charges.items()}
    parts["loss/total"] = jnp.asarray(total)
    parts["rate"] = signals.executed.mean()
    held = jax.lax.stop_gradient((signals, losses))
    memory = sharing.remember(static, memory, *held)
    runs = signals.executed.max(1) > 0
    return values, charge, Aside(parts, stats, memory, self.state.balance, losses, runs)


def _dot(weights: Sequence[Any], values: Sequence[Any]) -> Any:
  """The weighed sum, in the tasks' order."""
  return sum(weight * value for weight, value in zip(weights, values, strict=True))


def gradients(
  objective: Objective,
  spec: Spec,
  state: state_lib.State,
  batch: types.Batch,
  moving: contract.Moving,
  step: jax.Array,
) -> tuple[PyTree, Aside]:
  """Computes the gradients of the groups that move; None elsewhere.

  At level `losses` by one backward pass of the weighed sum. At the others by one pass of the trunk
  per task, unrolled: a mapped convolution's gradient was measured 6 to 32 times slower on a CPU.
  What is shared follows from the step's route: a unit that fewer than two tasks with labels execute
  has no part in the inner products and moves by the plain sum of its gradients.
  """
  balancer, rules = objective.balancer, objective.network.leaves()
  balanced = "backbone" in spec.trainable
  groups = optim.groups(state.params, rules)
  trained, still = optim.split(state.params, spec.trainable, groups)
  key = streams.stream_key(moving.seed, "balance", step)

  def losses_of(part: PyTree) -> Any:
    params = optim.join(part, still)
    values, charge, aside = forward(objective, spec, params, state, batch, moving, step)
    return (values, jnp.asarray(charge, jnp.float32)), aside

  if not balanced or balancer.level == "losses":

    def total(part: PyTree) -> Any:
      (values, charge), aside = losses_of(part)
      weights: Any = aside.losses.prior
      if balanced:
        held = aside.losses._replace(value=jax.lax.stop_gradient(aside.losses.value))
        weights, balance = balancer.weigh(held, None, key, state.balance)
        aside = _noted(objective, aside, weights, balance)
      return _dot(weights, values) + charge, aside

    return jax.grad(total, has_aux=True)(trained)

  pass_ = _Pass(objective, spec, state, batch, moving, step)
  rows, heads, extra, aside = _rows(pass_, trained, still)
  losses, leaves = aside.losses, _leaves(trained, rules)
  met = _met(objective.network, trained, aside)
  shared = [n for n, found in enumerate(shared_leaves(trained, rules)) if found]
  stacks = [[jnp.where(met[n], row[n], 0.0) for n in shared] for row in rows]
  gramian = _products(stacks)
  weights, balance = balancer.weigh(losses, gramian, key, state.balance)
  together = [_dot(weights, column) for column in zip(*stacks, strict=True)]
  if balancer.combine is not None:
    together = balancer.combine(stacks, losses, weights, key)
  grads = []
  for column, leaf, head in zip(zip(*rows, strict=True), leaves, heads, strict=True):
    owner = None if leaf is None else leaf.owner
    factors = weights if balancer.heads and owner is not None else losses.prior
    moved = _dot(factors, column)
    grads.append(moved if owner is None else moved + factors[owner] * head)
  for n, moved in zip(shared, together, strict=True):
    grads[n] = jnp.where(met[n], moved, grads[n])
  if extra is not None:
    grads = [a + b for a, b in zip(grads, extra, strict=True)]
  tree = jax.tree.unflatten(jax.tree.structure(trained), grads)
  return tree, _noted(objective, aside, weights, balance, gramian)


def _rows(pass_: _Pass, trained: PyTree, still: PyTree) -> Any:
  """The tasks' gradients: the heads are pulled once, the trunk once a task.

  Returns leaves: one list per task, of the trunk; those of the heads, each of its own loss; those
  of the penalties, None where there are none; and what comes beside.
  """
  batch = pass_.batch

  def trunk(part: PyTree) -> Any:
    params = optim.join(part, still)
    args = params, pass_.state.stats, batch.inputs, pass_.control(params), True
    return pass_.apply(*args, method="features")

  def heads(part: PyTree, features: Any, signals: trunks.Signals) -> Any:
    params = optim.join(part, still)
    logits, changed = pass_.apply(params, stats, features, batch.inputs, True, method="logits")
    control = pass_.control(params)
    values, charge, aside = pass_.judge(params, control, logits, signals, changed)
    return (values, jnp.asarray(charge, jnp.float32)), aside

  (features, signals), pull_trunk, stats = jax.vjp(trunk, trained, has_aux=True)
  (values, charge), pull, aside = jax.vjp(heads, trained, features, signals, has_aux=True)
  ones, zeros = ([fill(v) for v in values] for fill in (jnp.ones_like, jnp.zeros_like))
  # A head reads its own features alone: what it asks of them is apart.
  own, asked, none = pull((ones, jnp.zeros_like(charge)))
  rows = []
  for task in range(len(values)):
    mine = [a if t == task else jax.tree.map(jnp.zeros_like, a) for t, a in enumerate(asked)]
    rows.append(jax.tree.leaves(pull_trunk((mine, none))[0]))
  extra = None
  if any(name.startswith("penalty/") for name in aside.parts):
    direct, *below = pull((zeros, jnp.ones_like(charge)))
    through = pull_trunk(tuple(below))[0]
    extra = jax.tree.leaves(jax.tree.map(jnp.add, direct, through))
  return rows, jax.tree.leaves(own), extra, aside


def _met(network: Any, params: PyTree, aside: Aside) -> list[jax.Array]:
  """For every leaf whether two tasks with labels execute its unit; True of what no unit has."""
  prior = jnp.asarray(aside.losses.prior)
  runs = aside.runs & (aside.losses.labelled & (prior > 0))[:, None]
  several = runs.sum(0) >= 2
  prefixes = _prefixes(network)
  found = []
  for path, _ in jax.tree_util.tree_leaves_with_path(params):
    prefix = trunks.longest(prefixes, optim.path_of(path))
    found.append(jnp.asarray(True) if prefix is None else several[prefixes.index(prefix)])
  return found


def _prefixes(network: Any) -> list[str]:
  """The beginning of the paths of every unit's weights; none where the trunk does not say."""
  return [f"network/trunk/{prefix}" for prefix in network.trunk.weights_of()]


def _products(rows: Sequence[Sequence[jax.Array]]) -> jax.Array:
  """The inner products of rows of leaves, in full float32."""
  found = jnp.zeros((len(rows), len(rows)))
  for column in zip(*rows, strict=True):
    flat = jnp.stack([leaf.astype(jnp.float32).ravel() for leaf in column])
    found += jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)
  return found


def _noted(
  objective: Objective, aside: Aside, weights: Any, balance: PyTree, gramian: Any = None
) -> Aside:
  """Adds the balancer's state; for the log its weights, if no constants, and what it saw."""
  parts = dict(aside.parts)
  names = [task.name for task in objective.tasks]
  if isinstance(weights, jax.Array):
    parts |= {f"weight/{name}": weights[t] for t, name in enumerate(names)}
  if gramian is not None:
    lengths = jnp.sqrt(jnp.diagonal(gramian))
    parts |= {f"norm/{name}": lengths[t] for t, name in enumerate(names)}
    size = jnp.maximum(lengths, 1e-18)
    parts["cosine/least"] = jnp.min(gramian / size[:, None] / size[None, :], initial=1.0)
  return aside._replace(parts=parts, balance=balance)


def shared_leaves(params: PyTree, rules: optim.Rules) -> list[bool]:
  """Returns for every leaf whether tasks share it and a balancer weighs its gradients."""
  return [
    leaf is not None and leaf.owner is None and leaf.group not in UNBALANCED
    for leaf in _leaves(params, rules)
  ]


def _leaves(params: PyTree, rules: optim.Rules) -> list[trunks.Leaf | None]:
  """What the rules say of the network's leaves; None of others."""
  found = []
  for path, _ in jax.tree_util.tree_leaves_with_path(params):
    part, _, rest = optim.path_of(path).partition("/")
    found.append(trunks.leaf_of(rules, rest) if part == "network" else None)
  return found


def advance(
  objective: Objective,
  tx: optax.GradientTransformation,
  spec: Spec,
  state: state_lib.State,
  batch: types.Batch,
  moving: contract.Moving,
  step: jax.Array,
) -> tuple[state_lib.State, dict[str, jax.Array]]:
  """Makes one update from one batch.

  Batch statistics move only with the backbone: a policy step leaves the network exactly as it was.

  Differs: in the authors' code running statistics also move in policy steps.
  """
  if spec.measure:
    return measured(objective, spec, state, batch, moving, step)
  grads, aside = gradients(objective, spec, state, batch, moving, step)
  parts = aside.parts | _pulled(objective.sharing, spec, grads, state, moving)
  groups = optim.groups(state.params, objective.network.leaves())
  free = objective.sharing.free(moving)
  params, opt = optim.update(tx, grads, state.opt, state.params, spec.trainable, groups, free)
  stats, balance = state.stats, aside.balance
  if "backbone" in spec.trainable:
    stats = aside.stats
    if objective.balancer.after is not None:
      # The step's own random draws; the statistics that move on the way are not kept.
      now = forward(objective, spec, params, state, batch, moving, step)[-1].losses
      balance = objective.balancer.after(aside.losses, now, balance)
  return state.replace(
    params=params, stats=stats, opt=opt, balance=balance, memory=aside.memory
  ), parts


def measured(
  objective: Objective,
  spec: Spec,
  state: state_lib.State,
  batch: types.Batch,
  moving: contract.Moving,
  step: jax.Array,
) -> tuple[state_lib.State, dict[str, jax.Array]]:
  """Shows the sharing the products of the tasks' gradients, unit by unit; moves no parameter."""

  def losses_of(params: PyTree) -> Any:
    values, _, aside = forward(objective, spec, params, state, batch, moving, step)
    return values, aside

  found, aside = gramians(objective.network, state.params, losses_of)
  labelled = aside.losses.labelled.astype(jnp.float32)
  found = found * jnp.outer(labelled, labelled)[None]
  return state.replace(memory=objective.sharing.observe(state.memory, found)), aside.parts


def gramians(
  network: Any, params: PyTree, losses_of: Callable[[PyTree], Any]
) -> tuple[jax.Array, Any]:
  """Multiplies the gradients of the tasks with each other, for the weights of every unit.

  Args:
    network: a `models.trunks.network.Network` whose trunk has `weights_of`.
    params: `{"network": ...}`, perhaps with more.
    losses_of: `params -> (list of the tasks' losses, anything else)`.

  Returns:
    `[U, T, T]` float32, and what else `losses_of` gave.
  """
  prefixes = _prefixes(network)
  unit = lambda path, _: trunks.longest(prefixes, optim.path_of(path)) or ""
  units = jax.tree_util.tree_map_with_path(unit, params)
  inside, rest = optim.split(params, tuple(prefixes), units)
  values, pull, aside = jax.vjp(
    lambda part: losses_of(optim.join(part, rest)), inside, has_aux=True
  )
  one = lambda t: [jnp.full_like(v, u == t) for u, v in enumerate(values)]
  rows = [jax.tree_util.tree_leaves_with_path(pull(one(t))[0]) for t in range(len(values))]
  found = []
  for prefix in prefixes:
    found.append(_products([[a for path, a in row if unit(path, a) == prefix] for row in rows]))
  return jnp.stack(found), aside


def _pulled(
  sharing: contract.Sharing,
  spec: Spec,
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
  objective: Objective,
  tx: optax.GradientTransformation,
  spec: Spec,
  sharding: jax.sharding.NamedSharding,
  augment: Any = None,
  shardings: Any = None,
) -> Any:
  """Compiles many steps in one dispatch.

  Args:
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
) -> contract.Moving:
  """Returns what changes between the steps of a phase without compiling.

  Args:
    seed: of the run; part of no compiled program.
    offset: steps of the phase that are done.
    step: global steps that are done.
    structure: of the phase's candidate.
  """
  return contract.Moving(
    jnp.asarray(seed, jnp.int32),
    jnp.asarray(step, jnp.int32),
    sharing.knobs(phase, offset, step),
    jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), structure),
  )
