"""Hand-worked and reference values of single task kinds."""

from __future__ import annotations

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from dynashare_jax.objectives import kinds
from dynashare_jax.types import TaskSpec

RNG = np.random.default_rng(3)


@functools.partial(jax.jit, static_argnums=0)
def _batch(task, logits, target, valid):
  """Loss, sums and scores of one batch, compiled."""
  kind = kinds.find(task.kind)
  row = (task, logits, target, valid)
  return kind.loss(*row), kind.sums(*row), kind.scores(*row)


def _finish(task, logits, target, valid) -> dict[str, float]:
  """Metrics of one batch."""
  row = (jnp.asarray(logits, jnp.float32), target, valid)
  _, sums, scores = jax.device_get(_batch(task, *row))
  return kinds.find(task.kind).finish(task, sums, scores)


def _mean(task, logits, target, valid) -> float:
  """Mean loss of one batch."""
  row = (jnp.asarray(logits, jnp.float32), target, valid)
  total, count = _batch(task, *row)[0]
  return float(total) / float(count)


def test_segmentation_by_hand():
  task = TaskSpec("seg", "segmentation", 3)
  target = np.array([[[0, 0, 1], [1, 255, 2]]], np.uint8)
  predicted = np.array([[[0, 1, 1], [1, 0, 0]]])
  valid = target != 255
  logits = 30.0 * np.eye(3)[predicted]
  # Class 0: 1 hit of 3, class 1: 2 of 3, class 2: 0 of 1; 3 of 5 pixels.
  got = _finish(task, logits, target, valid)
  assert got["miou"] == pytest.approx(100 / 3)
  assert got["pixel_accuracy"] == pytest.approx(60)
  assert _mean(task, logits, target, valid) == pytest.approx(2 * 30 / 5)
  # An ignore code counts as not valid, even when the mask forgot it.
  forgot = np.ones_like(valid)
  assert _finish(task, logits, target, forgot) == pytest.approx(got)
  assert _mean(task, logits, target, forgot) == pytest.approx(12)


def test_depth_by_hand():
  task = TaskSpec("depth", "depth", unit="m")
  target = np.array([[[2.0, 2.0, 4.0, 1.0, 3.0]]], np.float32)
  logits = np.array([[[2.0, 2.5, 2.5, -1.0, 9.0]]])[..., None]
  valid = np.array([[[True] * 4 + [False]]])
  got = _finish(task, logits, target, valid)
  assert got["abs"] == pytest.approx((0 + 0.5 + 1.5 + 2) / 4)
  assert got["rel"] == pytest.approx((0 + 0.25 + 0.375 + 2) / 4)
  # Ratios 1, 1.25, 1.6, and a negative depth that is never within.
  assert got["delta_1.25"] == pytest.approx(50)
  assert got["delta_1.25^2"] == pytest.approx(50)
  assert got["delta_1.25^3"] == pytest.approx(75)
  assert _mean(task, logits, target, valid) == pytest.approx(1.0)
  # The channel axis of the labels is optional.
  assert _finish(task, logits, target[..., None], valid) == pytest.approx(got)
  assert kinds.find("depth").metrics(task)[0].unit == "m"


def test_depth_labels_of_zero_have_no_relative_error():
  task = TaskSpec("depth", "depth")
  target = np.array([[[0.0, 2.0]]], np.float32)
  logits = np.array([[[[1.0], [2.0]]]])
  got = _finish(task, logits, target, np.ones((1, 1, 2), bool))
  assert got["abs"] == pytest.approx(0.5)
  assert got["rel"] == 0.0
  assert got["delta_1.25"] == 100.0


def test_normals_against_exact_angles():
  task = TaskSpec("sn", "normals", 3)
  angles = np.deg2rad(RNG.gamma(2.0, 10.0, (2, 30, 40)).clip(0, 179))
  target = np.zeros((2, 30, 40, 3), np.float32)
  target[..., 2] = 2.0
  logits = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], -1)
  valid = RNG.random((2, 30, 40)) < 0.8
  got = _finish(task, 0.1 * logits, target, valid)
  exact = np.rad2deg(angles[valid])
  assert got["mean"] == pytest.approx(exact.mean(), rel=1e-5)
  assert got["median"] == pytest.approx(np.median(exact), abs=0.05)
  for limit in (11.25, 22.5, 30):
    share = 100 * np.mean(exact <= limit)
    assert got[f"within_{limit:g}"] == pytest.approx(share, abs=0.05)
  assert _mean(task, 0.1 * logits, target, valid) == pytest.approx(
    np.mean(1 - np.cos(angles[valid])), rel=1e-4
  )


