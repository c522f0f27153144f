"""Backbones as lists of layers: what they describe, what a tap sees, what they always were."""

from __future__ import annotations

import functools
from typing import Any
import zlib

from flax import linen as nn
from flax import traverse_util
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.models import backbones
from dynashare_jax.models import series
from dynashare_jax.models.backbones import channel_lstm
from dynashare_jax.models.backbones import hrnet
from dynashare_jax.models.backbones import mlp
from dynashare_jax.models.backbones import resnet
from dynashare_jax.models.backbones import tcn
from dynashare_jax.models.backbones import vgg
from dynashare_jax.models.backbones import vit
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import routing

QUICK = {"xla_backend_optimization_level": 0}
RNG = np.random.default_rng(0)
TABLE = types.TableSpec(("a", "b"), (3, 4), ("c", "d"), ((0.0, 1.0, 2.0), (0.0, 3.0, 4.0)))
SEGMENTS: Any = dict(blocks=(1, 2), widths=(4, 6), strides=(1, 2), dilations=(2, 1))
PICTURES = jnp.asarray(RNG.uniform(size=(2, 21, 25, 3)), jnp.float32)
SERIES = jnp.asarray(RNG.normal(size=(2, 21, 5)), jnp.float32)
PADDED = {"series": SERIES, "length": jnp.asarray([21, 8])}
ROWS = {
  "numeric": jnp.asarray(RNG.uniform(0, 3, (2, 2)), jnp.float32),
  "categorical": jnp.asarray([[1, 0], [2, 3]]),
}
CASES: Any = {
  "pictures": (resnet.ResNet(2, **SEGMENTS), PICTURES),
  "bottleneck": (
    resnet.ResNet(2, **SEGMENTS, stem_kind="small", block_kind="bottleneck", norm_kind="group"),
    PICTURES,
  ),
  "series": (resnet.ResNet(1, **SEGMENTS, stem_kind="series"), SERIES),
  "hourly": (resnet.ResNet(1, **SEGMENTS, stem_kind="hourly", causal=True), PADDED),
  "columns": (resnet.ResNet(1, **SEGMENTS, stem_kind="small", table_spec=TABLE), ROWS),
  "mlp": (mlp.ResidualMlp(2, width=6, hidden=8), SERIES),
  "table": (mlp.ResidualMlp(2, width=6, hidden=8, table_spec=TABLE), ROWS),
  "tcn": (tcn.Tcn(3, width=6), PADDED),
  "channels": (
    channel_lstm.ChannelLstm(2, ((0, 3), (1,), (2, 4)), channel_width=3, width=6),
    PADDED,
  ),
  "lstm": (channel_lstm.ChannelLstm(2, width=6), PADDED),
  "vgg": (vgg.Vgg((1, 2), (4, 6)), PICTURES),
  "hrnet": (hrnet.HrNet((1, 1, 1), (4, 6, 8), 1, stem_width=4), PICTURES),
  "vit": (vit.Vit(4, width=6, hidden=8, heads=2, patch=4, grid=3), PICTURES[:, :20, :24]),
}
# Of commit e77596f, or of the first with the backbone: how many leaves there were, a checksum of
# their paths and shapes, and the sum of the features for the heads: of fresh networks in training,
# two groups of tasks.
RECORDED = {
  "pictures": (45, 1038978974, 242.579),
  "bottleneck": (36, 329007071, 2997.89),
  "series": (45, 4251552731, 51.4389),
  "hourly": (45, 1918674510, 216.387),
  "columns": (47, 272658011, 18.058),
  "mlp": (16, 1165359889, 10.6882),
  "table": (17, 1524017104, 10.3964),
  "tcn": (32, 2150725211, 619.119),
  "channels": (11, 2245078685, -2.03394),
  "lstm": (8, 1697134674, 2.62257),
  "vgg": (24, 1422488592, 1144.87),
  "hrnet": (140, 814284867, 3574.37),
  "vit": (30, 64189666, -0.765794),
}


def _blocks(backbone: Any, inputs: Any, train: bool = False, tap: Any = None) -> list[Any]:
  """Features after the stem, after every block and for the heads."""
  pass_ = backbones.Pass(train, jnp.ones((1,)), series.steps_of(inputs))
  found = [backbone.stem(inputs, pass_)]
  x = jax.tree.map(lambda a: jnp.concatenate([a, a / 2]), found[0])
  pass_ = pass_._replace(updates=jnp.full((2,), 0.5))
  if tap is not None:
    pass_ = pass_._replace(tap=tap)
  for block in range(backbone.num_blocks):
    below = backbone.shortcut(block, x, pass_)
    x = backbone.merge(below, backbone.branch(block, x, pass_))
    found.append(x)
  return [*found, backbone.final(x)]


