"""LeNet: its layers by hand, its parameters, and who can share it."""

from __future__ import annotations

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax import defaults
from dynashare_jax import methods
from dynashare_jax import types
from dynashare_jax.models import backbones
from dynashare_jax.models import heads
from dynashare_jax.models.backbones import lenet
from dynashare_jax.sharing import contract

RNG = np.random.default_rng(0)
SPEC = types.DatasetSpec(
  "toy",
  tuple(types.TaskSpec(name, "multiclass", 10) for name in ("left", "right")),
  "image",
  (28, 28, 1),
  {"train": 64},
)


def _parts(method: str, side: int = 28, **model: object) -> contract.Parts:
  config = defaults.get_config()
  config.method = method
  config.model.update(backbone="lenet", **model)
  config.gates.target_rates = (1.0, 0.5)
  spec = dataclasses.replace(SPEC, input_shape=(side, side, 1))
  backbone = lambda **_: lenet.build(config.model, spec, jnp.float32)
  return contract.Parts(config, spec, backbone, 2, jnp.float32, lambda: (1.0, 1.0))


def _conv(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
  windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
  y = np.einsum("bhwcij,ijco->bhwo", windows, kernel) + bias
  y = y[:, : y.shape[1] // 2 * 2, : y.shape[2] // 2 * 2]
  split = y.reshape(len(y), y.shape[1] // 2, 2, y.shape[2] // 2, 2, -1)
  return np.maximum(split.max((2, 4)), 0)


def test_its_layers_by_hand():
  backbone = lenet.LeNet((2, 3, 4), dropout=0.5)
  inputs = RNG.normal(size=(2, 19, 17, 1)).astype(np.float32)
  pass_ = backbones.Pass(False, jnp.ones((1,)))
  init = lambda key: backbone.init(key, inputs, pass_, method="features")
  params = jax.jit(init)(jax.random.key(0))["params"]
  run = lambda p: backbone.apply({"params": p}, inputs, pass_, method="features")
  stem, conv, dense = (np.asarray(x[0]) for x in jax.jit(run)(params))
  layer = lambda name: [np.asarray(params[name][k], np.float64) for k in ("kernel", "bias")]
  params |= {"conv": params["block_0"]["conv"], "dense": params["block_1"]["dense"]}
  np.testing.assert_allclose(stem, _conv(inputs, *layer("stem_conv")), atol=1e-5)
  np.testing.assert_allclose(conv, _conv(stem, *layer("conv")), atol=1e-5)
  kernel, bias = layer("dense")
  wanted = np.maximum(conv.reshape(2, -1) @ kernel + bias, 0)
  np.testing.assert_allclose(dense, wanted, atol=1e-5)
  assert [x.shape for x in (stem, conv, dense)] == [(2, 7, 6, 2), (2, 1, 1, 3), (2, 4)]
  layers = [backbone.stem_layer(), *(backbone.layers(b)[0] for b in range(2))]
  assert [layer.channels for layer in layers] == [2, 3, 4]


# 10 x 25 + 10, 10 x 20 x 25 + 20, and 20 x 4 x 4 x 50 + 50; of 36 pixels 20 x 6 x 6 x 50 + 50.
@pytest.mark.parametrize("side, count", [(28, 260 + 5_020 + 16_050), (36, 260 + 5_020 + 36_050)])
def test_parameters(side, count):
  method = methods.find("hard").build(_parts("hard", side))
  trunk, control = method.trunk, method.sharing.everything()
  inputs = jnp.zeros((1, side, side, 1))
  head = heads.build("mlp", 10, False, 50, jnp.float32, None)
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  init = lambda key: trunk.init(key, inputs, control, False)["params"]
  assert size(jax.eval_shape(init, jax.random.key(0))) == count
  # Two layers of 50 x 50 + 50 and 50 x 10 + 10.
  init = lambda key: head.init(key, jnp.zeros((1, 50)), False)
  of_head = jax.eval_shape(init, jax.random.key(0))
  assert size(of_head) == 2_550 + 510


SKIP = {"adashare", "affinity", "dynashare", "random_policy"}


@pytest.mark.parametrize("name", methods.available())
def test_methods_share_it_or_say_that_its_blocks_cannot_be_skipped(name):
  parts = _parts(name)
  if name in SKIP:
    with pytest.raises(ValueError, match=f"'lenet' has no shortcuts.*config.method='{name}' does"):
      methods.find(name).build(parts)
    return
  told = {
    "den": "'lenet' has no shortcuts",
    "gated": "'lenet' cannot be cut to",
    "mtan": "block_1 of LeNet has no map",
  }
  if name in told:
    with pytest.raises(ValueError, match=told[name]):
      methods.find(name).build(parts)
    return
  method = methods.find(name).build(parts)
  control, inputs = method.sharing.everything(), jnp.zeros((2, 28, 28, 1))
  run = lambda key: method.trunk.init_with_output(key, inputs, control, False)[0][0]
  assert [x.shape for x in jax.eval_shape(run, jax.random.key(0))] == [(2, 50)] * 2


@pytest.mark.parametrize(
  "spec, model, message",
  [
    ({"input_kind": "series", "input_shape": (9,)}, {}, "reads pictures, not the series inputs"),
    ({"crop": (20, 20)}, {}, "toy trains on parts of 20 x 20 of 28 x 28 pixels; use 'resnet'"),
    ({"input_shape": (28, 15, 1)}, {}, "at least 16 x 16 pixels, but those of toy have 28 x 15"),
    ({"tasks": (types.TaskSpec("d", "depth"),)}, {}, "the task 'd' has labels of pixels"),
    ({}, {"width_factor": 0.0}, "config.model.width_factor must be above 0"),
  ],
)
def test_what_it_cannot_read_is_refused(spec, model, message):
  with pytest.raises(ValueError, match=message):
    lenet.build(
      _parts("hard", **model).config.model, dataclasses.replace(SPEC, **spec), jnp.float32
    )