def test_normals_do_not_care_about_length_and_survive_zero():
  task = TaskSpec("sn", "normals", 3)
  kind = kinds.find("normals")
  target = jnp.ones((1, 2, 2, 3))
  valid = jnp.ones((1, 2, 2), bool)
  zero = jnp.zeros((1, 2, 2, 3))
  gradient = jax.grad(lambda p: kind.loss(task, p, target, valid).total)(zero)
  assert np.isfinite(gradient).all()
  np.testing.assert_allclose(np.linalg.norm(kind.predict(task, 7 * target), axis=-1), 1, rtol=1e-6)


def test_regression_by_hand():
  task = TaskSpec("edges", "regression", unit="px")
  target = np.array([[[1.0, 2.0], [3.0, 9.0]]], np.float32)
  valid = np.array([[[True, True], [True, False]]])
  logits = np.zeros((1, 2, 2, 1))
  assert _finish(task, logits, target, valid) == pytest.approx({"l1": 2.0})
  assert _mean(task, logits, target, valid) == pytest.approx(2.0)
  constant = kinds.find("regression").constant(task, target, valid)
  assert constant.tolist() == [[[2.0]]]


def test_colour_averages_the_errors_of_its_three_channels():
  task = TaskSpec("albedo", "colour", 3)
  target = np.array([[[[0.5, 0.25, 0.0], [np.nan] * 3]]], np.float32)
  valid = np.array([[[True, False]]])
  logits = np.full((1, 1, 2, 3), 0.5, np.float32)
  assert _finish(task, logits, target, valid) == pytest.approx({"l1": 0.25})
  assert _mean(task, logits, target, valid) == pytest.approx(0.25)
  _, inside = kinds.find("colour").usual(task)
  assert inside(np.array([-0.1, 0.0, 1.0, 1.1])).tolist() == [False, True, True, False]


def _log_odds(probabilities):
  """Logits `[n, 1, W, 1]` of probabilities `[n, W]`."""
  share = np.asarray(probabilities)[:, None, :, None]
  return np.log(share) - np.log1p(-share)


def test_saliency_by_hand():
  task = TaskSpec("saliency", "saliency")
  told = [[0.95, 0.57, 0.27, 0.1], [0.32, 0.77, 0.1, 0.1], [0.9] * 4]
  target = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 255]], [[255] * 4]])
  logits, valid = _log_odds(told), target != 255
  # Best at 0.3: overlaps 2 of 2 and 1 of 2, precisions 1 and 1/2, all is found. At 0.2 the
  # first has an overlap of 2 of 3, from 0.35 on the second has none. The third has no label.
  got = _finish(task, logits, target, valid)
  assert got == pytest.approx({"max_iou": 75.0, "max_f": 100 * 2 * 0.75 / 1.75})
  right = -np.log([0.95, 0.57, 0.73, 0.9, 0.32, 0.23, 0.9])
  assert _mean(task, logits, target, valid) == pytest.approx(right.mean(), rel=1e-5)
  # Nothing salient and nothing said is right; there is no precision to speak of.
  nothing = np.zeros((1, 1, 4), int)
  empty = _finish(task, _log_odds([[0.1] * 4]), nothing, nothing == 0)
  assert empty == {"max_iou": 100.0, "max_f": 0.0}


def test_edges_by_hand():
  task = TaskSpec("edges", "edges")
  target = np.array([[[1, 0, 1, 0, 7]]])
  logits, valid = _log_odds([[0.905, 0.605, 0.305, 0.105, 0.5]]), target != 7
  got = _finish(task, logits, target, valid)
  # From 0.11 to 0.3 three are said, two are right, two are edges.
  assert got["pixel_f"] == pytest.approx(100 * 2 * 2 / (3 + 2))
  wrong = -0.95 * np.log([0.905, 0.305]).sum() - 0.05 * np.log([0.395, 0.895]).sum()
  assert got["loss"] == pytest.approx(wrong / 4, rel=1e-5)
  assert _mean(task, logits, target, valid) == pytest.approx(wrong / 4, rel=1e-5)
  none = _finish(task, logits, 0 * target, valid)
  assert np.isnan(none["pixel_f"]) and none["loss"] > 0


