"""Ranking metrics and kappa against scikit-learn, ties included."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest
from sklearn import metrics

from dynashare_jax.ops import ranking

ROWS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40).filter(
  lambda rows: len({row[1] for row in rows}) == 2
)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_auc_and_average_precision_with_many_ties(rows):
  scores = np.array([row[0] for row in rows], np.float32) / 3
  targets = np.array([row[1] for row in rows])
  assert ranking.roc_auc(scores, targets) == pytest.approx(metrics.roc_auc_score(targets, scores))
  assert ranking.average_precision(scores, targets) == pytest.approx(
    metrics.average_precision_score(targets, scores)
  )


def _auc(scores, targets):
  return ranking.roc_auc(np.array(scores, float), np.array(targets))


def test_auc_by_hand():
  # Pairs (positive, negative): 3 > 1, 3 > 2, 2 > 1 and the tie 2 = 2.
  assert _auc([1, 2, 2, 3], [0, 0, 1, 1]) == pytest.approx(3.5 / 4)
  assert _auc([0, 0, 0], [0, 1, 1]) == 0.5


def test_order_and_monotone_maps_do_not_matter():
  rng = np.random.default_rng(0)
  scores, targets = rng.normal(size=200), rng.random(200) < 0.1
  order = rng.permutation(200)
  for metric in (ranking.roc_auc, ranking.average_precision):
    value = metric(scores, targets)
    assert metric(scores[order], targets[order]) == pytest.approx(value)
    assert metric(np.exp(3 * scores), targets) == pytest.approx(value)


@pytest.mark.parametrize("targets", [[0, 0, 0], [1, 1, 1]])
def test_one_class_is_nan(targets):
  for metric in (ranking.roc_auc, ranking.average_precision):
    assert np.isnan(metric(np.arange(3.0), np.array(targets)))
    assert np.isnan(metric(np.zeros(0), np.zeros(0)))


def test_a_nan_score_is_not_ranked_quietly():
  for metric in (ranking.roc_auc, ranking.average_precision):
    assert np.isnan(metric(np.array([1.0, np.nan, 3.0]), np.array([0, 1, 1])))
    with pytest.raises(ValueError, match="2 scores for 3 targets"):
      metric(np.zeros(2), np.array([0, 1, 1]))


def test_one_vs_one_against_sklearn():
  rng = np.random.default_rng(2)
  targets = rng.integers(0, 4, 120)
  scores = rng.random((120, 4)).round(1) + 0.05
  scores /= scores.sum(1, keepdims=True)
  assert ranking.auc_one_vs_one(scores, targets) == pytest.approx(
    metrics.roc_auc_score(targets, scores, multi_class="ovo")
  )


def test_one_vs_one_skips_classes_that_do_not_occur():
  rng = np.random.default_rng(3)
  targets = rng.integers(0, 2, 50) * 2
  scores = rng.random((50, 3))
  twin = metrics.roc_auc_score(targets == 2, scores[:, 2])
  twin += metrics.roc_auc_score(targets == 0, scores[:, 0])
  assert ranking.auc_one_vs_one(scores, targets) == pytest.approx(twin / 2)
  assert np.isnan(ranking.auc_one_vs_one(scores, np.zeros(50, int)))


def test_macro_average_skips_undefined_labels_and_invalid_rows():
  scores = np.array([[0.1, 0.2], [0.4, 0.3], [0.3, 0.9], [9.0, 9.0]])
  targets = np.array([[0, 1], [1, 1], [0, 1], [0, 1]])
  valid = np.array([[True, True]] * 3 + [[False, False]])
  value = ranking.over_labels(ranking.roc_auc, scores, targets, valid)
  assert value == 1.0
  nothing = np.zeros_like(valid)
  assert np.isnan(ranking.over_labels(ranking.roc_auc, scores, targets, nothing))


@pytest.mark.parametrize("weights", [None, "linear"])
def test_kappa_against_sklearn(weights):
  rng = np.random.default_rng(4)
  targets = rng.integers(0, 5, 200)
  noisy = np.clip(targets + rng.integers(-1, 2, 200), 0, 4)
  counts = metrics.confusion_matrix(targets, noisy, labels=range(5))
  assert ranking.kappa(counts, weights) == pytest.approx(
    metrics.cohen_kappa_score(targets, noisy, weights=weights)
  )
  assert ranking.kappa(np.diag([3, 2, 1]), weights) == 1.0


def test_kappa_without_a_value():
  assert np.isnan(ranking.kappa(np.zeros((3, 3))))
  assert np.isnan(ranking.kappa(np.diag([5, 0, 0])))
  with pytest.raises(ValueError, match="linear"):
    ranking.kappa(np.eye(2), "quadratic")
