"""Balancing for your own loop: how the losses of several tasks become one update.

Every method is a pair of pure functions and a state, as in Optax:

```
nash = balance.make("nash", tasks=2)               # one of `balance.available()`
state = nash.init(params)
update, state = nash.update([grads_0, grads_1], state, [loss_0, loss_1])
```

`update` is the gradient for any optimiser. A method that reads the losses alone, or the inner
products of the gradients, also gives weights without the gradients (`Balancer.weigh`); one backward
pass of the weighed sum of the losses is then enough. Two conveniences do it all from a function of
the losses: `value_and_grad`, and `step`, which also moves the parameters.
`docs/pieces/balance.md` has a whole example; `docs/balancing.md` says what each method does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import numbers
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np
import optax

from dynashare_jax import defaults
from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import available
from dynashare_jax.ops import gramian as ops
from dynashare_jax.ops import streams
from dynashare_jax.types import PyTree

__all__ = ["Balancer", "State", "available", "make", "settings", "step", "value_and_grad"]

# Settings that go with every method; the others begin with their method's name.
_COMMON = ("average", "length", "normalise", "offset", "smooth")

Losses = jax.Array | np.ndarray | Sequence[Any]
# Of parameters and anything more: the losses `[T]`; or one function a task.
LossFunction = Callable[..., Any] | Sequence[Callable[..., Any]]


class State(NamedTuple):
  """What a balancer keeps between steps; a tree of arrays.

  Attributes:
    step: how many steps there were; random draws depend on it and the seed.
    kept: by the method, such as averages of losses.
  """

  step: jax.Array
  kept: PyTree


@dataclasses.dataclass(frozen=True)
class Balancer:
  """A balancing method with its settings; without any state of its own. `make` makes one.

  Attributes:
    name: of the method.
    tasks: T.
    reads: what the method looks at beside the losses: nothing (`losses`), inner products of the
      tasks' gradients (`gramian`), their elements (`gradients`), or what a weight does to the
      losses after a step (`slopes`, of `autolambda`).
    looks_back: whether the losses after the update are asked for (`after`, of `famo`).
    weights: T, the tasks' weights that you set: lambda of Eq. 6.
    shared: see `make`.
  """

  name: str
  tasks: int
  reads: str
  looks_back: bool
  weights: tuple[float, ...]
  shared: Any
  _of: balancing.Balancer
  _epoch: int
  _seed: int

  def init(self, params: PyTree = None) -> State:
    """Makes the state before the first step.

    Args:
      params: of the network; only methods that keep averages of gradients (`moco`, `excess`) need
        them, for their shapes.

    Raises:
      ValueError: such a method without parameters.
    """
    if params is None and self._of.track is not None:
      raise ValueError(f"The method {self.name!r} keeps averages of gradients: call init(params).")
    leaves = [leaf for leaf, mine in zip(*self._leaves(params), strict=True) if mine]
    return State(jnp.zeros((), jnp.int32), self._of.init(self.tasks, self._epoch, leaves))

  def weigh(
    self,
    losses: Losses,
    state: State,
    *,
    gramian: jax.Array | None = None,
    slopes: jax.Array | None = None,
    labelled: Losses | None = None,
  ) -> tuple[jax.Array, State]:
    """Returns a weight for every loss, or gradient, float32 `[T]`, and the new state.

    The `weights` that were given to `make` are in them. Of a method that reads gradients they are
    for what tasks share; heads take `weights` in their place, but for `nash`.

    Args:
      losses: `[T]`, of the step.
      state: of the last step.
      gramian: `[T, T]`, inner products of the gradients of the T losses, as they are, in what tasks
        share: parameters, or features that all heads read. Needed where `reads` is `gramian`.
      slopes: `[T]`, derivatives of the losses' sum after a step by the weights in it; needed where
        `reads` is `slopes`. `value_and_grad` computes them.
      labelled: bool `[T]`, False for a task without any label in the batch: it gets the weight 0,
        and what is kept of it stays. Default all have some.

    Raises:
      ValueError: what the method reads is missing or of another shape, or it reads the elements of
        the gradients (use `update`).
    """
    given: Any = state
    if not isinstance(given, State):
      raise ValueError(f"`state` must be of `init` or the last step, not a {type(given).__name__}.")
    if self.reads == "gradients":
      raise ValueError(f"The method {self.name!r} reads elements of gradients: call `update`.")
    seen = {"losses": None, "gramian": gramian, "slopes": slopes}[self.reads]
    if seen is None and self.reads != "losses":
      raise ValueError(f"The method {self.name!r} reads the {self.reads}: give `{self.reads}=`.")
    wanted = (self.tasks,) * {"gramian": 2, "slopes": 1}.get(self.reads, 0)
    if seen is not None and jnp.shape(seen) != wanted:
      raise ValueError(f"`{self.reads}` has the shape {jnp.shape(seen)}, not {wanted}.")
    seen = None if seen is None else jnp.asarray(seen, jnp.float32)
    told = self._losses(losses, labelled)
    found, kept = self._of.weigh(told, seen, self._key(state), state.kept)
    if self._of.constant:
      found = jnp.where(told.labelled, jnp.asarray(found, jnp.float32), 0.0)
    return jnp.asarray(found, jnp.float32), State(state.step + 1, kept)

  def update(
    self,
    gradients: Sequence[PyTree],
    state: State,
    losses: Losses,
    *,
    slopes: jax.Array | None = None,
    labelled: Losses | None = None,
  ) -> tuple[PyTree, State]:
    """Returns one gradient for the optimiser, and the new state.

    Args:
      gradients: of the T losses in the parameters, a tree for each.
      state: of the last step.
      losses: see `weigh`.
      slopes: see `weigh`.
      labelled: see `weigh`; gradients of tasks without labels may hold anything.

    Returns:
      A tree as each of the gradients. In what is not shared it is the sum of the gradients times
      `weights`, or times the balancer's weights for methods that weigh whole losses (those that
      read losses alone, and `nash`).

    Raises:
      ValueError: another number of gradients than tasks, or as `weigh`.
    """
    if len(gradients) != self.tasks:
      raise ValueError(f"There are {len(gradients)} gradients for {self.tasks} tasks.")
    shapes = [list(map(jnp.shape, jax.tree.leaves(gradient))) for gradient in gradients]
    trees: list[Any] = [jax.tree.structure(gradient) for gradient in gradients]
    if any(shape != shapes[0] for shape in shapes) or any(tree != trees[0] for tree in trees):
      raise ValueError(
        "The gradients must be of the same parameters, but differ in names or shapes:"
        f" {'; '.join(f'{t} with {s}' for t, s in zip(trees, shapes, strict=True))}."
      )
    if not jax.tree.leaves(gradients[0]):
      raise ValueError("The gradients have no array: there is nothing to balance.")
    told, of, kept = self._losses(losses, labelled), self._of, state.kept
    tree = jax.tree.structure(gradients[0])
    _, flags = self._leaves(gradients[0])
    rows = [[jnp.asarray(leaf) for leaf in jax.tree.leaves(gradient)] for gradient in gradients]
    if labelled is not None:
      there = lambda leaf, t: jnp.where(told.labelled[t], leaf, jnp.zeros_like(leaf))
      rows = [[there(leaf, t) for leaf in row] for t, row in enumerate(rows)]
    shared = [[leaf for leaf, mine in zip(row, flags, strict=True) if mine] for row in rows]
    if of.track is not None:
      shared, kept = of.track(shared, told, [True] * len(shared[0]), kept)
    columns = list(zip(*shared, strict=True))
    if self.reads == "gradients":
      weights, kept = of.weigh(told, ops.products(columns), self._key(state), kept)
      moved = State(state.step + 1, kept)
    else:
      gramian = ops.products(columns) if self.reads == "gramian" else None
      weights, moved = self.weigh(losses, state, gramian=gramian, slopes=slopes, labelled=labelled)
    if of.combine is not None:
      made = iter(of.combine(shared, told, weights, self._key(state)))
    else:
      made = iter([_dot(weights, column) for column in columns])
    whole = of.heads or self.reads in ("losses", "slopes")
    factors = weights if whole else self.weights
    found = [
      next(made) if mine else _dot(factors, column)
      for mine, column in zip(flags, zip(*rows, strict=True), strict=True)
    ]
    typed = [a.astype(b.dtype) for a, b in zip(found, rows[0], strict=True)]
    return jax.tree.unflatten(tree, typed), moved

  def after(
    self, before: Losses, now: Losses, state: State, *, labelled: Losses | None = None
  ) -> State:
    """Returns the state once the losses after the update are known; the same but for `famo`.

    Args:
      before: `[T]`, the losses of the step.
      now: of the same batch, and with the same random draws, after the update.
      state: after the step.
      labelled: see `weigh`.
    """
    if self._of.after is None:
      return state
    told = (self._losses(values, labelled) for values in (before, now))
    return state._replace(kept=self._of.after(*told, state.kept))

  def _losses(self, losses: Losses, labelled: Losses | None) -> balancing.Losses:
    """The losses as the package's balancers read them."""
    given = (
      losses
      if isinstance(losses, jax.Array | np.ndarray)
      else jnp.stack([jnp.asarray(one, jnp.float32) for one in losses])
    )
    value = jax.lax.stop_gradient(jnp.asarray(given, jnp.float32))
    known = jnp.asarray([True] * self.tasks if labelled is None else labelled, bool)
    for what, array in (("losses", value), ("labelled", known)):
      if array.shape != (self.tasks,):
        raise ValueError(
          f"`{what}` has the shape {array.shape}, not ({self.tasks},): give one number a task."
        )
    return balancing.Losses(jnp.where(known, value, 0.0), known, self.weights)

  def _key(self, state: State) -> jax.Array:
    """Of the step's random draws."""
    return streams.stream_key(self._seed, "balance", state.step)

  def _leaves(self, tree: PyTree) -> tuple[list[Any], list[bool]]:
    """Leaves of a tree, and which of them tasks share."""
    leaves = jax.tree.leaves(tree)
    if self.shared is None or not leaves:
      return leaves, [True] * len(leaves)
    mask = self.shared(tree) if callable(self.shared) else self.shared
    if odd := [f for f in jax.tree.leaves(mask) if not isinstance(f, bool | np.bool_)]:
      raise ValueError(f"`shared` must hold True and False, not {odd[0]!r}.")
    wide = jax.tree.map(lambda flag, part: jax.tree.map(lambda _: bool(flag), part), mask, tree)
    flags = jax.tree.leaves(wide)
    if not any(flags):
      raise ValueError("`shared` says that tasks share no parameter: there is nothing to balance.")
    return leaves, flags


