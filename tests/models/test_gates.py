"""The instance gate: what it sees, what it decides, how it starts."""

from __future__ import annotations

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.models import gates
from dynashare_jax.ops import gumbel

RNG = np.random.default_rng(1)

# Compiling takes most of the time of these tests.
QUICK = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _gate(x, init="half", seed=0, **kwargs):
  gate = gates.Gate(start=init, **kwargs)
  variables = QUICK(lambda key: gate.init(key, x, jnp.ones((x.shape[0],)), False))(
    jax.random.key(seed)
  )
  return gate, variables


def _score(gate, variables, x, use_running=False):
  return QUICK(
    lambda variables, x: gate.apply(
      variables, x, jnp.ones((x.shape[0],)), use_running, mutable=["batch_stats"]
    )[0]
  )(variables, x)


@pytest.mark.parametrize("channels", [64, 512])
def test_parameters_as_in_the_reference(channels):
  x = jnp.ones((1, 2, 3, 3, channels))
  shapes = jax.eval_shape(lambda: gates.Gate().init(jax.random.key(0), x, jnp.ones((1,)), False))
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
  assert count == 16 * channels + 16 + 32 + 34


def test_scores_equal_the_layers_by_hand():
  x = jnp.asarray(RNG.normal(size=(2, 6, 3, 7, 4)), jnp.float32)
  gate, variables = _gate(x, hidden=5)
  p = jax.tree.map(np.float64, variables["params"])
  p["norm"]["bias"] += 0.3
  found = _score(gate, {**variables, "params": jax.tree.map(jnp.float32, p)}, x)
  for g in range(2):
    h = np.float64(x[g]).mean((1, 2)) @ p["reduce"]["kernel"]
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) + p["norm"]["bias"]
    out = np.maximum(h, 0) @ p["score"]["kernel"] + p["score"]["bias"]
    np.testing.assert_allclose(found[g], out[:, 1] - out[:, 0], rtol=1e-3, atol=1e-5)


def test_the_whole_map_is_pooled():
  x = jnp.asarray(RNG.normal(size=(1, 5, 4, 12, 3)), jnp.float32)
  gate, variables = _gate(x)
  right = x.at[:, :, :, 4:].multiply(3.0)  # beyond the left square
  base = _score(gate, variables, x)
  assert jnp.abs(_score(gate, variables, right) - base).max() > 1e-4
  np.testing.assert_allclose(
    _score(gate, variables, x[:, :, ::-1, ::-1]), base, rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 5, 7, 3), (2, 5, 4, 6, 3)])
def test_every_kind_of_features_has_a_score_an_example(shape):
  x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
  gate, variables = _gate(x)
  assert _score(gate, variables, x).shape == (2, 5)


def test_the_likelier_decision_is_a_positive_score():
  x = jnp.asarray(RNG.normal(size=(1, 200, 3)), jnp.float32)
  gate, variables = _gate(x)
  score = _score(gate, variables, x, use_running=True)
  decided = gumbel.hard_gate(score, None)
  np.testing.assert_array_equal(decided, score > 0)
  assert 0 < decided.mean() < 1


def test_samples_are_as_frequent_as_the_score_says():
  noise = gumbel.logistic_noise(jax.random.key(0), jnp.arange(20_000), (3,))
  scores = jnp.asarray([-1.5, 0.0, 2.0])
  decided = gumbel.hard_gate(jnp.broadcast_to(scores[None], noise.shape), noise)
  np.testing.assert_allclose(decided.mean(0), jax.nn.sigmoid(scores), atol=0.01)


@pytest.mark.parametrize("init, low, high", [("open", 0.85, 0.89), ("half", 0.45, 0.55)])
def test_how_gates_start(init, low, high):
  x = jnp.asarray(RNG.normal(size=(1, 64, 5, 5, 32)), jnp.float32)
  chances = [jax.nn.sigmoid(_score(*_gate(x, init, seed), x)).mean() for seed in range(3)]
  assert low < np.mean(chances) < high


def test_an_unknown_start_is_refused():
  with pytest.raises(ValueError, match="init is 'closed'.*half, open"):
    _gate(jnp.ones((1, 2, 3)), "closed")


def test_scores_are_float32_under_bfloat16():
  x = jnp.asarray(RNG.normal(size=(1, 5, 4, 4, 3)), jnp.bfloat16)
  gate, variables = _gate(x, dtype=jnp.bfloat16)
  assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))
  assert _score(gate, variables, x).dtype == jnp.float32


def test_a_told_gate_follows_the_target_rate():
  """With its rate weights at 0 it is the plain gate; with others it moves."""
  x = jnp.asarray(RNG.normal(size=(2, 6, 4)), jnp.float32)
  plain, variables = _gate(x, hidden=5)
  told = gates.Gate(hidden=5, told=True)
  params = dict(variables["params"])

  def score(weights, target):
    every = {**variables, "params": params | {"rate": {"kernel": weights}}}
    return QUICK(
      lambda v, t: told.apply(v, x, jnp.ones((2,)), False, t, mutable=["batch_stats"])[0]
    )(every, target)

  want = _score(plain, variables, x)
  np.testing.assert_allclose(score(jnp.zeros((1, 5)), jnp.float32(0.3)), want, 1e-6, 1e-7)
  weights = jnp.ones((1, 5))
  np.testing.assert_allclose(score(weights, jnp.float32(0.5)), want, 1e-6, 1e-7)
  assert (np.abs(score(weights, jnp.float32(0.9)) - want) > 1e-4).any()
  np.testing.assert_allclose(  # untold, it is asked for everything
    score(weights, None), score(weights, jnp.float32(1.0)), 1e-6, 1e-7
  )


def test_a_tree_of_maps_is_pooled_and_joined():
  maps = [jnp.asarray(RNG.normal(size=(1, 3, *size, 4)), jnp.float32) for size in ((4, 6), (2, 3))]
  joined = jnp.concatenate([x.mean((2, 3)) for x in maps], -1)
  gate, variables = _gate(joined, "spread")
  tree = {"fine": maps[0], "late": maps[1]}
  found, _ = gate.apply(variables, tree, jnp.ones((1,)), False, mutable=["batch_stats"])
  np.testing.assert_allclose(found, _score(gate, variables, joined), rtol=1e-5)
