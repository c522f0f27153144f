"""MPPS: hard sharing whose channels belong to single tasks at first, and to all of them at last.

Only the training differs from hard sharing. Every step draws a mask a task for the channels of the
last blocks: a channel's owner always uses it, its guests at random. How likely they do is learnt,
by the tasks' losses and a divergence from targets that a schedule moves from disjoint to shared.

Source: Shi et al. 2023, Deep Multitask Learning with Progressive Parameter Sharing. Differs: the
  factor 1 / (T - 1) that their Eq. 4 and Algorithm 1 lost; masks behind norms, see
  `models.trunks.masked`; an owner's mask is 1 for certain (theirs is 0 in one step of a hundred);
  probabilities are logits with an optimiser of their own, fast enough for short runs, which neither
  weight decay nor a balancer reaches; a running mean of each task's loss is taken off in the score
  function; epochs are equal parts of the run, however long it is.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynashare_jax import lookup
from dynashare_jax.methods import _schedule
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.models.trunks import masked
from dynashare_jax.objectives import balancing
from dynashare_jax.ops import exclusive
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip
from dynashare_jax.types import PyTree

_LAYERS = 6  # that have masks, where the configuration does not say
_SLOWEST, _WAYS = 0.01, 5  # learning rate of long runs; of short ones: ways that it makes in all
_COLUMNS = 11  # of epochs in the report
_MOST_TASKS = 5  # whose pairs are shown layer by layer
NOTES = (
  "Masks work in training alone: the finished model is one of hard sharing, with its parameters and"
  " multiply-accumulates, and is not faster. What was learnt of masks is not part of it.",
)


@dataclasses.dataclass(frozen=True)
class ExclusiveSharing(skip.SkipSharing):
  """Hard sharing with masks in training.

  Learnt are logits `[T, C]` of each masked layer by its name. The memory holds the `epoch` of the
  targets; `target` `[T, C]` of each layer; `reached` `[E]`, the mean exclusive capacity at the
  beginning of every epoch; the running mean of each task's loss, `mean` `[T]`, and in how many
  steps it had one, `steps` `[T]`.

  Attributes:
    layers: names and channels of those that have masks.
    family: see `ops.exclusive.FAMILIES`.
    epsilon: probabilities start at it or 1 minus it, and targets stay between.
    starts: the first step of every epoch.
    wanted: exclusive capacity of every epoch.
    updating: whether targets start from what is learnt; else all guests have the same.
    average: share of the past in the running mean; 0 takes nothing off.
    weight: of the divergence, a sum over channels.
    prior: the tasks' weights in the configuration.
  """

  layers: tuple[tuple[str, int], ...] = ()
  family: str = "bernoulli"
  epsilon: float = 0.01
  starts: tuple[int, ...] = (0,)
  wanted: tuple[float, ...] = (1.0,)
  updating: bool = True
  average: float = 0.99
  weight: float = 1.0
  prior: tuple[float, ...] = ()

  @property
  def pathwise(self) -> bool:  # type: ignore[override]
    """Whether masks have gradients: Gaussian ones."""
    return self.family == "gaussian"

  def owns(self, channels: int) -> np.ndarray:
    """Returns which task owns which of a layer's channels, bool `[T, C]`."""
    tasks = len(self.names)
    return exclusive.owners(tasks, channels)[None] == np.arange(tasks)[:, None]

  def phi(self, learnt: PyTree) -> dict[str, jax.Array]:
    """Returns how likely each task uses each channel, `[T, C]` of every layer.

    Owners stay where they started, because nothing moves them.
    """
    return {name: exclusive.probabilities(learnt[name], self.epsilon) for name, _ in self.layers}

  def init(self, key: jax.Array, given: Any = None) -> PyTree:
    """Returns logits at the capacity of the first epoch."""
    del key, given
    return {name: exclusive.logits(of, self.epsilon) for name, of in self._first().items()}

  def _first(self) -> dict[str, jax.Array]:
    """Probabilities of the first epoch."""
    wanted = self._clipped(self.wanted[0])
    start = lambda channels: exclusive.scheduled(self.owns(channels), wanted, self.epsilon)
    return {name: start(channels) for name, channels in self.layers}

  def _clipped(self, values: Any) -> jax.Array:
    """Within what targets may be."""
    return jnp.clip(jnp.asarray(values), self.epsilon, 1 - self.epsilon)

  def memory(self, params: PyTree) -> PyTree:
    """Returns the targets of the first epoch, where all is, and means of nothing."""
    del params
    tasks = len(self.names)
    return {
      "epoch": jnp.zeros((), jnp.int32),
      "target": self._first(),
      "reached": jnp.zeros((len(self.starts),)),
      "mean": jnp.zeros((tasks,)),
      "steps": jnp.zeros((tasks,)),
    }

  def structures(self, learnt: PyTree, memory: PyTree, key: jax.Array) -> jax.Array:
    """Returns the one route: every task executes all."""
    del learnt, memory, key
    return jnp.ones((1, len(self.names), self.blocks))

  def static(self, phase: contract.Phase, structure: PyTree) -> Any:
    """Returns nothing: all steps are alike."""
    del phase, structure
    return ()

  def knobs(self, phase: contract.Phase, offset: int, step: int) -> Mapping[str, jax.Array]:
    """Returns nothing: a step's number says all."""
    del phase, offset, step
    return {}

  def free(self, moving: contract.Moving) -> Any:
    """Returns None: all logits may move."""
    del moving

  def control(
    self, static: Any, learnt: PyTree, moving: contract.Moving, step: Any, batch: int
  ) -> Any:
    """Draws the masks of the step; an owner's are 1."""
    del static, batch
    found = {}
    for name, phi in self.phi(learnt).items():
      if self.family == "bernoulli":
        phi = jax.lax.stop_gradient(phi)
      drawn = exclusive.sample(phi, self.family, moving.seed, name, step)
      found[name] = jnp.where(self.owns(phi.shape[1]), 1.0, self._unweighted(drawn))
    epoch = (jnp.asarray(self.starts) <= step).sum() - 1
    return masked.Masks(found, epoch.astype(jnp.int32))

  def _unweighted(self, drawn: jax.Array) -> jax.Array:
    """The same masks, with the gradient of losses without the configuration's weights."""
    still = jax.lax.stop_gradient(drawn)
    scale = [1 / weight if weight else 0.0 for weight in self.prior]
    return still + jnp.asarray(scale)[:, None] * (drawn - still)

  def _targets(
    self, phi: Mapping[str, jax.Array], memory: PyTree, control: masked.Masks
  ) -> dict[str, jax.Array]:
    """Targets of the step: new ones where an epoch begins."""
    wanted = self._clipped(self.wanted)[control.epoch]
    found = {}
    for name, now in phi.items():
      owns = self.owns(now.shape[1])
      if self.updating:
        new = exclusive.target(now, owns, wanted, self.epsilon)
      else:
        new = exclusive.scheduled(owns, wanted, self.epsilon)
      begins = control.epoch != memory["epoch"]
      found[name] = jnp.where(begins, self._clipped(new), memory["target"][name])
    return found

  def _divergence(self, learnt: PyTree, targets: Mapping[str, jax.Array]) -> jax.Array:
    """The weighed sum over tasks and the channels that they do not own."""
    total = jnp.zeros(())
    for name, phi in self.phi(learnt).items():
      each = exclusive.divergence(phi, jax.lax.stop_gradient(targets[name]), self.family)
      total += jnp.where(self.owns(phi.shape[1]), 0.0, each).sum()
    return self.weight * total

  def charges(
    self,
    static: Any,
    learnt: PyTree,
    memory: PyTree,
    moving: contract.Moving,
    control: Any,
    signals: trunks.Signals,
    losses: balancing.Losses,
  ) -> dict[str, jax.Array]:
    """Returns the divergence from the targets.

    Of Bernoulli masks its gradient holds the score function's of the unweighted losses, too.
    """
    del static, moving, signals
    phi = self.phi(learnt)
    charge = self._divergence(learnt, self._targets(jax.lax.stop_gradient(phi), memory, control))
    if self.family == "bernoulli":
      logs = jnp.zeros((len(self.names),))
      for name, each in phi.items():
        of = exclusive.log_probabilities(control.of[name], each)
        logs += jnp.where(self.owns(each.shape[1]), 0.0, of).sum(1)
      gains = losses.value
      if self.average:
        gains -= jnp.where(memory["steps"] > 0, memory["mean"], losses.value)
      gains = jnp.where(losses.labelled, gains, 0.0)
      charge += exclusive.score(gains, logs)
    return {"divergence": charge}

  def pulls(
    self, static: Any, learnt: PyTree, memory: PyTree, moving: contract.Moving
  ) -> dict[str, PyTree]:
    """Returns the divergence's gradient, from the targets before the step."""
    del static, moving
    return {"divergence": jax.grad(self._divergence)(learnt, memory["target"])}

  def remember(
    self,
    static: Any,
    learnt: PyTree,
    memory: PyTree,
    control: Any,
    signals: trunks.Signals,
    losses: balancing.Losses,
  ) -> PyTree:
    """Keeps the targets, and moves the mean losses of the tasks that have labels."""
    del static, signals
    phi, steps = self.phi(learnt), memory["steps"] + losses.labelled
    share = jnp.maximum(1 / jnp.maximum(steps, 1), 1 - self.average) * losses.labelled
    begins = control.epoch != memory["epoch"]
    reached = memory["reached"].at[control.epoch].set(_capacity(phi))
    return {
      "epoch": control.epoch,
      "target": self._targets(phi, memory, control),
      "reached": jnp.where(begins, reached, memory["reached"]),
      "mean": memory["mean"] + share * (losses.value - memory["mean"]),
      "steps": steps,
    }

  def gauges(
    self, static: Any, learnt: PyTree, memory: PyTree, control: masked.Masks
  ) -> dict[str, jax.Array]:
    """Returns the mean exclusive capacity, and the one that is wanted."""
    del static, memory
    return {
      "capacity/reached": _capacity(self.phi(learnt)),
      "capacity/wanted": self._clipped(self.wanted)[control.epoch],
    }

  def lines(
    self, phase: contract.Phase, learnt: PyTree, memory: PyTree
  ) -> dict[str, dict[str, Any]]:
    """Returns the exclusive capacity at the end of every epoch, and the one that was wanted."""
    del phase
    wanted, reached = self._history(learnt, memory)
    return {"capacity": {"start": list(self.starts), "wanted": wanted, "reached": reached}}

  def _history(self, learnt: PyTree, memory: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """`[E]` capacities that were wanted, and that were reached at the epochs' ends."""
    last = np.asarray(_capacity(self.phi(learnt)))
    reached = np.append(np.asarray(memory["reached"])[1:], last)
    return np.asarray(self._clipped(self.wanted)), reached

  def panels(self, learnt: PyTree, memory: PyTree, params: PyTree) -> contract.Panels:
    """Returns how exclusive channels were, who uses whose, and how sure that is."""
    del params
    phi = {name: np.asarray(of, np.float64) for name, of in self.phi(learnt).items()}
    epochs = np.unique(np.linspace(0, len(self.starts) - 1, _COLUMNS).round().astype(int))
    capacities = np.stack(self._history(learnt, memory))[:, epochs]
    panels = [
      contract.Panel(
        "Exclusive capacity", capacities, ("wanted", "reached"), [str(epoch) for epoch in epochs]
      ),
      contract.Panel("Use of channels", self._uses(phi), self.names, self.names),
    ]
    layers = [name.removeprefix("block_") for name in phi]
    if 2 < len(self.names) <= _MOST_TASKS:
      names, shares = self._shares(phi)
      panels.append(contract.Panel("Share of a guest", shares, names, layers))
    title, spread = "Entropy of masks, bits", exclusive.entropy
    if self.family == "gaussian":
      title, spread = "Deviation of masks", exclusive.deviation
    guests = lambda task, of: of[task, ~self.owns(of.shape[1])[task]]
    spreads = [
      [float(spread(guests(task, of)).mean()) for of in phi.values()]
      for task in range(len(self.names))
    ]
    panels.append(contract.Panel(title, np.asarray(spreads), self.names, layers))
    return contract.Panels("Whose channels are whose", self._caption(phi, panels), panels)

  def _owned(self, phi: Mapping[str, np.ndarray], task: int) -> list[np.ndarray]:
    """Of each layer `[T, c]`, the channels that a task owns."""
    return [of[:, self.owns(of.shape[1])[task]] for of in phi.values()]

  def _uses(self, phi: Mapping[str, np.ndarray]) -> np.ndarray:
    """`[T, T]`, how likely a task (column) uses channels of each owner (row), over all layers."""
    count = len(self.names)
    means = [np.concatenate(self._owned(phi, task), 1).mean(1) for task in range(count)]
    return np.where(np.eye(count, dtype=bool), 1.0, means)

  def _shares(self, phi: Mapping[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    """A name for every owner and guest, and the guest's share of guests' phi, layer by layer."""
    names, rows = [], []
    for owner, of in enumerate(self.names):
      for guest, name in enumerate(self.names):
        if guest != owner:
          own = self._owned(phi, owner)
          rows.append([(one[guest] / (one.sum(0) - one[owner])).mean() for one in own])
          names.append(f"{name} in {of}")
    return names, np.asarray(rows)

  def _caption(self, phi: Mapping[str, np.ndarray], panels: list[contract.Panel]) -> str:
    """Says how to read the panels, and how many channels a guest likes more than their owner."""
    every = np.concatenate(list(phi.values()), 1)
    owns = np.concatenate([self.owns(of.shape[1]) for of in phi.values()], 1)
    lost = (np.where(owns, 0, every).max(0) > np.where(owns, every, 0).max(0)).sum()
    shares = (
      " Share of a guest: on channels of an owner, a guest's probability over that of all guests,"
      " a mean; equal ones are all as similar to the owner."
    )
    return (
      "Exclusive capacity at the ends of epochs (of targets): 1 if only owners use channels, 0 if"
      " all tasks do."
      " Use of channels: how likely a task (column) uses channels that another (row) owns."
      f"{shares if len(panels) > 3 else ''} {panels[-1].title}: of guests, in every layer."
      f" {lost} of {every.shape[1]} channels have a guest that is likelier than their owner."
    )


def _capacity(phi: Mapping[str, jax.Array]) -> jax.Array:
  """The mean exclusive capacity over the channels of all layers."""
  return jnp.concatenate([exclusive.capacity(of) for of in phi.values()]).mean()


def build(parts: contract.Parts) -> contract.Method:
  """One plain training of the shared network and of what is learnt of masks."""
  settings, backbone = parts.config.exclusive, parts.backbone()
  if getattr(backbone, "norm_kind", "") == "common":  # No loss may reach another task's channels.
    backbone = backbone.clone(norm_kind="batch")
  _check(parts)
  (phase,) = _schedule.plain(parts.config, "policy")
  phase = dataclasses.replace(phase, record=True)
  starts = _starts(parts, phase.steps)
  if len(starts) < 2 and settings.schedule not in exclusive.CONSTANT:
    raise ValueError(
      f"config.exclusive.schedule={settings.schedule!r} changes between epochs, but the run has"
      f" {len(starts)} epoch: give config.train.steps more, or cut the run into several by"
      " config.exclusive.epochs."
    )
  wanted = exclusive.schedule(settings.schedule, len(starts), _frozen(settings, len(starts)))
  first = _first_block(settings.blocks, backbone)
  layers = tuple(
    (layer.name, layer.channels)
    for block in range(first, parts.blocks)
    for layer in backbone.layers(block)
  )
  tasks = parts.spec.tasks
  for name, channels in layers:
    if channels < len(tasks):
      raise ValueError(
        f"config.method='mpps' gives every task channels of its own, but {name} has {channels} for"
        f" {len(tasks)} tasks: choose wider layers in config.model."
      )
  plain = skip.make(parts, (phase,), skip.every_block(len(tasks), parts.blocks))
  sharing = skip.extended(
    plain,
    ExclusiveSharing,
    layers=layers,
    family=settings.family,
    epsilon=settings.epsilon,
    starts=starts,
    wanted=tuple(wanted.tolist()),
    updating=settings.updating,
    average=settings.average,
    weight=settings.weight,
    prior=tuple(task.weight for task in tasks),
  )
  trunk = masked.MaskedTrunk(
    backbone,
    len(tasks),
    sharing.gated,
    dtype=parts.dtype,
    first=first,
    place=parts.config.compat.mask_at,
  )
  rate = _rate(settings, phase.steps)
  adam = lambda train, weights: optax.adam(rate)
  return contract.Method("mpps", (phase,), trunk, sharing, optimizers={"policy": adam}, notes=NOTES)


def _check(parts: contract.Parts) -> None:
  """Refuses values without sense."""
  settings = parts.config.exclusive
  lookup.one_of("config.exclusive.schedule", settings.schedule, exclusive.SCHEDULES)
  lookup.one_of("config.exclusive.family", settings.family, exclusive.FAMILIES)
  _schedule.check(
    parts.config,
    "exclusive",
    ("epsilon", 0 < settings.epsilon < 0.5, "above 0 and below 0.5"),
    (
      "blocks",
      0 <= settings.blocks <= parts.blocks,
      f"from 0 to the {parts.blocks} of the network",
    ),
    ("epochs", settings.epochs >= 0, "at least 0"),
    ("average", 0 <= settings.average < 1, "in [0, 1)"),
    ("weight", settings.weight >= 0, "at least 0"),
    ("lr", settings.lr >= 0, "at least 0"),
  )
  if len(parts.spec.tasks) < 2:
    raise ValueError(
      f"config.method='mpps' parts tasks, but {parts.spec.name} has one task alone"
      f" ({parts.spec.tasks[0].name}): train more tasks, or use config.method='single'."
    )


def _starts(parts: contract.Parts, steps: int) -> tuple[int, ...]:
  """The first step of every epoch: of passes over the training data, or of equal parts."""
  count = parts.config.exclusive.epochs
  if count:
    count = min(count, steps)
    return tuple(-(-steps * epoch // count) for epoch in range(count))
  return tuple(range(0, steps, -(-parts.spec.sizes["train"] // parts.config.train.batch_size)))


def _frozen(settings: Any, epochs: int) -> int:
  """How many epochs targets stay where they are, at either end."""
  frozen = settings.frozen
  count = round(frozen * epochs) if frozen < 1 else frozen
  if count != int(count) or not 0 <= 2 * count <= epochs:
    raise ValueError(
      "config.exclusive.frozen must be a share of the run, at most 0.5, or a number of its epochs,"
      f" at most half of them; it is {frozen}, and there are {epochs} epochs."
    )
  return int(count)


def _rate(settings: Any, steps: int) -> float:
  """The learning rate of the logits: given, or at which Adam makes the whole way several times."""
  if settings.lr:
    return float(settings.lr)
  ends = np.asarray([[settings.epsilon, 1 - settings.epsilon]], np.float32)
  way = float(np.ptp(exclusive.logits(ends, settings.epsilon)))
  return max(_SLOWEST, _WAYS * way / steps)


def _first_block(blocks: int, backbone: Any) -> int:
  """The first block with masks: there are `blocks` of them, or as few as have six layers."""
  if blocks:
    return int(backbone.num_blocks - blocks)
  block, found = backbone.num_blocks, 0
  while block and found < _LAYERS:
    block -= 1
    found += len(backbone.layers(block))
  return int(block)
