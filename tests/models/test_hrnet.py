"""The high-resolution network: its counts, what its blocks compute, and who shares them."""

from __future__ import annotations

import functools
import math

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
from dynashare_jax.models.backbones import hrnet
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import compaction
from dynashare_jax.ops import costs
from dynashare_jax.ops import routing

W18 = {"blocks": (4, 1, 4, 3), "widths": (18, 36, 72, 144)}
TINY = {
  "data__images": True,
  "model__backbone": "hrnet",
  "model__blocks": (1, 1),
  "model__widths": (32, 48),
  "model__rows": 1,
  "model__width_factor": 0.125,
}
NET = hrnet.HrNet((1, 1, 1), (4, 6, 8), 1, 4)
PASS = backbones.Pass(False, jnp.ones((1,)))


def _build(size=(480, 640, 3), kind="image", **values):
  model = defaults.get_config().model
  model.update({"backbone": "hrnet", **W18, **values})
  return hrnet.build(model, types.DatasetSpec("toy", (), kind, size, {"train": 1}), jnp.float32)


def _count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))


def _blocks(net, x):
  return net.features(x, PASS)[-1]


def test_hrnet_w18_counts_as_gatedmtl_has_it():
  """At 480 x 640 with heads of 40, 1 and 3 outputs: 24.5 G, 9.8 M and 28.9 M in its table."""
  net, key = _build(), jax.random.key(0)
  x = jax.ShapeDtypeStruct((1, 480, 640, 3), jnp.float32)
  work, (maps, variables) = costs.traced(lambda x: net.init_with_output(key, x, method=_blocks), x)
  assert (_count(variables), work) == (9_562_260, 20_093_774_400)
  sizes = [(120, 160, 18), (60, 80, 36), (30, 40, 72), (15, 20, 144)]
  assert [a.shape[2:] for a in maps] == sizes
  read = jax.eval_shape(net.final, maps)
  assert read.shape == (1, 1, 120, 160, 270)
  parameters = work = 0
  for outputs in (40, 1, 3):
    head = heads.build("point", outputs, True, 270, jnp.float32, None)
    shapes = jax.eval_shape(lambda a, head=head: head.init(key, a[0], False), read)
    parameters += _count(shapes)
    work += costs.macs(lambda v, a, head=head: head.apply(v, a[0], False), shapes, read)
  assert work == 19_200 * (3 * 270 * 270 + 44 * 270) == 4_427_136_000
  assert 9_562_260 + parameters == 9_795_314
  assert 3 * 9_562_260 + parameters == 28_919_834
  # 5 blocks a module, and an opening a stage after the second.
  assert (net.num_blocks, net.segments()) == (42, (5, 21, 16))


@pytest.mark.parametrize(
  "values, message",
  [
    ({"kind": "table"}, "'hrnet' reads pictures, not the table inputs of toy"),
    ({"widths": (18, 36)}, "blocks and widths must name the same number of segments"),
    ({"blocks": (4,), "widths": (18,)}, r"config.model.blocks=\(4,\) names no stage of modules"),
    ({"rows": 0}, "config.model.rows must be at least 1, but is 0"),
    ({"norm": "layer"}, "config.model.norm is 'layer'"),
  ],
)
def test_a_config_without_sense_is_refused(values, message):
  with pytest.raises(ValueError, match=message):
    _build(**values)


@pytest.mark.parametrize(
  "method, message",
  [
    *((name, "mixes features that are one array") for name in ("cross_stitch", "sluice", "nddr")),
    ("mtan", "mixes features that are one array"),
    (
      "mpps",
      "block_0/map_0/conv_0, but this layer of HrNet shows none: .* Choose another config.m",
    ),
    ("gated", "gates channels, which config.model.backbone='hrnet' cannot be cut to"),
  ],
)
def test_methods_that_need_one_array_are_refused(build, method, message):
  with pytest.raises(ValueError, match=message):
    build(method=method, **TINY)


@functools.cache
def _numbers():
  """Variables of `NET` that are nowhere 0 or 1."""
  x, rng = jnp.zeros((1, 18, 26, 3)), np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: NET.init(jax.random.key(0), x, method=_blocks))

  def draw(leaf):
    if len(leaf.shape) == 1:
      return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    return rng.normal(0, math.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32)

  return jax.tree.map(draw, shapes)