@pytest.mark.parametrize("shape", [(60,), (60, 1)])
def test_binary_against_sklearn(shape):
  task = TaskSpec("income", "binary", positive_weight=5.0)
  target = RNG.integers(0, 2, 60).astype(np.int32)
  valid = np.arange(60) % 3 != 0
  logits = RNG.normal(size=60).round(1)
  got = _finish(task, logits.reshape(shape), target, valid)
  truth, score = target[valid], logits[valid]
  assert got == pytest.approx(
    {
      "auc": 100 * metrics.roc_auc_score(truth, score),
      "average_precision": 100 * metrics.average_precision_score(truth, score),
      "accuracy": 100 * metrics.accuracy_score(truth, score > 0),
    }
  )
  share = 1 / (1 + np.exp(-score))
  twin = -5 * truth * np.log(share) - (1 - truth) * np.log(1 - share)
  assert _mean(task, logits.reshape(shape), target, valid) == pytest.approx(twin.mean(), rel=1e-5)


def test_binary_over_time():
  task = TaskSpec("decompensation", "binary", 4)
  target = np.array([[0, 1, 0, 1], [1, 0, 0, 0]])
  valid = np.array([[True, True, True, False], [True, False, False, False]])
  logits = RNG.normal(size=(2, 4))
  got = _finish(task, logits, target, valid)
  twin = metrics.roc_auc_score(target[valid], logits[valid])
  assert got["auc"] == pytest.approx(100 * twin)
  constant = kinds.find("binary").constant(task, target, valid)
  np.testing.assert_allclose(constant, [0.0], atol=1e-7)


def test_a_constant_that_always_says_yes_stays_finite():
  task = TaskSpec("b", "binary")
  kind = kinds.find("binary")
  constant = kind.constant(task, np.ones(4), np.ones(4, bool))
  assert np.isfinite(constant).all() and 15 < float(constant[0]) <= 20


@pytest.mark.parametrize("single", [False, True])
def test_multilabel_against_sklearn(single):
  task = TaskSpec("pheno", "multilabel", 3)
  target = RNG.integers(0, 2, (50, 3))
  logits = RNG.normal(size=(50, 3)).round(1)
  valid = np.arange(50) % 5 != 0
  keep = np.repeat(valid[:, None], 3, 1)
  got = _finish(task, logits, target, keep if single else valid)
  truth, score = target[valid], logits[valid]
  assert got == pytest.approx(
    {
      "auc_macro": 100 * metrics.roc_auc_score(truth, score),
      "auc_micro": 100 * metrics.roc_auc_score(truth, score, average="micro"),
      "average_precision": 100 * metrics.average_precision_score(truth, score),
      "accuracy": 100 * np.mean((score > 0) == truth),
    }
  )


def test_multilabel_with_single_labels_missing():
  task = TaskSpec("assays", "multilabel", 2)
  target = np.array([[0.0, np.nan], [1, 1], [np.nan, 0], [0, 0]], np.float32)
  valid = ~np.isnan(target)
  logits = np.array([[-1.0, 9.0], [2, 1], [9, 0], [0, 2]])
  got = _finish(task, logits, target, valid)
  assert got["auc_macro"] == pytest.approx(100 * (1.0 + 0.5) / 2)
  assert got["accuracy"] == pytest.approx(100 * 5 / 6)
  assert np.isfinite(_mean(task, logits, target, valid))
  constant = kinds.find("multilabel").constant(task, target, valid)
  np.testing.assert_allclose(constant, np.log([0.5, 0.5]), rtol=1e-5)


@pytest.mark.parametrize("shape", [(90,), (30, 3)])
def test_multiclass_against_sklearn(shape):
  task = TaskSpec("los", "multiclass", 4)
  target = RNG.integers(0, 4, shape)
  logits = RNG.normal(size=(*shape, 4)) + 2 * np.eye(4)[target]
  valid = RNG.random(shape) < 0.8
  got = _finish(task, logits, target, valid)
  truth, score = target[valid], np.float32(logits[valid])
  share = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
  guess, kappa = score.argmax(-1), metrics.cohen_kappa_score
  assert got == pytest.approx(
    {
      "accuracy": 100 * metrics.accuracy_score(truth, guess),
      "kappa": 100 * kappa(truth, guess),
      "kappa_linear": 100 * kappa(truth, guess, weights="linear"),
      "auc_ovo": 100 * metrics.roc_auc_score(truth, share, multi_class="ovo"),
    }
  )
  assert _mean(task, logits, target, valid) == pytest.approx(
    metrics.log_loss(truth, share), rel=1e-5
  )


def test_class_frequencies_are_the_constant():
  target = np.array([0, 0, 1, 0, 7])
  valid = np.ones(5, bool)
  row = kinds.find("multiclass").constant(TaskSpec("c", "multiclass", 3), target, valid)
  np.testing.assert_allclose(row, [np.log(0.75), np.log(0.25), -20], rtol=1e-5)


