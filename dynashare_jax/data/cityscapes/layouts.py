"""Cityscapes as it lies on disk, in the four forms that are in use.

`find` looks which one a folder holds. What is read are the raw fields as they
are stored; `data.cityscapes` gives them their meaning.

Source of the forms: cityscapesScripts, and the data loaders of AdaShare, MTAN,
  LibMTL and Auto-Lambda.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import os
import pathlib

import numpy as np

from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts

TITLE = "Cityscapes"
TASKS = ("segmentation", "depth", "parts")
LISTS = "cityscape.json"

HELP = {
  "official": """leftImg8bit/{train,val}/<city>/<id>_leftImg8bit.png
      gtFine/{train,val}/<city>/<id>_gtFine_labelIds.png (or _labelTrainIds.png)
      disparity/{train,val}/<city>/<id>_disparity.png   (for depth)
      camera/{train,val}/<city>/<id>_camera.json   (for depth in metres)
      gtFinePanopticParts/{train,val}/<city>/<id>_gtFinePanopticParts.tif
                                                        (for parts)
    from https://www.cityscapes-dataset.com/downloads/ (with an account):
    leftImg8bit, gtFine, disparity, camera: ..._trainvaltest.zip;
    gtFinePanopticParts_trainval.zip""",
  "adashare": f"""{LISTS}, and the .npy files that it names
    from https://drive.google.com/file/d/1WrVMA_UZpoj7voajf60yIVaS_Ggl0jrH
    (README of https://github.com/sunxm2357/AdaShare)""",
  "mtan": """train/image/<i>.npy   depth/<i>.npy   part/<i>.npy (for parts)
      train/label_7/<i>.npy and label_19/<i>.npy, or label/<i>.npy (7 classes)
      val/image/<i>.npy     ... the same
    from https://www.dropbox.com/sh/vj349qgg57nthi9/AACdZmIuK-Qb_gP6w1HrA43ta
    (256 x 512) or
    https://www.dropbox.com/sh/gaw6vh6qusoyms6/AADwWi0Tp3E3M4B2xzeGlsEna
    (128 x 256; README of https://github.com/lorenmt/mtan)""",
  "auto_lambda": """train/image/<i>.png   seg/<i>.png   depth/<i>.png
      train/part_seg/<i>.tif
      val/image/<i>.png     ... the same
    from https://www.dropbox.com/sh/qk3cr18d55d08gj/AAA5OCTPNFDEDk5fZsmCfmrAa
    (README of https://github.com/lorenmt/auto-lambda)""",
}
SIZES = {
  "official": (1024, 2048),
  "adashare": (256, 512),
  "mtan": (256, 512),
  "auto_lambda": (256, 512),
}

