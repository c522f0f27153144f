"""The reference network: its sizes, its counts, its costs."""

from __future__ import annotations

import functools
import pathlib
import runpy
from typing import Any

import jax
from jax import numpy as jnp
import ml_collections
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.models import backbones
from dynashare_jax.models import convolutions
from dynashare_jax.models import norm
from dynashare_jax.models.backbones import resnet
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import costs
from dynashare_jax.ops import routing

ROOT = pathlib.Path(__file__).resolve().parents[2]
WIDTHS, STRIDES, DILATIONS = (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4)
R18, R34, R101 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)


def _net(
  blocks: tuple[int, ...],
  dims: int = 2,
  stem: str = "deeplab",
  kind: str = "basic",
  norm_kind: str = "batch",
  variant: str = "adashare",
) -> resnet.ResNet:
  return resnet.ResNet(
    dims,
    blocks,
    WIDTHS,
    STRIDES,
    DILATIONS,
    stem,
    block_kind=kind,
    norm_kind=norm_kind,
    variant=variant,
  )


@functools.cache
def _variables(
  blocks: tuple[int, ...], gated: bool, kind: str = "basic", norm_kind: str = "batch"
) -> Any:
  """Shapes of parameters and running averages; nothing is computed."""
  count = sum(blocks)
  net = _net(blocks, kind=kind, norm_kind=norm_kind)
  trunk = skip_trunk.SkipTrunk(net, 1, (gated,) * count)
  return jax.eval_shape(
    lambda: trunk.init(
      jax.random.key(0),
      jnp.zeros((1, 33, 33, 3)),
      skip_trunk.Decisions(routing.all_run(count, 1)),
      False,
    )
  )


def _size(tree: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  "blocks, trainable, whole, gates",
  [(R18, 11_176_512, 11_186_132, 24_208), (R34, 21_284_672, 21_301_732, 54_560)],
)
def test_parameters_as_in_the_reference(blocks, trainable, whole, gates):
  found = _variables(blocks, gated=False)
  assert _size(found["params"]) == trainable
  norms = len(jax.tree.leaves(found["batch_stats"])) // 2
  # torch counts batches in every norm.
  assert trainable + _size(found["batch_stats"]) + norms == whole
  assert norms == 1 + 2 * sum(blocks) + 3
  gated = _variables(blocks, gated=True)
  assert _size(gated["params"]) - trainable == gates


@pytest.mark.parametrize(
  "blocks, trainable, whole", [(R34, 23_508_032, 23_561_205), (R101, 42_500_160, 42_605_608)]
)
def test_bottleneck_parameters_as_in_the_reference(blocks, trainable, whole):
  found = _variables(blocks, gated=False, kind="bottleneck")
  assert _size(found["params"]) == trainable
  norms = len(jax.tree.leaves(found["batch_stats"])) // 2
  assert trainable + _size(found["batch_stats"]) + norms == whole
  assert norms == 1 + 3 * sum(blocks) + 4  # the first segment is projected too


def test_group_norm_has_as_many_parameters_and_no_statistics():
  found = _variables(R18, gated=False, norm_kind="group")
  assert _size(found["params"]) == 11_176_512
  assert not found.get("batch_stats")


@pytest.mark.parametrize(
  "size, stem, features",
  [
    ((321, 321), (81, 81), (41, 41)),
    ((224, 224), (57, 57), (29, 29)),
    ((480, 640), (121, 161), (61, 81)),
    ((256, 512), (65, 129), (33, 65)),
  ],
)
def test_sizes_of_images(size, stem, features):
  assert _sizes(_net(R18), (1, *size, 3)) == [stem] * 3 + [features] * 6


@pytest.mark.parametrize("length, channels, sizes", [(170, 76, (43, 22)), (482, 1, (121, 61))])
def test_sizes_of_series(length, channels, sizes):
  found = _sizes(_net(R18, 1, "series"), (1, length, channels))
  assert found == [(sizes[0],)] * 3 + [(sizes[1],)] * 6


