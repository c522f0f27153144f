"""Gradients of a training step: how a balancer's weights become one update."""

from __future__ import annotations

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import configs
from train.stepper import Stepper

from dynashare_jax import balance
from dynashare_jax import defaults
from dynashare_jax import types
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.models.trunks import network as network_lib
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.objectives import balancing
from dynashare_jax.sharing import contract
from dynashare_jax.train import forward as forward_lib
from dynashare_jax.train import gradients as gradients_lib
from dynashare_jax.train import optim
from dynashare_jax.train import state as state_lib
from dynashare_jax.train import step as step_lib

ROUTE = [[1, 0], [1, 1]]  # a block that both share, and one of task b alone


class Doubling:
  """Weights that double with every step, from the state alone."""

  @staticmethod
  def balancer(level):
    return balancing.Balancer(
      "doubling",
      lambda losses, gramian, key, state: (state * jnp.array([1.0, 3.0]), 2 * state),
      level,
      lambda tasks, epoch, leaves: jnp.ones(()),
    )


def _balanced(experiment, balancer, steps=2):
  """The state after some steps of hard sharing."""
  stepper = Stepper(dataclasses.replace(experiment, balancer=balancer), "retrain")
  state, parts = stepper.start(), []
  for first in range(steps):
    state, found = stepper(state, first)
    parts.append(found)
  return jax.device_get(state), parts


@pytest.fixture(scope="module")
def hard(build):
  return build(
    method="hard",
    optimizers__retrain__kind="sgd",
    optimizers__retrain__momentum=0.0,
    optimizers__retrain__weight_decay=0.0,
  )


def test_every_level_makes_the_weighed_update(hard):
  """By losses heads are weighed, too; by gradients their own loss alone moves them."""
  by_losses, parts = _balanced(hard, Doubling.balancer("losses"))
  assert [float(p["weight/b"][0]) for p in parts] == [3.0, 6.0]
  assert float(by_losses.balance) == 4.0
  found = {level: _balanced(hard, Doubling.balancer(level), 1)[0] for level in balancing.LEVELS}
  trunk = [s.params["network"]["trunk"] for s in found.values()]
  for other in trunk[1:]:
    for a, b in zip(jax.tree.leaves(trunk[0]), jax.tree.leaves(other), strict=True):
      np.testing.assert_allclose(a, b, 1e-4, 1e-7)
  plain = _balanced(hard, hard.balancer, 1)[0].params["network"]
  same = lambda name, level: [
    np.allclose(a, b, 1e-5, 1e-7)
    for a, b in zip(
      jax.tree.leaves(plain[name]),
      jax.tree.leaves(found[level].params["network"][name]),
      strict=True,
    )
  ]
  assert all(same("heads_1", "gramian")) and not any(same("heads_1", "losses"))


def test_a_gramian_is_that_of_the_tasks_gradients(hard):
  """Against one gradient per task, and without a task that has no labels."""
  seen = []

  def weigh(losses, gramian, key, state):
    jax.debug.callback(lambda *found: seen.append(found), losses.labelled, gramian)
    return losses.prior, state

  _balanced(hard, balancing.Balancer("seen", weigh, "gramian"), 1)
  jax.effects_barrier()
  rows = []
  for task in range(2):
    one = lambda losses, gramian, key, state, task=task: (jnp.eye(2)[task], state)
    start, (after, _) = (
      _balanced(hard, hard.balancer, 0)[0],
      _balanced(hard, balancing.Balancer("one", one), 1),
    )
    move = lambda a, b: np.ravel(np.asarray(b) - np.asarray(a))
    trunks = (s.params["network"]["trunk"] for s in (start, after))
    rows.append(np.concatenate(jax.tree.leaves(jax.tree.map(move, *trunks))))
  labelled, gramian = seen[0]
  wanted = np.array(rows) @ np.array(rows).T
  assert labelled.all()
  np.testing.assert_allclose(gramian / gramian[0, 0], wanted / wanted[0, 0], 1e-2)


