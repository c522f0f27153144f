"""Finds the pictures and labels of a data set in folders, and reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import os
import pathlib
import re
from typing import Any
import unicodedata

import numpy as np

from dynashare_jax.data.pictures import files
from dynashare_jax.data.pictures import layouts as dense_layouts

ENDINGS = (".png", ".jpg", ".jpeg", ".npy", ".tif", ".tiff")
UNREAD = (".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pfm", ".exr", ".npz", ".mat", ".h5")

_FORM = 1.2  # how far the ratio of height and width of a label may be from its picture's
_WILDCARD = re.compile(r"\{(\w*)\}")


@dataclasses.dataclass(frozen=True)
class Pattern:
  """Paths of files, with names in braces for the parts that differ.

  Attributes:
    text: relative to the root; without an ending, any of `ENDINGS` fits.
    deep: whether the one wildcard may span folders (a folder was given).
  """

  text: str
  deep: bool = False

  @classmethod
  def read(cls, text: str, where: str) -> Pattern:
    """Makes a pattern of a folder or a pattern.

    Raises:
      ValueError: braces without a name, or a path out of the root.
    """
    parts = pathlib.PurePosixPath(text).parts
    if text.startswith("/") or ".." in parts:
      raise ValueError(f"{where}: {text!r} must be a path below the root.")
    bare = _WILDCARD.sub("", text)
    if "{" in bare or "}" in bare or "" in _WILDCARD.findall(text):
      raise ValueError(f"{where}: {text!r}: braces must hold a name, as in {{name}}.")
    text = unicodedata.normalize("NFC", "/".join(parts))
    return cls(text) if "{" in text else cls(f"{text}/{{name}}", True)

  @property
  def wildcards(self) -> tuple[str, ...]:
    """The names in braces, each once, in order."""
    return tuple(dict.fromkeys(_WILDCARD.findall(self.text)))

  @property
  def _open(self) -> bool:
    """Whether the ending is not given."""
    return not self.text.lower().endswith(ENDINGS)

  def stem(self, values: Mapping[str, str]) -> str:
    """Returns the path that an example's file has, without its ending."""
    path = _WILDCARD.sub(lambda m: values[m[1]], self.text)
    return path if self._open else os.path.splitext(path)[0]

  def candidates(self, values: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the paths that an example's file may have."""
    path = _WILDCARD.sub(lambda m: values[m[1]], self.text)
    return tuple(path + e for e in ENDINGS) if self._open else (path,)

  def find(self, root: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the paths of all files that fit, in order, with the wildcards' texts.

    Letters of the ending may be large or small, and texts in any form of Unicode; hidden files are
    left out, linked folders are followed.
    """
    if not self.deep:
      text = self.text + (r"{}" if self._open else "")
      yield from _descend(root, "", text.split("/"), {})
      return
    folder = self.text.rpartition("/")[0]
    for path in _files(root, resolved(root, folder) or folder):
      stem, ending = os.path.splitext(path)
      if ending.lower() in ENDINGS:
        yield path, {"name": _form(stem)[len(folder) + 1 :]}


def _files(root: str, folder: str) -> Iterator[str]:
  """Paths of the files below a folder, in order; nothing hidden, no folder twice."""
  seen: set[str] = set()
  for place, folders, names in os.walk(os.path.join(root, folder), followlinks=True):
    real = os.path.realpath(place)
    folders[:] = sorted(f for f in folders if not f.startswith(".")) if real not in seen else []
    if real in seen:
      continue
    seen.add(real)
    here = pathlib.PurePath(os.path.relpath(place, root)).as_posix()
    yield from (f"{here}/{name}" for name in sorted(names) if not name.startswith("."))


def _form(name: str) -> str:
  """A name or path in one form of Unicode, its ending in small letters."""
  stem, ending = os.path.splitext(unicodedata.normalize("NFC", name))
  return stem + (ending.lower() if ending.lower() in ENDINGS else ending)


@functools.lru_cache(maxsize=1024)
def _listing(folder: str) -> dict[str, str]:
  """Form of every name in a folder -> the name, of several the first."""
  try:
    return {_form(name): name for name in sorted(os.listdir(folder), reverse=True)}
  except (FileNotFoundError, NotADirectoryError):
    return {}


def resolved(root: str, path: str) -> str | None:
  """Returns the path as it is spelt on disk: another form of Unicode, or an ending in capitals."""
  if os.path.exists(os.path.join(root, path)):
    return path
  place = ""
  for part in path.split("/"):
    name = _listing(os.path.join(root, place)).get(_form(part))
    if name is None:
      return None
    place = f"{place}/{name}" if place else name
  return place


def _descend(
  root: str, base: str, parts: Sequence[str], values: dict[str, str]
) -> Iterator[tuple[str, dict[str, str]]]:
  """Matches one level of folders after the other."""
  part, *rest = parts
  if "{" not in part and rest:
    here = [part] if os.path.isdir(os.path.join(root, base, part)) else []
  else:
    try:
      here = sorted(os.listdir(os.path.join(root, base)))
    except (FileNotFoundError, NotADirectoryError):
      return
  expression = _expression(part, values)
  for name in here:
    match = expression.fullmatch(unicodedata.normalize("NFC", name))
    if not match or (name.startswith(".") and not part.startswith(".")):
      continue
    path = f"{base}/{name}" if base else name
    known = {**values, **match.groupdict()}
    if rest:
      yield from _descend(root, path, rest, known)
    elif os.path.isfile(os.path.join(root, path)):
      yield path, known


def _expression(part: str, known: Mapping[str, str]) -> re.Pattern[str]:
  """The pattern of one part of a path; a wildcard has the same text everywhere."""
  pieces, seen, end = [], set(known), 0
  for match in _WILDCARD.finditer(part):
    pieces.append(re.escape(part[end : match.start()]))
    end, name = match.end(), match[1]
    if not name:
      pieces.append("(?i:" + "|".join(map(re.escape, ENDINGS)) + ")")
    elif name in known:
      pieces.append(re.escape(known[name]))
    else:
      pieces.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)")
      seen.add(name)
  rest = part[end:]
  ending = next((e for e in ENDINGS if rest.lower().endswith(e)), "")
  stem = rest[: len(rest) - len(ending)]
  return re.compile("".join(pieces) + re.escape(stem) + f"(?i:{re.escape(ending)})")


def find_pictures(root: str, pattern: Pattern, where: str) -> dict[str, tuple[str, ...]]:
  """Finds all examples: name (the wildcards' texts, with slashes) -> these texts.

  Args:
    root: folder that the pattern starts from.
    where: the file of the description, for messages.

  Raises:
    ValueError: there is none, or two pictures have one name.
  """
  _listing.cache_clear()  # files may have come since another data set was found
  found: dict[str, tuple[str, ...]] = {}
  for path, values in pattern.find(root):
    texts = tuple(values[w] for w in pattern.wildcards)
    name = "/".join(texts)
    if name in found:
      raise ValueError(
        f"{where}: pictures: two pictures are called {name!r};"
        f" one of them is {os.path.join(root, path)}."
      )
    found[name] = texts
  if not found:
    fault = "" if os.path.isdir(root) else ", which is no folder"
    raise ValueError(
      f"{where}: pictures: no file fits {pattern.text!r} below {root}{fault}. Files must end in"
      f" {', '.join(ENDINGS)}."
    )
  return found


def labels_among(
  root: str, pictures: Pattern, labels: Sequence[Pattern], examples: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
  """Returns which examples are labels of others, in the same folder: name -> path."""
  of = {
    path: "/".join(values[w] for w in pictures.wildcards) for path, values in pictures.find(root)
  }
  found: dict[str, str] = {}
  for pattern in labels:
    if {*pattern.wildcards} != {*pictures.wildcards}:
      continue  # one label of several examples
    places = [pictures.wildcards.index(name) for name in pattern.wildcards]
    owners = {tuple(texts[p] for p in places): name for name, texts in examples.items()}
    for path, values in pattern.find(root):
      owner = owners.get(tuple(values[name] for name in pattern.wildcards))
      if owner is not None and path in of and of[path] != owner:
        found[of[path]] = path
  return found


def unused(
  root: str, pictures: Pattern, labels: Sequence[Pattern], examples: Mapping[str, tuple[str, ...]]
) -> list[str]:
  """Returns the files beside labels that are neither a picture nor the label of one, in order."""
  used: set[str] = set()
  there: set[str] = set()
  for pattern in labels:
    places = [pictures.wildcards.index(name) for name in pattern.wildcards]
    wanted = {tuple(texts[place] for place in places) for texts in examples.values()}
    folders = set()
    for path, values in pattern.find(root):
      folders.add(os.path.dirname(path))
      texts = tuple(values[name] for name in pattern.wildcards)
      if texts in wanted:
        wanted.remove(texts)  # a second file of one example is not read
        used.add(path)
    if pattern.deep:
      folder = pattern.text.rpartition("/")[0]
      there.update(_files(root, resolved(root, folder) or folder))
    for folder in () if pattern.deep else folders:
      names = _listing(os.path.join(root, folder)).values()
      there.update(os.path.join(folder, name) for name in names if not name.startswith("."))
  endings = (*ENDINGS, *UNREAD)
  lost = {path for path in there - used if path.lower().endswith(endings)}
  return sorted(lost.difference(path for path, _ in pictures.find(root)) if lost else lost)


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads the raw fields of an example; picklable.

  Attributes:
    root: folder that all patterns start from.
    pictures: of the pictures.
    labels: task -> pattern of its files.
    examples: name -> texts of the pictures' wildcards.
    size: height and width to bring everything to; None leaves it.
    ids: tasks whose labels are ids of classes.
    told: task -> what a table says of every example, float32 `[N, n]`, NaN for nothing.
  """

  root: str
  pictures: Pattern
  labels: Mapping[str, Pattern]
  examples: Mapping[str, tuple[str, ...]]
  size: tuple[int, int] | None = None
  ids: tuple[str, ...] = ()
  told: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  def __call__(self, key: str) -> dict[str, np.ndarray]:
    """Reads the picture, uint8 or its array, and the labels that are there, as stored.

    Raises:
      ValueError: a file cannot be read.
    """
    values = self._values(key)
    path = self._path(self.pictures, values)
    if path is None:
      raise ValueError(f"its picture is gone: {self.pictures.candidates(values)[0]}.")
    fields = {"image": _read(path, True)}
    for task, pattern in self.labels.items():
      path = self._path(pattern, values)
      if path is not None:
        formats = files.EXACT if task in self.ids else (*files.EXACT, "JPEG")
        fields[task] = _read(path, False, formats)
        _check_form(task, fields[task].shape, fields["image"].shape)
    there = {t: v[self._places[key]] for t, v in self.told.items() if self.has(t, key)}
    return {**dense_layouts.fitted(fields, self.size), **there}

  def expected(self, task: str, key: str) -> str:
    """Returns the paths where the label of an example should lie."""
    return " or ".join(self.labels[task].candidates(self._values(key)))

  def has(self, task: str, key: str) -> bool:
    """Returns whether an example has a label file, or a label in a table."""
    if task in self.told:
      return bool(np.isfinite(self.told[task][self._places[key]]).any())
    return self._path(self.labels[task], self._values(key)) is not None

  def sizes(self, key: str) -> list[int]:
    """Returns the bytes of an example's files, -1 where there is none."""
    values = self._values(key)
    paths = [self._path(pattern, values) for pattern in (self.pictures, *self.labels.values())]
    return [-1 if path is None else os.path.getsize(path) for path in paths]

  def stem(self, key: str) -> str:
    """Returns the path of an example's picture below the root, without its ending."""
    return self.pictures.stem(self._values(key))

  @functools.cached_property
  def _places(self) -> dict[str, int]:
    return {name: place for place, name in enumerate(self.examples)}

  def _values(self, key: str) -> dict[str, str]:
    return dict(zip(self.pictures.wildcards, self.examples[key], strict=True))

  def _path(self, pattern: Pattern, values: Mapping[str, str]) -> str | None:
    candidates = pattern.candidates(values)
    paths = [os.path.join(self.root, path) for path in candidates]
    spelt = (resolved(self.root, path) for path in candidates)
    others = (os.path.join(self.root, path) for path in spelt if path is not None)
    return next(filter(os.path.isfile, itertools.chain(paths, others)), None)


def _check_form(task: str, label: Sequence[int], picture: Sequence[int]) -> None:
  """Refuses a label of another form than its picture, which resizing would only hide."""
  if len(label) < 2 or not all((*label[:2], *picture[:2])):
    return
  height = label[0] * picture[1] / label[1]  # at the picture's width
  if abs(height - picture[0]) > 2 and not 1 / _FORM < height / picture[0] < _FORM:
    raise ValueError(
      f"its {task} is {dense_layouts.times(label[:2])}, its picture"
      f" {dense_layouts.times(picture[:2])}, of another form: is it turned, do its channels come"
      " first, or is it of another picture?"
    )


def _read(path: str, picture: bool, formats: Sequence[str] = ()) -> Any:
  """Reads a file; labels must not lose anything."""
  if path.lower().endswith(".npy"):
    array = files.read_array(path)
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if picture and array.ndim == 2:
      array = np.repeat(array[..., None], 3, -1)
    return dense_layouts.photograph(array) if picture else array
  return files.read_colour(path) if picture else files.read_picture(path, formats)
