"""Predictions of pictures beside the labels, and where they are wrong."""

from __future__ import annotations

from matplotlib import colors
from matplotlib.figure import Figure

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.pictures import label_pictures
from dynashare_jax.report.pictures import picture_sheet


def predictions(run: workdir_lib.Run) -> Figure | None:
  """Draws inputs, labels, predictions and errors, one row per example.

  Args:
    run: a run with `predictions.npz` of dense tasks, or of labels of whole pictures.
  """
  found = {name: label_pictures.read(run, name) for name in run.tasks}
  dense = [one for one in found.values() if one is not None]
  named = {n: label_pictures.read_words(run, n) for n, one in found.items() if one is None}
  whole = {name: words for name, words in named.items() if words is not None}
  images = label_pictures.inputs(run, 1)
  show = images is not None
  if not dense and not (whole and show):
    return None
  shape = dense[0].truth.shape[:3] if dense else run.predictions["inputs"].shape[:3]
  sheet = picture_sheet.Sheet.plan(shape, (1,) * show + (3,) * len(dense) + (1,) * len(whole))
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
  for place, (name, words) in enumerate(whole.items()):
    column = sheet.column(show + len(dense) + place)
    pairs = zip(words.truth, words.guess, strict=True)
    sheet.words(column, [_lines(*pair, words.exact) for pair in pairs])
    sheet.head(column, name, ())
  return sheet.figure


def _lines(label: str, guess: str, exact: bool) -> tuple[tuple[str, str], ...]:
  """A label and a prediction below it, red where it is wrong."""
  wrong = exact and guess != label != label_pictures.NONE
  colour = colors.to_hex(style.WRONG) if wrong else style.INK
  return (f"label: {label}", style.INK), (f"prediction: {guess}", colour)
