"""Balancers: how the losses of several tasks, or their gradients, become one update.

A file `<name>.py` is an algorithm: its `build(settings)` returns an `Algorithm`, pure functions and
a state as in Optax. `find` puts `config.balance` around it, in this order: rows are normalised, the
algorithm weighs them, weights are averaged over steps, and the update gets its length
(`_composition`). What comes out, a `Balancer`, is what a training step asks. It sees one of three
things (its `level`):

* `losses`: the task losses alone; the step costs what it costs without a balancer,
* `gramian`: beside them the inner products `[T, T]` of the tasks' gradients in what they share,
* `gradients`: those gradients themselves.

Gates and policy move by the plain sum of the task losses, whatever the balancer. By gradients, only
what tasks share (leaves without an owner) is moved by weighed gradients; a head moves by its own
task's loss times the task's weight in the configuration, unless `heads` says otherwise. A unit of
the trunk (`Trunk.weights_of`) is shared in the steps in which two tasks with labels execute it; in
others it moves by the plain sum and is left out of the inner products. Penalties are added with
weight 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import importlib
import math
import pkgutil
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.objectives import kinds

LEVELS = ("losses", "gramian", "gradients")
NORMALISE = ("none", "log", "unit")
LENGTHS = ("own", "sum", "plain", "unit")
SCALES = ("min", "rmse")  # of `aligned_scale`
POSITIVE = (lambda v: v > 0, "above 0")
ONE = (lambda v: v >= 1, "at least 1")
ZERO = (lambda v: v >= 0, "at least 0")
SHARE = (lambda v: 0 <= v < 1, "in [0, 1)")
# Of settings that are numbers: what fits, and in words.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
  "smooth": SHARE,
  "offset": (lambda v: -math.inf < v <= 0, "a lower bound of losses, at most 0"),
  "average": SHARE,
  "every": ONE,
  "autolambda_lr": POSITIVE,
  "autolambda_step": POSITIVE,
  "cagrad_c": ZERO,
  "dwa_temperature": POSITIVE,
  "excess_lr": POSITIVE,
  "fairgrad_alpha": POSITIVE,
  "famo_lr": POSITIVE,
  "famo_decay": ZERO,
  "go4align_groups": ONE,
  "go4align_beta": ZERO,
  "graddrop_leak": (lambda v: 0 <= v <= 1, "in [0, 1]"),
  "gradnorm_alpha": ZERO,
  "gradnorm_lr": POSITIVE,
  "gradvac_beta": (lambda v: 0 <= v <= 1, "in [0, 1]"),
  "learned_lr": POSITIVE,
  "moco_beta": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
  "moco_lr": POSITIVE,
  "moco_decay": ZERO,
  "modo_lr": POSITIVE,
  "modo_decay": ZERO,
  "sdmgrad_lambda": ZERO,
  "stch_mu": POSITIVE,
  "stch_warmup": ZERO,
}


class Losses(NamedTuple):
  """The losses of a step.

  Attributes:
    value: `[T]` float32, mean over the valid labels of a task; 0 where it has none.
    labelled: bool `[T]`, whether a task has any label in the batch. One without takes no part.
    prior: the tasks' weights in the configuration (lambda_k of Eq. 6), T floats.
    each: of every example `[T, B]`, summed over its labels; None where nothing asks for it.
    others: the same under each control of `Sharing.others`.
  """

  value: jax.Array
  labelled: jax.Array
  prior: tuple[float, ...]
  each: types.Sums | None = None
  others: tuple[types.Sums, ...] = ()


def means(each: types.Sums) -> tuple[jax.Array, jax.Array]:
  """Returns the mean loss over the labels of every example, and bool, where it has any."""
  known = jnp.asarray(each.count) > 0
  return jnp.asarray(each.total) / jnp.where(known, each.count, 1.0), known


class Balancer(NamedTuple):
  """A way to balance tasks, as a training step asks it.

  Attributes:
    name: of its file.
    weigh: `(losses, gramian, key, state) -> (weights, state)`: one weight per task, a sequence of
      floats or `[T]`, of gradients and losses without the configuration's weights. `gramian` is
      float32 `[T, T]`, None at level `losses`; `key` is a function of the seed and the step.
    level: what it sees, one of `LEVELS`.
    init: `(T, steps of an epoch, leaves that tasks share) -> state`, arrays that a checkpoint
      keeps; it starts anew where an optimiser does.
    combine: at level `gradients`: `(rows, losses, weights, key) -> gradient`, where `rows` has
      one list of shared gradients per task. None adds the weighed rows.
    heads: whether the weights also multiply the gradients of the heads; at level `losses` always.
    after: `(losses before, losses after the update, state) -> state`, of one batch and the same
      random draws; None needs no second look.
    ahead: `(state, prior) -> (weights [T], weights of the losses after a step [T], rate)`: then
      `weigh` is given in place of the Gramian the slopes `[T]` of these losses in the weights; None
      needs no look ahead.
    track: at level `gradients`: `(rows, losses, where two tasks meet, state) -> (rows, state)`:
      what takes the rows' place, made from those of earlier steps too. None takes them as they are.
    features: whether the rows are gradients in features that all tasks share, not in parameters.
    every: steps from one look at gradients to the next; in between `held` gives the weights.
    held: `(losses, state) -> (weights, gramian)`, the last ones.
    constant: whether the weights are those of the configuration.
  """

  name: str
  weigh: Callable[..., tuple[Any, types.PyTree]]
  level: str = "losses"
  init: Callable[..., types.PyTree] = lambda tasks, epoch, leaves: {}
  combine: Callable[..., types.PyTree] | None = None
  heads: bool = False
  after: Callable[..., types.PyTree] | None = None
  ahead: Callable[..., Any] | None = None
  track: Callable[..., Any] | None = None
  features: bool = False
  every: int = 1
  held: Callable[..., Any] | None = None
  constant: bool = False


class Track(NamedTuple):
  """What an algorithm keeps of every task's gradients.

  Attributes:
    init: `row -> kept`; a row is a list of leaves.
    move: `(row, kept) -> (row, kept, number)`: what takes the row's place; `Facts.told` has the
      numbers of all tasks.
  """

  init: Callable[[Any], Any]
  move: Callable[[Any, Any], Any]


class Facts(NamedTuple):
  """What an algorithm sees of a step.

  Attributes:
    losses: `[K]` float32. Unless `Algorithm.weights` says otherwise, they and the rows of
      `gramian` are already multiplied by the configuration's weights.
    present: bool `[K]`; weights of the others are ignored and their state stays as it is.
    prior: `[K]`, the configuration's weights.
    gramian: `[K, K]`, None at level `losses`. Rows of absent tasks may hold anything finite.
    key: of the step's random draws.
    told: `[K]`, slopes or numbers that the algorithm asked for by `ahead` or `track`.
  """

  losses: jax.Array
  present: jax.Array
  prior: jax.Array
  gramian: Any
  key: Any
  told: Any = None

  @property
  def tasks(self) -> jax.Array:
    """How many are present, at least 1, float32."""
    return jnp.maximum(self.present.sum(), 1).astype(jnp.float32)

  def softmax(self, logits: jax.Array) -> jax.Array:
    """Softmax over the present tasks; 0 elsewhere."""
    return jnp.where(self.present, jax.nn.softmax(jnp.where(self.present, logits, -1e30)), 0.0)

  def sum(self, values: jax.Array) -> jax.Array:
    """Sum over the present tasks."""
    return jnp.where(self.present, values, 0.0).sum()


class Algorithm(NamedTuple):
  """What a file of this folder defines; `own` lengths are such that the plain sum is w = 1.

  Attributes:
    weigh: `(facts, state) -> (weights, state)`, weights of the rows that it sees.
    level: as in `Balancer`.
    init: as in `Balancer`; leaves `[K]` and `[K, K]` belong to tasks and pairs of tasks.
    combine: at level `gradients`: `(rows, key) -> gradient`.
    after: `(facts, losses after the update, state) -> state`.
    heads: as in `Balancer`.
    weights: where the configuration's weights enter: `rows` (losses and gradients come with
      them), or, for algorithms to which a factor on a loss says nothing or the opposite, `result`
      (they multiply the weights that the algorithm finds for rows without them) or `inside` (the
      algorithm takes `Facts.prior` as a preference).
    positive: whether losses must be above 0.
    length: the default of `config.balance.length`, `own` or `plain`.
    ahead: `state -> (weights, rate)` of a step whose effect `Facts.told` has: how the weighed sum
      of the losses after it changes with each weight.
    track: what is kept of every task's gradients.
    features: the default of `config.balance.features`.
    constant: whether the weights are a tuple of numbers, constants of the compiled step.
  """

  weigh: Callable[[Facts, Any], tuple[Any, Any]]
  level: str = "losses"
  init: Callable[[int, int], types.PyTree] = lambda tasks, epoch: {}
  combine: Callable[..., types.PyTree] | None = None
  after: Callable[..., types.PyTree] | None = None
  heads: bool = False
  weights: str = "rows"
  positive: bool = False
  length: str = "own"
  ahead: Callable[[Any], Any] | None = None
  track: Track | None = None
  features: bool = False
  constant: bool = False


def divisor(losses: jax.Array) -> jax.Array:
  """Returns losses by which others can be divided: at least 1e-8."""
  return jnp.maximum(losses, 1e-8)


def slopes(
  near: Callable[[types.PyTree], tuple[jax.Array, jax.Array]],
  far: Callable[[types.PyTree], tuple[jax.Array, jax.Array]],
  at: types.PyTree,
  weights: jax.Array,
  wanted: jax.Array,
  rate: float,
) -> jax.Array:
  """Returns what one more of each task's weight does to the losses after a step, `[T]`.

  A derivative of the losses along one direction gives all tasks' slopes at once.

  Args:
    near: parameters -> losses `[T]`, and whether each has labels, on the data of the step.
    far: the same on other data, by which the step is judged.
    at: the parameters before the step.
    weights: `[T]`, of the losses in the step.
    wanted: `[T]`, of the losses after it.
    rate: size of the step.
  """

  def pull(of: Any, factors: jax.Array, where: types.PyTree) -> Any:
    weighed = lambda part: (lambda values, told: (values @ factors, told))(*of(part))
    return jax.grad(weighed, has_aux=True)(where)

  first, there = pull(near, weights, at)
  second, also = pull(far, wanted, jax.tree.map(lambda p, g: p - rate * g, at, first))
  _, found = jax.jvp(lambda part: near(part)[0], (at,), (second,))
  return jnp.where(there & also, -rate * found, 0.0)


def available() -> tuple[str, ...]:
  """Returns the names of the balancers that a configuration can choose."""
  names = (module.name for module in pkgutil.iter_modules(__path__))
  return tuple(sorted(name for name in names if not name.startswith("_")))


def find(settings: Any, tasks: Sequence[types.TaskSpec]) -> Balancer:
  """Returns the balancer of some tasks.

  Args:
    settings: `config.balance`.

  Raises:
    ValueError: there is none of this name (names the nearest), or its settings or the tasks'
      losses do not go together.
  """
  from dynashare_jax.objectives.balancing import _composition

  name = lookup.one_of("config.balance.name", settings.name, available())
  algorithm: Algorithm = importlib.import_module(f"{__name__}.{name}").build(settings)
  if algorithm.positive and settings.normalise != "none":
    raise ValueError(
      f"The balancer {name!r} takes out the size of the losses itself: set"
      f" config.balance.normalise='none', not {settings.normalise!r}."
    )
  if algorithm.combine is not None and settings.smooth:
    raise ValueError(
      f"The balancer {name!r} has no weights that could be averaged: set config.balance.smooth=0.0."
    )
  _check_gradients(name, algorithm, settings)
  if algorithm.positive or settings.normalise == "log":
    for task in tasks:
      lowest = kinds.find(task.kind).lowest
      if lowest < settings.offset:
        raise ValueError(
          f"The balancer {name!r} with config.balance.normalise={settings.normalise!r} needs losses"
          f" above 0, but the loss of the task {task.name!r} (kind {task.kind!r}) can be {lowest}:"
          " give a lower bound of it as config.balance.offset, or choose another balancer."
        )
  return _composition.compose(name, algorithm, settings)


def _check_gradients(name: str, algorithm: Algorithm, settings: Any) -> None:
  """Refuses ways to come by gradients that an algorithm cannot use."""
  reads = (
    algorithm.level != "losses"
    or settings.normalise == "unit"
    or (settings.length or algorithm.length) in ("plain", "unit")
  )
  if algorithm.ahead is not None and (reads or settings.normalise != "none"):
    raise ValueError(
      f"The balancer {name!r} weighs losses by what they are after a step:"
      " config.balance.normalise must be 'none', and config.balance.length empty, 'own' or 'sum'."
    )
  whole = algorithm.combine is not None or algorithm.track is not None
  if settings.features and (whole or not reads):
    does = "needs every element of the parameters' gradients" if whole else "reads losses alone"
    raise ValueError(f"The balancer {name!r} {does}: set config.balance.features=False.")
  if settings.every > 1 and (whole or not reads):
    does = "makes a new update of each step's gradients" if whole else "reads losses alone"
    raise ValueError(f"The balancer {name!r} {does}: set config.balance.every=1.")
