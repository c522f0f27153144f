"""Labels, predictions and errors of dense tasks as pictures; classes of whole pictures as words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
import numpy as np

from dynashare_jax import types
from dynashare_jax.objectives import kinds
from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib

UNKNOWN = (0.93, 0.93, 0.93)  # pixels without a label
NONE = "no label"
_LEGEND = 20  # classes that a legend names at most


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
    task: the task.
    truth: `[n, H, W]`, or `[n, H, W, channels]`.
    guesses: predictions of one or more models, each shaped as `truth`.
    valid: bool `[n, H, W]`.
  """

  task: types.TaskSpec
  truth: np.ndarray
  guesses: tuple[np.ndarray, ...]
  valid: np.ndarray


def read(run: workdir_lib.Run, name: str, others: Sequence[workdir_lib.Run] = ()) -> Dense | None:
  """Reads one task's labels and predictions.

  Args:
    run: its labels and prediction.
    others: runs whose predictions follow.

  Returns:
    None if the run has no labels and predictions of pixels for the task.
  """
  arrays = run.predictions
  entry = run.task(name)
  if not entry or f"target/{name}" not in arrays or f"prediction/{name}" not in arrays:
    return None
  truth = _flat(arrays[f"target/{name}"])
  if truth.ndim < 3 or not len(truth):
    return None
  valid = np.ones(truth.shape[:3], bool)
  if f"valid/{name}" in arrays:
    valid = np.asarray(arrays[f"valid/{name}"], bool)
    valid = valid.reshape(*valid.shape[:3], *(1,) * (3 - valid.ndim))
    valid = np.broadcast_to(valid, truth.shape[:3])
  task = types.TaskSpec(
    name, entry["kind"], classes=tuple(entry.get("classes") or ()), unit=entry.get("unit") or ""
  )
  guesses = tuple(_flat(r.predictions[f"prediction/{name}"]) for r in (run, *others))
  return Dense(task, truth, guesses, valid)


def inputs(run: workdir_lib.Run, pixels: int) -> np.ndarray | None:
  """Input pictures as RGB `[n, h, w, 3]` in 0..1, reduced; None without."""
  if "inputs" not in run.predictions:
    return None
  images = np.asarray(run.predictions["inputs"])
  if images.ndim != 4:
    return None
  return mean(rgb(images), pixels)


def rgb(images: np.ndarray) -> np.ndarray:
  """Returns inputs `[n, H, W, C]`, uint8 or in 0..1 (or 0..255), as RGB in 0..1."""
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


def coloured(
  several: Sequence[kinds.base.Picture],
  valid: np.ndarray,
  pixels: int,
  percentiles: tuple[float, float] = (1, 99),
) -> tuple[tuple[np.ndarray, ...], Key]:
  """Draws pictures of one task with the same colours.

  Args:
    several: the labels, or what stands for them, then predictions.
    valid: bool `[n, H, W]`, where the first is known; it is pale elsewhere.
    pixels: about how many columns the pictures need.
    percentiles: of the known numbers, where the colours end.

  Returns:
    RGB `[n, h, w, 3]` of each, and their key.
  """
  first, *others = (one.values for one in several)
  colour: Callable[[np.ndarray], np.ndarray] = lambda rgb: rgb
  key = Key(note=several[0].note)
  known = first[valid]
  if first.dtype.kind == "i":
    palette, key = _palette(several[0].classes, [known, *others], bool(valid.all()))
    colour = lambda ids: palette[ids.clip(0, len(palette) - 1)]
  elif first.ndim == 3:
    known = known if known.size else np.concatenate([np.zeros(1), *map(np.ravel, others)])
    low, high = (float(v) for v in np.nanpercentile(known, percentiles))
    scale = ScalarMappable(Normalize(low, max(high, low + 1e-6)), style.DEPTH)
    colour = lambda numbers: np.asarray(scale.cmap(scale.norm(numbers)))[..., :3]
    key = key._replace(scale=scale)
  shown, *drawn = (colour(thin(values, pixels)) for values in (first, *others))
  return (np.where(thin(valid, pixels)[..., None], shown, UNKNOWN), *drawn), key


def _palette(
  classes: Sequence[str], several: Sequence[np.ndarray], known: bool
) -> tuple[np.ndarray, Key]:
  """Returns colours of the classes; the most frequent that appear make the key."""
  sizes = np.bincount(np.concatenate([ids.ravel() for ids in several]).clip(0), minlength=1)
  palette = style.class_colours(max(len(sizes), len(classes)))
  seen = [int(c) for c in np.argsort(-sizes, kind="stable") if sizes[c]]
  names = [(_named(classes, c), palette[c]) for c in sorted(seen[:_LEGEND])]
  names += [] if known else [(NONE, np.asarray(UNKNOWN))]
  more = len(seen) - _LEGEND
  return palette, Key(tuple(names), note=f"and {more} more classes" if more > 0 else "")