def settings(name: str) -> dict[str, Any]:
  """Returns the settings of a method and their defaults, which `make` takes by name.

  Raises:
    ValueError: there is no such method (names the nearest).

  Example:
    >>> settings("cagrad")["cagrad_c"]
    0.4
  """
  lookup.one_of("The balancing method", name, available())
  known = defaults.get_config().balance.to_dict()
  own = {name.split("_")[0], "learned" if name in ("imtl_l", "uncertainty") else name}
  return {key: v for key, v in known.items() if key in _COMMON or key.split("_")[0] in own}


def make(
  name: str,
  tasks: int,
  *,
  weights: Sequence[float] | None = None,
  shared: Any = None,
  epoch: int = 1,
  seed: int = 0,
  **options: Any,
) -> Balancer:
  """Makes a balancer.

  Args:
    name: of the method, one of `available()`.
    tasks: T, how many losses there are.
    weights: T, at least 0: the tasks' own weights; default 1. To methods for which a factor on a
      loss says nothing, such as `nash`, they are a preference.
    shared: which parameters tasks share, as `optax.masked` takes it: a tree of bools (or the
      beginning of one, such as `{"trunk": True, "heads": False}`), or a function that makes one
      of the parameters. The others belong to one task each. Default: all are shared.
    epoch: steps of an epoch; `dwa` and `stch` compare epochs.
    seed: of random draws (`pcgrad`, `random`, `graddrop`, ...).
    **options: of the method, see `settings`: its own, and `normalise` (`none`, `log`, `unit`),
      `smooth`, `length` (`own`, `sum`, `plain`, `unit`), `average`, `offset`.

  Raises:
    ValueError: an unknown method or setting (names the nearest), or one that the method has no use
      for.

  Example:
    >>> fixed = make("fixed", tasks=2, weights=(1.0, 10.0))
    >>> fixed.weigh([2.0, 3.0], fixed.init())[0].tolist()
    [1.0, 10.0]
  """
  known = settings(name)
  counts: Any = (("tasks", tasks, 1), ("epoch", epoch, 1), ("seed", seed, 0))
  for what, value, least in counts:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
      raise ValueError(f"`{what}` must be a whole number of at least {least}, but is {value!r}.")
    if value >= 2**31:
      raise ValueError(f"`{what}` must be below 2^31, but is {value}.")
  if isinstance(weights, str | Mapping):
    raise ValueError(f"`weights` must be {tasks} numbers in the order of the tasks: {weights!r}.")
  prior = (1.0,) * tasks if weights is None else tuple(map(float, weights))
  if len(prior) != tasks or not min(prior) >= 0 or not 0 < sum(prior) < math.inf:
    raise ValueError(
      f"`weights` are {weights} for {tasks} tasks: give one a task, at least 0, not all 0."
    )
  given = defaults.get_config().balance
  given.name = name
  for key, value in options.items():
    lookup.one_of(f"A setting of the method {name!r}", key, known)
    before = given[key]
    typed = isinstance(value, str if isinstance(before, str) else numbers.Real)
    if isinstance(value, bool) or not typed or (type(before) is int and int(value) != value):
      raise ValueError(f"`{key}` must be as {before!r}, but is {value!r}.")
    fits, wanted = balancing.RANGES.get(key, (lambda v: True, ""))
    if not fits(value) or value == math.inf:
      raise ValueError(f"`{key}` must be {wanted} and finite, but is {value!r}.")
    given[key] = type(before)(value)
  lookup.one_of("`aligned_scale`", given.aligned_scale, balancing.SCALES)
  lookup.one_of("`normalise`", given.normalise, balancing.NORMALISE)
  lookup.one_of("`length`", given.length or "own", balancing.LENGTHS)
  specs = [types.TaskSpec(f"task {t}", "number") for t in range(tasks)]
  try:
    found = balancing.find(given, specs)
  except ValueError as error:
    raise ValueError(str(error).replace("config.balance.", "")) from error
  reads = "slopes" if found.ahead is not None else found.level
  return Balancer(
    name, tasks, reads, found.after is not None, prior, shared, found, int(epoch), int(seed)
  )


