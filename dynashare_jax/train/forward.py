"""The forward pass of a training step: losses of the tasks, penalties, and what comes beside."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dynashare_jax import types
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.objectives import balancing
from dynashare_jax.objectives import kinds
from dynashare_jax.ops import resize
from dynashare_jax.ops import streams
from dynashare_jax.sharing import contract
from dynashare_jax.train import state as state_lib
from dynashare_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Spec:
  """Everything about the steps of a phase that is known when they are compiled.

  Attributes:
    sharing: see `Sharing.static`.
    trainable: groups that move.
    optimizer: name of the optimiser settings.
    measure: whether steps only measure gradients, see `Phase.measure`.
    held: whether steps use the weights that the balancer last gave.
    inner: see `Phase.inner`.
  """

  sharing: Hashable
  trainable: tuple[str, ...]
  optimizer: str
  measure: bool = False
  held: bool = False
  inner: contract.Inner | None = None


class Objective(NamedTuple):
  """What a step minimises, and of what.

  Attributes:
    network: a `models.trunks.network.Network`.
    tasks: in order.
    sharing: of the method.
    balancer: of the task losses; in phases that do not train the backbone it is not asked.
    at_labels: whether dense losses are taken at the size of the labels, from enlarged logits;
      else at that of the logits, from reduced labels.
    rows: whether the network is told which rows have labels of which task, see `Labelled`.
    mesh: devices, of which each keeps a part of every task's gradients; None splits nothing.
  """

  network: Any
  tasks: tuple[types.TaskSpec, ...]
  sharing: contract.Sharing
  balancer: balancing.Balancer
  at_labels: bool = False
  mesh: Any = None
  rows: bool = False


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


def each_loss(
  tasks: Sequence[types.TaskSpec],
  logits: dict[str, jax.Array],
  batch: types.Batch,
  at_labels: bool = False,
) -> types.Sums:
  """Sums every task's loss over the valid labels of every example, `[T, B]`; see `task_losses`."""

  def alone(logits: dict[str, jax.Array], batch: types.Batch) -> list[types.Sums]:
    of_one, one = jax.tree.map(lambda a: a[None], (logits, batch))
    return task_losses(tasks, of_one, one, at_labels)

  found = jax.vmap(alone)(logits, batch)
  return types.Sums(*(jnp.stack(parts) for parts in zip(*found, strict=True)))


class Pass(NamedTuple):
  """A forward pass of a training step.

  Attributes:
    objective: what the step minimises.
    spec: of the phase.
    state: before the step.
    batch: of the step.
    moving: see `Moving`.
    step: global number.
    plain: whether the network's parameters are taken as they are, not as `Sharing.used` makes them.
  """

  objective: Objective
  spec: Spec
  state: state_lib.State
  batch: types.Batch
  moving: contract.Moving
  step: jax.Array
  plain: bool = False

  def losses(self, params: PyTree) -> tuple[list[jax.Array], jax.Array, Aside]:
    """Computes a batch's mean loss per task, the sum of the penalties, and what comes beside."""
    control = self.control(params)
    (logits, signals), stats = self.apply(params, self.state.stats, self.inputs, control, True)
    return self.judge(params, control, logits, signals, stats)

  @property
  def inputs(self) -> Any:
    """What the network reads."""
    if not self.objective.rows:
      return self.batch.inputs
    valid = [jnp.asarray(self.batch.valid[task.name]) for task in self.objective.tasks]
    rows = [of.reshape(of.shape[0], -1).any(1) for of in valid]
    return trunks.Labelled(self.batch.inputs, jnp.stack(rows))

  def control(self, params: PyTree) -> PyTree:
    """What the trunk is told."""
    size = self.batch.present.shape[0]
    sharing, static = self.objective.sharing, self.spec.sharing
    return sharing.control(static, params["policy"], self.moving, self.step, size)

  def apply(
    self, params: PyTree, stats: PyTree, *args: Any, method: str | None = None, network: Any = None
  ) -> Any:
    """What the network (default all of it), or a method of it, gives, and new batch statistics."""
    used = params["network"]
    if not self.plain:
      used = self.objective.sharing.used(used, self.state.memory)
    found, changed = (network or self.objective.network).apply(
      {"params": used, "batch_stats": stats},
      *args,
      method=method,
      mutable=["batch_stats"],
      rngs={"dropout": streams.stream_key(self.moving.seed, "dropout", self.step)},
    )
    return found, changed.get("batch_stats", stats)

  def judge(
    self, params: PyTree, control: PyTree, logits: Any, signals: trunks.Signals, stats: PyTree
  ) -> tuple[list[jax.Array], jax.Array, Aside]:
    """Losses, penalties and what comes beside, as of `losses`."""
    (sharing, tasks), static = (self.objective.sharing, self.objective.tasks), self.spec.sharing
    learnt, memory = params["policy"], self.state.memory
    at_labels = self.objective.at_labels
    sums = task_losses(tasks, logits, self.batch, at_labels)
    values = [jnp.asarray(s.total / jnp.maximum(s.count, 1.0)) for s in sums]
    losses = balancing.Losses(
      jnp.stack(values),
      jnp.stack([s.count > 0 for s in sums]),
      tuple(t.weight for t in tasks),
      each_loss(tasks, logits, self.batch, at_labels) if sharing.each_example else None,
      self._others(params, control),
    )
    charges = sharing.charges(static, learnt, memory, self.moving, control, signals, losses)
    charge: Any = sum(charges.values())
    total = dot(losses.prior, values) + charge
    parts = {f"loss/{task.name}": value for task, value in zip(tasks, values, strict=True)}
    parts |= {f"penalty/{name}": value for name, value in charges.items()}
    parts["loss/total"] = jnp.asarray(total)
    parts["rate"] = signals.executed.mean()
    parts |= sharing.gauges(static, learnt, memory, control)
    held = jax.lax.stop_gradient((learnt, memory, control, signals, losses))
    memory = sharing.remember(static, *held)
    runs = signals.executed.max(1) > 0
    return values, charge, Aside(parts, stats, memory, self.state.balance, losses, runs)

  def _others(self, params: PyTree, control: PyTree) -> tuple[types.Sums, ...]:
    """Losses of every example under the other controls that the sharing asks for."""
    tasks, at_labels = self.objective.tasks, self.objective.at_labels
    found = []
    for other in self.objective.sharing.others(self.spec.sharing, control):
      (logits, _), _ = self.apply(params, self.state.stats, self.inputs, other, True)
      found.append(each_loss(tasks, logits, self.batch, at_labels))
    return tuple(found)


def dot(weights: Sequence[Any], values: Sequence[Any]) -> Any:
  """The weighed sum, in the tasks' order."""
  return sum(weight * value for weight, value in zip(weights, values, strict=True))
