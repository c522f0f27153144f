"""Reads pictures and arrays from disk; every error names the file."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads a PNG, JPEG or TIFF.

  Returns:
    uint8 `[H, W, 3]` for colour (alpha is dropped, palettes of photographs are resolved), `[H, W]`
    uint8, uint16 or int32 for one channel; a palette picture of a label map gives its indices.

  Raises:
    ValueError: the file is missing or no picture that can be read.
  """
  modes = {"RGBA": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "LA": "L", "1": "L"}
  with _named(path), Image.open(path) as picture:
    array = np.asarray(picture.convert(modes.get(picture.mode, picture.mode)))
  return array.astype(np.uint16) if array.dtype == ">u2" else array


def read_colour(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads a picture as RGB uint8 `[H, W, 3]`; grey is repeated.

  Raises:
    ValueError: see `read_picture`.
  """
  with _named(path), Image.open(path) as picture:
    return np.asarray(picture.convert("RGB"))


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads a `.npy` file, never a pickle.

  Raises:
    ValueError: the file is missing or damaged, or holds Python objects.
  """
  with _named(path):
    array: np.ndarray = np.load(path, allow_pickle=False)
  if not isinstance(array, np.ndarray):
    raise ValueError(f"{path} is no .npy file with one array.")
  return array


def read_json(path: str | os.PathLike[str]) -> Any:
  """Reads a JSON file.

  Raises:
    ValueError: it is missing or damaged.
  """
  with _named(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


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
    text = f"Cannot read {os.fspath(path)} ({type(error).__name__}: {error})."
    raise ValueError(text) from error
