"""The authors' way to score dense tasks, beside ours, by hand and slowly."""

from __future__ import annotations

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.objectives import kinds
from dynashare_jax.types import TaskSpec


def _both(task):
  """The task scored in our way, and in the authors'."""
  return task, dataclasses.replace(task, metrics="authors")


@functools.partial(jax.jit, static_argnums=0)
def _sums(task, logits, target, valid, present):
  return kinds.find(task.kind).sums(task, logits, target, valid, present)


def _score(task, batches):
  """Metrics of batches `(logits, target, valid)` or with `present` as well."""
  totals = None
  for logits, target, valid, *rest in batches:
    present = rest[0] if rest else np.ones(len(target), bool)
    sums = jax.device_get(_sums(task, jnp.asarray(logits, jnp.float32), target, valid, present))
    sums = jax.tree.map(lambda x: np.asarray(x, np.float64), sums)
    totals = sums if totals is None else jax.tree.map(np.add, totals, sums)
  return kinds.find(task.kind).finish(task, totals, {})


def _one_hot(ids, classes):
  return 9.0 * np.eye(classes)[np.asarray(ids)]


def test_miou_by_hand():
  """Four pixels of classes 0, 0, 1, 2; class 1 is never hit."""
  ours, authors = _both(TaskSpec("s", "segmentation", 3))
  target = np.array([[[0, 0], [1, 2]]])
  batch = [(_one_hot([[[0, 0], [0, 2]]], 3), target, target >= 0)]
  # Class 0: 2 of 3, class 1: 0 of 1, class 2: 1 of 1.
  assert _score(ours, batch)["miou"] == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)
  assert _score(authors, batch)["miou"] == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_void_below_0_is_an_error_and_255_is_left_out():
  """Labels 0, -1, 255, 1; both real ones are right."""
  ours, authors = _both(TaskSpec("s", "segmentation", 2))
  target = np.array([[[0, -1], [255, 1]]])
  valid = (target >= 0) & (target < 2)
  batch = [(_one_hot([[[0, 0], [0, 1]]], 2), target, valid)]
  assert _score(ours, batch)["pixel_accuracy"] == pytest.approx(100)
  assert _score(authors, batch)["pixel_accuracy"] == pytest.approx(100 * 2 / 3)
  assert _score(authors, batch)["miou"] == pytest.approx(100)
  # What is not valid but holds a class id is left out by both.
  hidden = valid & (target != 1)
  batch = [(_one_hot([[[0, 0], [0, 1]]], 2), target, hidden)]
  assert _score(authors, batch)["pixel_accuracy"] == pytest.approx(50)


def test_void_of_padding_does_not_count():
  _, authors = _both(TaskSpec("s", "segmentation", 2))
  target = np.array([[[0, -1], [1, 1]]] * 3)
  valid = target >= 0
  logits = _one_hot(np.zeros((3, 2, 2), int), 2)
  alone = _score(authors, [(logits[:1], target[:1], valid[:1])])
  present = np.array([True, False, False])
  padded = _score(authors, [(logits, target, valid & present[:, None, None], present)])
  assert padded == pytest.approx(alone)
  assert alone["pixel_accuracy"] == pytest.approx(25)


def test_accuracy_averages_batches_by_their_examples():
  """Two examples with 1 of 4 labelled pixels each, then one with 4 of 4."""
  ours, authors = _both(TaskSpec("s", "segmentation", 2))
  few = np.array([[[0, 255], [255, 255]]] * 2)
  full = np.zeros((1, 2, 2), int)
  wrong = _one_hot(np.ones((1, 2, 2), int), 2)
  batches = [(_one_hot(np.zeros((2, 2, 2), int), 2), few, few < 2), (wrong, full, full < 2)]
  assert _score(ours, batches)["pixel_accuracy"] == pytest.approx(100 * 2 / 6)
  assert _score(authors, batches)["pixel_accuracy"] == pytest.approx(100 * (2 * 1.0 + 1 * 0.0) / 3)


