"""Batch norm with the statistics of every group."""

from __future__ import annotations

import functools

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.models import fusions
from dynashare_jax.models import heads
from dynashare_jax.models import norm
from dynashare_jax.models.backbones import base
from dynashare_jax.models.trunks import attention

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, (2, 4, 3, 5)).astype(np.float32)
PARAMS = {
  "scale": jnp.asarray(RNG.normal(size=5), jnp.float32),
  "bias": jnp.asarray(RNG.normal(size=5), jnp.float32),
}
STATS = {
  "mean": jnp.asarray(RNG.normal(size=5), jnp.float32),
  "var": jnp.asarray(RNG.uniform(1, 2, size=5), jnp.float32),
}


@functools.partial(
  jax.jit,
  static_argnames=("use_running", "dtype", "mutable", "common"),
  compiler_options={"xla_backend_optimization_level": 0},
)
def _run(x, updates, use_running=False, dtype=jnp.float32, mutable=True, common=False):
  module = norm.GroupedBatchNorm(common=common, dtype=dtype)
  y, changed = module.apply(
    {"params": PARAMS, "batch_stats": STATS},
    jnp.asarray(x),
    jnp.asarray(updates, jnp.float32),
    use_running,
    mutable=["batch_stats"] if mutable else [],
  )
  return y, changed.get("batch_stats")


