"""Optimisers of the parameter groups, and updates that leave a group alone."""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynashare_jax.models.trunks import contract

Rules = Mapping[str, contract.Leaf]

GROUPS = ("backbone", "gates", "heads", "policy")
SCHEDULES = ("constant", "steps", "cosine", "onecycle")
KINDS = ("sgd", "adam", "adamw")


def path_of(path: tuple[Any, ...]) -> str:
  """Returns the `/`-joined names of a leaf's path in a tree."""
  return "/".join(str(getattr(p, "key", getattr(p, "name", p))) for p in path)


def groups(params: Any, rules: Rules) -> Any:
  """Returns the group of every leaf of `params`, as a tree; `rules` are the network's leaves."""

  def label(path: tuple[Any, ...], leaf: Any) -> str:
    part, _, rest = path_of(path).partition("/")
    if part != "network":
      return part
    found = contract.leaf_of(rules, rest)
    assert found is not None, rest  # `experiment.build` has looked.
    return found.group

  return jax.tree_util.tree_map_with_path(label, params)


class Horizon(NamedTuple):
  """How long a schedule lasts, as numbers that a compiled step takes: none is part of the program.

  Attributes:
    warm: int32, steps of the rise.
    rise: float32, the part of the rise that one step is.
    fall: float32, steps after the rise.
    turn: float32, the part of the half circle (radians) that one step of the fall is.
  """

  warm: Any
  rise: Any
  fall: Any
  turn: Any


def horizon(settings: Any, steps: int) -> Horizon:
  """Returns how long a schedule of some steps lasts; `settings` as of `schedule`, NumPy scalars.

  Steps multiply by `rise` and `turn`: so does XLA where it could divide by a number that it knows,
  so that a program that takes them computes the same bits.
  """
  warm = max(int(steps * settings.warm), 1) if settings.schedule == "onecycle" else 0
  one = np.float32(1)
  fall = np.float32(max(steps - warm, 1))
  return Horizon(
    np.int32(warm), one / np.float32(max(warm, 1)), fall, np.float32(np.pi) * (one / fall)
  )


def schedule(settings: Any, rate: float, steps: int | Horizon) -> optax.Schedule:
  """A learning-rate schedule.

  Args:
    settings: `schedule`, and `every`, `factor` (for `steps`) or `warm`
      (fraction of the phase, for `onecycle`).
    rate: the highest learning rate.
    steps: length of the phase.

  Raises:
    ValueError: an unknown schedule, or a setting outside its range.
  """
  if not 0 <= rate < float("inf"):
    raise ValueError(
      f"A learning rate in config.optimizers must be at least 0 and finite, but is {rate}."
    )
  if settings.schedule == "constant":
    return optax.constant_schedule(rate)
  if settings.schedule == "steps":
    if settings.every < 1:
      raise ValueError(
        "The setting `every` of a schedule 'steps' in config.optimizers must be at least 1, but is"
        f" {settings.every}."
      )
    return optax.exponential_decay(rate, settings.every, settings.factor, staircase=True)
  if settings.schedule not in SCHEDULES:
    raise ValueError(
      f"Unknown schedule {settings.schedule!r} in config.optimizers; it must be one of {SCHEDULES}."
    )
  rises = settings.schedule == "onecycle"
  if rises and not 0 <= settings.warm < 1:
    raise ValueError(
      "The setting `warm` of a schedule 'onecycle' in config.optimizers must be in [0, 1), but"
      f" is {settings.warm}."
    )
  given = steps if isinstance(steps, Horizon) else horizon(settings, steps)
  last = (rate / 1e4) / rate if rises and rate else 0.0  # as a part of the highest

  def value(count: Any) -> jax.Array:
    """`warmup_cosine_decay_schedule` or `cosine_decay_schedule` of optax, in every bit."""
    done = jnp.minimum(count - given.warm, given.fall)
    fallen = rate * ((1 - last) * (0.5 * (1 + jnp.cos(done * given.turn))) + last)
    if not rises:
      return fallen
    part = 1 - jnp.clip(count, 0, given.warm) * given.rise
    return jnp.where(count < given.warm, (rate / 25 - rate) * part + rate, fallen)

  return value


