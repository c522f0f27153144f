"""Progressive parameter sharing: what is learnt of masks, its targets, and whole runs."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest
from tiny import configs

from dynashare_jax.methods import mpps
from dynashare_jax.models.trunks import masked
from dynashare_jax.objectives import balancing
from dynashare_jax.ops import exclusive
from dynashare_jax.train import forward as forward_lib
from dynashare_jax.train import gradients
from dynashare_jax.train import results
from dynashare_jax.train import step as step_lib

VALUES = {"method": "mpps", "train__steps": 8, "train__eval_every": 8}
QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def run(whole):
  return whole(**VALUES)


class Learning(NamedTuple):
  """One step's gradients, and what they were made of."""

  sharing: mpps.ExclusiveSharing
  state: object
  grads: object
  aside: object
  masks: masked.Masks


def _learning(build, change=lambda sharing: sharing, without=(), **values):
  """Gradients of a step, in which the labels of some tasks are missing."""
  experiment = build(**VALUES | values)
  state = experiment.initial_state()
  state = experiment.with_optimizer(state, 0)
  rng = np.random.default_rng(0)
  learnt = {k: v + rng.normal(0, 1, v.shape).astype(np.float32) for k, v in _learnt(state).items()}
  memory = {**state.memory, "mean": jnp.asarray([0.4, 0.9]), "steps": jnp.asarray([3.0, 3.0])}
  state = state.replace(params={**state.params, "policy": learnt}, memory=memory)
  batch = jax.tree.map(lambda a: jnp.asarray(a[:16]), experiment.dataset.arrays("train"))
  valid = {n: v & (n not in without) for n, v in batch.valid.items()}
  sharing = change(experiment.sharing)
  objective = experiment.objective._replace(sharing=sharing)
  moving = step_lib.moving_of(sharing, experiment.method.phases[0], 0, 0, 0, ())
  of = lambda state: forward_lib.Pass(
    objective, experiment.spec(0, ()), state, batch._replace(valid=valid), moving, jnp.asarray(3)
  )

  def found(state):
    pass_ = of(state)
    return *gradients.gradients(pass_), pass_.control(state.params)

  return Learning(sharing, state, *jax.jit(found, compiler_options=QUICK)(state))


def _learnt(state):
  return state.params["policy"]


def _by_hand(found, gains):
  """The gradient in the logits: the score function's and the divergence's, of guests."""
  wanted = {}
  for name, logits in _learnt(found.state).items():
    inner = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    phi, slope = 0.005 + 0.99 * inner, 0.99 * inner * (1 - inner)
    mask, pi = (
      np.asarray(a[name], np.float64) for a in (found.masks.of, found.aside.memory["target"])
    )
    score = gains[:, None] * (mask / phi - (1 - mask) / (1 - phi))
    pull = np.log(phi / pi) - np.log((1 - phi) / (1 - pi))
    wanted[name] = np.where(found.sharing.owns(phi.shape[1]), 0, (score + pull) * slope)
  return wanted


def _close(found, wanted, tolerance=1e-4):
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance * 1e-1)


def test_bernoulli_masks_learn_by_the_score_of_unweighted_losses_and_the_divergence(build):
  """A balancer of losses has no part in it; the charge is worth the divergence alone."""
  found = _learning(build, balance__name="uncertainty")
  losses = np.asarray([found.aside.parts[f"loss/{name}"] for name in "ab"])
  wanted = _by_hand(found, losses - [0.4, 0.9])
  _close(found.grads["policy"], wanted)
  assert max(np.abs(g).max() for g in wanted.values()) > 0.01
  for name, mask in found.masks.of.items():
    owns = found.sharing.owns(mask.shape[1])
    assert set(np.unique(mask)) == {0.0, 1.0} and (np.asarray(mask)[owns] == 1).all()
    assert found.sharing.layers[0] == ("block_0/widen", 8) and name.startswith("block_")
  charge = sum(
    np.where(
      found.sharing.owns(z.shape[1]),
      0,
      exclusive.divergence(
        exclusive.probabilities(z, 0.01), found.aside.memory["target"][name], "bernoulli"
      ),
    ).sum()
    for name, z in _learnt(found.state).items()
  )
  np.testing.assert_allclose(found.aside.parts["penalty/divergence"], charge, rtol=1e-4)
  # The mean losses: of all steps so far, then of the last hundred.
  np.testing.assert_allclose(
    found.aside.memory["mean"], [0.3 + losses[0] / 4, 0.675 + losses[1] / 4], rtol=1e-5
  )


def test_without_labels_a_task_learns_from_the_divergence_alone(build):
  """And gradients that a balancer mends are those of the weights."""
  found = _learning(build, without=("b",), balance__name="pcgrad")
  loss = float(found.aside.parts["loss/a"])
  assert float(found.aside.parts["loss/b"]) == 0
  wanted = _by_hand(found, np.asarray([loss - 0.4, 0.0]))
  _close(found.grads["policy"], wanted)
  assert max(np.abs(g[1]).max() for g in wanted.values()) > 1e-3
  np.testing.assert_array_equal(found.aside.memory["steps"], [4, 3])
  np.testing.assert_allclose(found.aside.memory["mean"][1], 0.9, rtol=1e-6)


