"""Limits and invariances of the trunk: tasks, examples, devices, precision."""

from __future__ import annotations

import chex
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.models import heads
from dynashare_jax.models.trunks import columns as column_trunk
from dynashare_jax.models.trunks import network as network_lib
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import gumbel
from dynashare_jax.ops import routing

RNG = np.random.default_rng(0)
QUICK = {"xla_backend_optimization_level": 0}


def test_tiny_temperature_gives_the_hard_pass(tiny):
  net = tiny(tasks=3)
  logits = jnp.asarray(RNG.normal(size=(3, 3, 2)), jnp.float32)
  key = jax.random.key(3)
  soft = gumbel.soft_decisions(key, logits, 1e-6)
  hard = (gumbel.soft_decisions(key, logits, 1.0) > 0.5).astype(jnp.float32)
  assert 0 < hard.mean() < 1
  modes = routing.own(3, 3)
  chex.assert_trees_all_close(
    net.forward(skip_trunk.Decisions(modes, soft, discrete=False))[0],
    net.forward(skip_trunk.Decisions(modes, hard))[0],
    rtol=1e-6,
  )


@pytest.mark.parametrize("train", [False, True])
def test_open_gates_and_an_all_ones_policy_are_hard_sharing(tiny, train):
  net = tiny(tasks=3, gated=(False, True, True))
  params = dict(net.variables["params"])
  for gate in ("gate_1", "gate_2"):
    score = params[gate]["score"] | {"bias": jnp.asarray([-100.0, 100.0])}
    params[gate] = params[gate] | {"score": score}
  hard, _, hard_stats = net.forward(skip_trunk.Decisions(routing.all_run(3, 3)), train, params)
  chex.assert_trees_all_equal(hard[0], hard[1], hard[2])
  open_, signals, open_stats = net.forward(
    skip_trunk.Decisions(
      routing.own(3, 3), jnp.ones((3, 3)), gated=True, noise=net.noise() if train else None
    ),
    train,
    params,
  )
  assert (signals.executed == 1).all()
  chex.assert_trees_all_close(open_, hard, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(open_stats["backbone"], hard_stats["backbone"], rtol=1e-5, atol=1e-6)


def test_one_task_is_the_single_column(tiny):
  net = tiny("short", tasks=1)
  weights = jnp.asarray(RNG.normal(size=(1, 4, 3, 6)), jnp.float32)
  column = column_trunk.ColumnTrunk((net.trunk.backbone.clone(parent=None),))
  variables = {k: {"columns_0": v["backbone"]} for k, v in net.variables.items()}

  def loss(params):
    (features, signals), stats = column.apply(
      variables | {"params": params},
      net.inputs,
      skip_trunk.Decisions(routing.all_run(2, 1)),
      True,
      mutable=["batch_stats"],
    )
    return jnp.sum(features[0] * weights[0]), (features[0], signals, stats)

  grads, (features, signals, stats) = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(
    variables["params"]
  )
  found = net.value(skip_trunk.Decisions(routing.own(2, 1), jnp.ones((1, 2))), weights)
  chex.assert_trees_all_close(found["features"][0], features, rtol=1e-5)
  chex.assert_trees_all_close(found["grads"]["backbone"], grads["columns_0"], rtol=1e-3, atol=1e-4)
  chex.assert_trees_all_close(
    found["stats"]["backbone"], stats["batch_stats"]["columns_0"], rtol=1e-5
  )
  chex.assert_trees_all_equal(found["signals"].executed, signals.executed)


def test_columns_refuse_a_route(tiny):
  column = column_trunk.ColumnTrunk((tiny("mlp").trunk.backbone.clone(parent=None),))
  with pytest.raises(ValueError, match="all_run"):
    column.init(jax.random.key(0), jnp.ones((2, 5)), skip_trunk.Decisions(routing.own(3, 1)), False)


def test_order_of_the_tasks_does_not_matter(tiny):
  net = tiny("short", tasks=3, gated=(False, True))
  order = jnp.asarray([2, 0, 1])
  policy = jnp.asarray(RNG.integers(0, 2, (3, 2)), jnp.float32)
  policy = policy.at[0].set(1.0).at[1, 1].set(1.0)
  weights = jnp.asarray(RNG.normal(size=(3, 4, 3, 6)), jnp.float32)
  noise = net.noise()

  def run(policy, noise, weights):
    return net.value(
      skip_trunk.Decisions(routing.own(2, 3), policy, gated=True, noise=noise), weights
    )

  straight = run(policy, noise, weights)
  turned = run(policy[order], noise[:, order], weights[order])
  for name in ("features", "policy_grads"):
    chex.assert_trees_all_close(turned[name], straight[name][order], rtol=1e-4, atol=1e-4)
  for name in ("grads", "stats"):
    chex.assert_trees_all_close(turned[name], straight[name], rtol=1e-3, atol=1e-3)


def test_test_time_features_belong_to_the_example(tiny):
  net = tiny(tasks=2, gated=(False, True, True))
  _, _, stats = net.forward(
    skip_trunk.Decisions(routing.own(3, 2), jnp.ones((2, 3)), gated=True, noise=net.noise())
  )
  modes = routing.fixed([[1, 1, 0], [1, 1, 1]], net.trunk.gated, train=False)

  @jax.jit
  def run(inputs):
    features, signals = net.trunk.apply(
      net.variables | {"batch_stats": stats}, inputs, skip_trunk.Decisions(modes, gated=True), False
    )
    return jnp.stack(features, 1), jnp.moveaxis(signals.own.gate, 1, 0)

  whole = run(net.inputs)
  parts = [run(net.inputs[:1]), run(net.inputs[1:])]
  chex.assert_trees_all_close(whole, jax.tree.map(lambda *x: jnp.concatenate(x), *parts), rtol=1e-5)


def _sharded_step(net, weights):
  """A jitted training pass, gradients and all."""

  def run(inputs, noise):
    def loss(params):
      (features, signals), stats = net.trunk.apply(
        net.variables | {"params": params},
        inputs,
        skip_trunk.Decisions(routing.own(2, 2), jnp.ones((2, 2)), gated=True, noise=noise),
        True,
        mutable=["batch_stats"],
      )
      return jnp.sum(jnp.stack(features) * weights), (features, signals, stats)

    return jax.grad(loss, has_aux=True)(net.variables["params"])

  return jax.jit(run, compiler_options=QUICK)


@pytest.mark.parametrize("way", ["in turn", "in one call"])
def test_four_devices_compute_what_one_does(tiny, monkeypatch, way):
  if len(jax.devices()) < 4:
    pytest.skip("needs four devices")
  if way == "in one call":  # as on an accelerator
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  net = tiny("short", tasks=2, gated=(False, True))
  weights = jnp.asarray(RNG.normal(size=(2, 4, 3, 6)), jnp.float32)
  step = _sharded_step(net, weights)
  noise = net.noise()[:, :2]
  grads, (features, signals, stats) = step(net.inputs, noise)
  mesh = mesh_lib.make_mesh(jax.devices()[:4])
  inputs, split = mesh_lib.place_batch((net.inputs, noise), mesh)
  compiled = step.lower(inputs, split).compile()
  found = compiled(inputs, split)
  chex.assert_trees_all_equal(np.asarray(found[1][1].own.gate), np.asarray(signals.own.gate))
  chex.assert_trees_all_close(
    jax.device_get(found[1]), jax.device_get((features, signals, stats)), rtol=1e-4, atol=1e-4
  )
  chex.assert_trees_all_close(jax.device_get(found[0]), jax.device_get(grads), rtol=1e-3, atol=1e-3)
  # A device computes its own examples only.
  assert "all-gather(" not in compiled.as_text()
  assert "all-to-all(" not in compiled.as_text()


def test_bfloat16_stays_near_float32(tiny):
  exact = tiny(tasks=2)
  rough = tiny(tasks=2, dtype=jnp.bfloat16)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(rough.variables))
  decisions = skip_trunk.Decisions(routing.own(3, 2), jnp.full((2, 3), 0.6), discrete=False)
  features, _, stats = rough.forward(decisions)
  wanted, _, _ = exact.forward(decisions)
  assert features.dtype == jnp.bfloat16
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(stats))
  error = jnp.abs(features.astype(jnp.float32) - wanted)
  assert error.mean() < 0.02 * jnp.abs(wanted).mean()
  head = heads.build("linear", 3, True, 8, jnp.bfloat16, "head")
  logits, _ = head.init_with_output(jax.random.key(0), features[0], False)
  assert logits.dtype == jnp.float32


