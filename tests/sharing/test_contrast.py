"""Gates that learn by contrast: gains, prices, the loss; and a run that is stopped."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import configs

from dynashare_jax import types
from dynashare_jax.objectives import balancing
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import contrast
from dynashare_jax.sharing import skip
from dynashare_jax.train import step as step_lib

BOTH, ONE_BLOCK = jnp.ones((2, 1), bool), jnp.array([0.5])


def _losses(full, bare, count, prior=(1.0, 2.0)):
  sums = [types.Sums(jnp.array(total), jnp.array(count)) for total in (full, bare)]
  return balancing.Losses(jnp.zeros(2), jnp.ones(2, bool), prior, None, tuple(sums))


def test_what_blocks_save_an_example():
  """Means over the labels of an example, weighed as its task; without labels nothing is known."""
  losses = _losses([[2.0, 1.0], [1.0, 5.0]], [[6.0, 0.5], [1.5, 9.0]], [[4.0, 1.0], [1.0, 0.0]])
  gain, known = contrast.gains(losses)
  np.testing.assert_allclose(gain, [[1.0, -0.5], [1.0, 0.0]])
  np.testing.assert_array_equal(known, [[True, True], [True, False]])


def test_a_wrong_decision_weighs_what_it_costs():
  """Against a slow twin: block 0 of task 1 has no gate, and one example no label."""
  rng = np.random.default_rng(0)
  score, gain = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4))
  price, known = rng.normal(size=(2, 3)) / 4, np.ones((2, 4), bool)
  asked = np.array([[True, True, True], [False, True, True]])
  known[0, 2] = False
  total = stakes = 0.0
  for t, b, l in np.ndindex(2, 4, 3):
    if asked[t, l] and known[t, b]:
      right = 1 if gain[t, b] > price[t, l] else -1
      stake = abs(gain[t, b] - price[t, l])
      total += stake * np.log(1 + np.exp(-right * score[t, b, l]))
      stakes += stake
  found = jnp.asarray(gain, jnp.float32), jnp.asarray(known)
  given = jnp.asarray(score, jnp.float32), jnp.asarray(asked), found
  loss = contrast.taught(*given, jnp.asarray(price, jnp.float32))
  np.testing.assert_allclose(loss, total / stakes, 1e-5)
  none = contrast.taught(given[0], jnp.zeros_like(given[1]), found, jnp.zeros((2, 3)))
  assert none == 0


def test_prices_begin_at_the_quantile_that_the_rate_wants():
  """The mean of those of the first steps; of a task without labels it stays."""
  memory, score = contrast.blank(2, 1), jnp.ones((2, 5, 1))
  move = lambda memory, gain, known: contrast.moved(
    memory, score, BOTH, (jnp.array(gain), jnp.array(known)), ONE_BLOCK
  )
  labelled = [[True] * 5, [True] * 3 + [False] * 2]
  memory = move(memory, [[5.0, 1.0, 2.0, 4.0, 3.0], [7.0, 9.0, 8.0, 0.0, 0.0]], labelled)
  np.testing.assert_allclose(memory["price"], [[3.0], [8.0]])
  memory = move(memory, [[5.0, 5.0, 5.0, 5.0, 5.0], [0.0] * 5], [[True] * 5, [False] * 5])
  np.testing.assert_allclose(memory["price"], [[4.0], [8.0]])
  assert int(memory["looks"]) == 2


def test_prices_rise_while_gates_open_too_often():
  """By the mean deviation of the gains: here by a half too many, and by a quarter too few."""
  memory = {"price": jnp.ones((2, 1)), "looks": jnp.array(200), "other": 1}
  gain = jnp.array([[1.0, -1.0, 1.0, -1.0], [2.0, -2.0, 2.0, -2.0]])
  score = jnp.array([[1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, 1.0]])[:, :, None]
  found = contrast.moved(memory, score, BOTH, (gain, gain != 0), ONE_BLOCK)
  np.testing.assert_allclose(found["price"], [[1 + 0.05 / 2], [1 - 0.05 * 2 / 4]], 1e-6)
  assert found["other"] == 1
  late = contrast.moved(
    memory | {"looks": jnp.array(999)}, score, BOTH, (gain, gain != 0), ONE_BLOCK
  )
  half = (1 + np.asarray(found["price"])) / 2
  np.testing.assert_allclose(late["price"], half, 1e-6)  # they settle
  free = memory | {"price": jnp.zeros((2, 1))}
  least = contrast.moved(free, score, BOTH, (gain, gain != 0), ONE_BLOCK)
  np.testing.assert_allclose(least["price"], [[0.05 / 2], [0.0]], 1e-6)  # what harms stays shut
  apart = contrast.moved(free, score, ~BOTH, (gain, gain != 0), ONE_BLOCK)
  assert not np.any(apart["price"])  # no gate, no price


def test_gates_follow_the_mean_gain_of_like_examples():
  """One gain is twice as noisy as the halves differ; half of all are opened, the right half."""
  asked, rates = jnp.ones((1, 1), bool), jnp.array([0.5])
  tx = optax.adam(0.01)

  def one(carry, key):
    weights, opt, memory = carry
    x = jax.random.normal(key, (64, 4))
    noise = 2 * jax.random.normal(jax.random.fold_in(key, 1), (64,))
    found = (jnp.where(x[:, 0] + x[:, 1] > 0, 1.0, 0.0) + noise)[None], jnp.ones((1, 64), bool)
    score = lambda weights: (x @ weights[:4] + weights[4])[None, :, None]
    slope = jax.grad(lambda w: contrast.taught(score(w), asked, found, memory["price"]))(weights)
    memory = contrast.moved(memory, score(weights), asked, found, rates)
    update, opt = tx.update(slope, opt)
    return (optax.apply_updates(weights, update), opt, memory), score(weights).mean() > 0

  start = jnp.zeros(5), tx.init(jnp.zeros(5)), contrast.blank(1, 1)
  (weights, _, memory), _ = jax.lax.scan(one, start, jax.random.split(jax.random.key(0), 3000))
  x = np.random.default_rng(0).normal(size=(4000, 4))
  opened = x @ np.asarray(weights[:4]) + float(weights[4]) > 0
  assert np.mean(opened == (x[:, 0] + x[:, 1] > 0)) > 0.85
  assert opened.mean() == pytest.approx(0.5, abs=0.1)
  assert float(memory["price"][0, 0]) == pytest.approx(0.5, abs=0.3)


def test_a_coin_decides_before_the_gates_do():
  """All gated blocks or none, of an example and task; then no noise, and no gradient through."""
  every = skip.every_block(2, 3)
  sharing = skip.SkipSharing(
    ("a", "b"), 3, every, target_rates=(1.0, 0.5, 0.5), contrast=0.3, explore=0.5
  )
  phase = contract.Phase("retrain", 10, settings=skip.Stretch("route", gated=True), candidate=0)
  route = np.ones((2, 3), np.float32)
  static = sharing.static(phase, route)

  def control(step):
    moving = step_lib.moving_of(sharing, phase, 0, step, step, route)
    return sharing.control(static, sharing.init(jax.random.key(0)), moving, step, 32)

  noise = np.asarray(control(4).noise)
  assert (np.abs(noise) == contrast.SURE).all() and (noise == noise[:, :, :1]).all()
  assert 20 < (noise[:, :, 0] > 0).sum() < 44 and (noise[:, 0] != noise[:, 1]).any()
  assert (noise != np.asarray(control(3).noise)).any()
  late = control(5)
  assert late.taught and not np.any(late.noise)
  full, bare = sharing.others(static, late)
  assert (full.noise == contrast.SURE).all() and (bare.noise == -contrast.SURE).all()
  told = "a fixed route + gates"
  assert sharing.describe(phase) == f"{told}, taught by two more forward passes a step"
  assert dataclasses.replace(sharing, contrast=0.0).describe(phase) == told


VALUES = {
  **configs.SAVES,
  "method": "dynashare",
  "policy__use": False,
  "compat__search": "corrected",
  "gates__contrast": 0.5,
}


def test_a_stopped_run_goes_on_and_devices_agree(train, stopped, same_run, tmp_path):
  """With its prices; the gates move by their own loss alone."""
  want = train(tmp_path / "whole", **VALUES)
  stopped(tmp_path / "stopped", 7, **VALUES)
  same_run(train(tmp_path / "stopped", **VALUES), want)
  assert (
    np.all(np.asarray(want.state.memory["price"])[:, 1]) and int(want.state.memory["looks"]) == 6
  )
  other = train(tmp_path / "four", devices=4, **VALUES)
  np.testing.assert_allclose(other.losses, want.losses, 1e-5)
  np.testing.assert_allclose(other.state.memory["price"], want.state.memory["price"], 1e-3, 1e-5)
