"""Tiny-Taskonomy as it lies on disk: its folders, or AdaShare's lists.

`find` looks which one a folder holds. What is read are the raw fields as they are stored;
`data.taskonomy` gives them their meaning.

Source of the forms: the data README of Taskonomy (github.com/StanfordVL/ taskonomy), the download
  tool of Omnidata, the splits of MultiMAE, and the data loader of AdaShare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import os
import pathlib
import re

import numpy as np

from dynashare_jax.data import text
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store

TITLE = "Tiny-Taskonomy"
TASKS = ("segmentation", "normals", "depth", "keypoints", "edges")
LISTS = "taskonomy.json"
SPLITS = "train_val_test_tiny.csv"

# Field -> what its folder, and the end of its files' names, may be.
DOMAINS = {
  "image": (("rgb",), ("rgb",)),
  "segmentation": (
    ("segment_semantic", "segmentsemantic"),
    ("segmentsemantic", "segment_semantic"),
  ),
  "normals": (("normal",), ("normal",)),
  "depth": (("depth_zbuffer", "depth_euclidean"), ("depth_zbuffer", "depth_euclidean")),
  "keypoints": (("keypoints2d",), ("keypoints2d",)),
  "edges": (("edge_texture",), ("edge_texture",)),
}
# Where the folder of a building's domain may lie.
PLACES = (
  "{domain}/{building}",
  "{domain}/taskonomy/{building}",
  "{building}/{domain}",
  "{building}_{domain}/{domain}",
  "{building}_{domain}",
)

HELP = {
  "official": f"""rgb/<building>/point_<i>_view_<j>_domain_rgb.png
      segment_semantic/<building>/point_<i>_view_<j>_domain_segmentsemantic.png
      normal/<building>/point_<i>_view_<j>_domain_normal.png
      depth_zbuffer/<building>/point_<i>_view_<j>_domain_depth_zbuffer.png
      keypoints2d/<building>/point_<i>_view_<j>_domain_keypoints2d.png
      edge_texture/<building>/point_<i>_view_<j>_domain_edge_texture.png
      {SPLITS}   (optional)
    also as <domain>/taskonomy/<building>/, <building>/<domain>/,
    <building>_<domain>/<domain>/ or <building>_<domain>/; depth_euclidean will
    do for depth_zbuffer. From https://docs.omnidata.vision:
      pip install omnidata-tools
      omnitools.download rgb normal depth_zbuffer keypoints2d edge_texture
        segment_semantic --components taskonomy --subset tiny --dest FOLDER
    splits: https://github.com/StanfordVL/taskonomy/raw/master/data/assets/
    splits_taskonomy.zip""",
  "adashare": f"""{LISTS}, and the pictures that it names
    lists from https://drive.google.com/drive/folders/
    1KX9chooxefvrZACtFR441ShdkbS3F2lt (issue 7 of
    https://github.com/sunxm2357/AdaShare), pictures as above""",
}

# Buildings of the published split.
_TRAIN = (
  "hanson merom klickitat onaga leonardo marstons newfields pinesdale lakeville cosmos benevolence "
  "pomaria tolstoy shelbyville allensville wainscott beechwood coffeen stockman hiteman woodbine "
  "lindenwood forkland mifflinburg ranchester"
)
BUILDINGS = {
  "train": tuple(_TRAIN.split()),
  "validation": ("wiconisco", "corozal", "collierville", "markleeville", "darden"),
  "test": ("ihlen", "muleshoe", "uvalda", "noxapater", "mcdade"),
}

_MARKS = {"official": (SPLITS, "rgb/*", "*/rgb", "*_rgb"), "adashare": (LISTS,)}
_LOST = 0.01  # share of the examples that may lack files


@dataclasses.dataclass(frozen=True)
class Reader(dense_layouts.Reader):
  """Reads examples called `<building>/point_<i>_view_<j>`, or listed by their path.

  Attributes:
    places: building -> field -> the folder and the end of its files' names.
  """

  places: Mapping[str, Mapping[str, tuple[str, str]]] = dataclasses.field(default_factory=dict)

  def path(self, key: str, field: str) -> str:
    """Returns the path of a field's file."""
    if key in self.paths:
      return self.paths[key][field]
    building, stem = key.split("/")
    folder, ending = self.places[building][field]
    return f"{folder}/{stem}_domain_{ending}.png"


def find(wanted: dense.Wanted, data_dir: str | None) -> store.Original:
  """Finds the files of the fields that are wanted.

  Returns:
    What was found: `train`, `test` and, where it has one, `validation` examples;
    AdaShare's `test_small` is `small`. Facts: notes. Examples that lack a file are
    left out and counted in a note.

  Raises:
    ValueError: nothing that fits, too much that fits, a building without
      pictures or labels, or more than 1 of 100 examples that lack files.
  """
  layout, fields, size = wanted.config.layout, wanted.fields, wanted.size
  if layout == "auto" and data_dir and (pathlib.Path(data_dir) / LISTS).is_file():
    layout = "adashare"  # its lists lie among the official folders
  name, folder = dense_layouts.detect(TITLE, data_dir, layout, _MARKS, HELP)
  read = Reader(str(folder), fields, size, _read, mixed=wanted.mixed)
  keys, read, notes = (_adashare if name == "adashare" else _official)(folder, read)
  counted = dense_layouts.counted(name, {s: part for s, part in keys.items() if s != "small"})
  return store.Original(counted, keys, read, {"notes": notes}, fields, size)


_Found = tuple[dict[str, tuple[str, ...]], Reader, list[str]]  # keys, and notes


