"""Tests of optimisers: groups, updates by hand, schedules by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynashare_jax.models.trunks import contract
from dynashare_jax.train import optim

OPEN = jnp.array([True, True])[None, :, None]
RULES = {
  "trunk/backbone": contract.Leaf("backbone"),
  "trunk/gate_1": contract.Leaf("gates"),
  "trunk/columns_0": contract.Leaf("backbone", 0),
  "heads_0": contract.Leaf("heads", 0),
}


def _params() -> dict:
  return {
    "network": {
      "trunk": {
        "backbone": {"block_0": {"kernel": jnp.array([1.0, -2.0])}},
        "gate_1": {"reduce": {"bias": jnp.array([0.5])}},
        "columns_0": {"columns": {"table": jnp.array([4.0])}},
      },
      "heads_0": {"linear": {"bias": jnp.array([3.0])}},
    },
    "policy": {"logits": jnp.arange(4.0).reshape(1, 2, 2)},
  }


def _grads() -> dict:
  return jax.tree.map(lambda p: 0.3 * p + 0.1, _params())


def _moved(config, name, trainable=optim.GROUPS, steps=2, length=10, opened=OPEN):
  """Parameters and optimiser state after some steps with equal gradients."""
  tx = optim.make(config, name, length, RULES)
  params = _params()
  opt = tx.init(params)
  groups = optim.groups(params, RULES)
  grads, _ = optim.split(_grads(), trainable, groups)
  for _ in range(steps):
    params, opt = optim.update(tx, grads, opt, params, trainable, groups, opened)
  return params, opt


def _kernel(params) -> np.ndarray:
  return np.asarray(params["network"]["trunk"]["backbone"]["block_0"]["kernel"], np.float64)


def test_every_leaf_has_its_group():
  groups = optim.groups(_params(), RULES)
  assert groups["policy"]["logits"] == "policy"
  trunk = groups["network"]["trunk"]
  assert trunk["backbone"]["block_0"]["kernel"] == "backbone"
  assert trunk["gate_1"]["reduce"]["bias"] == "gates"
  assert trunk["columns_0"]["columns"]["table"] == "backbone"
  assert groups["network"]["heads_0"]["linear"]["bias"] == "heads"


def test_sgd_by_hand(config):
  values = config(
    **{
      "optimizers.retrain.kind": "sgd",
      "optimizers.retrain.schedule": "constant",
      "optimizers.retrain.lr": 0.1,
      "optimizers.retrain.weight_decay": 0.01,
      "optimizers.retrain.momentum": 0.9,
    }
  )
  w, velocity = np.array([1.0, -2.0]), 0.0
  grad = 0.3 * w + 0.1
  for _ in range(2):
    velocity = 0.9 * velocity + grad + 0.01 * w
    w = w - 0.1 * velocity
  np.testing.assert_allclose(_kernel(_moved(values, "retrain")[0]), w, 1e-6)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam_by_hand(config, kind):
  """`adam` couples the decay with the moments, `adamw` does not."""
  values = config(
    **{
      "optimizers.retrain.kind": kind,
      "optimizers.retrain.schedule": "constant",
      "optimizers.retrain.lr": 0.1,
      "optimizers.retrain.b1": 0.5,
      "optimizers.retrain.weight_decay": 0.2,
    }
  )
  w = np.array([1.0, -2.0])
  grad, m, v = 0.3 * w + 0.1, 0.0, 0.0
  for t in (1, 2):
    g = grad + (0.2 * w if kind == "adam" else 0)
    m, v = 0.5 * m + 0.5 * g, 0.999 * v + 0.001 * g * g
    move = (m / (1 - 0.5**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    w = w - 0.1 * (move + (0.2 * w if kind == "adamw" else 0))
  np.testing.assert_allclose(_kernel(_moved(values, "retrain")[0]), w, 1e-5)


def test_heads_can_have_a_rate_of_their_own(config):
  values = config(
    **{
      "optimizers.retrain.kind": "sgd",
      "optimizers.retrain.schedule": "constant",
      "optimizers.retrain.weight_decay": 0.0,
      "optimizers.retrain.lr": 0.1,
      "optimizers.retrain.head_lr": 0.5,
    }
  )
  params, _ = _moved(values, "retrain", steps=1)
  head = params["network"]["heads_0"]["linear"]["bias"]
  np.testing.assert_allclose(head, 3.0 - 0.5 * 1.0, 1e-6)
  np.testing.assert_allclose(_kernel(params), [1 - 0.04, -2 + 0.05], 1e-6)


def test_policy_adam_by_hand(config):
  values = config(**{"optimizers.policy.lr": 0.1, "optimizers.policy.weight_decay": 0.5})
  params, _ = _moved(values, "warmup", ("policy",), steps=1)
  before = np.arange(4.0)
  g = 0.3 * before + 0.1 + 0.5 * before
  np.testing.assert_allclose(
    np.ravel(params["policy"]["logits"]), before - 0.1 * g / (np.abs(g) + 1e-8), 1e-5
  )


@pytest.mark.parametrize("frozen", optim.GROUPS)
def test_frozen_groups_keep_every_bit(config, same_bits, frozen):
  """With Adam and weight decay, which move even where gradients are zero."""
  values = config()
  start = optim.make(values, "retrain", 10, RULES).init(_params())
  trainable = tuple(g for g in optim.GROUPS if g != frozen)
  params, opt = _moved(values, "retrain", trainable)
  groups = optim.groups(params, RULES)
  same_bits(opt.inner_states[frozen], start.inner_states[frozen])
  for new, old, group in zip(*map(jax.tree.leaves, (params, _params(), groups)), strict=True):
    assert bool((new == old).all()) == (group == frozen), group
  for group in trainable:
    with pytest.raises(AssertionError):
      same_bits(opt.inner_states[group], start.inner_states[group])


def test_closed_logits_and_their_moments_stay(config):
  """Weight decay alone would give the closed rows moments."""
  values = config(**{"optimizers.policy.weight_decay": 0.5})
  params, opt = _moved(
    values, "alternate", ("policy",), opened=jnp.array([False, True])[None, :, None]
  )
  before = np.asarray(_params()["policy"]["logits"])
  after = np.asarray(params["policy"]["logits"])
  np.testing.assert_array_equal(after[:, 0], before[:, 0])
  assert (after[:, 1] != before[:, 1]).all()
  moments = [
    np.asarray(leaf) for leaf in jax.tree.leaves(opt.inner_states["policy"]) if leaf.ndim == 3
  ]
  assert len(moments) == 2
  for moment in moments:
    assert (moment[:, 0] == 0).all() and (moment[:, 1] != 0).all()


def test_split_and_join_are_inverse(same_bits):
  moving, still = optim.split(_params(), ("heads", "policy"), optim.groups(_params(), RULES))
  assert len(jax.tree.leaves(moving)) == 2
  same_bits(optim.join(moving, still), _params())


@pytest.mark.parametrize(
  "values, steps, wanted",
  [
    (dict(schedule="constant"), 10, {0: 2.0, 9: 2.0}),
    (dict(schedule="steps", every=3, factor=0.5), 10, {0: 2.0, 2: 2.0, 3: 1.0, 6: 0.5}),
    (dict(schedule="cosine"), 8, {0: 2.0, 4: 1.0, 8: 0.0}),
    (dict(schedule="onecycle", warm=0.5), 8, {0: 2 / 25, 4: 2.0, 6: (2 + 2e-4) / 2, 8: 2e-4}),
  ],
)
def test_schedules_by_hand(config, values, steps, wanted):
  settings = config().optimizers.retrain
  settings.update(values)
  rates = optim.schedule(settings, 2.0, steps)
  for step, rate in wanted.items():
    np.testing.assert_allclose(rates(step), rate, 1e-5, 1e-7)


@pytest.mark.parametrize("rate", [0.0, 3e-3])
@pytest.mark.parametrize("values", [dict(schedule="cosine"), dict(schedule="onecycle", warm=0.3)])
def test_one_program_has_the_schedules_of_all_lengths(config, values, rate):
  """In every bit those of optax, which are compiled with their length."""
  settings = config().optimizers.retrain
  settings.update(values)
  one = jax.jit(lambda length, count: optim.schedule(settings, rate, length)(count))
  for steps in (1, 3, 96):
    warm = max(int(steps * 0.3), 1)
    falls = optax.cosine_decay_schedule(rate, steps)
    rises = optax.warmup_cosine_decay_schedule(
      rate / 25, rate, warm, max(steps, warm + 1), rate / 1e4
    )
    known = jax.jit(falls if settings.schedule == "cosine" else rises)
    counts = np.arange(steps + 2, dtype=np.int32)
    for count in counts:
      found = one(optim.horizon(settings, steps), count)
      assert float(found) == float(known(count)), (steps, count)
  assert one._cache_size() == 1


@pytest.mark.parametrize(
  "values, message",
  [
    (dict(schedule="cosin"), "Unknown schedule 'cosin'"),
    (dict(kind="adan"), "Unknown optimiser 'adan'"),
    (dict(schedule="steps", every=0), "`every`.*at least 1, but is 0"),
    (dict(schedule="onecycle", warm=1.0), "`warm`.*but is 1.0"),
    (dict(lr=-0.1), "learning rate.*-0.1"),
    (dict(lr=float("nan")), "learning rate.*nan"),
  ],
)
def test_bad_settings_are_refused(config, values, message):
  settings = config()
  settings.optimizers.retrain.update(values)
  with pytest.raises(ValueError, match=message):
    optim.make(settings, "retrain", 10, RULES)
