"""Confusion counts and the percentages that follow from them."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from dynashare_jax.ops import confusion


def test_counts_against_sklearn_with_ignored_labels():
  rng = np.random.default_rng(0)
  target = rng.integers(0, 4, 300)
  predicted = rng.integers(0, 4, 300)
  valid = rng.random(300) < 0.7
  ignored = np.where(rng.random(300) < 0.2, 255, target)
  count = jax.jit(confusion.confusion_counts, static_argnums=3)
  got = count(predicted, ignored, valid, 4)
  keep = valid & (ignored < 4)
  twin = metrics.confusion_matrix(target[keep], predicted[keep], labels=range(4))
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, twin)
  assert np.sum(count(predicted, np.full(300, -1), valid, 4)) == 0


def test_counts_add_over_batches():
  rng = np.random.default_rng(1)
  arrays = rng.integers(0, 3, (2, 40, 5))
  valid = rng.random((40, 5)) < 0.5
  whole = confusion.confusion_counts(*arrays, valid, 3)
  parts = sum(
    np.asarray(
      confusion.confusion_counts(arrays[0, s : s + 8], arrays[1, s : s + 8], valid[s : s + 8], 3)
    )
    for s in range(0, 40, 8)
  )
  np.testing.assert_array_equal(whole, parts)


def test_miou_by_hand():
  # Class 0: 3 / 5, class 1: 1 / 3, class 2: labelled, never hit: 0 / 1.
  # Class 3 is neither labelled nor predicted and does not count.
  counts = np.array([[3, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
  assert confusion.miou(counts) == pytest.approx(100 * (3 / 5 + 1 / 3) / 2)
  counts[2, 0] = 1
  assert confusion.miou(counts) == pytest.approx(100 * (3 / 6 + 1 / 3) / 3)
  assert confusion.accuracy(counts) == pytest.approx(100 * 4 / 7)


def test_iou_and_shares_of_every_class_by_hand():
  counts = np.array([[3, 1, 0, 0], [1, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
  # Class 2 is labelled and never hit, class 3 does not occur.
  np.testing.assert_allclose(confusion.iou(counts), [3 / 7, 1 / 3, 0, np.nan])
  np.testing.assert_allclose(confusion.shares(counts), [0.5, 0.25, 0.25, 0])
  mean = 100 * np.nanmean(confusion.iou(counts))
  assert confusion.miou(counts) == pytest.approx(mean)


def test_miou_of_the_authors_forgives_a_class_that_is_always_missed():
  counts = np.array([[3, 0, 0], [0, 1, 0], [4, 0, 0]])
  assert confusion.miou(counts) == pytest.approx(100 * (3 / 7 + 1 + 0) / 3)
  hit = confusion.miou(counts, only_hit=True)
  assert hit == pytest.approx(100 * (3 / 7 + 1) / 2)
  assert np.isnan(confusion.miou(counts - np.diag([3, 1, 0]), only_hit=True))


def test_nothing_counted_is_nan():
  assert np.isnan(confusion.iou(np.zeros((3, 3)))).all()
  assert np.isnan(confusion.shares(np.zeros((3, 3)))).all()
  assert np.isnan(confusion.miou(np.zeros((3, 3))))
  assert np.isnan(confusion.accuracy(np.zeros((3, 3))))


def test_large_counts_keep_their_last_digit():
  counts = np.array([[2**31 - 1, 1], [0, 2**31 - 1]], np.int32)
  twin = 100 * (2**32 - 2) / (2**32 - 1)
  assert confusion.accuracy(counts) == pytest.approx(twin, rel=1e-14)
