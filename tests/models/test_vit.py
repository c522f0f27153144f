"""The vision transformer: its counts, and that its blocks are shared and skipped as any others."""

from __future__ import annotations

import functools

import jax
from jax import numpy as jnp
from models.conftest import QUICK
import numpy as np
import pytest
from train.stepper import Stepper

from dynashare_jax import defaults
from dynashare_jax import types
from dynashare_jax.models import backbones
from dynashare_jax.models import heads
from dynashare_jax.models.backbones import vit
from dynashare_jax.models.trunks import columns
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import compaction
from dynashare_jax.ops import costs
from dynashare_jax.ops import routing

TINY = {
  "data__images": True,
  "model__backbone": "vit",
  "model__blocks": (2,),
  "model__attention_heads": 2,
  "model__patch": 4,
  "model__positions": 3,
}
NET = vit.Vit(2, width=8, hidden=12, heads=2, patch=4, grid=3)


def _build(size=(224, 224, 3), kind="image", crop=None, **values):
  model = defaults.get_config().model
  model.update({"backbone": "vit", "blocks": (6, 6, 6, 6), "width": 384, "hidden": 1536} | values)
  spec = types.DatasetSpec("toy", (), kind, size, {"train": 1}, crop=crop)
  return vit.build(model, spec, jnp.float32)


@pytest.mark.parametrize("width, heads, total", [(384, 6, 21_665_664), (768, 12, 85_798_656)])
def test_counts_of_vit_s_and_vit_b(width, heads, total):
  """12 layers at 224 x 224, by hand: 197 tokens."""
  net, c = _build(width=width, hidden=4 * width, attention_heads=heads), width
  layer = 4 * c + (3 * c * c + 3 * c) + (c * c + c) + (4 * c * c + 4 * c) + (4 * c * c + c)
  assert total == (3 * 16 * 16 * c + c) + c + 197 * c + 12 * layer + 2 * c
  pass_ = backbones.Pass(False, jnp.ones((1,)))
  run = lambda m, x: m.final(m.features(x, pass_)[-1])
  x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, method=run), x)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == total
  work = 196 * 768 * c + 12 * (197 * 12 * c * c + 2 * 197 * 197 * c)
  assert costs.macs(lambda v, x: net.apply(v, x, method=run), variables, x) == work
  assert net.segments() == (6, 6, 6, 6)
  names = [layer.name for block in (0, 1) for layer in net.layers(block)]
  assert names == ["block_0/qkv", "block_0/project", "block_1/widen", "block_1/narrow"]
  assert [layer.channels for layer in net.layers(0)] == [3 * c, c]


@pytest.mark.parametrize(
  "values, message",
  [
    ({"kind": "table"}, "'vit' reads pictures, not the table inputs of toy"),
    (
      {"size": (224, 230, 3)},
      "toy has pictures of 224 x 230, which patches of 16 x 16 pixels do n",
    ),
    ({"crop": (40, 48)}, "toy has pictures of 40 x 48, which patches"),
    ({"attention_heads": 5}, "width=384 must be a multiple of config.model.attention_heads=5"),
    ({"blocks": (0,)}, r"config.model.blocks must add up to at least 1, but is \(0,\)"),
    ({"head": "dpt", "blocks": (2,)}, "head='dpt' reads four depths, but config.model.blocks=.*2"),
    ({"patch": 0}, "config.model.patch must be at least 1, but is 0"),
  ],
)
def test_a_config_without_sense_is_refused(values, message):
  with pytest.raises(ValueError, match=message):
    _build(**values)


@pytest.mark.parametrize("method", ["cross_stitch", "mtan"])
def test_methods_that_mix_single_arrays_are_refused(build, method):
  with pytest.raises(ValueError, match=f"config.method='{method}' mixes features that are one arr"):
    build(method=method, **TINY)


def test_blocks_are_shared_and_skipped():
  """All open, hard sharing is the network of one task; a route planned, masked or compacted."""
  trunk, alone = skip_trunk.SkipTrunk(NET, 2, (False,) * 2), columns.ColumnTrunk((NET.clone(),))
  x = jax.random.uniform(jax.random.key(1), (3, 8, 12, 3))
  every, route = routing.all_run(2, 2), [[1, 0], [0, 1]]
  arrays = jnp.asarray(route, jnp.float32)

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(key, x):
    of = lambda *told, **more: trunk.apply(v, x, skip_trunk.Decisions(*told, **more), False)[0]
    v = trunk.init(key, x, skip_trunk.Decisions(every), False)
    column = {"params": {"columns_0": v["params"]["backbone"]}}
    masked = lambda how=None: of(routing.own(2, 2), arrays, compaction=how)
    return (
      of(every),
      alone.apply(column, x, (), False)[0],
      of(routing.fixed(route, (False,) * 2, False)),
      [masked(), masked(compaction.Compaction(buckets=2)), masked(compaction.Compaction("rows"))],
    )

  hard, single, planned, others = run(jax.random.key(0), x)
  assert hard[0].shape == (3, 2, 3, 8)
  for features in hard:
    np.testing.assert_array_equal(features, single[0])
  for found in others:
    for a, b in zip(found, planned, strict=True):
      np.testing.assert_allclose(a, b, 1e-5, 1e-6)
  assert np.abs(planned[0] - hard[0]).max() > 1e-2 < np.abs(planned[1] - planned[0]).max()


