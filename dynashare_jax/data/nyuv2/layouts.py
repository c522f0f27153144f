"""NYU Depth V2 as it lies on disk, in the four forms that are in use.

`find` looks which one a folder holds. What is read are the raw fields as they
are stored; `data.nyuv2` gives them their meaning.

Source of the forms: the data loaders of AdaShare, MTAN and LibMTL (axis 0 of
  its normals is negated when a picture is mirrored), ASTMT and MTI-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
import pathlib
from typing import Any, NamedTuple

from dynashare_jax.data import text
from dynashare_jax.data.nyuv2 import classes as nyuv2_classes
from dynashare_jax.data.nyuv2 import files as nyuv2_files
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store

TITLE = "NYU v2"
TASKS = ("segmentation", "normals", "depth")
LABELED = nyuv2_files.LABELED
SPLITS = "splits.mat"
LISTS = "nyu_v2_3task.json"

HELP = {
  "official": f"""{LABELED}
      splits.mat   (optional)
    from http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/{LABELED}
    and http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat""",
  "adashare": f"""{LISTS}
      img/*.png  seg/*.png  normal_mask/*.png  depth/*.npy
    from https://drive.google.com/file/d/11pWuQXMFBNMIIB4VYMzi9RPE-nMOBU8g
    (README of https://github.com/sunxm2357/AdaShare)""",
  "mtan": """train/image/<i>.npy  label/<i>.npy  depth/<i>.npy  normal/<i>.npy
      val/image/<i>.npy    ... the same
    from https://www.dropbox.com/sh/86nssgwm6hm3vkb/AACrnUQ4GxpdrBbLjb6n-mWNa
    (README of https://github.com/lorenmt/mtan)""",
  "nyud_mt": """images/<id>.jpg  segmentation/<id>.png or .mat
      normals/<id>.npy or .jpg  depth/<id>.npy or .mat
      gt_sets/train.txt  gt_sets/val.txt
    from https://data.vision.ee.ethz.ch/kmaninis/share/MTL/NYUD_MT.tgz
    or https://drive.google.com/file/d/14EAEMXmd3zs2hIMY63UhHPSFPDAkiTzw""",
}
SIZES = {"official": (480, 640), "adashare": (480, 640), "mtan": (288, 384), "nyud_mt": (425, 560)}


def find(wanted: dense.Wanted, data_dir: str | None) -> store.Original:
  """Finds the files of the fields that are wanted.

  Returns:
    What was found: `train` and `test` examples, of which either may be none; every
    file that is needed is there. Facts: classes, the number that the stored labels
    distinguish; first, the id of the first of them; void, ids of pixels without a
    class; axes of the stored normals, empty where they are not known; note.

  Raises:
    ValueError: nothing that fits, too much that fits, or files are missing.
  """
  fields, size = wanted.fields, wanted.size
  name, folder = dense_layouts.detect(TITLE, data_dir, wanted.config.layout, _MARKS, HELP)
  form = _FINDERS[name](folder)
  facts = form._asdict()
  keys, paths = facts.pop("keys"), facts.pop("paths")
  if name == "official":
    reader: type[dense_layouts.Reader] = nyuv2_files.LabeledReader
    facts["note"] += "; normals: planes fitted to depth" * ("normals" in fields)
  else:
    reader = dense_layouts.Reader
    dense_layouts.check_files(TITLE, folder, paths, fields)
  read = reader(str(folder), fields, size, nyuv2_files.read, paths)
  return store.Original(dense_layouts.counted(name, keys), keys, read, facts, fields, size)


class _Form(NamedTuple):
  """What differs between the layouts; see `find`."""

  keys: dict[str, tuple[str, ...]]
  paths: dict[str, dict[str, str]]
  classes: int
  first: int
  void: list[int]
  axes: str = ""
  note: str = ""


def _official(folder: pathlib.Path) -> _Form:
  """The labelled file, with the published split."""
  path, splits = folder / LABELED, folder / SPLITS
  count = nyuv2_files.open_labeled(str(path), os.getpid())["images"].shape[0]
  if splits.is_file():
    keys = {}
    for name in ("train", "test"):
      frames = files.read_mat(splits, f"{name}Ndxs").ravel()
      if frames.size and not 1 <= frames.min() <= frames.max() <= count:
        raise ValueError(
          f"{splits} names frames {frames.min()} to {frames.max()}, but {path} has {count}."
        )
      keys[name] = tuple(str(int(frame) - 1) for frame in frames)
    note = f"split: {SPLITS}"
  elif count == nyuv2_classes.FRAMES:
    keys = _published([str(frame) for frame in range(count)])
    note = "split: as published"
  else:
    raise ValueError(
      f"{path} has {count} frames, not {nyuv2_classes.FRAMES}: put its {SPLITS} beside it."
    )
  return _Form(keys, {}, 894, 1, [0], "+0 +1 +2", note)


def _adashare(folder: pathlib.Path) -> _Form:
  """AdaShare's folders, with its lists or by the numbers of the files."""
  fields = ("image", *TASKS)
  lists: dict[str, Any]
  if (folder / LISTS).is_file():
    # Its `train1` and `train2` together are `train`.
    lists = dense_layouts.read_lists(folder / LISTS, ("train", "test"), fields)
    note = f"split: {LISTS}"
  else:
    lists, note = _by_number(folder), "split: as published, by file numbers"
  keys = {name: tuple(entry[0] for entry in entries) for name, entries in lists.items()}
  paths = {e[0]: dict(zip(fields, e, strict=True)) for entries in lists.values() for e in entries}
  # Measured on samples against planes fitted to their depth: red points right,
  # green forward and blue up.
  return _Form(keys, paths, 40, 0, [255], "+0 -2 +1", note)


def _mtan(folder: pathlib.Path) -> _Form:
  """Arrays of MTAN, whose validation is the published test split."""
  names = ("image/{}.npy", "label/{}.npy", "normal/{}.npy", "depth/{}.npy")
  patterns = dict(zip(("image", *TASKS), names, strict=True))
  train, test = (dense_layouts.numbered(folder, part, patterns) for part in ("train", "val"))
  return _Form({"train": tuple(train), "test": tuple(test)}, {**train, **test}, 13, 0, [-1])


def _nyud_mt(folder: pathlib.Path) -> _Form:
  """The NYUD-MT archive of ASTMT and MTI-Net."""
  keys = {}
  for split, part in (("train", "train"), ("test", "val")):
    path = folder / "gt_sets" / f"{part}.txt"
    if not path.is_file():
      raise ValueError(f"There is no file {path}.")
    keys[split] = tuple(text.read(path).split())
  first = (*keys["train"], *keys["test"], "?")[0]
  endings = {}
  for field, (name, known) in _ARCHIVE.items():
    found = [e for e in known if (folder / name / f"{first}{e}").is_file()]
    endings[field] = f"{name}/{{}}{(found or known)[0]}"
  paths = {
    key: {field: pattern.format(key) for field, pattern in endings.items()}
    for part in keys.values()
    for key in part
  }
  return _Form(keys, paths, 40, 1, [0, 255])


_FINDERS: dict[str, Callable[[pathlib.Path], _Form]] = {
  "official": _official,
  "adashare": _adashare,
  "mtan": _mtan,
  "nyud_mt": _nyud_mt,
}
_MARKS = {
  "official": (LABELED,),
  "adashare": (LISTS, "img"),
  "mtan": ("train/image", "val/image"),
  "nyud_mt": ("gt_sets/train.txt", "gt_sets/val.txt"),
}
_ARCHIVE = {
  "image": ("images", (".jpg", ".png")),
  "segmentation": ("segmentation", (".png", ".mat")),
  "normals": ("normals", (".npy", ".png", ".jpg")),
  "depth": ("depth", (".npy", ".mat")),
}


def _by_number(folder: pathlib.Path) -> dict[str, list[tuple[str, ...]]]:
  """Splits AdaShare's folders; a file's number is the frame, from 0."""
  stems = sorted(p.stem for p in (folder / "img").glob("*.png"))
  odd = [s for s in stems if not s.isdigit() or int(s) >= nyuv2_classes.FRAMES]
  if odd:
    named = f"{odd[0]}.png is not named after a frame 0000 to {nyuv2_classes.FRAMES - 1}"
    raise ValueError(
      f"{folder / 'img'}: {named}, so the split is not known: put {LISTS} beside it."
    )
  return {
    name: [(f"img/{s}.png", f"seg/{s}.png", f"normal_mask/{s}.png", f"depth/{s}.npy") for s in part]
    for name, part in _published(stems).items()
  }


def _published(frames: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """The published split of numbered frames."""
  return {
    name: tuple(f for f in frames if nyuv2_classes.is_test(int(f)) == (name == "test"))
    for name in ("train", "test")
  }
