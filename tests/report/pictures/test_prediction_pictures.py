"""Tests of the pictures of predictions: right colours, right legends."""

from __future__ import annotations

import numpy as np
from PIL import Image
import pytest

from dynashare_jax import types
from dynashare_jax.objectives import kinds
from dynashare_jax.report import style
from dynashare_jax.report.pictures import prediction_pictures as pictures


def _one(kind, prediction, image=None, **spec):
  """Pictures of a prediction, each with its key."""
  image = np.full((4, 6, 3), 0.5) if image is None else image
  found = kinds.dense(kind).pictures(types.TaskSpec("t", kind, **spec), prediction[None])
  return [pictures.panel(one, image) for one in found]


def test_a_segmentation_lies_over_the_grey_image():
  ids = np.zeros((4, 6), int)
  ids[:, 4:] = 3
  image = np.random.default_rng(0).uniform(size=(4, 6, 3))
  ((picture, key),) = _one("segmentation", ids, image, classes=("a", "b", "c", "d"))
  palette = style.class_colours(4)
  by_hand = 0.62 * palette[3] + 0.38 * image[1, 5].mean()
  np.testing.assert_allclose(picture[1, 5], by_hand)
  assert [name for name, _ in key.classes] == ["a", "d"]
  shade = 0.62 * palette[3] + 0.38 * image[:, 4:].mean()
  np.testing.assert_allclose(key.classes[1][1], shade)


def test_classes_without_a_name_and_too_many_of_them():
  ids = np.arange(24).reshape(4, 6)
  ((_, key),) = _one("segmentation", ids, classes=("a",))
  assert [n for n, _ in key.classes][:3] == ["a", "class 1", "class 2"]
  assert len(key.classes) == 20 and key.note == "and 4 more classes"


def test_normals_are_colours():
  up = np.broadcast_to(np.array([0.0, -1.0, 0.0]), (4, 6, 3))
  ((picture, key),) = _one("normals", up)
  np.testing.assert_allclose(picture, np.broadcast_to(np.array([0.5, 0.0, 0.5]), (4, 6, 3)))
  assert "red x" in key.note


def test_colours_are_drawn_as_they_are_and_cut():
  guess = np.broadcast_to(np.array([0.25, -0.5, 1.5]), (4, 6, 3))
  ((picture, key),) = _one("colour", guess)
  np.testing.assert_allclose(picture, np.broadcast_to(np.array([0.25, 0.0, 1.0]), (4, 6, 3)))
  assert key.scale is None and not key.classes and not key.note


def test_numbers_have_a_bar_with_their_unit():
  depth = np.linspace(1, 5, 24).reshape(4, 6)
  ((_, key),) = _one("depth", depth, unit="m")
  assert key.note == "t (m)"
  assert key.scale.norm.vmin == pytest.approx(np.percentile(depth, 1))
  assert key.scale.norm.vmax == pytest.approx(np.percentile(depth, 99))
  ((flat, key),) = _one("regression", np.zeros((4, 6)))
  assert np.isfinite(flat).all() and key.note == "t"
  two = _one("regression", np.zeros((4, 6, 2)))
  assert [key.note for _, key in two] == ["t 0", "t 1"]


def test_a_sheet_is_written(tmp_path):
  task = {"unit": "", "classes": [], "shape": ["batch", 4, 6], "kind": "depth"}
  tasks = [task | {"name": name} for name in "abcde"]
  path = pictures.draw(
    np.full((4, 6, 3), 255, np.uint8),
    tasks,
    {name: np.eye(4, 6) for name in "abcde"},
    tmp_path / "deep" / "x.png",
  )
  with Image.open(path) as drawn:
    width, height = drawn.size
  assert width > 3 * height  # six pictures side by side
  flat = [task | {"name": "f", "kind": "binary", "shape": ["batch"]}]
  with pytest.raises(ValueError, match="No task of this model predicts every"):
    pictures.draw(np.zeros((4, 6, 3)), flat, {}, tmp_path / "y.png")
