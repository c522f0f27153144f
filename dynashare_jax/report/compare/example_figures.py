"""What several methods predict for the same examples, task by task."""

from __future__ import annotations

from collections.abc import Mapping
import functools
import pathlib

from matplotlib.figure import Figure
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.compare import gains
from dynashare_jax.report.pictures import label_pictures
from dynashare_jax.report.pictures import picture_sheet


def write(runs: gains.Runs, folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Writes `examples-<task>.png` for every task that several methods drew.

  Args:
    runs: label -> its finished runs; the one with the lowest seed is drawn.
    folder: where.

  Returns:
    Task -> path of its figure. A figure of an earlier call that has no data
    any more is removed.
  """
  first = {label: min(several, key=gains.seed) for label, several in runs.items()}
  found = {}
  for task in next(iter(first.values())).tasks:
    path = style.draw(functools.partial(examples, first, task), folder / f"examples-{task}.png")
    if path is not None:
      found[task] = path
  return found


def examples(runs: Mapping[str, workdir_lib.Run], task: str) -> Figure | None:
  """One task: a row an example; input, label, then every method.

  Args:
    runs: label -> its run. Those without pictures of the task, or with other
      examples than the first that has some, are left out.
    task: its name.

  Returns:
    The figure, or None if fewer than two methods can be compared.
  """
  drawn = {
    label: run
    for label, run in runs.items()
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
