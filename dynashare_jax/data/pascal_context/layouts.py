"""PASCAL-Context as it lies on disk: the archive `PASCAL_MT` of ASTMT.

Source of the form: the data loader of ASTMT (github.com/facebookresearch/astmt).
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from dynashare_jax.data import text
from dynashare_jax.data.pascal_context import labels
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store

TITLE = "PASCAL-Context"
TASKS = ("segmentation", "human_parts", "normals", "saliency", "edges")
HELP = {
  "astmt": """ImageSets/Context/train.txt, val.txt
      JPEGImages/<id>.jpg
      semseg/VOC12/<id>.png, or else semseg/pascal-context/<id>.png
      human_parts/<id>.mat   (where there are people)
      normals_distill/<id>.png
      sal_distill/<id>.png
      pascal-context/trainval/<id>.mat   (for edges and normals)
    that is the folder PASCAL_MT of
    https://data.vision.ee.ethz.ch/kmaninis/share/MTL/PASCAL_MT.tgz
    (named in https://github.com/facebookresearch/astmt)"""
}

_LISTS = "ImageSets/Context"
_MARKS = {"astmt": (_LISTS,)}
# Field -> the file of an example; `edges` are found in the label map of PASCAL-Context.
_FILES = {
  "image": "JPEGImages/{}.jpg",
  "segmentation": "semseg/VOC12/{}.png",
  "human_parts": "human_parts/{}.mat",
  "normals": "normals_distill/{}.png",
  "saliency": "sal_distill/{}.png",
  "edges": "pascal-context/trainval/{}.mat",
}
_OTHER = "semseg/pascal-context/{}.png"  # of segmentation
_SPLITS = (("train", "train"), ("test", "val"))


class Reader(dense_layouts.Reader):
  """Reads examples; one in which no parts of people are labelled has no field for them."""

  def stored(self, key: str) -> dict[str, np.ndarray]:
    """Returns the fields as the files hold them, all of the picture's size.

    Raises:
      ValueError: a file is damaged, or not of the picture's size.
    """
    paths = {f: os.path.join(self.folder, path) for f, path in self.paths[key].items()}
    fields = {"image": _read(paths["image"], "image")}
    size = fields["image"].shape[:2]
    for field in self.fields[1:]:
      if field in paths:
        parts = field == "human_parts"
        found = _people(paths[field], size) if parts else _read(paths[field], field)
        if found is not None:
          _check_size(field, found.shape[:2], size)
          fields[field] = found
    return fields


def find(wanted: dense.Wanted, data_dir: str | None) -> store.Original:
  """Finds the files of the fields that are wanted.

  Returns:
    What was found: `train` and `test` examples.

  Raises:
    ValueError: nothing that fits, or files are missing.
  """
  _, folder = dense_layouts.detect(TITLE, data_dir, wanted.config.layout, _MARKS, HELP)
  keys = {}
  for split, part in _SPLITS:
    path = folder / _LISTS / f"{part}.txt"
    if not path.is_file():
      raise ValueError(f"{TITLE}: there is no file {path}.")
    keys[split] = tuple(text.read(path).split())
  paths = {key: _paths(folder, key) for part in keys.values() for key in part}
  needed = tuple(field for field in wanted.fields if field != "human_parts")
  dense_layouts.check_files(TITLE, folder, paths, needed)
  if "human_parts" in wanted.fields and not any("human_parts" in each for each in paths.values()):
    raise ValueError(f"{TITLE}: there is no file {folder / _FILES['human_parts'].format('<id>')}.")
  counted = dense_layouts.counted("astmt", keys)
  read = Reader(str(folder), wanted.fields, wanted.size, _read, paths)
  return store.Original(counted, keys, read, {}, wanted.fields, wanted.size)


def _paths(folder: pathlib.Path, key: str) -> dict[str, str]:
  """The files of an example; parts of people only where they are there."""
  found = {field: pattern.format(key) for field, pattern in _FILES.items()}
  if not (folder / found["segmentation"]).is_file():
    found["segmentation"] = _OTHER.format(key)
  if not (folder / found["human_parts"]).is_file():
    del found["human_parts"]
  return found


def _read(path: str, field: str) -> np.ndarray:
  """Reads a field: image and normals uint8 `[H, W, 3]`, others integers `[H, W]`."""
  if field in ("image", "normals"):
    return files.read_colour(path)
  if field == "edges":
    return dense_layouts.whole_numbers(field, np.asarray(files.read_mat(path, "LabelMap")))
  return dense_layouts.plane(field, files.read_picture(path))


def _people(path: str, size: tuple[int, ...]) -> np.ndarray | None:
  """Parts of people, uint8 `[H, W]`, places in `labels.PARTS`; None where none are labelled."""
  found, labelled = np.zeros(size, np.uint8), False
  for name, mask in _masks(path):
    if name not in labels.PART:
      raise ValueError(f"{path} has a part {name!r} of a person, which is not known.")
    _check_size("human_parts", mask.shape, size)
    found[mask.astype(bool)] = labels.PART[name]
    labelled = True
  return found if labelled else None


def _masks(path: str) -> list[tuple[str, np.ndarray]]:
  """Names and masks of the parts of all people, in order."""
  stored = files.read_mat(path, "anno", simple=True)
  try:
    return [
      (str(part["part_name"]), np.asarray(part["mask"]))
      for thing in _several(stored["objects"])
      if thing["class_ind"] == labels.PERSON
      for part in _several(thing["parts"])
    ]
  except (IndexError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} is not in the form of PASCAL-Part ({type(error).__name__}: {error})."
    ) from error


def _several(found: Any) -> list[Any]:
  """A structure, or several, or none, as a list."""
  return [found] if isinstance(found, dict) else list(found)


def _check_size(field: str, size: tuple[int, ...], picture: tuple[int, ...]) -> None:
  """Refuses labels of another size than their picture: nothing says how they lie on it."""
  if tuple(size) != tuple(picture):
    raise ValueError(
      f"its {field} is {dense_layouts.times(size)}, its picture {dense_layouts.times(picture)}:"
      " they do not belong together."
    )
