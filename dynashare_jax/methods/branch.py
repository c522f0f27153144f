"""Branch: learns at which block tasks part, and trains the tree that this gives.

After a warm-up of separate columns, every block of every column learns which column to read, by
Gumbel-softmax samples at a falling temperature, in turn with the weights. The likeliest choices
make a tree, which is trained and executed as such: what tasks have in common is computed once.

Source: Guo et al. 2020 (Learning to Branch); warm-up, two-level search and the charge on work are
  those of Brueggemann et al. 2020. Differs: the work of a tree is charged as the expected share of
  the columns' blocks that some task needs.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax.methods import _schedule
from dynashare_jax.models.trunks import branched
from dynashare_jax.ops import gumbel
from dynashare_jax.ops import streams
from dynashare_jax.sharing import contract


class Stretch(NamedTuple):
  """What is read in a phase.

  Attributes:
    read: `own` column, `soft` samples, or the `tree`.
    temperature: of samples.
    charged: whether work is charged.
  """

  read: str
  temperature: float = 1.0
  charged: bool = False


class Static(NamedTuple):
  """What is compiled into the steps of a phase: a tree or none, and whether work is charged."""

  tree: branched.Tree | None
  charged: bool = False


@dataclasses.dataclass(frozen=True)
class TreeSharing(contract.Sharing):
  """The column that each column reads at each block: learnt, then fixed.

  Attributes:
    tasks: names, in order; a column for each.
    work: of every block, of any unit.
    cost: weight of the expected share of the blocks' work.
  """

  tasks: tuple[str, ...]
  work: tuple[float, ...]
  cost: float

  @property
  def _own(self) -> branched.Tree:
    """Separate columns."""
    return (tuple(range(len(self.tasks))),) * len(self.work)

  def init(self, key: jax.Array, given: Any = None) -> Any:
    """Returns the logits `[L, K, K]` of what a column reads: all alike."""
    del key, given
    return {"logits": jnp.zeros((len(self.work), len(self.tasks), len(self.tasks)))}

  def blank(self, count: int) -> Any:
    """Returns zeros `[N, L, K]`."""
    return jnp.zeros((count, len(self.work), len(self.tasks)), jnp.int32)

  def structures(self, learnt: Any, memory: Any, key: jax.Array) -> Any:
    """Returns the likeliest tree, `[1, L, K]`; the own column where nothing speaks against it."""
    del memory, key
    return _likeliest(learnt["logits"])[None]

  def structure(self, phase: contract.Phase, learnt: Any, structures: Any) -> np.ndarray:
    """Returns the tree that an evaluation within a phase uses."""
    if phase.candidate >= 0:
      return self.chosen(structures, phase.candidate)
    if phase.settings.read == "own":
      return np.asarray(self._own)
    return np.asarray(_likeliest(jnp.asarray(learnt["logits"])))

  def chosen(self, structures: Any, candidate: int) -> np.ndarray:
    """Returns the tree of a finished model, `[L, K]`."""
    return np.minimum(np.asarray(structures[candidate]), len(self.tasks) - 1)

  def static(self, phase: contract.Phase, structure: Any) -> Static:
    """Returns the tree; None where samples mix the columns."""
    told = phase.settings
    if told.read == "soft":
      return Static(None, told.charged)
    return Static(_tupled(structure) if told.read == "tree" else self._own, told.charged)

  def knobs(self, phase: contract.Phase, offset: int, step: int) -> Mapping[str, jax.Array]:
    """Returns the temperature."""
    del offset, step
    return {"temperature": jnp.asarray(phase.settings.temperature, jnp.float32)}

  def everything(self) -> branched.Choice:
    """Returns separate columns."""
    return branched.Choice(self._own)

  def control(
    self, static: Static, learnt: Any, moving: contract.Moving, step: Any, batch: int
  ) -> branched.Choice:
    """Draws what the columns read from (seed, stream, step) alone."""
    del batch
    if static.tree is not None:
      return branched.Choice(static.tree)
    key = streams.stream_key(moving.seed, "branch", step)
    drawn = gumbel.soft_choices(key, learnt["logits"], moving.knobs["temperature"])
    return branched.Choice(None, drawn)

  def charges(
    self,
    static: Static,
    learnt: Any,
    memory: Any,
    moving: Any,
    control: Any,
    signals: Any,
    losses: Any,
  ) -> dict[str, jax.Array]:
    """Returns the weighted work that is expected."""
    del memory, moving, control, signals, losses
    if not static.charged:
      return {}
    return {"work": self.cost * expected_work(jax.nn.softmax(learnt["logits"]), self.work)}

  def at_test(self, structure: Any, **options: Any) -> tuple[branched.Tree, Any]:
    """Returns the tree."""
    del options
    return _tupled(structure), ()

  def control_at_test(self, static: Any, arrays: Any, places: Any = None) -> branched.Choice:
    """Returns what the trunk is told at test."""
    del arrays, places
    return branched.Choice(static)

  def noted(self, structure: Any) -> dict[str, Any]:
    """Returns the tree for `results.json`: the columns that every task runs, block by block."""
    return {"tree": branched.paths(_tupled(structure), range(len(self.tasks)))}

  def panels(self, learnt: Any, memory: Any, params: Any) -> contract.Panels:
    """Returns the tree as the columns that every task runs."""
    del memory, params
    tree = _tupled(_likeliest(jnp.asarray(learnt["logits"])))
    runs = np.asarray(branched.paths(tree, range(len(self.tasks))))
    blocks = [f"block {block}" for block in range(len(self.work))]
    return contract.Panels(
      "Where the tasks part",
      "The column whose block a task runs; tasks with the same number share that block.",
      (contract.Panel("Column that is run", runs, self.tasks, blocks, "{:.0f}"),),
    )

  def describe(self, phase: contract.Phase) -> str:
    """Returns in a few words what is executed in a phase."""
    return {"own": "own columns", "soft": "all columns, mixed", "tree": "the tree"}[
      phase.settings.read
    ]


def expected_work(chosen: jax.Array, work: tuple[float, ...]) -> jax.Array:
  """Returns the share of all columns' work that some task is expected to need.

  Args:
    chosen: `[L, K, K]`, probabilities of what a column reads; choices count as independent.
    work: of every block.
  """
  columns = chosen.shape[1]
  needed, total = jnp.ones((columns,)), jnp.zeros(())
  for block in range(len(work) - 1, -1, -1):
    total = total + work[block] * needed.sum()
    needed = 1 - jnp.prod(1 - needed[:, None] * chosen[block], 0)
  return total / (columns * sum(work))


def _likeliest(logits: jax.Array) -> jax.Array:
  """The likeliest choices int32 `[L, K]`; the own column where several are."""
  own = jnp.eye(logits.shape[1])[None] * 1e-6
  return jnp.argmax(logits + own, -1).astype(jnp.int32)


def _tupled(structure: Any) -> branched.Tree:
  """A tree as it is compiled in."""
  return tuple(tuple(int(k) for k in row) for row in np.asarray(structure))


def build(parts: contract.Parts) -> contract.Method:
  """Warm-up of separate columns, search in turn with the weights, training of the tree."""
  config, names = parts.config, tuple(task.name for task in parts.spec.tasks)
  if len(names) < 2:
    raise ValueError(
      f"config.method='branch' parts tasks, and there is only {names[0]}: train more tasks, or use"
      " config.method='hard'."
    )
  if not config.branch.cost >= 0:
    raise ValueError(f"config.branch.cost must be at least 0, but is {config.branch.cost}.")
  phases: list[contract.Phase] = []
  for phase in _schedule.search(_whole(config), parts.blocks):
    told = Stretch("own")
    if phase.name != "warmup":
      told = Stretch("soft", phase.settings.temperature, phase.name == "policy")
    data = "weights" if phase.name == "warmup" else phase.data
    phases.append(dataclasses.replace(phase, settings=told, data=data))
  (last,) = _schedule.retrain(config, 1, gated=False, can_keep=True)
  phases.append(dataclasses.replace(last, settings=Stretch("tree")))
  columns = tuple(parts.backbone() for _ in names)
  trunk = branched.BranchedTrunk(columns, tuple(range(len(names))), config.branch.aligned)
  sharing = TreeSharing(names, tuple(parts.costs()), config.branch.cost)
  return contract.Method("branch", tuple(phases), trunk, sharing)


def _whole(config: Any) -> Any:
  """The configuration of a search without what is particular to skipping blocks."""
  found = config.copy_and_resolve_references()
  found.policy.update(measure=0, warmup="all", curriculum=False)
  return found