def make(
  config: Any, name: str, steps: int | Horizon, rules: Rules, more: Mapping[str, Any] | None = None
) -> optax.GradientTransformation:
  """The optimiser of a phase: Adam for the policy logits, the weights' own.

  Args:
    config: the run's; `config.optimizers[name]` are the weights' settings and
      `config.optimizers.policy` the policy's.
    name: `warmup`, `alternate` or `retrain`.
    steps: how long the optimiser lives, for schedules.
    more: makers of the optimisers of other groups, see `Method.optimizers`.

  Returns:
    An `optax.multi_transform` over `GROUPS` and the groups of `more`.

  Source: section 5 of the reference semantics (weights and logits have their own optimisers); the
    coupled weight decay of the authors' Adam is kept for `adam`, `adamw` decouples it.
  """
  settings = config.optimizers[name]
  weights = _weights(settings, settings.lr, steps=steps)
  heads = _weights(settings, settings.head_lr or settings.lr, steps=steps)
  gates = weights
  if settings.gate_lr:
    gates = optax.adam(settings.gate_lr, settings.b1, settings.b2)
  pol = config.optimizers.policy
  logits = optax.chain(
    optax.add_decayed_weights(pol.weight_decay),
    optax.scale_by_adam(pol.b1, pol.b2),
    optax.scale_by_learning_rate(pol.lr),
  )
  movers = {"backbone": weights, "gates": gates, "heads": heads, "policy": logits}
  for group, maker in (more or {}).items():
    movers[group] = maker(settings, functools.partial(_weights, settings, steps=steps))
  return optax.multi_transform(movers, functools.partial(groups, rules=rules))


def _weights(
  settings: Any, rate: float, decays: bool = True, *, steps: int | Horizon
) -> optax.GradientTransformation:
  """The optimiser of network weights; without weight decay where it does not suit them."""
  rates, decay = schedule(settings, rate, steps), settings.weight_decay if decays else 0.0
  if settings.kind == "sgd":
    return optax.chain(
      optax.add_decayed_weights(decay), optax.sgd(rates, momentum=settings.momentum)
    )
  if settings.kind == "adam":
    return optax.chain(
      optax.add_decayed_weights(decay), optax.adam(rates, settings.b1, settings.b2)
    )
  if settings.kind == "adamw":
    return optax.adamw(rates, settings.b1, settings.b2, weight_decay=decay)
  raise ValueError(
    f"Unknown optimiser {settings.kind!r} in config.optimizers; it must be one of {KINDS}."
  )


def split(params: Any, trainable: tuple[str, ...], groups: Any) -> tuple[Any, Any]:
  """Parts a tree into what trains and the rest; None stands for absent; see `groups`."""
  moving = jax.tree.map(lambda p, g: p if g in trainable else None, params, groups)
  still = jax.tree.map(lambda p, g: None if g in trainable else p, params, groups)
  return moving, still


def join(moving: Any, still: Any) -> Any:
  """Puts a split tree together again."""
  return jax.tree.map(
    lambda a, b: b if a is None else a, moving, still, is_leaf=lambda x: x is None
  )


def update(
  tx: optax.GradientTransformation,
  grads: Any,
  opt: Any,
  params: Any,
  trainable: tuple[str, ...],
  groups: Any,
  free: jax.Array | None = None,
) -> tuple[Any, Any]:
  """Returns moved parameters and optimiser state; groups that do not train stay bit-identical.

  Zero gradients would not do: Adam and weight decay still move a parameter.
  So a frozen group keeps its parameters and its optimiser state.

  Args:
    grads: tree like `params`, None where a group is frozen.
    trainable: groups that move.
    free: which numbers of the group `policy`, and of their moments, may move; None: all.
  """
  full = jax.tree.map(
    lambda g, p: jnp.zeros_like(p) if g is None else g, grads, params, is_leaf=lambda x: x is None
  )
  moves, new = tx.update(full, opt, params)
  inner = {
    group: new.inner_states[group] if group in trainable else state
    for group, state in opt.inner_states.items()
  }
  if "policy" in trainable and free is not None:  # Weight decay would move the held moments.
    inner["policy"] = jax.tree.map(
      lambda n, o: jnp.where(free, n, o) if n.ndim else n,
      inner["policy"],
      opt.inner_states["policy"],
    )

  def move(param: jax.Array, delta: jax.Array, group: str) -> jax.Array:
    if group not in trainable:
      return param
    if group == "policy" and free is not None:
      return jnp.where(free, param + delta, param)
    return (param + delta).astype(param.dtype)

  return jax.tree.map(move, params, moves, groups), new._replace(inner_states=inner)