# `autolambda` reads what an optimiser does, `mgda_ub` gradients in features: both have own tests.
@pytest.mark.parametrize("name", sorted({*balance.available()} - {"autolambda", "mgda_ub"}))
def test_a_loop_of_ones_own_gets_the_same_gradients(hard, name):
  """`dynashare_jax.balance`, whose draws are those of a run with the same seed."""
  stepper = Stepper(hard, "retrain")
  state, (batch, moving, step) = stepper.start(), _rest(hard, stepper)
  settings = defaults.get_config().balance
  settings.name = name
  objective = hard.objective._replace(balancer=balancing.find(settings, hard.tasks))
  own = balance.make(
    name,
    len(hard.tasks),
    weights=[task.weight for task in hard.tasks],
    shared=lambda tree: {name: name == "trunk" for name in tree},
    seed=int(moving.seed),
  )

  def both(state):
    network = state.params["network"]
    kept = own.init(network)._replace(step=step)
    state = dataclasses.replace(state, balance=kept.kept)
    pass_ = forward_lib.Pass(objective, stepper.spec, state, batch, moving, step)
    losses = lambda network: pass_.losses({**state.params, "network": network})[0]
    return balance.value_and_grad(own, losses)(network, kept)[1], gradients_lib.gradients(pass_)[0]

  found, wanted = jax.jit(both)(state)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted["network"]), strict=True):
    np.testing.assert_allclose(a, b, 1e-4, 1e-6)


def test_what_is_shared_follows_from_the_route(build):
  """Against the joint gradients: a block of one task, or of one with labels, is its own."""
  weigh = lambda losses, gramian, key, state: (jnp.array([2.0, 3.0]), state)
  balancer = balancing.Balancer("set", weigh, "gramian")
  joint = {}
  for execution in ("masked", "planned"):
    experiment = build(train__execution=execution)
    stepper = Stepper(experiment, "retrain", ROUTE)
    objective, state = experiment.objective._replace(balancer=balancer), stepper.start()
    moving = step_lib.moving_of(experiment.sharing, stepper.phase, 0, 0, 0, stepper.route)
    rest = objective, stepper.spec

    def losses(params, batch, rest=rest, state=state, moving=moving):
      values, charge, _ = forward_lib.Pass(*rest, state, batch, moving, jnp.int32(0)).losses(params)
      return jnp.stack([*values, charge])

    whole = jax.tree.map(lambda a: a[:8], experiment.dataset.arrays("train"))
    no_b = whole._replace(valid={**whole.valid, "b": np.zeros_like(whole.valid["b"])})
    rows_of = jax.jit(jax.jacrev(losses))
    balanced = jax.jit(
      lambda *args, rest=rest: gradients_lib.gradients(forward_lib.Pass(*rest, *args))
    )
    for name, batch in (("whole", whole), ("no_b", no_b)):
      if execution == "masked":
        joint[name] = jax.device_get(rows_of(state.params, batch))
      grads, aside = jax.device_get(balanced(state, batch, moving, jnp.int32(0)))
      shared = "/block_0" if name == "whole" else "/none"
      _check_weighed(grads, aside.parts, joint[name], [t.weight for t in experiment.tasks], shared)


def _check_weighed(grads, parts, rows, prior, shared):
  """The update and the inner products by hand; `shared` is the one block of two tasks."""
  gramian, given = np.zeros((2, 2)), jax.tree_util.tree_leaves_with_path(grads["network"])
  for (path, found), row in zip(given, jax.tree.leaves(rows["network"]), strict=True):
    name, weights = optim.path_of(path), prior
    if "backbone/" in name and ("/block_" not in name or shared in name):
      weights = (2.0, 3.0)
      flat = row[:2].reshape(2, -1).astype(np.float64)
      gramian += flat @ flat.T
    wanted = weights[0] * row[0] + weights[1] * row[1] + row[2]
    np.testing.assert_allclose(found, wanted, 1e-5, 1e-6, err_msg=name)
  lengths = np.sqrt(np.diagonal(gramian))
  np.testing.assert_allclose([parts["norm/a"], parts["norm/b"]], lengths, 1e-5, 1e-7)
  cosine = gramian[0, 1] / max(lengths.prod(), 1e-30)
  np.testing.assert_allclose(parts["cosine/least"], cosine, 1e-5, 1e-6)


