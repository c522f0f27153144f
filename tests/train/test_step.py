"""Tests of the training step: who moves, and what it adds up to."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.objectives import balancing
from dynashare_jax.objectives import regularisers
from dynashare_jax.ops import gumbel
from dynashare_jax.ops import routing
from dynashare_jax.ops import streams
from dynashare_jax.sharing import skip
from dynashare_jax.train import finite
from dynashare_jax.train import optim
from dynashare_jax.train import step as step_lib

ROUTE = [[1, 0, 1], [1, 1, 0]]
THREE = {"model__blocks": (3,), "gates__target_rates": (1.0, 0.6, 0.6)}


class Stepper:
  """Runs steps of one phase from the initial state."""

  def __init__(self, experiment, name, route=None, cycle=0):
    self.experiment = experiment
    phases = experiment.method.phases
    self.index = next(i for i, p in enumerate(phases) if p.name == name and p.cycle == cycle)
    self.phase = phases[self.index]
    shape = (len(experiment.tasks), experiment.units)
    self.route = np.ones(shape) if route is None else np.asarray(route, float)
    self.spec = experiment.spec(self.index, self.route)
    self.jitted = step_lib.make(
      experiment.objective,
      experiment.optimizer(self.spec.optimizer, self.spec.steps),
      self.spec,
      mesh_lib.batch_sharding(experiment.mesh),
    )

  def start(self):
    state = self.experiment.initial_state()
    state = self.experiment.with_optimizer(state, self.index)
    return mesh_lib.place_replicated(state, self.experiment.mesh)

  def __call__(self, state, first=0, count=1, batch=None, rows=None):
    batch = batch or self.experiment.dataset.arrays("train")
    size = self.experiment.config.train.batch_size
    if rows is None:
      rows = (np.arange(count * size).reshape(count, size) + first * size) % 64
    experiment = self.experiment
    moving = step_lib.moving_of(
      experiment.sharing, self.phase, experiment.config.seed, first, first, self.route
    )
    return self.jitted(state, batch, jnp.asarray(rows, jnp.int32), moving)


@pytest.fixture(scope="module")
def dyna(build):
  # Random logits: the sharing penalty pulls at closed blocks, too.
  return build(policy__init="random", optimizers__policy__weight_decay=0.5, **THREE)


def _groups(experiment, state):
  """Leaves of every parameter group with its optimiser state."""
  names = optim.groups(state.params, experiment.network.leaves())
  found = {group: [] for group in optim.GROUPS}
  for leaf, group in zip(jax.tree.leaves(state.params), jax.tree.leaves(names), strict=True):
    found[group].append(np.asarray(leaf))
  for group in optim.GROUPS:
    found[group] += [np.asarray(leaf) for leaf in jax.tree.leaves(state.opt.inner_states[group])]
  return found


@pytest.mark.parametrize("name", ["warmup", "weights", "policy", "retrain"])
def test_a_phase_moves_its_groups_alone(dyna, name, same_bits):
  stepper = Stepper(dyna, name)
  before = stepper.start()
  held, stats = _groups(dyna, before), jax.device_get(before.stats)
  after, parts = stepper(stepper(before)[0], first=1)
  moved = _groups(dyna, after)
  for group in optim.GROUPS:
    if group in stepper.phase.trainable:
      assert any((a != b).any() for a, b in zip(held[group], moved[group], strict=True)), group
    else:
      same_bits(moved[group], held[group])
  if name == "policy":
    same_bits(after.stats, stats)
    opened = np.asarray(after.params["policy"]["logits"])[:, -1:]
    same_bits(np.asarray(after.params["policy"]["logits"])[:, :-1], held["policy"][0][:, :-1])
    assert (opened != held["policy"][0][:, -1:]).all()
  assert all(v.shape == (1,) and np.isfinite(v).all() for v in parts.values())
  assert ("penalty/sharing" in parts) == (name == "policy")
  assert ("penalty/instance" in parts) == (name == "retrain")


def test_batch_statistics_move_with_the_backbone_only(build, same_bits):
  images = build(
    data__images=True,
    model__backbone="resnet",
    model__blocks=(1, 1),
    model__widths=(4, 4),
    model__strides=(1, 1),
    model__dilations=(1, 1),
    gates__target_rates=(1.0, 0.6),
  )
  for name in ("weights", "policy"):
    stepper = Stepper(images, name)
    state = stepper.start()
    network, stats = jax.device_get((state.params["network"], state.stats))
    after, _ = stepper(state)
    if name == "policy":
      same_bits((after.params["network"], after.stats), (network, stats))
      continue
    trunk, old = after.stats["trunk"], stats["trunk"]
    for leaf, before in zip(
      jax.tree.leaves(trunk["backbone"]), jax.tree.leaves(old["backbone"]), strict=True
    ):
      assert (np.asarray(leaf) != before).any()
    same_bits(trunk["gate_1"], old["gate_1"])


def test_many_steps_in_one_dispatch_equal_single_steps(dyna):
  stepper = Stepper(dyna, "retrain", ROUTE)
  together, parts = stepper(stepper.start(), 0, 4)
  state, chunked = stepper.start(), []
  for first in range(4):
    state, found = stepper(state, first)
    chunked.append(found)
  for key, values in parts.items():
    np.testing.assert_allclose(values, np.concatenate([c[key] for c in chunked]), 1e-5, 1e-7, key)
  for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(state), strict=True):
    np.testing.assert_allclose(a, b, 1e-4, 1e-6)


def _total(experiment, parts, step=0):
  """The total of the parts, with the tasks' weights."""
  return sum(
    float(value[step]) * next((t.weight for t in experiment.tasks if key == f"loss/{t.name}"), 1.0)
    for key, value in parts.items()
    if key.startswith(("loss/", "penalty/")) and key != "loss/total"
  )


