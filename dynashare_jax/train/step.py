"""The jitted training step of a phase."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynashare_jax import types
from dynashare_jax.models import trunks
from dynashare_jax.objectives import kinds
from dynashare_jax.objectives import regularisers
from dynashare_jax.ops import gumbel
from dynashare_jax.ops import policy
from dynashare_jax.ops import resize
from dynashare_jax.ops import routing
from dynashare_jax.ops import streams
from dynashare_jax.train import optim
from dynashare_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True)
class Spec:
  """Everything about a step that is known when it is compiled.

  Attributes:
    kinds: routing `[L][T]`.
    trainable: groups that move.
    sampled: whether the policy is a soft sample; else it is `Inputs.route`.
    gated: whether instance gates decide.
    penalties: whether the policy's losses count.
    optimizer: name of the optimiser settings.
    steps: how long the optimiser lives, for schedules.
  """

  kinds: routing.Kinds
  trainable: tuple[str, ...]
  sampled: bool
  gated: bool
  penalties: bool
  optimizer: str
  steps: int


class Inputs(NamedTuple):
  """What changes between steps without a new compilation.

  Attributes:
    seed: int32, of the run.
    step: int32, the first step's global number.
    temperature: of the policy's Gumbel softmax.
    opened: bool `[L]`, blocks that the curriculum has opened.
    route: `[T, L]`, read when the policy is not sampled.
    fade: int32 `[2]`, the steps between which the gates' noise falls from full
      to none; equal numbers keep it full.
  """

  seed: jax.Array
  step: jax.Array
  temperature: jax.Array
  opened: jax.Array
  route: jax.Array
  fade: jax.Array


class Objective(NamedTuple):
  """Constants of the loss.

  Attributes:
    tasks: in order.
    sparsity: weight of Eq. 3, and its form.
    sharing: weight of Eq. 4, and its form.
    instance: weight of Eq. 5, and its form.
    target_rates: `[L]`.
    gate_temperature: of the gates' gradient.
    sampled_rates: every step draws one target rate for all gated blocks from
      this range, and tells it to the gates; None: `target_rates`.
    at_labels: whether dense losses are taken at the size of the labels, from
      enlarged logits; else at that of the logits, from reduced labels.
  """

  tasks: tuple[types.TaskSpec, ...]
  sparsity: tuple[float, str]
  sharing: tuple[float, str]
  instance: tuple[float, str]
  target_rates: tuple[float, ...]
  gate_temperature: float
  sampled_rates: tuple[float, float] | None = None
  at_labels: bool = False


def task_losses(
  tasks: tuple[types.TaskSpec, ...],
  logits: dict[str, jax.Array],
  batch: types.Batch,
  at_labels: bool = False,
) -> dict[str, jax.Array]:
  """Mean loss of every task over its valid labels; 0 where there are none.

  Args:
    tasks: in order.
    logits: of every task.
    batch: with its labels.
    at_labels: see `Objective`.
  """
  losses: dict[str, Any] = {}
  for task in tasks:
    kind = kinds.find(task.kind)
    found: types.Array = logits[task.name]
    valid = batch.valid[task.name]
    if at_labels and kind.dense:
      found = resize.enlarge(found, (valid.shape[1], valid.shape[2]))
    sums = kind.loss(task, found, batch.targets[task.name], valid)
    losses[task.name] = sums.total / jnp.maximum(sums.count, 1.0)
  return losses


def _decisions(
  spec: Spec, objective: Objective, params: Any, inputs: Inputs, step: jax.Array, batch_size: int
) -> trunks.Decisions:
  """Draws what is random in a step, from (seed, stream, step) alone."""
  tasks = len(objective.tasks)
  blocks = len(spec.kinds)
  if spec.sampled:
    key = streams.stream_key(inputs.seed, "policy", step)
    drawn = gumbel.soft_decisions(key, params["policy"]["logits"], inputs.temperature)
    drawn = jnp.where(inputs.opened[None, :], drawn, 1.0)
  else:
    drawn = inputs.route
  noise, target = None, None
  if spec.gated:
    key = streams.stream_key(inputs.seed, "gates", step)
    noise = gumbel.logistic_noise(key, jnp.arange(batch_size), (tasks, blocks))
    noise = noise * _noise_scale(inputs.fade, step)
    if objective.sampled_rates is not None:
      low, high = objective.sampled_rates
      key = streams.stream_key(inputs.seed, "target_rate", step)
      target = jax.random.uniform(key, (), jnp.float32, low, high)
  return trunks.Decisions(
    kinds=spec.kinds,
    policy=drawn,
    discrete=not spec.sampled,
    gated=spec.gated,
    noise=noise,
    temperature=objective.gate_temperature,
    target=target,
  )


def _noise_scale(fade: jax.Array, step: jax.Array) -> jax.Array:
  """1 until `fade[0]`, then linearly to 0 at `fade[1]`; 1 if they are equal."""
  span = fade[1] - fade[0]
  left = (fade[1] - 1 - step) / jnp.maximum(span, 1)
  return jnp.where(span > 0, jnp.clip(left, 0.0, 1.0), 1.0)


def _penalties(
  spec: Spec,
  objective: Objective,
  params: Any,
  opened: jax.Array,
  signals: trunks.Signals,
  route: jax.Array,
  target: jax.Array | None,
) -> dict[str, jax.Array]:
  """The regularisers of a step, with their weights."""
  found: dict[str, Any] = {}
  if spec.penalties:
    logits = params["policy"]["logits"]
    weight, form = objective.sparsity
    if weight:
      found["sparsity"] = weight * regularisers.sparsity(logits, opened, form)
    weight, form = objective.sharing
    if weight and len(objective.tasks) > 1:
      found["sharing"] = weight * regularisers.sharing(logits, form)
  if spec.gated:
    weight, form = objective.instance
    targets = jnp.asarray(objective.target_rates)
    if target is not None:
      targets = jnp.where(targets < 1, target, 1.0)
    counted = signals.gated & (route > 0)
    rates = jnp.where(counted, signals.gate.mean(1), targets[None])
    found["instance"] = weight * regularisers.instance(rates, targets, form)
  return found


def loss(
  network: Any,
  spec: Spec,
  objective: Objective,
  params: Any,
  stats: Any,
  batch: types.Batch,
  inputs: Inputs,
  step: jax.Array,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
  """Total loss of a batch (Eq. 6), its parts, and the new batch statistics."""
  size = batch.present.shape[0]
  decisions = _decisions(spec, objective, params, inputs, step, size)
  variables = {"params": params["network"], "batch_stats": stats}
  (logits, signals), changed = network.apply(
    variables,
    batch.inputs,
    decisions,
    True,
    mutable=["batch_stats"],
    rngs={"dropout": streams.stream_key(inputs.seed, "dropout", step)},
  )
  losses = task_losses(objective.tasks, logits, batch, objective.at_labels)
  penalties = _penalties(
    spec, objective, params, inputs.opened, signals, inputs.route, decisions.target
  )
  total: Any = sum(task.weight * losses[task.name] for task in objective.tasks)
  total = total + sum(penalties.values())
  parts = {f"loss/{name}": value for name, value in losses.items()}
  parts.update({f"penalty/{name}": v for name, v in penalties.items()})
  parts["loss/total"] = jnp.asarray(total)
  parts["rate"] = signals.executed.mean()
  return total, (parts, changed.get("batch_stats", stats))


def advance(
  network: Any,
  tx: optax.GradientTransformation,
  spec: Spec,
  objective: Objective,
  state: state_lib.State,
  batch: types.Batch,
  inputs: Inputs,
  step: jax.Array,
) -> tuple[state_lib.State, dict[str, jax.Array]]:
  """One update from one batch.

  Batch statistics move only with the backbone: a policy step leaves the
  network exactly as it was.

  Differs: in the authors' code running statistics also move in policy steps.
  """
  moving, still = optim.split(state.params, spec.trainable)

  def objective_of(part: Any) -> Any:
    return loss(network, spec, objective, optim.join(part, still), state.stats, batch, inputs, step)

  grads, (parts, stats) = jax.grad(objective_of, has_aux=True)(moving)
  params, opt = optim.update(tx, grads, state.opt, state.params, spec.trainable, inputs.opened)
  if "backbone" not in spec.trainable:
    stats = state.stats
  return state.replace(params=params, stats=stats, opt=opt), parts


def take(arrays: types.Batch, indices: jax.Array, sharding: Any) -> types.Batch:
  """Rows of a resident split, sharded over the mesh's data axis."""
  rows = jax.tree.map(lambda a: jnp.take(a, indices, axis=0), arrays)
  return jax.lax.with_sharding_constraint(rows, sharding)


