"""Draws what an exported model says of one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import pathlib
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from dynashare_jax.report import style

_WIDE = 3.4  # inches, width of a picture
_COLUMNS = 4  # pictures side by side
_GAP, _HEAD, _LINE = 0.14, 0.3, 0.19  # inches: between, title, line of legend
_BAR = 0.55  # inches of a colour bar with its label
_INK = 0.62  # of a segmentation's colours over the image
_LEGEND = 20  # classes that a legend names at most


class Panel(NamedTuple):
  """One picture and how to read it.

  Attributes:
    title: over it.
    picture: RGB `[H, W, 3]` in 0..1.
    classes: names and colours, the most frequent first.
    scale: of a colour bar, with its label; None has no bar.
    note: a line below.
  """

  title: str
  picture: np.ndarray
  classes: tuple[tuple[str, np.ndarray], ...] = ()
  scale: tuple[ScalarMappable, str] | None = None
  note: str = ""

  @property
  def foot(self) -> float:
    """Inches below the picture."""
    if self.scale is not None:
      return _BAR
    lines = math.ceil(len(self.classes) / 3) + bool(self.note)
    return 0.08 + _LINE * lines


def is_dense(task: Mapping[str, Any]) -> bool:
  """Whether a task of a manifest predicts every pixel."""
  return len(task["shape"]) >= 3


def draw(
  image: np.ndarray,
  tasks: Sequence[Mapping[str, Any]],
  predictions: Mapping[str, np.ndarray],
  path: pathlib.Path,
) -> pathlib.Path:
  """Writes the image and a picture of every dense task as one PNG.

  Args:
    image: RGB `[H, W, 3]`, uint8 or in 0..1.
    tasks: of the manifest: `name`, `kind`, `classes`, `unit`, `shape`.
    predictions: task -> `[H, W, ...]`.
    path: of the PNG.

  Returns:
    `path`.

  Raises:
    ValueError: no task is dense.
  """
  image = np.asarray(image) / (255 if image.dtype == np.uint8 else 1)
  dense = [task for task in tasks if is_dense(task)]
  if not dense:
    raise ValueError("No task of this model predicts every pixel: nothing to draw.")
  found = [Panel("input", image)]
  for task in dense:
    found += panels(task, np.asarray(predictions[task["name"]]), image)
  with style.look():
    return style.save(_sheet(found), path)


def panels(task: Mapping[str, Any], prediction: np.ndarray, image: np.ndarray) -> list[Panel]:
  """Pictures of one task's prediction: one, or one a channel.

  Args:
    task: of the manifest.
    prediction: `[H, W]`, or `[H, W, channels]`.
    image: RGB `[H, W, 3]` in 0..1, which lies below a segmentation.
  """
  name = str(task["name"])
  if task["kind"] == "segmentation":
    return [_segments(name, task["classes"], prediction, image)]
  if task["kind"] == "normals":
    return [
      Panel(
        name,
        np.clip((prediction + 1) / 2, 0, 1),
        note="colour = (normal + 1) / 2: red x, green y, blue z",
      )
    ]
  if prediction.ndim == 2:
    return [_numbers(name, str(task["unit"]), prediction)]
  return [
    _numbers(f"{name} {channel}", str(task["unit"]), prediction[..., channel])
    for channel in range(prediction.shape[-1])
  ]


def _segments(name: str, classes: Sequence[str], ids: np.ndarray, image: np.ndarray) -> Panel:
  """Class colours over the grey image; the legend has their mean shade."""
  count = max(int(ids.max()) + 1, len(classes))
  palette = style.class_colours(count)
  sizes = np.bincount(ids.ravel(), minlength=count)
  seen = [c for c in np.argsort(-sizes, kind="stable") if sizes[c]]
  labels = [classes[c] if c < len(classes) else f"class {c}" for c in seen]
  grey = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)
  named = tuple(
    (label, _INK * palette[c] + (1 - _INK) * grey[ids == c].mean())
    for label, c in zip(labels, seen, strict=True)
  )
  note = ""
  if len(named) > _LEGEND:
    note = f"and {len(named) - _LEGEND} more classes"
  overlay = _INK * palette[ids] + (1 - _INK) * grey
  return Panel(name, overlay, named[:_LEGEND], None, note)


def _numbers(name: str, unit: str, values: np.ndarray) -> Panel:
  """Values on a colour scale between their 1st and 99th percentile."""
  values = np.asarray(values, np.float64)
  low, high = (float(v) for v in np.percentile(values, (1, 99)))
  colours = style.DEPTH if unit else style.SEQUENTIAL
  scale = ScalarMappable(Normalize(low, max(high, low + 1e-6)), colours)
  picture = scale.cmap(scale.norm(values))[..., :3]
  label = f"{name} ({unit})" if unit else name
  return Panel(name, picture, scale=(scale, label))


def _sheet(found: Sequence[Panel]) -> Figure:
  """Pictures side by side, in rows of equal height, each with its foot."""
  columns = min(len(found), _COLUMNS)
  rows = [found[i : i + columns] for i in range(0, len(found), columns)]
  height, width = found[0].picture.shape[:2]
  tall = _WIDE * height / width
  heights = [_HEAD + tall + max(p.foot for p in row) for row in rows]
  size = (columns * (_WIDE + _GAP) - _GAP, sum(heights) + _GAP * len(rows))
  figure = style.figure(*size)
  figure.set_layout_engine("none")  # every place is given below
  top = 0.0
  for row, high in zip(rows, heights, strict=True):
    for column, panel in enumerate(row):
      left = column * (_WIDE + _GAP)
      axes = _box(figure, size, left, top + _HEAD, tall)
      style.bare(axes)
      axes.set_xticks([])
      axes.set_yticks([])
      axes.imshow(panel.picture, interpolation="nearest", aspect="equal")
      axes.set_title(panel.title)
      _foot(figure, size, panel, left, top + _HEAD + tall)
    top += high + _GAP
  return figure


def _box(
  figure: Figure,
  size: tuple[float, float],
  left: float,
  top: float,
  tall: float,
  wide: float = _WIDE,
) -> Axes:
  """Axes at a place in inches from the top left corner."""
  width, height = size
  return figure.add_axes((left / width, 1 - (top + tall) / height, wide / width, tall / height))


def _foot(figure: Figure, size: tuple[float, float], panel: Panel, left: float, top: float) -> None:
  """How to read a panel's colours, below it."""
  x, y = left / size[0], 1 - (top + 0.06) / size[1]
  if panel.scale is not None:
    axes = _box(figure, size, left, top + 0.1, 0.12)
    bar = figure.colorbar(panel.scale[0], cax=axes, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)
    bar.set_label(panel.scale[1])
    return
  if panel.classes:
    figure.legend(
      handles=[Patch(color=colour, label=n) for n, colour in panel.classes],
      loc="upper left",
      bbox_to_anchor=(x, y),
      ncols=3,
      handlelength=1,
      handleheight=1,
      columnspacing=1.2,
      handletextpad=0.5,
      borderaxespad=0,
      borderpad=0,
    )
    y -= _LINE * math.ceil(len(panel.classes) / 3) / size[1]
  if panel.note:
    figure.text(x, y, panel.note, va="top", fontsize=8, color=style.SOFT)