def test_loss_of_a_policy_step_by_hand(build):
  """Sampled decisions, task losses and penalties, one after the other."""
  dyna = build(policy__init="random", model__dropout=0.1, **THREE)
  stepper = Stepper(dyna, "policy", cycle=1)
  before = stepper.start()
  logits, params, stats = jax.device_get(
    (before.params["policy"]["logits"], before.params["network"], before.stats)
  )
  _, parts = stepper(before, first=5)
  opened = jnp.array([False, True, True])
  drawn = gumbel.soft_decisions(streams.stream_key(0, "policy", 5), logits, 5.0 * 0.8)
  drawn = jnp.where(opened[None], drawn, 1.0)
  rows = (np.arange(8) + 40) % 64
  batch = jax.tree.map(lambda a: a[rows], dyna.dataset.arrays("train"))
  out, _ = dyna.network.apply(
    {"params": params, "batch_stats": stats},
    batch.inputs,
    skip_trunk.Decisions(routing.own(3, 2), drawn, discrete=False),
    True,
    mutable=["batch_stats"],
    rngs={"dropout": streams.stream_key(0, "dropout", 5)},
  )
  log_odds = np.asarray(out[0]["a"])[:, 0].astype(np.float64)
  cross = np.logaddexp(0, log_odds) - batch.targets["a"] * log_odds
  np.testing.assert_allclose(parts["loss/a"][0], cross[batch.valid["a"]].mean(), 1e-5)
  np.testing.assert_allclose(
    parts["penalty/sparsity"][0], 0.05 * regularisers.sparsity(logits, opened), 1e-5
  )
  sharing = regularisers.sharing(logits, "paper")
  np.testing.assert_allclose(parts["penalty/sharing"][0], 0.05 * sharing, 1e-5)
  np.testing.assert_allclose(parts["loss/total"][0], _total(dyna, parts), 1e-5)


def test_instance_penalty_counts_executed_gates_only(dyna):
  """Skipped and ungated blocks cost nothing: all gates forced open."""
  stepper = Stepper(dyna, "retrain", ROUTE)
  state = stepper.start()
  network = state.params["network"]
  for gate in ("gate_1", "gate_2"):
    network["trunk"][gate]["score"]["bias"] = jnp.array([-50.0, 50.0])
  _, parts = stepper(state)
  # Open gates at task 0 block 2 and task 1 block 1: twice 0.4^2, over 3 blocks.
  np.testing.assert_allclose(parts["penalty/instance"][0], 2 * 0.4**2 / 3, 1e-5)
  np.testing.assert_allclose(parts["rate"][0], 4 / 6, 1e-6)
  np.testing.assert_allclose(parts["loss/total"][0], _total(dyna, parts), 1e-5)


