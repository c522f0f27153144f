"""Gradients of a training step, weighed by the balancer of the tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.models import norm
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.objectives import balancing
from dynashare_jax.ops import gramian as gramian_ops
from dynashare_jax.ops import streams
from dynashare_jax.sharing import contract
from dynashare_jax.train import forward as forward_lib
from dynashare_jax.train import optim
from dynashare_jax.types import PyTree

# Groups that move by the plain sum of the task losses, whatever the balancer.
UNBALANCED = ("gates", "policy")


def gradients(pass_: forward_lib.Pass) -> tuple[PyTree, forward_lib.Aside]:
  """Computes the gradients of the groups that move; None elsewhere.

  Where the balancer reads losses, by one backward pass of the weighed sum. Else, and where gates or
  the policy, which move by the plain sum, are trained beside, the network is cut at the trunk's
  features: heads are pulled once, and the trunk once per task (unrolled: a mapped convolution's
  gradient was measured 6 to 32 times slower on a CPU), or, where weights are known before, once in
  all by weighed gradients of the features. What is shared follows from the step's route: a unit
  that fewer than two tasks with labels execute has no part in the inner products and moves by the
  plain sum of its gradients.

  Where tasks take an inner step (`Phase.inner`), by one backward pass for each of both steps.
  """
  objective, spec, state = pass_.objective, pass_.spec, pass_.state
  groups = optim.groups(state.params, objective.network.leaves())
  trained, still = optim.split(state.params, spec.trainable, groups)
  balanced = "backbone" in spec.trainable
  if spec.inner is not None:
    return _after_steps(pass_, trained, still, spec.inner, balanced)
  apart = objective.balancer.level != "losses" or _unbalanced(pass_)
  if balanced and apart:
    return _cut(pass_, trained, still)
  return _whole(pass_, trained, still, balanced)


def _unbalanced(pass_: forward_lib.Pass) -> bool:
  """Whether what moves by the plain sum is trained beside what is weighed."""
  groups, objective = pass_.spec.trainable, pass_.objective
  beside = "gates" in groups or ("policy" in groups and objective.sharing.pathwise)
  return beside and not objective.balancer.constant


def _key(pass_: forward_lib.Pass) -> jax.Array:
  """Of the balancer's random draws."""
  return streams.stream_key(pass_.moving.seed, "balance", pass_.step)


def _whole(
  pass_: forward_lib.Pass, trained: PyTree, still: PyTree, balanced: bool
) -> tuple[PyTree, forward_lib.Aside]:
  """By one backward pass of the weighed sum."""
  balancer, state = pass_.objective.balancer, pass_.state
  slopes = _slopes(pass_, trained, still) if balanced else None

  def total(part: PyTree) -> Any:
    values, charge, aside = pass_.losses(optim.join(part, still))
    weights: Any = aside.losses.prior
    if balanced:
      held = aside.losses._replace(value=jax.lax.stop_gradient(aside.losses.value))
      weights, balance = balancer.weigh(held, slopes, _key(pass_), state.balance)
      aside = _noted(pass_.objective, aside, weights, balance)
    return forward_lib.dot(weights, values) + jnp.asarray(charge, jnp.float32), aside

  return jax.grad(total, has_aux=True)(trained)