def test_every_group_is_normalised_by_itself():
  y, _ = _run(X, np.array([1, 1]))
  for g in range(2):
    rows = np.float64(X[g]).reshape(-1, 5)
    wanted = (X[g] - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    wanted = wanted * np.asarray(PARAMS["scale"]) + np.asarray(PARAMS["bias"])
    np.testing.assert_allclose(y[g], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("updates", [[1, 1], [0.5, 0.5], [2, 1], [0, 1], [1 / 3, 0]])
def test_running_averages_keep_momentum_to_the_power_of_the_updates(updates):
  _, stats = _run(X, np.array(updates))
  rows = np.float64(X).reshape(2, -1, 5)
  share = np.asarray(updates)[:, None] / sum(updates)
  keep = 0.9 ** sum(updates)
  mean = (share * rows.mean(1)).sum(0)
  var = (share * rows.var(1, ddof=1)).sum(0)
  np.testing.assert_allclose(
    stats["mean"], keep * np.asarray(STATS["mean"]) + (1 - keep) * mean, rtol=1e-4
  )
  np.testing.assert_allclose(
    stats["var"], keep * np.asarray(STATS["var"]) + (1 - keep) * var, rtol=1e-4
  )


def test_vectors_that_differ_little_keep_their_variance():
  x = (10 + 1e-3 * RNG.normal(size=(1, 8, 5))).astype(np.float32)
  _, stats = _run(x, np.array([1.0]))
  var = (np.asarray(stats["var"]) - 0.9 * np.asarray(STATS["var"])) / 0.1
  assert np.abs(var).max() < 1e-4
  y, _ = _run(x, np.array([1.0]))
  wide = np.float64(x)
  wanted = (wide - wide.mean(1)) / np.sqrt(wide.var(1) + 1e-5)
  wanted = wanted * np.asarray(PARAMS["scale"]) + np.asarray(PARAMS["bias"])
  np.testing.assert_allclose(y, wanted, rtol=5e-3, atol=5e-3)


def test_no_update_leaves_the_running_averages_bit_identical():
  _, stats = _run(X, np.array([0, 0]))
  for name, value in STATS.items():
    np.testing.assert_array_equal(stats[name], value)


def test_a_group_that_stands_for_two_is_two_equal_groups():
  one = _run(X, np.array([2, 1]))[1]
  three = _run(X[[0, 0, 1]], np.array([1, 1, 1]))[1]
  for name in STATS:
    np.testing.assert_allclose(one[name], three[name], rtol=1e-5)


def test_common_statistics_are_those_of_all_values_together():
  """In proportion to the updates: here a third, two thirds and none of what is normalised."""
  x = np.concatenate([X, X[:1] + 7])
  y, stats = _run(x, np.array([1, 2, 0]), common=True)
  rows = np.float64(np.concatenate([X[0], X[1], X[1]])).reshape(-1, 5)
  wanted = (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
  wanted = wanted * np.asarray(PARAMS["scale"]) + np.asarray(PARAMS["bias"])
  np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
  keep = 0.9**3
  mean = keep * np.asarray(STATS["mean"]) + (1 - keep) * rows.mean(0)
  np.testing.assert_allclose(stats["mean"], mean, rtol=1e-4)
  for name in STATS:  # One group alone has what it has without.
    one, other = (_run(X[:1], np.array([1]), common=common)[1][name] for common in (True, False))
    np.testing.assert_array_equal(one, other)


def test_what_is_trained_with_common_statistics_is_what_is_measured():
  """Once the averages have settled, groups that differ are normalised at test as in training."""
  x, updates = np.tile(np.stack([X[0], 3 * X[1] + 5]), (1, 16, 1, 1)), jnp.array([0.5, 0.5])
  for common, near in ((True, 2e-2), (False, np.inf)):
    module, stats = norm.GroupedBatchNorm(common=common), STATS
    for _ in range(200):
      want, new = module.apply(
        {"params": PARAMS, "batch_stats": stats}, x, updates, False, mutable=["batch_stats"]
      )
      stats = new["batch_stats"]
    found = module.apply({"params": PARAMS, "batch_stats": stats}, x, updates, True)
    apart = float(np.abs(found - want).max())
    assert apart < near and (common or apart > 0.5)


def test_one_group_is_flax_batch_norm():
  y, stats = _run(X[:1], np.array([1]))
  module = nn.BatchNorm(use_running_average=False, momentum=0.9)
  wanted, changed = module.apply(
    {"params": PARAMS, "batch_stats": STATS}, X[0], mutable=["batch_stats"]
  )
  np.testing.assert_allclose(y[0], wanted, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(stats["mean"], changed["batch_stats"]["mean"], rtol=1e-5)
  # flax keeps the biased variance, torch (and this) the unbiased one.
  gain = np.asarray(stats["var"]) - 0.9 * np.asarray(STATS["var"])
  biased = np.asarray(changed["batch_stats"]["var"]) - 0.9 * np.asarray(STATS["var"])
  np.testing.assert_allclose(gain, biased * 12 / 11, rtol=1e-3)


def test_at_test_the_running_averages_count_alone():
  y, _ = _run(X, np.array([1, 1]), use_running=True, mutable=False)
  wanted = (X - np.asarray(STATS["mean"])) / np.sqrt(np.asarray(STATS["var"]) + 1e-5) * np.asarray(
    PARAMS["scale"]
  ) + np.asarray(PARAMS["bias"])
  np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)


def test_training_without_mutable_averages_still_runs():
  np.testing.assert_array_equal(
    _run(X, np.array([1, 1]), mutable=False)[0], _run(X, np.array([1, 1]))[0]
  )


def test_a_constant_channel_gives_the_bias_and_finite_gradients():
  x = jnp.full((1, 4, 5), 7.0)
  y, _ = _run(x, np.array([1]))
  np.testing.assert_allclose(y, np.broadcast_to(PARAMS["bias"], y.shape), atol=1e-3)
  module = norm.GroupedBatchNorm()
  loss = lambda x: module.apply(
    {"params": PARAMS, "batch_stats": STATS}, x, jnp.ones((1,)), False
  ).sum()
  grads = jax.jit(jax.grad(loss))(x)
  assert np.isfinite(grads).all()


def test_running_averages_get_no_gradient():
  module = norm.GroupedBatchNorm()

  def through(x):
    _, changed = module.apply(
      {"params": PARAMS, "batch_stats": STATS}, x, jnp.ones((2,)), False, mutable=["batch_stats"]
    )
    return changed["batch_stats"]["mean"].sum()

  assert (jax.jit(jax.grad(through))(jnp.asarray(X)) == 0).all()


def test_statistics_are_float32_under_bfloat16():
  x = jnp.asarray(X + 100, jnp.bfloat16)
  y, stats = _run(x, np.array([1, 1]), dtype=jnp.bfloat16)
  assert y.dtype == jnp.bfloat16
  assert stats["var"].dtype == jnp.float32
  exact, _ = _run(x.astype(jnp.float32), np.array([1, 1]))
  np.testing.assert_allclose(np.asarray(y, np.float32), exact, rtol=0.01, atol=0.01)


def test_initialisation_moves_nothing():
  variables = norm.GroupedBatchNorm().init(jax.random.key(0), jnp.asarray(X), jnp.ones((2,)), False)
  assert (variables["batch_stats"]["mean"] == 0).all()
  assert (variables["batch_stats"]["var"] == 1).all()


def test_group_norm_normalises_every_example_by_itself():
  """Groups of two channels, over the example's positions."""
  x = np.random.default_rng(0).normal(2, 3, size=(2, 3, 5, 4))
  layer = norm.ExampleNorm(channel_groups=2)
  variables = layer.init(jax.random.key(0), jnp.asarray(x, jnp.float32), jnp.ones((2,)), False)
  assert set(variables) == {"params"}
  parts = x.reshape(2, 3, 5, 2, 2)
  mean = parts.mean((2, 4), keepdims=True)
  wanted = (parts - mean) / np.sqrt(parts.var((2, 4), keepdims=True) + 1e-5)
  for training in (True, False):
    found = layer.apply(variables, jnp.asarray(x, jnp.float32), jnp.ones((2,)), training)
    np.testing.assert_allclose(found, wanted.reshape(x.shape), rtol=1e-4, atol=1e-5)


def test_group_norm_takes_fewer_groups_where_they_do_not_divide():
  layer = norm.ExampleNorm()
  x = jnp.ones((1, 2, 48))
  found = layer.init_with_output(jax.random.key(0), x, jnp.ones((1,)), False)
  assert found[0].shape == x.shape  # gcd(32, 48) = 16 groups


def test_a_folded_norm_is_where_its_name_says_which_layer_it_reads():
  kernel = np.ones((2, 5), np.float32)
  layer = {"kernel": kernel, "bias": jnp.ones(5)}
  params = {
    "block": {"conv_1": layer, "norm_1": PARAMS, "norm_2": PARAMS},  # there is no conv_2
    "gate": {"reduce": layer, "norm": PARAMS},
    "mean": layer,
    "mean_norm": PARAMS,
  }
  stats = {"block": {"norm_1": STATS, "norm_2": STATS}, "gate": {"norm": STATS}, "mean_norm": STATS}
  found, left = norm.fold(params, stats)
  assert left.keys() == {"block", "gate"} and left["block"].keys() == {"norm_2"}
  assert found["gate"]["norm"].keys() == found["block"]["norm_2"].keys() == PARAMS.keys()
  np.testing.assert_array_equal(found["gate"]["reduce"]["kernel"], kernel)
  factor = np.asarray(PARAMS["scale"]) / np.sqrt(np.asarray(STATS["var"]) + 1e-5)
  for where, name in ((found["block"], "conv_1"), (found, "mean")):
    np.testing.assert_allclose(where[name]["kernel"], kernel * factor, rtol=1e-6)
    np.testing.assert_allclose(where[name]["bias"], factor, rtol=1e-6)
  (offset,) = found["mean_norm"].values()
  np.testing.assert_allclose(offset, PARAMS["bias"] - STATS["mean"] * factor, rtol=1e-6)


PASS = base.Pass(False, jnp.ones((1,)))
STYLE = attention.Style("batch", False, jnp.float32)


@pytest.mark.parametrize(
  "module, told, left",
  [
    (heads.DeeplabHead(2, width=3, rates=(2,)), (False,), 0),
    (attention.Extract(4, True, 1, STYLE), (PASS,), 0),
    (attention.Extract(4, False, 1, STYLE), (PASS,), 0),
    (fusions.Reduction(), (PASS,), 2),  # several norms read parts of one layer
  ],
)
def test_evaluation_is_the_same_with_folded_norms(module, told, left):
  x = jnp.asarray(RNG.normal(size=(1, 2, 4, 4, 3)), jnp.float32)
  given = {0: x, 2: [x, x]}[left] if told == (PASS,) else x[0]
  options = {"xla_backend_optimization_level": 0}
  made = jax.jit(lambda key: module.init(key, given, *told), compiler_options=options)
  drawn = lambda a: jnp.asarray(a + RNG.uniform(0.1, 0.9, a.shape), a.dtype)
  variables = jax.tree.map(drawn, made(jax.random.key(0)))
  params, stats = norm.fold(variables["params"], variables["batch_stats"])
  assert len(stats) == left
  both = lambda *trees: [module.apply(tree, given, *told) for tree in trees]
  run = jax.jit(both, compiler_options=options)
  whole, folded = run(variables, {"params": params, "batch_stats": stats})
  scale = float(max(jnp.abs(a).max() for a in jax.tree.leaves(whole)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), whole, folded)