def test_half_precision_logits_are_summed_in_float32():
  task = TaskSpec("seg", "segmentation", 2)
  target = np.zeros((1, 100, 100), np.int32)
  logits = jnp.zeros((1, 100, 100, 2), jnp.bfloat16)
  total, count = kinds.find("segmentation").loss(task, logits, target, target == 0)
  assert total.dtype == count.dtype == jnp.float32
  assert float(total) == pytest.approx(1e4 * np.log(2), rel=1e-5)


def test_class_weights_by_hand():
  """Two pixels, weights 1 and 3: (1 * log 2 + 3 * log 4) / 4."""
  logits = jnp.log(jnp.asarray([[[[0.5, 0.5], [0.75, 0.25]]]]))
  target = np.array([[[0, 1]]])
  valid = np.ones((1, 1, 2), bool)
  task = TaskSpec("s", "segmentation", 2, class_weights=(1.0, 3.0))
  total, count = kinds.find("segmentation").loss(task, logits, target, valid)
  np.testing.assert_allclose(total, np.log(2) + 3 * np.log(4), rtol=1e-6)
  assert count == 4
  total, count = kinds.find("segmentation").loss(task, logits, target, np.array([[[True, False]]]))
  np.testing.assert_allclose(total / count, np.log(2), rtol=1e-6)


def test_weights_of_the_classes_of_a_series():
  """As for pixels, and equal weights change no mean."""
  logits = jnp.log(jnp.asarray([[[0.5, 0.5], [0.75, 0.25], [0.1, 0.9]]]))
  target, valid = np.array([[0, 1, 1]]), np.array([[True, True, False]])
  kind = kinds.find("multiclass")
  task = TaskSpec("s", "multiclass", 2, class_weights=(1.0, 3.0), every_step=True)
  total, count = kind.loss(task, logits, target, valid)
  np.testing.assert_allclose(total, np.log(2) + 3 * np.log(4), rtol=1e-6)
  assert count == 4
  means = []
  for weights in ((), (2.0, 2.0)):
    task = TaskSpec("s", "multiclass", 2, class_weights=weights)
    total, count = kind.loss(task, logits, target, valid)
    means.append(total / count)
  np.testing.assert_allclose(*means, rtol=1e-6)


def test_inverse_depths_shrink_where_depths_grow():
  """A picture enlarged twice shows things at half their depth."""
  seen = jnp.full((1, 2, 2, 1), 3.0)
  restored = kinds.find("depth").restored
  for inverse, want in ((False, 6.0), (True, 1.5)):
    task = TaskSpec("d", "depth", inverse=inverse)
    np.testing.assert_array_equal(restored(task, seen, 2.0, 1.0), want)
    np.testing.assert_array_equal(restored(task, seen, 1.0, 1.0), 3.0)


@pytest.mark.parametrize("outputs", [1, 3])
def test_numbers_against_sklearn(outputs):
  task = TaskSpec("price", "number", outputs, unit="kg")
  target = RNG.normal(1e3, 2, (40, outputs)).astype(np.float32)
  logits = target + RNG.normal(size=target.shape).astype(np.float32)
  valid = np.arange(40) % 3 != 0
  labels = target[:, 0] if outputs == 1 else target
  got = _finish(task, logits, labels, valid)
  twins = np.float64(target[valid]), np.float64(logits[valid])
  assert got == pytest.approx(
    {
      "rmse": metrics.root_mean_squared_error(*(t.ravel() for t in twins)),
      "mae": metrics.mean_absolute_error(*twins),
      "r2": metrics.r2_score(*twins),
    }
  )
  assert _mean(task, logits, labels, valid) == pytest.approx(got["rmse"] ** 2, rel=1e-5)
  assert kinds.find("number").predict(task, jnp.asarray(logits)).shape == labels.shape
  counted = [m.name for m in kinds.find("number").metrics(task) if m.in_delta]
  assert counted == ["rmse"]


@pytest.mark.parametrize(
  ("loss", "total", "constant"),
  [("l2", 0.25 + 9, 4 / 3), ("l1", 0.5 + 3, 1.0), ("huber", 0.125 + 2 * (3 - 1), 1.0)],
)
def test_losses_of_numbers_by_hand(loss, total, constant):
  """Errors of 0.5 and 3 in one output; the third label is missing."""
  task = TaskSpec("x", "number", loss=loss, huber_delta=2.0)
  target = np.array([1.0, 3.0, np.nan, 0.0], np.float32)
  logits, valid = np.array([[1.5], [0.0], [7.0], [0.0]], np.float32), ~np.isnan(target)
  found = kinds.find("number").loss(task, jnp.asarray(logits), target, valid)
  assert float(found.total) == pytest.approx(total) and float(found.count) == 3
  np.testing.assert_allclose(kinds.find("number").constant(task, target, valid), [constant])
  steep = jax.grad(lambda x: kinds.find("number").loss(task, x, target, valid).total)(logits)
  np.testing.assert_allclose(
    steep[:, 0], {"l2": [1, -6, 0, 0], "l1": [1, -1, 0, 0], "huber": [0.5, -2, 0, 0]}[loss]
  )