def value_and_grad(
  balancer: Balancer, losses: LossFunction, has_aux: bool = False
) -> Callable[..., tuple[Any, PyTree, State]]:
  """Makes the function of all losses and of the one gradient that the balancer makes of theirs.

  One forward pass, and one backward pass where the balancer reads losses alone, else one for each
  task. `autolambda` computes the losses of both halves of the examples (even and odd rows of what
  follows the parameters) beside.

  Args:
    balancer: from `make`.
    losses: `(params, *rest) -> [T]`; or a list of T functions `(params, *rest) -> loss`.
    has_aux: whether `losses`, one function, returns `([T], more)`, such as batch statistics.

  Returns:
    `run(params, state, *rest, labelled=None) -> (losses [T], gradient, state)`, to be compiled as
    you like; with `has_aux` the first is `(losses, more)`.

  Example:
    >>> square = [lambda x: (x - 1) ** 2, lambda x: 4 * (x + 1) ** 2]
    >>> fixed = make("fixed", tasks=2)
    >>> value_and_grad(fixed, square)(jnp.float32(0.0), fixed.init())[1].item()
    6.0
  """
  of = _together(losses, has_aux)

  def run(
    params: PyTree, state: State, *rest: Any, labelled: Losses | None = None
  ) -> tuple[Any, PyTree, State]:
    """Computes losses, gradient and state of one step."""
    values, pull, more = jax.vjp(lambda p: of(p, *rest), params, has_aux=True)
    if values.shape != (balancer.tasks,):
      raise ValueError(
        f"The losses have the shape {values.shape}, not ({balancer.tasks},): one number a task."
      )
    slopes = None
    if balancer.reads == "slopes":
      slopes = _slopes(balancer, of, params, state, rest, labelled)
    if balancer.reads in ("losses", "slopes"):
      factors, state = balancer.weigh(values, state, slopes=slopes, labelled=labelled)
      (gradient,) = pull(factors.astype(values.dtype))
    else:
      one = lambda t: jnp.zeros_like(values).at[t].set(1)
      rows = [pull(one(t))[0] for t in range(balancer.tasks)]
      gradient, state = balancer.update(rows, state, values, labelled=labelled)
    return (values, more) if has_aux else values, gradient, state

  return run


