"""Deep elastic networks: one backbone; a selector chooses the width of every block.

A selector reads the raw input and chooses, for every example, task and block, whether no, a
quarter, half or all of the block's inner channels are used. First the weights are trained with
random widths in part of each batch; then the selector (by REINFORCE) and the weights (with its
likeliest choices) in turn; and last the weights alone.

Source: Ahn et al. 2019. Differs: the reward holds the loss of one example, as tasks may be dense,
  and a running mean of each task's rewards is taken off; choices are drawn from the selector alone,
  without a share of random ones; log probabilities are sums; one selector, a small copy of the
  backbone, serves all tasks; in the first stretch all tasks have the same random widths.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynashare_jax.methods import _schedule
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.models.trunks import elastic
from dynashare_jax.objectives import balancing
from dynashare_jax.ops import streams
from dynashare_jax.ops import widths
from dynashare_jax.sharing import contract
from dynashare_jax.types import PyTree

RANDOM, SAMPLED, LIKELIEST = "random widths", "sampled widths", "the selector's widths"
NOTES = (
  "Widths are masks: every block is computed at full width, for every task apart, so that no time"
  " is saved. Execution rates are the widths that are used.",
)


@dataclasses.dataclass(frozen=True)
class ElasticSharing(contract.Sharing):
  """Draws widths, and rewards the selector.

  The memory holds the running mean of each task's reward, `mean` `[T]`, and in how many steps it
  had one, `steps` `[T]`; and the share of examples at each level, `levels` `[T, L, levels]`, a mean
  over the last of `chosen` steps with the selector's likeliest widths.

  Attributes:
    names: of the tasks.
    blocks: L.
    share: of each batch that has random widths, in the first stretch.
    rho: see `ops.widths.rewards`.
    average: share of the past in the running mean.
  """

  each_example = True

  names: tuple[str, ...]
  blocks: int
  share: float = 0.25
  rho: float = 10.0
  average: float = 0.9

  def memory(self, params: PyTree) -> PyTree:
    """Returns means of nothing."""
    del params
    tasks = len(self.names)
    return {
      "mean": jnp.zeros((tasks,)),
      "steps": jnp.zeros((tasks,)),
      "levels": jnp.zeros((tasks, self.blocks, widths.LEVELS)),
      "chosen": jnp.zeros((), jnp.int32),
    }

  def static(self, phase: contract.Phase, structure: PyTree) -> str:
    """Returns who decides about widths."""
    del structure
    return str(phase.settings)

  def everything(self) -> elastic.Levels:
    """Returns that the selector chooses, so that it is counted, and every task's own pass."""
    return elastic.Levels(chosen=True)

  def control(
    self, static: str, learnt: PyTree, moving: contract.Moving, step: Any, batch: int
  ) -> elastic.Levels:
    """Draws random widths of the first examples of the batch, or the noise of the choices."""
    del learnt
    if static == LIKELIEST:
      return elastic.Levels(chosen=True)
    key = streams.stream_key(moving.seed, "widths", step)
    if static == SAMPLED:
      shape = (len(self.names), batch, self.blocks, widths.LEVELS)
      return elastic.Levels(chosen=True, noise=jax.random.gumbel(key, shape))
    drawn = jax.random.randint(key, (batch, self.blocks), 0, widths.LEVELS)
    random = jnp.arange(batch) < round(self.share * batch)
    return elastic.Levels(jnp.where(random[:, None], drawn, widths.LEVELS - 1))

  def control_at_test(self, static: Any, arrays: PyTree, places: Any = None) -> elastic.Levels:
    """Returns that the selector's likeliest choices count."""
    del static, arrays, places
    return self.everything()

  def charges(
    self,
    static: str,
    learnt: PyTree,
    memory: PyTree,
    moving: contract.Moving,
    control: elastic.Levels,
    signals: trunks.Signals,
    losses: balancing.Losses,
  ) -> dict[str, jax.Array]:
    """Returns the selector's loss where widths are sampled."""
    del learnt, moving, control
    if static != SAMPLED:
      return {}
    rewards, known = self._rewards(signals, losses)
    expected = jnp.where(memory["steps"] > 0, memory["mean"], _means(rewards, known))
    return {"selector": widths.reinforce(signals.own, rewards - expected[:, None], known)}

  def remember(
    self,
    static: str,
    learnt: PyTree,
    memory: PyTree,
    control: elastic.Levels,
    signals: trunks.Signals,
    losses: balancing.Losses,
  ) -> PyTree:
    """Moves the mean reward of the tasks that have labels, or the share of each level."""
    del learnt, control
    if static == RANDOM:
      return memory
    if static == LIKELIEST:
      steps = memory["chosen"] + 1
      found = widths.shares(signals.executed)
      moved = memory["levels"] + contract.weight_of(steps) * (found - memory["levels"])
      return {**memory, "levels": moved, "chosen": steps}
    rewards, known = self._rewards(signals, losses)
    mean, steps = memory["mean"], memory["steps"]
    past = jnp.where(steps > 0, self.average, 0.0)
    moved = past * mean + (1 - past) * _means(rewards, known)
    there = known.any(1)
    return {**memory, "mean": jnp.where(there, moved, mean), "steps": steps + there}

  def _rewards(
    self, signals: trunks.Signals, losses: balancing.Losses
  ) -> tuple[jax.Array, jax.Array]:
    """`[T, B]` rewards, and which examples have a label."""
    assert losses.each is not None  # `each_example`
    each, known = balancing.means(losses.each)
    weighed = jnp.asarray(losses.prior)[:, None] * each
    return widths.rewards(signals.executed, weighed, self.rho), known

  def panels(self, learnt: PyTree, memory: PyTree, params: PyTree) -> contract.Panels:
    """Returns how many examples use how much of every block, task by task."""
    del learnt, params
    levels = [f"{part:.0%}" for part in widths.FRACTIONS]
    blocks = [f"block {block}" for block in range(self.blocks)]
    return contract.Panels(
      "How wide the blocks are",
      "Share of the examples for which a task uses so many of a block's inner channels: the"
      " selector's likeliest widths, as means over about the last hundred steps of training. A"
      " column sums to 1.",
      [
        contract.Panel(name, np.asarray(shares).T[::-1], levels[::-1], blocks)
        for name, shares in zip(self.names, memory["levels"], strict=True)
      ],
    )

  def describe(self, phase: contract.Phase) -> str:
    """Returns who decides about widths."""
    return str(phase.settings)


