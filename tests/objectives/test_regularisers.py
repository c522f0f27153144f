"""Penalties against hand-worked numbers, their gradients and their limits."""

from __future__ import annotations

import chex
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.objectives import regularisers

KEY = jax.random.key(0)


def _logits(alpha) -> jnp.ndarray:
  """Logits whose execute probability is alpha."""
  alpha = jnp.asarray(alpha)
  return jnp.stack([jnp.log(alpha), jnp.log1p(-alpha)], -1)


def test_sparsity_by_hand():
  logits = _logits([[0.5, 0.2, 0.75], [0.5, 0.9, 0.5]])
  opened = jnp.array([False, True, True])
  code = (-np.log(0.8) - np.log(0.25) - np.log(0.1) - np.log(0.5)) / 2
  got = regularisers.sparsity(logits, opened)
  assert float(got) == pytest.approx(code, rel=1e-5)
  paper = np.log(0.2) + np.log(0.75) + np.log(0.9) + np.log(0.5)
  got = regularisers.sparsity(logits, opened, "paper")
  assert float(got) == pytest.approx(paper, rel=1e-5)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_sparsity_moves_open_blocks_only_and_towards_skipping(form):
  logits = 0.5 * jax.random.normal(KEY, (3, 4, 2))
  opened = jnp.array([False, False, True, True])
  gradient = jax.grad(regularisers.sparsity)(logits, opened, form)
  chex.assert_trees_all_equal(gradient[:, :2], jnp.zeros((3, 2, 2)))
  assert (gradient[:, 2:, 0] > 0).all() and (gradient[:, 2:, 1] < 0).all()
  nothing = regularisers.sparsity(logits, jnp.zeros(4, bool), form)
  assert float(nothing) == 0.0


@pytest.mark.parametrize("form", ["code", "paper"])
def test_sparsity_is_finite_for_extreme_logits(form):
  logits = jnp.array([[[1e4, -1e4], [-1e4, 1e4]]])
  value, gradient = jax.value_and_grad(regularisers.sparsity)(logits, jnp.ones(2, bool), form)
  assert np.isfinite(value) and np.isfinite(gradient).all()
  if form == "paper":
    assert float(value) == -16.0


def test_sharing_by_hand():
  alpha = jnp.array([[0.9, 0.5], [0.1, 0.5], [0.4, 0.3]])
  # Ordered pairs count twice; block 0 weighs 2 / 2, block 1 weighs 1 / 2.
  paper = 2 * (0.8 + 0.5 + 0.3) * 1.0 + 2 * (0.0 + 0.2 + 0.2) * 0.5
  got = regularisers.sharing(_logits(alpha), "paper")
  assert float(got) == pytest.approx(paper, rel=1e-5)
  # Three pairs of two blocks.
  assert float(regularisers.sharing(_logits(alpha))) == pytest.approx(paper / 2 / 6, rel=1e-5)
  logits = jnp.stack([10 * alpha, jnp.full_like(alpha, 7.0)], -1)
  authors = (8 + 5 + 3) * 0.5 + (0 + 2 + 2) * 1.0
  got = regularisers.sharing(logits, "authors")
  assert float(got) == pytest.approx(authors, rel=1e-5)


def test_sharing_weighs_the_first_block_most_and_authors_the_last():
  base = jnp.zeros((2, 4, 2))
  first, last = base.at[0, 0, 0].set(1.0), base.at[0, 3, 0].set(1.0)
  paper = [regularisers.sharing(x) for x in (first, last)]
  assert float(paper[0]) == pytest.approx(4 * float(paper[1]))
  authors = [regularisers.sharing(x, "authors") for x in (first, last)]
  assert float(authors[1]) == pytest.approx(4 * float(authors[0]))


@pytest.mark.parametrize("form", ["mean", "paper", "authors"])
def test_sharing_of_equal_tasks_is_zero_with_zero_gradient(form):
  row = jax.random.normal(KEY, (1, 5, 2))
  logits = jnp.tile(row, (3, 1, 1))
  value, gradient = jax.value_and_grad(regularisers.sharing)(logits, form)
  assert float(value) == 0.0
  chex.assert_trees_all_equal(gradient, jnp.zeros_like(gradient))


def test_sharing_ignores_the_order_of_tasks():
  logits = jax.random.normal(KEY, (4, 5, 2))
  for form in ("paper", "authors"):
    chex.assert_trees_all_close(
      regularisers.sharing(logits, form), regularisers.sharing(logits[::-1], form), rtol=1e-5
    )


def test_sharing_needs_two_tasks():
  with pytest.raises(ValueError, match="at least two tasks"):
    regularisers.sharing(jnp.zeros((1, 3, 2)))