def _conv(kernel, inputs, outputs, bias=True):
  return kernel * kernel * inputs * outputs + bias * outputs


@pytest.mark.parametrize("c, width", [(768, 256), (384, 64)])
def test_the_dpt_head_counts_as_by_hand(c, width):
  """DPT's decoder of ViT-B; and of ViT-S with 64 channels, as GatedMTL has it."""
  net = _build(width=c, hidden=4 * c, head="dpt")
  head = heads.build("dpt", 3, True, width, jnp.float32, None)
  pass_ = backbones.Pass(False, jnp.ones((1,)))
  depths = lambda m, x: jax.tree.map(lambda a: a[0], m.final(m.features(x, pass_)[-1]))
  x = jax.ShapeDtypeStruct((1, 48, 80, 3), jnp.float32)
  read, _ = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x, method=depths), x)
  assert [depth["map"].shape for depth in read] == [(1, 3, 5, c)] * 4
  found, variables = jax.eval_shape(
    lambda r: head.init_with_output(jax.random.key(0), r, False), read
  )
  assert found.shape == (1, 24, 40, 3)
  parts = [c // 8, c // 4, c // 2, c]
  unit = 2 * _conv(3, width, width)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == (
    4 * _conv(1, 2 * c, c)
    + sum(_conv(1, c, part) + _conv(3, part, width, False) for part in parts)
    + _conv(4, parts[0], parts[0])
    + _conv(2, parts[1], parts[1])
    + _conv(3, c, c)
    + 7 * unit
    + 4 * _conv(1, width, width)
    + _conv(3, width, width, False)
    + 2 * width
    + _conv(1, width, 3)
  )


def test_depths_are_what_the_blocks_give():
  """Features after every quarter; where a task skips the block there, what it has without it."""
  net = NET.clone(num_blocks=4, depths=True)
  trunk = skip_trunk.SkipTrunk(net, 2, (False,) * 4)
  x = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3))
  route = routing.fixed([[1, 1, 1, 1], [1, 0, 1, 1]], (False,) * 4, False)

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(key, x):
    decisions = skip_trunk.Decisions(route)
    (found, _), v = trunk.init_with_output(key, x, decisions, False)
    variables, pass_ = {"params": v["params"]["backbone"]}, backbones.Pass(False, jnp.ones((1,)))
    return found, net.clone(depths=False).apply(variables, x, pass_, method="features")

  (whole, cut), every = run(jax.random.key(0), x)
  for found, wanted in zip(whole, every[1:], strict=True):
    for name in ("map", "token"):
      np.testing.assert_allclose(found[name], wanted[name][0], 1e-5, 1e-6)
  np.testing.assert_array_equal(cut[0]["map"], whole[0]["map"])
  np.testing.assert_array_equal(cut[1]["map"], cut[0]["map"])
  assert np.abs(cut[2]["map"] - whole[2]["map"]).max() > 1e-4


def test_adashare_trains_it(build):
  """Two steps of the search move every block."""
  stepper = Stepper(build(method="adashare", **TINY), "weights")
  before = stepper.start()
  network = jax.device_get(before.params["network"]["trunk"]["backbone"])
  after, parts = stepper(stepper(before)[0], first=1)
  for name, leaves in after.params["network"]["trunk"]["backbone"].items():
    for a, b in zip(jax.tree.leaves(leaves), jax.tree.leaves(network[name]), strict=True):
      assert np.abs(a - b).max() > 0, name
  assert np.isfinite(parts["loss/total"]).all()


def test_narrow_attention_keeps_whole_heads(build):
  """With the first half of q, k and v alone, as den may choose, the other head gives nothing."""
  build(method="den", **TINY)  # traces its network
  layer = vit.Attention((24, 8), 2, jnp.float32)
  x = np.random.default_rng(0).normal(size=(1, 1, 3, 24)).astype(np.float32)
  x[..., 12:] = 0

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(key, x):
    pass_ = backbones.Pass(False, jnp.ones((1,)))
    variables = layer.init(key, 1, x, pass_)
    rows = jnp.arange(8)[:, None] < 4
    cut = jax.tree.map(lambda a: jnp.where(rows, a, 0) if a.ndim > 1 else a, variables)
    return layer.apply(variables, 1, x, pass_), layer.apply(cut, 1, x, pass_)

  whole, first = run(jax.random.key(0), x)
  np.testing.assert_allclose(whole, first, 1e-6)
  assert np.abs(whole).max() > 1e-3