def _means(values: jax.Array, known: jax.Array) -> jax.Array:
  """Of each row, over what is known; 0 of nothing."""
  return jnp.where(known, values, 0.0).sum(1) / jnp.maximum(known.sum(1), 1)


def build(parts: contract.Parts) -> contract.Method:
  """Random widths, then selector and weights in turn, then weights alone."""
  settings, model, tasks = parts.config.elastic, parts.config.model, len(parts.spec.tasks)
  _check(parts)
  part = settings.size
  small = parts.backbone(
    blocks=(1,) * len(model.blocks),
    width_factor=part * model.width_factor,
    width=max(round(part * model.width), 1),
    hidden=max(round(part * model.hidden), 1),
    norm="group",
  )
  selector = elastic.Selector(small, tasks, parts.blocks)
  trunk = elastic.ElasticTrunk(parts.backbone(), selector, tuple(range(tasks)))
  names = tuple(task.name for task in parts.spec.tasks)
  sharing = ElasticSharing(names, parts.blocks, settings.random, settings.rho, settings.average)
  adam = lambda train, weights: optax.adam(settings.lr)
  return contract.Method(
    "den", _phases(parts.config), trunk, sharing, optimizers={"selector": adam}, notes=NOTES
  )


def _check(parts: contract.Parts) -> None:
  """Refuses values without sense, and networks whose blocks have no quarters."""
  settings, backbone = parts.config.elastic, parts.backbone()
  _schedule.check(
    parts.config,
    "elastic",
    ("rho", settings.rho > 0, "above 0"),
    ("lr", settings.lr > 0, "above 0"),
    ("size", settings.size > 0, "above 0"),
    ("random", 0 <= settings.random <= 1, "in [0, 1]"),
    ("average", 0 <= settings.average < 1, "in [0, 1)"),
  )
  if not backbone.skips:
    raise ValueError(
      f"config.method='den' can leave out all channels of a block, but"
      f" config.model.backbone={parts.config.model.backbone!r} has no shortcuts: choose another of"
      " either."
    )
  if parts.spec.lengths:
    raise ValueError(
      "config.method='den' chooses widths from the whole input, so that what it says of a step of a"
      f" series of {parts.spec.name} would depend on later ones: choose another config.method."
    )
  for block in range(parts.blocks):
    layer = backbone.layers(block)[0]
    if layer.channels % widths.LEVELS:
      raise ValueError(
        f"config.method='den' uses quarters of a block's channels, but {layer.name} has"
        f" {layer.channels}: choose widths in config.model that 4 divides."
      )


def _phases(config: Any) -> tuple[contract.Phase, ...]:
  """The stretches, with the lengths of a search and of one re-training."""
  train, steps = config.train, {}
  for name in ("warmup_steps", "cycles", "policy_steps", "weight_steps", "retrain_steps"):
    steps[name] = _schedule.positive(train[name], f"train.{name}")
  found = [contract.Phase("warmup", steps["warmup_steps"], settings=RANDOM, evaluate=True)]
  for cycle in range(steps["cycles"]):
    common: dict[str, Any] = {"optimizer": "alternate", "cycle": cycle}
    policy = contract.Phase(
      "policy",
      steps["policy_steps"],
      trainable=("selector",),
      settings=SAMPLED,
      title=f"selector {cycle}",
      evaluate=cycle == steps["cycles"] - 1,
      **common,
    )
    title = f"weights {cycle}"
    weights = contract.Phase(
      "weights", steps["weight_steps"], settings=LIKELIEST, title=title, **common
    )
    found += [policy, weights]
  last = contract.Phase(
    "retrain",
    steps["retrain_steps"],
    settings=LIKELIEST,
    candidate=0,
    optimizer="retrain",
    select=True,
  )
  return (*found, last)
