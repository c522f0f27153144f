"""The high-resolution network equals the same one in PyTorch, weights read from its file."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
from models.conftest import QUICK
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")

from models import torch_hrnet  # noqa: E402

from dynashare_jax import defaults  # noqa: E402
from dynashare_jax.models import weights  # noqa: E402
from dynashare_jax.models.backbones import base  # noqa: E402
from dynashare_jax.models.backbones import hrnet  # noqa: E402

BLOCKS, WIDTHS, ROWS, STEM = (2, 1, 1, 1), (4, 6, 8, 10), 2, 6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NET = hrnet.HrNet(BLOCKS, WIDTHS, ROWS, STEM, mean=MEAN, std=STD)


def _model(**values: Any) -> Any:
  model = defaults.get_config().model
  model.update(dict(backbone="hrnet", blocks=BLOCKS, widths=WIDTHS, rows=ROWS))
  model.update(dict(mean=MEAN, std=STD) | values)
  return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """The network in PyTorch with numbers drawn at random, running averages too, and its file."""
  torch.manual_seed(0)
  twin = torch_hrnet.HrNet(BLOCKS, WIDTHS, ROWS, STEM).eval()
  with torch.no_grad():
    for name, p in twin.state_dict().items():
      if p.is_floating_point():
        drawn = torch.rand(p.shape) + 0.5 if p.ndim == 1 else torch.randn(p.shape)
        p.copy_(drawn * (0.5 if "running" not in name and p.ndim == 1 else 1) / _fan(p))
  path = tmp_path_factory.mktemp("hrnet") / "hrnet.pth"
  torch.save(twin.state_dict(), path)
  return twin, path


def _fan(p: Any) -> float:
  return 1.0 if p.ndim == 1 else p[0].numel() ** 0.5


def _trees(net: hrnet.HrNet) -> Any:
  x, pass_ = jnp.zeros((1, 32, 32, 3)), base.Pass(False, jnp.ones((1,)))
  run = lambda m, x: m.final(m.features(x, pass_)[-1])
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, method=run))
  of = lambda part: {"trunk": {"backbone": shapes[part]}}
  return of("params"), of("batch_stats"), run


def test_features_are_those_of_the_twin(saved):
  """Four maps, two rows, two bottlenecks; of oblong pictures, whose sides 32 divides."""
  twin, path = saved
  params, stats, run = _trees(NET)
  loaded = weights.load(path, "auto", params, stats, _model())
  leaves = jax.tree.leaves((params, stats))
  assert loaded.notes[0] == (
    f"weights: {len(leaves)} tensors of hrnet.pth fill backbone; names of timm_hrnet"
  )
  assert "the classifier of ImageNet" in " ".join(loaded.notes) and len(loaded.notes) == 3
  variables = {
    "params": loaded.params["trunk"]["backbone"],
    "batch_stats": loaded.stats["trunk"]["backbone"],
  }
  x = np.random.default_rng(0).uniform(size=(2, 32, 96, 3)).astype(np.float32)
  found = jax.jit(lambda v, x: NET.apply(v, x, method=run), compiler_options=QUICK)(variables, x)
  white = (x - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
  with torch.no_grad():
    theirs = twin(torch.tensor(white).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
  assert found.shape == (1, *theirs.shape) == (1, 2, 8, 24, 28)
  for start, end in ((0, 4), (4, 10), (10, 18), (18, 28)):
    wanted = theirs[..., start:end]
    scale = np.abs(wanted).max()
    assert scale > 0.1
    np.testing.assert_allclose(found[0, ..., start:end], wanted, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
  "values, message",
  [
    (
      {"widths": (4, 6, 8, 12)},
      r"The file has config.model.blocks=\(2, 1, 1, 1\), config.model.rows=2 and"
      r" config.model.widths=\(4, 6, 8, 10\)\.",
    ),
    ({"rows": 1}, "has no place in it .* config.model.rows=2"),
    ({"blocks": (2, 1, 2, 1)}, r"'stage3.1\..* is missing"),
  ],
)
def test_a_file_of_another_network_is_refused(saved, values, message):
  params, stats, _ = _trees(dataclasses.replace(NET, **values))
  with pytest.raises(ValueError, match=message):
    weights.load(saved[1], "auto", params, stats, _model(**values))