def test_instance_by_hand():
  rates = jnp.array([[0.2, 0.9, 0.5], [0.1, 0.4, 0.7]])
  targets = [1.0, 0.8, 0.55]
  code = ((0.1**2 + 0.05**2) + (0.4**2 + 0.15**2)) / 3
  got = regularisers.instance(rates, targets)
  assert float(got) == pytest.approx(code, rel=1e-5)
  paper = (0.65 - 0.8) ** 2 + (0.6 - 0.55) ** 2
  got = regularisers.instance(rates, jnp.array(targets), "paper")
  assert float(got) == pytest.approx(paper, rel=1e-5)
  total = (0.1 - 0.05 - 0.4 + 0.15) ** 2 / (2 * 6)
  got = regularisers.instance(rates, jnp.array(targets), "total")
  assert float(got) == pytest.approx(total, rel=1e-5)


def test_gates_may_divide_one_rate_among_themselves():
  """Free where one gives what another takes; like the code's form where all are off alike."""
  targets = (1.0, 0.5, 0.5)
  divided = jnp.array([[1.0, 0.9, 0.3], [1.0, 0.6, 0.2]])
  assert float(regularisers.instance(divided, targets, "total")) == pytest.approx(0, abs=1e-12)
  alike = jnp.array([[1.0, 0.7, 0.7], [1.0, 0.7, 0.7]])
  code, total = (float(regularisers.instance(alike, targets, f)) for f in ("code", "total"))
  assert total == pytest.approx(code, rel=1e-6)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_instance_pulls_towards_the_target_and_spares_ungated_blocks(form):
  rates = jnp.array([[0.2, 0.9, 0.3]])
  targets = (1.0, 0.5, 0.5)
  gradient = jax.grad(regularisers.instance)(rates, targets, form)
  assert float(gradient[0, 0]) == 0.0
  assert float(gradient[0, 1]) > 0 > float(gradient[0, 2])
  assert float(regularisers.instance(rates, (1.0, 1.0, 1.0), form)) == 0.0
  assert float(regularisers.instance(rates, (1.0, 1.0, 1.0), "total")) == 0.0


def test_unknown_forms_are_named():
  logits = jnp.zeros((2, 3, 2))
  with pytest.raises(ValueError, match="'codes'.*code, paper"):
    regularisers.sparsity(logits, jnp.ones(3, bool), "codes")
  with pytest.raises(ValueError, match="'code'.*paper, authors"):
    regularisers.sharing(logits, "code")
  with pytest.raises(ValueError, match="'authors'.*code, paper"):
    regularisers.instance(jnp.ones((2, 3)), (1.0, 0.5, 0.5), "authors")
  with pytest.raises(ValueError, match="2 target rates for 3 blocks"):
    regularisers.instance(jnp.ones((2, 3)), (1.0, 0.5))


def test_target_rates_become_one_float_a_block():
  assert regularisers.check_target_rates(0.5, 3) == (0.5, 0.5, 0.5)
  rates = regularisers.check_target_rates([1, 0.5, np.float32(0.25)], 3)
  assert rates == (1.0, 0.5, 0.25)
  assert all(type(rate) is float for rate in rates)


@pytest.mark.parametrize(
  "targets, message",
  [
    ([0.5, 0.5], "3 blocks"),
    ([[0.5, 0.5, 0.5]], "3 blocks"),
    ([1.0, 0.0, 0.5], "block 1 is 0.0"),
    ([1.0, 0.5, 1.2], "block 2 is 1.2"),
    (float("nan"), "block 0"),
    ("half", "number"),
    ([0.5, [0.5], 0.5], "number"),
  ],
)
def test_target_rates_that_make_no_sense(targets, message):
  with pytest.raises(ValueError, match=message):
    regularisers.check_target_rates(targets, 3)


def test_budget_by_hand():
  alpha = jnp.array([[0.9, 0.5], [0.1, 0.7]])
  both, costs = jnp.array([True, True]), (1.0, 3.0)
  charge = lambda share, serve, opened=both: float(
    regularisers.budget(_logits(alpha), opened, costs, share, serve)
  )
  # Apart: (0.5 * 1 + 0.6 * 3) / 4. Together: (0.9 * 1 + 0.7 * 3) / 4.
  assert charge(0.5, "apart") == pytest.approx((2.3 / 4 - 0.5) ** 2, rel=1e-4)
  assert charge(0.5, "together") == pytest.approx((3.0 / 4 - 0.5) ** 2, rel=1e-4)
  assert charge(0.8, "apart") == charge(0.8, "together") == 0.0
  first_kept = jnp.array([False, True])
  assert charge(0.5, "apart", first_kept) == pytest.approx((2.8 / 4 - 0.5) ** 2, rel=1e-4)


def test_conflict_by_hand():
  alpha = jnp.array([[0.9, 0.5], [0.1, 0.7], [0.4, 0.4]])
  cosine = jnp.array([[1.0, 0.2, -0.3], [0.2, 1.0, 0.0], [-0.3, 0.0, 1.0]])
  # Pairs (0, 1) and (0, 2), of 3 pairs and 2 blocks; the diagonal does not count.
  paid = 0.2 * (0.09 + 0.35) - 0.3 * (0.36 + 0.2)
  assert float(regularisers.conflict(_logits(alpha), cosine)) == pytest.approx(-paid / 6, rel=1e-4)
