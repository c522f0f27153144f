"""GatedMTL: of every channel a task has its own or takes the shared one; the rest is cut out.

A column for every task and a shared one are trained in step, with a gate for every channel and
task; a hinge keeps the share of own channels at a target. Then gates are fixed and the weights
trained on. Channels that nobody takes are left out of the finished network.

Source: GatedMTL (ICLR 2024 submission; later InterroGate). Differs: the shared column reads what
  the tasks took (`compat.mix`); gates are fixed for the last steps, so that what validation chooses
  has the structure that is kept; the hinge is multiplied by the mean number of channels of a place,
  as its printed form hardly moves a gate; columns start from one network's weights only where a
  finished run of `single` is named (`config.model.weights`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynashare_jax import lookup
from dynashare_jax.methods import _schedule
from dynashare_jax.models.trunks import gated
from dynashare_jax.ops import channel_gates
from dynashare_jax.ops import streams
from dynashare_jax.sharing import contract

STARTS = "scratch", "single"
USES = "channels", "work"
_EITHER, _LEARNED, _FIXED = "own or shared columns", "learned gates", "fixed gates"
_NOISE, _OPEN = 0.01, 1.0  # of alpha at the start: from scratch about 0, after own columns open


@dataclasses.dataclass(frozen=True)
class ChannelSharing(contract.Sharing):
  """Learns `alpha`, place by place: a task has its own channel where it is above 0.

  A structure is the gates of every place, `[T, C]` of 0 and 1.

  Attributes:
    tasks: names, in order.
    places: names and channels.
    weights: of every place, see `ops.channel_gates.use`.
    targets: most use of every task.
    weight: of the excess.
    start: one of `STARTS`.
    budget: whether gates are fixed within the targets.
  """

  tasks: tuple[str, ...]
  places: tuple[tuple[str, int], ...]
  weights: tuple[float, ...]
  targets: tuple[float, ...]
  weight: float
  start: str = "scratch"
  budget: bool = False

  @property
  def _shares(self) -> dict[str, float]:
    return {name: weight for (name, _), weight in zip(self.places, self.weights, strict=True)}

  def _filled(self, value: float) -> dict[str, jax.Array]:
    """The same for all channels."""
    return {name: jnp.full((len(self.tasks), channels), value) for name, channels in self.places}

  def init(self, key: jax.Array, given: Any = None) -> dict[str, jax.Array]:
    """Returns alpha: near 0, or open after own columns."""
    del given
    if self.start == "single":
      return self._filled(_OPEN)
    keys = jax.random.split(key, len(self.places))
    zeros = self._filled(0.0).items()
    return {
      n: _NOISE * jax.random.normal(k, a.shape) for k, (n, a) in zip(keys, zeros, strict=True)
    }

  def blank(self, count: int) -> dict[str, jax.Array]:
    """Returns zeros `[N, T, C]` of every place."""
    return jax.tree.map(lambda a: jnp.zeros((count, *a.shape)), self._filled(0.0))

  def structures(self, learnt: Any, memory: Any, key: jax.Array) -> Any:
    """Returns the gates that are fixed, leading axis 1."""
    del memory, key
    return jax.tree.map(lambda gates: gates[None], self._fixed(learnt))

  def _fixed(self, learnt: Any) -> dict[str, jax.Array]:
    if self.budget:
      found = channel_gates.within(jax.device_get(learnt), self.targets, self._shares)
      return jax.tree.map(jnp.asarray, found)
    return jax.tree.map(channel_gates.opened, learnt)

  def structure(self, phase: contract.Phase, learnt: Any, structures: Any) -> Any:
    """Returns the gates that an evaluation within a phase uses."""
    if phase.candidate >= 0:
      return self.chosen(structures, phase.candidate)
    if phase.settings == _EITHER:
      return jax.device_get(self._filled(1.0))
    return jax.device_get(jax.tree.map(channel_gates.opened, learnt))

  def chosen(self, structures: Any, candidate: int) -> Any:
    """Returns the gates of a finished model."""
    return jax.tree.map(lambda a: np.asarray(a[candidate], np.float32), structures)

  def static(self, phase: contract.Phase, structure: Any) -> str:
    """Returns who decides."""
    del structure
    return str(phase.settings)

  def everything(self) -> Any:
    """Returns open gates; all columns are computed under any."""
    return self._filled(1.0)

  def control(
    self, static: str, learnt: Any, moving: contract.Moving, step: Any, batch: int
  ) -> Any:
    """Returns the gates: learned, fixed, or of every task all open or all closed, by lot."""
    del batch
    if static == _LEARNED:
      return jax.tree.map(channel_gates.opened, learnt)
    if static == _FIXED:
      return moving.structure
    key = streams.stream_key(moving.seed, "gated", step)
    own = jax.random.bernoulli(key, 0.5, (len(self.tasks), 1)).astype(jnp.float32)
    return jax.tree.map(lambda gates: gates * own, self._filled(1.0))

  def charges(
    self,
    static: str,
    learnt: Any,
    memory: Any,
    moving: Any,
    control: Any,
    signals: Any,
    losses: Any,
  ) -> dict[str, jax.Array]:
    """Returns the weighted excess of own channels, while gates are learned."""
    del memory, moving, control, signals, losses
    return {"excess": self._excess(learnt)} if static == _LEARNED else {}

  def _excess(self, learnt: Any) -> jax.Array:
    scale = self.weight * np.mean([channels for _, channels in self.places])
    return scale * channel_gates.excess(learnt, self.targets, self._shares)

  def pulls(self, static: str, learnt: Any, memory: Any, moving: Any) -> dict[str, Any]:
    """Returns the gradient of the weighted excess."""
    del memory, moving
    return {"excess": jax.grad(self._excess)(learnt)} if static == _LEARNED else {}

  def at_test(self, structure: Any, **options: Any) -> tuple[tuple[()], Any]:
    """Returns the gates, as arrays."""
    del options
    return (), jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), structure)

  def control_at_test(self, static: Any, arrays: Any, places: Any = None) -> Any:
    """Returns the gates."""
    del static, places
    return arrays

  def noted(self, structure: Any) -> dict[str, Any]:
    """Returns the share of own channels of every task."""
    return {"own": self._use(structure).tolist()}

  def _use(self, structure: Any) -> np.ndarray:
    gates = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), structure)
    return np.asarray(channel_gates.use(gates, self._shares))

  def lines(self, phase: contract.Phase, learnt: Any, memory: Any) -> dict[str, dict[str, Any]]:
    """Returns the use of own channels, of open gates and soft, as the gates end."""
    del phase, memory
    soft = jax.tree.map(jax.nn.sigmoid, learnt)
    return {"channels": {"open": self._use(self._fixed(learnt)), "soft": self._use(soft)}}

  def panels(self, learnt: Any, memory: Any, params: Any) -> contract.Panels:
    """Returns the share of own channels, and what the shared column reads, place by place."""
    del memory
    names = [name.replace("_", " ") for name, _ in self.places]
    gates = self._fixed(learnt)
    own = np.stack([np.asarray(gates[name]).mean(1) for name, _ in self.places], 1)
    beta = params["trunk"]["mixing"]
    share = lambda name: np.asarray(jax.nn.softmax(jnp.asarray(beta[name]), 0)).mean(1)
    read = np.stack([share(name) for name, _ in self.places], 1)
    return contract.Panels(
      "Which channels the tasks have of their own",
      "On the left, the share of channels that a task takes from its own column after the stem and"
      " every block; the others are shared. On the right, what the shared column reads of each"
      " task's features, a mean over channels.",
      (
        contract.Panel("Own channels", own, self.tasks, names),
        contract.Panel("Read by the shared column", read, self.tasks, names),
      ),
    )

  def describe(self, phase: contract.Phase) -> str:
    """Returns who decides."""
    return str(phase.settings)


def build(parts: contract.Parts) -> contract.Method:
  """Own or shared columns if `gated.start` says so, then learned gates, then fixed ones."""
  config, settings, tasks = parts.config, parts.config.gated, parts.spec.tasks
  backbone = parts.backbone()
  _check(parts, backbone)
  columns = (backbone, *(parts.backbone() for _ in tasks))
  trunk = gated.GatedTrunk(columns, settings.inner, config.compat.mix == "before")
  places = gated.places(backbone, settings.inner)
  targets = tuple(float(target) for target in settings.targets)
  sharing = ChannelSharing(
    tuple(task.name for task in tasks),
    places,
    _weights(parts, places),
    targets if len(targets) > 1 else targets * len(tasks),
    settings.weight,
    settings.start,
    settings.use == "work",
  )
  moved = lambda train, weights: optax.adam(settings.lr)
  same = lambda train, weights: weights(train.lr)
  optimizers = {"policy": moved, "mixing": moved, "shared": same}
  return contract.Method("gated", _phases(config), trunk, sharing, optimizers=optimizers)


def _phases(config: Any) -> tuple[contract.Phase, ...]:
  """One or two stretches of all weights, then one with fixed gates."""
  steps = _schedule.positive(config.train.steps, "train.steps")
  fixed = round(config.gated.fixed * steps)
  if not 1 <= fixed < steps:
    raise ValueError(
      "config.gated.fixed must leave a step with learned gates and one with fixed ones, but is"
      f" {config.gated.fixed} of {steps} steps (config.train.steps)."
    )
  weights = ("backbone", "shared", "mixing", "heads")
  learned = contract.Phase(
    "weights",
    steps - fixed,
    trainable=(*weights, "policy"),
    settings=_LEARNED,
    optimizer="retrain",
    evaluate=True,
    record=True,
    title="gates",
  )
  last = contract.Phase(
    "retrain", fixed, "train", weights, _FIXED, candidate=0, optimizer="retrain", select=True
  )
  if config.gated.start == "scratch":
    return learned, last
  (first,) = _schedule.plain_warmup(config)
  first = dataclasses.replace(first, trainable=weights, settings=_EITHER)
  return first, learned, last


def _weights(parts: contract.Parts, places: tuple[tuple[str, int], ...]) -> tuple[float, ...]:
  """Of every place, its part of the use: alike, or by the work of the block."""
  if parts.config.gated.use == "channels":
    return (1 / len(places),) * len(places)
  costs = parts.costs()
  within = [name.split(".")[0] for name, _ in places]
  price = [costs[int(n.split("_")[1])] / within.count(n) if n != "stem" else 0.0 for n in within]
  return tuple(p / sum(price) for p in price)


def _check(parts: contract.Parts, backbone: Any) -> None:
  """Refuses values without sense, and backbones whose channels cannot be cut out."""
  settings, model, count = parts.config.gated, parts.config.model, len(parts.spec.tasks)
  lookup.one_of("config.gated.start", settings.start, STARTS)
  lookup.one_of("config.gated.use", settings.use, USES)
  lookup.one_of("config.compat.mix", parts.config.compat.mix, ("after", "before"))
  _schedule.check(
    parts.config,
    "gated",
    ("weight", settings.weight >= 0, "at least 0"),
    ("lr", settings.lr > 0, "above 0"),
    ("targets", all(0 <= t <= 1 for t in settings.targets), "in [0, 1]"),
    ("targets", len(settings.targets) in (1, count), f"one number, or {count}, one a task"),
  )
  if not backbone.cuts:
    raise ValueError(
      f"config.method='gated' gates channels, which config.model.backbone={model.backbone!r} cannot"
      f" be cut to with config.model.norm={model.norm!r}: use a resnet, vgg or tcn with batch norm,"
      " an mlp or a vit."
    )
  if model.head == "dpt":
    raise ValueError(
      "config.method='gated' gates what blocks give, but config.model.head='dpt' reads it"
      " ungated: use another head."
    )
