"""The trunk against a slow twin that runs one task after the other."""

from __future__ import annotations

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.models import backbones
from dynashare_jax.models import convolutions
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import routing

RNG = np.random.default_rng(0)
QUICK = {"xla_backend_optimization_level": 0}


# The twin: loops over tasks, one network pass a task.


def _conv(x, kernel, stride=1, dilation=1, pad=0):
  """Convolution of `[B, H, W, C]`, tap after tap, in float64."""
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  taps = kernel.shape[0]
  height, width = ((n - dilation * (taps - 1) - 1) // stride + 1 for n in x.shape[1:3])
  out = np.zeros((x.shape[0], height, width, kernel.shape[-1]))
  for i in range(taps):
    for j in range(taps):
      rows = x[:, i * dilation :][:, ::stride][:, :height]
      part = rows[:, :, j * dilation :][:, :, ::stride][:, :, :width]
      out += part @ kernel[i, j]
  return out


def _norm(x, params, seen):
  """Batch norm by this pass's statistics, which it appends to `seen`."""
  rows = x.reshape(-1, x.shape[-1])
  mean, var = rows.mean(0), rows.var(0)
  seen.append((mean, rows.var(0, ddof=1)))
  return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def _twin(tiny, decisions, gates=None):
  """Features `[T, ...]` and the statistics that every layer saw, by task.

  Args:
    decisions: `[T, L]` in [0, 1].
    gates: `[T, B, L]`, or None.
  """
  params = jax.tree.map(np.float64, tiny.variables["params"]["backbone"])
  seen = {}

  def note(name):
    return seen.setdefault(name, [])

  plan = [(1, 1), (2, 2), (1, 2)]  # stride and dilation of every block
  features = []
  for t in range(tiny.tasks):
    x = _conv(np.float64(tiny.inputs), params["stem_conv"]["kernel"], 2, 1, 1)
    x = np.maximum(_norm(x, params["stem_norm"], note("stem_norm")), 0)
    for block, (stride, dilation) in enumerate(plan):
      p = params[f"block_{block}"]
      residual = x
      if block == 1:  # changes shape
        q = params["shortcut_1"]
        residual = _norm(_conv(x, q["conv"]["kernel"], stride), q["norm"], note("shortcut_1"))
      z = _conv(x, p["conv_0"]["kernel"], stride, dilation, dilation)
      z = np.maximum(_norm(z, p["norm_0"], note(f"{block}_0")), 0)
      z = _conv(z, p["conv_1"]["kernel"], 1, dilation, dilation)
      z = _norm(z, p["norm_1"], note(f"{block}_1"))
      d = np.full((len(x), 1, 1, 1), decisions[t, block])
      if gates is not None:
        d = d * gates[t, :, block].reshape(-1, 1, 1, 1)
      x = d * np.maximum(residual + z, 0) + (1 - d) * residual
    features.append(x)
  return np.stack(features), seen


def _moved(seen, executes):
  """Running mean and variance after one step from 0 and 1."""
  share = executes / max(executes.sum(), 1e-9)
  keep = 0.9 ** (executes.sum() / len(executes))
  mean = sum(w * m for w, (m, _) in zip(share, seen, strict=True))
  var = sum(w * v for w, (_, v) in zip(share, seen, strict=True))
  return (1 - keep) * mean, keep + (1 - keep) * var


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_soft_pass_equals_sequential_passes(tiny, tasks):
  net = tiny(tasks=tasks)
  decisions = RNG.uniform(size=(tasks, 3)).astype(np.float32)
  found, signals, stats = net.forward(
    skip_trunk.Decisions(routing.own(3, tasks), jnp.asarray(decisions), discrete=False)
  )
  wanted, seen = _twin(net, decisions)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(signals.executed, decisions[:, None].repeat(4, 1), rtol=1e-6)
  assert not signals.own.gated.any()
  stats = stats["backbone"]
  every = np.ones(tasks)
  for name, where in [
    ("stem_norm", stats["stem_norm"]),
    ("shortcut_1", stats["shortcut_1"]["norm"]),
    ("0_0", stats["block_0"]["norm_0"]),
    ("2_1", stats["block_2"]["norm_1"]),
  ]:
    mean, var = _moved(seen[name], every)
    np.testing.assert_allclose(where["mean"], mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(where["var"], var, rtol=1e-3, atol=1e-5)


def test_skipped_is_the_residual_and_executed_has_a_relu(tiny):
  net = tiny(tasks=2)
  route = np.array([[1, 0, 0], [0, 1, 1]], np.float32)
  modes = routing.fixed(route.astype(int).tolist(), (False,) * 3, True)
  found, signals, _ = net.forward(skip_trunk.Decisions(modes))
  wanted, _ = _twin(net, route)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
  assert found[0].min() < 0 <= found[1].min()
  np.testing.assert_array_equal(signals.executed, route[:, None].repeat(4, 1))


def test_only_executing_tasks_move_running_averages(tiny):
  net = tiny(tasks=3)
  route = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1]], np.float32)
  _, _, stats = net.forward(skip_trunk.Decisions(routing.own(3, 3), jnp.asarray(route)))
  _, seen = _twin(net, route)
  for block in range(3):
    mean, var = _moved(seen[f"{block}_1"], route[:, block])
    where = stats["backbone"][f"block_{block}"]["norm_1"]
    np.testing.assert_allclose(where["mean"], mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(where["var"], var, rtol=1e-3, atol=1e-5)
  untouched = stats["backbone"]["block_1"]["norm_0"]
  assert (untouched["mean"] == 0).all() and (untouched["var"] == 1).all()


def test_gated_pass_equals_sequential_passes(tiny):
  net = tiny(tasks=2, gated=(False, True, True))
  policy = jnp.asarray([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
  found, signals, _ = net.forward(
    skip_trunk.Decisions(routing.own(3, 2), policy, gated=True, noise=net.noise()[:, :2])
  )
  gates = np.asarray(signals.own.gate)
  assert set(np.unique(gates)) == {0.0, 1.0}
  np.testing.assert_array_equal(gates[..., 0], 1)
  np.testing.assert_array_equal(signals.own.gated, [[False, True, True], [False, True, True]])
  np.testing.assert_array_equal(signals.executed, gates * np.asarray(policy)[:, None])
  wanted, _ = _twin(net, np.asarray(policy), gates)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_gates_get_the_gradient_of_the_relaxed_decision(tiny):
  net = tiny("mlp", tasks=2, gated=(False, False, True))
  weights = jnp.asarray(RNG.normal(size=(2, 4, 6)), jnp.float32)
  noise = net.noise()
  decisions = skip_trunk.Decisions(
    routing.own(3, 2), jnp.ones((2, 3)), gated=True, noise=noise, temperature=0.7
  )
  found = net.value(decisions, weights)
  slope = jax.nn.sigmoid((found["signals"].own.relevance[..., 2] + noise[:, :, 2].T) / 0.7)
  slope = slope * (1 - slope) / 0.7

  def along(gate):
    """What every example's loss gains when gates open from `gate` on."""
    last = jnp.asarray([[0.0, 0.0, 1.0]] * 2)

    def by_policy(policy):
      features, _, _ = net.forward(skip_trunk.Decisions(routing.own(3, 2), policy, discrete=False))
      return jnp.sum(features * weights, -1)

    start = jnp.ones((2, 3)).at[:, 2].set(gate)
    return jax.jvp(by_policy, (start,), (last,))[1]

  gate = found["signals"].own.gate[..., 2]
  wanted = jnp.sum(jnp.where(gate > 0, along(1.0), along(0.0)) * slope)
  bias = found["grads"]["gate_2"]["score"]["bias"]
  np.testing.assert_allclose(bias[1], wanted, rtol=1e-4)
  np.testing.assert_allclose(bias[0], -wanted, rtol=1e-4)
  assert all(
    jnp.abs(g).max() > 0
    for g in jax.tree.leaves(found["grads"]["gate_2"])
    if g.shape != (5,)  # a shift before the batch norm changes nothing
  )


def test_layers_treat_groups_apart_in_either_way(monkeypatch):
  layer = convolutions.conv(2, convolutions.Shape(3, 3, 2), jnp.float32, None, causal=False)
  x = jnp.asarray(RNG.normal(size=(3, 2, 5, 6, 4)), jnp.float32)
  kernel = jnp.asarray(RNG.normal(size=(3, 3, 4, 3)), jnp.float32)
  bound = layer.bind({"params": {"kernel": kernel}})

  @functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
  def run(way):
    del way  # a new trace
    return backbones.each_group(bound, x)

  in_turn = run(0)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  np.testing.assert_allclose(in_turn, run(1), rtol=1e-5, atol=1e-5)
  for g in range(3):
    wanted = _conv(np.float64(x[g]), np.float64(kernel), 2, 1, 1)
    np.testing.assert_allclose(in_turn[g], wanted, rtol=1e-4, atol=1e-5)
