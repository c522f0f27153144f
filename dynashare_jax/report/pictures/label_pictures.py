"""Labels, predictions and errors of dense tasks as pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
import numpy as np

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib

UNKNOWN = (0.93, 0.93, 0.93)  # pixels without a label
_LEGEND = 20  # classes that a legend names at most
_NORMALS = "colour = (normal + 1) / 2: red x, green y, blue z"


class Key(NamedTuple):
  """How to read the colours of some pictures.

  Attributes:
    classes: names and RGB colours.
    scale: of a colour bar; None has none.
    note: label of the bar, or a line of its own.
  """

  classes: tuple[tuple[str, np.ndarray], ...] = ()
  scale: ScalarMappable | None = None
  note: str = ""


class Dense(NamedTuple):
  """One task's labels and predictions of some examples.

  Attributes:
    name: of the task.
    kind: of the task; empty where it is not known.
    unit: of its numbers.
    classes: names of its classes.
    truth: `[n, H, W]`, or `[n, H, W, channels]`.
    guesses: predictions of one or more models, each shaped as `truth`.
    valid: bool `[n, H, W]`.
  """

  name: str
  kind: str
  unit: str
  classes: tuple[str, ...]
  truth: np.ndarray
  guesses: tuple[np.ndarray, ...]
  valid: np.ndarray

  @property
  def sort(self) -> str:
    """How it is drawn: `normals`, `segments` or `numbers`."""
    if self.kind == "normals" or (
      not self.kind and self.truth.ndim == 4 and self.truth.shape[-1] == 3
    ):
      return "normals"
    if self.kind == "segmentation" or self.truth.dtype.kind in "iub":
      return "segments"
    return "numbers"


def read(run: workdir_lib.Run, name: str, others: Sequence[workdir_lib.Run] = ()) -> Dense | None:
  """Reads one task's labels and predictions.

  Args:
    run: its labels and prediction.
    name: of the task.
    others: runs whose predictions follow.

  Returns:
    None if the run has no labels and predictions of pixels for the task.
  """
  arrays = run.predictions
  if f"target/{name}" not in arrays or f"prediction/{name}" not in arrays:
    return None
  truth = _flat(arrays[f"target/{name}"])
  if truth.ndim < 3 or not len(truth):
    return None
  valid = np.ones(truth.shape[:3], bool)
  if f"valid/{name}" in arrays:
    valid = np.asarray(arrays[f"valid/{name}"], bool)
    valid = valid.reshape(*valid.shape[:3], *(1,) * (3 - valid.ndim))
    valid = np.broadcast_to(valid, truth.shape[:3])
  task = run.task(name)
  unit = task.get("unit") or ("m" if task.get("kind") == "depth" else "")
  guesses = tuple(_flat(r.predictions[f"prediction/{name}"]) for r in (run, *others))
  return Dense(
    name, run.kind(name), str(unit), tuple(task.get("classes") or ()), truth, guesses, valid
  )


def inputs(run: workdir_lib.Run, pixels: int) -> np.ndarray | None:
  """Input pictures as RGB `[n, h, w, 3]` in 0..1, reduced; None without."""
  if "inputs" not in run.predictions:
    return None
  images = np.asarray(run.predictions["inputs"])
  if images.ndim != 4:
    return None
  return mean(_rgb(images), pixels)


def _rgb(images: np.ndarray) -> np.ndarray:
  """Inputs `[n, H, W, C]`, uint8 or in 0..1 (or 0..255), as RGB in 0..1."""
  scaled = images.dtype == np.uint8 or (images.size and images.max() > 1.5)
  images = images.astype(np.float32) / (255 if scaled else 1)
  if images.shape[-1] < 3:
    images = np.repeat(images[..., :1], 3, axis=-1)
  return np.clip(images[..., :3], 0, 1)


def _flat(array: np.ndarray) -> np.ndarray:
  """[n, H, W, 1] as [n, H, W]; half precision as single."""
  array = np.asarray(array)
  array = array[..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array
  return array.astype(np.float32) if array.dtype.kind == "f" else array


def thin(array: np.ndarray, pixels: int) -> np.ndarray:
  """Takes the middle of squares of pixels: about `pixels` columns stay."""
  step, height, width = _squares(array, pixels)
  return array[:, step // 2 : height : step, step // 2 : width : step]


def mean(pictures: np.ndarray, pixels: int) -> np.ndarray:
  """Averages squares of pixels `[n, H, W, C]`: about `pixels` columns stay."""
  step, height, width = _squares(pictures, pixels)
  if step == 1:
    return pictures
  cut = pictures[:, :height, :width]
  squares = cut.reshape(len(cut), height // step, step, width // step, step, -1)
  return squares.mean((2, 4))


def _squares(array: np.ndarray, pixels: int) -> tuple[int, int, int]:
  """Side of the squares that become one pixel; height and width they fill."""
  height, width = array.shape[1:3]
  step = max(min(width // max(pixels, 1), height), 1)
  return step, height // step * step, width // step * step


def paint(dense: Dense, pixels: int) -> tuple[np.ndarray, tuple[np.ndarray, ...], Key]:
  """Labels and predictions, all with the same colours.

  Args:
    dense: to draw.
    pixels: about how many columns the pictures need.

  Returns:
    Pictures of the labels, RGB `[n, h, w, 3]`, pale where there is none; those
    of every prediction; and their key. Of several channels the first is drawn.
  """
  colour: Callable[[np.ndarray], np.ndarray] = _directions
  key = Key(note=_NORMALS)
  if dense.sort == "segments":
    palette, key = _palette(dense)
    colour = lambda ids: palette[ids.astype(int).clip(0, len(palette) - 1)]
  elif dense.sort == "numbers":
    scale, key = _scale(dense)
    colour = lambda values: scale.cmap(scale.norm(_first(values)))[..., :3]
  shown, *others = (colour(thin(part, pixels)) for part in (dense.truth, *dense.guesses))
  known = thin(dense.valid, pixels)[..., None]
  return np.where(known, shown, UNKNOWN), tuple(others), key


def _directions(vectors: np.ndarray) -> np.ndarray:
  """Unit vectors as colours (n + 1) / 2."""
  return np.clip((np.nan_to_num(vectors) + 1) / 2, 0, 1)


def _first(values: np.ndarray) -> np.ndarray:
  """The first channel, where there are several."""
  return values[..., 0] if values.ndim == 4 else values


def _palette(dense: Dense) -> tuple[np.ndarray, Key]:
  """Colours of the classes; the most frequent that appear make the key."""
  real = dense.truth[dense.valid].astype(int)
  seen = np.concatenate([real, *(guess.astype(int).ravel() for guess in dense.guesses)])
  sizes = np.bincount(seen.clip(0), minlength=1)
  palette = style.class_colours(max(len(sizes), len(dense.classes)))
  most = np.argsort(-sizes, kind="stable")[:_LEGEND]
  chosen = sorted(c for c in most if sizes[c])
  names = [(_class_name(dense.classes, c), palette[c]) for c in chosen]
  if not dense.valid.all():
    names.append(("no label", np.asarray(UNKNOWN)))
  return palette, Key(tuple(names))


def _class_name(names: Sequence[str], place: int) -> str:
  return names[place] if place < len(names) else f"class {place}"


def _scale(dense: Dense) -> tuple[ScalarMappable, Key]:
  """Numbers on one scale between the labels' 1st and 99th percentile."""
  truth = _first(dense.truth)
  known = truth[dense.valid]
  known = known if known.size else _first(dense.guesses[0]).ravel()
  low, high = (float(v) for v in np.nanpercentile(known, (1, 99)))
  scale = ScalarMappable(Normalize(low, max(high, low + 1e-6)), style.DEPTH)
  unit = f" ({dense.unit})" if dense.unit else ""
  more = ", channel 0" if dense.truth.ndim == 4 else ""
  return scale, Key(scale=scale, note=f"{dense.name}{unit}{more}")