def test_sampled_target_rate_is_told_and_aimed_at(build):
  """Forced open, two gates cost (rate - 1)^2 of the rate that was drawn."""
  experiment = build(gates__target_rate="sampled", gates__sampled_range=(0.2, 0.5), **THREE)
  stepper = Stepper(experiment, "retrain", ROUTE)
  penalties = []
  for first in range(3):
    state = stepper.start()
    network = state.params["network"]
    for gate in ("gate_1", "gate_2"):
      network["trunk"][gate]["score"]["bias"] = jnp.array([-50.0, 50.0])
      assert network["trunk"][gate]["rate"]["kernel"].shape == (1, 16)
    _, parts = stepper(state, first=first)
    key = streams.stream_key(experiment.config.seed, "target_rate", first)
    rate = jax.random.uniform(key, (), jnp.float32, 0.2, 0.5)
    np.testing.assert_allclose(
      parts["penalty/instance"][0] / experiment.sharing.instance[0], 2 * (1 - rate) ** 2 / 3, 1e-5
    )
    penalties.append(float(parts["penalty/instance"][0]))
  assert len(set(penalties)) == 3  # A rate a step.


def test_gate_noise_fades_at_the_end_of_its_phase(dyna):
  """Full for 6 steps of 10, then 3/4, 1/2, 1/4 and none; else always full."""
  phase = dataclasses.replace(dyna.method.phases[-1], steps=10)
  for fading, wanted in (
    (0.4, [1] * 6 + [0.75, 0.5, 0.25, 0]),
    (0.0, [1] * 10),
    (1.0, np.arange(10)[::-1] / 10),
  ):
    sharing = dataclasses.replace(dyna.sharing, noise_fades=fading)
    fade = sharing.knobs(phase, 3, 103)["fade"]
    found = [skip._noise_scale(fade, jnp.int32(100 + i)) for i in range(10)]
    np.testing.assert_allclose(found, wanted, 1e-6)


def test_planned_and_masked_steps_agree(build):
  found = []
  for execution in ("planned", "masked"):
    experiment = build(train__execution=execution, **THREE)
    stepper = Stepper(experiment, "retrain", ROUTE)
    found.append(stepper(stepper(stepper.start())[0], first=1))
  (state, parts), (other, others) = found
  for key, values in parts.items():
    np.testing.assert_allclose(values, others[key], 1e-5, 1e-7, key)
  trunk, twin = (s.params["network"]["trunk"]["backbone"] for s in (state, other))
  for a, b in zip(jax.tree.leaves(trunk), jax.tree.leaves(twin), strict=True):
    np.testing.assert_allclose(a, b, 1e-3, 1e-5)


def test_task_without_labels_gives_nothing(dyna, same_bits):
  stepper = Stepper(dyna, "warmup")
  batch = dyna.dataset.arrays("train")
  empty = batch._replace(
    valid={**batch.valid, "b": np.zeros_like(batch.valid["b"])},
    targets={**batch.targets, "b": np.full_like(batch.targets["b"], 99)},
  )
  moving = {}
  for name, chosen in (("with", batch), ("without", empty)):
    state, parts = stepper(stepper.start(), batch=chosen)
    moving[name] = state.opt.inner_states["heads"]
  assert parts["loss/b"][0] == 0
  np.testing.assert_allclose(parts["loss/total"][0], parts["loss/a"][0], 1e-6)
  # Adam's moments of head b hold nothing but weight decay, which is apart.
  heads = [
    np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(moving["without"])
    if "heads_1" in jax.tree_util.keystr(path)
  ]
  assert heads and all((leaf == 0).all() for leaf in heads)


def test_one_task_hard_equals_single(build):
  """The same weights in one column: the same loss and the same update."""
  found = {}
  for method in ("hard", "single"):
    experiment = build(method=method, data__tasks=("a",))
    stepper = Stepper(experiment, "retrain")
    state = stepper.start()
    trunk = state.params["network"]["trunk"]
    if method == "hard":
      # On the host: the step takes its state's memory.
      kept = jax.device_get(trunk["backbone"])
      head = jax.device_get(state.params["network"]["heads_0"])
    else:
      params = {"trunk": {"columns_0": kept}, "heads_0": head}
      state = state.replace(params={**state.params, "network": params})
      state = mesh_lib.place_replicated(state, experiment.mesh)
    for first in range(3):
      state, parts = stepper(state, first)
    trunk = state.params["network"]["trunk"]
    found[method] = parts, trunk["backbone" if method == "hard" else "columns_0"]
  for a, b in zip(*map(jax.tree.leaves, found.values()), strict=True):
    np.testing.assert_allclose(a, b, 1e-5, 1e-7)


