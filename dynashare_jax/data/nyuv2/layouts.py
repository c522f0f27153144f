"""NYU Depth V2 as it lies on disk, in the four forms that are in use.

`find` looks which one a folder holds. What is read are the raw fields as they
are stored; `data.nyuv2` gives them their meaning.

Source of the forms: the data loaders of AdaShare, MTAN and LibMTL (axis 0 of
  its normals is negated when a picture is mirrored), ASTMT and MTI-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import pathlib

import numpy as np

from dynashare_jax.data.nyuv2 import classes as nyuv2_classes
from dynashare_jax.data.nyuv2 import files as nyuv2_files
from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import surface_normals

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


@dataclasses.dataclass(frozen=True)
class Layout:
  """A form of the data set that was found.

  Attributes:
    name: key of `HELP`.
    keys: names of the `train` and the `test` examples; either may be empty.
    read: of an example's name its raw fields: `image` and the tasks'.
    classes: how many the stored labels tell apart.
    first: id of the first of them.
    void: ids of pixels without a class.
    axes: of the stored normals; None where they must be found out.
    note: what is worth telling.
  """

  name: str
  keys: Mapping[str, tuple[str, ...]]
  read: Callable[[str], Mapping[str, np.ndarray]]
  classes: int
  first: int
  void: tuple[int, ...]
  axes: surface_normals.Axes | None
  note: str = ""


def find(
  data_dir: str | None, layout: str, tasks: tuple[str, ...], size: tuple[int, int] | None
) -> Layout:
  """Finds the data set.

  Args:
    data_dir: the folder.
    layout: `auto` or a key of `HELP`.
    tasks: wanted, any of `TASKS`.
    size: see `nyuv2_files.Reader`.

  Returns:
    What was found; every file that a task needs is there.

  Raises:
    ValueError: nothing that fits, too much that fits, or files are missing.
  """
  found, folder = dense_layouts.detect("NYU v2", data_dir, layout, _MARKS, HELP)
  return _FINDERS[found](folder, tasks, size)


def _find_official(
  folder: pathlib.Path, tasks: tuple[str, ...], size: tuple[int, int] | None
) -> Layout:
  """The labelled file, with the published split."""
  path = folder / LABELED
  count = nyuv2_files.open_labeled(str(path), os.getpid())["images"].shape[0]
  if (folder / SPLITS).is_file():
    split = nyuv2_files.read_mat(folder / SPLITS)
    keys = {}
    for name in ("train", "test"):
      frames = nyuv2_files.variable(split, f"{name}Ndxs", folder / SPLITS).ravel()
      if frames.size and not 1 <= frames.min() <= frames.max() <= count:
        raise ValueError(
          f"{folder / SPLITS} names frames {frames.min()} to"
          f" {frames.max()}, but {path} has {count}."
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
  read = nyuv2_files.LabeledReader(str(folder), tasks, size)
  if "normals" in tasks:
    note += "; normals: planes fitted to depth"
  return Layout("official", keys, read, 894, 1, (0,), surface_normals.Axes(), note)


def _find_adashare(
  folder: pathlib.Path, tasks: tuple[str, ...], size: tuple[int, int] | None
) -> Layout:
  """AdaShare's folders, with its lists or by the numbers of the files."""
  if (folder / LISTS).is_file():
    lists, note = _read_lists(folder / LISTS), f"split: {LISTS}"
  else:
    lists, note = _by_number(folder), "split: as published, by file numbers"
  paths = {
    entry[0]: dict(zip(("image", *TASKS), entry, strict=True))
    for entries in lists.values()
    for entry in entries
  }
  _check_files(folder, paths, tasks)
  keys = {name: tuple(entry[0] for entry in entries) for name, entries in lists.items()}
  # Measured on samples against planes fitted to their depth: red points right,
  # green forward and blue up.
  axes = surface_normals.Axes((0, 2, 1), (1, -1, 1))
  read = nyuv2_files.Reader(str(folder), tasks, size, paths)
  return Layout("adashare", keys, read, 40, 0, (255,), axes, note)


def _find_mtan(
  folder: pathlib.Path, tasks: tuple[str, ...], size: tuple[int, int] | None
) -> Layout:
  """Arrays of MTAN, whose validation is the published test split."""
  names = dict(zip(("image", *TASKS), ("image", "label", "normal", "depth"), strict=True))
  keys: dict[str, tuple[str, ...]] = {}
  paths: dict[str, dict[str, str]] = {}
  for split, part in (("train", "train"), ("test", "val")):
    stems = [p.stem for p in (folder / part / "image").glob("*.npy")]
    order = sorted(stems, key=lambda s: (not s.isdigit(), s.zfill(9)))
    keys[split] = tuple(f"{part}/{stem}" for stem in order)
    paths |= {
      f"{part}/{stem}": {field: f"{part}/{name}/{stem}.npy" for field, name in names.items()}
      for stem in order
    }
  _check_files(folder, paths, tasks)
  read = nyuv2_files.Reader(str(folder), tasks, size, paths)
  return Layout("mtan", keys, read, 13, 0, (-1,), None)


def _find_nyud_mt(
  folder: pathlib.Path, tasks: tuple[str, ...], size: tuple[int, int] | None
) -> Layout:
  """The NYUD-MT archive of ASTMT and MTI-Net."""
  keys = {}
  for split, part in (("train", "train"), ("test", "val")):
    path = folder / "gt_sets" / f"{part}.txt"
    if not path.is_file():
      raise ValueError(f"There is no file {path}.")
    keys[split] = tuple(path.read_text(encoding="utf-8").split())
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
  _check_files(folder, paths, tasks)
  read = nyuv2_files.Reader(str(folder), tasks, size, paths)
  return Layout("nyud_mt", keys, read, 40, 1, (0, 255), None)


_FINDERS = {
  "official": _find_official,
  "adashare": _find_adashare,
  "mtan": _find_mtan,
  "nyud_mt": _find_nyud_mt,
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


def _read_lists(path: pathlib.Path) -> dict[str, list[tuple[str, ...]]]:
  """AdaShare's lists; its `train1` and `train2` together are `train`."""
  lists = files.read_json(path)
  for name in ("train", "test"):
    entries = lists.get(name, []) if isinstance(lists, dict) else None
    if not isinstance(entries, list) or not all(
      isinstance(entry, list) and len(entry) == 4 and all(isinstance(part, str) for part in entry)
      for entry in entries
    ):
      raise ValueError(
        f"{path}: {name!r} must list the paths of image,"
        " segmentation, normals and depth of every example."
      )
  return {name: [tuple(entry) for entry in lists.get(name, [])] for name in ("train", "test")}


def _by_number(folder: pathlib.Path) -> dict[str, list[tuple[str, ...]]]:
  """Splits AdaShare's folders; a file's number is the frame, from 0."""
  stems = sorted(p.stem for p in (folder / "img").glob("*.png"))
  odd = [s for s in stems if not s.isdigit() or int(s) >= nyuv2_classes.FRAMES]
  if odd:
    raise ValueError(
      f"{folder / 'img'}: {odd[0]}.png is not named after a frame 0000 to"
      f" {nyuv2_classes.FRAMES - 1}, so the split is not known: put {LISTS}"
      " beside it."
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


def _check_files(
  folder: pathlib.Path, paths: Mapping[str, Mapping[str, str]], tasks: Sequence[str]
) -> None:
  """Refuses a folder that lacks files of the tasks."""
  dense_layouts.check_files(
    "NYU v2", folder, (parts[field] for parts in paths.values() for field in ("image", *tasks))
  )