@functools.cache
def _variables(case: str) -> Any:
  backbone, inputs = CASES[case]
  init = lambda key: backbone.init(key, inputs, method=_blocks)
  return jax.jit(init, compiler_options=QUICK)(jax.random.key(0))


def _leaves(case: str) -> dict[str, tuple[int, ...]]:
  flat = traverse_util.flatten_dict(_variables(case), sep="/")
  return {path: leaf.shape for path, leaf in flat.items()}


def _run(case: str, train: bool = False, tap: Any = None) -> list[Any]:
  backbone, inputs = CASES[case]

  def run(variables: Any) -> Any:
    found, _ = backbone.apply(
      variables,
      inputs,
      train,
      tap,
      method=_blocks,
      mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(1)},
    )
    return found

  return jax.jit(run, compiler_options=QUICK)(_variables(case))


def _record(case: str) -> tuple[int, int, float]:
  leaves = _leaves(case)
  lines = "".join(f"{path} {shape}\n" for path, shape in sorted(leaves.items()))
  # The sum of what a plain layer norm gives is 0: before it.
  features = _run(case, train=True)[-2 if case == "vit" else -1]
  total = sum(float(leaf.sum()) for leaf in jax.tree.leaves(features))
  return len(leaves), zlib.crc32(lines.encode()), total


@pytest.mark.parametrize("case", CASES)
def test_parameters_and_features_are_what_they_always_were(case):
  """Else files of weights and checkpoints fit no longer, and numbers change."""
  *leaves, value = RECORDED[case]
  found = _record(case)
  assert list(found[:2]) == leaves, _leaves(case)
  assert found[2] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_a_tap_sees_every_layer_as_described(case):
  backbone, inputs = CASES[case]
  first = lambda x: jax.tree.leaves(x)[0].shape
  seen: dict[str, tuple[int, ...]] = {}

  def tap(name: str, x: jax.Array) -> jax.Array:
    assert name not in seen
    seen[name] = first(x)
    return x

  found = jax.eval_shape(
    lambda v: backbone.apply(v, inputs, False, tap, method=_blocks), _variables(case)
  )
  stem, *blocks = backbone.describe()
  layers = [layer for b in range(backbone.num_blocks) for layer in backbone.layers(b)]
  assert [layer.name for layer in layers] == list(seen)
  assert [block.name for block in blocks] == [f"block_{b}" for b in range(backbone.num_blocks)]
  shapes = [*seen.values(), *map(first, found[:-1])]
  sizes = _sizes(inputs)
  for layer, shape in zip([*layers, stem, *blocks], shapes, strict=True):
    assert any(path.startswith(f"params/{layer.name}/") for path in _leaves(case))
    assert shape[-1] == layer.channels
    for length, size in zip(sizes, shape[2:-1], strict=False):
      assert abs(size * layer.stride - length) < layer.stride


def _sizes(inputs: Any) -> tuple[int, ...]:
  """Lengths of the axes that strides divide."""
  if isinstance(inputs, dict):
    inputs = inputs.get("series", jnp.zeros((2, len(TABLE.categorical + TABLE.numeric), 8)))
  return inputs.shape[1:-1]


@pytest.mark.parametrize("case", ["pictures", "mlp", "tcn"])
def test_a_tap_takes_a_layers_place(case):
  backbone, _ = CASES[case]
  layer = backbone.layers(1)[-1]

  def times(factor: float) -> list[Any]:
    def tap(name: str, x: jax.Array) -> jax.Array:
      return x * factor if name == layer.name else x

    return _run(case, tap=tap)

  plain, ones, zeros = _run(case), times(1.0), times(0.0)
  for wanted, found in zip(plain, ones, strict=True):
    np.testing.assert_array_equal(found, wanted)
  np.testing.assert_array_equal(zeros[1], plain[1])
  assert np.abs(plain[2] - zeros[2]).max() > 0
  if case == "mlp":
    np.testing.assert_array_equal(zeros[2], zeros[1])  # as if the block were skipped
  else:
    assert np.min(zeros[2]) >= 0


