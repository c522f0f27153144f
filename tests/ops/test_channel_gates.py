"""Gates of channels, by hand."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.ops import channel_gates


def test_a_gate_is_open_above_0_and_has_the_slope_of_a_sigmoid():
  alpha = jnp.asarray([0.2, -0.2, 0.0])
  np.testing.assert_array_equal(channel_gates.opened(alpha), [1, 0, 0])
  slope = jax.grad(lambda a: (channel_gates.opened(a) * jnp.asarray([1.0, 2.0, 3.0])).sum())(alpha)
  np.testing.assert_allclose(slope, [0.247517, 2 * 0.247517, 3 * 0.25], rtol=1e-5)


def test_gates_are_0_or_1_to_the_last_bit():
  alpha = jnp.asarray(np.random.default_rng(0).normal(size=10_000), jnp.float32)
  for opened in (channel_gates.opened(alpha), jax.jit(channel_gates.opened)(alpha)):
    np.testing.assert_array_equal(opened, alpha > 0)


def test_a_gate_moves_by_how_its_sides_differ():
  own, shared = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.asarray([[10.0, 20.0], [30.0, 40.0]])
  weigh = jnp.asarray([[1.0, 1.0], [2.0, 1.0]])

  def loss(alpha, own, shared):
    gates = channel_gates.opened(alpha)
    return (weigh * channel_gates.gate(own, shared, gates)).sum()

  alpha = jnp.asarray([0.2, -0.2])
  found = channel_gates.gate(own, shared, channel_gates.opened(alpha))
  np.testing.assert_array_equal(found, [[1, 20], [3, 40]])
  slopes = jax.grad(loss, (0, 1, 2))(alpha, own, shared)
  # (1 - 10) + 2 (3 - 30), and (2 - 20) + (4 - 40).
  np.testing.assert_allclose(slopes[0], np.asarray([-63.0, -54.0]) * 0.247517, rtol=1e-5)
  np.testing.assert_array_equal(slopes[1], [[1, 0], [2, 0]])
  np.testing.assert_array_equal(slopes[2], [[0, 1], [0, 1]])


def test_the_shared_column_reads_a_mean_of_the_tasks():
  beta = jnp.asarray([[0.0, np.log(3.0)], [0.0, 0.0]])
  x = [jnp.asarray([[1.0, 1.0]]), jnp.asarray([[3.0, 5.0]])]
  np.testing.assert_allclose(channel_gates.mix(beta, x), [[2.0, 2.0]], rtol=1e-6)
  moved = channel_gates.mix(beta + jnp.asarray([[5.0, -5.0]]), x)
  np.testing.assert_allclose(moved, [[2.0, 2.0]], rtol=1e-6)
  np.testing.assert_array_equal(channel_gates.mix(beta[:1], x[:1]), x[0])  # one task


def test_the_excess_by_hand():
  """Eq. 4 with two tasks, two places of two channels, and a target of 1/4."""
  row = lambda a: jnp.asarray([[0.0, 0.0], [a, a]])
  alpha = {"a": row(-np.log(3.0)), "b": row(-np.log(3.0))}
  even = {"a": 0.5, "b": 0.5}
  value, slope = jax.value_and_grad(channel_gates.excess)(alpha, (0.25, 0.251), even)
  assert float(value) == pytest.approx(0.125)
  for name in alpha:
    np.testing.assert_allclose(slope[name], [[0.03125, 0.03125], [0, 0]], atol=1e-7)
  below = jax.grad(channel_gates.excess)(alpha, (0.6, 0.6), even)
  assert not any(leaf.any() for leaf in jax.tree.leaves(below))


def test_the_excess_alone_brings_the_use_to_its_target_and_stops():
  alpha = {"a": jnp.asarray([[0.5, -0.2, 1.0], [2.0, 2.0, 2.0]]), "b": jnp.ones((2, 2))}
  weights = {"a": 0.75, "b": 0.25}
  step = jax.jit(
    lambda alpha: jax.tree.map(
      lambda a, g: a - 0.2 * g, alpha, jax.grad(channel_gates.excess)(alpha, (0.4, 0.6), weights)
    )
  )
  for _ in range(600):
    alpha = step(alpha)
  soft = channel_gates.use(jax.tree.map(jax.nn.sigmoid, alpha), weights)
  np.testing.assert_allclose(soft, [0.4, 0.6], atol=0.01)


def test_a_target_is_a_budget_of_the_highest_gates():
  alpha = {"a": np.asarray([[3.0, -1.0], [1.0, 1.0]]), "b": np.asarray([[2.0, 1.0], [5.0, 5.0]])}
  weights = {"a": 0.5, "b": 0.5}
  found = channel_gates.within(alpha, (0.5, 1.0), weights)
  np.testing.assert_array_equal(found["a"], [[1, 0], [1, 1]])
  np.testing.assert_array_equal(found["b"], [[1, 0], [1, 1]])
  none = channel_gates.within(alpha, (0.0, 0.0), weights)
  assert not any(gates.any() for gates in none.values())
  # A price of 3/8 a channel of b: the second one would not fit.
  dear = channel_gates.within(alpha, (0.5, 1.0), {"a": 0.25, "b": 0.75})
  np.testing.assert_array_equal(dear["b"][0], [1, 0])