def test_series_lengths_before_the_subsampling():
  net = _net(R18, 1, "series")
  for length, half in [(170, 85), (482, 241)]:
    shape = jax.eval_shape(
      lambda n=length: net.init_with_output(
        jax.random.key(0), jnp.zeros((1, n, 3)), method=lambda m, x: m.stem_conv(x)
      )[0]
    ).shape
    assert shape == (1, half, 64)


def _sizes(net: resnet.ResNet, shape: tuple[int, ...]) -> list[Any]:
  """Sizes of the maps after the stem and after every block."""
  found = []

  def run(module: resnet.ResNet, x: jax.Array) -> jax.Array:
    pass_ = backbones.Pass(False, jnp.ones((1,)))
    y = module.stem(x, pass_)
    found.append(y.shape[2:-1])
    for block in range(module.num_blocks):
      residual = module.shortcut(block, y, pass_)
      y = module.merge(residual, module.branch(block, y, pass_))
      found.append(y.shape[2:-1])
    return module.final(y)

  jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), jnp.zeros(shape), method=run))
  return found


@pytest.mark.parametrize(
  "blocks, skipped, paper", [(R18, ((2,), (6,)), 18.4815), (R34, ((6, 7, 9, 13), (3, 10)), 33.3458)]
)
def test_multiply_accumulates_of_the_papers_policies(blocks, skipped, paper):
  count = sum(blocks)
  trunk = skip_trunk.SkipTrunk(_net(blocks), 1, (False,) * count)
  total = 0
  for skips in skipped:  # the papers add up the tasks' passes
    route = [[int(block + 1 not in skips) for block in range(count)]]
    modes = routing.fixed(route, (False,) * count, train=False)
    total += costs.macs(
      lambda v, x, modes=modes: trunk.apply(v, x, skip_trunk.Decisions(modes), False),
      _variables(blocks, gated=False),
      jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
    )
  assert round(total / 1e9, 4) == paper


def test_only_blocks_that_change_something_have_a_shortcut():
  names = _variables(R34, gated=False)["params"]["backbone"]
  assert sorted(n for n in names if "shortcut" in n) == ["shortcut_13", "shortcut_3", "shortcut_7"]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 9, 112, 161])
def test_max_pool_rounds_up_as_torch_does(size):
  x = np.random.default_rng(size).normal(size=(2, size, 3)).astype(np.float32)
  found = resnet.max_pool(jnp.asarray(x), 1, up=True)
  wanted, start = [], -1
  while start < size:  # a window begins in the input or the padding before
    wanted.append(x[:, max(start, 0) : start + 3].max(1))
    if start + 3 >= size + 1:  # and one that reaches the end is the last
      break
    start += 2
  np.testing.assert_array_equal(found, np.stack(wanted, 1))
  down = resnet.max_pool(jnp.asarray(x), 1, up=False)
  np.testing.assert_array_equal(down, np.stack(wanted, 1)[:, : (size - 1) // 2 + 1])


def test_max_pool_in_two_dimensions_has_no_empty_window():
  for height, width in [(4, 5), (5, 4), (6, 6)]:
    x = jnp.full((1, height, width, 1), -5.0)
    found = resnet.max_pool(x, 2, up=True)
    assert found.shape == (1, height // 2 + 1, width // 2 + 1, 1)
    assert (found == -5).all()


def test_initial_weights_are_small():
  conv = convolutions.conv(2, convolutions.Shape(64, 3), jnp.float32, None, causal=False)
  kernel = conv.init(jax.random.key(0), jnp.zeros((1, 5, 5, 32)))["params"]
  assert set(kernel) == {"kernel"}
  assert abs(float(kernel["kernel"].std()) - 0.01) < 2e-4


def _config(**values: Any) -> ml_collections.ConfigDict:
  model = runpy.run_path(str(ROOT / "configs" / "base.py"))["get_config"]().model
  model.update(values)
  return model


def _spec(kind: str, shape: tuple[int, ...]) -> types.DatasetSpec:
  return types.DatasetSpec("toy", (), kind, shape, {"train": 1})


def test_the_default_config_is_the_reference():
  found = resnet.build(_config(), _spec("image", (9, 9, 3)), jnp.float32)
  assert found == _net(R18, norm_kind="common").clone(parent=None)
  assert found.num_blocks == 8


def test_a_width_factor_multiplies_all_widths():
  found = resnet.build(_config(width_factor=0.25), _spec("image", (9, 9, 3)), jnp.float32)
  assert found.widths == (16, 32, 64, 128)


def test_a_bottleneck_equals_its_layers_by_hand():
  """The first convolution strides; dilation is the second one's alone."""
  branch = convolutions.Stack(1, resnet.shapes_of("bottleneck", 2, 2, 3), jnp.float32)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 2, 9, 5))
  pass_ = backbones.Pass(False, jnp.ones((1,)))

  def run(layer, x):
    for index in range(3):
      x = layer(index, x, pass_)
    return x

  shapes = jax.eval_shape(lambda: branch.init(jax.random.key(0), x, method=run))
  variables = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape), shapes)
  p, s = variables["params"], variables["batch_stats"]

  def normed(y, index):
    q, t = p[f"norm_{index}"], s[f"norm_{index}"]
    return (y - t["mean"]) / np.sqrt(t["var"] + 1e-5) * q["scale"] + q["bias"]

  y = np.maximum(normed(x[0][:, ::2] @ p["conv_0"]["kernel"][0], 0), 0)
  wide = np.pad(y, ((0, 0), (3, 3), (0, 0)))
  kernel = p["conv_1"]["kernel"]
  y = sum(wide[:, 3 * k : 3 * k + 5] @ kernel[k] for k in range(3))
  y = normed(np.maximum(normed(y, 1), 0) @ p["conv_2"]["kernel"][0], 2)
  found = branch.apply(variables, jnp.asarray(x, jnp.float32), method=run)
  assert found.shape == (1, 2, 5, 8)
  np.testing.assert_allclose(found[0], y, rtol=1e-4)


