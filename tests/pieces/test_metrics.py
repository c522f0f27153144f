"""Metrics of one's own loop: sums of any batches, and errors before anything is computed."""

from __future__ import annotations

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax import metrics
from dynashare_jax.objectives import kinds
from dynashare_jax.types import TaskSpec

RNG = np.random.default_rng(4)
OPTIONS = ("outputs", "class_weights", "positive_weight", "inverse")
OPTIONS += ("loss", "huber_delta", "center", "spread")


class Noted(TaskSpec):
  """A task that notes which of its options are read."""

  def __getattribute__(self, name):
    if name in OPTIONS:
      NOTES.add(name)
    return super().__getattribute__(name)


NOTES: set[str] = set()


@pytest.mark.parametrize("name", kinds.available())
def test_a_kind_reads_the_options_that_it_names(name):
  """Traced alone, which takes no time."""
  kind = kinds.find(name)
  fields = {field.name for field in dataclasses.fields(TaskSpec)}
  assert set(OPTIONS) <= fields
  outputs = kind.outputs(TaskSpec(name, name, 3))
  task = Noted(name, name, outputs, class_weights=(1.0,) * outputs, loss="huber")
  axes = (2, 4, 4) if kind.dense else (2,)
  whole = isinstance(kind, kinds.base.Classes)
  wide = axes if whole or outputs == 1 else (*axes, outputs)
  logits = jax.ShapeDtypeStruct((*axes, outputs), np.float32)
  target = jax.ShapeDtypeStruct(wide, np.int32 if whole else np.float32)
  valid = jax.ShapeDtypeStruct(axes, bool)
  NOTES.clear()
  for of in (kind.loss, kind.sums, kind.scores):
    jax.eval_shape(lambda *args, of=of: of(task, *args), logits, target, valid)
  assert set(kind.reads) >= NOTES
  # What `finish` alone reads, and an output that needs no look.
  assert set(kind.reads) - NOTES <= {"outputs", "inverse"}


@pytest.mark.parametrize(
  "kind, options, targets",
  [
    ("binary", {}, RNG.integers(0, 2, 12)),
    ("number", {"outputs": 2}, RNG.normal(size=(12, 2)).astype(np.float32)),
    ("multiclass", {"classes": 3}, RNG.integers(0, 3, 12)),
  ],
)
def test_batches_of_any_size_add_up_to_the_whole(kind, options, targets):
  """Also of what needs all examples at once, as an area under a curve does."""
  found = metrics.find(kind, **options)
  logits = RNG.normal(size=(12, found.outputs)).astype(np.float32)
  valid = np.arange(12) != 5
  total, sums_of = None, jax.jit(found.sums)
  for rows in (slice(0, 7), slice(7, 9), slice(9, 12)):
    total = found.add(total, sums_of(logits[rows], targets[rows], valid[rows]))
  task, of = TaskSpec(kind, kind, found.outputs), kinds.find(kind)
  args = (jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(valid))
  parts = jax.jit(
    lambda *args: (of.sums(task, *args), of.scores(task, *args), of.loss(task, *args))
  )
  whole, scores, sums = jax.device_get(parts(*args))
  wanted = of.finish(task, whole, scores)
  assert found.finish(total) == pytest.approx(wanted)
  assert [metric.name for metric in found.metrics] == list(wanted)
  assert sums.count == (11 if kind != "number" else 22)
  assert float(jax.jit(found.loss)(logits, targets, valid)) == pytest.approx(
    sums.total / sums.count
  )


def test_an_error_of_a_pixel_without_a_label_counts_nowhere():
  depth = metrics.find("depth", unit="m")
  targets = np.array([[[1.0, 2.0], [np.nan, 4.0]]], np.float32)
  valid = np.array([[[True, True], [False, True]]])
  logits = np.array([[[[1.5], [2.0]], [[9.0], [5.0]]]], np.float32)
  found = depth.finish(depth.sums(logits, targets, valid))
  assert found["abs"] == pytest.approx((0.5 + 0.0 + 1.0) / 3)
  assert found["rel"] == pytest.approx((0.5 + 0.0 + 0.25) / 3)
  assert depth.metrics[0].unit == "m" and not depth.metrics[0].higher_is_better
  assert float(depth.loss(logits, targets, valid)) == pytest.approx(0.5)


@pytest.mark.parametrize(
  "kind, options, told",
  [
    ("segmentatoin", {}, "Did you mean 'segmentation'"),
    ("segmentation", {}, "needs `classes`"),
    ("multiclass", {"classes": 1}, "needs `classes`"),
    ("depth", {"classes": 4}, "'depth' has no use for classes; its options are inverse, unit"),
    ("binary", {"inverse": True}, "no use for inverse; its options are positive_weight, unit"),
    ("multiclass", {"classes": 3, "class_weights": [1, 2]}, "`class_weights` has 2 numbers for 3"),
    ("number", {"loss": "l3"}, "`loss` is 'l3'"),
    ("number", {"classes": 2, "outputs": 2}, "give one of them"),
  ],
)
def test_options_that_do_not_fit_are_told(kind, options, told):
  with pytest.raises(ValueError, match=told):
    metrics.find(kind, **options)