def step(
  balancer: Balancer,
  optimizer: optax.GradientTransformation,
  losses: LossFunction,
  has_aux: bool = False,
) -> Callable[..., tuple[PyTree, PyTree, State, Any]]:
  """Makes the function of one whole training step.

  Args:
    balancer: from `make`.
    optimizer: of Optax.
    losses: see `value_and_grad`.
    has_aux: see `value_and_grad`.

  Returns:
    `move(params, moments, state, *rest, labelled=None) -> (params, moments, state, losses)`, where
    `moments` is the optimiser's state; to be compiled as you like. `famo` computes the losses once
    more, after the update.

  Example:
    >>> fixed, sgd = make("fixed", tasks=1), optax.sgd(0.25)
    >>> move = step(fixed, sgd, [lambda x: (x - 1) ** 2])
    >>> move(jnp.float32(0.0), sgd.init(0.0), fixed.init())[0].item()
    0.5
  """
  of, balanced = _together(losses, has_aux), value_and_grad(balancer, losses, has_aux)

  def move(
    params: PyTree, moments: PyTree, state: State, *rest: Any, labelled: Losses | None = None
  ) -> tuple[PyTree, PyTree, State, Any]:
    """Moves parameters, moments and state by one step."""
    told, gradient, state = balanced(params, state, *rest, labelled=labelled)
    updates, moments = optimizer.update(gradient, moments, params)
    params = optax.apply_updates(params, updates)
    if balancer.looks_back:
      before = told[0] if has_aux else told
      state = balancer.after(before, of(params, *rest)[0], state, labelled=labelled)
    return params, moments, state, told

  return move


