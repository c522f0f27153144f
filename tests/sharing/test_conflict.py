"""Cosines of gradients against a slow twin, and what is said of them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from dynashare_jax.sharing import conflict


def _observed(gradients: np.ndarray) -> conflict.Conflict | None:
  """What `[N, U, T, D]` gradients are found to be."""
  sums = conflict.blank(*gradients.shape[1:3])
  for batch in gradients:
    sums = conflict.observe(sums, jnp.asarray(batch @ batch.transpose(0, 2, 1), jnp.float32))
  return conflict.of(sums)


def test_means_and_errors_against_a_slow_twin():
  gradients = np.random.default_rng(0).standard_normal((7, 3, 4, 5))
  unit = gradients / np.linalg.norm(gradients, axis=-1, keepdims=True)
  cosine = unit @ unit.swapaxes(-1, -2)
  found = _observed(gradients)
  assert found is not None and found.batches == 7
  np.testing.assert_allclose(found.cosine, cosine.mean(0), atol=1e-5)
  np.testing.assert_allclose(found.error, cosine.std(0, ddof=1) / np.sqrt(7), atol=1e-3)
  np.testing.assert_allclose(found.mean, cosine.mean((0, 1)), atol=1e-5)
  np.testing.assert_allclose(
    found.mean_error, cosine.mean(1).std(0, ddof=1) / np.sqrt(7), atol=1e-3
  )


def test_scale_does_not_matter_and_a_task_without_labels_does_not_count():
  gradients = np.random.default_rng(1).standard_normal((6, 2, 3, 4))
  scaled = gradients * np.array([1.0, 100.0, 0.01])[:, None]
  np.testing.assert_allclose(_observed(scaled).cosine, _observed(gradients).cosine, atol=1e-4)
  gradients[3:, :, 2] = 0
  found, half = _observed(gradients), _observed(gradients[:3])
  np.testing.assert_allclose(found.cosine[:, 2], half.cosine[:, 2], atol=1e-5)
  gradients[:, :, 2] = 0
  assert np.isnan(_observed(gradients).cosine[:, 2]).all()


def test_nothing_was_observed():
  assert conflict.of(conflict.blank(2, 3)) is None


def _of(mean: float, error: float) -> conflict.Conflict:
  cosine = np.array([[1.0, mean], [mean, 1.0]])
  errors = np.full((2, 2), error)
  return conflict.Conflict(cosine[None], errors[None], cosine, errors, 20)


@pytest.mark.parametrize(
  "mean, error, sure", [(-0.1, 0.02, True), (-0.1, 0.06, False), (0.2, 0.01, False)]
)
def test_a_conflict_must_be_sure(mean, error, sure):
  told = conflict.words(("depth", "light"), _of(mean, error))
  assert conflict.pairs(_of(mean, error)) == ([(0, 1)] if sure else [])
  if sure:
    assert "1 of 1 pairs of tasks conflict: depth and light (-0.10 ± 0.02)" in told
  else:
    assert "No pair of tasks conflicts" in told and "config.method=hard" in told