def make(
  network: Any,
  tx: optax.GradientTransformation,
  spec: Spec,
  objective: Objective,
  sharding: jax.sharding.NamedSharding,
  augment: Any = None,
  shardings: Any = None,
) -> Any:
  """Compiles many steps in one dispatch.

  Args:
    network: a `models.trunks.Network`.
    tx: from `optim.make`.
    spec: of the phase; one call compiles one program a number of steps S.
    objective: constants of the loss.
    sharding: of the batch; results lie on every device.
    augment: how examples are varied, see `types.Dataset`.
    shardings: gives those of the state's leaves; default every device has all.

  Returns:
    `(state, arrays, indices [S, B], inputs, draws) -> (state, parts [S])`, with
    the old state donated. `arrays` is a whole split (or a single batch),
    `indices` the rows of every step, and `draws` what is random of each row's
    augmentation (default None: rows are taken as they are).
  """

  def run(
    state: state_lib.State,
    arrays: types.Batch,
    indices: jax.Array,
    inputs: Inputs,
    draws: Any = None,
  ) -> tuple[state_lib.State, dict[str, jax.Array]]:
    """Steps through the rows of `indices`, one update each."""

    def one(carry: state_lib.State, row: Any) -> Any:
      step, chosen, draw = row
      batch = take(arrays, chosen, sharding)
      if draw is not None:
        batch = jax.lax.with_sharding_constraint(augment.batch(batch, draw), sharding)
      return advance(network, tx, spec, objective, carry, batch, inputs, step)

    count = indices.shape[0]
    numbers = inputs.step + jnp.arange(count, dtype=jnp.int32)
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


