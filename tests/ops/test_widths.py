"""Nested widths, and the reward of choosing them, by hand."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np

from dynashare_jax.ops import widths


def test_levels_are_nested_fractions():
  kept = np.asarray(widths.kept(jnp.arange(4)[None], 8))
  np.testing.assert_array_equal(kept.sum(-1), [[0, 2, 4, 8]])
  assert (kept[0, :-1] <= kept[0, 1:]).all() and kept[0, 1, :2].all()


def test_the_reward_of_four_blocks_by_hand():
  """d = (0 + 1 + 2 + 4) / 16 = 7 / 16."""
  used = widths.used(jnp.arange(4))[None, None]
  assert float(used.mean()) == 7 / 16
  got = widths.rewards(used, jnp.full((1, 1), 0.25), 10.0)
  np.testing.assert_allclose(got, (1 - 0.19140625) / 10 - 0.25, rtol=1e-6)
  assert float(widths.rewards(jnp.ones((1, 1, 3)), jnp.zeros((1, 1)), 10.0)[0, 0]) == 0


def test_the_expected_gradient_of_one_block_by_hand():
  """Each level once is the expectation over four equally likely ones."""
  rewards = jnp.asarray([[0.0, 0.0, 0.0, 4.0]])

  def loss(logits, gains, known):
    return widths.reinforce(jax.nn.log_softmax(logits)[None], gains, known)

  every = jnp.ones((1, 4), bool)
  got = -jax.grad(loss)(jnp.zeros(4), rewards, every)
  np.testing.assert_allclose(got, [-0.25, -0.25, -0.25, 0.75], atol=1e-6)
  # A constant reward changes nothing, and an example without a label has no part.
  np.testing.assert_allclose(-jax.grad(loss)(jnp.zeros(4), rewards - 7, every), got, atol=1e-5)
  some = every.at[0, 3].set(False)
  np.testing.assert_array_equal(jax.grad(loss)(jnp.zeros(4), rewards, some), 0)
  np.testing.assert_array_equal(jax.grad(loss, 1)(jnp.zeros(4), rewards, every), 0)