def test_gaussian_masks_learn_by_the_draw_of_unweighted_losses(build):
  """Nor has the balancer of the weights a part in that; the task b weighs a half."""
  alone = lambda **more: lambda sharing: dataclasses.replace(sharing, weight=0.0, **more)
  found = _learning(build, alone(), exclusive__family="gaussian", balance__name="uncertainty")
  weighed = _learning(build, alone(prior=(1.0, 1.0)), exclusive__family="gaussian")
  for name, slope in found.grads["policy"].items():
    slope = np.asarray(slope) * [[1], [0.5]]
    np.testing.assert_allclose(slope, weighed.grads["policy"][name], rtol=1e-3, atol=1e-6)
    assert np.abs(slope).max() > 1e-4


def _sharing(**values):
  same = dict(layers=(("x", 6), ("y", 9)), starts=(0, 2, 4), wanted=(1.0, 0.5, 0.0))
  fields = {"names": ("r", "s", "t"), "blocks": 1, "routes": None, "prior": (1.0, 1.0, 1.0)}
  return mpps.ExclusiveSharing(**fields | same | values)


def test_targets_change_with_the_epoch_from_what_is_learnt():
  sharing = _sharing()
  memory = sharing.memory({})
  learnt = {
    name: z + 2 * np.random.default_rng(c).random(z.shape).astype(np.float32)
    for (name, c), z in zip(sharing.layers, sharing.init(jax.random.key(0)).values(), strict=True)
  }
  losses = balancing.Losses(jnp.zeros(3), jnp.ones(3, bool), (1.0,) * 3)
  moving = step_lib.moving_of(sharing, None, 0, 0, 0, ())

  @jax.jit
  def after(memory, learnt, step):
    control = sharing.control((), learnt, moving, step, 4)
    found = sharing.remember((), learnt, memory, control, None, losses)
    return control.epoch, found, sharing.phi(learnt)

  epoch, kept, phi = after(memory, learnt, 1)
  assert int(epoch) == 0
  for name, target in kept["target"].items():
    np.testing.assert_array_equal(target, memory["target"][name])
  epoch, new, phi = after(kept, learnt, 2)
  assert int(epoch) == int(new["epoch"]) == 1
  for target in new["target"].values():
    np.testing.assert_allclose(exclusive.capacity(target), 0.5, atol=0.02)  # Clipped.
    assert np.std(np.asarray(target)[0]) > 0.01
  reached = np.concatenate([exclusive.capacity(p) for p in phi.values()]).mean()
  np.testing.assert_allclose(new["reached"], [0, reached, 0], rtol=1e-5)
  assert int(after(new, learnt, 100)[0]) == 2
  plain = _sharing(updating=False)._targets(phi, kept, masked.Masks({}, jnp.asarray(1)))
  for target in plain.values():
    owns = sharing.owns(target.shape[1])
    np.testing.assert_allclose(target, np.where(owns, 0.99, 0.5), atol=1e-6)


def test_what_is_learnt_finds_its_targets_where_losses_are_off():
  sharing = _sharing(wanted=(0.3, 0.3, 0.3))
  targets = _sharing(wanted=(0.6, 0.6, 0.6))._first()

  @jax.jit
  def ends(learnt):
    adam = optax.adam(0.1)

    def step(carry, _):
      learnt, state = carry
      moves, state = adam.update(jax.grad(sharing._divergence)(learnt, targets), state)
      return (optax.apply_updates(learnt, moves), state), None

    (learnt, _), _ = jax.lax.scan(step, (learnt, adam.init(learnt)), length=200)
    return sharing.phi(learnt)

  start = sharing.init(jax.random.key(0))
  for name, phi in ends(start).items():
    np.testing.assert_allclose(phi, targets[name], atol=2e-3)


def test_full_sharing_starts_with_it():
  shared = _sharing(wanted=(0.0, 0.0, 0.0))
  for phi in shared.phi(shared.init(jax.random.key(0))).values():
    np.testing.assert_allclose(phi, 0.99, atol=1e-5)
  for phi in _sharing().phi(_sharing().init(jax.random.key(0))).values():
    np.testing.assert_allclose(exclusive.capacity(phi), 0.99, atol=1e-5)


