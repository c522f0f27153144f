"""CelebA as it lies on disk: a folder of pictures, and two lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import os
import pathlib

import numpy as np

from dynashare_jax import lookup
from dynashare_jax.data import text
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts
from dynashare_jax.data.pictures import store

TITLE = "CelebA"
_NAMES = (
  "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
  "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
  "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
  "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
  "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
)
ATTRIBUTES = tuple(_NAMES.split())
# Tasks that are called otherwise than their attributes, or have several.
GROUPS = {
  "gender": ("Male",),
  "age": ("Young",),
  "clothes": tuple(name for name in ATTRIBUTES if name.startswith("Wearing_")),
}
TASKS = {**{name: (name,) for name in ATTRIBUTES}, **GROUPS}
SIZE = (218, 178)  # of the aligned pictures

_PARTS = ("train", "validation", "test")  # by their numbers
_SIGNS = {"-1": 0, "1": 1}
_FILES = ("img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt")
_PLACES = {"official": ("Img", "Anno", "Eval"), "flat": ("", "", "")}
HELP = {
  "official": """Img/img_align_celeba/000001.jpg ... 202599.jpg
      Anno/list_attr_celeba.txt
      Eval/list_eval_partition.txt
    from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (Align&Cropped Images:
    img_align_celeba.zip, to be unpacked; for research that is not commercial)""",
  "flat": """img_align_celeba/000001.jpg ... 202599.jpg
      list_attr_celeba.txt
      list_eval_partition.txt
    from the same place""",
}
_MARKS = {
  name: tuple(str(pathlib.Path(place, file)) for place, file in zip(places, _FILES, strict=True))
  for name, places in _PLACES.items()
}


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads a picture and its attributes; picklable.

  Attributes:
    folder: of the pictures.
    columns: task -> the columns of its attributes.
    values: of every attribute, uint8 `[N, 40]`, 0 or 1.
    rows: name of a picture -> its row.
    size: height and width of the pictures; None leaves them.
  """

  folder: str
  columns: Mapping[str, tuple[int, ...]]
  values: np.ndarray
  rows: Mapping[str, int]
  size: tuple[int, int] | None

  def __call__(self, key: str) -> dict[str, np.ndarray]:
    """Returns `image`, and of every task its attributes, uint8 `[n]`.

    Raises:
      ValueError: the picture is damaged, or of another size than `SIZE`.
    """
    image = files.read_colour(os.path.join(self.folder, key))
    if image.shape[:2] != SIZE:
      raise ValueError(
        f"it is {dense_layouts.times(image.shape[:2])}; aligned pictures are"
        f" {dense_layouts.times(SIZE)}: this is another picture."
      )
    row = self.values[self.rows[key]]
    labels = {task: row[list(places)] for task, places in self.columns.items()}
    return {**dense_layouts.fitted({"image": image}, self.size), **labels}


def find(wanted: dense.Wanted, data_dir: str | None) -> store.Original:
  """Finds the pictures and reads the lists.

  Returns:
    What was found: `train`, `validation` and `test`, by the list.

  Raises:
    ValueError: a file or picture is missing, or a line of a list is wrong; names it.
  """
  name, folder = dense_layouts.detect(TITLE, data_dir, wanted.config.layout, _MARKS, HELP)
  pictures, attributes, partition = (folder / path for path in _MARKS[name])
  for path in (attributes, partition):
    if not path.is_file():
      raise ValueError(f"{TITLE}: there is no file {path}. It needs:\n      {HELP[name]}")
  header, values = _attributes(attributes)
  keys = _partition(partition, values)
  there = set(os.listdir(pictures)) if pictures.is_dir() else set()
  missing = [key for key in values if key not in there]
  if missing:
    raise ValueError(
      f"{TITLE}: {pictures} lacks {len(missing)} of the {len(values)} pictures that"
      f" {attributes} lists, first {missing[0]}."
    )
  columns = {task: tuple(map(header.index, TASKS[task])) for task in wanted.tasks}
  table = np.frombuffer(b"".join(values.values()), np.uint8).reshape(-1, len(ATTRIBUTES))
  rows = {key: row for row, key in enumerate(values)}
  read = Reader(str(pictures), columns, table, rows, wanted.size)
  counted = dense_layouts.counted(name, keys)
  return store.Original(counted, keys, read, {}, wanted.fields, wanted.size)


def _attributes(path: pathlib.Path) -> tuple[list[str], dict[str, bytes]]:
  """Names of the columns, and of every picture a byte, 0 or 1, for each of them."""
  lines = _lines(path)
  where, count = next(lines, ("line 1", []))
  if len(count) != 1 or not count[0].isdigit():
    raise ValueError(f"{path}, {where}: there must be the number of pictures.")
  where, header = next(lines, ("line 2", []))
  unknown = [name for name in header if name not in ATTRIBUTES]
  if unknown:
    raise ValueError(
      f"{path}, {where}: there is no attribute {unknown[0]!r}.{lookup.hint(unknown[0], ATTRIBUTES)}"
    )
  if sorted(header) != sorted(ATTRIBUTES):
    lacking = [name for name in ATTRIBUTES if name not in header]
    told = f"lacks {', '.join(lacking)}" if lacking else "has an attribute twice"
    raise ValueError(f"{path}, {where}: it must name the {len(ATTRIBUTES)} attributes, but {told}.")
  found: dict[str, bytes] = {}
  for where, (key, *texts) in lines:
    if len(texts) != len(header):
      raise ValueError(
        f"{path}, {where}: it has {len(texts)} values; there are {len(header)} attributes."
      )
    wrong = [value for value in texts if value not in _SIGNS]
    if wrong or key in found:
      told = f"a value is {wrong[0]!r}; they are -1 and 1" if wrong else f"{key} comes twice"
      raise ValueError(f"{path}, {where}: {told}.")
    found[key] = bytes(map(_SIGNS.__getitem__, texts))
  if len(found) != int(count[0]):
    raise ValueError(
      f"{path} lists {len(found)} pictures, but line 1 says {count[0]}: it is cut off or damaged."
    )
  return header, found


def _partition(path: pathlib.Path, known: Mapping[str, bytes]) -> dict[str, tuple[str, ...]]:
  """The pictures of every split, in the order of the list."""
  parts: dict[str, list[str]] = {part: [] for part in _PARTS}
  seen: set[str] = set()
  for where, texts in _lines(path):
    if len(texts) != 2 or texts[1] not in ("0", "1", "2"):
      raise ValueError(
        f"{path}, {where}: it must have a picture and 0 (train), 1 (validation) or 2 (test)."
      )
    key, part = texts
    if key not in known or key in seen:
      told = "comes twice" if key in seen else "is not in the list of attributes"
      raise ValueError(f"{path}, {where}: {key} {told}.")
    seen.add(key)
    parts[_PARTS[int(part)]].append(key)
  if len(seen) < len(known):
    lacking = next(key for key in known if key not in seen)
    raise ValueError(
      f"{path} lacks {len(known) - len(seen)} of the {len(known)} pictures that have attributes,"
      f" first {lacking}: it is cut off or damaged."
    )
  return {part: tuple(keys) for part, keys in parts.items()}


def _lines(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
  """The words of every line that has some, with its number."""
  for number, line in enumerate(text.read(path).split("\n"), 1):
    if words := line.split():
      yield f"line {number}", words
