"""Heads: shapes, counts and precision of predictions."""

from __future__ import annotations

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax import defaults
from dynashare_jax import types
from dynashare_jax.models import heads
from dynashare_jax.ops import costs

RNG = np.random.default_rng(0)

# Compiling takes most of the time of these tests.
QUICK = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _start(head, x):
  return QUICK(lambda key: head.init_with_output(key, x, False))(jax.random.key(0))


@pytest.mark.parametrize("classes", [1, 3, 40])
def test_aspp_parameters_as_in_the_reference(classes):
  head = heads.build("aspp", classes, True, 1024, jnp.float32, None)
  shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), jnp.zeros((1, 5, 5, 512)), False))
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count == 23_076_864 + 4100 * classes


@pytest.mark.parametrize(
  "shape, rates",
  [
    ((2, 9, 3), (1, 3)),
    ((2, 7, 9, 3), (1, 3)),
    # Taps of 8 and 24 fall into the padding along one axis or both.
    ((2, 7, 9, 3), (8, 24)),
    ((2, 6, 3), (5, 6)),
  ],
)
def test_aspp_is_the_sum_of_dilated_branches(shape, rates):
  head = heads.AsppHead(2, width=4, rates=rates)
  x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
  found, variables = _start(head, x)
  params = variables["params"]
  assert found.shape == shape[:-1] + (2,)
  wanted = np.zeros(found.shape)
  names = ("NHWC", "HWIO", "NHWC") if len(shape) == 4 else ("NHC", "HIO", "NHC")
  for index, rate in enumerate(rates):
    dims = len(shape) - 2
    p = params[f"dilated_{index}"]
    h = jax.lax.conv_general_dilated(
      x,
      p["kernel"],
      (1,) * dims,
      [(rate, rate)] * dims,
      rhs_dilation=(rate,) * dims,
      dimension_numbers=names,
    )
    h = np.maximum(np.asarray(h) + np.asarray(p["bias"]), 0)
    p = params[f"hidden_{index}"]
    h = np.maximum(h @ np.asarray(p["kernel"]) + np.asarray(p["bias"]), 0)
    p = params[f"output_{index}"]
    wanted = wanted + h @ np.asarray(p["kernel"]) + np.asarray(p["bias"])
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_taps_that_never_touch_the_map_are_not_computed():
  """On a map of 5 x 9, dilation 6 keeps 1 x 3 taps, dilation 9 the middle."""
  x = jax.ShapeDtypeStruct((1, 5, 9, 4), jnp.float32)
  for rate, taps in ((4, 9), (6, 3), (9, 1)):
    layer = heads.DilatedConv(8, rate)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert params["params"]["kernel"].shape == (3, 3, 4, 8)
    assert costs.macs(layer.apply, params, x) == 45 * taps * 4 * 8


def test_aspp_drops_out_in_training_only():
  head = heads.AsppHead(2, width=16, rates=(1,))
  x = jnp.ones((1, 5, 5, 3))
  _, variables = _start(head, x)

  @functools.partial(QUICK, static_argnums=0)
  def run(train, seed):
    return head.apply(variables, x, train, rngs={"dropout": jax.random.key(seed)})

  np.testing.assert_array_equal(run(False, 0), run(False, 1))
  assert jnp.abs(run(True, 0) - run(True, 1)).max() > 1e-4


def _deeplab(channels, size, classes):
  """Parameters and multiply-accumulates of DeepLab heads at their real width."""
  x = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
  parameters = work = 0
  for outputs in classes:
    head = heads.build("deeplab", outputs, True, 256, jnp.float32, None)
    shapes = jax.eval_shape(
      lambda head=head: head.init(jax.random.key(0), jnp.zeros(x.shape), False)
    )
    parameters += sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    work += costs.macs(lambda v, x, head=head: head.apply(v, x, False), shapes, x)
  return parameters, work


@pytest.mark.parametrize(
  "channels, size, classes, alone, work",
  [
    (2048, (60, 80), (40, 1, 3), 16_125_440, 224_660_619_264),
    (512, (64, 64), (21, 7, 1, 3, 1), 4_722_176, 93_987_667_968),
    (2048, (36, 48), (13, 1, 3), 16_125_440, 80_866_885_632),
    (512, (36, 48), (13, 1, 3), 4_722_176, 23_789_617_152),
  ],
)
def test_deeplab_counts_as_the_papers_have_them(channels, size, classes, alone, work):
  """Of MPPS and GatedMTL; taps that never touch the map are not computed, which papers count."""
  parameters, found = _deeplab(channels, size, classes)
  assert parameters == sum(alone + 257 * outputs for outputs in classes)
  never = 6 if size[0] <= 36 else 0  # of rate 36: two rows of three
  assert found + len(classes) * never * channels * 256 * size[0] * size[1] == work


