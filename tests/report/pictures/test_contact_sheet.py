"""The contact sheet: what is on it, and what it refuses."""

from __future__ import annotations

import dataclasses
import pathlib

from matplotlib import image as images
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.report import style
from dynashare_jax.report.pictures import contact_sheet
from dynashare_jax.report.pictures import label_pictures

NAMES = ("segmentation", "depth", "normals", "edges", "keypoints")


def example(count: int = 3) -> tuple[types.Batch, types.DatasetSpec]:
  rng = np.random.default_rng(0)
  shape = (count, 12, 16)
  normals = rng.normal(size=(*shape, 3)).astype(np.float32)
  targets = {
    "segmentation": rng.integers(0, 4, shape).astype(np.int32),
    "depth": rng.uniform(1, 5, shape).astype(np.float32),
    "normals": normals / np.linalg.norm(normals, axis=-1, keepdims=True),
    "edges": rng.integers(0, 2, shape).astype(np.float32),
    "keypoints": rng.uniform(0, 1, shape).astype(np.float32),
  }
  valid = {name: np.ones(shape, bool) for name in NAMES}
  batch = types.Batch(
    rng.uniform(0, 1, (*shape, 3)).astype(np.float32), targets, valid, np.ones(count, bool)
  )
  classes = ("wall", "floor", "ball", "box")
  tasks = (
    types.TaskSpec("segmentation", "segmentation", 4, classes=classes),
    types.TaskSpec("depth", "depth", unit="m"),
    types.TaskSpec("normals", "normals", 3),
    types.TaskSpec("edges", "regression"),
    types.TaskSpec("keypoints", "regression"),
  )
  spec = types.DatasetSpec("toy", tasks, "image", (12, 16, 3), {"test": count})
  return batch, spec


def test_draws_every_colour_of_the_classes(tmp_path: pathlib.Path) -> None:
  batch, spec = example()
  path = contact_sheet.contact_sheet(batch, spec, tmp_path / "new" / "sheet.png", rows=2)
  picture = images.imread(path)[..., :3]
  assert picture.shape[1] > 900
  for colour in style.class_colours(4):
    assert (np.abs(picture - colour).max(-1) < 0.01).sum() > 1000


def test_more_rows_make_a_taller_sheet(tmp_path: pathlib.Path) -> None:
  batch, spec = example()
  heights = [
    images.imread(contact_sheet.contact_sheet(batch, spec, tmp_path / f"{n}.png", rows=n)).shape[0]
    for n in (1, 3, 9)
  ]
  assert heights[0] < heights[1] == heights[2]


def test_padding_and_missing_labels(tmp_path: pathlib.Path) -> None:
  batch, spec = example()
  batch.present[2:] = False
  for name in NAMES:
    batch.valid[name][:] = False
  batch.targets["segmentation"][:] = -1
  batch.targets["depth"][:] = np.nan
  path = contact_sheet.contact_sheet(batch, spec, tmp_path / "a.png")
  picture = images.imread(path)[..., :3]
  pale = np.abs(picture - label_pictures.UNKNOWN).max(-1) < 0.01
  assert pale.mean() > 0.5


def test_grey_pictures_and_classes_of_whole_pictures(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  figures = []
  monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure))
  tasks = (
    types.TaskSpec("left", "multiclass", 2, classes=("bag", "coat")),
    types.TaskSpec("bright", "number", unit="cd"),
    types.TaskSpec("worn", "multilabel", 2, classes=("hat", "tie")),
  )
  spec = types.DatasetSpec("toy", tasks, "image", (12, 16, 1), {"test": 2})
  targets = {
    "left": np.array([1, 0], np.int32),
    "bright": np.array([[2.5], [0]], np.float32),
    "worn": np.array([[1, 1], [1, 0]], np.int32),
  }
  known = np.array([[True, True], [False, True]])
  valid = {"left": known[:, 0], "bright": np.ones(2, bool), "worn": known}
  batch = types.Batch(np.full((2, 12, 16, 1), 0.5, np.float32), targets, valid, np.ones(2, bool))
  contact_sheet.contact_sheet(batch, spec, tmp_path / "a.png")
  assert [text.get_text() for text in figures[0].texts] == [
    *("image", "left", "coat", "no label", "bright", "2.5 cd", "0 cd"),
    *("worn", "hat, tie", "none"),
  ]
  assert len(figures[0].axes) == 2
  np.testing.assert_allclose(figures[0].axes[0].images[0].get_array(), 0.5)


def test_refuses_what_it_cannot_draw(tmp_path: pathlib.Path) -> None:
  batch, spec = example()
  series = dataclasses.replace(spec, input_kind="series", input_shape=(9, 1))
  with pytest.raises(ValueError, match="only RGB .* and grey"):
    contact_sheet.contact_sheet(batch, series, tmp_path / "a.png")
  with pytest.raises(ValueError, match="no example of toy"):
    contact_sheet.contact_sheet(batch, spec, tmp_path / "a.png", rows=0)
