"""A route that is compiled in equals the same route as a mask."""

from __future__ import annotations

from typing import Any

import chex
import hypothesis
from hypothesis import strategies as st
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax import routes as routes_lib
from dynashare_jax.models import backbones
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import costs
from dynashare_jax.ops import routing

RNG = np.random.default_rng(5)
WEIGHTS = jnp.asarray(RNG.normal(size=(3, 4, 3, 6)), jnp.float32)
SOME = hypothesis.settings(max_examples=2, derandomize=True, deadline=None, database=None)
routes = st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=2), min_size=3, max_size=3)


def _same(tiny: Any, route: list[list[int]], gated: tuple[bool, ...]) -> None:
  """Compares the two ways in training and at test."""
  net = tiny("short", 3, gated)
  policy = jnp.asarray(route, jnp.float32)
  uses = any(gated)
  noise = net.noise() if uses else None
  planned = net.value(
    skip_trunk.Decisions(routing.fixed(route, gated, train=True), policy, gated=uses, noise=noise),
    WEIGHTS,
  )
  masked = net.value(
    skip_trunk.Decisions(routing.own(2, 3), policy, gated=uses, noise=noise), WEIGHTS
  )
  for name in ("features", "stats"):
    chex.assert_trees_all_close(planned[name], masked[name], rtol=1e-4, atol=1e-4)
  chex.assert_trees_all_close(planned["grads"], masked["grads"], rtol=1e-3, atol=2e-3)
  one, two = planned["signals"], masked["signals"]
  chex.assert_trees_all_equal(one.executed, two.executed)
  wanted = np.asarray(route, bool) & np.asarray(gated)[None]
  np.testing.assert_array_equal(one.own.gated, wanted)
  np.testing.assert_array_equal(
    np.where(wanted[:, None], one.own.gate, 1), np.where(wanted[:, None], two.own.gate, 1)
  )
  if not uses:  # at test these routings differ from training by gates alone
    return
  at_test = [
    net.forward(skip_trunk.Decisions(modes, policy, gated=uses), train=False)
    for modes in (routing.fixed(route, gated, False), routing.own(2, 3))
  ]
  chex.assert_trees_all_close(at_test[0][0], at_test[1][0], rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_equal(at_test[0][1].executed, at_test[1][1].executed)


@pytest.mark.parametrize("gated", [(False,) * 2, (False, True)])
@pytest.mark.parametrize("every", [0, 1])
def test_planned_equals_masked_at_the_ends(tiny, every, gated):
  _same(tiny, [[every] * 2] * 3, gated)


@SOME
@hypothesis.given(route=routes)
def test_planned_equals_masked(tiny, route):
  _same(tiny, route, (False,) * 2)


@SOME
@hypothesis.given(route=routes)
def test_planned_equals_masked_with_gates(tiny, route):
  _same(tiny, route, (False, True))


# What is not executed is not there.


def _stem(batch):
  return batch * 4 * 6 * 9 * 3 * 4


def _branch(batch, block):
  first = (4, 4, 6)[block]
  positions = (4 * 6, 2 * 3, 2 * 3)[block]
  width = (4, 6, 6)[block]
  return batch * positions * 9 * (first * width + width * width)


def _projection(batch):
  return batch * 2 * 3 * 4 * 6


def _gate(batch, block):
  return batch * ((4, 4, 6)[block] * 5 + 5 * 2)


def _macs(net, decisions):
  return costs.macs(lambda v, x: net.trunk.apply(v, x, decisions, False), net.variables, net.inputs)


@pytest.mark.parametrize("gated", [(False,) * 3, (True, False, True)])
@pytest.mark.parametrize("seed", range(6))
def test_a_fixed_route_costs_its_blocks(tiny, seed, gated):
  net = tiny("image", 3, gated)
  route = np.random.default_rng(seed).integers(0, 2, (3, 3))
  wanted = _stem(4)
  alike = {t: {} for t in range(3)}  # task -> what made its features
  for block in range(3):
    before = {t: tuple(alike[t].items()) for t in range(3)}
    for t in range(3):
      alike[t][block] = route[t, block]
    running = {before[t] for t in range(3) if route[t, block]}
    each = _branch(4, block) + gated[block] * _gate(4, block)
    wanted += len(running) * each
    if block == 1:  # the shortcut is one for who executes and who skips
      wanted += len(set(before.values())) * _projection(4)
  modes = routing.fixed(route.tolist(), gated, train=False)
  assert _macs(net, skip_trunk.Decisions(modes, gated=any(gated))) == wanted


def test_nothing_skipped_is_traced(tiny):
  net = tiny("image", 3, (False, True, True))
  route = [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
  decisions = skip_trunk.Decisions(routing.fixed(route, net.trunk.gated, False), gated=True)
  assert _macs(net, decisions) == (
    _stem(4)
    + _branch(4, 0)
    + _branch(4, 1)
    + _projection(4)
    + _branch(4, 2)
    + _gate(4, 1)
    + _gate(4, 2)
  )
  masked = skip_trunk.Decisions(routing.own(3, 3), jnp.ones((3, 3)))
  assert _macs(net, masked) == (
    _stem(4) + _branch(4, 0) + 3 * (_projection(4) + _branch(4, 1) + _branch(4, 2))
  )
  hard = skip_trunk.Decisions(routing.all_run(3, 3))
  assert _macs(net, hard) == (_stem(4) + _projection(4) + sum(_branch(4, b) for b in range(3)))


def test_closed_first_blocks_are_computed_once(tiny):
  net = tiny("series", 3)
  policy = jnp.asarray(RNG.uniform(size=(3, 3)), jnp.float32)
  policy = policy.at[:, :2].set(1.0)
  apart = net.forward(skip_trunk.Decisions(routing.own(3, 3), policy, discrete=False))
  together = net.forward(skip_trunk.Decisions(routing.own(3, 3, shared=2), policy, discrete=False))
  chex.assert_trees_all_close(apart, together, rtol=1e-4, atol=1e-5)


def test_only_gated_blocks_have_gate_parameters(tiny):
  params = tiny("mlp", 2, (False, True, False)).variables["params"]
  assert [name for name in params if "gate" in name] == ["gate_1"]
  count = sum(leaf.size for leaf in jax.tree.leaves(params["gate_1"]))
  assert count == 6 * 5 + 5 + 2 * 5 + 5 * 2 + 2


def test_a_runner_of_the_same_blocks_gives_the_trunks_features(tiny: Any) -> None:
  """`dynashare_jax.routes`, for loops of one's own."""
  net, route = tiny("mlp"), [[1, 0, 1], [1, 1, 0], [1, 0, 1]]
  decisions = skip_trunk.Decisions(routing.fixed(route, (False,) * 3, train=False))
  wanted = net.forward(decisions, train=False)[0]
  backbone, pass_ = net.trunk.backbone, backbones.Pass(False, jnp.ones((1,)))
  variables = {name: tree["backbone"] for name, tree in net.variables.items() if tree}
  of = lambda method, *args: backbone.apply(variables, *args, method=method)

  def block(number: int) -> Any:
    parts = lambda x: [of(name, number, x, pass_) for name in ("shortcut", "branch")]
    return lambda own, x: of("merge", *parts(x))

  run = routes_lib.runner([block(number) for number in range(3)], route)
  whole = lambda x: [of("final", y)[0] for y in run([None] * 3, of("stem", x, pass_))]
  found = jax.jit(whole)(net.inputs)
  np.testing.assert_allclose(np.stack(found), wanted, rtol=1e-5, atol=1e-6)