def _dot(weights: Any, column: Sequence[jax.Array]) -> jax.Array:
  """The weighed sum of the tasks' gradients in one leaf."""
  return jnp.asarray(sum(w * leaf for w, leaf in zip(weights, column, strict=True)))


def _together(losses: LossFunction, has_aux: bool) -> Callable[..., tuple[jax.Array, Any]]:
  """The function of all losses `[T]`, and what comes beside."""
  if callable(losses):
    given = losses
    if has_aux:
      return lambda *args: (lambda values, more: (_stacked(values), more))(*given(*args))
    return lambda *args: (_stacked(given(*args)), None)
  if has_aux:
    raise ValueError("`has_aux` goes with one function that returns all losses, not with a list.")
  each = tuple(losses)
  return lambda *args: (_stacked([one(*args) for one in each]), None)


def _stacked(values: Any) -> jax.Array:
  """Losses in one array, however they come."""
  return jnp.stack(values) if isinstance(values, list | tuple) else jnp.asarray(values)


def _slopes(
  balancer: Balancer,
  of: Callable[..., tuple[jax.Array, Any]],
  params: PyTree,
  state: State,
  rest: Sequence[Any],
  labelled: Losses | None,
) -> jax.Array:
  """What one more of each weight does to the losses of the odd rows after a step with the even."""
  ahead = balancer._of.ahead
  assert ahead is not None
  weights, wanted, rate = ahead(state.kept, balancer.weights)
  known = jnp.asarray([True] * balancer.tasks if labelled is None else labelled, bool)
  sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(rest)}
  rows = next(iter(sizes), ())
  if len(sizes) != 1 or not rows or rows[0] % 2:
    raise ValueError(
      f"The method {balancer.name!r} halves the batch: what follows the parameters must be"
      f" arrays of one even number of examples, not {sorted(sizes)}."
    )
  half = lambda number: jax.tree.map(lambda a: jnp.asarray(a)[number::2], rest)
  values = lambda number: lambda part: (of(part, *half(number))[0], known)
  return balancing.slopes(values(0), values(1), params, weights, wanted, rate)