def _maps(sizes):
  rng = np.random.default_rng(1)
  return tuple(rng.uniform(size=(1, 2, *size)).astype(np.float32) for size in sizes)


def _layer(block, name, index, x, stride=1):
  """A convolution of `NET` with its norm, in NumPy, of `[B, H, W, C]`."""
  at = lambda part, of: _numbers()[of][f"block_{block}"][name][f"{part}{index}"]
  kernel = at("conv", "params")["kernel"]
  norm, stats = at("norm", "params"), at("norm", "batch_stats")
  side = len(kernel) // 2
  padded = np.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (1, 2))
  x = np.einsum("bhwcij,ijco->bhwo", windows[:, ::stride, ::stride], kernel)
  return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]


def test_an_exchange_is_what_its_layers_give_in_numpy():
  """Of three maps with odd sizes; every one gets the other two."""
  last = NET.num_blocks - 1
  x = _maps([(5, 7, 4), (3, 4, 6), (2, 2, 8)])

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(v, x):
    return NET.apply(v, last, x, PASS, method="branch")

  found = run(_numbers(), x)
  a, b, c = (leaf[0] for leaf in x)
  relu = functools.partial(np.maximum, 0)
  twice = lambda x, times, size: x.repeat(times, 1).repeat(times, 2)[:, : size[0], : size[1]]
  wanted = (
    twice(_layer(last, "up_1_0", "", b), 2, (5, 7))
    + twice(_layer(last, "up_2_0", "", c), 4, (5, 7)),
    _layer(last, "down_0_1", "", a, 2) + twice(_layer(last, "up_2_1", "", c), 2, (3, 4)),
    _layer(last, "down_0_2", "_1", relu(_layer(last, "down_0_2", "_0", a, 2)), 2)
    + _layer(last, "down_1_2", "", b, 2),
  )
  for ours, theirs in zip(found, wanted, strict=True):
    np.testing.assert_allclose(ours[0], theirs, rtol=1e-4, atol=1e-5)
  # A block adds to what it reads; heads read all maps at the size of the finest.
  merged = NET.merge(x, found)
  np.testing.assert_allclose(merged[1][0], relu(b + wanted[1]), rtol=1e-4, atol=1e-5)
  read = NET.final(
    (np.ones((1, 1, 4, 6, 4)), *(np.full((1, 1, 2, 3, k), float(k)) for k in (6, 8)))
  )
  np.testing.assert_allclose(
    read, np.repeat([1.0, 6.0, 8.0], [4, 6, 8]) + np.zeros((1, 1, 4, 6, 1))
  )


def test_blocks_are_shared_and_skipped():
  """A route planned, masked or compacted; where the opening is skipped the new map is zeros."""
  trunk = skip_trunk.SkipTrunk(NET, 2, (False,) * 5)
  assert [place.kind for place in hrnet.places(NET.blocks, 1)] == [
    *("row", "exchange"),
    *("opening", "row", "exchange"),
  ]
  x = jax.random.uniform(jax.random.key(1), (2, 18, 26, 3))
  route = [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
  arrays = jnp.asarray(route, jnp.float32)

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(v, x):
    of = lambda *told, **more: trunk.apply(v, x, skip_trunk.Decisions(*told, **more), False)[0]
    planned = of(routing.fixed(route, (False,) * 5, False))
    return planned, of(routing.own(5, 2), arrays, compaction=compaction.Compaction(buckets=1))

  variables = {name: {"backbone": tree} for name, tree in _numbers().items()}
  planned, masked = run(variables, x)
  for ours, theirs in zip(masked, planned, strict=True):
    assert ours.shape == (2, 5, 7, 18)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
  assert np.abs(planned[1][..., 10:]).max() == 0 < np.abs(planned[1][..., :10]).min(0).max()
  assert np.abs(planned[0][..., 10:]).max() > 0.1


def test_a_step_of_hard_sharing_moves_every_layer(build):
  stepper = Stepper(build(method="hard", **TINY), "retrain")
  before = stepper.start()
  network = jax.device_get(before.params["network"]["trunk"]["backbone"])
  after, parts = stepper(before)
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), after.params["network"]["trunk"]["backbone"], network
  )
  still = [path for path, by in jax.tree_util.tree_leaves_with_path(moved) if not 0 < by < math.inf]
  assert not still and np.isfinite(parts["loss/total"]).all()