def test_gates_move_by_the_plain_sum(build):
  """Beside whole losses that are weighed."""
  experiment = build()
  stepper = Stepper(experiment, "retrain", ROUTE)
  weigh = lambda losses, slopes, key, state: (jnp.array([2.0, 3.0]), state)
  objective = experiment.objective._replace(balancer=balancing.Balancer("set", weigh))
  state, (batch, moving, step) = stepper.start(), _rest(experiment, stepper)

  def losses(params):
    values, charge, _ = forward_lib.Pass(
      objective, stepper.spec, state, batch, moving, step
    ).losses(params)
    return jnp.stack([*values, charge])

  rows = jax.jit(jax.jacrev(losses))(state.params)["network"]
  run = jax.jit(
    lambda *a: gradients_lib.gradients(forward_lib.Pass(objective, stepper.spec, state, *a))[0]
  )
  found = run(batch, moving, step)["network"]
  prior, seen = [t.weight for t in experiment.tasks], set()
  for (path, got), row in zip(
    jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(rows), strict=True
  ):
    gate = "gate_" in optim.path_of(path)
    weights = prior if gate else (2.0, 3.0)
    wanted = weights[0] * row[0] + weights[1] * row[1] + row[2]
    np.testing.assert_allclose(got, wanted, 1e-5, 1e-6, err_msg=optim.path_of(path))
    seen.add((gate, bool(np.any(row[:2]))))
  assert (True, True) in seen


def test_policy_steps_are_not_balanced(build):
  """Their penalties are tuned against the sum of the losses."""
  experiment = build()
  stepper = Stepper(dataclasses.replace(experiment, balancer=Doubling.balancer("losses")), "policy")
  plain = Stepper(experiment, "policy")
  state, parts = stepper(stepper.start())
  other, _ = plain(plain.start())
  assert "weight/a" not in parts and float(state.balance) == 1.0
  np.testing.assert_array_equal(state.params["policy"]["logits"], other.params["policy"]["logits"])


EASY = {"method": "hard", "model__blocks": (1,), "gates__target_rates": (1.0,)}


def _rest(experiment, stepper):
  """A batch, what moves, and the first step."""
  batch = jax.tree.map(lambda a: a[:8], experiment.dataset.arrays("train"))
  moving = step_lib.moving_of(experiment.sharing, stepper.phase, 0, 0, 0, stepper.route)
  return batch, moving, jnp.int32(0)


def _close(a, b, most):
  """Whether trees differ by at most a share of their leaves' lengths."""
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
    scale = np.linalg.norm(x) + 1e-3
    assert np.linalg.norm(np.asarray(x) - y) <= most * scale, jax.tree_util.keystr(path)


WAYS = {  # one of each way to come by weights and updates
  "losses": {"name": "log"},
  "gramian": {"name": "unit"},
  "features": {"name": "unit", "features": True},
  "elements": {"name": "graddrop"},
  "kept": {"name": "excess"},
  "ahead": {"name": "autolambda"},
}


def test_every_way_moves_everything_alike_on_four_devices(build, monkeypatch):
  """Each device has a part of every task's gradients, even of small leaves."""
  monkeypatch.setattr(mesh_lib, "SMALL", 1)
  found = {}
  for devices in (1, 4):
    experiment = build(devices=devices, **EASY)
    stepper = Stepper(experiment, "retrain")
    state, (batch, *rest) = stepper.start(), _rest(experiment, stepper)
    shared = gradients_lib.shared(
      state.params, stepper.phase.trainable, experiment.network.leaves()
    )

    def one(way, *rest, experiment=experiment, spec=stepper.spec, state=state, shared=shared):
      settings = experiment.config.balance.copy_and_resolve_references()
      settings.update(way)
      balancer = balancing.find(settings, experiment.tasks)
      own = state.replace(balance=balancer.init(2, 4, shared))
      objective = experiment.objective._replace(balancer=balancer)
      return gradients_lib.gradients(forward_lib.Pass(objective, spec, own, *rest))[0]["network"]

    batch = mesh_lib.place_batch(batch, experiment.mesh)
    every = jax.jit(lambda *a, one=one: {name: one(way, *a) for name, way in WAYS.items()})
    found[devices] = jax.device_get(every(batch, *rest))
  leaves = jax.tree_util.tree_leaves_with_path(found[1])
  assert all(np.isfinite(leaf).all() and leaf.any() for _, leaf in leaves), leaves
  _close(found[1], found[4], 1e-6)


