"""What stands around every algorithm: normalise, aggregate, smooth, length.

The configuration's weights (lambda) are multiplied here, and absent tasks are kept out here.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from dynashare_jax.objectives import balancing
from dynashare_jax.objectives.balancing import _averages
from dynashare_jax.ops import gramian as ops
from dynashare_jax.types import PyTree


def compose(name: str, algorithm: balancing.Algorithm, settings: Any) -> balancing.Balancer:
  """Returns an algorithm with the settings of `config.balance` around it."""
  normalise, smooth = settings.normalise, settings.smooth
  length = settings.length or algorithm.length
  offset = settings.offset if algorithm.positive or normalise == "log" else 0.0
  level = algorithm.level
  if level == "losses" and (normalise == "unit" or length in ("plain", "unit")):
    level = "gramian"
  mix: Any = algorithm.combine
  second: Any = algorithm.after
  track: Any = algorithm.track
  constant = algorithm.constant and (normalise, smooth, length) == ("none", 0.0, "own")

  def init(tasks: int, epoch: int = 1, leaves: Any = ()) -> PyTree:
    kept = track and [track.init([jnp.zeros(leaf.shape) for leaf in leaves]) for _ in range(tasks)]
    parts = {
      "kept": kept,
      "told": jnp.zeros(tasks) if track else None,
      "last": {"weights": jnp.ones(tasks), "gramian": jnp.zeros((tasks, tasks))},
      "algorithm": algorithm.init(tasks, epoch),
      "squares": _averages.init(tasks) if normalise == "unit" else {},
      "smooth": _averages.init(tasks) if smooth else {},
    }
    if settings.every == 1:
      del parts["last"]
    return {part: state for part, state in parts.items() if jax.tree.leaves(state)}

  def facts_of(losses: balancing.Losses, gramian: Any, key: Any) -> balancing.Facts:
    prior = jnp.asarray(losses.prior, jnp.float32)
    rows = prior if algorithm.weights == "rows" else jnp.ones_like(prior)
    present = losses.labelled & (prior > 0)
    if gramian is not None:
      present = present & (jnp.diagonal(gramian) != 0)
      gramian = gramian * rows[:, None] * rows[None, :]
    return balancing.Facts((losses.value - offset) * rows, present, prior, gramian, key)

  def weigh(losses: balancing.Losses, gramian: Any, key: Any, state: PyTree) -> tuple[Any, PyTree]:
    slopes = None
    if algorithm.ahead is not None:
      gramian, slopes = None, gramian
    facts = facts_of(losses, gramian, key)._replace(told=state.get("told", slopes))
    new = dict(state)
    scale = jnp.ones_like(facts.prior)
    if normalise == "log":
      scale = 1.0 / balancing.divisor(facts.losses)
    if normalise == "unit":
      scale, new["squares"] = _averages.move_lengths(state["squares"], facts, settings.average)
    if gramian is not None:
      facts = facts._replace(gramian=facts.gramian * scale[:, None] * scale[None, :])
    found, own = algorithm.weigh(facts, state.get("algorithm", {}))
    if own:
      new["algorithm"] = own
    if constant:
      return tuple(p * w for p, w in zip(losses.prior, found, strict=True)), state
    found = jnp.asarray(found, jnp.float32)
    if smooth:
      found, new["smooth"] = _averages.move(state["smooth"], found, smooth)
    factor = scale if algorithm.weights == "inside" else scale * facts.prior
    weights = jnp.where(facts.present, found * factor, 0.0)
    if mix is None:
      weights = _lengthened(weights, facts, gramian, length)
    # Where nothing pulls at what is shared, heads may still learn.
    idle = jnp.where(losses.labelled, facts.prior, 0.0)
    weights = jnp.where(facts.present.any(), weights, idle)
    if "last" in state:
      share = weights / jnp.where(facts.prior > 0, facts.prior, 1.0)
      new["last"] = {"weights": share, "gramian": gramian}
    return weights, _frozen(new, state, facts.present)

  def held(losses: balancing.Losses, state: PyTree) -> tuple[jax.Array, jax.Array]:
    weights = jnp.asarray(losses.prior, jnp.float32) * state["last"]["weights"]
    return jnp.where(losses.labelled, weights, 0.0), state["last"]["gramian"]

  def ahead(state: PyTree, prior: Any) -> tuple[jax.Array, jax.Array, float]:
    prior = jnp.asarray(prior, jnp.float32)
    weights, rate = algorithm.ahead(state["algorithm"])  # type: ignore[misc]
    return prior * weights, prior, rate

  def tracked(rows: Any, losses: balancing.Losses, met: Any, state: PyTree) -> tuple[Any, PyTree]:
    found, kept, told = [], [], []
    for task, (row, old) in enumerate(zip(rows, state["kept"], strict=True)):
      there = losses.labelled[task]
      new_row, new, number = track.move(row, old)
      found.append([jnp.where(m & there, leaf, 0.0) for m, leaf in zip(met, new_row, strict=True)])
      kept.append(jax.tree.map(lambda a, b, there=there: jnp.where(there, a, b), new, old))
      told.append(number)
    return found, {**state, "kept": kept, "told": jnp.stack(told)}

  def combine(rows: Any, losses: balancing.Losses, weights: Any, key: Any) -> Any:
    weighed = [[w * leaf for leaf in row] for w, row in zip(weights, rows, strict=True)]
    moved = mix(weighed, key)
    if length in ("own", "sum"):
      return moved
    square = lambda leaves: sum(jnp.vdot(leaf, leaf) for leaf in leaves)
    plain = [
      sum(p * leaf for p, leaf in zip(losses.prior, column, strict=True))
      for column in zip(*rows, strict=True)
    ]
    wanted = jnp.sqrt(square(plain)) if length == "plain" else 1.0
    factor = wanted / jnp.maximum(jnp.sqrt(square(moved)), 1e-3 * wanted + 1e-30)
    return [factor * leaf for leaf in moved]

  def after(before: balancing.Losses, now: balancing.Losses, state: PyTree) -> PyTree:
    facts, later = facts_of(before, None, None), facts_of(now, None, None)
    new = {**state, "algorithm": second(facts, later.losses, state["algorithm"])}
    return _frozen(new, state, facts.present)

  return balancing.Balancer(
    name,
    weigh,
    level,
    init,
    combine if mix else None,
    algorithm.heads,
    after if second else None,
    ahead if algorithm.ahead else None,
    tracked if track else None,
    settings.features or algorithm.features,
    settings.every,
    held,
    constant,
  )


def _lengthened(weights: jax.Array, facts: balancing.Facts, gramian: Any, length: str) -> jax.Array:
  """Scales weights of rows without lambda, of whose inner products `gramian` is made."""
  if length == "own":
    return weights
  if length == "sum":
    rows = jnp.where(facts.present, weights / jnp.where(facts.present, facts.prior, 1.0), 0.0)
    return weights * facts.tasks / jnp.maximum(jnp.abs(rows).sum(), 1e-30)
  lengths, cosines = ops.unit(gramian, facts.present)
  plain = ops.norm(jnp.where(facts.present, facts.prior, 0.0), lengths, cosines)
  wanted = plain if length == "plain" else 1.0
  return weights * (wanted / jnp.maximum(ops.norm(weights, lengths, cosines), 1e-30))


def _frozen(new: PyTree, old: PyTree, present: jax.Array) -> PyTree:
  """The new state, but for tasks and pairs of tasks that are absent."""
  tasks = len(present)
  both = present[:, None] & present[None, :]
  masks = {(tasks,): present, (tasks, tasks): both}
  keep = lambda a, b: jnp.where(masks[a.shape], a, b) if a.shape in masks else a
  return jax.tree.map(keep, new, old)
