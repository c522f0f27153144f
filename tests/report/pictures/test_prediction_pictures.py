"""Tests of the pictures of predictions: right colours, right legends."""

from __future__ import annotations

import numpy as np
from PIL import Image
import pytest

from dynashare_jax.report import style
from dynashare_jax.report.pictures import prediction_pictures as pictures

TASK = {"name": "t", "unit": "", "classes": [], "shape": ["batch", 4, 6]}


def _one(task, prediction, image=None):
  image = np.full((4, 6, 3), 0.5) if image is None else image
  return pictures.panels(TASK | task, prediction, image)


def test_a_segmentation_lies_over_the_grey_image():
  ids = np.zeros((4, 6), int)
  ids[:, 4:] = 3
  image = np.random.default_rng(0).uniform(size=(4, 6, 3))
  (panel,) = _one({"kind": "segmentation", "classes": ["a", "b", "c", "d"]}, ids, image)
  palette = style.class_colours(4)
  by_hand = 0.62 * palette[3] + 0.38 * image[1, 5].mean()
  np.testing.assert_allclose(panel.picture[1, 5], by_hand)
  assert [name for name, _ in panel.classes] == ["a", "d"]  # by area
  shade = 0.62 * palette[3] + 0.38 * image[:, 4:].mean()
  np.testing.assert_allclose(panel.classes[1][1], shade)


def test_classes_without_a_name_and_too_many_of_them():
  ids = np.arange(24).reshape(4, 6)
  (panel,) = _one({"kind": "segmentation", "classes": ["a"]}, ids)
  assert [n for n, _ in panel.classes][:3] == ["a", "class 1", "class 2"]
  assert len(panel.classes) == 20 and panel.note == "and 4 more classes"


def test_normals_are_colours():
  up = np.broadcast_to(np.array([0.0, -1.0, 0.0]), (4, 6, 3))
  (panel,) = _one({"kind": "normals"}, up)
  np.testing.assert_allclose(panel.picture, np.broadcast_to(np.array([0.5, 0.0, 0.5]), (4, 6, 3)))
  assert "red x" in panel.note


def test_numbers_have_a_bar_with_their_unit():
  depth = np.linspace(1, 5, 24).reshape(4, 6)
  (panel,) = _one({"kind": "depth", "unit": "m"}, depth)
  scale, label = panel.scale
  assert label == "t (m)"
  assert scale.norm.vmin == pytest.approx(np.percentile(depth, 1))
  assert scale.norm.vmax == pytest.approx(np.percentile(depth, 99))
  (flat,) = _one({"kind": "regression"}, np.zeros((4, 6)))
  assert np.isfinite(flat.picture).all() and flat.scale[1] == "t"
  two = _one({"kind": "regression"}, np.zeros((4, 6, 2)))
  assert [p.title for p in two] == ["t 0", "t 1"]


def test_a_sheet_is_written(tmp_path):
  tasks = [TASK | {"name": name, "kind": "depth"} for name in "abcde"]
  path = pictures.draw(
    np.full((4, 6, 3), 255, np.uint8),
    tasks,
    {name: np.eye(4, 6) for name in "abcde"},
    tmp_path / "deep" / "x.png",
  )
  with Image.open(path) as drawn:
    width, height = drawn.size
  assert width > 1.5 * height  # two rows of four
  flat = [TASK | {"name": "f", "kind": "binary", "shape": ["batch"]}]
  with pytest.raises(ValueError, match="No task of this model predicts every"):
    pictures.draw(np.zeros((4, 6, 3)), flat, {}, tmp_path / "y.png")