def _counts(net: resnet.ResNet, size: tuple[int, int]) -> tuple[int, int]:
  """Parameters and multiply-accumulates of a picture."""
  pass_ = backbones.Pass(False, jnp.ones((1,)))
  x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
  run = lambda v, x: net.apply(v, x, pass_, method="features")[-1]
  variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, pass_, method="features"), x)
  return _size(variables["params"]), costs.macs(run, variables, x)


@pytest.mark.parametrize(
  "blocks, kind, size, parameters, work, head, shared, alone",
  [
    (R18, "basic", (288, 384), 11_176_512, 20_304_691_200, 4_722_176, 25_347_409, 47_700_433),
    (R34, "basic", (288, 384), 21_284_672, 38_140_968_960, 4_722_176, 35_455_569, 78_024_913),
    (
      R34,
      "bottleneck",
      (288, 384),
      23_508_032,
      42_047_963_136,
      16_125_440,
      71_888_721,
      118_904_785,
    ),
    (
      R34,
      "bottleneck",
      (480, 640),
      23_508_032,
      116_799_897_600,
      16_125_440,
      71_888_721,
      118_904_785,
    ),
    (R18, "basic", (512, 512), 11_176_512, 48_129_638_400, 4_722_176, 25_347_409, 47_700_433),
  ],
)
def test_torchvisions_variant_as_mpps_and_gatedmtl_have_it(
  blocks, kind, size, parameters, work, head, shared, alone
):
  """Totals are with three DeepLab heads (see test_heads) of 13, 1 and 3 outputs."""
  found = _counts(_net(blocks, kind=kind, variant="torchvision"), size)
  assert found == (parameters, work)
  heads = 3 * head + 257 * (13 + 1 + 3)
  assert (found[0] + heads, 3 * found[0] + heads) == (shared, alone)


