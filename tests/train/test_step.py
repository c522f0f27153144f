"""Tests of the training step: who moves, and what it adds up to."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import configs
from train.stepper import Stepper

from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.objectives import regularisers
from dynashare_jax.ops import gumbel
from dynashare_jax.ops import routing
from dynashare_jax.ops import streams
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip
from dynashare_jax.train import finite
from dynashare_jax.train import optim

ROUTE = [[1, 0, 1], [1, 1, 0]]
THREE = {"model__blocks": (3,), "gates__target_rates": (1.0, 0.6, 0.6)}


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
    found = [skip._left(fade, jnp.int32(100 + i), 1.0) for i in range(10)]
    np.testing.assert_allclose(found, wanted, 1e-6)


def test_wanted_rates_of_gates_fall_at_the_start_of_their_phase(dyna):
  """From 1 to the targets in 4 steps of 10; else the targets at once."""
  phase = dataclasses.replace(dyna.method.phases[-1], steps=10)
  targets = np.asarray(dyna.sharing.rates)
  assert targets.min() < targets.max() == 1
  moving = contract.Moving(jnp.int32(0), jnp.int32(100), {}, jnp.ones(()))
  for anneal, wanted in ((0.4, [0.25, 0.5, 0.75] + [1] * 7), (0.0, [1] * 10)):
    sharing = dataclasses.replace(dyna.sharing, anneal=anneal)
    moving = moving._replace(knobs=sharing.knobs(phase, 3, 103))
    static = sharing.static(phase, np.ones((len(sharing.names), sharing.blocks)))
    found = [sharing.control(static, {}, moving, 100 + i, 2).rates for i in range(10)]
    np.testing.assert_allclose(found, 1 - np.outer(wanted, 1 - targets), 1e-6)


@pytest.mark.parametrize("kind", ["batch", "common"])
def test_planned_and_masked_steps_agree(build, kind):
  """Tasks that part between their blocks; of pictures with common batch statistics, too."""
  found = []
  values = (
    THREE
    if kind == "batch"
    else {
      **configs.PICTURES,
      "model__blocks": (2, 1),
      "gates__target_rates": (1.0, 0.6, 0.6),
      "model__norm": kind,
    }
  )
  for execution in ("planned", "masked"):
    experiment = build(train__execution=execution, **values)
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


def test_a_weight_that_is_no_number_is_told_as_one():
  good, bad = np.ones(2), np.array([1.0, np.nan])
  parts = {"loss/total": good, "loss/a": good, "weight/a": bad, "norm/a": good}
  with pytest.raises(finite.NonFiniteLossError, match=r"balancer's weight of a .* at step 12,"):
    finite.check_losses("retrain", 10, parts, "")
  with pytest.raises(finite.NonFiniteLossError, match="The loss of a is not finite"):
    finite.check_losses("retrain", 10, {**parts, "loss/a": bad, "loss/total": bad}, "")