_MARKS = {
  "official": ("leftImg8bit", "leftImg8bit_trainvaltest"),
  "adashare": (LISTS,),
  "mtan": ("train/image/*.npy",),
  "auto_lambda": ("train/image/*.png",),
}
_SPLITS = (("train", "train"), ("test", "val"))


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads examples; picklable.

  Attributes:
    folder: that all paths start from.
    size: height and width to bring everything to; None leaves it.
    paths: example -> field -> path of its file.
  """

  folder: str
  size: tuple[int, int] | None
  paths: Mapping[str, Mapping[str, str]]

  def __call__(self, key: str) -> dict[str, np.ndarray]:
    """Reads the fields of an example, those that it has paths of.

    Returns:
      image: `[H, W, 3]` RGB, uint8 in 0..255 or float32 in 0..1. segmentation,
      parts: integers `[H, W]`. depth: `[H, W]`, uint16 as in the official
      release or float32. camera: float32 `[2]`, baseline in metres and focal
      length in pixels of the original picture.

    Raises:
      ValueError: a file is missing, damaged or of a wrong shape.
    """
    read = {
      field: _read(os.path.join(self.folder, path), field)
      for field, path in self.paths[key].items()
    }
    maps = {
      field: dense_layouts.resized(array, self.size, field == "image")
      for field, array in read.items()
      if field != "camera"
    }
    dense_layouts.same_size(maps)
    return read | maps


@dataclasses.dataclass(frozen=True)
class Layout:
  """A form of the data set that was found.

  Attributes:
    name: key of `HELP`.
    keys: names of the `train` and the `test` examples.
    read: of an example's name its raw fields: `image` and the tasks'.
    labels: one of `cityscapes_labels.STORED`.
    coded: whether depth and parts are the official release's numbers: uint16
      disparity, and ids that name instance and part; else values and classes.
  """

  name: str
  keys: Mapping[str, tuple[str, ...]]
  read: Callable[[str], Mapping[str, np.ndarray]]
  labels: str
  coded: bool


def find(
  data_dir: str | None,
  layout: str,
  fields: tuple[str, ...],
  classes: int,
  size: tuple[int, int] | None,
) -> Layout:
  """Finds the data set.

  Args:
    data_dir: the folder.
    layout: `auto` or a key of `HELP`.
    fields: wanted: any of `TASKS`, and `camera`.
    classes: 19 or 7.
    size: see `Reader`.

  Returns:
    What was found; every file that a field needs is there.

  Raises:
    ValueError: nothing that fits, too much that fits, or files are missing.
  """
  name, folder = dense_layouts.detect(TITLE, data_dir, layout, _MARKS, HELP)
  if "camera" in fields and name != "official":
    raise ValueError(
      f"config.data.depth is 'metres', but the layout {name} has no cameras:"
      " take the official one, or set it to disparity."
    )
  if name == "official":
    paths, labels = _official(folder, fields)
  elif name == "adashare":
    paths, labels = _adashare(folder, fields, classes)
  else:
    paths, labels = _numbered(folder, name, fields, classes)
  dense_layouts.check_files(
    TITLE,
    folder,
    (path for part in paths.values() for entry in part.values() for path in entry.values()),
  )
  keys = {split: tuple(part) for split, part in paths.items()}
  read = Reader(
    str(folder), size, {key: entry for part in paths.values() for key, entry in part.items()}
  )
  return Layout(name, keys, read, labels, name in ("official", "auto_lambda"))


_Paths = dict[str, dict[str, dict[str, str]]]  # split -> example -> field


def _official(folder: pathlib.Path, fields: tuple[str, ...]) -> tuple[_Paths, str]:
  """The release as it is unpacked, each archive in a folder of its own or not.

  The official test split has no public labels: validation is the test split.
  """
  roots = {
    kind: _unpacked(folder, kind, archive)
    for kind, archive in (
      ("leftImg8bit", "trainvaltest"),
      ("gtFine", "trainvaltest"),
      ("disparity", "trainvaltest"),
      ("camera", "trainvaltest"),
      ("gtFinePanopticParts", "trainval"),
    )
  }
  paths: _Paths = {}
  labels = ""
  for split, part in _SPLITS:
    pictures = sorted((folder / roots["leftImg8bit"] / part).glob("*/*_leftImg8bit.png"))
    if not pictures:
      raise ValueError(
        f"{TITLE}: there is no picture"
        f" {folder / roots['leftImg8bit'] / part}/<city>/"
        "<id>_leftImg8bit.png."
      )
    paths[split] = {}
    for picture in pictures:
      stem = picture.name.removesuffix("_leftImg8bit.png")
      place = f"{part}/{picture.parent.name}/{stem}"
      if not labels:
        train_ids = folder / f"{roots['gtFine']}/{place}_gtFine_labelTrainIds"
        label_ids = folder / f"{roots['gtFine']}/{place}_gtFine_labelIds.png"
        labels = (
          "train ids"
          if train_ids.with_suffix(".png").is_file() and not label_ids.is_file()
          else "label ids"
        )
      ending = "labelTrainIds" if labels == "train ids" else "labelIds"
      every = {
        "image": f"{roots['leftImg8bit']}/{place}_leftImg8bit.png",
        "segmentation": f"{roots['gtFine']}/{place}_gtFine_{ending}.png",
        "depth": f"{roots['disparity']}/{place}_disparity.png",
        "camera": f"{roots['camera']}/{place}_camera.json",
        "parts": f"{roots['gtFinePanopticParts']}/{place}_gtFinePanopticParts.tif",
      }
      paths[split][place] = {f: every[f] for f in ("image", *fields)}
  return paths, labels


def _unpacked(folder: pathlib.Path, kind: str, archive: str) -> str:
  """Folder of a kind of file, perhaps within one named after its archive."""
  within = f"{kind}_{archive}/{kind}"
  return within if (folder / within).is_dir() else kind


def _adashare(folder: pathlib.Path, fields: tuple[str, ...], classes: int) -> tuple[_Paths, str]:
  """AdaShare's lists; `train1` and `train2` together are `train`."""
  if "parts" in fields:
    raise ValueError(
      f"{TITLE}: AdaShare's files have no parts; remove them from config.data.tasks."
    )
  parts = ("image", "depth", "2 labels", "7 labels", "19 labels")
  lists = dense_layouts.read_lists(folder / LISTS, ("train", "test"), parts)
  place = {"image": 0, "depth": 1, "segmentation": 3 if classes == 7 else 4}
  paths = {
    split: {entry[0]: {f: entry[place[f]] for f in ("image", *fields)} for entry in entries}
    for split, entries in lists.items()
  }
  return paths, "categories" if classes == 7 else "train ids"