def test_programs_of_a_run_are_as_few_as_documented(build):
  """Warm-up 1; soft phases 2 a prefix; re-training 1, or 1 a route."""
  routes = [[[1, 0, 1], [1, 1, 1]], [[1, 1, 1], [0, 1, 1]]]
  for execution, prefixes, wanted in (
    ("masked", (0,), 1 + 2 + 1),
    ("planned", (0,), 1 + 2 + 2),
    ("masked", (0, 1, 2), 1 + 6 + 1),
    ("masked", (0, 2), 1 + 4 + 1),
  ):
    experiment = build(
      train__execution=execution, train__cycles=4, train__shared_prefixes=prefixes, **THREE
    )
    specs = {
      experiment.spec(index, np.asarray(routes[max(phase.candidate, 0)]))
      for index, phase in enumerate(experiment.method.phases)
    }
    assert len(specs) == wanted, (execution, prefixes)


# Balancers: at every level the update is the one that the weights say.


class Doubling:
  """Weights that double with every step, from the state alone."""

  @staticmethod
  def balancer(level):
    return balancing.Balancer(
      "doubling",
      lambda losses, gramian, key, state: (state * jnp.array([1.0, 3.0]), 2 * state),
      level,
      lambda tasks, epoch: jnp.ones(()),
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


def test_what_is_shared_follows_from_the_route(build):
  """Against the joint gradients: a block of one task, or of one with labels, is its own."""
  weigh = lambda losses, gramian, key, state: (jnp.array([2.0, 3.0]), state)
  balancer = balancing.Balancer("set", weigh, "gramian")
  joint = {}
  for execution in ("masked", "planned"):
    experiment = build(train__execution=execution, **THREE)
    stepper = Stepper(experiment, "retrain", ROUTE)
    objective, state = experiment.objective._replace(balancer=balancer), stepper.start()
    moving = step_lib.moving_of(experiment.sharing, stepper.phase, 0, 0, 0, stepper.route)
    rest = objective, stepper.spec

    def losses(params, batch, rest=rest, state=state, moving=moving):
      values, charge, _ = step_lib.forward(*rest, params, state, batch, moving, jnp.int32(0))
      return jnp.stack([*values, charge])

    whole = jax.tree.map(lambda a: a[:8], experiment.dataset.arrays("train"))
    no_b = whole._replace(valid={**whole.valid, "b": np.zeros_like(whole.valid["b"])})
    rows_of = jax.jit(jax.jacrev(losses))
    balanced = jax.jit(lambda *args, rest=rest: step_lib.gradients(*rest, *args))
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


def test_policy_steps_are_not_balanced(build):
  """Their penalties are tuned against the sum of the losses."""
  experiment = build(**THREE)
  stepper = Stepper(dataclasses.replace(experiment, balancer=Doubling.balancer("losses")), "policy")
  plain = Stepper(experiment, "policy")
  state, parts = stepper(stepper.start())
  other, _ = plain(plain.start())
  assert "weight/a" not in parts and float(state.balance) == 1.0
  np.testing.assert_array_equal(state.params["policy"]["logits"], other.params["policy"]["logits"])


EASY = {"method": "hard", "model__blocks": (1,), "gates__target_rates": (1.0,)}


@pytest.mark.parametrize("name", ["graddrop", "nash"])
def test_a_balancer_trains(build, name):
  """One step moves every leaf of the trunk and of the heads, to finite numbers."""
  stepper = Stepper(build(balance__name=name, **EASY), "retrain")
  before = stepper.start()
  held = jax.device_get(before.params)
  after, parts = stepper(before)
  kept = (after.params, after.opt, after.balance, parts)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), held["network"], after.params["network"])
  assert all(jax.tree.leaves(moved)), moved
  assert {"norm/a", "cosine/least", "weight/a"} <= set(parts)


def test_a_weight_that_is_no_number_is_told_as_one():
  good, bad = np.ones(2), np.array([1.0, np.nan])
  parts = {"loss/total": good, "loss/a": good, "weight/a": bad, "norm/a": good}
  with pytest.raises(finite.NonFiniteLossError, match=r"balancer's weight of a .* at step 12,"):
    finite.check_losses("retrain", 10, parts, "")
  with pytest.raises(finite.NonFiniteLossError, match="The loss of a is not finite"):
    finite.check_losses("retrain", 10, {**parts, "loss/a": bad, "loss/total": bad}, "")


def test_one_device_balances_as_two(build):
  found = []
  for devices in (1, 2):
    stepper = Stepper(build(devices, balance__name="nash", **EASY), "retrain")
    state, parts = stepper(stepper.start())
    found.append(jax.device_get((parts, state.params)))
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(a, b, 1e-4, 1e-6)