def _slopes(pass_: forward_lib.Pass, trained: PyTree, still: PyTree) -> jax.Array | None:
  """What one more of each task's weight does to the losses after a step, `[T]`; None if not asked.

  The step is made with one half of the batch, and judged by the other; a derivative of the losses
  along one direction gives all tasks' slopes at once.
  """
  ahead = pass_.objective.balancer.ahead
  if ahead is None:
    return None
  weights, wanted, rate = ahead(pass_.state.balance, [t.weight for t in pass_.objective.tasks])

  def losses_of(half: int) -> Any:
    one = lambda a: a.reshape(a.shape[0] // 2, 2, *a.shape[1:])[:, half]
    here = pass_._replace(batch=jax.tree.map(one, pass_.batch))

    def values_of(part: PyTree) -> Any:
      values, _, aside = here.losses(optim.join(part, still))
      return jnp.stack(values), aside.losses.labelled

    return values_of

  return balancing.slopes(losses_of(0), losses_of(1), trained, weights, wanted, rate)


def inner_rows(count: int, share: float) -> tuple[np.ndarray, np.ndarray]:
  """Returns which rows of a batch are its inner part, and which its outer part; see `Inner`."""
  outer = count - round(count * share)
  places = ((np.arange(outer) + 0.5) * count / max(outer, 1)).astype(np.int32)
  return np.setdiff1d(np.arange(count, dtype=np.int32), places), places


def _after_steps(
  pass_: forward_lib.Pass, trained: PyTree, still: PyTree, inner: contract.Inner, balanced: bool
) -> tuple[PyTree, forward_lib.Aside]:
  """Of every task's outer loss where its inner step has taken the weights."""
  objective, state = pass_.objective, pass_.state
  rows = inner_rows(pass_.batch.present.shape[0], inner.share)
  near, far = (
    pass_._replace(batch=jax.tree.map(lambda a, places=places: a[places], pass_.batch))
    for places in rows
  )

  def losses(part: PyTree) -> Any:
    values, charge, aside = near.losses(optim.join(part, still))
    return (values, jnp.asarray(charge, jnp.float32)), aside

  (values, charge), pull, aside = jax.vjp(losses, trained, has_aux=True)
  zeros = [jnp.zeros_like(value) for value in values]
  outer, labelled, pulled = [], [], []
  for task, value in enumerate(values):
    asked = [*zeros[:task], jnp.ones_like(value), *zeros[task + 1 :]]
    (steps,) = pull((asked, jnp.zeros_like(charge)))
    there = jax.tree.map(lambda p, g: p - inner.rate * g, trained, steps)

    def one(part: PyTree, task: int = task) -> Any:
      found, _, told = far.losses(optim.join(part, still))
      return found[task], told.losses.labelled[task]

    (value, known), slopes = jax.value_and_grad(one, has_aux=True)(there)
    outer.append(value)
    labelled.append(known)
    pulled.append(jax.tree.leaves(slopes))
  told = aside.losses._replace(value=jnp.stack(outer), labelled=jnp.stack(labelled))
  weights, balance = told.prior, state.balance
  if balanced:
    weights, balance = objective.balancer.weigh(told, None, _key(pass_), balance)
  plain = jax.tree.leaves(optim.groups(trained, objective.network.leaves()))
  grads = [
    forward_lib.dot(told.prior if group in UNBALANCED else weights, column)
    for group, column in zip(plain, zip(*pulled, strict=True), strict=True)
  ]
  if any(name.startswith("penalty/") for name in aside.parts):
    (charged,) = pull((zeros, jnp.ones_like(charge)))
    grads = [a + b for a, b in zip(grads, jax.tree.leaves(charged), strict=True)]
  names = (f"outer/{task.name}" for task in objective.tasks)
  aside = aside._replace(parts=aside.parts | dict(zip(names, outer, strict=True)))
  aside = _noted(objective, aside, weights, balance)
  return jax.tree.unflatten(jax.tree.structure(trained), grads), aside


def _cut(
  pass_: forward_lib.Pass, trained: PyTree, still: PyTree
) -> tuple[PyTree, forward_lib.Aside]:
  """By the gradients of the features, and through the trunk by what the balancer makes of them."""
  objective, rules = pass_.objective, pass_.objective.network.leaves()
  balancer = objective.balancer
  trunk = _trunk(pass_, trained, still)
  heads = _heads(pass_, trained, still, trunk)
  met = _met(objective.network, trained, heads.aside)
  shared = _shared(trained, rules)
  if balancer.level == "losses" or pass_.spec.held or balancer.features:
    found = _by_sums(pass_, trunk, heads, met, shared, _slopes(pass_, trained, still))
  else:
    found = _by_rows(pass_, trunk, heads, met, shared)
  grads, prior = list(found.moved), heads.aside.losses.prior
  for n, (leaf, head) in enumerate(zip(_leaves(trained, rules), heads.own, strict=True)):
    if leaf is not None and leaf.owner is not None:
      whole = balancer.heads or balancer.level == "losses"
      of, factors = (found.weighed, found.weights) if whole else (found.plain, prior)
      grads[n] = of[n] + factors[leaf.owner] * head
  if heads.charged is not None:
    direct, features, signals = heads.charged
    through = trunk.sum([1.0] * len(heads.asked), features, signals)
    grads = [a + b + c for a, b, c in zip(grads, direct, through, strict=True)]
  tree = jax.tree.unflatten(jax.tree.structure(trained), grads)
  return tree, _noted(objective, heads.aside, found.weights, found.balance, found.gramian)


class _Sums(NamedTuple):
  """Sums of the tasks' gradients, leaf by leaf.

  Attributes:
    plain: with the weights of the configuration.
    weighed: with those of the balancer.
    moved: what leaves move by that no task owns: weighed where tasks share them, else plain.
    weights: of the balancer.
    balance: its new state.
    gramian: what it saw; None where it saw none.
  """

  plain: list[Any]
  weighed: list[Any]
  moved: list[Any]
  weights: Any
  balance: PyTree
  gramian: Any


def _by_sums(
  pass_: forward_lib.Pass,
  trunk: _Trunk,
  heads: _Heads,
  met: list[jax.Array],
  shared: list[bool],
  slopes: jax.Array | None,
) -> _Sums:
  """Of weights that are known before the trunk: one pull with them, and one with the others."""
  balancer, balance, gramian = pass_.objective.balancer, pass_.state.balance, None
  losses = heads.aside.losses
  if pass_.spec.held:
    assert balancer.held is not None
    weights, gramian = balancer.held(losses, balance)
  else:
    if balancer.features:
      gramian = gramian_ops.products(list(zip(*map(jax.tree.leaves, heads.asked), strict=True)))
    seen = gramian if slopes is None else slopes
    weights, balance = balancer.weigh(losses, seen, _key(pass_), balance)
  add = lambda factors: trunk.sum(factors, heads.asked, heads.quiet)
  weighed = add(weights)
  plain = weighed if trunk.common else add(losses.prior)
  moved = list(plain)
  for n, mine in enumerate(shared):
    if mine:
      all_of = balancer.level == "losses"
      moved[n] = weighed[n] if all_of else jnp.where(met[n], weighed[n], plain[n])
  return _Sums(plain, weighed, moved, weights, balance, gramian)


def _by_rows(
  pass_: forward_lib.Pass, trunk: _Trunk, heads: _Heads, met: list[jax.Array], shared: list[bool]
) -> _Sums:
  """Of every task's gradients in the trunk's parameters: one pull per task."""
  objective, losses, balance = pass_.objective, heads.aside.losses, pass_.state.balance
  balancer, prior, key = objective.balancer, losses.prior, _key(pass_)
  rows = [trunk.pull(task, one, heads.quiet) for task, one in enumerate(heads.asked)]
  if objective.mesh is not None and objective.mesh.devices.size > 1:
    parts = mesh_lib.state_shardings(rows, objective.mesh, True)
    rows = jax.lax.with_sharding_constraint(rows, parts)
  columns = list(zip(*rows, strict=True))
  places = [n for n, mine in enumerate(shared) if mine]
  there = [met[n] for n in places]
  add = lambda factors, of: [forward_lib.dot(factors, column) for column in of]
  plain = add(prior, columns)
  if balancer.track is None and balancer.combine is None:
    gramian = gramian_ops.products([columns[n] for n in places], there)
    weights, balance = balancer.weigh(losses, gramian, key, balance)
    factors = lambda m: [jnp.where(m, w, p) for w, p in zip(weights, prior, strict=True)]
    found = [forward_lib.dot(factors(m), columns[n]) for n, m in zip(places, there, strict=True)]
  else:
    elements = [
      [jnp.where(m, row[n], 0.0) for n, m in zip(places, there, strict=True)] for row in rows
    ]
    if balancer.track is not None:
      elements, balance = balancer.track(elements, losses, there, balance)
    of_leaf = list(zip(*elements, strict=True))
    gramian = gramian_ops.products(of_leaf)
    weights, balance = balancer.weigh(losses, gramian, key, balance)
    combine = balancer.combine
    made = combine(elements, losses, weights, key) if combine else add(weights, of_leaf)
    found = [jnp.where(m, a, plain[n]) for n, m, a in zip(places, there, made, strict=True)]
  moved = list(plain)
  for n, one in zip(places, found, strict=True):
    moved[n] = one
  return _Sums(plain, add(weights, columns), moved, weights, balance, gramian)


class _Trunk(NamedTuple):
  """A forward pass of the trunk, and how to go back.

  Attributes:
    features: of every task.
    signals: of the trunk.
    stats: new batch statistics.
    common: whether all tasks read the same features.
    pull: `(task, its cotangent, cotangents of the signals) -> leaves`, the latter 0.
    sum: `(factors, cotangents of the features, of the signals) -> leaves`.
  """

  features: list[Any]
  signals: trunks.Signals
  stats: PyTree
  common: bool
  pull: Callable[..., list[jax.Array]]
  sum: Callable[..., list[jax.Array]]


def _trunk(pass_: forward_lib.Pass, trained: PyTree, still: PyTree) -> _Trunk:
  """One pass of all tasks, or, where their ways part early, one of each task alone."""
  network = pass_.objective.network
  control = pass_.control(optim.join(trained, still))
  alone = network.trunk.apart(control)

  def run(part: PyTree, of: Any = network, task: int = -1) -> Any:
    params = optim.join(part, still)
    told = pass_.control(params)
    if task >= 0:
      told = network.trunk.apart(told)[task]
    args = params, pass_.state.stats, pass_.inputs, told, True
    return pass_.apply(*args, method="features", network=of)

  scaled = lambda f, tree: jax.tree.map(lambda a: f * a, tree)
  if alone is None:
    (features, signals), pull, stats = jax.vjp(run, trained, has_aux=True)
    back = lambda asked, told: jax.tree.leaves(pull((asked, told))[0])

    def one(task: int, asked: Any, told: Any) -> list[jax.Array]:
      others = [jax.tree.map(jnp.zeros_like, f) for f in features]
      return back([asked if t == task else zero for t, zero in enumerate(others)], told)

    add = lambda factors, asked, told: back(list(map(scaled, factors, asked)), told)
    return _Trunk(features, signals, stats, network.trunk.common(control), one, add)

  passes = [
    jax.vjp(lambda part, t=t: run(part, network.only((t,))[0], t), trained, has_aux=True)
    for t in range(len(alone))
  ]
  found = [out for out, _, _ in passes]
  signals = jax.tree.map(lambda *parts: jnp.concatenate(parts), *(told for _, told in found))
  stats = norm.together(pass_.state.stats, [stats for _, _, stats in passes])

  def one_alone(task: int, asked: Any, told: Any) -> list[jax.Array]:
    mine = jax.tree.map(lambda a: a[task : task + 1], told)
    return jax.tree.leaves(passes[task][1](([asked], mine))[0])

  def add_alone(factors: Any, asked: Any, told: Any) -> list[jax.Array]:
    rows = [one_alone(t, scaled(factors[t], a), told) for t, a in enumerate(asked)]
    return [sum(column) for column in zip(*rows, strict=True)]

  return _Trunk([fs[0] for fs, _ in found], signals, stats, False, one_alone, add_alone)


class _Heads(NamedTuple):
  """What heads and penalties ask of the trunk.

  Attributes:
    own: leaves, of each head from its own loss.
    asked: gradients of every task's loss in its features.
    quiet: those in the signals: 0.
    charged: of the penalties: leaves, and gradients in features and signals; None without any.
    aside: what comes beside.
  """

  own: list[jax.Array]
  asked: list[Any]
  quiet: Any
  charged: Any
  aside: forward_lib.Aside


def _heads(pass_: forward_lib.Pass, trained: PyTree, still: PyTree, trunk: _Trunk) -> _Heads:
  """Pulls losses and penalties back to the features, once."""

  def heads(part: PyTree, features: Any, signals: trunks.Signals) -> Any:
    params = optim.join(part, still)
    inputs = pass_.inputs
    logits, stats = pass_.apply(params, trunk.stats, features, inputs, True, method="logits")
    control = pass_.control(params)
    values, charge, aside = pass_.judge(params, control, logits, signals, stats)
    return (values, jnp.asarray(charge, jnp.float32)), aside

  (values, charge), pull, aside = jax.vjp(
    heads, trained, trunk.features, trunk.signals, has_aux=True
  )
  ones, zeros = ([fill(v) for v in values] for fill in (jnp.ones_like, jnp.zeros_like))
  # A head reads its own features alone: what it asks of them is apart.
  own, asked, quiet = pull((ones, jnp.zeros_like(charge)))
  charged = None
  if any(name.startswith("penalty/") for name in aside.parts):
    direct, *below = pull((zeros, jnp.ones_like(charge)))
    charged = jax.tree.leaves(direct), *below
  return _Heads(jax.tree.leaves(own), asked, quiet, charged, aside)


def _met(network: Any, params: PyTree, aside: forward_lib.Aside) -> list[jax.Array]:
  """For every leaf whether two tasks with labels execute its unit; True of what no unit has."""
  prior = jnp.asarray(aside.losses.prior)
  runs = aside.runs & (aside.losses.labelled & (prior > 0))[:, None]
  several = runs.sum(0) >= 2
  prefixes = _prefixes(network)
  found = []
  for path, _ in jax.tree_util.tree_leaves_with_path(params):
    prefix = trunks.longest(prefixes, optim.path_of(path))
    found.append(jnp.asarray(True) if prefix is None else several[prefixes.index(prefix)])
  return found


def _prefixes(network: Any) -> list[str]:
  """The beginning of the paths of every unit's weights; none where the trunk does not say."""
  return [f"network/trunk/{prefix}" for prefix in network.trunk.weights_of()]


def _noted(
  objective: forward_lib.Objective,
  aside: forward_lib.Aside,
  weights: Any,
  balance: PyTree,
  gramian: Any = None,
) -> forward_lib.Aside:
  """Adds the balancer's state; for the log its weights, if no constants, and what it saw."""
  parts = dict(aside.parts)
  names = [task.name for task in objective.tasks]
  if isinstance(weights, jax.Array):
    parts |= {f"weight/{name}": weights[t] for t, name in enumerate(names)}
  if gramian is not None:
    lengths = jnp.sqrt(jnp.diagonal(gramian))
    parts |= {f"norm/{name}": lengths[t] for t, name in enumerate(names)}
    size = jnp.maximum(lengths, 1e-18)
    parts["cosine/least"] = jnp.min(gramian / size[:, None] / size[None, :], initial=1.0)
  return aside._replace(parts=parts, balance=balance)


def _shared(params: PyTree, rules: optim.Rules) -> list[bool]:
  """For every leaf whether tasks share it and a balancer weighs its gradients."""
  return [
    leaf is not None and leaf.owner is None and leaf.group not in UNBALANCED
    for leaf in _leaves(params, rules)
  ]


def shared(params: PyTree, trainable: tuple[str, ...], rules: optim.Rules) -> list[jax.Array]:
  """Returns the leaves that tasks share among those that move."""
  trained, _ = optim.split(params, trainable, optim.groups(params, rules))
  leaves = jax.tree.leaves(trained)
  return [a for a, found in zip(leaves, _shared(trained, rules), strict=True) if found]


def _leaves(params: PyTree, rules: optim.Rules) -> list[trunks.Leaf | None]:
  """What the rules say of the network's leaves; None of others."""
  found = []
  for path, _ in jax.tree_util.tree_leaves_with_path(params):
    part, _, rest = optim.path_of(path).partition("/")
    found.append(trunks.leaf_of(rules, rest) if part == "network" else None)
  return found


def gramians(
  network: Any, params: PyTree, losses_of: Callable[[PyTree], Any]
) -> tuple[jax.Array, Any]:
  """Multiplies the gradients of the tasks with each other, for the weights of every unit.

  Args:
    network: a `models.trunks.network.Network` whose trunk has `weights_of`.
    params: `{"network": ...}`, perhaps with more.
    losses_of: `params -> (list of the tasks' losses, anything else)`.

  Returns:
    `[U, T, T]` float32, and what else `losses_of` gave.
  """
  prefixes = _prefixes(network)
  unit = lambda path, _: trunks.longest(prefixes, optim.path_of(path)) or ""
  units = jax.tree_util.tree_map_with_path(unit, params)
  inside, rest = optim.split(params, tuple(prefixes), units)
  values, pull, aside = jax.vjp(
    lambda part: losses_of(optim.join(part, rest)), inside, has_aux=True
  )
  one = lambda t: [jnp.full_like(v, u == t) for u, v in enumerate(values)]
  rows = [jax.tree_util.tree_leaves_with_path(pull(one(t))[0]) for t in range(len(values))]
  found = []
  for prefix in prefixes:
    of = [[a for path, a in row if unit(path, a) == prefix] for row in rows]
    found.append(gramian_ops.products(list(zip(*of, strict=True))))
  return jnp.stack(found), aside


def magnitudes(params: PyTree, losses_of: Callable[[PyTree], Any]) -> tuple[PyTree, Any]:
  """Computes the magnitudes of each task's gradient in each number of the network, |dL/dw|.

  Args:
    params: `{"network": ...}`, with more.
    losses_of: `params -> (list of the tasks' losses, anything else)`.

  Returns:
    Leaves `[T, ...]` as of the network, and what else `losses_of` gave.
  """
  inside = lambda part: losses_of({**params, "network": part})
  values, pull, aside = jax.vjp(inside, params["network"], has_aux=True)
  one = lambda t: [jnp.full_like(v, u == t) for u, v in enumerate(values)]
  rows = [pull(one(t))[0] for t in range(len(values))]
  return jax.tree.map(lambda *slopes: jnp.abs(jnp.stack(slopes)), *rows), aside