def _parted(monkeypatch):
  """A list that fills with what trunks answer when they are asked for the tasks' own passes."""
  answers, apart = [], skip_trunk.SkipTrunk.apart
  monkeypatch.setattr(
    skip_trunk.SkipTrunk, "apart", lambda *a: answers.append(apart(*a)) or answers[-1]
  )
  return answers


@pytest.mark.parametrize("phase", ["weights", "retrain"])
def test_a_pass_of_each_task_equals_one_of_all(build, monkeypatch, phase):
  """With soft decisions; and with a route and gates, where a task leaves a block's averages."""
  experiment = build(**configs.PICTURES, model__norm="batch")
  stepper = Stepper(experiment, phase, ROUTE)
  weigh = lambda losses, gramian, key, state: (jnp.array([2.0, 3.0]), state)
  objective = experiment.objective._replace(balancer=balancing.Balancer("set", weigh, "gramian"))
  state, rest = stepper.start(), _rest(experiment, stepper)
  run = lambda: jax.device_get(
    jax.jit(
      lambda *a: gradients_lib.gradients(forward_lib.Pass(objective, stepper.spec, state, *a))
    )(*rest)
  )
  asked = _parted(monkeypatch)
  (grads, aside) = run()
  assert all(len(told) == 2 for told in asked)
  monkeypatch.setattr(skip_trunk.SkipTrunk, "apart", lambda *a: None)
  (joint, other) = run()
  _close(grads, joint, 1e-5)
  _close(aside.parts, other.parts, 1e-5)
  _close(aside.stats, other.stats, 1e-6)
  assert (aside.runs == other.runs).all()


@pytest.mark.parametrize(("phase", "alone"), [("weights", True), ("retrain", False)])
def test_routes_need_one_pass_for_common_statistics(build, monkeypatch, phase, alone):
  experiment = build(**configs.PICTURES)
  stepper = Stepper(experiment, phase, ROUTE)
  weigh = lambda losses, gramian, key, state: (jnp.ones(2), state)
  objective = experiment.objective._replace(balancer=balancing.Balancer("set", weigh, "gramian"))
  state, rest = stepper.start(), _rest(experiment, stepper)
  found = _parted(monkeypatch)
  jax.eval_shape(
    lambda *a: gradients_lib.gradients(forward_lib.Pass(objective, stepper.spec, state, *a)), *rest
  )
  assert found and all((told is not None) == alone for told in found)


def test_gradients_of_features(hard):
  """The weighed update of one pass, and inner products of what the heads ask."""
  seen = []

  def weigh(losses, gramian, key, state):
    jax.debug.callback(lambda found: seen.append(found), gramian)
    return jnp.array([2.0, 3.0]), state

  whole = balancing.Balancer("whole", weigh, "gramian")
  stepper = Stepper(hard, "retrain")
  state, (batch, moving, step) = stepper.start(), _rest(hard, stepper)
  found = []
  for balancer in (whole, whole._replace(name="features", features=True)):
    objective = hard.objective._replace(balancer=balancer)
    run = jax.jit(
      lambda *a, o=objective: gradients_lib.gradients(forward_lib.Pass(o, stepper.spec, state, *a))[
        0
      ]["network"]
    )
    found.append(jax.device_get(run(batch, moving, step)))
  jax.effects_barrier()
  _close(*found, 1e-6)
  variables = {"params": state.params["network"], "batch_stats": state.stats}
  features, _ = hard.network.apply(
    variables, batch.inputs, hard.sharing.everything(), False, method="features"
  )

  def losses(shared):
    told = hard.network.apply(variables, [shared] * 2, batch.inputs, False, method="logits")
    sums = forward_lib.task_losses(hard.tasks, told, batch)
    return jnp.stack([s.total / s.count for s in sums])

  rows = np.asarray(jax.jit(jax.jacrev(losses))(features[0])).reshape(2, -1)
  np.testing.assert_allclose(seen[1], rows @ rows.T, 1e-5)


def test_features_where_all_is_shared(build):
  assert build(balance__name="mgda_ub", **EASY).balancer.features


