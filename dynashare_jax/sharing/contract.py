"""What a sharing method is: a trunk, phases, and what is decided about the trunk."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.objectives import balancing
from dynashare_jax.sharing import plan as plan_lib
from dynashare_jax.sharing import prices
from dynashare_jax.types import PyTree


class Inner(NamedTuple):
  """Makes every task's loss count where one step of its own, on other examples, takes the weights.

  A batch has two parts. From the weights that all tasks have, each goes one step down its own
  unweighted loss on the inner part; there the gradient of its loss on the outer part is taken. The
  weighed sum of these gradients moves the weights. It is of first order: the step's own derivative
  is left out. Logged losses, penalties, batch statistics and memory are those of the inner part, at
  the weights before the steps.

  Attributes:
    rate: of the inner step, at least 0; with 0 the update is that of the outer part alone.
    share: of each batch that is its inner part, in (0, 1); outer examples are evenly spaced.

  Source: Finn et al. 2017 (first order); Aoki et al. 2021, Algorithm 1.
  """

  rate: float
  share: float


@dataclasses.dataclass(frozen=True)
class Phase:
  """A stretch of training with its own groups, optimisers, data and losses.

  Attributes:
    name: `warmup`, `weights`, `policy` or `retrain`, shown to the user.
    steps: how many.
    data: `train` (all of it), `weights` or `policy` (its two disjoint parts).
    trainable: parameter groups that move; all others, with their optimiser state, stay
      bit-identical.
    settings: what the method's `Sharing` does in this phase; its own, hashable.
    candidate: which structure a re-training uses; -1 outside of re-trainings.
    start: network parameters at the phase's beginning: `keep` them, take fresh ones (`scratch`),
      or those of the end of the search (`policy`).
    optimizer: name of the optimiser settings that its groups use.
    select: whether validation scores of this phase compete for the best model.
    cycle: how many weight and policy stretches went before.
    evaluate: whether its end is evaluated even if it does not select.
    record: whether its end logs what is learnt (`Sharing.lines`).
    measure: whether its steps only measure the tasks' gradients (`Sharing.observe`, `score`); no
      parameter moves.
    trial: the round of short trainings by which the structures are put in order, the best first,
      before some of them are re-trained: 1 of all of them, 2 of those that are left; 0 for none.
    inner: an inner step of every task; None for none.
    title: shown to the user; default the name, with the candidate's number.
  """

  name: str
  steps: int
  data: str = "train"
  trainable: tuple[str, ...] = ("backbone", "heads")
  settings: Any = None
  candidate: int = -1
  start: str = "keep"
  optimizer: str = "warmup"
  select: bool = False
  cycle: int = 0
  evaluate: bool = False
  record: bool = False
  measure: bool = False
  trial: int = 0
  inner: Inner | None = None
  title: str = ""

  def __str__(self) -> str:
    """Returns the title that a user sees."""
    return self.title or (f"{self.name} {self.candidate}" if self.candidate >= 0 else self.name)


class Parts(NamedTuple):
  """What a method is built from.

  Attributes:
    config: the run's.
    spec: of the data set.
    backbone: makes one more backbone of `config.model`, with the values of it that are given.
    blocks: residual blocks of it.
    dtype: compute type.
    costs: multiply-accumulates of every block on one example; asked for when they are needed.
    timed: milliseconds of this network, where `config.policy.latency` names a file of them.
  """

  config: Any
  spec: types.DatasetSpec
  backbone: Callable[..., Any]
  blocks: int
  dtype: Any
  costs: Callable[[], tuple[float, ...]]
  timed: prices.Timed | None = None


class Moving(NamedTuple):
  """What changes between steps without a new compilation.

  Attributes:
    seed: int32, of the run.
    step: int32, the first step's global number.
    knobs: see `Sharing.knobs`.
    structure: of the phase's candidate: one entry of `Sharing.structures`.
    horizon: how long the schedule of the phase's optimiser lasts.
  """

  seed: jax.Array
  step: jax.Array
  knobs: Mapping[str, jax.Array]
  structure: PyTree
  horizon: PyTree = ()


class Panel(NamedTuple):
  """A table of numbers that is drawn as a map of shades.

  Attributes:
    title: stands above it.
    values: `[R, C]`.
    rows: names of the rows.
    columns: names of the columns.
    form: of the numbers.
  """

  title: str
  values: np.ndarray
  rows: Sequence[str]
  columns: Sequence[str]
  form: str = "{:.2f}"


class Panels(NamedTuple):
  """What a method learned, as the report draws it.

  Attributes:
    title: of the figure.
    caption: says how to read it.
    panels: from left to right.
  """

  title: str
  caption: str
  panels: Sequence[Panel]


class Sharing:
  """What is learnt, drawn, charged, frozen and recorded of a trunk. Here: nothing.

  Trainer, evaluation, reports, cost and export ask an object of this class and know nothing else
  of a method. `learnt` is `params["policy"]`, `memory` what a checkpoint keeps beside and no
  optimiser moves; a `structure` is what a re-training or a finished model has fixed, such as a
  route. Methods that decide nothing use this class as it is.

  Attributes:
    skips: whether the units are blocks of the backbone that the trunk shows, and are left out one
      by one; then the work of each is counted.
    magnitudes: whether phases that measure show the gradients' every number (`score`), instead of
      their products (`observe`).
    each_example: whether `Losses.each` is wanted.
    pathwise: whether task losses have gradients in `learnt`, through the trunk; where both train, a
      balancer weighs none of them.
  """

  skips = False
  magnitudes = False
  each_example = False
  pathwise: bool = True

  def init(self, key: jax.Array, given: Any = None) -> PyTree:
    """Returns the parameters of group `policy`, or those that a file of weights gives."""
    del key, given
    return {}

  def memory(self, params: PyTree) -> PyTree:
    """Returns the memory before the first step, arrays; of the network's parameters, shapes."""
    del params
    return {}

  def used(self, params: PyTree, memory: PyTree) -> PyTree:
    """Returns the network's parameters as training computes with them; traced.

    Those of a model that is evaluated and kept come out of this, too: with masks in the memory, for
    example, they are 0 where they are pruned.
    """
    del memory
    return params

  def blank(self, count: int) -> PyTree:
    """Returns zeros in the shape of `structures`: `count` of them along the leading axis."""
    del count
    return ()

  def begin(self, phase: Phase, params: PyTree, memory: PyTree, key: jax.Array) -> Any:
    """Returns `params` and `memory` as a phase begins with them.

    Args:
      params: of the `network`, and what is learnt, `policy`. What `Phase.start` asks for takes the
        network's place after this.
    """
    del phase, key
    return params, memory

  def structures(self, learnt: PyTree, memory: PyTree, key: jax.Array) -> PyTree:
    """Returns the structures to re-train, asked once, before the first of them is trained."""
    del learnt, memory, key
    return ()

  def static(self, phase: Phase, structure: PyTree) -> Hashable:
    """Returns what is compiled into the steps of a phase; `structure` holds NumPy arrays."""
    del phase, structure
    return ()

  def knobs(self, phase: Phase, offset: int, step: int) -> Mapping[str, jax.Array]:
    """Returns numbers that change without compiling, after `offset` steps of the phase."""
    del phase, offset, step
    return {}

  def everything(self) -> PyTree:
    """Returns a control under which all of the trunk runs: for initialising and counting."""
    return ()

  def control(self, static: Any, learnt: PyTree, moving: Moving, step: Any, batch: int) -> PyTree:
    """Returns what the trunk is told in a training step; traced.

    All randomness is a function of `moving.seed`, a stream and `step`.
    """
    del static, learnt, moving, step, batch
    return self.everything()

  def charges(
    self,
    static: Any,
    learnt: PyTree,
    memory: PyTree,
    moving: Moving,
    control: PyTree,
    signals: trunks.Signals,
    losses: balancing.Losses,
  ) -> dict[str, jax.Array]:
    """Returns weighted penalties by name, which are added to the task losses; traced.

    `losses` are for charges that depend on them, as REINFORCE does.
    """
    del static, learnt, memory, moving, control, losses
    return dict(signals.charges)

  def pulls(self, static: Any, learnt: PyTree, memory: PyTree, moving: Moving) -> dict[str, PyTree]:
    """Returns the gradient of each weighted penalty that `learnt` alone decides; traced, logged."""
    del static, learnt, memory, moving
    return {}

  def observe(self, memory: PyTree, gramians: jax.Array) -> PyTree:
    """Returns the memory after a step of a phase that measures; traced.

    Args:
      gramians: `[U, T, T]`, products of the tasks' gradients with respect to the weights of each
        unit; a task without labels has 0.
    """
    del gramians
    return memory

  def score(self, memory: PyTree, magnitudes: PyTree, labelled: jax.Array) -> PyTree:
    """Returns the memory after a step of a phase that measures single weights; traced.

    Args:
      magnitudes: of every leaf of the network `[T, ...]`, |dL/dw| of each task's loss without its
        weight in the configuration; the weights are those of `used`, so that pruned ones have
        gradients, too.
      labelled: bool `[T]`, whether a task has any label; one without has 0.
    """
    del magnitudes, labelled
    return memory

  def others(self, static: Any, control: PyTree) -> Sequence[PyTree]:
    """Returns controls under which a step also runs the trunk, for `Losses.others`; traced.

    Each costs another forward pass; it moves no batch statistics.
    """
    del static, control
    return ()

  def remember(
    self,
    static: Any,
    learnt: PyTree,
    memory: PyTree,
    control: PyTree,
    signals: trunks.Signals,
    losses: balancing.Losses,
  ) -> PyTree:
    """Returns the memory after a training step, of what it began with; traced, no gradient."""
    del static, learnt, control, signals, losses
    return memory

  def gauges(
    self, static: Any, learnt: PyTree, memory: PyTree, control: PyTree
  ) -> dict[str, jax.Array]:
    """Returns numbers of a training step by name, which are logged beside the losses; traced."""
    del static, learnt, memory, control
    return {}

  def free(self, moving: Moving) -> jax.Array | None:
    """Returns which numbers of `learnt` may move, as a mask that broadcasts; None: all."""
    del moving
    return None

  def structure(self, phase: Phase, learnt: PyTree, structures: PyTree) -> Any:
    """Returns the structure that an evaluation within a phase uses, on the host."""
    del phase, learnt, structures
    return ()

  def chosen(self, structures: PyTree, candidate: int) -> Any:
    """Returns the structure of a finished model, on the host."""
    del structures, candidate
    return ()

  def at_test(self, structure: Any, **options: Any) -> tuple[Hashable, PyTree]:
    """Returns what is compiled into an evaluation or a prediction, and arrays beside it."""
    del structure, options
    return (), ()

  def control_at_test(self, static: Any, arrays: PyTree, places: Any = None) -> PyTree:
    """Returns what the trunk is told at test; traced.

    Args:
      static: of `at_test`.
      arrays: of `at_test`.
      places: int32 `[B]`, places of the examples in their split, for sampled decisions.
    """
    del static, arrays, places
    return self.everything()

  def only(self, structure: Any, tasks: tuple[int, ...]) -> tuple[Sharing, Any]:
    """Returns sharing and structure of some tasks, for the trunk that `Trunk.only` gives."""
    del tasks
    return self, structure

  def plan(self, structure: Any) -> plan_lib.Plan | None:
    """Returns what is computed once, for which tasks; None: there is nothing to leave out."""
    del structure
    return None

  def marks(self) -> Sequence[str]:
    """Returns for every unit a word that a description adds to its name; none adds none."""
    return ()

  def record(self, learnt: PyTree, structures: PyTree, chosen: int) -> dict[str, Any] | None:
    """Returns what `policy.json` holds; None writes none."""
    del learnt, structures, chosen
    return None

  def noted(self, structure: Any) -> dict[str, Any]:
    """Returns what `results.json` says of a candidate's structure."""
    del structure
    return {}

  def sections(self, learnt: PyTree, params: PyTree) -> list[dict[str, str]]:
    """Returns sections for the report: `title` and `text` (Markdown)."""
    del learnt, params
    return []

  def panels(self, learnt: PyTree, memory: PyTree, params: PyTree) -> Panels | None:
    """Returns what was learned as tables of numbers, which the report draws; None: nothing."""
    del learnt, memory, params
    return None

  def lines(self, phase: Phase, learnt: PyTree, memory: PyTree) -> dict[str, dict[str, Any]]:
    """Returns lines for `metrics.jsonl`, kind -> values, where a phase is recorded."""
    del phase, learnt, memory
    return {}

  def scalars(self, phase: Phase) -> dict[str, float]:
    """Returns numbers of a phase that every line of training logs."""
    del phase
    return {}

  def describe(self, phase: Phase) -> str:
    """Returns in a few words what the trunk executes in a phase."""
    del phase
    return "all"