def test_the_network_names_its_predictions(tiny):
  net = tiny(tasks=2)
  network = network_lib.Network(
    net.trunk.clone(parent=None),
    (heads.LinearHead(3, True), heads.LinearHead(1, False)),
    ("one", "two"),
  )
  shapes, _ = jax.eval_shape(
    lambda: network.init_with_output(
      jax.random.key(0), net.inputs, skip_trunk.Decisions(routing.all_run(3, 2)), False
    )[0]
  )
  assert {k: v.shape for k, v in shapes.items()} == {"one": (4, 2, 3, 3), "two": (4, 1)}


def test_a_routing_of_another_size_is_refused(tiny):
  net = tiny("mlp", tasks=2)
  with pytest.raises(ValueError, match="4 blocks and 2 tasks.*3 and 2"):
    net.forward(skip_trunk.Decisions(routing.all_run(4, 2)))


def test_a_threshold_closes_gates(tiny):
  net = tiny("mlp", tasks=2, gated=(False, True, True))
  modes = routing.fixed([[1] * 3] * 2, net.trunk.gated, train=False)
  signals = net.forward(skip_trunk.Decisions(modes, gated=True), False)[1]
  middle = float(jnp.median(signals.own.relevance[0, :, 1]))
  found = net.forward(
    skip_trunk.Decisions(modes, gated=True, threshold=jnp.asarray([0.0, middle, 1e9])), False
  )[1].own.gate
  np.testing.assert_array_equal(found[0, :, 1], signals.own.relevance[0, :, 1] > middle)
  assert (found[..., 2] == 0).all()