def test_weights_that_are_held(hard, build):
  """Those of the last look at gradients, where each task has a block of its own, too."""
  for experiment, name, route in (
    (hard, "retrain", None),
    (build(train__execution="planned"), "retrain", ROUTE),
  ):
    stepper = Stepper(experiment, name, route)
    settings = experiment.config.balance.copy_and_resolve_references()
    settings.update(name="nash", every=3, length="own")
    balancer = balancing.find(settings, experiment.tasks)
    state, rest = stepper.start(), _rest(experiment, stepper)
    state = state.replace(
      balance={"last": {"weights": jnp.array([2.0, 3.0]), "gramian": jnp.eye(2)}}
    )
    prior = jnp.asarray([t.weight for t in experiment.tasks])
    given = balancer._replace(weigh=lambda *a, prior=prior: (prior * jnp.array([2.0, 3.0]), a[-1]))
    found = []
    for chosen, held in ((given, False), (balancer, True)):
      spec = dataclasses.replace(stepper.spec, held=held)
      objective = experiment.objective._replace(balancer=chosen)
      run = jax.jit(
        lambda *a, o=objective, s=spec, state=state: gradients_lib.gradients(
          forward_lib.Pass(o, s, state, *a)
        )
      )
      found.append(jax.device_get(run(*rest)))
    _close(found[0][0], found[1][0], 1e-5)
    assert set(found[0][1].parts) == set(found[1][1].parts)
    assert found[1][1].parts["norm/a"] == 1.0 and found[1][1].parts["cosine/least"] == 0.0


def test_slopes_are_derivatives_through_a_step(hard):
  """Of the other half's losses after a step with one half, in the weights of that step."""
  settings = hard.config.balance.copy_and_resolve_references()
  settings.update(name="autolambda", autolambda_step=0.3)
  seen = []
  balancer = balancing.find(settings, hard.tasks)

  def weigh(losses, slopes, key, state):
    jax.debug.callback(lambda found: seen.append(found), slopes)
    return balancer.weigh(losses, slopes, key, state)

  stepper = Stepper(dataclasses.replace(hard, balancer=balancer), "retrain")
  state, (batch, moving, step) = stepper.start(), _rest(hard, stepper)
  objective = hard.objective._replace(balancer=balancer._replace(weigh=weigh))
  jax.jit(lambda *a: gradients_lib.gradients(forward_lib.Pass(objective, stepper.spec, state, *a)))(
    batch, moving, step
  )
  jax.effects_barrier()

  def losses(network, half):
    params = {**state.params, "network": network}
    rows = jax.tree.map(lambda a: a[half::2], batch)
    told = forward_lib.Pass(objective, stepper.spec, state, rows, moving, step).losses(params)
    return jnp.stack(told[0])

  def after(weights):
    start = state.params["network"]
    pull = jax.grad(lambda p: weights @ losses(p, 0))(start)
    moved = jax.tree.map(lambda p, g: p - 0.3 * g, start, pull)
    return jnp.asarray([t.weight for t in hard.tasks]) @ losses(moved, 1)

  weights = jnp.asarray([t.weight for t in hard.tasks])
  np.testing.assert_allclose(seen[0], jax.jit(jax.grad(after))(weights), 1e-5)


class Point(trunks.Trunk):
  """One number, which every task predicts for every example; it is charged with its square."""

  units: int = 1

  @nn.nowrap
  def leaves(self):
    return {"point": trunks.Leaf("backbone")}

  @nn.compact
  def __call__(self, inputs, control, train):
    point = self.param("point", nn.initializers.ones, ())
    seen = self.variable("batch_stats", "seen", jnp.zeros, ())
    seen.value = inputs.mean()
    features = [jnp.full((len(inputs), 1), point)] * 2
    return features, trunks.Signals(jnp.ones((2, len(inputs), 1)), {"square": jnp.square(point)})


