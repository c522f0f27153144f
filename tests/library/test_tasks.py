"""Labels of arrays: what they are taken for, and what becomes of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dynashare_jax import types
from dynashare_jax.data.table import labels
from dynashare_jax.library import tasks
from dynashare_jax.objectives import kinds

ALL = np.arange(100)


@pytest.mark.parametrize(
  ("labels", "kind", "outputs"),
  [
    ([True, False, True], "binary", 1),
    ([0, 1, 1], "binary", 1),
    ([0.0, 1.0, np.nan], "binary", 1),
    ([3.5, 7.25, 3.5], "binary", 1),
    (["yes", "no", None], "binary", 1),
    (["a", "b", "c", "a", "b", "c"], "multiclass", 0),
    ([0, 2, 1, 2, 0, 1], "multiclass", 0),
    ([0.5, 2.25, 1.0], "number", 1),
    ([1.0, 2.0, 3.0], "number", 1),
    ([1.0, 2.0, 3.5, np.nan], "number", 1),
    (pd.Series([1, 2, 3, None]), "multiclass", 0),
    ([[0, 1], [1, 1]], "multilabel", 2),
    ([[0.5, 1], [1, 2]], "number", 2),
    (np.zeros((2, 3, 3), int) + np.arange(3), "segmentation", 3),
  ],
)
def test_what_labels_are_taken_for(labels, kind, outputs):
  found, why = tasks.infer("x", np.asarray(labels, None if kind != "binary" else object))
  assert (found.kind, found.outputs) == (kind, outputs) and why


@pytest.mark.parametrize(
  ("labels", "told"),
  [
    ([1.0, 1.0], "All labels of 'x' are"),
    ([np.nan, np.nan], "no label at all"),
    ([None, ""], "no label at all"),
    ([f"text {i}" for i in range(9)], "9 different texts in 9 rows"),
    (np.zeros((2, 3, 3)), "say tasks="),
    ([["a", "b"], ["b", "a"]], "one column a task"),
  ],
)
def test_labels_that_say_nothing(labels, told):
  with pytest.raises(ValueError, match=told):
    tasks.infer("x", np.asarray(labels))


def _encoded(task, labels, valid=None):
  made, targets, known = tasks.encode(task, np.asarray(labels), valid, ALL[: len(labels)])
  return made, targets.tolist(), known.tolist()


def test_classes_by_hand():
  task, targets, known = _encoded(tasks.binary("x"), np.array(["yes", None, "No "], object))
  assert (task.classes, targets, known) == (("No", "yes"), [1, 0, 0], [True, False, True])
  task, targets, _ = _encoded(tasks.binary("x"), ["ja", "nein"])
  assert (task.classes, targets) == (("nein", "ja"), [1, 0])
  task, targets, _ = _encoded(tasks.binary("x"), [-1, 1, -1])
  assert (task.classes, targets) == ((), [0, 1, 0])
  task, targets, _ = _encoded(tasks.binary("x"), [3.0, 5.0, np.nan])
  assert (task.classes, targets) == (("3", "5"), [0, 1, 0])
  task, targets, _ = _encoded(tasks.binary("x", ["up", "down"]), ["down", "up"])
  assert (task.classes, targets) == (("up", "down"), [1, 0])
  names = tasks.multiclass("x", ["1", "2", "3", "4"])
  assert _encoded(names, [1, 3, 2])[1] == _encoded(names, ["1", "3", "2"])[1] == [0, 2, 1]
  assert _encoded(tasks.multiclass("x", ["a", "b"]), [True, False])[1] == [1, 0]
  assert _encoded(tasks.multiclass("x", np.int64(3)), [2, 0, 1])[1] == [2, 0, 1]
  assert tasks.binary("x", positive_weight=np.float32(3)) == tasks.binary("x", positive_weight=3)
  task, targets, _ = _encoded(tasks.multiclass("x"), [10, 2, 10])
  assert (task.classes, task.outputs, targets) == (("2", "10"), 2, [1, 0, 1])
  task, targets, _ = _encoded(tasks.multiclass("x"), [2, 0, 1])
  assert (task.classes, task.outputs, targets) == ((), 3, [2, 0, 1])
  task, targets, _ = _encoded(tasks.multiclass("x"), [2, 0, 2])
  assert (task.classes, task.outputs, targets) == (("0", "2"), 2, [1, 0, 1])
  task, targets, known = _encoded(
    tasks.multiclass("x", 4), [3, 1, 0], np.array([True, True, False])
  )
  assert (task.outputs, targets[:2], known) == (4, [3, 1], [True, True, False])


def test_numbers_keep_their_unit_and_know_their_spread():
  task, targets, known = _encoded(tasks.regression("x"), [1.0, 3.0, np.nan, 5.0])
  assert targets == [1.0, 3.0, 0.0, 5.0] and known == [True, True, False, True]
  assert task.center == (3.0,) and task.spread == pytest.approx((np.sqrt(8 / 3),))
  only = tasks.encode(tasks.regression("x"), np.array([1.0, 3.0, 90.0]), None, np.arange(2))[0]
  assert (only.center, only.spread) == ((2.0,), (1.0,))


def test_pixels_without_a_label():
  task, targets, known = _encoded(tasks.segmentation("x", 3), np.array([[[0, -1], [2, 1]]]))
  assert known == [[[True, False], [True, True]]] and task.outputs == 3
  _, targets, known = _encoded(tasks.depth("x"), np.array([[[np.nan, 2.0]]]))
  assert targets == [[[0.0, 2.0]]] and known == [[[False, True]]]
  broken = np.array([[[[np.nan, 0, 1], [0, 0, 1.0]]]])
  assert _encoded(tasks.normals("x"), broken)[2] == [[[False, True]]]


@pytest.mark.parametrize(
  ("task", "labels", "told"),
  [
    (tasks.multiclass("x", ["red", "blue"]), ["red", "bleu"], "Row 1 .*'bleu'.*mean 'blue'"),
    (tasks.multiclass("x", 2), [0, 2, 1], "3 different labels"),
    (tasks.binary("x"), [0, 1, 2], "Row 2 of 'x': '2' beside '0' .*column 'x' has 3 values"),
    (tasks.regression("x"), np.array([1.0, "a"], object), "Row 1 of 'x': 'a' is no number"),
    (tasks.regression("x"), [1.0, np.inf], "Row 1 of 'x': 'inf' is no number of 32 bits"),
    (tasks.regression("x", outputs=2), [1.0, 2.0], r"must be \[N, 2\]"),
    (tasks.depth("x"), [1.0, 2.0], "pixels have"),
  ],
)
def test_labels_that_a_task_cannot_have(task, labels, told):
  with pytest.raises(ValueError, match=told):
    _encoded(task, labels)


@pytest.mark.parametrize("name", ["", "two words", "1st", "total", "image", 3])
def test_names_that_no_task_has(name):
  with pytest.raises(ValueError, match="cannot be called"):
    tasks.binary(name)


def test_classes_that_training_has_not_are_counted():
  targets, valid = np.array([0, 0, 1, 2, 2]), np.array([1, 1, 1, 1, 0], bool)
  task = tasks.multiclass("x", ["a", "b", "c"])
  rows = {"train": np.arange(2), "test": np.arange(2, 5)}
  (line,) = labels.unseen(task, "x", targets, valid, rows)
  assert line == "warning: x: 2 labels of test have a class that train never shows, first 'b'"
  every = {"train": np.arange(5), "test": np.arange(2, 5)}
  assert labels.unseen(task, "x", targets, valid, every) == []
  pixels = np.array([[[0, 1]], [[0, 2]], [[1, 1]]])
  task, known = tasks.segmentation("x", 3), np.ones((3, 1, 2), bool)
  (line,) = labels.unseen(
    task, "x", pixels, known, {"train": np.array([0, 2]), "test": np.array([1])}, "abc".__getitem__
  )
  assert line == (
    "warning: x: 1 labels of test have a class that train never shows, first class 2 ('b')"
  )


def _loss(task, logits, target):
  found = kinds.find(task.kind).loss(task, logits, target, np.ones(target.shape, bool))
  return float(found.total), float(found.count)


def test_balanced_classes_weigh_alike_in_the_loss():
  """By hand: with equal logits every label costs log 2, and both sides of a task the same."""
  labels_ = np.array(["no", "no", "no", "yes", "yes"])
  task, target, _ = tasks.encode(
    tasks.binary("x", positive_weight="balanced"), labels_, None, np.arange(4)
  )
  assert type(task) is types.TaskSpec and task.positive_weight == 3  # one yes, three no in training
  total, count = _loss(task, np.zeros((4, 1), np.float32), target[:4])
  np.testing.assert_allclose((total, count), (6 * np.log(2), 4), rtol=1e-6)
  classed = tasks.multiclass("x", class_weights="balanced")
  task, target, _ = tasks.encode(classed, labels_, None, np.arange(4))
  np.testing.assert_allclose(task.class_weights, (4 / 6, 4 / 2))
  logits = np.tile(np.float32([0, np.log(3)]), (4, 1))  # a no costs log 4, a yes log 4/3
  total, count = _loss(task, logits, target[:4])
  wanted = 3 * 4 / 6 * np.log(4) + 4 / 2 * np.log(4 / 3)
  np.testing.assert_allclose((total, count), (wanted, 4), rtol=1e-6)


def test_weights_of_classes_by_name_and_of_pixels():
  named = tasks.multiclass("x", class_weights={"yes": 2.5})
  task, _, _ = tasks.encode(named, np.array(["no", "yes"]), None, np.arange(2))
  assert task.class_weights == (1, 2.5)
  task, _, _ = tasks.encode(
    tasks.multiclass("x", class_weights=np.array([1, 4])), np.array([0, 1]), None, np.arange(2)
  )
  assert task.class_weights == (1, 4)
  pixels = np.array([[[0, 0, 0, 1]], [[1, 1, 1, -1]]])
  named = tasks.segmentation("x", 2, class_weights="balanced")
  task, _, _ = tasks.encode(named, pixels, None, np.arange(1))
  np.testing.assert_allclose(task.class_weights, (4 / 6, 4 / 2))
  several = tasks.multilabel("x", positive_weight=3)
  task, target, _ = tasks.encode(several, np.array([[0, 1], [1, 1]]), None, np.arange(2))
  assert (task.outputs, task.positive_weight, task.classes) == (2, 3, ())
  total, _ = _loss(task, np.zeros((2, 2), np.float32), target)
  np.testing.assert_allclose(total, (1 + 3 * 3) * np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
  ("task", "told"),
  [
    (tasks.multiclass("x", class_weights=(1, 2, 3)), "a number for each of the 2 classes .no, yes"),
    (
      tasks.multiclass("x", class_weights={"yse": 2}),
      "there is no class 'yse'. Did you mean 'yes'",
    ),
    (tasks.multiclass("x", class_weights="even"), "must be balanced, a number for each"),
    (tasks.binary("x", positive_weight=-1), "must be balanced or a number above 0, but is -1"),
  ],
)
def test_weights_that_cannot_be(task, told):
  with pytest.raises(ValueError, match=told):
    tasks.encode(task, np.array(["no", "yes"]), None, np.arange(2))
