"""Masks of every task over shared features: limits, causality, cutting."""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp
from models.conftest import QUICK
import numpy as np
import pytest

from dynashare_jax.models import series
from dynashare_jax.models.backbones import base
from dynashare_jax.models.backbones import mlp
from dynashare_jax.models.backbones import resnet
from dynashare_jax.models.trunks import attention

PICTURES = resnet.ResNet(2, (2, 1), (4, 8), (1, 2), (1, 1), "small")
SERIES = resnet.ResNet(1, (1, 1), (4, 8), (1, 2), (1, 1), "hourly", causal=True)
VECTORS = mlp.ResidualMlp(3, width=8, hidden=6, dropout=0.0)


def _trunk(backbone: Any, stages: bool, tasks: int = 2) -> attention.AttentionTrunk:
  layer = attention.Style("batch" if backbone.rectified else "", backbone.causal, jnp.float32)
  return attention.AttentionTrunk(backbone, tasks, stages, layer)


def _made(trunk: Any, inputs: Any) -> Any:
  make = jax.jit(lambda key: trunk.init(key, inputs, (), False), compiler_options=QUICK)
  variables = make(jax.random.key(0))
  leaves, tree = jax.tree.flatten(variables["params"])
  moved = [x + 0.1 * jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(leaves)]
  return {**variables, "params": jax.tree.unflatten(tree, moved)}


def _features(trunk: Any, variables: Any, inputs: Any, train: bool = False) -> Any:
  run = jax.jit(
    lambda v, x: trunk.apply(v, x, (), train, mutable=["batch_stats"])[0], compiler_options=QUICK
  )
  return run(variables, inputs)


def _saturated(variables: Any, bias: float) -> Any:
  """All masks 1 (bias 40) or 0 (bias -40), and extractors of one layer that change nothing."""
  params = dict(variables["params"])
  stats = dict(variables.get("batch_stats", {}))
  for name, found in params.items():
    if name.startswith("mask"):
      last = {"scale": jnp.zeros_like(found["norm_1"]["scale"])}
      last["bias"] = jnp.full_like(found["norm_1"]["bias"], bias)
      params[name] = found | {"norm_1": last}
    if name.startswith("extract"):
      kernel = jnp.zeros_like(found["conv_0"]["kernel"])
      kernel = kernel.at[1, 1].set(jnp.eye(kernel.shape[-1]))
      width = kernel.shape[-1]
      params[name] = {
        "conv_0": {"kernel": kernel, "bias": jnp.zeros(width)},
        "norm_0": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
      }
      stats[name] = {"norm_0": {"mean": jnp.zeros(width), "var": jnp.full(width, 1 - 1e-5)}}
  return {"params": params, "batch_stats": stats}


@pytest.fixture(scope="module")
def pictures() -> jax.Array:
  return jax.random.uniform(jax.random.key(2), (3, 8, 8, 3))


@pytest.mark.parametrize("stages", [True, False])
def test_masks_of_ones_equal_hard_sharing(stages, pictures):
  trunk = _trunk(PICTURES, stages)
  variables = _saturated(_made(trunk, pictures), 40.0)
  features, signals = _features(trunk, variables, pictures)
  own = {name: tree["backbone"] for name, tree in variables.items()}
  pass_ = base.Pass(False, jnp.ones((1,)))
  wanted = PICTURES.apply(own, pictures, pass_, method="features")[-1][0]
  for found in features:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(signals.own, np.zeros((2, 2 if stages else 3)))


def test_masks_of_ones_leave_the_shared_gradients_as_they_are(pictures):
  trunk = _trunk(PICTURES, True, tasks=1)
  variables = _saturated(_made(trunk, pictures), 40.0)
  rest = {"batch_stats": variables["batch_stats"]}
  pass_ = base.Pass(False, jnp.ones((1,)))

  def masked(backbone: Any) -> Any:
    params = variables["params"] | {"backbone": backbone}
    return jnp.square(trunk.apply({"params": params, **rest}, pictures, (), False)[0][0]).sum()

  def hard(backbone: Any) -> Any:
    own = {"params": backbone, "batch_stats": rest["batch_stats"]["backbone"]}
    return jnp.square(PICTURES.apply(own, pictures, pass_, method="features")[-1]).sum()

  slope = lambda f: jax.jit(jax.grad(f), compiler_options=QUICK)(variables["params"]["backbone"])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), slope(masked), slope(hard)
  )