def test_depth_by_hand():
  """Depths 1, 2, 4, 4; a negative prediction, and two batches."""
  ours, authors = _both(TaskSpec("d", "depth", unit="m"))
  target = np.array([[[1.0, 2.0]], [[4.0, 4.0]]], np.float32)
  logits = np.array([[[-1.0, 2.0]], [[4.0, 8.0]]])[..., None]
  valid = np.array([[[True, True]], [[True, False]]])
  batches = [(logits[i : i + 1], target[i : i + 1], valid[i : i + 1]) for i in range(2)]
  got, twin = _score(ours, batches), _score(authors, batches)
  assert got["abs"] == pytest.approx(2 / 3)
  assert twin["abs"] == pytest.approx((1.0 + 0.0) / 2)
  assert got["rel"] == pytest.approx(2 / 3)
  assert twin["rel"] == pytest.approx((1.0 + 0.0) / 2)
  # The negative depth is within no ratio here, within every one there.
  assert got["delta_1.25"] == pytest.approx(100 * 2 / 3)
  assert twin["delta_1.25"] == pytest.approx(100)


def test_a_depth_of_0_is_within_no_ratio_of_either():
  for task in _both(TaskSpec("d", "depth")):
    batch = [(np.zeros((1, 1, 2, 1)), np.ones((1, 1, 2), np.float32), np.ones((1, 1, 2), bool))]
    assert _score(task, batch)["delta_1.25^3"] == 0


def test_regression_averages_batches():
  ours, authors = _both(TaskSpec("r", "regression"))
  target = np.array([[[1.0, 2.0]], [[9.0, 0.0]]], np.float32)
  valid = np.array([[[True, True]], [[True, False]]])
  zero = np.zeros((1, 1, 2, 1))
  batches = [(zero, target[i : i + 1], valid[i : i + 1]) for i in range(2)]
  assert _score(ours, batches)["l1"] == pytest.approx(12 / 3)
  assert _score(authors, batches)["l1"] == pytest.approx((1.5 + 9) / 2)


def test_angles_differ_by_the_enlargement_alone():
  """Two directions, 90 degrees apart, enlarged to four pixels."""
  ours, authors = _both(TaskSpec("n", "normals", 3))
  logits = np.array([[[[1.0, 0, 0], [0, 1.0, 0]]]])
  target = np.repeat(logits, 2, axis=2).astype(np.float32)
  batch = [(logits, target, np.ones((1, 1, 4), bool))]
  assert _score(authors, batch)["mean"] == pytest.approx(0, abs=1e-3)
  # Bilinear: weights (3/4, 1/4) in the two middle pixels.
  middle = np.rad2deg(np.arctan2(0.25, 0.75))
  assert _score(ours, batch)["mean"] == pytest.approx(middle / 2, rel=1e-5)
  assert _score(ours, batch)["within_11.25"] == pytest.approx(50)


def test_a_batch_without_labels_weighs_nothing():
  for kind, outputs in (("depth", 1), ("segmentation", 2), ("regression", 1)):
    _, task = _both(TaskSpec("t", kind, outputs))
    target = np.ones((2, 1, 2), np.float32)
    if kind == "segmentation":
      target = np.zeros((2, 1, 2), np.int32)
    logits = np.zeros((2, 1, 2, outputs))
    full = (logits, target, np.ones((2, 1, 2), bool))
    empty = (logits, target, np.zeros((2, 1, 2), bool))
    want = _score(task, [full])
    assert _score(task, [full, empty]) == pytest.approx(want)
    assert all(np.isnan(v) for v in _score(task, [empty]).values())


