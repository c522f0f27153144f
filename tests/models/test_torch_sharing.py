"""Fused columns, experts and attention equal the same network in PyTorch."""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp
from models.conftest import QUICK
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")

from models import torch_sharing  # noqa: E402

from dynashare_jax.models import fusions  # noqa: E402
from dynashare_jax.models.backbones import resnet  # noqa: E402
from dynashare_jax.models.trunks import attention  # noqa: E402
from dynashare_jax.models.trunks import experts  # noqa: E402
from dynashare_jax.models.trunks import fused  # noqa: E402

NET = torch_sharing.Net((1, 1, 2), (1, 1, 1), (2, 1))
BACKBONE = resnet.ResNet(2, (2, 1), (8, 16), (1, 2), (1, 1), "small")
LAYER = attention.Style("batch", False, jnp.float32)


def _fused(*fuse: Any) -> Any:
  return fused.FusedColumnTrunk((BACKBONE.clone(), BACKBONE.clone()), fuse)


CASES = {
  "cross_stitch": (
    _fused(None, *(fusions.Stitch() for _ in range(3))),
    lambda v, x, train: torch_sharing.fused(NET, v, x, 2, train),
  ),
  "sluice": (
    _fused(None, *(fusions.Stitch(2) for _ in range(3))),
    lambda v, x, train: torch_sharing.fused(NET, v, x, 2, train),
  ),
  "nddr": (
    _fused(fusions.Reduction(), None, fusions.Reduction(), fusions.Reduction()),
    lambda v, x, train: torch_sharing.fused(NET, v, x, 2, train),
  ),
  "mmoe": (
    experts.ExpertTrunk(tuple(BACKBONE.clone() for _ in range(3)), ((0, 1, 2),) * 2, (3,)),
    lambda v, x, train: torch_sharing.experts(NET, v, x, 3, 2, train),
  ),
  "cgc": (
    experts.ExpertTrunk(tuple(BACKBONE.clone() for _ in range(3)), ((0, 2), (1, 2)), (3,)),
    lambda v, x, train: torch_sharing.layered(NET, v, x, (3,), 2, train),
  ),
  "ple": (
    experts.ExpertTrunk(
      tuple(BACKBONE.clone() for _ in range(3)), ((0, 2), (1, 2)), (2, 1), (0, 1, 2)
    ),
    lambda v, x, train: torch_sharing.layered(NET, v, x, (2, 1), 2, train),
  ),
  "mtan block": (
    attention.AttentionTrunk(BACKBONE, 2, False, LAYER),
    lambda v, x, train: torch_sharing.attention(NET, v, x, 2, False, train),
  ),
  "mtan stage": (
    attention.AttentionTrunk(BACKBONE, 2, True, LAYER),
    lambda v, x, train: torch_sharing.attention(NET, v, x, 2, True, train),
  ),
}


@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_twin(name):
  """At test; and in training, where a variance is a difference of means of float32 squares."""
  trunk, twin = CASES[name]
  x = jax.random.uniform(jax.random.key(1), (8, 18, 14, 3))
  shapes = jax.eval_shape(lambda k: trunk.init(k, x, (), False), jax.random.key(0))
  rng = np.random.default_rng(0)

  def drawn(path: Any, leaf: Any) -> np.ndarray:
    values = rng.normal(size=leaf.shape)
    name = path[-1].key
    if name in ("var", "scale"):
      values = rng.uniform(0.5, 1.5, leaf.shape)
    elif name == "kernel":  # Outputs are as large as inputs.
      joined = "fuse" in path[1].key  # [in, C, out, C]
      values /= np.prod(leaf.shape[:2] if joined else leaf.shape[:-1]) ** 0.5
    return values.astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(drawn, shapes)
  both = lambda v, x: [
    trunk.apply(v, x, (), train, mutable=["batch_stats"])[0][0] for train in (False, True)
  ]
  found = jax.jit(both, compiler_options=QUICK)(variables, x)
  inputs = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
  for ours, train, most in zip(found, (False, True), (1e-5, 1e-5), strict=True):
    theirs = twin(variables, inputs, train)
    for a, b in zip(ours, theirs, strict=True):
      b = b.permute(0, 2, 3, 1).numpy()
      scale = np.abs(b).max()
      assert scale > 1e-3
      np.testing.assert_allclose(a, b, rtol=0, atol=most * scale)
