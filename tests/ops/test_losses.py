"""Per-element losses against hand-worked numbers and NumPy."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.ops import losses


def test_cross_entropy_against_numpy():
  logits = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
  labels = np.random.default_rng(1).integers(0, 5, (4, 3))
  share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  twin = -np.log(np.take_along_axis(share, labels[..., None], -1))[..., 0]
  got = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
  np.testing.assert_allclose(got, twin, rtol=1e-5)
  equal = losses.cross_entropy(jnp.zeros((1, 5)), jnp.array([2], jnp.uint8))
  assert float(equal[0]) == pytest.approx(np.log(5))


def test_binary_cross_entropy_by_hand_and_at_extremes():
  got = losses.binary_cross_entropy(jnp.array([0.0, 0.0, 1e4, -1e4]), jnp.array([1, 0, 1, 0]), 3.0)
  np.testing.assert_allclose(got, [3 * np.log(2), np.log(2), 0, 0], rtol=1e-6)
  wrong = losses.binary_cross_entropy(jnp.array([-50.0]), jnp.array([1.0]))
  assert float(wrong[0]) == pytest.approx(50.0)


def test_cosine_loss_by_hand():
  first = jnp.array([[2.0, 0, 0], [2, 0, 0], [2, 0, 0], [0, 0, 0]])
  second = jnp.array([[5.0, 0, 0], [0, 3, 0], [-1, 0, 0], [0, 0, 1]])
  np.testing.assert_allclose(losses.cosine_loss(first, second), [0, 1, 2, 1], atol=1e-6)
  gradient = jax.grad(lambda p: losses.cosine_loss(p, second).sum())(first)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize("degrees", [0.0, 0.01, 1.0, 45.0, 90.0, 179.9, 180.0])
def test_angle_is_exact_from_0_to_180(degrees):
  radians = np.deg2rad(degrees)
  first = jnp.array([[1.0, 0.0, 0.0]])
  second = jnp.array([[4 * np.cos(radians), 4 * np.sin(radians), 0.0]])
  got = float(losses.angle(first, second)[0])
  assert got == pytest.approx(degrees, abs=2e-4)


def test_absolute_error_has_no_gradient_where_it_is_zero():
  def total(prediction):
    return losses.absolute_error(prediction, jnp.array([1.0, 2.0, 3.0])).sum()

  value, gradient = jax.value_and_grad(total)(jnp.array([0.5, 2.0, 5.0]))
  assert float(value) == 2.5
  assert gradient.tolist() == [-1.0, 0.0, 1.0]


def test_masked_counts_integers_exactly():
  valid = jnp.zeros((2000, 100), bool).at[:1234, :7].set(True)
  total, count = losses.masked(jnp.full((2000, 100), jnp.nan), ~valid & valid)
  assert (float(total), float(count)) == (0.0, 0.0)
  total, count = losses.masked(jnp.ones((2000, 100)), valid)
  assert float(total) == float(count) == 1234 * 7


def test_cleared_and_in_range_hide_what_is_no_label():
  target = jnp.array([[1.0, jnp.nan], [jnp.inf, 2.0]])
  valid = jnp.array([[True, False], [False, True]])
  np.testing.assert_array_equal(losses.cleared(target, valid), [[1.0, 0.0], [0.0, 2.0]])
  labels = jnp.array([0, 4, 5, 255, 2], jnp.uint8)
  keep = losses.in_range(labels, jnp.array([True] * 4 + [False]), 5)
  assert keep.tolist() == [True, True, False, False, False]
  assert losses.in_range(jnp.array([-1]), jnp.array([True]), 5).tolist() == [False]
