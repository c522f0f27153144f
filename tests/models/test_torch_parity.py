"""Our network equals the authors' in PyTorch, weights read from its file."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax import numpy as jnp
import ml_collections
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")

from models import torch_deeplab  # noqa: E402

from dynashare_jax.models import heads  # noqa: E402
from dynashare_jax.models import weight_tables  # noqa: E402
from dynashare_jax.models import weights  # noqa: E402
from dynashare_jax.models.backbones import resnet  # noqa: E402
from dynashare_jax.models.trunks import network as network_lib  # noqa: E402
from dynashare_jax.models.trunks import skip as skip_trunk  # noqa: E402
from dynashare_jax.ops import routing  # noqa: E402

R18, R34 = (2, 2, 2, 2), (3, 4, 6, 3)
THIN = (6, 8, 10, 12)
OUTPUTS = (5, 3)
STRIDES, DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)
COLOURS = weight_tables.FAMILIES["adashare"]
QUICK = {"xla_backend_optimization_level": 0}


def _model(blocks: Any, kind: str) -> Any:
  return ml_collections.ConfigDict(
    dict(
      backbone="resnet",
      stem="deeplab",
      norm="batch",
      block=kind,
      variant="adashare",
      blocks=blocks,
      mean=COLOURS.mean,
      std=COLOURS.std,
    )
  )


def _ours(blocks: Any, widths: Any, kind: str, gated: tuple[bool, ...]) -> Any:
  backbone = resnet.ResNet(
    2,
    blocks,
    widths,
    STRIDES,
    DILATIONS,
    "deeplab",
    block_kind=kind,
    mean=COLOURS.mean,
    std=COLOURS.std,
  )
  return network_lib.Network(
    skip_trunk.SkipTrunk(backbone, len(OUTPUTS), gated),
    tuple(heads.AsppHead(n, width=8) for n in OUTPUTS),
    ("a", "b"),
  )


def _pass(network: Any, x: Any, decisions: Any) -> Any:
  features, signals = network.trunk(x, decisions, False)
  pairs = zip(network.heads, features, strict=True)
  return features, [head(f, False) for head, f in pairs], signals


@functools.partial(jax.jit, static_argnums=(0, 3), compiler_options=QUICK)
def _forward(network: Any, variables: Any, x: Any, frozen: Any, policy: Any) -> Any:
  decisions = frozen._replace(policy=policy)
  return network.apply(variables, x, decisions, method=_pass)


class Pair:
  """Their network with random numbers, and ours filled from its file."""

  def __init__(
    self,
    folder: Any,
    blocks: Any,
    widths: Any = THIN,
    kind: str = "basic",
    gated: tuple[bool, ...] | None = None,
  ) -> None:
    self.theirs = torch_deeplab.Network(
      OUTPUTS, blocks, widths, kind, gated=gated is not None
    ).randomise(3)
    path = folder / "latest_model.pth.tar"
    # A checkpoint as the authors' code writes it.
    torch.save({"mtl-net": self.theirs.state_dict(), "iter": 20000}, path)
    self.blocks = sum(blocks)
    self.gated = gated or (False,) * self.blocks
    self.ours = _ours(blocks, widths, kind, self.gated)
    shapes = jax.eval_shape(
      lambda: self.ours.init(
        jax.random.key(0),
        jnp.zeros((1, 33, 33, 3)),
        skip_trunk.Decisions(routing.all_run(self.blocks, len(OUTPUTS))),
        False,
      )
    )
    self.loaded = weights.load(
      path, "auto", shapes["params"], shapes["batch_stats"], _model(blocks, kind)
    )
    self.variables = {"params": self.loaded.params, "batch_stats": self.loaded.stats}

  def check(
    self,
    size: tuple[int, int],
    policy: np.ndarray,
    frozen: Any,
    masked: bool,
    batch: int = 2,
    asked: tuple[bool, ...] | None = None,
  ) -> Any:
    """Compares features and logits of all tasks; returns the signals."""
    rng = np.random.default_rng(size[0])
    tint = rng.random((batch, 1, 1, 3))  # So that gates tell examples apart.
    x = np.asarray(0.7 * tint + 0.3 * rng.random((batch, *size, 3)), np.float32)
    asked = asked or (False,) * self.blocks
    wanted = self.theirs.predict(x, policy, asked)
    features, logits, signals = _forward(
      self.ours, self.variables, x, frozen, jnp.asarray(policy, jnp.float32) if masked else None
    )
    for t in range(len(OUTPUTS)):
      for found, right in ((features[t], wanted[0][t]), (logits[t], wanted[1][t])):
        assert found.shape == right.shape
        assert np.abs(right).max() > 0.1
        error = np.abs(np.asarray(found) - right).max() / np.abs(right).max()
        assert error < 1e-4, error
    return signals, wanted


SIZES = [(33, 33), (40, 56), (65, 97)]
CASES = [(R18, "basic", size) for size in SIZES] + [
  (R34, "basic", (33, 33)),
  ((1, 2, 1, 2), "bottleneck", (40, 56)),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: Any) -> Any:
  @functools.cache
  def make(blocks: Any, kind: str) -> Pair:
    return Pair(tmp_path_factory.mktemp("weights"), blocks, kind=kind)

  return make


def _ids(value: Any) -> str:
  return value if isinstance(value, str) else "x".join(map(str, value))


def _route(blocks: int) -> np.ndarray:
  """The tasks skip different blocks, the first of a segment among them."""
  route = np.ones((len(OUTPUTS), blocks))
  route[0, [1, blocks - 2]] = 0
  route[1, [2, 3]] = 0
  return route


@pytest.mark.parametrize("blocks, kind, size", CASES, ids=_ids)
def test_masked_with_soft_and_with_discrete_decisions(pair, blocks, kind, size):
  nets = pair(blocks, kind)
  modes = routing.own(nets.blocks, len(OUTPUTS))
  soft = np.random.default_rng(1).random((len(OUTPUTS), nets.blocks))
  # At test, statistics do not move: both kinds are one compilation.
  frozen = skip_trunk.Decisions(modes, discrete=False)
  nets.check(size, soft, frozen, masked=True)
  nets.check(size, _route(nets.blocks), frozen, masked=True)


@pytest.mark.parametrize("blocks, kind, size", CASES, ids=_ids)
def test_planned(pair, blocks, kind, size):
  nets = pair(blocks, kind)
  route = _route(nets.blocks)
  modes = routing.fixed(route.astype(int).tolist(), nets.gated, False)
  nets.check(size, route, skip_trunk.Decisions(modes), masked=False)


@pytest.mark.parametrize("size", [(33, 33), (40, 56)], ids=_ids)
def test_gated(tmp_path, size):
  gated = (False, False, True, True, True, False, True, True)
  nets = Pair(tmp_path, R18, gated=gated)
  assert "names of dynashare" in nets.loaded.notes[0]
  route = _route(nets.blocks)
  modes = routing.fixed(route.astype(int).tolist(), gated, False)
  signals, wanted = nets.check(
    size, route, skip_trunk.Decisions(modes, gated=True), masked=False, batch=12, asked=gated
  )
  places = [l for l, has in enumerate(gated) if has]
  decided = []
  for t in range(len(OUTPUTS)):
    for place, score in zip(places, wanted[2][t].T, strict=True):
      if not route[t, place]:
        continue
      np.testing.assert_allclose(
        signals.own.relevance[t, :, place], score, rtol=1e-3, atol=1e-4 * np.abs(score).max()
      )
      np.testing.assert_array_equal(signals.own.gate[t, :, place], score > 0)
      decided.append(score > 0)
  assert 0.1 < np.mean(decided) < 0.9
  assert any(0 < gates.mean() < 1 for gates in decided)


def test_at_real_widths(tmp_path):
  nets = Pair(tmp_path, R18, (64, 128, 256, 512))
  assert sum(a.size for a in jax.tree.leaves(nets.loaded.params["trunk"])) == 11_176_512
  route = _route(nets.blocks)
  modes = routing.fixed(route.astype(int).tolist(), nets.gated, False)
  nets.check((33, 49), route, skip_trunk.Decisions(modes), masked=False)


def test_the_policy_comes_along(pair):
  nets = pair(R18, "basic")
  for t in range(len(OUTPUTS)):
    theirs = nets.theirs.state_dict()[f"task{t + 1}_logits"]
    np.testing.assert_array_equal(nets.loaded.logits[t], theirs)


def test_colours_are_turned_round(pair):
  """The first kernel reads blue first in theirs, red first in ours."""
  nets = pair(R18, "basic")
  theirs = nets.theirs.state_dict()["backbone.conv1.weight"]
  ours = nets.loaded.params["trunk"]["backbone"]["stem_conv"]["kernel"]
  np.testing.assert_array_equal(ours[2, 5, 0, 4], theirs[4, 2, 2, 5])
