"""Trees of columns: limits, what is computed, what is expected to be."""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp
from models.conftest import QUICK
import numpy as np
import pytest

from dynashare_jax.methods import branch
from dynashare_jax.models.backbones import mlp
from dynashare_jax.models.trunks import branched
from dynashare_jax.models.trunks import columns
from dynashare_jax.ops import costs
from dynashare_jax.ops import gumbel

BACKBONE = mlp.ResidualMlp(3, width=6, hidden=8, dropout=0.0)
OWN = ((0, 1),) * 3
# Both tasks run the first two blocks of column 1, then their own.
LATE = ((1, 1), (1, 1), (1, 1))
INPUTS = jax.random.normal(jax.random.key(3), (4, 5))


def _trunk(ends: tuple[int, ...] = (0, 1)) -> branched.BranchedTrunk:
  return branched.BranchedTrunk((BACKBONE.clone(), BACKBONE.clone()), ends, aligned=False)


@pytest.fixture(scope="module")
def params() -> Any:
  make = jax.jit(
    lambda k: _trunk().init(k, INPUTS, branched.Choice(OWN), False), compiler_options=QUICK
  )
  return make(jax.random.key(0))["params"]


def _value(params: Any, tree: Any, weights: Any = None, trunk: Any = None) -> Any:
  """Features, and gradients of a sum that weighs the tasks apart."""

  def loss(params: Any, weights: Any) -> Any:
    choice = branched.Choice(tree, weights)
    features, _ = (trunk or _trunk()).apply({"params": params}, INPUTS, choice, True)
    return sum((t + 1) * jnp.square(f).sum() for t, f in enumerate(features)), features

  run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
  (_, features), grads = run(params, weights)
  return features, grads


def test_own_columns_are_single_task_networks(params):
  features, grads = _value(params, OWN)
  alone = columns.ColumnTrunk((BACKBONE.clone(), BACKBONE.clone()))
  wanted, slopes = _value(params, None, trunk=alone)
  np.testing.assert_array_equal(features, wanted)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), grads, slopes)


@pytest.mark.parametrize("tree", [OWN, LATE, ((1, 0), (0, 0), (1, 1))])
def test_certain_weights_are_the_tree(params, tree):
  weights = jnp.eye(2)[jnp.asarray(tree)]
  features, grads = _value(params, tree)
  mixed, slopes = _value(params, None, weights)
  np.testing.assert_allclose(mixed, features, rtol=1e-5, atol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, slopes)


def test_tasks_with_one_ancestor_share_all_below_it(params):
  """Column 0 runs its last block alone: what is below belongs to column 1."""
  _, grads = _value(params, LATE)
  moved = lambda name: {
    part: any(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(tree))
    for part, tree in grads[name].items()
  }
  assert moved("columns_1") == dict.fromkeys(grads["columns_1"], True)
  wanted = {"block_2": True, "last_norm": True}
  assert moved("columns_0") == {part: part in wanted for part in grads["columns_0"]}


def test_what_no_task_needs_is_not_computed(params):
  def count(tree: Any, ends: tuple[int, ...]) -> int:
    run = lambda v, x: _trunk(ends).apply(v, x, branched.Choice(tree), False)[0]
    return int(costs.macs(run, {"params": params}, INPUTS)) // len(INPUTS)

  stem, block = 5 * 6, 2 * 6 * 8
  assert count(OWN, (0, 1)) == 2 * (stem + 3 * block)
  assert count(LATE, (0, 1)) == stem + 4 * block
  assert count(LATE, (0,)) == stem + 3 * block
  assert branched.paths(LATE, (0, 1)) == [[1, 1, 0], [1, 1, 1]]


def test_a_task_alone_follows_its_own_path(params):
  features, _ = _value(params, LATE)
  cut, names = _trunk().only((0,))
  alone, _ = _value(params, LATE, trunk=cut)
  assert names == {"columns": "columns"} and len(alone) == 1
  np.testing.assert_allclose(alone[0], features[0], rtol=1e-6)


@pytest.mark.parametrize(
  "chosen, wanted",
  [
    (np.tile(np.eye(2), (2, 1, 1)), 1.0),
    (np.tile([[1.0, 0.0], [1.0, 0.0]], (2, 1, 1)), 0.75),
    (np.full((2, 2, 2), 0.5), (2 + 1.5) / 4),
  ],
)
def test_the_expected_work(chosen, wanted):
  assert float(branch.expected_work(jnp.asarray(chosen), (3.0, 3.0))) == pytest.approx(wanted)


def test_a_dear_first_block_makes_sharing_it_cheaper():
  chosen = jnp.tile(jnp.asarray([[1.0, 0.0], [1.0, 0.0]]), (2, 1, 1))
  assert float(branch.expected_work(chosen, (9.0, 1.0))) == pytest.approx((9 + 2) / 20)


def test_the_tree_is_the_likeliest_and_ties_keep_the_own_column():
  sharing = branch.TreeSharing(("a", "b"), (1.0, 1.0), 0.0)
  learnt = {"logits": jnp.zeros((2, 2, 2)).at[1, 0, 1].set(0.5)}
  np.testing.assert_array_equal(
    sharing.structures(learnt, {}, jax.random.key(0)), [[[0, 1], [1, 1]]]
  )
  panel = sharing.panels(learnt, {}, {}).panels[0]
  np.testing.assert_array_equal(panel.values, [[1, 0], [1, 1]])


def test_soft_choices_are_samples_at_low_temperature():
  logits = jnp.log(jnp.asarray([0.7, 0.2, 0.1]))
  draw = jax.vmap(lambda k: gumbel.soft_choices(k, logits, 1e-3))
  found = draw(jax.random.split(jax.random.key(0), 4000))
  np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)
  assert float(jnp.mean(found.max(1) > 0.999)) > 0.99
  np.testing.assert_allclose(found.mean(0), [0.7, 0.2, 0.1], atol=0.03)
  np.testing.assert_allclose(gumbel.soft_choices(jax.random.key(0), logits, 1e6), 1 / 3, atol=1e-4)
