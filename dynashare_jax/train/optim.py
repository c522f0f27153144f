"""Optimisers of the parameter groups, and updates that leave a group alone."""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
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


def schedule(settings: Any, rate: float, steps: int) -> optax.Schedule:
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
  if settings.schedule == "cosine":
    return optax.cosine_decay_schedule(rate, max(steps, 1))
  if settings.schedule == "onecycle":
    if not 0 <= settings.warm < 1:
      raise ValueError(
        "The setting `warm` of a schedule 'onecycle' in config.optimizers must be in [0, 1), but"
        f" is {settings.warm}."
      )
    warm = max(int(steps * settings.warm), 1)
    return optax.warmup_cosine_decay_schedule(
      rate / 25, rate, warm, max(steps, warm + 1), rate / 1e4
    )
  raise ValueError(
    f"Unknown schedule {settings.schedule!r} in config.optimizers; it must be one of {SCHEDULES}."
  )


def make(
  config: Any, name: str, steps: int, rules: Rules, more: Mapping[str, Any] | None = None
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
  settings: Any, rate: float, decays: bool = True, *, steps: int
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
