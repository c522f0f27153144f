"""Predictions of dense tasks beside the labels."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib

_LEGEND = 24  # classes that the legend names at most
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
  rows = len(arrays[f"target/{names[0]}"])
  columns = 2 * len(names) + int(show_inputs)
  tall, wide = arrays[f"target/{names[0]}"].shape[1:3]
  cell = min(1.75, 14.0 / columns)
  fig = style.figure(cell * columns + 0.2, cell * tall / wide * rows + 1.6)
  head, foot = fig.subfigures(2, 1, height_ratios=[cell * rows, 1.0])
  grid = head.subplots(rows, columns, squeeze=False)
  head.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
  for axes in grid.ravel():
    style.bare(axes)
    axes.set_xticks([])
    axes.set_yticks([])
  place = 0
  if show_inputs:
    for row in range(rows):
      _image(grid[row, 0], _picture(inputs[row]))
    grid[0, 0].set_title("input")
    place = 1
  keys = foot.subplots(1, len(names), squeeze=False)[0]
  for key, name in zip(keys, names):
    _task(run, name, grid[:, place : place + 2], key)
    place += 2
  return fig


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
    run: workdir_lib.Run, name: str, grid: np.ndarray, key: Axes
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
  key.set_axis_off()
  if truth.ndim == 4:
    colours = _normals(truth, guess, key)
  elif run.kind(name) == "segmentation" or _classes(truth):
    colours = _segments(run, name, truth, guess, valid, key)
  else:
    colours = _scalars(run, name, truth, guess, valid, key)
  for row in range(len(truth)):
    shown = np.where(valid[row][..., None], colours[0][row], _UNKNOWN)
    _image(grid[row, 0], shown)
    _image(grid[row, 1], colours[1][row])
  grid[0, 0].set_title(f"{name}: label")
  grid[0, 1].set_title("prediction")


def _flat(array: np.ndarray) -> np.ndarray:
  """[n, H, W, 1] as [n, H, W]; half precision as single."""
  array = np.asarray(array)
  array = array[..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array
  return array.astype(np.float32) if array.dtype.kind == "f" else array


def _classes(truth: np.ndarray) -> bool:
  return truth.dtype.kind in "iub"


def _normals(
    truth: np.ndarray, guess: np.ndarray, key: Axes
) -> tuple[np.ndarray, np.ndarray]:
  """Unit vectors as colours (n + 1) / 2."""
  key.text(
      0.5, 0.9, "colour = (normal + 1) / 2:\nred x, green y, blue z",
      ha="center", va="top", fontsize=8, color=style.SOFT,
  )  # fmt: skip
  return np.clip((truth + 1) / 2, 0, 1), np.clip((guess + 1) / 2, 0, 1)


def _segments(
    run: workdir_lib.Run,
    name: str,
    truth: np.ndarray,
    guess: np.ndarray,
    valid: np.ndarray,
    key: Axes,
) -> tuple[np.ndarray, np.ndarray]:
  """Class ids as colours, with the classes that appear as a legend."""
  labels = list(run.task(name).get("classes") or ())
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
  key.legend(
      handles=handles, loc="upper center", ncols=3 if len(handles) > 4 else 2,
      fontsize=7, handlelength=1, handleheight=1, columnspacing=1,
      handletextpad=0.5, borderaxespad=0,
  )  # fmt: skip
  return palette[truth.clip(0, len(palette) - 1)], palette[guess.clip(0)]


def _scalars(
    run: workdir_lib.Run,
    name: str,
    truth: np.ndarray,
    guess: np.ndarray,
    valid: np.ndarray,
    key: Axes,
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers on one colour scale for labels and predictions, with its bar."""
  known = truth[valid] if valid.any() else guess.ravel()
  low, high = (float(v) for v in np.percentile(known, (1, 99)))
  scale = ScalarMappable(Normalize(low, max(high, low + 1e-6)), style.DEPTH)
  axes = key.inset_axes((0.08, 0.72, 0.84, 0.14))
  bar = key.figure.colorbar(scale, cax=axes, orientation="horizontal")
  bar.outline.set_visible(False)
  bar.ax.tick_params(length=2, labelsize=7.5)
  unit = _unit(run, name)
  bar.set_label(f"{name} ({unit})" if unit else name, fontsize=8)
  colours = [scale.cmap(scale.norm(part))[..., :3] for part in (truth, guess)]
  return colours[0], colours[1]


def _unit(run: workdir_lib.Run, name: str) -> str:
  """Unit of a task's labels: its own, or metres for depth."""
  found = run.task(name)
  return str(found.get("unit") or ("m" if found.get("kind") == "depth" else ""))
