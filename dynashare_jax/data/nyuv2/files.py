"""Reads raw fields of NYU Depth V2 from pictures, arrays and `.mat` files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import importlib
import os
from typing import Any

import numpy as np

from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import surface_normals

LABELED = "nyu_depth_v2_labeled.mat"


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads examples; picklable.

  Attributes:
    folder: that all paths start from.
    tasks: whose labels are read.
    size: height and width to bring everything to; None leaves it.
    paths: example -> field -> path of its file, where every field has one.
  """

  folder: str
  tasks: tuple[str, ...]
  size: tuple[int, int] | None
  paths: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

  def __call__(self, key: str) -> dict[str, np.ndarray]:
    """Reads the fields of an example.

    Returns:
      image: `[H, W, 3]` RGB, uint8 in 0..255 or float32 in 0..1. segmentation:
      integers `[H, W]`. normals: `[H, W, 3]`, uint8 (127.5 is zero) or float32.
      depth: float32 `[H, W]`, metres.

    Raises:
      ValueError: a file is missing, damaged or of a wrong shape.
    """
    fields = self.stored(key, ("image", *self.tasks))
    checked = {name: _checked(name, array) for name, array in fields.items()}
    if self.size is None:
      dense_layouts.same_size(checked)
      return checked
    return {
      name: dense_layouts.resized(array, self.size, name == "image")
      for name, array in checked.items()
    }

  def stored(self, key: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The fields as in the files."""
    paths = self.paths[key]
    return {name: _read_file(os.path.join(self.folder, paths[name]), name) for name in names}


class LabeledReader(Reader):
  """Reads the labelled file of the data set's authors; keys are numbers."""

  def stored(self, key: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The fields of a frame; normals are fitted to its depth."""
    arrays = open_labeled(os.path.join(self.folder, LABELED), os.getpid())
    frame = int(key)
    fields: dict[str, np.ndarray] = {}
    if "image" in names:
      fields["image"] = np.ascontiguousarray(arrays["images"][frame].T)
    if "segmentation" in names:
      fields["segmentation"] = np.ascontiguousarray(arrays["labels"][frame].T)
    if {"depth", "normals"} & set(names):
      depth = np.ascontiguousarray(arrays["depths"][frame].T, np.float32)
      if "depth" in names:
        fields["depth"] = depth
      if "normals" in names:
        normals, valid = surface_normals.fit(depth, surface_normals.kinect(depth.shape))
        fields["normals"] = np.where(valid[..., None], normals, 0)
    return fields


def _read_file(path: str, field: str) -> np.ndarray:
  """Reads a field; a `.mat` holds it under its own name."""
  if path.endswith(".npy"):
    return files.read_array(path)
  if path.endswith(".mat"):
    return variable(read_mat(path), field, path)
  if field == "segmentation":
    return files.read_picture(path)
  return files.read_colour(path)


def _checked(name: str, array: np.ndarray) -> np.ndarray:
  """The field in its shape and kind of number."""
  if name in ("segmentation", "depth") and array.ndim == 3:
    array = array[..., 0] if array.shape[2] == 1 else array
  wanted = 2 if name in ("segmentation", "depth") else 3
  if array.ndim != wanted or (wanted == 3 and array.shape[2] != 3):
    raise ValueError(
      f"its {name} has the shape {array.shape}; it must be"
      f" [height, width{', 3' if wanted == 3 else ''}]."
    )
  if name == "segmentation" and array.dtype.kind == "f":
    with np.errstate(invalid="ignore"):
      whole = array.astype(np.int16)
    if not np.array_equal(whole, array):
      raise ValueError("its segmentation holds numbers that are no class ids.")
    return whole
  if name == "depth" or array.dtype.kind == "f":
    return array.astype(np.float32, copy=False)
  return array


@functools.lru_cache(maxsize=4)
def open_labeled(path: str, process: int) -> Any:
  """Opens the labelled file, an HDF5 file, once in every process.

  Args:
    path: of the file.
    process: number of this process: a handle cannot be inherited.

  Returns:
    Its arrays, axes in the reverse order of MATLAB's: images `[N, 3, W, H]`
    uint8, labels `[N, W, H]`, depths `[N, W, H]`.

  Raises:
    ValueError: h5py is not installed, or the file is damaged.
  """
  del process
  try:
    h5py = importlib.import_module("h5py")
  except ImportError as error:
    raise ValueError(f"{path} is an HDF5 file; to read it: pip install 'h5py>=3.12'.") from error
  try:
    arrays = h5py.File(path, "r")
  except OSError as error:
    raise ValueError(f"Cannot read {path} ({error}): is it whole?") from error
  lacking = [n for n in ("images", "labels", "depths") if n not in arrays]
  if lacking:
    arrays.close()
    raise ValueError(f"{path} has no {' and no '.join(lacking)}.")
  return arrays


def read_mat(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads a MATLAB file of version 5.

  Raises:
    ValueError: it is missing or damaged.
  """
  scipy_io = importlib.import_module("scipy.io")
  try:
    return dict(scipy_io.loadmat(path))
  except (OSError, ValueError, TypeError, NotImplementedError) as error:
    raise ValueError(f"Cannot read {os.fspath(path)} ({type(error).__name__}: {error}).") from error


def variable(arrays: Mapping[str, Any], name: str, path: str | os.PathLike[str]) -> np.ndarray:
  """An array of what `read_mat` read.

  Raises:
    ValueError: it is not there.
  """
  if name not in arrays:
    raise ValueError(f"{os.fspath(path)} holds no {name!r}.")
  return np.asarray(arrays[name])
