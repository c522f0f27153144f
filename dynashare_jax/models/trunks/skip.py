"""One backbone whose blocks each task executes or skips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dynashare_jax.models import backbones
from dynashare_jax.models import gates
from dynashare_jax.models import norm
from dynashare_jax.models import series
from dynashare_jax.models.backbones.base import Features
from dynashare_jax.models.trunks import contract
from dynashare_jax.ops import compaction
from dynashare_jax.ops import gumbel
from dynashare_jax.ops import routing


class Decisions(NamedTuple):
  """What decides, in one forward pass.

  Attributes:
    modes: `[L][T]`, see `ops.routing`; static under jit.
    policy: `[T, L]` in [0, 1], read where a kind is OWN (or by gates); None means all ones.
    discrete: whether `policy` holds only 0 and 1; then a task that skips a block does not move the
      block's running batch statistics.
    gated: whether instance gates decide at the gated blocks.
    noise: `[B, T, L]` logistic noise of the gates; None takes the likelier choice.
    temperature: of the gates' straight-through gradient.
    taught: whether gates learn by other means, and get no gradient through their decisions.
    threshold: score that a gate must exceed, `[L]` or None for 0.
    target: the execution rate wanted, in (0, 1], read by gates that are told it
      (`SkipTrunk.gate_told`); else None.
    rates: `[L]`, the execution rates that a step of training wants, 1 for blocks without gate.
    compaction: how examples that skip a block are left out of its computation, at test with
      discrete decisions; None computes and masks them.
  """

  modes: routing.Modes
  policy: jax.Array | None = None
  discrete: bool = True
  gated: bool = False
  noise: jax.Array | None = None
  temperature: float = 1.0
  taught: bool = False
  threshold: jax.Array | None = None
  target: jax.Array | None = None
  rates: jax.Array | None = None
  compaction: compaction.Compaction | None = None


class Gates(NamedTuple):
  """What instance gates decided: `Signals.own` of a `SkipTrunk`.

  Attributes:
    gate: `[T, B, L]`, the decisions; 1 at blocks without a gate.
    gated: bool `[T, L]`, whether `gate` was computed there.
    relevance: `[T, B, L]`, the gates' scores before the decision.
  """

  gate: jax.Array
  gated: jax.Array
  relevance: jax.Array


class SkipTrunk(contract.Trunk):
  """One backbone; the task policy and instance gates choose its blocks.

  Attributes:
    backbone: the network whose blocks are chosen.
    tasks: how many tasks share it.
    gated: for every block, whether it has an instance gate.
    gate_hidden: width of a gate's hidden layer.
    gate_init: see `models.gates.Gate`.
    dtype: compute type.
    gate_told: whether gates are told the target rate, see `models.gates.Gate`.
    gate_momentum: see `models.gates.Gate`.

  Source: AdaShare (Sun et al. 2020) section 3; DynaShare section 3.4.
  Differs: tasks ride in one batched call, with the batch statistics of each, or common ones
    (`models.norm`); work that is equal for several tasks is done once, so the first block always
    is. A running average of batch statistics makes one update a step with the mean of the n tasks
    that execute the layer, keeping momentum^(n / tasks), instead of n updates in task order. So
    hard sharing and an all-ones policy learn the same averages.
  """

  backbone: nn.Module
  tasks: int
  gated: tuple[bool, ...]
  gate_hidden: int = 16
  gate_init: str = "half"
  dtype: norm.Dtype = jnp.float32
  gate_told: bool = False
  gate_momentum: float = norm.MOMENTUM

  @property
  def units(self) -> int:
    """Blocks."""
    return len(self.gated)

  @property
  def _joined(self) -> bool:
    """Whether norms have common batch statistics of all tasks."""
    return bool(getattr(self.backbone, "norm_kind", "") == "common")

  @nn.nowrap
  def leaves(self) -> Mapping[str, contract.Leaf]:
    """Returns the rules: the backbone and the gates are shared."""
    rules = {"backbone": contract.Leaf("backbone")}
    return rules | {f"gate_{l}": contract.Leaf("gates") for l, g in enumerate(self.gated) if g}

  @nn.nowrap
  def weights_of(self) -> tuple[str, ...]:
    """Returns the blocks, without their shortcuts."""
    return tuple(f"backbone/block_{block}" for block in range(self.units))

  @nn.nowrap
  def only(self, tasks: Sequence[int]) -> tuple[contract.Trunk, Mapping[str, str]]:
    """Returns the same backbone with fewer tasks."""
    return self.clone(tasks=len(tasks)), {name: name for name in self.leaves()}

  @nn.nowrap
  def common(self, control: Decisions) -> bool:
    """Returns whether no two tasks part anywhere."""
    return len(routing.splits(control.modes)[-1].groups) == 1

  @nn.nowrap
  def apart(self, control: Decisions) -> list[Any] | None:
    """Returns the decisions of every task, if its own passes cost less than its share of all's.

    A pass back costs two passes forward; back through the blocks of all tasks goes every task.
    Common batch statistics need all tasks in one pass. A search does without: what follows it
    trains with them again.
    """
    if self._joined and control.discrete:
      return None
    alone = sum(mode != routing.SKIP for row in control.modes for mode in row)
    shared = sum(split.running for split in routing.splits(control.modes))
    if 3 * alone >= (1 + 2 * self.tasks) * shared:
      return None
    return [_of_task(control, task) for task in range(self.tasks)]

  @nn.nowrap
  def shown(self) -> Any:
    """Returns the backbone."""
    return self.backbone

  def setup(self) -> None:
    """Creates one gate a gated block."""
    self.gates: list[Any] = [
      gates.Gate(
        self.gate_hidden,
        self.gate_init,
        self.dtype,
        self.gate_told,
        self.gate_momentum,
        self._joined,
        name=f"gate_{l}",
      )
      if gated
      else None
      for l, gated in enumerate(self.gated)
    ]

  def __call__(
    self, inputs: Any, decisions: Decisions, train: bool
  ) -> tuple[list[jax.Array], contract.Signals]:
    """Runs the blocks.

    Args:
      inputs: a batch's inputs, leading axis B.
      decisions: which tasks execute which blocks.
      train: batch statistics and dropout on.

    Returns:
      For every task its features `[B, ..., C]`, and the signals.

    Raises:
      ValueError: the routing names other numbers of tasks or blocks, or may leave out a
        block of a backbone without shortcuts.
    """
    if not self.backbone.skips and any(k != routing.RUN for row in decisions.modes for k in row):
      raise ValueError(
        f"{type(self.backbone).__name__} has no shortcuts: its blocks cannot be skipped. Choose"
        " another config.model.backbone, or a method that does not skip."
      )
    plan = routing.splits(decisions.modes)
    if len(plan) != len(self.gated) or len(decisions.modes[0]) != self.tasks:
      raise ValueError(
        f"The routing has {len(plan)} blocks and {len(decisions.modes[0])}"
        f" tasks; the trunk has {len(self.gated)} and {self.tasks}."
      )
    steps = series.steps_of(inputs)
    x = self.backbone.stem(inputs, backbones.Pass(train, jnp.ones((1,)), steps))
    collected: list[_BlockSignals] = []
    for block, split in enumerate(plan):
      x, signals = self._block(block, split, x, decisions, train, steps)
      collected.append(signals)
    x = self.backbone.final(x)
    last = plan[-1].groups
    of_task = [next(g for g, ts in enumerate(last) if t in ts) for t in range(self.tasks)]
    return [jax.tree.map(lambda a, g=g: _split(a)[g][0], x) for g in of_task], _stack(collected)

  def _block(
    self,
    block: int,
    split: routing.Split,
    x: Features,
    decisions: Decisions,
    train: bool,
    steps: series.Steps | None,
  ) -> tuple[Features, _BlockSignals]:
    """One block for all groups: `[G, B, ...]` to `[G', B, ...]`."""
    batch = jax.tree.leaves(x)[0].shape[1]
    signals = _BlockSignals.skipped(self.tasks, batch)
    policy = self._policy(block, split, decisions)
    updates = jnp.asarray([len(g) / self.tasks for g in split.groups])
    running = updates[: split.running]
    if policy is not None and decisions.discrete:
      running = running * policy
    # Groups that part here still have equal inputs: one computation for all.
    parents, place = _distinct(split.parents)
    x = _pick(x, parents)
    below = self.backbone.shortcut(block, x, backbones.Pass(train, _total(updates, place), steps))
    residual = _pick(below, place)
    if not split.running:
      return residual, signals
    parents, place = _distinct(place[: split.running])
    head = _pick(x, parents)
    moves = _total(running, place)
    weight = None if policy is None else jnp.broadcast_to(policy[:, None], (split.running, batch))
    asked = decisions.gated and any(k != routing.RUN for k in split.modes)
    # Computed also when gates do not decide, so that init creates it.
    if self.gates[block] is not None and (asked or self.is_initializing()):
      mask = None if steps is None else steps.mask(jax.tree.leaves(head)[0].shape[2])
      score = self.gates[block](head, moves, not train, decisions.target, mask)
      if asked:
        score = _at_steps(_pick(score, place), jax.tree.leaves(below)[0])
        gate = self._gate(block, split, score, decisions)
        mean = functools.partial(_over_steps, steps=steps)
        signals.note(split, relevance=mean(score), gate=mean(gate))
        if weight is not None:
          gate = gate * weight.reshape(weight.shape + (1,) * (gate.ndim - 2))
        weight = gate
    every = jnp.ones((split.running, batch))
    signals.note(split, executed=every if weight is None else _over_steps(weight, steps))
    here = jax.tree.map(lambda a: a[: split.running], residual)
    how = decisions.compaction if decisions.discrete and not train else None
    if weight is None or how is None:
      z = self.backbone.branch(block, head, backbones.Pass(train, moves, steps))
      done = _pick(self.backbone.merge(_pick(below, parents), z), place)
      if weight is not None:
        done = jax.tree.map(functools.partial(_mixed, weight), done, here)
    else:
      rows = weight if weight.ndim == 2 else weight.max(-1)
      done = self._compacted(block, _pick(head, place), here, rows, how, steps)
      if weight.ndim > 2:
        done = jax.tree.map(lambda d, h: jnp.where(_wide(weight, h) > 0, d, h), done, here)
    if split.running < len(split.groups):
      join = lambda d, rest: jnp.concatenate([d, rest[split.running :]])
      done = jax.tree.map(join, done, residual)
    return done, signals

  def _compacted(
    self,
    block: int,
    x: Features,
    residual: Features,
    weight: jax.Array,
    how: compaction.Compaction,
    steps: series.Steps | None,
  ) -> Features:
    """The block for those (group, example) rows alone that execute it.

    Rows of all groups are compacted together: at test a row does not depend on
    the others. Of a series a row is executed whole if any step needs it.
    """
    backbone, variables = self.backbone.unbind()

    def executed(rows: Features, rest: Features) -> Features:
      z = backbone.apply(
        variables,
        block,
        jax.tree.map(lambda a: a[None], rows),
        # At test nothing depends on the lengths, but on there being some.
        backbones.Pass(False, jnp.ones((1,)), steps),
        method="branch",
      )
      z = jax.tree.map(lambda a: a[0], z)
      return backbone.apply(variables, rest, z, method="merge")

    flat = lambda tree: jax.tree.map(lambda a: a.reshape((-1,) + a.shape[2:]), tree)
    done = compaction.run(executed, flat(x), flat(residual), flat(weight) > 0, how)
    return jax.tree.map(lambda a, whole: a.reshape(whole.shape), done, residual)

  def _policy(self, block: int, split: routing.Split, decisions: Decisions) -> jax.Array | None:
    """`[running]` decisions of the groups, or None where all execute."""
    if decisions.policy is None or routing.OWN not in split.modes:
      return None
    values = [
      decisions.policy[group[0], block] if mode == routing.OWN else jnp.ones(())
      for group, mode in zip(split.groups[: split.running], split.modes, strict=True)
    ]
    return jnp.stack(values)

  def _gate(
    self, block: int, split: routing.Split, score: jax.Array, decisions: Decisions
  ) -> jax.Array:
    """`[running, B]` or `[running, B, time]` decisions, as the scores."""
    if decisions.threshold is not None:
      score = score - decisions.threshold[block]
    noise = None
    if decisions.noise is not None:
      noise = jnp.stack(
        [decisions.noise[:, group[0], block] for group in split.groups[: split.running]]
      )
      # One draw for all steps of a series.
      noise = jnp.broadcast_to(noise.reshape(noise.shape + (1,) * (score.ndim - 2)), score.shape)
    if decisions.taught:
      score = jax.lax.stop_gradient(score)
    return gumbel.hard_gate(score, noise, decisions.temperature)


def _of_task(decisions: Decisions, task: int) -> Decisions:
  """What decides for one task alone."""
  policy, noise = decisions.policy, decisions.noise
  return decisions._replace(
    modes=tuple(row[task : task + 1] for row in decisions.modes),
    policy=None if policy is None else policy[task : task + 1],
    noise=None if noise is None else noise[:, task : task + 1],
  )


class _BlockSignals(NamedTuple):
  """`Signals` of one block: `[T, B]` lists by task, filled in as groups are computed."""

  gate: list[jax.Array]
  gated: list[bool]
  executed: list[jax.Array]
  relevance: list[jax.Array]

  @classmethod
  def skipped(cls, tasks: int, batch: int) -> _BlockSignals:
    """Nothing executed, no gate asked."""
    zeros = jnp.zeros((batch,))
    return cls([jnp.ones((batch,))] * tasks, [False] * tasks, [zeros] * tasks, [zeros] * tasks)

  def note(self, split: routing.Split, **found: jax.Array) -> None:
    """Writes what was found for every running group to its tasks."""
    for name, values in found.items():
      for g in range(split.running):
        for t in split.groups[g]:
          getattr(self, name)[t] = values[g]
          self.gated[t] |= name == "gate"


def _stack(blocks: list[_BlockSignals]) -> contract.Signals:
  """Signals of all blocks, `[T, B, L]`."""

  def join(values: Callable[[_BlockSignals], list[jax.Array]]) -> jax.Array:
    return jnp.stack([jnp.stack(values(b)) for b in blocks], -1)

  gates_ = Gates(
    join(lambda b: b.gate), jnp.asarray([b.gated for b in blocks]).T, join(lambda b: b.relevance)
  )
  return contract.Signals(join(lambda b: b.executed), own=gates_)


def _at_steps(score: jax.Array, below: jax.Array) -> jax.Array:
  """Scores of a block's input steps, where its output steps are."""
  if score.ndim == 2:
    return score
  return score[:, :, :: -(-score.shape[2] // below.shape[2])]


def _over_steps(values: jax.Array, steps: series.Steps | None) -> jax.Array:
  """`[G, B]`: of a series the mean over its steps, padding left out."""
  if values.ndim == 2 or steps is None:
    return values
  mask = steps.mask(values.shape[2])
  return jax.vmap(lambda v: series.mean_of(v, mask))(values)


def _distinct(places: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The distinct numbers, ascending, and where each number is among them."""
  distinct = tuple(sorted(set(places)))
  return distinct, tuple(distinct.index(p) for p in places)


def _total(updates: jax.Array, places: tuple[int, ...]) -> jax.Array:
  """Updates of a running average, added up over groups of equal features."""
  if places == tuple(range(len(places))):
    return updates
  return jnp.stack(
    [
      jnp.stack([updates[g] for g, p in enumerate(places) if p == place]).sum()
      for place in range(max(places) + 1)
    ]
  )


def _wide(weight: jax.Array, here: jax.Array) -> jax.Array:
  """A weight `[G, B, ...]` with as many axes as features."""
  return weight.reshape(weight.shape + (1,) * (here.ndim - weight.ndim))


def _mixed(weight: jax.Array, done: jax.Array, here: jax.Array) -> jax.Array:
  """The block where it is executed, in float32: decisions get gradients summed in float32."""
  wide = _wide(weight, here)
  return (wide * done + (1 - wide) * here).astype(done.dtype)


def _pick(x: Features, parents: tuple[int, ...]) -> Features:
  """Features of the groups after a split, `[G, ...]` to `[G', ...]`."""

  def leaf(x: jax.Array) -> jax.Array:
    if parents == tuple(range(x.shape[0])):
      return x
    if x.shape[0] == 1:
      return jnp.broadcast_to(x, (len(parents),) + x.shape[1:])
    groups = _split(x)
    return jnp.concatenate([groups[p] for p in parents])

  return jax.tree.map(leaf, x)


def _split(x: jax.Array) -> list[jax.Array]:
  """`[G, ...]` to G arrays `[1, ...]`.

  One split, because every `x[g]` would have a gradient of the size of x:
  work with the square of the number of tasks.
  """
  return list(jax.lax.split(x, [1] * x.shape[0]))
