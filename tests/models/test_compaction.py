"""Gated execution that leaves examples out equals masked execution."""

from __future__ import annotations

from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import compaction
from dynashare_jax.ops import routing

ROUTE = ((1, 1, 1), (1, 1, 0), (1, 0, 1))
GATED = (False, True, True)
WAYS = (compaction.Compaction("rows"), compaction.Compaction("buckets", 3))


def _decisions(tiny, modes, way=None):
  plain = skip_trunk.Decisions(
    modes, jnp.asarray(ROUTE, jnp.float32), gated=True, threshold=jnp.zeros(3)
  )
  # Thresholds at the medians of the scores, so that about half is skipped.
  _, signals, _ = tiny.forward(plain, train=False)
  scores = np.asarray(signals.own.relevance)
  threshold = [0.0, *(np.median(scores[0, :, l]) for l in (1, 2))]
  return plain._replace(threshold=jnp.asarray(threshold, jnp.float32), compaction=way)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", ("image", "series", "mlp"))
@pytest.mark.parametrize("planned", (True, False))
def test_compacted_pass_equals_masked_pass(tiny, kind, planned, way):
  net = tiny(kind, gated=GATED)
  modes = routing.fixed(ROUTE, GATED, train=False) if planned else routing.own(3, 3)
  want, told, _ = net.forward(_decisions(net, modes), train=False)
  got, said, _ = net.forward(_decisions(net, modes, way), train=False)
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
  np.testing.assert_array_equal(said.executed, told.executed)
  np.testing.assert_array_equal(said.own.gate, told.own.gate)
  gates = np.asarray(told.executed)[:, :, 1:]
  assert 0 < gates.sum() < gates.size  # both cases occurred


def test_training_ignores_compaction(tiny):
  """Batch statistics need every example."""
  net = tiny("image", gated=GATED)
  modes = routing.fixed(ROUTE, GATED, train=True)
  decisions = _decisions(net, modes)._replace(noise=net.noise())
  want = net.forward(decisions)
  got = net.forward(decisions._replace(compaction=WAYS[0]))
  for a, b in zip(want[0], got[0], strict=True):
    np.testing.assert_array_equal(a, b)
