"""Draws what an exported model predicts for one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from dynashare_jax import types
from dynashare_jax.objectives import kinds
from dynashare_jax.report import style
from dynashare_jax.report.pictures import label_pictures
from dynashare_jax.report.pictures import picture_sheet

_WIDEST = 3.4  # inches of a picture
_INK = 0.62  # of the colours of classes over the image


def is_dense(task: Mapping[str, Any]) -> bool:
  """Whether a task of a manifest predicts every pixel."""
  return len(task["shape"]) >= 3


def draw(
  image: np.ndarray,
  tasks: Sequence[Mapping[str, Any]],
  predictions: Mapping[str, np.ndarray],
  path: pathlib.Path,
) -> pathlib.Path:
  """Writes the image and a picture of every channel of every dense task as one PNG.

  Args:
    image: RGB `[H, W, 3]`, uint8 or in 0..1.
    tasks: of the manifest: `name`, `kind`, `classes`, `unit`, `shape`.
    predictions: task -> `[H, W, ...]`.
    path: of the PNG, which it returns.

  Raises:
    ValueError: no task is dense.
  """
  image = np.asarray(image) / (255 if image.dtype == np.uint8 else 1)
  found: list[kinds.base.Picture] = []
  for task in filter(is_dense, tasks):
    names = tuple(task["classes"])
    spec = types.TaskSpec(task["name"], task["kind"], classes=names, unit=task["unit"])
    found += kinds.dense(spec.kind).pictures(spec, np.asarray(predictions[spec.name])[None])
  if not found:
    raise ValueError("No task of this model predicts every pixel: nothing to draw.")
  with style.look():
    sheet = picture_sheet.Sheet.plan((1, *image.shape[:2]), (1,) * (len(found) + 1), _WIDEST)
    sheet.pictures(0, image[None])
    sheet.head(0, "input", ())
    for column, one in enumerate(found, 1):
      picture, key = panel(one, image)
      sheet.pictures(column, picture[None])
      sheet.head(column, one.title, ())
      sheet.key(column, 1, key)
    return style.save(sheet.figure, path)


def panel(one: kinds.base.Picture, image: np.ndarray) -> tuple[np.ndarray, label_pictures.Key]:
  """Returns RGB `[H, W, 3]` of a picture of one example, and its key.

  Classes lie over the grey image; the key has their mean shade.
  """
  everywhere = np.ones(one.values.shape[:3], bool)
  ((drawn,),), key = label_pictures.coloured((one,), everywhere, image.shape[1])
  if key.classes:
    over = _INK * drawn + (1 - _INK) * image.mean(-1, keepdims=True)
    shades = [(name, over[(drawn == colour).all(-1)].mean(0)) for name, colour in key.classes]
    return over, key._replace(classes=tuple(shades))
  return drawn, key