def spec_of(
  phase: types.Phase,
  tasks: int,
  gated: tuple[bool, ...],
  route: Any,
  planned: bool,
  prefixes: tuple[int, ...],
  steps: int | None = None,
) -> Spec:
  """The compiled side of a phase; equal for phases that share a program.

  A run compiles the warm-up once, weight and policy steps once for each used
  prefix, and re-trainings once (masked) or once a route (planned).

  Args:
    phase: what to run.
    tasks: T.
    gated: for every block, whether it has a gate.
    route: `[T, L]` of the phase's candidate, as nested lists of 0 and 1.
    planned: compile the route in, so that what it skips is never computed;
      else every block is computed and masked, and one compilation serves all
      routes.
    prefixes: how many first blocks may be shared while the curriculum keeps
      them closed; every value used is a compilation.
    steps: how long the phase's optimiser lives; default the phase.
  """
  blocks = len(gated)
  closed = blocks - phase.open_blocks
  if phase.routing == "all":
    kinds_ = routing.all_run(blocks, tasks)
  elif phase.routing == "soft":
    shared = max((p for p in prefixes if p <= closed), default=0)
    kinds_ = routing.own(blocks, tasks, shared)
  elif planned:
    gates = gated if phase.gated else (False,) * blocks
    kinds_ = routing.fixed(route, gates, train=True)
  else:
    kinds_ = routing.own(blocks, tasks)
  return Spec(
    kinds_,
    phase.trainable,
    phase.routing == "soft",
    phase.gated,
    phase.penalties,
    phase.optimizer,
    phase.steps if steps is None else steps,
  )


def inputs_of(
  phase: types.Phase,
  seed: int,
  offset: int,
  step: int,
  blocks: int,
  route: Any,
  fading: float = 0.0,
) -> Inputs:
  """The changing side of a phase.

  Args:
    phase: what runs.
    seed: of the run; part of no compiled program.
    offset: steps of the phase that are done.
    step: global steps that are done.
    blocks: L.
    route: `[T, L]` of the phase's candidate.
    fading: last fraction of the phase in which the gates' noise falls from
      full to none; 0 keeps it full.
  """
  end = step - offset + phase.steps
  begin = end - round(fading * phase.steps)
  return Inputs(
    jnp.asarray(seed, jnp.int32),
    jnp.asarray(step, jnp.int32),
    jnp.asarray(phase.temperature, jnp.float32),
    policy.open_mask(blocks, phase.open_blocks),
    jnp.asarray(route, jnp.float32),
    jnp.asarray([begin, end], jnp.int32),
  )
