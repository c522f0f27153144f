"""Predictions of dense tasks beside the labels."""

from __future__ import annotations

import dataclasses

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib

_LEGEND = 20  # classes that the legend names at most
_GAP, _GROUP = 0.04, 0.16  # inches between pictures, and between tasks
_HEAD, _FOOT = 0.42, 1.1  # inches above and below the pictures
_UNKNOWN = (0.93, 0.93, 0.93)


def predictions(run: workdir_lib.Run) -> Figure | None:
  """Inputs, labels and predictions, a row an example.

  Args:
    run: a run with `predictions.npz` of a dense data set.

  Returns:
    The figure, or None.
  """
  arrays = run.predictions
  names = [
      name for name in run.tasks
      if f"target/{name}" in arrays and f"prediction/{name}" in arrays
      and arrays[f"target/{name}"].ndim >= 3
  ]  # fmt: skip
  inputs = arrays.get("inputs")
  if not names or not len(arrays[f"target/{names[0]}"]):
    return None
  show_inputs = inputs is not None and inputs.ndim == 4
  sheet = _Sheet.plan(arrays[f"target/{names[0]}"], len(names), show_inputs)
  if inputs is not None and show_inputs:
    for row in range(sheet.rows):
      _image(sheet.cell(row, 0), _picture(inputs[row]))
    sheet.head(0, "input", ("",))
  for place, name in enumerate(names):
    _task(run, name, sheet, 2 * place + int(show_inputs))
  return sheet.figure


@dataclasses.dataclass(frozen=True)
class _Sheet:
  """A grid of pictures at exact places: rows are examples (inches).

  Attributes:
    figure: what it draws on.
    rows: number of examples.
    lead: 1 if the first column holds the inputs, else 0.
    wide: width of a picture.
    tall: height of a picture.
    size: width and height of the figure.
  """

  figure: Figure
  rows: int
  lead: int
  wide: float
  tall: float
  size: tuple[float, float]

  @classmethod
  def plan(cls, target: np.ndarray, tasks: int, lead: bool) -> _Sheet:
    """A sheet for targets [n, H, W, ...] of a number of tasks."""
    columns = 2 * tasks + int(lead)
    wide = float(np.clip(13.0 / columns, 1.2, 2.0))
    tall = wide * target.shape[1] / target.shape[2]
    width = columns * (wide + _GAP) + (tasks - 1 + int(lead)) * _GROUP
    height = len(target) * (tall + _GAP) + _HEAD + _FOOT
    fig = style.figure(width, height)
    fig.set_layout_engine("none")  # every place is given below
    return cls(fig, len(target), int(lead), wide, tall, (width, height))

  def left(self, column: int) -> float:
    """Left end of a column; a wider gap before every task."""
    groups = (column + 1) // 2 if self.lead else column // 2
    return column * (self.wide + _GAP) + groups * _GROUP

  def box(self, left: float, top: float, wide: float, tall: float) -> Axes:
    """Axes at a place, measured from the top left corner."""
    width, height = self.size
    return self.figure.add_axes(
        (left / width, 1 - (top + tall) / height, wide / width, tall / height)
    )

  def cell(self, row: int, column: int) -> Axes:
    """Axes of one picture."""
    top = _HEAD + row * (self.tall + _GAP)
    axes = self.box(self.left(column), top, self.wide, self.tall)
    style.bare(axes)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes

  def foot(self, column: int) -> tuple[float, float, float]:
    """Left end, top and width (inches) of the strip below a task's columns."""
    top = _HEAD + self.rows * (self.tall + _GAP) + 0.08
    return self.left(column), top, 2 * self.wide + _GAP

  def point(self, left: float, top: float) -> tuple[float, float]:
    """A place in inches from the top left corner as figure fractions."""
    width, height = self.size
    return left / width, 1 - top / height

  def head(self, column: int, title: str, words: tuple[str, ...]) -> None:
    """A title over some columns, and a small word over each of them."""
    width, height = self.size
    self.figure.text(
        self.left(column) / width, 1 - 0.16 / height, title, fontsize=9.5,
        fontweight="bold", va="bottom",
    )  # fmt: skip
    for place, word in enumerate(words):
      self.figure.text(
          self.left(column + place) / width, 1 - (_HEAD - 0.05) / height, word,
          fontsize=8, color=style.SOFT, va="bottom",
      )  # fmt: skip


def _image(axes: Axes, rgb: np.ndarray) -> None:
  axes.imshow(rgb, interpolation="nearest", aspect="equal")


def _picture(image: np.ndarray) -> np.ndarray:
  """An input [H, W, C] as RGB [H, W, 3] in 0..1."""
  image = np.asarray(image, np.float64)
  if image.size and image.max() > 1.5:
    image = image / 255.0
  if image.shape[-1] < 3:
    image = np.repeat(image[..., :1], 3, axis=-1)
  return np.clip(image[..., :3], 0, 1)