class Words(NamedTuple):
  """One task's labels and predictions of some whole pictures.

  Attributes:
    truth: the labels.
    guess: the predictions.
    exact: whether a prediction in other words is wrong; numbers never fit quite.
  """

  truth: list[str]
  guess: list[str]
  exact: bool


def read_words(run: workdir_lib.Run, name: str) -> Words | None:
  """Returns labels and predictions of a task in words; None if it has none of whole pictures."""
  truth, guess = (run.predictions.get(f"{part}/{name}") for part in ("target", "prediction"))
  entry = run.task(name)
  if truth is None or guess is None or "kind" not in entry or not has_words(entry["kind"]):
    return None
  valid = run.predictions.get(f"valid/{name}", np.ones(len(truth), bool))
  task = types.TaskSpec(
    name,
    entry["kind"],
    int(np.prod(truth.shape[1:])),
    classes=tuple(entry.get("classes") or ()),
    unit=entry.get("unit") or "",
  )
  guesses = words(task, guess, np.ones(len(guess), bool))
  return Words(words(task, truth, valid), guesses, kinds.find(task.kind).stored != "values")


def has_words(kind: str) -> bool:
  """Whether the labels of a kind are of whole examples."""
  return not kinds.find(kind).dense


def words(task: types.TaskSpec, values: np.ndarray, valid: np.ndarray) -> list[str]:
  """Returns labels or predictions `[n, ...]` in words, `no label` where nothing is valid."""
  known = np.asarray(valid).reshape(len(values), -1).any(-1)
  if np.shape(valid) == np.shape(values) and np.ndim(values) > 1:
    values = np.where(valid, values, np.nan if values.dtype.kind == "f" else 0)
  told = kinds.find(task.kind).words(task, values)
  return [text if there else NONE for text, there in zip(told, np.asarray(known), strict=True)]


def _named(classes: Sequence[str], place: int) -> str:
  """The name of a class, `class 7` where it has none."""
  return classes[place] if place < len(classes) else f"class {place}"


def paint(dense: Dense, pixels: int) -> tuple[np.ndarray, tuple[np.ndarray, ...], Key]:
  """Draws labels and predictions, all with the same colours.

  Args:
    pixels: about how many columns the pictures need.

  Returns:
    Pictures of the labels, RGB `[n, h, w, 3]`, pale where there is none; those
    of every prediction; and their key. Of several channels the first is drawn.
  """
  kind = kinds.dense(dense.task.kind)
  several = [kind.pictures(dense.task, part)[0] for part in (dense.truth, *dense.guesses)]
  (truth, *guesses), key = coloured(several, dense.valid, pixels)
  return truth, tuple(guesses), key


def mistakes(dense: Dense, pixels: int, images: np.ndarray | None = None) -> tuple[np.ndarray, Key]:
  """Draws where the first prediction is wrong, and by how much.

  Args:
    pixels: about how many columns the pictures need.
    images: RGB pictures of that size, whose grey lies below what is right or wrong.

  Returns:
    Pictures `[n, h, w, 3]` and their key: wrong pixels red over grey, or the size of
    the error. Pale where there is no label.
  """
  valid = thin(dense.valid, pixels)[..., None]
  sizes, note = kinds.dense(dense.task.kind).error(dense.task, dense.truth, dense.guesses[0])
  if sizes.dtype == bool:
    share = mean((sizes & dense.valid)[..., None].astype(np.float32), pixels)
    grey = np.full(valid.shape, 0.6, np.float32)
    if images is not None and images.shape[:3] == valid.shape[:3]:
      grey = 0.3 + 0.5 * images.mean(-1, keepdims=True)
    drawn = share * np.asarray(style.WRONG, np.float32) + (1 - share) * grey
    names = [("wrong", np.asarray(style.WRONG)), ("right", np.full(3, 0.6))]
    if not dense.valid.all():
      names.append((NONE, np.asarray(UNKNOWN)))
    return np.where(valid, drawn, UNKNOWN), Key(tuple(names))
  known = sizes[dense.valid]
  high = float(np.nanpercentile(known, 98)) if known.size else 1.0
  scale = ScalarMappable(Normalize(0.0, max(high, 1e-6)), style.ERROR)
  drawn = scale.cmap(scale.norm(thin(sizes, pixels)))[..., :3]
  return np.where(valid, drawn, UNKNOWN), Key(scale=scale, note=note)