def test_the_variants_differ_in_strides_and_dilations_alone():
  numbers = lambda *values: [
    [(shape.kernel, shape.stride, shape.dilation) for shape in shapes]
    for shapes in _net((2, 1, 1, 2), kind="bottleneck", variant=values[0])._blocks()
  ]
  plain, dilated = [(1, 1, 1), (3, 1, 1), (1, 1, 1)], [(1, 1, 1), (3, 1, 4), (1, 1, 1)]
  assert numbers("torchvision") == [
    plain,
    plain,
    [(1, 1, 1), (3, 2, 1), (1, 1, 1)],
    plain,
    [(1, 1, 1), (3, 1, 2), (1, 1, 1)],
    dilated,
  ]
  assert numbers("adashare")[2:] == [
    [(1, 2, 1), (3, 1, 1), (1, 1, 1)],
    [(1, 1, 1), (3, 1, 2), (1, 1, 1)],
    dilated,
    dilated,
  ]
  strides = [
    layer.stride for layer in _net(R34, variant="torchvision", kind="bottleneck").layers(3)
  ]
  assert strides == [4, 8, 8]
  basic = resnet.shapes_of("basic", 2, 1, 4, "torchvision", first=2)
  assert [shape.dilation for shape in basic] == [2, 4]


def test_the_resnet_20_of_cifar():
  """He's numbers at 32 x 32, and a quarter of the width by `width_factor`."""
  values = dict(
    blocks=(3, 3, 3), widths=(16, 32, 64), strides=(1, 2, 2), dilations=(1, 1, 1), stem="cifar"
  )
  make = lambda factor: resnet.build(
    _config(**values, width_factor=factor), _spec("image", (32, 32, 3)), jnp.float32
  )
  assert _counts(make(1.0), (32, 32)) == (271_824, 40_812_544)
  assert make(0.5).widths == (8, 16, 32) and make(0.25).widths == (4, 8, 16)
  assert make(1.0).describe()[-1].stride == 4


def test_series_and_tables_are_one_dimensional():
  for kind in ("series", "table"):
    found = resnet.build(_config(stem="series"), _spec(kind, (9, 3)), jnp.float32)
    assert found.dims == 1


@pytest.mark.parametrize(
  "values, message",
  [
    ({"blocks": (2, 2)}, "same number of segments"),
    ({"blocks": (0, 2, 2, 2)}, "at least one block per segment"),
    ({"blocks": (), "widths": (), "strides": (), "dilations": ()}, "at least one block"),
    ({"stem": "large"}, "config.model.stem is 'large'"),
    ({"stem": "series"}, "cannot read images"),
    ({"block": "wide"}, "config.model.block is 'wide'; it must be one of"),
    ({"norm": "layer"}, "config.model.norm is 'layer'; it must be one of"),
    (
      {"variant": "torch"},
      "config.model.variant is 'torch'; it must be one of adashare, torchvision",
    ),
    ({"width_factor": 0.0}, "config.model.width_factor must be above 0"),
  ],
)
def test_a_config_without_sense_is_refused(values, message):
  with pytest.raises(ValueError, match=message):
    resnet.build(_config(**values), _spec("image", (9, 9, 3)), jnp.float32)


def test_an_unknown_backbone_names_the_nearest():
  with pytest.raises(ValueError, match=r"'resnt'.*Did you mean 'resnet'\?"):
    backbones.find("resnt")
  known = ("channel_lstm", "hrnet", "lenet", "mlp", "resnet", "tcn", "vgg", "vit")
  assert backbones.available() == known
  for name in backbones.available():
    assert callable(backbones.find(name).build)


def test_norms_keep_float32_under_bfloat16():
  found = norm.GroupedBatchNorm(dtype=jnp.bfloat16)
  x = jnp.ones((1, 2, 3), jnp.bfloat16)
  y, variables = found.init_with_output(jax.random.key(0), x, jnp.ones((1,)), False)
  assert y.dtype == jnp.bfloat16
  assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_pictures_are_normalised_before_the_stem():
  """The mean gives what black gives without it; std divides."""

  def features(value, **changes):
    config = _config(**changes)
    network = resnet.build(config, _spec("image", (8, 8, 3)), jnp.float32)
    x = jnp.full((1, 8, 8, 3), value)
    pass_ = backbones.Pass(False, jnp.ones((1,)))
    variables = network.init(jax.random.key(0), x, pass_, method="stem")
    return network.apply(variables, x, pass_, method="stem")

  plain = features(0.25)
  np.testing.assert_allclose(features(0.75, mean=(0.25,) * 3, std=(2.0,) * 3), plain, rtol=1e-6)
  with pytest.raises(ValueError, match="config.model.mean and std must be thr"):
    features(0.5, mean=(0.1,))
