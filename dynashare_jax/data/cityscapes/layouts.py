"""Cityscapes as it lies on disk, in the four forms that are in use.

`find` looks which one a folder holds. What is read are the raw fields as they
are stored; `data.cityscapes` gives them their meaning.

Source of the forms: cityscapesScripts, and the data loaders of AdaShare, MTAN,
  LibMTL and Auto-Lambda.
"""

from __future__ import annotations

import pathlib

import numpy as np

from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store

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
SIZES = {"official": (1024, 2048), **dict.fromkeys(("adashare", "mtan", "auto_lambda"), (256, 512))}

_MARKS = {
  "official": ("leftImg8bit", "leftImg8bit_trainvaltest"),
  "adashare": (LISTS,),
  "mtan": ("train/image/*.npy",),
  "auto_lambda": ("train/image/*.png",),
}
_SPLITS = (("train", "train"), ("test", "val"))


_Paths = dict[str, dict[str, dict[str, str]]]  # split -> example -> field


def find(wanted: dense.Wanted, data_dir: str | None) -> store.Original:
  """Finds the files of the fields that are wanted.

  Returns:
    What was found: `train` and `test` examples, and every file that is needed. Facts: labels, one
    of `labels.STORED`; coded, whether depth and parts are the official release's numbers (uint16
    disparity, and ids of instance and part), else values and classes.

  Raises:
    ValueError: nothing that fits, too much that fits, or files are missing.
  """
  fields, size, classes = wanted.fields, wanted.size, wanted.config.classes
  name, folder = dense_layouts.detect(TITLE, data_dir, wanted.config.layout, _MARKS, HELP)
  if "camera" in fields and name != "official":
    raise ValueError(
      f"config.data.depth is 'metres', but the layout {name} has no cameras:"
      " take the official one, or set it to disparity."
    )
  if name == "official":
    paths, labels = _official(folder)
  elif name == "adashare":
    paths, labels = _adashare(folder, fields, classes)
  else:
    paths, labels = _numbered(folder, name, classes)
  examples = {key: entry for part in paths.values() for key, entry in part.items()}
  dense_layouts.check_files(TITLE, folder, examples, fields)
  keys = {split: tuple(part) for split, part in paths.items()}
  return store.Original(
    dense_layouts.counted(name, keys),
    keys,
    dense_layouts.Reader(str(folder), fields, size, _read, examples),
    {"labels": labels, "coded": name in ("official", "auto_lambda")},
    fields,
    size,
  )


def _official(folder: pathlib.Path) -> tuple[_Paths, str]:
  """The release as it is unpacked, each archive in a folder of its own or not."""
  # The official test split has no public labels: validation is the test split.
  kinds = ("leftImg8bit", "gtFine", "disparity", "camera", "gtFinePanopticParts")
  images, annotations, disparity, camera, parts = (_unpacked(folder, kind) for kind in kinds)
  paths: _Paths = {}
  labels = ""
  for split, part in _SPLITS:
    pictures = sorted((folder / images / part).glob("*/*_leftImg8bit.png"))
    if not pictures:
      raise ValueError(
        f"{TITLE}: there is no picture {folder / images / part}/<city>/<id>_leftImg8bit.png."
      )
    paths[split] = {}
    for picture in pictures:
      place = f"{part}/{picture.parent.name}/{picture.name.removesuffix('_leftImg8bit.png')}"
      classes = f"{annotations}/{place}_gtFine_label"
      if not labels:
        there = [(folder / f"{classes}{kind}Ids.png").is_file() for kind in ("Train", "")]
        labels = "train ids" if there == [True, False] else "label ids"
      paths[split][place] = {
        "image": f"{images}/{place}_leftImg8bit.png",
        "segmentation": f"{classes}{'Train' if labels == 'train ids' else ''}Ids.png",
        "depth": f"{disparity}/{place}_disparity.png",
        "camera": f"{camera}/{place}_camera.json",
        "parts": f"{parts}/{place}_gtFinePanopticParts.tif",
      }
  return paths, labels


def _unpacked(folder: pathlib.Path, kind: str) -> str:
  """Folder of a kind of file, perhaps within one named after its archive."""
  within = f"{kind}_{'trainval' if kind == 'gtFinePanopticParts' else 'trainvaltest'}/{kind}"
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
    split: {entry[0]: {field: entry[i] for field, i in place.items()} for entry in entries}
    for split, entries in lists.items()
  }
  return paths, "categories" if classes == 7 else "train ids"


def _numbered(folder: pathlib.Path, name: str, classes: int) -> tuple[_Paths, str]:
  """MTAN's arrays or Auto-Lambda's pictures, numbered."""
  labels, files_of = "label ids", "image/{}.png seg/{}.png depth/{}.png part_seg/{}.tif"
  if name == "mtan":
    known = ("label_7", "label", "label_19")
    there = [n for n in known if (folder / "train" / n).is_dir()] or ["label"]
    chosen = there[-1] if classes == 19 else there[0]
    labels = "train ids" if chosen == "label_19" else "categories"
    files_of = f"image/{{}}.npy {chosen}/{{}}.npy depth/{{}}.npy part/{{}}.npy"
  patterns = dict(zip(("image", *TASKS), files_of.split(), strict=True))
  paths = {split: dense_layouts.numbered(folder, part, patterns) for split, part in _SPLITS}
  for split, part in _SPLITS:
    if not paths[split]:
      missing = patterns["image"].format("<i>")
      raise ValueError(f"{TITLE}: there is no picture {folder / part}/{missing}.")
  return paths, labels


def _read(path: str, field: str) -> np.ndarray:
  """Reads a field: depth uint16 or float32; camera: baseline in metres, focal length in pixels."""
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
