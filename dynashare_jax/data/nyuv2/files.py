"""Reads raw fields of NYU Depth V2 from pictures, arrays and `.mat` files."""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any

import numpy as np

from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import surface_normals

LABELED = "nyu_depth_v2_labeled.mat"


class LabeledReader(dense_layouts.Reader):
  """Reads the labelled file of the data set's authors; keys are numbers."""

  def stored(self, key: str) -> dict[str, np.ndarray]:
    """Returns the fields of a frame; normals are fitted to its depth."""
    arrays = open_labeled(os.path.join(self.folder, LABELED), os.getpid())
    fields = {
      field: np.ascontiguousarray(arrays[name][int(key)].T)
      for field, name in {"image": "images", "segmentation": "labels", "depth": "depths"}.items()
      if field in self.fields or (field == "depth" and "normals" in self.fields)
    }
    if "normals" in self.fields:
      depth = fields["depth"].astype(np.float32)
      normals, valid = surface_normals.fit(depth, surface_normals.kinect(depth.shape))
      fields["normals"] = np.where(valid[..., None], normals, 0)
    return {name: _checked(name, array) for name, array in fields.items() if name in self.fields}


def read(path: str, field: str) -> np.ndarray:
  """Reads the file of a field; a `.mat` holds it under its own name.

  Returns:
    image: `[H, W, 3]` RGB, uint8 in 0..255 or float32 in 0..1. segmentation: integers `[H, W]`.
    normals: `[H, W, 3]`, uint8 (127.5 is zero) or float32. depth: float32 `[H, W]`, metres.

  Raises:
    ValueError: the file is missing, damaged or of a wrong shape.
  """
  if path.endswith(".npy"):
    array = files.read_array(path)
  elif path.endswith(".mat"):
    array = files.read_mat(path, field)
  else:
    array = files.read_picture(path) if field == "segmentation" else files.read_colour(path)
  return _checked(field, array)


def _checked(name: str, array: np.ndarray) -> np.ndarray:
  """The field in its shape and kind of number."""
  if name == "segmentation":
    return dense_layouts.whole_numbers(name, array)
  if name == "depth":
    return dense_layouts.plane(name, array).astype(np.float32, copy=False)
  return dense_layouts.colours(name, array)


@functools.lru_cache(maxsize=4)
def open_labeled(path: str, process: int) -> Any:
  """Opens the labelled file, an HDF5 file, once in every process.

  Args:
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
