"""Decisions: their distribution, limits, gradients and reproducibility."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.ops import gumbel

KEY = jax.random.key(7)
# Compiled whole: op by op, every operation of every shape is a program of its own.
noise_of = jax.jit(gumbel.logistic_noise, static_argnums=2)
soft_of = jax.jit(gumbel.soft_decisions)
hard_of = jax.jit(gumbel.hard_gate)
routes_of = jax.jit(gumbel.sample_routes, static_argnums=2)


def test_noise_is_the_difference_of_two_gumbels():
  noise = noise_of(KEY, jnp.arange(20_000), ())
  twin = np.random.default_rng(0).gumbel(size=(2, 20_000))
  twin = twin[0] - twin[1]
  levels = [0.05, 0.25, 0.5, 0.75, 0.95]
  np.testing.assert_allclose(np.quantile(noise, levels), np.quantile(twin, levels), atol=0.1)


def test_noise_is_finite_and_float32():
  noise = noise_of(KEY, np.arange(100), (2000,))
  assert noise.dtype == jnp.float32
  assert np.isfinite(noise).all()
  assert np.abs(noise).max() < 17.5


@pytest.mark.parametrize("uniform", [0.0, 1.0])
def test_noise_survives_the_ends_of_the_uniform(monkeypatch, uniform):
  monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, uniform))
  assert np.isfinite(gumbel.logistic_noise(KEY, jnp.arange(2))).all()


@pytest.mark.parametrize("split", [1, 2, 5])
def test_noise_belongs_to_the_example(split):
  ids = np.array([3, 11, 0, 500, 2**31 - 1, 8, 9, 1, 2, 4])
  whole = np.asarray(gumbel.logistic_noise(KEY, ids, (2, 3)))
  parts = [noise_of(KEY, part, (2, 3)) for part in np.split(ids, split)]
  np.testing.assert_array_equal(whole, np.concatenate(parts))
  np.testing.assert_array_equal(whole[::-1], noise_of(KEY, ids[::-1], (2, 3)))


def test_noise_differs_between_examples_and_keys():
  noise, other = (np.asarray(noise_of(jax.random.key(k), np.arange(50), (4,))) for k in (7, 8))
  assert len(np.unique(noise)) == 200
  assert not np.any(noise == other)


def test_soft_decisions_belong_to_task_and_block():
  logits = np.zeros((3, 5, 2), np.float32)
  whole = np.asarray(soft_of(KEY, logits, 1.0))
  assert len(np.unique(whole)) == 15
  np.testing.assert_array_equal(whole[:2, :3], soft_of(KEY, logits[:2, :3], 1.0))
  np.testing.assert_allclose(whole, gumbel.soft_decisions(KEY, logits, 1.0), atol=1e-6)


def test_soft_decisions_equal_the_two_way_softmax():
  logits = np.array([[[0.3, -0.2], [2.0, 1.0]]], np.float32)
  neutral = soft_of(KEY, np.zeros_like(logits), 1.0)
  noise = np.log(neutral) - np.log1p(-neutral)
  for tau in (0.5, 1.0, 5.0):
    perturbed = np.stack([logits[..., 0] + noise, logits[..., 1]], -1) / tau
    twin = np.exp(perturbed) / np.exp(perturbed).sum(-1, keepdims=True)
    got = soft_of(KEY, logits, tau)
    np.testing.assert_allclose(got, twin[..., 0], rtol=1e-4)


def test_limits_of_the_temperature():
  logits = 2 * np.random.default_rng(7).normal(size=(4, 6, 2)).astype(np.float32)
  cold = soft_of(KEY, logits, 1e-6)
  neutral = soft_of(KEY, np.zeros_like(logits), 1.0)
  noise = np.log(neutral) - np.log1p(-neutral)
  hard = np.argmax(np.stack([logits[..., 1], logits[..., 0] + noise], -1), axis=-1)
  np.testing.assert_array_equal(cold, hard)
  hot = soft_of(KEY, logits, 1e6)
  np.testing.assert_allclose(hot, 0.5, atol=1e-4)


def test_gradients_stay_finite_when_cold():
  def total(logits):
    return gumbel.soft_decisions(KEY, logits, 1e-6).sum()

  gradient = jax.jit(jax.grad(total))(np.random.default_rng(7).normal(size=(3, 4, 2)))
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.85])
def test_frequencies_match_alpha(alpha):
  count = 4000
  score = np.log(alpha / (1 - alpha)).astype(np.float32)
  bound = 4 * np.sqrt(alpha * (1 - alpha) / count)
  noise = noise_of(KEY, np.arange(count), ())
  gates = hard_of(np.full((count,), score), noise, 1.0)
  assert abs(np.mean(gates) - alpha) < bound
  routes = routes_of(KEY, np.full((2, 2), alpha, np.float32), count // 4)
  assert abs(np.mean(routes) - alpha) < bound
  logits = np.broadcast_to(np.float32([score, 0]), (40, 100, 2))
  cold = soft_of(KEY, logits, 1e-6)
  assert abs(np.mean(cold) - alpha) < bound


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_refuses_temperatures_that_are_not_positive(temperature):
  with pytest.raises(ValueError, match="temperature"):
    gumbel.soft_decisions(KEY, jnp.zeros((1, 1, 2)), temperature)
  with pytest.raises(ValueError, match="temperature"):
    gumbel.hard_gate(jnp.zeros(2), None, temperature)


def test_hard_gate_is_exactly_binary_in_both_types():
  for dtype in (jnp.float32, jnp.bfloat16):
    score = np.random.default_rng(7).normal(size=(5, 40)).astype(dtype)
    noise = noise_of(KEY, np.arange(5), (40,))
    gates = hard_of(score, noise, 0.3)
    assert gates.dtype == dtype
    assert set(np.unique(np.asarray(gates, np.float32))) == {0.0, 1.0}


def test_hard_gate_without_noise_is_the_argmax():
  score = jnp.array([-2.0, -1e-6, 0.0, 1e-6, 3.0])
  gates = gumbel.hard_gate(score, None)
  np.testing.assert_array_equal(gates, [0, 0, 0, 1, 1])


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_hard_gate_has_the_soft_gradient(temperature):
  rng = np.random.default_rng(7)
  score, noise = rng.normal(size=(2, 30)).astype(np.float32)
  weight = np.arange(30, dtype=np.float32)

  @jax.jit
  @jax.grad
  def hard(score):
    return (weight * gumbel.hard_gate(score, noise, temperature)).sum()

  soft = 1 / (1 + np.exp(-(score + noise) / np.float32(temperature)))
  want = weight * soft * (1 - soft) / temperature
  np.testing.assert_allclose(hard(score), want, rtol=1e-4, atol=1e-6)


def test_hard_gate_has_a_finite_gradient_when_cold():
  extreme = jax.jit(jax.grad(lambda score: gumbel.hard_gate(score, None, 1e-3).sum()))
  assert np.isfinite(extreme(np.array([-1e4, 0.0, 1e4], np.float32))).all()


def test_routes_keep_their_prefix_and_obey_certain_alphas():
  alpha = np.array([[0.0, 1.0, 0.5], [0.3, 0.0, 1.0]], np.float32)
  routes = np.asarray(routes_of(KEY, alpha, 30))
  assert routes.shape == (30, 2, 3)
  assert set(np.unique(routes)) == {0.0, 1.0}
  assert not routes[:, 0, 0].any() and routes[:, 0, 1].all()
  np.testing.assert_array_equal(routes[:4], routes_of(KEY, alpha, 4))
  with pytest.raises(ValueError, match="count"):
    gumbel.sample_routes(KEY, alpha, 0)