def _random(kind, outputs, rng, size):
  """Logits of a quarter of the size, targets with void, and a mask."""
  shape = (size, 8, 12)
  logits = rng.normal(size=(size, 3, 5, outputs)).astype(np.float32)
  if kind == "segmentation":
    target = rng.choice([-1, 0, 1, 2, 255], shape).astype(np.int32)
    return logits, target, (target >= 0) & (target < 3)
  return (logits, rng.uniform(0.5, 3, shape).astype(np.float32), rng.random(shape) < 0.6)


def _twin(kind, batches):
  """The authors' numbers, pixel by pixel."""
  weights = [len(target) for _, target, _ in batches]
  means, ratios = {}, []
  counts = np.zeros((3, 3))
  for logits, target, valid in batches:
    rows = np.arange(8) * 3 // 8
    columns = np.arange(12) * 5 // 12
    large = logits[:, rows][:, :, columns]
    if kind == "segmentation":
      guess = large.argmax(-1)
      kept = target < 3
      right = (guess == target)[kept].mean()
      means.setdefault("pixel_accuracy", []).append(100 * right)
      np.add.at(counts, (target[valid], guess[valid]), 1)
      continue
    error = np.abs(large[..., 0] - target)[valid]
    means.setdefault("abs", []).append(error.mean())
    means.setdefault("rel", []).append((error / target[valid]).mean())
    p, g = large[..., 0][valid], target[valid]
    ratios.append(np.maximum(p / g, g / p))
  found = {k: np.average(v, weights=weights) for k, v in means.items()}
  if kind == "segmentation":
    hits = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - hits
    found["miou"] = 100 * np.mean((hits / union)[hits > 0])
  else:
    ratios = np.concatenate(ratios)
    for n, name in enumerate(("delta_1.25", "delta_1.25^2", "delta_1.25^3"), 1):
      found[name] = 100 * np.mean(ratios <= 1.25**n)
  return found


@pytest.mark.parametrize(("kind", "outputs"), [("segmentation", 3), ("depth", 1)])
def test_against_a_slow_twin(kind, outputs):
  rng = np.random.default_rng(4)
  _, task = _both(TaskSpec("t", kind, outputs))
  batches = [_random(kind, outputs, rng, size) for size in (4, 4, 2)]
  assert _score(task, batches) == pytest.approx(_twin(kind, batches), rel=1e-5)


@pytest.mark.parametrize(
  ("kind", "outputs"), [("segmentation", 3), ("depth", 1), ("regression", 1)]
)
def test_only_the_authors_values_depend_on_the_batch_size(kind, outputs):
  rng = np.random.default_rng(5)
  logits, target, valid = _random(kind, outputs, rng, 6)
  valid[1:, :4] = False  # so that examples have different numbers of labels
  target[1:, :4] = 2
  logits[0] += 3
  cut = lambda size: [
    (logits[i : i + size], target[i : i + size], valid[i : i + size]) for i in range(0, 6, size)
  ]
  ours, authors = _both(TaskSpec("t", kind, outputs))
  assert _score(ours, cut(1)) == pytest.approx(_score(ours, cut(6)), rel=1e-5)
  one, six = _score(authors, cut(1)), _score(authors, cut(6))
  name = {"segmentation": "pixel_accuracy", "depth": "abs"}.get(kind, "l1")
  assert abs(one[name] - six[name]) > 1e-3


def test_details_tell_every_class_apart():
  task = TaskSpec("s", "segmentation", 4)
  target = np.array([[[0, 0], [0, 1]]])
  logits = jnp.asarray(_one_hot([[[0, 0], [2, 1]]], 4), jnp.float32)
  sums = _sums(task, logits, target, target >= 0, np.ones(1, bool))
  found = kinds.find("segmentation").details(task, sums)
  np.testing.assert_allclose(found["iou"], [200 / 3, 100, 0, np.nan])
  np.testing.assert_allclose(found["accuracy"], [200 / 3, 100, np.nan, np.nan])
  np.testing.assert_allclose(found["share"], [75, 25, 0, 0])
