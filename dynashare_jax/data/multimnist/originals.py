"""The files of MNIST and Fashion-MNIST: pictures and labels in the IDX format."""

from __future__ import annotations

import gzip
import math
import pathlib
from typing import NamedTuple
import zlib

import numpy as np

SIDE = 28  # pixels
CLASSES = {
  "mnist": tuple("0123456789"),
  "fashion_mnist": (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
  ),
}
PARTS = {"train": "train", "test": "t10k"}  # as the files are called
_PLACES = {
  "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/ (NAME.gz)",
  "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist (data/fashion)",
}


class Originals(NamedTuple):
  """Pictures with labels.

  Attributes:
    pictures: uint8 `[N, 28, 28]`.
    labels: uint8 `[N]`, 0 to 9.
  """

  pictures: np.ndarray
  labels: np.ndarray


def read(data_dir: str | None, name: str) -> dict[str, Originals]:
  """Reads the training and the test files of a data set.

  Args:
    data_dir: folder that the folder `name` lies in.
    name: of `CLASSES`.

  Returns:
    `train` and `test`.

  Raises:
    FileNotFoundError: files are missing; names them and where to get them.
    ValueError: a file is damaged, cut off or of another kind, or two do not belong together.
  """
  files = {part: [f"{p}-images-idx3-ubyte", f"{p}-labels-idx1-ubyte"] for part, p in PARTS.items()}
  folder = pathlib.Path(data_dir or "").expanduser() / name
  plain = [folder / file for pair in files.values() for file in pair]
  there = {path.name: path for path in plain if path.is_file()}
  packed = [path.with_name(f"{path.name}.gz") for path in plain if path.name not in there]
  there |= {path.stem: path for path in packed if path.is_file()}
  missing = [path.name for path in plain if path.name not in there]
  if not data_dir or missing:
    absent = f"There is no {', no '.join(missing)} in '{folder}'."
    told = absent if data_dir else "config.data_dir is empty."
    raise FileNotFoundError(
      f"{told} Put {', '.join(path.name for path in plain)} (also with .gz) into DIR/{name} and"
      f" pass --config.data_dir=DIR. They are at {_PLACES[name]}."
    )
  return {part: _belong(there[images], there[labels]) for part, (images, labels) in files.items()}


def _belong(images: pathlib.Path, labels: pathlib.Path) -> Originals:
  """Reads two files that go together."""
  found = Originals(read_idx(images, 3), read_idx(labels, 1))
  if found.pictures.shape[1:] != (SIDE, SIDE):
    size = " x ".join(map(str, found.pictures.shape[1:]))
    raise ValueError(f"{images} has pictures of {size} pixels; they must be {SIDE} x {SIDE}.")
  if len(found.pictures) != len(found.labels):
    raise ValueError(
      f"{images} has {len(found.pictures)} pictures, but {labels} has {len(found.labels)} labels:"
      " the files do not belong together. Fetch both again."
    )
  if found.labels.max(initial=0) > 9:
    place = int(np.argmax(found.labels > 9))
    raise ValueError(f"{labels}: label {place} is {found.labels[place]}; labels are 0 to 9.")
  return found


def read_idx(path: pathlib.Path, axes: int) -> np.ndarray:
  """Reads an IDX file of bytes, compressed if its name ends with `.gz`.

  The format: 0, 0, 8 (bytes), the number of axes; then, each in 4 bytes, the highest first, the
  length of every axis; then the bytes, the last axis fastest.

  Returns:
    uint8, with `axes` axes; read-only.

  Raises:
    ValueError: the file is damaged, cut off, too long or of another kind.
  """
  try:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
  except (EOFError, OSError, zlib.error) as error:
    raise ValueError(
      f"{path} cannot be read ({error}): it is cut off or damaged. Fetch it again."
    ) from error
  magic, wanted = int.from_bytes(data[:4], "big"), 0x800 + axes
  if magic != wanted:
    raise ValueError(
      f"{path} starts with the number {magic}, an IDX file of {axes} axes with {wanted}: it is"
      " another file. Fetch it again."
    )
  head = 4 + 4 * axes
  shape = tuple(int(length) for length in np.frombuffer(data[4:head].ljust(4 * axes, b"\0"), ">u4"))
  if len(data) != head + math.prod(shape):
    raise ValueError(
      f"{path} has {len(data)} bytes, but {head + math.prod(shape)} are expected for"
      f" {' x '.join(map(str, shape))}: it is cut off or damaged. Fetch it again."
    )
  return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
