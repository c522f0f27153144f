"""Reads pictures and arrays from disk; every error names the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import json
import os
import pathlib
from typing import Any, IO

import numpy as np
from PIL import Image
from PIL import ImageOps

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP")  # none of them runs anything
EXACT = ("PNG", "TIFF")  # no number is changed when it is stored
_LABELS = {"RGB": "RGB", "RGBA": "RGB", "RGBX": "RGB", "LA": "L"}
_LOW_BITS = {"L;2": 85, "L;4": 17}  # what 1 becomes where Pillow stretches grey to a byte
_TOPS = {"I;12": 4095}  # brightest stored number, where that is not 65535


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], content: IO[bytes] | None = None) -> Iterator[Image.Image]:
  """Opens a picture: one of `FORMATS` by its content, whatever its ending.

  Args:
    path: of the file.
    content: in its place; the path is then a name for messages.

  Raises:
    ValueError: it cannot be read, also from within the context, or holds several; with `path`.
  """
  # Of a path, Pillow maps the file into memory, and mixes up the pixels of a TIFF that lies.
  with _named(path), content or open(path, "rb") as file, _open(file) as picture:
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # a photograph with a preview
      raise ValueError(f"it holds {frames} pictures, of which one can be read")
    if ";16" in _packing(picture) and picture.mode in ("LA", "RGB", "RGBA", "CMYK"):
      raise ValueError(
        f"it has 16 bits of each of {', '.join(picture.getbands())}, of which 8 would be lost:"
        " store it as .npy"
      )
    yield picture


def _open(file: IO[bytes]) -> Image.Image:
  """Opens a picture; compares the checksums of a PNG, as Pillow leaves out those of pixels."""
  picture = Image.open(file, formats=FORMATS)
  if picture.format != "PNG":
    return picture
  picture.verify()
  return Image.open(file, formats=FORMATS)


def read_picture(path: str | os.PathLike[str], formats: Sequence[str] = EXACT) -> np.ndarray:
  """Reads a picture of labels as its file stores them, upright (by its orientation tag).

  Args:
    formats: that are allowed; a JPEG changes ids.

  Returns:
    `[H, W]` for one channel: uint8 (1, 2, 4 and 8 bits, and a palette's indices), uint16, int32 or
    float32; uint8 `[H, W, 3]` for colour (alpha is dropped).

  Raises:
    ValueError: the file is missing, or no picture whose stored numbers can be read.
  """
  with opened(path) as picture:
    packing, mode, found = _packing(picture), picture.mode, picture.format
    if found not in formats:
      raise ValueError(f"labels must be {' or '.join(formats)}, this is {found}: ids would change")
    if packing.partition(";")[2].endswith(("I", "IR")):
      raise ValueError("black is its highest number, which would change ids: store 0 as black")
    if mode not in ("1", "L", "P", "I", "F", *_LABELS) and not mode.startswith("I;16"):
      raise ValueError(f"{mode} are no labels: store grey, a palette, or red, green and blue")
    upright = ImageOps.exif_transpose(picture)
    array = np.asarray(upright.convert(_LABELS.get(mode, mode)))
  if mode.startswith("I;16"):
    return array.astype(np.uint16)
  return (array // _LOW_BITS.get(packing, 1)).astype(np.uint8) if mode in "1L" else array


def read_colour(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads a picture as RGB `[H, W, 3]`, upright (by its orientation tag); grey is repeated.

  Returns:
    uint8 of 0..255; of 16 bits of grey and of floats, float32 of 0..1 (65535 is 1).

  Raises:
    ValueError: see `read_picture`; or floats that are not in 0..1.
  """
  with opened(path) as picture:
    mode, top = picture.mode, _TOPS.get(_packing(picture), 65535)
    portable = picture.format == "PPM"
    upright = ImageOps.exif_transpose(picture)
    if mode[0] not in "IF":
      return np.asarray(upright.convert("RGB"))
    array = np.asarray(upright)
    if mode == "I" and not portable:
      raise ValueError("its whole numbers of 32 bits have no brightest one; store 16 bits")
    array = array.astype(np.float32) / np.float32(1 if mode == "F" else top)
    if not 0 <= array.min() <= array.max() <= 1:
      raise ValueError(f"its floats must lie in 0..1, but are {array.min():g} to {array.max():g}")
  return np.repeat(array[..., None], 3, -1)


def _packing(picture: Image.Image) -> str:
  """How a file stores a pixel, in Pillow's words: `L;4` are 4 bits of grey."""
  arguments: Any = next((tile.args for tile in getattr(picture, "tile", ())), "")
  return str(arguments if isinstance(arguments, str) else arguments[0])


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads a `.npy` file, never a pickle.

  Raises:
    ValueError: the file is missing or damaged, or holds Python objects.
  """
  with _named(path), open(path, "rb") as file:  # np.load leaves that of an archive open
    array: np.ndarray = np.load(file, allow_pickle=False)
  if not isinstance(array, np.ndarray):
    raise ValueError(f"{path} is no .npy file with one array.")
  return array


def read_json(path: str | os.PathLike[str]) -> Any:
  """Reads a JSON file.

  Raises:
    ValueError: it is missing or damaged.
  """
  with _named(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8-sig"))


def read_mat(path: str | os.PathLike[str], name: str, simple: bool = False) -> Any:
  """Reads a variable of a MATLAB file of version 5.

  Args:
    simple: return structures as dictionaries, lists of them as arrays or lists, and drop axes of
      length 1; else the variable is an array.

  Raises:
    ValueError: the file is missing or damaged, or has no such variable.
  """
  from scipy import io  # Takes a while, and few data sets need it.

  with _named(path):
    found = io.loadmat(path, variable_names=[name], simplify_cells=simple)
  if name not in found:
    raise ValueError(f"{os.fspath(path)} holds no {name!r}.")
  return found[name]


def resize_colour(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes a photograph, uint8 `[H, W, 3]`, or a float channel; bilinear, of all pixels."""
  if image.shape[:2] == tuple(size):
    return image
  picture = Image.fromarray(image)
  return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes labels `[H, W, ...]` to (height, width); the nearest, not mixed."""
  if labels.shape[:2] == tuple(size):
    return labels
  rows, columns = (
    np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1)
    for old, new in zip(labels.shape[:2], size, strict=True)
  )
  return labels[rows][:, columns]


@contextlib.contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns the errors of all formats into one that names the file."""
  try:
    yield
  except FileNotFoundError as error:
    raise ValueError(f"There is no file {os.fspath(path)}.") from error
  except Exception as error:  # of many types, one or more per format
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    text = f"Cannot read {os.fspath(path)} ({kind}{error})."
    raise ValueError(text) from error