def test_panels_of_three_tasks_by_hand():
  sharing = _sharing(layers=(("block_4/x", 3),), starts=(0, 2), wanted=(1.0, 0.0))
  phi = np.asarray([[0.99, 0.2, 0.3], [0.4, 0.99, 0.994], [0.1, 0.6, 0.99]], np.float32)
  learnt = {"block_4/x": exclusive.logits(phi, 0.01)}
  memory = {"reached": np.asarray([0.99, 0.8])}
  found = sharing.panels(learnt, memory, {})
  capacity, uses, shares, entropies = found.panels
  left = np.mean([1 - 0.5 / 2, 1 - 0.8 / 2, 1 - (2.284 - 0.994) / 2])
  np.testing.assert_allclose(capacity.values, [[0.99, 0.01], [0.8, left]], atol=1e-4)
  np.testing.assert_allclose(
    uses.values, [[1, 0.4, 0.1], [0.2, 1, 0.6], [0.3, 0.994, 1]], atol=1e-4
  )
  assert list(shares.rows) == ["s in r", "t in r", "r in s", "t in s", "r in t", "s in t"]
  np.testing.assert_allclose(
    shares.values[:, 0], [0.8, 0.2, 0.25, 0.75, 0.3 / 1.294, 0.994 / 1.294], atol=1e-4
  )
  assert shares.columns == entropies.columns == ["4/x"]
  np.testing.assert_allclose(entropies.values[2], [(0.46900 + 0.97095) / 2], atol=1e-4)
  assert "1 of 3 channels have a guest" in found.caption


def test_a_run_logs_how_exclusive_channels_are(run):
  train = [line["values"] for line in run.lines if line["kind"] == "train"]
  assert train[0]["capacity/wanted"] == pytest.approx(0.99, abs=1e-6)
  assert train[-1]["capacity/wanted"] < 0.1
  assert train[0]["capacity/reached"] > train[-1]["capacity/reached"]
  assert {"penalty/divergence", "pull/divergence", "pull/tasks"} <= set(train[0])
  (line,) = (line["values"] for line in run.lines if line["kind"] == "capacity")
  assert line["start"] == list(range(8))
  np.testing.assert_allclose(
    line["wanted"], [0.99, 0.99, 0.8, 0.6, 0.4, 0.2, 0.01, 0.01], atol=1e-6
  )
  assert line["reached"][-1] < line["reached"][0]


def test_a_stopped_run_goes_on(run, train, stopped, tmp_path, same_run):
  stopped(tmp_path, 4, **VALUES, **configs.SAVES)
  same_run(train(tmp_path, **VALUES, **configs.SAVES), run)


def test_the_finished_model_is_one_of_hard_sharing(build):
  """In parameters and multiply-accumulates; masks are no part of it."""
  counted = []
  for method in ("hard", "mpps"):
    experiment = build(**configs.PICTURES | {"method": method})
    params, stats = jax.eval_shape(lambda e=experiment: e.fresh("init"))
    learnt = jax.eval_shape(experiment.sharing.init, jax.random.key(0))
    numbers = results.parameters(experiment, params, stats, learnt)
    counted.append((numbers, results.macs(experiment, params, stats)))
  assert counted[1][0].pop("policy") == 2 * 2 * (4 + 8)
  assert counted[0][0].pop("policy") == 0
  assert counted[0] == counted[1]


@pytest.mark.parametrize(
  "values, message",
  [
    ({"data__tasks": ("a",)}, r"stripes has one task alone \(a\)"),
    ({"exclusive__schedule": "step7"}, "config.exclusive.schedule is 'step7'.*step5"),
    ({"exclusive__family": "concrete"}, "config.exclusive.family is 'concrete'"),
    ({"exclusive__epsilon": 0.5}, "config.exclusive.epsilon must be above 0 and below 0.5"),
    ({"exclusive__epsilon": 0.0}, "config.exclusive.epsilon must be above 0 and below 0.5"),
    ({"exclusive__blocks": 3}, "config.exclusive.blocks must be from 0 to the 2 of the network"),
    ({"exclusive__frozen": 5.0}, "at most half of them; it is 5.0, and there are 8 epochs"),
    ({"exclusive__frozen": 0.6}, "must be a share of the run, at most 0.5"),
    ({"exclusive__frozen": 2.5}, "or a number of its epochs"),
    ({"exclusive__epochs": 1}, "the run has 1 epoch: .*config.exclusive.epochs"),
    ({"exclusive__epochs": -1}, "config.exclusive.epochs must be at least 0"),
    ({"exclusive__average": 1.0}, r"config.exclusive.average must be in \[0, 1\)"),
    ({"exclusive__weight": -1.0}, "config.exclusive.weight must be at least 0"),
    ({"exclusive__lr": -1.0}, "config.exclusive.lr must be at least 0"),
    ({"compat__mask_at": "relu"}, "config.compat.mask_at is 'relu'"),
    ({"model__hidden": 1}, "block_0/widen has 1 for 2 tasks: choose wider layers"),
  ],
)
def test_values_without_sense_are_refused(build, values, message):
  with pytest.raises(ValueError, match=message):
    build(**VALUES | values)


def test_short_runs_learn_faster():
  config = configs.make(method="mpps")
  assert mpps._rate(config.exclusive, 20_000) == 0.01
  assert 0.1 < mpps._rate(config.exclusive, 300) < 0.3
  config.exclusive.lr = 0.02
  assert mpps._rate(config.exclusive, 300) == 0.02