def mistakes(dense: Dense, pixels: int, images: np.ndarray | None = None) -> tuple[np.ndarray, Key]:
  """Where the first prediction is wrong, and by how much.

  Args:
    dense: to draw.
    pixels: about how many columns the pictures need.
    images: RGB pictures of that size, whose grey lies below a segmentation.

  Returns:
    Pictures `[n, h, w, 3]` and their key. Segmentation: wrong pixels red over
    grey. Normals: the angle in degrees. Numbers: the absolute error, its mean
    where there are several channels. Pale where there is no label.
  """
  valid = thin(dense.valid, pixels)[..., None]
  if dense.sort == "segments":
    wrong = (dense.truth != dense.guesses[0]) & dense.valid
    share = mean(wrong[..., None].astype(np.float32), pixels)
    grey = np.full(valid.shape, 0.6, np.float32)
    if images is not None and images.shape[:3] == valid.shape[:3]:
      grey = 0.3 + 0.5 * images.mean(-1, keepdims=True)
    drawn = share * np.asarray(style.WRONG, np.float32) + (1 - share) * grey
    names = [("wrong", np.asarray(style.WRONG)), ("right", np.full(3, 0.6))]
    if not dense.valid.all():
      names.append(("no label", np.asarray(UNKNOWN)))
    return np.where(valid, drawn, UNKNOWN), Key(tuple(names))
  sizes, note = _sizes(dense)
  known = sizes[dense.valid]
  high = float(np.nanpercentile(known, 98)) if known.size else 1.0
  scale = ScalarMappable(Normalize(0.0, max(high, 1e-6)), style.ERROR)
  drawn = scale.cmap(scale.norm(thin(sizes, pixels)))[..., :3]
  return np.where(valid, drawn, UNKNOWN), Key(scale=scale, note=note)


def _sizes(dense: Dense) -> tuple[np.ndarray, str]:
  """Sizes of the errors `[n, H, W]`, and what they measure."""
  truth, guess = dense.truth, dense.guesses[0]
  if dense.sort == "normals":
    return _angles(truth, guess), "angle (deg)"
  found = np.abs(truth.astype(np.float32) - guess)
  found = found.mean(-1) if found.ndim == 4 else found
  return found, f"error ({dense.unit})" if dense.unit else "error"


def _angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Angles between directions, degrees."""
  first, second = (
    v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-6) for v in (first, second)
  )
  apart = np.linalg.norm(first - second, axis=-1)
  along = np.linalg.norm(first + second, axis=-1)
  return np.rad2deg(2 * np.arctan2(apart, along))