def weight_of(step: jax.Array) -> jax.Array:
  """Returns what a step, from 1 on, weighs in a mean of all first, then about a hundred steps."""
  return jnp.maximum(1 / step, 0.01)


class AveragingSharing(Sharing):
  """Keeps the mean of `Signals.own`: of all first steps, then of about the last hundred.

  A class of this one defines `unseen`.
  """

  def unseen(self) -> PyTree:
    """Returns zeros in the shape of `Signals.own`."""
    raise NotImplementedError

  def memory(self, params: PyTree) -> PyTree:
    """Returns the number of steps, and a mean of nothing."""
    del params
    return {"steps": jnp.zeros((), jnp.int32), "mean": self.unseen()}

  def remember(
    self,
    static: Any,
    learnt: PyTree,
    memory: PyTree,
    control: PyTree,
    signals: trunks.Signals,
    losses: balancing.Losses,
  ) -> PyTree:
    """Returns the mean that a step has moved."""
    del static, learnt, control, losses
    steps = memory["steps"] + 1
    moved = lambda old, new: old + weight_of(steps) * (new - old)
    return {"steps": steps, "mean": jax.tree.map(moved, memory["mean"], signals.own)}


# A phase's optimiser settings, and a maker of the weights' optimiser at a learning rate; with
# False beside the rate it has no weight decay.
Optimizer = Callable[[Any, Callable[..., Any]], Any]


@dataclasses.dataclass(frozen=True)
class Method:
  """A sharing method, as `build(parts)` of `methods/<name>.py` returns it.

  Attributes:
    name: the module's name.
    phases: in the order in which they run.
    trunk: turns one input into features for every task.
    sharing: what is decided about the trunk.
    independent: whether tasks share nothing, so that every task keeps its own best step.
    optimizers: for every parameter group of the trunk beside `backbone` and `gates`:
      `(settings, weights) -> optax transformation`, where `settings` are those of the phase in
      `config.optimizers` and `weights(rate, decays=True)` makes the optimiser of the weights.
    notes: what a report should say of it.
  """

  name: str
  phases: tuple[Phase, ...]
  trunk: Any
  sharing: Sharing = dataclasses.field(default_factory=Sharing)
  independent: bool = False
  optimizers: Mapping[str, Optimizer] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  @property
  def candidates(self) -> int:
    """How many structures there are."""
    return max(phase.candidate for phase in self.phases) + 1

  @property
  def retrained(self) -> int:
    """How many structures are re-trained in full."""
    return len({phase.candidate for phase in self.phases if not phase.trial} - {-1})
