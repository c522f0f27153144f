"""Predictions of dense tasks beside the labels, and where they are wrong."""

from __future__ import annotations

from matplotlib.figure import Figure

from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.pictures import label_pictures
from dynashare_jax.report.pictures import picture_sheet


def predictions(run: workdir_lib.Run) -> Figure | None:
  """Draws inputs, labels, predictions and errors, one row per example.

  Args:
    run: a run with `predictions.npz` of a dense data set.
  """
  found = [label_pictures.read(run, name) for name in run.tasks]
  dense = [one for one in found if one is not None]
  if not dense:
    return None
  show = label_pictures.inputs(run, 1) is not None
  shape = dense[0].truth.shape[:3]
  sheet = picture_sheet.Sheet.plan(shape, (1,) * show + (3,) * len(dense))
  images = label_pictures.inputs(run, sheet.pixels)
  if images is not None:
    sheet.pictures(0, images)
    sheet.head(0, "input", ())
  for place, one in enumerate(dense):
    column = sheet.column(place + show)
    truth, (guess,), key = label_pictures.paint(one, sheet.pixels)
    errors, error_key = label_pictures.mistakes(one, sheet.pixels, images)
    for offset, pictures in enumerate((truth, guess, errors)):
      sheet.pictures(column + offset, pictures)
    sheet.key(column, 2, key)
    sheet.key(column + 2, 1, error_key)
    sheet.head(column, one.task.name, ("label", "prediction", "error"))
  return sheet.figure