def _official(folder: pathlib.Path, read: Reader) -> _Found:
  """Folders of domains and buildings, split by building."""
  split, note = _buildings(folder)
  absent = [b for part in split.values() for b in part if _place(folder, b, "image") is None]
  if absent:
    total = sum(map(len, split.values()))
    raise ValueError(
      f"{TITLE}: {folder} has no pictures of {len(absent)} of the {total}"
      f" buildings, first {absent[0]}. To use only those that are there, put"
      f" a {SPLITS} with them into it (columns id, train, val, test)."
    )
  keys: dict[str, tuple[str, ...]] = {}
  places: dict[str, dict[str, tuple[str, str]]] = {}
  lost: list[str] = []
  for name, buildings in split.items():
    keys[name] = ()
    for building in buildings:
      places[building] = {f: _needed(folder, building, f) for f in read.fields}
      stems, without = _complete(folder, tuple(places[building].values()))
      keys[name] += tuple(f"{building}/{stem}" for stem in stems)
      lost += without
  notes = _about_lost(folder, lost, len(lost) + sum(map(len, keys.values())))
  return keys, dataclasses.replace(read, places=places), [note, *notes]


def _about_lost(folder: pathlib.Path, lost: Sequence[str], total: int) -> tuple[str, ...]:
  """A note about a few examples that lack files; refuses many."""
  if len(lost) > _LOST * total:
    raise ValueError(
      f"{TITLE}: {folder} lacks files of {len(lost)} of {total} examples, first {lost[0]}."
    )
  if not lost:
    return ()
  return (f"{len(lost)} of {total} examples lack files and are left out, first {lost[0]}",)


def _buildings(folder: pathlib.Path) -> tuple[dict[str, tuple[str, ...]], str]:
  """Buildings of every split, and where that is known from."""
  for path in (folder / SPLITS, folder / "splits_taskonomy" / SPLITS):
    if not path.is_file():
      continue
    rows = list(csv.DictReader(text.read(path).splitlines(), skipinitialspace=True))
    columns = {"train": "train", "validation": "val", "test": "test"}
    if not rows or not {"id", *columns.values()} <= set(rows[0]):
      raise ValueError(f"{path} must have the columns id, train, val and test.")
    named = {s: tuple(row["id"] for row in rows if row[c] == "1") for s, c in columns.items()}
    return named, f"split: {path.name}"
  return BUILDINGS, "split: the published buildings"


def _place(folder: pathlib.Path, building: str, field: str) -> tuple[str, str] | None:
  """Folder of a field of a building, and the end of its files' names."""
  for domain in DOMAINS[field][0]:
    for pattern in PLACES:
      place = pattern.format(domain=domain, building=building)
      if not (folder / place).is_dir():
        continue
      for ending in DOMAINS[field][1]:
        if next((folder / place).glob(f"point_*_domain_{ending}.png"), None):
          return place, ending
  return None


def _needed(folder: pathlib.Path, building: str, field: str) -> tuple[str, str]:
  """Like `_place`, but raises if the files are missing."""
  place = _place(folder, building, field)
  if place is None:
    path = PLACES[0].format(domain=DOMAINS[field][0][0], building=building)
    file = f"{path}/point_<i>_view_<j>_domain_{DOMAINS[field][1][0]}.png"
    raise ValueError(f"{TITLE}: {folder} has no {field} of {building}: there is no {file}.")
  return place


def _complete(
  folder: pathlib.Path, places: Sequence[tuple[str, str]]
) -> tuple[list[str], list[str]]:
  """Examples of a building with all files; of each other, one it lacks."""
  found = []
  for place, ending in places:
    tail = f"_domain_{ending}.png"
    found.append(
      {name.removesuffix(tail) for name in os.listdir(folder / place) if name.endswith(tail)}
    )
  kept, lost = [], []
  for stem in sorted(found[0], key=_number):
    lacks = [place for place, there in zip(places, found, strict=True) if stem not in there]
    if lacks:
      lost.append(f"{lacks[0][0]}/{stem}_domain_{lacks[0][1]}.png")
    else:
      kept.append(stem)
  return kept, lost


def _number(stem: str) -> tuple[int, int, str]:
  """Order of `point_<i>_view_<j>` by its numbers."""
  found = re.fullmatch(r"[^_]*_(\d+)_[^_]*_(\d+)", stem)
  return (int(found[1]), int(found[2]), stem) if found else (-1, -1, stem)


def _adashare(folder: pathlib.Path, read: Reader) -> _Found:
  """AdaShare's lists; `train1` and `train2` together are `train`."""
  order = ("image", *TASKS)
  entries = dense_layouts.read_lists(folder / LISTS, ("train", "test", "test_small"), order)
  paths = {e[0]: dict(zip(order, e, strict=True)) for part in entries.values() for e in part}
  paths = {key: {f: entry[f] for f in read.fields} for key, entry in paths.items()}
  lost = {
    key: absent[0]
    for key, entry in paths.items()
    if (absent := [p for p in entry.values() if not os.path.isfile(os.path.join(folder, p))])
  }
  notes = _about_lost(folder, list(lost.values()), len(paths))
  keys = {
    name.replace("test_small", "small"): tuple(entry[0] for entry in part if entry[0] not in lost)
    for name, part in entries.items()
  }
  return keys, dataclasses.replace(read, paths=paths), [f"split: {LISTS}", *notes]


def _read(path: str, field: str) -> np.ndarray:
  """Reads a field: image and normals uint8, segmentation uint8, the others uint16."""
  if field in ("image", "normals"):
    return files.read_colour(path)
  array = dense_layouts.plane(field, files.read_picture(path))
  if field == "segmentation":
    return array.astype(np.uint8, copy=False)
  if array.dtype == np.uint8:
    raise ValueError(f"{path} has 8 bits a pixel; {field} has 16.")
  return array.astype(np.uint16, copy=False)