def _task(
    run: workdir_lib.Run, name: str, sheet: _Sheet, column: int
) -> None:
  """Two columns of one task and, below, how to read its colours."""
  arrays = run.predictions
  truth = _flat(arrays[f"target/{name}"])
  guess = _flat(arrays[f"prediction/{name}"])
  valid = arrays.get(f"valid/{name}")
  valid = np.ones(truth.shape[:3], bool) if valid is None else valid
  valid = np.asarray(valid, bool).reshape(len(valid), *valid.shape[1:3])
  if valid.ndim == 1:
    valid = np.broadcast_to(valid[:, None, None], truth.shape[:3])
  if truth.ndim == 4:
    colours = _normals(truth, guess, sheet, column)
  elif run.kind(name) == "segmentation" or truth.dtype.kind in "iub":
    labels = list(run.task(name).get("classes") or ())
    colours = _segments(labels, truth, guess, valid, sheet, column)
  else:
    title = f"{name} ({_unit(run, name)})" if _unit(run, name) else name
    colours = _scalars(title, truth, guess, valid, sheet, column)
  for row in range(len(truth)):
    shown = np.where(valid[row][..., None], colours[0][row], _UNKNOWN)
    _image(sheet.cell(row, column), shown)
    _image(sheet.cell(row, column + 1), colours[1][row])
  sheet.head(column, name, ("label", "prediction"))


def _flat(array: np.ndarray) -> np.ndarray:
  """[n, H, W, 1] as [n, H, W]; half precision as single."""
  array = np.asarray(array)
  array = array[..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array
  return array.astype(np.float32) if array.dtype.kind == "f" else array


def _normals(
    truth: np.ndarray, guess: np.ndarray, sheet: _Sheet, column: int
) -> tuple[np.ndarray, np.ndarray]:
  """Unit vectors as colours (n + 1) / 2."""
  left, top, _ = sheet.foot(column)
  sheet.figure.text(
      *sheet.point(left, top), "colour = (normal + 1) / 2: red x, green y,"
      " blue z", va="top", fontsize=7.5, color=style.SOFT,
  )  # fmt: skip
  return np.clip((truth + 1) / 2, 0, 1), np.clip((guess + 1) / 2, 0, 1)


def _segments(
    labels: list[str],
    truth: np.ndarray,
    guess: np.ndarray,
    valid: np.ndarray,
    sheet: _Sheet,
    column: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Class ids as colours, with the classes that appear as a legend."""
  truth, guess = truth.astype(int), guess.astype(int)
  real = truth[valid]
  count = int(max(guess.max(), real.max() if real.size else 0, 0)) + 1
  palette = style.class_colours(max(count, len(labels)))
  sizes = np.bincount(np.concatenate([real.ravel(), guess.ravel()]).clip(0))
  seen = sorted(np.argsort(-sizes)[: min(_LEGEND, int((sizes > 0).sum()))])
  handles = [
      Patch(
          color=palette[c], label=labels[c] if c < len(labels) else f"class {c}"
      )
      for c in seen
  ]
  if not valid.all():
    handles.append(Patch(color=_UNKNOWN, label="no label"))
  left, top, _ = sheet.foot(column)
  sheet.figure.legend(
      handles=handles, loc="upper left", ncols=3,
      bbox_to_anchor=sheet.point(left - 0.05, top),
      fontsize=7, handlelength=1, handleheight=1, columnspacing=1,
      handletextpad=0.5, borderaxespad=0,
  )  # fmt: skip
  return palette[truth.clip(0, len(palette) - 1)], palette[guess.clip(0)]


def _scalars(
    title: str,
    truth: np.ndarray,
    guess: np.ndarray,
    valid: np.ndarray,
    sheet: _Sheet,
    column: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers on one colour scale for labels and predictions, with its bar."""
  known = truth[valid] if valid.any() else guess.ravel()
  low, high = (float(v) for v in np.percentile(known, (1, 99)))
  scale = ScalarMappable(Normalize(low, max(high, low + 1e-6)), style.DEPTH)
  left, top, wide = sheet.foot(column)
  axes = sheet.box(left, top + 0.03, wide, 0.11)
  bar = sheet.figure.colorbar(scale, cax=axes, orientation="horizontal")
  bar.outline.set_visible(False)
  bar.ax.tick_params(length=2, labelsize=7.5)
  bar.set_label(title, fontsize=8)
  colours = [scale.cmap(scale.norm(part))[..., :3] for part in (truth, guess)]
  return colours[0], colours[1]


def _unit(run: workdir_lib.Run, name: str) -> str:
  """Unit of a task's labels: its own, or metres for depth."""
  found = run.task(name)
  return str(found.get("unit") or ("m" if found.get("kind") == "depth" else ""))
