"""The gate of one's own network: against the package's, and what a network makes of it."""

from __future__ import annotations

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax import gates
from dynashare_jax.models import gates as package
from dynashare_jax.ops import gumbel

RNG = np.random.default_rng(2)
X = {  # a map and a vector beside it: features may be trees
  "map": jnp.asarray(RNG.normal(size=(6, 4, 5, 3)), jnp.float32),
  "vector": jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32),
}


class _Key(nn.Module):
  """What the stream `gates` gives to a module first."""

  def __call__(self):
    return self.make_rng("gates")


@pytest.fixture(scope="module")
def started():
  """A gate, and the package's own with the same parameters."""
  gate, own = gates.Gate(told=True, start="spread"), package.Gate(told=True, start="spread")
  variables = jax.jit(gate.init)(jax.random.key(0), X)
  grouped = jax.tree.map(lambda a: a[None], X)
  shapes = jax.eval_shape(lambda: own.init(jax.random.key(0), grouped, jnp.ones(1), True))
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
  score = lambda train, rate: jax.jit(
    lambda rate: own.apply(variables, grouped, jnp.ones(1), not train, rate, mutable="batch_stats")
  )(jnp.float32(rate))
  return gate, variables, score


@pytest.mark.parametrize("train", [True, False])
def test_decisions_are_those_of_the_packages_gate(started, train):
  gate, variables, score = started
  key = jax.random.key(5)
  (wanted,), stats = score(train, 0.3)
  noise = jnp.zeros(6)
  if train:
    drawn = _Key().apply({}, rngs={"gates": key})
    noise = gumbel.logistic_noise(drawn, jnp.arange(6))
  rngs = {"gates": key} if train else {}
  apply = lambda **more: jax.jit(
    lambda rate: gate.apply(variables, X, train, rate, mutable="batch_stats", **more)
  )(jnp.float32(0.3))
  keep, moved = apply(rngs=rngs)
  np.testing.assert_array_equal(keep, wanted + noise > 0)
  assert 0 < keep.sum() < 6
  jax.tree.map(np.testing.assert_array_equal, moved, stats)
  found = apply(method="relevance")[0]
  np.testing.assert_array_equal(found, wanted)
  if not train:  # the two largest scores stay
    least = float(np.sort(wanted)[-3:-1].mean())
    kept = gate.apply(variables, X, False, 0.3, least)
    np.testing.assert_array_equal(kept, wanted > least)


def test_a_loss_reaches_the_gate_by_the_relaxed_decision(started):
  """d keep / d score is that of the sigmoid of the noisy score, at the gate's temperature."""
  _, variables, score = started
  gate = gates.Gate(told=True, start="spread", temperature=0.5)
  factors = jnp.arange(6.0)

  def loss(bias):
    score_ = {**variables["params"]["score"], "bias": bias}
    tree = {**variables, "params": {**variables["params"], "score": score_}}
    return (gate.apply(tree, X, False, 0.3) * factors).sum()

  (wanted,), _ = score(False, 0.3)
  soft = jax.nn.sigmoid(2 * wanted)
  slope = (2 * soft * (1 - soft) * factors).sum()
  found = jax.grad(loss)(variables["params"]["score"]["bias"])
  np.testing.assert_allclose(found, [-slope, slope], rtol=1e-5)


def test_kept_examples_alone_are_computed_and_equal_the_mixture():
  keep = jnp.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
  block = lambda tree: jax.tree.map(lambda a: 10 * a + 1, tree)
  mixed = gates.mix(keep, block(X), X)
  np.testing.assert_array_equal(mixed["map"][3], 10 * X["map"][3] + 1)
  np.testing.assert_array_equal(mixed["vector"][1], X["vector"][1])
  sizes = []

  def watched(tree):
    sizes.append(tree["vector"].shape[0])
    return block(tree)

  for buckets in (3, 0):
    found = jax.jit(lambda x, b=buckets: gates.only(keep, watched, x, x, b))(X)
    jax.tree.map(np.testing.assert_array_equal, found, mixed)
  assert set(sizes) == {2, 4, 6, 1}  # of thirds of the batch; of one example at a time


def test_bad_gates_are_told(started):
  with pytest.raises(ValueError, match="is 'opne'; it must be one of.*Did you mean 'open'"):
    gates.Gate(start="opne").init(jax.random.key(0), X)
  _, variables, _ = started
  with pytest.raises(ValueError, match="reads no target rate: make it with `Gate\\(told=True"):
    gates.Gate().apply(variables, X, False, 0.5)
  with pytest.raises(ValueError, match="target rate is 40: give a number above 0 and at most 1"):
    gates.Gate(told=True).apply(variables, X, False, 40)


@pytest.mark.parametrize(
  ("options", "x", "more", "told"),
  [
    ({"hidden": 0}, X["vector"], {}, "`hidden` of a gate must be a whole number of at least 1"),
    ({}, jnp.ones(4), {}, r"reads an array \[B, ..., C\]"),
    ({}, {"a": jnp.ones((4, 2)), "b": jnp.ones((3, 2))}, {}, r"got the shapes"),
    ({"told": True}, X["vector"], {"target": jnp.float32(2)}, "The target rate is 2.0"),
    ({}, X["vector"], {"threshold": jnp.ones((6, 1))}, "`threshold` must be one number"),
  ],
)
def test_a_gate_refuses_what_is_no_batch(options, x, more, told):
  with pytest.raises(ValueError, match=told):
    jax.eval_shape(lambda: gates.Gate(**options).init(jax.random.key(0), x, **more))


@pytest.mark.parametrize(
  "call",
  [
    lambda keep: gates.mix(keep, jnp.ones((3, 1)), jnp.ones((3, 1))),
    lambda keep: gates.mix(keep, jnp.ones((2, 1)), jnp.ones((2, 3))),
    lambda keep: gates.mix(keep, jnp.ones((2, 3)), jnp.ones((1, 3))),
    lambda keep: gates.mix(keep, jnp.ones((2, 3), int), jnp.ones((2, 3), int)),
    lambda keep: gates.mix(keep, {"a": jnp.ones((2, 3))}, {"b": jnp.ones((2, 3))}),
    lambda keep: gates.only(keep, lambda x: x, jnp.ones((3, 1)), jnp.ones((3, 1))),
    lambda keep: gates.only(keep, lambda x: x, jnp.ones((2, 1)), jnp.ones((2, 3))),
    lambda keep: gates.only(keep, lambda x: x[:, :0], jnp.ones((2, 1)), jnp.ones((2, 1)), 0),
  ],
)
def test_rows_that_do_not_fit_are_refused(call):
  """Broadcast, they would be an answer of another shape."""
  told = "give every example a row of each|must be the same|must be real numbers"
  with pytest.raises(ValueError, match=told):
    jax.eval_shape(call, jnp.array([1.0, 0.0]))
