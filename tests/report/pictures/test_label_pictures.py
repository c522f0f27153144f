"""Pictures of labels, predictions and errors: colours and sizes by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.objectives import kinds
from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.compare import comparison
from dynashare_jax.report.compare import example_figures
from dynashare_jax.report.pictures import label_pictures
from dynashare_jax.report.pictures import picture_sheet
from dynashare_jax.report.run import prediction_figures

PALE = label_pictures.UNKNOWN


def dense(kind, truth, guess, valid=None, unit="", classes=()):
  truth, guess = np.asarray(truth), np.asarray(guess)
  valid = np.ones(truth.shape[:3], bool) if valid is None else valid
  task = types.TaskSpec("task", kind, classes=classes, unit=unit)
  return label_pictures.Dense(task, truth, (guess,), np.asarray(valid, bool))


def error(one):
  return kinds.dense(one.task.kind).error(one.task, one.truth, one.guesses[0])


def test_wrong_pixels_are_red_over_grey_and_void_is_pale():
  one = dense("segmentation", [[[0, 1, 2, 0]]], [[[0, 2, 2, 5]]], [[[True, True, True, False]]])
  drawn, key = label_pictures.mistakes(one, 4)
  right, wrong = [0.6] * 3, style.WRONG
  np.testing.assert_allclose(drawn[0, 0], [right, wrong, right, PALE], 1e-6)
  assert [name for name, _ in key.classes] == ["wrong", "right", "no label"]
  image = np.full((1, 1, 4, 3), 0.5)
  drawn, _ = label_pictures.mistakes(one, 4, image)
  np.testing.assert_allclose(drawn[0, 0, 0], [0.55] * 3, 1e-6)


def test_squares_that_are_half_wrong_are_half_red():
  one = dense("segmentation", np.zeros((1, 4, 4), int), np.array([[[0, 1, 1, 1]] * 4]))
  drawn, _ = label_pictures.mistakes(one, 2)
  assert drawn.shape == (1, 2, 2, 3)
  red = 0.5 * np.array(style.WRONG) + 0.5 * 0.6
  np.testing.assert_allclose(drawn[0, 0], [red, style.WRONG], 1e-6)


def test_angles_of_normals_in_degrees():
  turned = np.array([[0, 0, 2.0], [0, 3, 0], [0, 1, 1], [0, 0, -1]])
  one = dense(
    "normals", np.full((1, 1, 4, 3), np.float32([0, 0, 1])), np.float32(turned[None, None])
  )
  sizes, note = error(one)
  np.testing.assert_allclose(sizes[0, 0], [0, 90, 45, 180], atol=1e-4)
  assert note == "angle (deg)"
  _, key = label_pictures.mistakes(one, 4)
  assert key.scale.norm.vmin == 0
  assert key.scale.norm.vmax == pytest.approx(np.percentile(sizes, 98))


def test_absolute_errors_of_numbers():
  truth = np.array([[[1.0, 2.0, 4.0, np.nan]]], np.float32)
  one = dense("depth", truth, [[[1.5, 2.0, 1.0, 7.0]]], [[[True, True, True, False]]], "m")
  drawn, key = label_pictures.mistakes(one, 4)
  assert key.note == "error (m)"
  assert key.scale.norm.vmax == pytest.approx(np.percentile([0.5, 0, 3], 98))
  np.testing.assert_allclose(drawn[0, 0, 3], PALE)
  np.testing.assert_allclose(drawn[0, 0, 1], key.scale.cmap(0.0)[:3])
  maps = dense("regression", np.zeros((1, 1, 2, 2)), [[[[1.0, 3.0], [0.0, -2.0]]]])
  np.testing.assert_allclose(error(maps)[0], [[[2, 1]]])
  truth, _, key = label_pictures.paint(maps, 2)
  assert truth.shape == (1, 1, 2, 3) and key.note == "task 0"


def test_large_pictures_are_reduced_for_drawing():
  labels = np.arange(480 * 640).reshape(1, 480, 640)
  small = label_pictures.thin(labels, 288)
  assert small.shape == (1, 240, 320)
  assert small[0, 0, 0] == labels[0, 1, 1]
  assert label_pictures.thin(labels, 640) is not None
  for width in (5, 6, 7, 8, 9):
    picture = np.ones((1, 7, width, 3))
    for pixels in (1, 2, 3, 8):
      assert (
        label_pictures.mean(picture, pixels).shape == label_pictures.thin(picture, pixels).shape
      )
  ramp = np.arange(4.0).reshape(1, 1, 4, 1).repeat(2, 1)
  assert label_pictures.mean(ramp, 2).ravel().tolist() == [0.5, 2.5]


def test_dark_bytes_stay_dark(tmp_path):
  np.savez(tmp_path / "predictions.npz", inputs=np.ones((1, 2, 2, 3), np.uint8))
  found = label_pictures.inputs(workdir_lib.load(tmp_path), 2)
  np.testing.assert_allclose(found, 1 / 255, 1e-6)


def test_columns_stand_in_groups():
  with style.look():
    sheet = picture_sheet.Sheet.plan((2, 48, 64), (1, 3, 3))
  assert [sheet.column(g) for g in range(3)] == [0, 1, 4]
  gaps = np.diff([sheet.left(c) for c in range(7)]) - sheet.wide
  np.testing.assert_allclose(gaps, [0.2, 0.04, 0.04, 0.2, 0.04, 0.04])
  assert sheet.left(6) + sheet.wide < sheet.size[0] + 1e-9


def _run(workdir, target, **changes):
  """The run with some of its pictures changed."""
  arrays = dict(workdir_lib.load(workdir).predictions) | changes
  target.mkdir()
  (target / "results.json").write_bytes((workdir / "results.json").read_bytes())
  np.savez(target / "predictions.npz", **{k: v for k, v in arrays.items() if v is not None})
  return workdir_lib.load(target)


def test_a_run_has_a_column_of_errors_for_every_task(workdir):
  with style.look():
    figure = prediction_figures.predictions(workdir_lib.load(workdir))
  words = [text.get_text() for text in figure.texts]
  assert [words.count(w) for w in ("label", "prediction", "error")] == [3] * 3
  labels = {axes.get_xlabel() for axes in figure.axes}
  assert {"angle (deg)", "error (m)", "depth (m)"} <= labels


def test_methods_side_by_side_share_colours(workdir, tmp_path):
  run = workdir_lib.load(workdir)
  other = _run(workdir, tmp_path / "b", **{"prediction/depth": run.predictions["target/depth"]})
  with style.look():
    figure = example_figures.examples({"a": [run], "b": [other]}, "depth")
  shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
  assert len(shown) == 3 * 4  # input, label and two methods, three examples
  words = [text.get_text() for text in figure.texts]
  assert words == ["depth", "input", "label", "", "a", "b"]
  label, perfect = shown[3], shown[9]
  valid = run.predictions["valid/depth"][0]
  np.testing.assert_allclose(label[valid], perfect[valid])
  assert np.allclose(label[~valid], PALE) and not np.allclose(label, perfect)


def test_only_the_same_examples_are_compared(workdir, tmp_path):
  run = workdir_lib.load(workdir)
  moved = {"target/depth": run.predictions["target/depth"][::-1]}
  other = _run(workdir, tmp_path / "b", **moved)
  bare = _run(workdir, tmp_path / "c", **{"prediction/depth": None})
  runs = {"a": [run], "b": [other], "c": [bare]}
  with style.look():
    assert example_figures.examples(runs, "depth") is None
    assert example_figures.examples({"c": [bare], "b": [other]}, "depth") is None
    figure = example_figures.examples(runs, "normals")
  assert sum(bool(axes.images) for axes in figure.axes) == 3 * 5


def test_figures_of_an_earlier_comparison_are_removed(workdir, tmp_path):
  run = workdir_lib.load(workdir)
  bare = _run(workdir, tmp_path / "c", **{"prediction/depth": None})
  folder = tmp_path / "table"
  folder.mkdir()
  (folder / "examples-depth.png").write_bytes(b"of an earlier table")
  found = comparison.figures({"a": [run], "b": [bare]}, folder)["examples"]
  assert sorted(found) == ["normals", "segmentation"]
  assert not (folder / "examples-depth.png").exists()
  assert found["normals"].stat().st_size > 10_000