def test_numbers_in_spreads_are_standardised_numbers():
  """A center and spreads are the same as standardising the targets, but for the unit of metrics."""
  kind, rng = kinds.find("number"), np.random.default_rng(3)
  logits = jnp.asarray(rng.normal(size=(9, 2)), jnp.float32)
  plain = rng.normal(size=(9, 2)).astype(np.float32)
  center, spread = np.float32([2000.0, -3.0]), np.float32([500.0, 0.25])
  valid = rng.random((9, 2)) > 0.2
  told = TaskSpec("x", "number", 2, center=(2000.0, -3.0), spread=(500.0, 0.25))
  bare = TaskSpec("x", "number", 2)
  target = plain * spread + center
  for loss in ("l1", "l2", "huber"):
    named = [dataclasses.replace(task, loss=loss) for task in (told, bare)]
    found, wanted = (
      kind.loss(t, logits, x, valid) for t, x in zip(named, (target, plain), strict=True)
    )
    np.testing.assert_allclose(found.total, wanted.total, rtol=2e-4)
    assert found.count == wanted.count
  np.testing.assert_allclose(
    kind.predict(told, logits), np.asarray(logits) * spread + center, rtol=1e-6
  )
  row = kind.constant(told, target, valid)
  means = np.asarray([target[valid[:, o], o].mean() for o in range(2)])
  np.testing.assert_allclose(row * spread + center, means, rtol=1e-5)
  nothing = np.zeros((9, 2), bool)
  np.testing.assert_array_equal(kind.constant(told, target, nothing), [0.0, 0.0])
  constant = _finish(told, np.tile(row, (9, 1)), target, valid)
  assert abs(constant["r2"]) < 1e-4 and constant["rmse"] > 50.0


def test_numbers_over_time_and_single_ones_missing():
  logits = RNG.normal(size=(2, 4, 1))
  target = RNG.normal(size=(2, 4)).astype(np.float32)
  valid = np.array([[True, True, False, True], [False, True, False, False]])
  got = _finish(TaskSpec("x", "number", every_step=True), logits, target, valid)
  error = np.float32(logits[..., 0])[valid] - target[valid]
  assert got["mae"] == pytest.approx(np.abs(error).mean())
  pairs = TaskSpec("x", "number", 2)
  missing = np.array([[True, True], [True, False], [True, False]])
  target = np.array([[1, 5], [2, np.nan], [6, np.nan]], np.float32)
  got = _finish(pairs, np.zeros((3, 2)), target, missing)
  # The second output has one label: no spread, so that R2 is that of the first.
  assert got["r2"] == pytest.approx(1 - (1 + 4 + 36) / (4 + 1 + 9))
  assert got["mae"] == pytest.approx((1 + 2 + 6 + 5) / 4)
  np.testing.assert_allclose(kinds.find("number").constant(pairs, target, missing), [3, 5])


def test_an_unknown_loss_is_answered_with_the_nearest():
  with pytest.raises(ValueError, match="loss of the task 'x' is 'hubr'.*mean 'huber'"):
    kinds.find("number").loss(
      TaskSpec("x", "number", loss="hubr"), jnp.zeros((1, 1)), np.zeros(1), np.ones(1, bool)
    )


def test_counts_of_labels_by_hand():
  count = lambda task, *labels: kinds.find(task.kind).counts(task, *map(np.array, labels))
  counts, number = count(TaskSpec("b", "binary"), [0.0, 1.0, 1.0, np.nan], [True] * 4)
  assert counts.tolist() == [1, 2] and number == 3
  missing = [[True, True], [True, False], [False, False]]
  counts, number = count(TaskSpec("m", "multilabel", 2), [[1, 1], [0, 1], [1, 1]], missing)
  assert counts.tolist() == [1, 1] and number == 2
  counts, number = count(TaskSpec("s", "segmentation", 3), [[[0, 2, 2, 255]]], [[[True] * 4]])
  assert counts.tolist() == [1, 0, 2] and number == 3