class Alone(nn.Module):
  """A head without parameters."""

  @nn.compact
  def __call__(self, x, train):
    return x


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_an_inner_step_of_every_task_by_hand(rate):
  """Losses (p - y)^2: where its step takes it, a task pulls with 2 (p - 2 rate (p - a) - b)."""
  near, far = gradients_lib.inner_rows(10, 0.8)
  np.testing.assert_array_equal(far, [2, 7])
  rng = np.random.default_rng(0)
  labels = {name: rng.normal(size=10).astype(np.float32) for name in "ab"}
  known = {"a": np.ones(10, bool), "b": np.arange(10) != 2}
  tasks = [types.TaskSpec(name, "number", 1, w) for name, w in (("a", 2.0), ("b", 0.5))]
  tasks = tuple(dataclasses.replace(task, loss="l2") for task in tasks)
  network = network_lib.Network(Point(), (Alone(), Alone()), ("a", "b"))
  weigh = lambda losses, slopes, key, state: (losses.value, losses.labelled)
  objective = forward_lib.Objective(
    network, tasks, contract.Sharing(), balancing.Balancer("own", weigh)
  )
  inputs = rng.normal(size=(10, 3)).astype(np.float32)
  batch = types.Batch(inputs, labels, known, np.ones(10, bool))
  params, stats = state_lib.init_network(network, inputs, (), jax.random.key(0))
  state = state_lib.start(params, stats, {}, 2, (), False, {})
  moving = contract.Moving(jnp.int32(0), jnp.int32(0), {}, ())

  @jax.jit
  def run(known):
    spec = forward_lib.Spec((), ("backbone",), "retrain", inner=contract.Inner(rate, 0.8))
    pass_ = forward_lib.Pass(
      objective, spec, state, batch._replace(valid=known), moving, jnp.int32(0)
    )
    return gradients_lib.gradients(pass_)

  def wanted(known):
    values, slopes = [], []
    for name in "ab":
      mean = lambda rows, name=name: labels[name][[r for r in rows if known[name][r]]].mean()
      there = 1.0 - rate * 2 * (1.0 - mean(near)) if known[name][near].any() else 1.0
      errors = there - labels[name][[r for r in far if known[name][r]]]
      values.append(np.square(errors).mean() if len(errors) else 0.0)
      slopes.append(2 * errors.mean() if len(errors) else 0.0)
    return values, np.dot(values, slopes) + 2  # the weights are the outer losses here

  without = lambda rows: {**known, "b": known["b"] & ~np.isin(np.arange(10), rows)}
  for some, there in ((known, True), (without(near), True), (without(far), False)):
    grads, aside = run(some)
    values, slope = wanted(some)
    np.testing.assert_allclose(grads["network"]["trunk"]["point"], slope, rtol=1e-5)
    np.testing.assert_allclose([aside.parts["outer/a"], aside.parts["outer/b"]], values, 1e-5)
    np.testing.assert_array_equal(aside.balance, [True, there])
  # What is logged and kept beside is of the inner part, before the steps.
  np.testing.assert_allclose(aside.stats["trunk"]["seen"], inputs[near].mean(), rtol=1e-5)
  np.testing.assert_allclose(aside.parts["loss/a"], np.square(1 - labels["a"][near]).mean(), 1e-5)


def test_an_inner_step_of_rate_0_is_the_step_of_the_outer_part(build):
  """Of every leaf: experts, gates and heads."""
  experiment = build(method="mmoeex", experts__count=2, model__blocks=(1,))
  stepper = Stepper(experiment, "retrain")
  state, (batch, moving, step) = experiment.initial_state(), _rest(experiment, stepper)
  assert stepper.spec.inner == contract.Inner(0.01, 0.8)
  outer = gradients_lib.inner_rows(8, 0.8)[1]

  def run(inner, batch):
    spec = dataclasses.replace(stepper.spec, inner=inner)
    pass_ = forward_lib.Pass(experiment.objective, spec, state, batch, moving, step)
    return gradients_lib.gradients(pass_)[0]["network"]

  inner = contract.Inner(0.0, 0.8)
  both = lambda batch, part: (run(inner, batch), run(None, part))
  _close(*jax.jit(both)(batch, jax.tree.map(lambda a: a[outer], batch)), 1e-6)


@pytest.mark.parametrize(
  "values, message",
  [
    ({"experts__inner_share": 0.01}, "a share of 0.01 of each batch, but .*batch_size=8 that is 0"),
    ({"experts__inner_share": 0.99}, "batch_size=8 that is 8: both parts need an example"),
    ({"balance__name": "pcgrad"}, "The balancer 'pcgrad' needs more than .* or no inner step"),
    ({"balance__name": "famo"}, "The balancer 'famo' needs more than the tasks' losses before"),
    ({"balance__name": "autolambda"}, "The balancer 'autolambda' needs more than"),
  ],
)
def test_inner_steps_that_cannot_be_are_refused(build, values, message):
  with pytest.raises(ValueError, match=message):
    build(method="mmoeex", **values)
