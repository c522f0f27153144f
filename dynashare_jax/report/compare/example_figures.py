"""What several methods predict for the same examples, task by task."""

from __future__ import annotations

from matplotlib.figure import Figure
import numpy as np

from dynashare_jax.report.compare import gains
from dynashare_jax.report.pictures import label_pictures
from dynashare_jax.report.pictures import picture_sheet


def examples(runs: gains.Runs, task: str) -> Figure | None:
  """Draws one row per example of a task: input, label, then every method's lowest seed.

  Runs without pictures of the task, or with other examples than the first
  that has some, are left out. Returns None if fewer than two remain.
  """
  drawn = {
    label: run
    for label, run in ((label, min(found, key=gains.seed)) for label, found in runs.items())
    if f"target/{task}" in run.predictions and f"prediction/{task}" in run.predictions
  }
  if len(drawn) < 2:
    return None
  reference = next(iter(drawn.values()))
  labels = reference.predictions[f"target/{task}"]
  drawn = {
    label: run for label, run in drawn.items() if _equal(run.predictions[f"target/{task}"], labels)
  }
  others = [run for run in drawn.values() if run is not reference]
  dense = label_pictures.read(reference, task, others)
  if dense is None or len(drawn) < 2:
    return None
  show = label_pictures.inputs(reference, 1) is not None
  groups = (1 + show, len(drawn))
  sheet = picture_sheet.Sheet.plan(dense.truth.shape[:3], groups)
  images = label_pictures.inputs(reference, sheet.pixels)
  if images is not None:
    sheet.pictures(0, images)
  truth, guesses, key = label_pictures.paint(dense, sheet.pixels)
  sheet.pictures(int(show), truth)
  sheet.head(0, task, ("input", "label") if show else ("label",))
  for place, pictures in enumerate(guesses):
    sheet.pictures(sheet.column(1) + place, pictures)
  sheet.head(sheet.column(1), "", tuple(drawn))
  sheet.key(0, sum(groups), key)
  return sheet.figure


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
  """Whether two arrays hold the same labels; NaN equals NaN."""
  floats = first.dtype.kind == "f" and second.dtype.kind == "f"
  return np.array_equal(first, second, equal_nan=floats)
