"""The vision transformer equals the same network in PyTorch, weights read from its file."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
from models.conftest import QUICK
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")

from models import torch_vit  # noqa: E402

from dynashare_jax import defaults  # noqa: E402
from dynashare_jax.models import weights  # noqa: E402
from dynashare_jax.models.backbones import base  # noqa: E402
from dynashare_jax.models.backbones import vit  # noqa: E402

GRID = 3
NET = vit.Vit(4, width=12, hidden=20, heads=3, patch=4, grid=GRID, mean=(0.5,) * 3, std=(0.5,) * 3)


def _model(**values: Any) -> Any:
  model = defaults.get_config().model
  model.update(
    dict(backbone="vit", blocks=(2, 2), width=12, hidden=20, attention_heads=3, patch=4)
    | dict(positions=GRID, mean=NET.mean, std=NET.std)
    | values
  )
  return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """The network in PyTorch with numbers drawn at random, and its file."""
  torch.manual_seed(0)
  twin = torch_vit.Vit(2, 12, 20, 3, 4, GRID).eval()
  with torch.no_grad():
    for p in twin.parameters():
      p.copy_(torch.randn(p.shape) * (0.5 if p.ndim == 1 else p[0].numel() ** -0.5))
  path = tmp_path_factory.mktemp("vit") / "vit.pth"
  torch.save(twin.state_dict(), path)
  return twin, path


def _trees(net: vit.Vit) -> Any:
  x, pass_ = jnp.zeros((1, 12, 12, 3)), base.Pass(False, jnp.ones((1,)))
  run = lambda m, x: m.final(m.features(x, pass_)[-1])
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, method=run))
  return {"trunk": {"backbone": shapes["params"]}}, run


def test_features_are_those_of_the_twin(saved):
  """At the size of the positions, and of oblong pictures, for which they are resized."""
  twin, path = saved
  params, run = _trees(NET)
  loaded = weights.load(path, "auto", params, {}, _model())
  assert loaded.notes == (
    "weights: 30 tensors of vit.pth fill backbone; names of timm_vit",
    "weights: ignored 2 tensors: the classifier of ImageNet",
  )
  variables = {"params": loaded.params["trunk"]["backbone"]}
  rng = np.random.default_rng(0)
  pictures = [rng.uniform(size=(2, *size, 3)).astype(np.float32) for size in ((12, 12), (8, 20))]
  both = lambda v, xs: [NET.apply(v, x, method=run) for x in xs]
  found = jax.jit(both, compiler_options=QUICK)(variables, pictures)
  for ours, x in zip(found, pictures, strict=True):
    with torch.no_grad():
      theirs = twin(torch.tensor(2 * x - 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert ours.shape[0] == 1 and ours.shape[1:] == theirs.shape
    scale = np.abs(theirs).max()
    assert scale > 0.1
    np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=1e-5 * scale)


def test_a_last_norm_that_is_not_read_is_left_out(saved):
  params, _ = _trees(dataclasses.replace(NET, depths=True))
  loaded = weights.load(saved[1], "timm_vit", params, {}, _model())
  assert "ignored 2 tensors: the last norm, which heads of several depths" in loaded.notes[2]


@pytest.mark.parametrize(
  "net, values, message",
  [
    (
      {"grid": 2},
      {"positions": 2},
      r"'pos_embed' has the shape \[1, 10, 12\], but trunk/backbone/tokens/position \[1, 5, 12\]"
      r".* The file has 2 layers, each two blocks .* config.model.positions=3;",
    ),
    ({"num_blocks": 6}, {"blocks": (6,)}, r"'blocks.2.norm1.bias' \[12\] is missing"),
    ({"num_blocks": 2}, {"blocks": (2,)}, r"'blocks.1.norm1.weight' \[12\] has no place in it"),
  ],
)
def test_a_file_of_another_network_is_refused(saved, net, values, message):
  params, _ = _trees(dataclasses.replace(NET, **net))
  with pytest.raises(ValueError, match=message):
    weights.load(saved[1], "auto", params, {}, _model(**values))
