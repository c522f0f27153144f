"""Histograms add, and their quantiles come close to the exact ones."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.ops import histogram


def test_counts_against_numpy():
  values = np.random.default_rng(0).uniform(0, 10, 500).astype(np.float32)
  valid = np.arange(500) % 3 != 0
  got = jax.jit(histogram.histogram, static_argnums=(2, 3, 4))(values, valid, 0.0, 10.0, 25)
  twin, _ = np.histogram(values[valid], 25, (0, 10))
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, twin)


def test_ends_and_nan():
  values = jnp.array([-5.0, 0.0, 10.0, 99.0, jnp.nan, jnp.inf])
  got = histogram.histogram(values, jnp.ones(6, bool), 0.0, 10.0, 5)
  assert got.tolist() == [2, 0, 0, 0, 3]


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantiles_are_within_a_bin(level):
  values = np.random.default_rng(1).gamma(2.0, 10.0, 4000)
  values = np.minimum(values, 179).astype(np.float32)
  counts = histogram.histogram(jnp.asarray(values), jnp.ones(4000, bool), 0.0, 180.0, 3600)
  got = histogram.quantile(np.asarray(counts), 0.0, 180.0, level)
  assert got == pytest.approx(np.quantile(values, level), abs=0.11)


def test_quantile_by_hand():
  # Four values in [0, 1), four in [3, 4): half of them lie below 1.
  counts = np.array([4, 0, 0, 4])
  assert histogram.quantile(counts, 0.0, 4.0, 0.25) == 0.5
  assert histogram.quantile(counts, 0.0, 4.0, 0.5) == 1.0
  assert histogram.quantile(counts, 0.0, 4.0, 0.75) == 3.5
  assert histogram.quantile(np.array([0, 2]), 0.0, 2.0, 0.0) == 1.0
  assert np.isnan(histogram.quantile(np.zeros(4), 0.0, 4.0, 0.5))