class TwoResolutions(backbones.Backbone):
  """A foreign backbone: its features are a tree, its two layers exchange resolutions."""

  num_blocks: int = 2

  def setup(self) -> None:
    self.mixes = [nn.Dense(3, name=f"block_{b}") for b in range(self.num_blocks)]

  def stem(self, inputs: Any, pass_: backbones.Pass) -> Any:
    return {"coarse": inputs[None, :, ::2, ::2], "fine": inputs[None]}

  def stem_layer(self) -> backbones.Layer:
    return backbones.Layer("stem", 3, 2)

  def layers(self, block: int) -> tuple[backbones.Layer, ...]:
    return tuple(backbones.Layer(f"block_{block}/{name}", 3, 2) for name in ("exchange", "mix"))

  def layer(self, block: int, index: int, x: Any, pass_: backbones.Pass) -> Any:
    if index:
      return jax.tree.map(self.mixes[block], x)
    down = x["fine"][:, :, ::2, ::2]
    up = jnp.repeat(jnp.repeat(x["coarse"], 2, 2), 2, 3)[:, :, : x["fine"].shape[2]]
    up = up[:, :, :, : x["fine"].shape[3]]
    tanh = functools.partial(jax.tree.map, nn.tanh)
    return backbones.each_group(tanh, {"coarse": x["coarse"] + down, "fine": x["fine"] + up})

  def final(self, x: Any) -> jax.Array:
    return jnp.concatenate([x["coarse"], x["fine"][:, :, ::2, ::2]], -1)


def test_features_may_be_a_tree():
  backbone, seen = TwoResolutions(), []

  def tap(name: str, x: Any) -> Any:
    seen.append((name, {k: a.shape for k, a in x.items()}))
    return x

  found, _ = backbone.init_with_output(jax.random.key(0), PICTURES, False, tap, method=_blocks)
  shapes = {"coarse": (2, 2, 11, 13, 3), "fine": (2, 2, 21, 25, 3)}
  assert seen == [(layer.name, shapes) for b in range(2) for layer in backbone.layers(b)]
  assert found[-1].shape == (2, 2, 11, 13, 6)
  assert {k: a.shape for k, a in found[1].items()} == shapes


def test_layers_of_trees_treat_groups_apart_in_either_way(monkeypatch):
  x = {"a": jnp.arange(24.0).reshape(3, 2, 4), "b": jnp.ones((3, 2, 5, 1))}
  layer = lambda tree: (tree["a"] * 2, tree["a"].sum(-1) + tree["b"].sum((1, 2)))
  for backend in ("cpu", "gpu"):
    monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
    doubled, sums = backbones.each_group(layer, x)
    np.testing.assert_array_equal(doubled, x["a"] * 2)
    np.testing.assert_array_equal(sums, x["a"].sum(-1) + 5)


def test_a_network_without_shortcuts_gives_the_layers_alone():
  class Plain(TwoResolutions):
    skips = False

  found = Plain().merge({"a": jnp.ones(2)}, {"a": jnp.zeros(2)})
  np.testing.assert_array_equal(found["a"], 0)


def test_trees_of_features_go_through_the_trunk_that_skips():
  """Planned and masked agree on a route; a soft decision mixes every resolution."""
  trunk = skip_trunk.SkipTrunk(TwoResolutions(), 2, (False, False))
  route = [[1, 0], [1, 1]]
  inputs, ones = PICTURES, jnp.ones((2, 2))
  planned = skip_trunk.Decisions(routing.fixed(route, (False, False), False))
  masked = skip_trunk.Decisions(routing.own(2, 2), jnp.asarray(route, jnp.float32))
  (found, _), variables = trunk.init_with_output(jax.random.key(0), inputs, planned, False)
  wanted, signals = trunk.apply(variables, inputs, masked, False)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, 1e-5, 1e-6)
  np.testing.assert_array_equal(signals.executed[:, 0], route)

  def features(value: float) -> jax.Array:
    soft = skip_trunk.Decisions(routing.own(2, 2), value * ones, discrete=False)
    return trunk.apply(variables, inputs, soft, False)[0][0]

  half, none, whole = (features(value) for value in (0.5, 0.0, 1.0))
  assert np.abs(whole - none).max() > 0.1 and np.abs(half - none).max() > 0.01


def test_a_backbone_without_shortcuts_is_not_skipped():
  class Plain(TwoResolutions):
    skips = False

  decisions = skip_trunk.Decisions(routing.own(2, 1))
  with pytest.raises(ValueError, match="Plain has no shortcuts: its blocks cannot be skipped"):
    skip_trunk.SkipTrunk(Plain(), 1, (False, False)).init(
      jax.random.key(0), PICTURES, decisions, False
    )
