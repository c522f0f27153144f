"""A picture of examples beside their dense labels, to look at a data set."""

from __future__ import annotations

import pathlib

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from dynashare_jax import types
from dynashare_jax.report import style

CELL = 2.2  # inches, width of a picture
KEY = 0.75  # inches, height of the legends
MISSING = (0.93, 0.93, 0.93)  # pixels without a label


def contact_sheet(
  batch: types.Batch, spec: types.DatasetSpec, path: str | pathlib.Path, rows: int = 6
) -> pathlib.Path:
  """Draws one row for each example: its image, then every dense label.

  Args:
    batch: examples of the data set; inputs RGB in 0..1 `[B, H, W, 3]`.
    spec: what the data set is.
    path: picture to write; its folder is made.
    rows: how many examples, fewer if the batch has fewer.

  Returns:
    `path`. Segmentation has a fixed colour for each class and a legend; depth
    (and other regressions with a unit) a colour bar, one range for all rows;
    normals show (n + 1) / 2; a task called `keypoints` lies over the image;
    other regressions are grey. Pixels without a label are pale.

  Raises:
    ValueError: the inputs are not RGB pictures, no task is dense, or there is
      no example.
  """
  tasks, chosen = _what(batch, spec, rows)
  images = np.clip(np.asarray(batch.inputs, np.float32)[chosen], 0.0, 1.0)
  tall = CELL * images.shape[1] / images.shape[2] + 0.06
  columns, count = len(tasks) + 1, len(chosen)
  with style.look():
    figure = style.figure(CELL * columns, tall * count + KEY + 0.2)
    axes = _grid(figure, count, columns, tall)
    for axis, image in zip(axes[:-1, 0], images, strict=True):
      axis.imshow(image, interpolation="nearest")
    axes[0, 0].set_title("image")
    for column, task in enumerate(tasks, 1):
      target = np.asarray(batch.targets[task.name])[chosen]
      valid = np.asarray(batch.valid[task.name])[chosen]
      pictures = _pictures(task, target, valid, images, axes[-1, column])
      for axis, picture in zip(axes[:-1, column], pictures, strict=True):
        axis.imshow(picture, interpolation="nearest")
      axes[0, column].set_title(task.name)
    return style.save(figure, pathlib.Path(path))


def _what(
  batch: types.Batch, spec: types.DatasetSpec, rows: int
) -> tuple[list[types.TaskSpec], np.ndarray]:
  """The tasks and the examples that can be drawn."""
  shape = spec.input_shape
  if spec.input_kind != "image" or len(shape) != 3 or shape[-1] != 3:
    raise ValueError(
      f"contact_sheet: {spec.name} has {spec.input_kind} inputs of shape"
      f" {shape}; only RGB pictures [H, W, 3] can be drawn"
    )
  tasks = [t for t in spec.tasks if np.ndim(batch.valid[t.name]) == 3]
  if not tasks:
    raise ValueError(f"contact_sheet: {spec.name} has no dense task to draw")
  chosen = np.flatnonzero(np.asarray(batch.present))[:rows]
  if not chosen.size:
    raise ValueError(
      f"contact_sheet: no example of {spec.name} to draw; give a batch with"
      f" some present and rows of at least 1 (it is {rows})"
    )
  return tasks, chosen


def _grid(figure: Figure, count: int, columns: int, tall: float) -> np.ndarray:
  """Axes `[count + 1, columns]`; the last row is for legends."""
  axes = figure.subplots(
    count + 1, columns, squeeze=False, gridspec_kw={"height_ratios": [tall] * count + [KEY]}
  )
  figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
  for axis in axes.ravel():
    axis.set_axis_off()
  return axes


def _pictures(
  task: types.TaskSpec, target: np.ndarray, valid: np.ndarray, images: np.ndarray, key: Axes
) -> np.ndarray:
  """A task's labels as RGB `[rows, H, W, 3]`; explains them in the key."""
  if task.kind == "segmentation":
    palette = style.class_colours(task.outputs)
    colours = palette[np.clip(target, 0, task.outputs - 1)]
    _legend(task, palette, key)
  elif task.kind == "normals":
    colours = (target + 1.0) / 2.0
  elif task.name == "keypoints":
    heat = np.clip(target, 0.0, 1.0)[..., None]
    grey = 0.6 * images.mean(-1, keepdims=True)
    colours = grey * (1.0 - heat) + heat * np.array([1.0, 0.75, 0.1])
  else:
    colours = _scale(task, target, valid, key)
  colours = np.where(valid[..., None], colours, MISSING)
  return np.clip(colours, 0.0, 1.0)


def _legend(task: types.TaskSpec, palette: np.ndarray, key: Axes) -> None:
  names = task.classes or tuple(f"class {k}" for k in range(task.outputs))
  handles = [
    Patch(color=tuple(colour), label=name) for colour, name in zip(palette, names, strict=True)
  ]
  key.legend(
    handles=handles,
    loc="upper center",
    ncols=3,
    fontsize=6.5,
    handlelength=1,
    handleheight=1,
    columnspacing=0.8,
    handletextpad=0.4,
    borderaxespad=0,
  )


def _scale(task: types.TaskSpec, target: np.ndarray, valid: np.ndarray, key: Axes) -> np.ndarray:
  """Numbers on one colour scale, with a bar if they have a unit."""
  target = target[..., 0] if target.ndim == 4 else target
  known = target[valid]
  low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
  scale = ScalarMappable(
    Normalize(low, max(high, low + 1e-6)), style.DEPTH if task.unit else "gray"
  )
  if task.unit:
    inset = key.inset_axes((0.08, 0.8, 0.84, 0.15))
    bar = key.figure.colorbar(scale, cax=inset, orientation="horizontal")
    bar.set_label(task.unit)
  return np.asarray(scale.cmap(scale.norm(target)))[..., :3]