def test_deeplab_equals_its_layers_by_hand():
  """In training: every norm is by the batch, running averages move a tenth of the way."""
  head = heads.DeeplabHead(2, width=4, rates=(1, 2), dropout=0.0)
  x = jnp.asarray(RNG.normal(size=(3, 5, 6, 3)), jnp.float32)
  shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), x, False))
  drawn = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape), jnp.float32), shapes)
  run = QUICK(lambda v, x: head.apply(v, x, True, mutable=["batch_stats"]))
  found, moved = run(drawn, x)
  p, s = jax.tree.map(np.asarray, (drawn["params"], drawn["batch_stats"]))

  def normed(name, h):
    mean, var = h.mean((0, 1, 2)), h.var((0, 1, 2))
    count = h.size // 4
    kept = 0.9 * s[f"{name}_norm"]["var"] + 0.1 * var * count / (count - 1)
    np.testing.assert_allclose(moved["batch_stats"][f"{name}_norm"]["var"], kept, 1e-3, 1e-4)
    h = (h - mean) / np.sqrt(var + 1e-5) * p[f"{name}_norm"]["scale"] + p[f"{name}_norm"]["bias"]
    return np.maximum(h, 0)

  def wide(name, h, rate):
    padded = np.pad(h, ((0, 0), (rate, rate), (rate, rate), (0, 0)))
    part = lambda i, j: padded[:, rate * i : rate * i + 5, rate * j : rate * j + 6]
    taps = [part(i, j) @ p[name]["kernel"][i, j] for i in range(3) for j in range(3)]
    return normed(name, sum(taps))

  a = np.asarray(x, np.float64)
  mean = normed("mean", a.mean((1, 2), keepdims=True) @ p["mean"]["kernel"])
  branches = [
    normed("point", a @ p["point"]["kernel"]),
    wide("dilated_0", a, 1),
    wide("dilated_1", a, 2),
    np.broadcast_to(mean, (3, 5, 6, 4)),
  ]
  h = normed("project", np.concatenate(branches, -1) @ p["project"]["kernel"])
  wanted = wide("refine", h, 1) @ p["output"]["kernel"] + p["output"]["bias"]
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
  "shape, dense, wanted",
  [
    ((2, 4), False, (2, 3)),
    ((2, 5, 4), False, (2, 3)),
    ((2, 5, 6, 4), False, (2, 3)),
    ((2, 5, 6, 4), True, (2, 5, 6, 3)),
  ],
)
def test_linear_shapes(shape, dense, wanted):
  x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
  found, variables = _start(heads.LinearHead(3, dense), x)
  assert found.shape == wanted
  p = variables["params"]["linear"]
  mean = x if dense else x.reshape(2, -1, 4).mean(1)
  np.testing.assert_allclose(
    found, mean @ p["kernel"] + p["bias"][(None,) * (found.ndim - 1)], rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize("kind", ["linear", "point", "aspp", "deeplab"])
def test_the_last_layer_is_float32(kind):
  head = heads.build(kind, 2, True, 8, jnp.bfloat16, None)
  x = jnp.asarray(RNG.normal(size=(1, 5, 5, 3)), jnp.bfloat16)
  found, variables = _start(head, x)
  assert found.dtype == jnp.float32
  assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))
  exact_head = heads.build(kind, 2, True, 8, jnp.float32, None)
  exact = QUICK(lambda v, x: exact_head.apply(v, x, False))(variables, x.astype(jnp.float32))
  np.testing.assert_allclose(found, exact, rtol=0.05, atol=0.03)
  if kind == "linear":  # nothing is rounded
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_every_position_predicts_a_square_of_pixels():
  """A map of 2 x 3 positions of a picture of 5 x 8: squares of 3 x 3, cut at the far sides."""
  head = heads.PixelHead(2, (5, 8), 4)
  x = jnp.asarray(RNG.normal(size=(1, 2, 3, 3)), jnp.float32)
  found, variables = _start(head, x)
  assert found.shape == (1, 5, 8, 2)
  hidden, last = (variables["params"][k] for k in ("hidden", "linear"))
  at = lambda r, c: np.maximum(x[0, r, c] @ hidden["kernel"] + hidden["bias"], 0) @ last["kernel"]
  for row, column in ((0, 0), (2, 2), (3, 7), (4, 5)):
    square = (at(row // 3, column // 3) + last["bias"]).reshape(3, 3, 2)
    np.testing.assert_allclose(found[0, row, column], square[row % 3, column % 3], atol=1e-5)


def test_vectors_get_a_head_of_vectors():
  for kind in heads.HEADS:
    head = heads.build(kind, 2, False, 8, jnp.float32, None)
    assert isinstance(head, {"mlp": heads.MlpHead}.get(kind, heads.LinearHead))


def test_an_unknown_head_is_refused():
  with pytest.raises(
    ValueError, match="head is 'asp'.*linear, mlp, point, aspp, deeplab, dpt, pixels"
  ):
    heads.build("asp", 2, True, 8, jnp.float32, None)


@pytest.mark.parametrize(
  "kind, values, message",
  [
    ("series", {}, "'deeplab' reads maps of pictures, not the series inputs of toy"),
    ("image", {"decoder_width": 0}, "config.model.decoder_width must be at least 1, but is 0"),
    ("image", {"head": "dpt"}, "depths of config.model.backbone='vit'; here the backbone is 'resn"),
  ],
)
def test_a_head_that_does_not_fit_is_refused(kind, values, message):
  task = types.TaskSpec("t", "segmentation", 2)
  spec = types.DatasetSpec("toy", (task,), kind, (9, 9, 3), {"train": 1})
  model = defaults.get_config().model
  model.update({"head": "deeplab", **values})
  with pytest.raises(ValueError, match=message):
    heads.of_task(model, spec, task, 2, True, jnp.float32)