def _numbered(
  folder: pathlib.Path, name: str, fields: tuple[str, ...], classes: int
) -> tuple[_Paths, str]:
  """MTAN's arrays or Auto-Lambda's pictures, numbered."""
  labels = "label ids"
  places = {
    "image": "image/{}.png",
    "segmentation": "seg/{}.png",
    "depth": "depth/{}.png",
    "parts": "part_seg/{}.tif",
  }
  if name == "mtan":
    known = ("label_7", "label", "label_19")
    there = [n for n in known if (folder / "train" / n).is_dir()] or ["label"]
    chosen = there[-1] if classes == 19 else there[0]
    labels = "train ids" if chosen == "label_19" else "categories"
    places = {
      "image": "image/{}.npy",
      "segmentation": f"{chosen}/{{}}.npy",
      "depth": "depth/{}.npy",
      "parts": "part/{}.npy",
    }
  paths: _Paths = {}
  for split, part in _SPLITS:
    stems = [
      p.stem for p in (folder / part / "image").glob(f"*{pathlib.PurePath(places['image']).suffix}")
    ]
    order = sorted(stems, key=lambda s: (not s.isdigit(), s.zfill(9)))
    if not order:
      raise ValueError(
        f"{TITLE}: there is no picture {folder / part}/{places['image'].format('<i>')}."
      )
    paths[split] = {
      f"{part}/{stem}": {f: f"{part}/{places[f].format(stem)}" for f in ("image", *fields)}
      for stem in order
    }
  return paths, labels


def _read(path: str, field: str) -> np.ndarray:
  """Reads a field, in its shape and kind of number."""
  if field == "camera":
    return _camera(path)
  arrays = path.endswith(".npy")
  if field == "image":
    return dense_layouts.photograph(files.read_array(path) if arrays else files.read_colour(path))
  array = files.read_array(path) if arrays else files.read_picture(path)
  if field != "depth":
    return dense_layouts.whole_numbers(field, array)
  array = dense_layouts.plane(field, array)
  if arrays:
    return array.astype(np.float32, copy=False)
  if array.dtype == np.uint8:
    raise ValueError(f"{path} has 8 bits a pixel; disparity has 16.")
  return array.astype(np.uint16, copy=False)


def _camera(path: str) -> np.ndarray:
  """Baseline in metres and focal length in pixels."""
  camera = files.read_json(path)
  try:
    found = np.array([camera["extrinsic"]["baseline"], camera["intrinsic"]["fx"]], np.float32)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f"{path} must have extrinsic.baseline and intrinsic.fx.") from error
  if not (np.isfinite(found).all() and found.min() > 0):
    raise ValueError(f"{path}: baseline and fx must be above 0; they are {found.tolist()}.")
  return found