def test_arrays_that_do_not_fit_are_told():
  labels, pixels = np.zeros(4, int), np.zeros((4, 2, 2), int)
  with pytest.raises(ValueError, match="shape \\(4, 5\\): their last axis must have 3 outputs"):
    metrics.find("multiclass", classes=3).sums(np.zeros((4, 5)), labels)
  with pytest.raises(ValueError, match="give \\[B, h, w, 3\\]"):
    metrics.find("segmentation", classes=3).sums(np.zeros((4, 3)), pixels)
  with pytest.raises(ValueError, match="give equally many examples"):
    metrics.find("segmentation", classes=3).loss(np.zeros((3, 2, 2, 3)), pixels)


ONES = jnp.ones


@pytest.mark.parametrize(
  ("kind", "options", "logits", "targets", "valid", "told"),
  [
    ("binary", {}, (4, 1), np.full(4, 2.0), None, "must be 0 and 1, but one is 2.0"),
    ("binary", {}, (4, 1), np.full(4, np.nan), None, "must be 0 and 1, but one is nan"),
    ("binary", {}, (4, 1), np.ones(4), ONES((4, 1)), "give their leading axes"),
    ("binary", {}, (4, 1), np.ones(4), ONES(1), "give their leading axes"),
    ("binary", {}, (2, 1), np.array(["a", "b"]), None, "must be numbers"),
    ("multiclass", {"classes": 3}, (2, 3), np.array([0.5, 1.0]), None, "must be integers"),
    ("multiclass", {"classes": 3}, (2, 3), np.ones((2, 1), int), None, "no labels of 3 outputs"),
    ("multilabel", {"classes": 3}, (2, 3), np.ones(2), None, "no labels of 3 outputs"),
    ("number", {}, (2, 5), np.ones(2), None, "no labels of 1 outputs"),
    ("number", {}, (2, 1), np.array([np.inf, 0.0]), None, "must be finite numbers"),
    ("segmentation", {"classes": 3}, (1, 2, 2, 3), np.ones((1, 2, 2, 1), int), None, "no labels"),
    ("segmentation", {"classes": 3}, (1, 2, 2, 3), np.ones((1, 2, 2)), None, "must be integers"),
    ("segmentation", {"classes": 3}, (1, 2, 2, 3), np.ones((1, 2, 2), int), ONES(1), "leading"),
    ("depth", {}, (1, 2, 2, 2), np.ones((1, 2, 2)), None, "no labels of 1 outputs"),
    ("normals", {}, (1, 2, 2, 3), np.ones((1, 2, 2)), None, "no labels of 3 outputs"),
  ],
)
def test_targets_that_are_no_labels_are_refused(kind, options, logits, targets, valid, told):
  found = metrics.find(kind, **options)
  with pytest.raises(ValueError, match=told):
    found.loss(ONES(logits), targets, valid)


@pytest.mark.parametrize(
  ("kind", "options", "told"),
  [
    ("multiclass", {"classes": 2.5}, "whole and at least 1, but is 2.5"),
    ("number", {"outputs": 0}, "whole and at least 1, but is 0"),
    ("multilabel", {}, "needs `classes`"),
    ("multiclass", {"classes": 2, "class_weights": (-1, 1)}, "`class_weights` must be finite"),
    ("binary", {"positive_weight": np.nan}, "`positive_weight` must be finite and above 0"),
    ("number", {"loss": "huber", "huber_delta": 0.0}, "`huber_delta` must be"),
    ("number", {"spread": (0.0,)}, "`spread` must be"),
    ("number", {"center": (np.nan,)}, "`center` must be"),
  ],
)
def test_options_that_no_loss_has_are_refused(kind, options, told):
  with pytest.raises(ValueError, match=told):
    metrics.find(kind, **options)


def test_sums_of_two_kinds_are_not_mixed():
  binary, classes = metrics.find("binary"), metrics.find("multiclass", classes=2)
  labels = np.array([0, 1])
  other = classes.sums(ONES((2, 2)), labels)
  with pytest.raises(ValueError, match="another kind of task than binary"):
    binary.finish(other)
  with pytest.raises(ValueError, match="two kinds of tasks"):
    binary.add(binary.add(None, binary.sums(ONES((2, 1)), labels)), other)
  with pytest.raises(ValueError, match="not a NoneType"):
    binary.finish(None)
  with pytest.raises(ValueError, match="must have 2 outputs"):
    classes.predict(ONES((2, 5)))
