"""A picture of examples beside their labels, to look at a data set."""

from __future__ import annotations

import pathlib

import numpy as np

from dynashare_jax import types
from dynashare_jax.objectives import kinds
from dynashare_jax.report import style
from dynashare_jax.report.pictures import label_pictures
from dynashare_jax.report.pictures import picture_sheet

_PERCENTILES = (2, 95)  # where the colours of numbers end


def contact_sheet(
  batch: types.Batch, spec: types.DatasetSpec, path: str | pathlib.Path, rows: int = 6
) -> pathlib.Path:
  """Draws one row per example: its image, then its labels.

  Dense labels are pictures, pale where there is none; labels of the whole picture stand in words,
  where they have no time. There are at most `rows` examples of `batch`, whose inputs are RGB or
  grey in 0..1 `[B, H, W, 3 or 1]`. Makes the folder of `path`, which it returns.

  Raises:
    ValueError: the inputs are not such pictures, or there is no example.
  """
  tasks, chosen = _what(batch, spec, rows)
  images = label_pictures.rgb(np.clip(np.asarray(batch.inputs, np.float32)[chosen], 0.0, 1.0))
  with style.look():
    sheet = picture_sheet.Sheet.plan(images.shape[:3], (1,) * (len(tasks) + 1))
    sheet.pictures(0, label_pictures.mean(images, sheet.pixels))
    sheet.head(0, "image", ())
    for column, task in enumerate(tasks, 1):
      target, valid = (np.asarray(part[task.name])[chosen] for part in (batch.targets, batch.valid))
      sheet.head(column, task.name, ())
      if label_pictures.has_words(task.kind):
        named = label_pictures.words(task, target, valid)
        sheet.words(column, [[(name, style.INK)] for name in named])
        continue
      first = kinds.dense(task.kind).pictures(task, target)[:1]
      (drawn,), key = label_pictures.coloured(first, valid, sheet.pixels, _PERCENTILES)
      sheet.pictures(column, drawn)
      sheet.key(column, 1, key)
    return style.save(sheet.figure, pathlib.Path(path))


def _what(
  batch: types.Batch, spec: types.DatasetSpec, rows: int
) -> tuple[list[types.TaskSpec], np.ndarray]:
  """Returns the tasks and the examples that can be drawn."""
  shape = spec.input_shape
  if spec.input_kind != "image" or len(shape) != 3 or shape[-1] not in (1, 3):
    raise ValueError(
      f"contact_sheet: {spec.name} has {spec.input_kind} inputs of shape"
      f" {shape}; only RGB [H, W, 3] and grey [H, W, 1] can be drawn"
    )
  tasks = [
    task
    for task in spec.tasks
    if np.ndim(batch.valid[task.name]) == 3
    or (label_pictures.has_words(task.kind) and not task.every_step)
  ]
  chosen = np.flatnonzero(np.asarray(batch.present))[:rows]
  if not chosen.size:
    raise ValueError(
      f"contact_sheet: no example of {spec.name} to draw; give a batch with"
      f" some present and rows of at least 1 (it is {rows})"
    )
  return tasks, chosen