def test_masks_of_zero_leave_nothing(pictures):
  trunk = _trunk(PICTURES, True)
  features, _ = _features(trunk, _saturated(_made(trunk, pictures), -40.0), pictures)
  assert all(float(jnp.abs(f).max()) < 1e-15 for f in features)


def test_how_far_masks_part(pictures):
  """One task's are 1 and the other's 0: each is a half from their mean."""
  trunk = _trunk(PICTURES, True)
  variables = _made(trunk, pictures)
  ones, zeros = (_saturated(variables, bias)["params"] for bias in (40.0, -40.0))
  mixed = {name: (zeros if name.startswith("mask_1") else ones)[name] for name in ones}
  _, signals = _features(trunk, {**variables, "params": mixed}, pictures)
  np.testing.assert_allclose(signals.own, np.full((2, 2), 0.5), rtol=1e-6)


@pytest.mark.parametrize("backbone, stages", [(PICTURES, True), (PICTURES, False), (VECTORS, True)])
def test_a_task_alone_finds_the_same(backbone, stages, pictures):
  inputs = pictures if backbone is PICTURES else pictures[:, 0, 0]
  trunk = _trunk(backbone, stages)
  variables = _made(trunk, inputs)
  features, _ = _features(trunk, variables, inputs)
  assert float(jnp.abs(features[0] - features[1]).max()) > 1e-4
  cut, names = trunk.only((1,))
  rules = trunk.leaves()

  def renamed(tree: Any) -> Any:
    kept = {}
    for name, found in tree.items():
      prefix = attention.contract.longest(rules, name)
      if prefix in names:
        kept[names[prefix] + name[len(prefix) :]] = found
    return kept

  alone, _ = _features(cut, {k: renamed(v) for k, v in variables.items()}, inputs)
  np.testing.assert_allclose(alone[0], features[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stages", [True, False])
def test_a_later_step_changes_no_earlier_one(stages):
  """Every second step comes out; that of steps 2i reads no later one."""
  trunk = _trunk(SERIES, stages)
  x = jax.random.normal(jax.random.key(0), (2, 9, 3))
  inputs = {"series": x, "length": jnp.asarray([9, 9])}
  assert series.steps_of(inputs) is not None
  variables = _made(trunk, inputs)
  before, _ = _features(trunk, variables, inputs)
  after, _ = _features(trunk, variables, inputs | {"series": x.at[:, 5:].add(1.0)})
  for a, b in zip(before, after, strict=True):
    np.testing.assert_array_equal(a[:, :3], b[:, :3])  # steps 0, 2 and 4
    assert float(jnp.abs(a[:, 3:] - b[:, 3:]).max()) > 0


@pytest.mark.parametrize(
  "values, causal, wanted",
  [
    (range(6), False, [1, 3, 5]),
    (range(5), False, [1, 3, 4]),
    (range(6), True, [0, 2, 4]),
    (range(5), True, [0, 2, 4]),
  ],
)
def test_pooling_keeps_the_sizes_of_a_stride(values, causal, wanted):
  x = jnp.asarray(list(values), jnp.float32)[None, None, :, None]
  np.testing.assert_array_equal(attention.pooled(x, 2, causal)[0, 0, :, 0], wanted)


def test_odd_maps_are_pooled_along_both_axes():
  x = jnp.arange(9.0).reshape(1, 1, 3, 3, 1)
  np.testing.assert_array_equal(
    attention.pooled(x, 2, False)[0, 0, :, :, 0], [[4.0, 5.0], [7.0, 8.0]]
  )


def test_extractors_of_segments_see_tasks_as_groups(pictures):
  """Their batch statistics move once, towards the mean over tasks."""
  one, two = (_trunk(PICTURES, True, tasks) for tasks in (1, 2))
  variables = _made(two, pictures)
  same = {k: dict(v) for k, v in variables.items()}
  for tree in same.values():
    tree |= {name.replace("mask_0", "mask_1"): v for name, v in tree.items() if "mask_0" in name}
  drop = lambda tree: {k: v for k, v in tree.items() if not k.startswith("mask_1")}

  def moved(trunk: Any, told: Any) -> Any:
    run = lambda v, x: trunk.apply(v, x, (), True, mutable=["batch_stats"])[1]["batch_stats"]
    return jax.jit(run, compiler_options=QUICK)(told, pictures)["between_0"]

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    moved(two, same),
    moved(one, {k: drop(v) for k, v in same.items()}),
  )
