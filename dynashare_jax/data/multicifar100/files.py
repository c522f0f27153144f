"""The files of CIFAR-100: the binary version, or the Python one, of which no code can run."""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
import pickle
from typing import Any, NamedTuple

import numpy as np

from dynashare_jax.data import text

SIDE = 32  # pixels
CLASSES, GROUPS = 100, 20  # fine labels, and coarse ones, each of 5 fine ones

_PIXELS = 3 * SIDE * SIDE
_FOLDERS = {
  "cifar-100-python": ("train", "test", "meta"),
  "cifar-100-binary": ("train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt"),
}
_PLACE = "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-100-python.tar.gz, or -binary)"


class Part(NamedTuple):
  """The pictures of a file.

  Attributes:
    pictures: uint8 `[N, 32, 32, 3]`, RGB.
    fine: int64 `[N]`, 0 to 99.
    coarse: int64 `[N]`, 0 to 19.
  """

  pictures: np.ndarray
  fine: np.ndarray
  coarse: np.ndarray


class Files(NamedTuple):
  """What the files hold.

  Attributes:
    parts: `train` and `test`.
    fine: names of the fine labels.
    coarse: names of the coarse labels.
    members: coarse label -> its 5 fine labels, ascending.
  """

  parts: Mapping[str, Part]
  fine: tuple[str, ...]
  coarse: tuple[str, ...]
  members: tuple[tuple[int, ...], ...]


def read(data_dir: str | None) -> Files:
  """Reads CIFAR-100.

  Args:
    data_dir: the folder `cifar-100-python` or `cifar-100-binary`, or one that holds either; of
      both, the first is read.

  Raises:
    FileNotFoundError: files are missing; names them and where to get them.
    ValueError: a file is damaged, cut off, or another one.
  """
  folder, names = _find(data_dir)
  train, test, *others = (folder / name for name in names)
  if len(others) == 1:
    parts = {"train": _python_part(train), "test": _python_part(test)}
    stored = _unpickle(others[0])
    fine, coarse = (
      tuple(_text(name) for name in _listed(stored, f"{kind}_label_names", others[0]))
      for kind in ("fine", "coarse")
    )
  else:
    parts = {"train": _binary_part(train), "test": _binary_part(test)}
    fine, coarse = (tuple(text.read(path).split()) for path in others)
  for found, wanted, what in ((fine, CLASSES, "fine"), (coarse, GROUPS, "coarse")):
    if len(found) != wanted:
      raise ValueError(
        f"{others[0].parent} has names of {len(found)} {what} labels; CIFAR-100 has {wanted}."
        " Fetch it again."
      )
  for part, path in zip(parts.values(), (train, test), strict=True):
    _check_numbers(part, path)
  return Files(parts, fine, coarse, _members(parts, folder))


def _find(data_dir: str | None) -> tuple[pathlib.Path, tuple[str, ...]]:
  """The folder that is read, and its files."""
  base = pathlib.Path(data_dir or "").expanduser()
  here = {name: base if base.name == name else base / name for name in _FOLDERS}
  started = [name for name, folder in here.items() if data_dir and folder.is_dir()]
  if started:
    folder, names = here[started[0]], _FOLDERS[started[0]]
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
      return folder, names
    told = f"There is no {', no '.join(missing)} in '{folder}'."
  else:
    told = (
      f"There is no {' and no '.join(_FOLDERS)} in '{base}'."
      if data_dir
      else ("config.data_dir is empty.")
    )
  trees = " or ".join(f"{name}/ ({', '.join(files)})" for name, files in _FOLDERS.items())
  raise FileNotFoundError(
    f"{told} Unpack the official archive into DIR, so that DIR holds {trees}, and pass"
    f" --config.data_dir=DIR. It is at {_PLACE}."
  )


class _Array:
  """Stands for an array of the files: keeps its state, and runs nothing of NumPy."""

  def __init__(self, *_: Any) -> None:
    self.state: tuple[Any, ...] = ()

  def __setstate__(self, state: Any) -> None:
    self.state = state if isinstance(state, tuple) else ()


class _Type(_Array):
  """Stands for the type of an array's numbers."""

  def __init__(self, code: Any = b"", *_: Any) -> None:
    super().__init__()
    self.code = code


_STANDS = {
  ("numpy.core.multiarray", "_reconstruct"): _Array,
  ("numpy", "ndarray"): _Array,
  ("numpy", "dtype"): _Type,
}


class _Unpickler(pickle.Unpickler):
  """Reads dictionaries, lists, numbers, bytes and arrays; anything else is refused."""

  def find_class(self, module: str, name: str) -> Any:
    """Returns what stands for a name of `_STANDS`."""
    if (module, name) not in _STANDS:
      raise pickle.UnpicklingError(f"it asks for {module}.{name}, which CIFAR-100 has no use for")
    return _STANDS[module, name]


def _unpickle(path: pathlib.Path) -> Any:
  """Reads one of the pickled files; texts are bytes."""
  try:
    with path.open("rb") as file:
      return _Unpickler(file, encoding="bytes").load()
  except Exception as error:  # A damaged pickle raises nearly anything.
    raise ValueError(
      f"{path} cannot be read ({type(error).__name__}: {error}): it is cut off, damaged or another"
      " file. Fetch it again."
    ) from error


def _listed(stored: Any, name: str, path: pathlib.Path) -> list[Any]:
  """A list of a pickled file."""
  found = stored.get(name.encode()) if isinstance(stored, dict) else None
  if not isinstance(found, list):
    raise ValueError(f"{path} has no list {name!r}: it is another file. Fetch it again.")
  return found


def _text(name: Any) -> str:
  return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _python_part(path: pathlib.Path) -> Part:
  """Reads `train` or `test` of the Python version."""
  stored = _unpickle(path)
  fine, coarse = (_numbers(_listed(stored, f"{k}_labels", path), path) for k in ("fine", "coarse"))
  array = stored.get(b"data")
  state = array.state if isinstance(array, _Array) and len(array.state) == 5 else (None,) * 5
  _, shape, kind, turned, raw = state
  if not isinstance(raw, bytes) or not isinstance(kind, _Type) or kind.code != b"u1" or turned:
    raise ValueError(f"{path} has no array 'data' of bytes: it is another file. Fetch it again.")
  rows = len(fine)
  if shape != (rows, _PIXELS) or len(raw) != rows * _PIXELS or len(coarse) != rows:
    raise ValueError(
      f"{path} has {rows} fine and {len(coarse)} coarse labels, and pictures of the shape {shape}"
      f" in {len(raw)} bytes, where {rows} x {_PIXELS} are expected: it is cut off or damaged."
      " Fetch it again."
    )
  return Part(_pictures(np.frombuffer(raw, np.uint8).reshape(rows, _PIXELS)), fine, coarse)


def _numbers(labels: list[Any], path: pathlib.Path) -> np.ndarray:
  """Labels as an array."""
  if not all(isinstance(label, int) for label in labels):
    raise ValueError(f"{path} has labels that are no whole numbers: it is damaged. Fetch it again.")
  return np.array(labels, np.int64)


def _binary_part(path: pathlib.Path) -> Part:
  """Reads `train.bin` or `test.bin`: of every picture coarse label, fine label, pixels."""
  data, length = path.read_bytes(), 2 + _PIXELS
  if not data or len(data) % length:
    raise ValueError(
      f"{path} has {len(data)} bytes, which is no multiple of {length}: it is cut off or another"
      " file. Fetch it again."
    )
  rows = np.frombuffer(data, np.uint8).reshape(-1, length)
  coarse, fine = rows[:, :2].astype(np.int64).T
  return Part(_pictures(rows[:, 2:]), fine, coarse)


def _pictures(rows: np.ndarray) -> np.ndarray:
  """Rows `[N, 3072]` hold all red, then all green, then all blue pixels."""
  return np.moveaxis(rows.reshape(-1, 3, SIDE, SIDE), 1, -1)


def _check_numbers(part: Part, path: pathlib.Path) -> None:
  """Refuses labels out of range, and fine labels of which one has more pictures than another."""
  for labels, most, what in ((part.fine, CLASSES, "fine"), (part.coarse, GROUPS, "coarse")):
    wrong = np.flatnonzero((labels < 0) | (labels >= most))
    if len(wrong):
      raise ValueError(
        f"{path}: the {what} label of picture {wrong[0]} is {labels[wrong[0]]}; they are 0 to"
        f" {most - 1}. It is damaged: fetch it again."
      )
  counts = np.bincount(part.fine, minlength=CLASSES)
  if counts.min() < counts.max() or not counts.max():
    few, many = int(counts.argmin()), int(counts.argmax())
    raise ValueError(
      f"{path} has {counts[few]} pictures of the fine label {few}, but {counts[many]} of {many};"
      " of each there must be as many. It is cut off: fetch it again."
    )


def _members(parts: Mapping[str, Part], folder: pathlib.Path) -> tuple[tuple[int, ...], ...]:
  """The fine labels of every coarse one, as the labels of all pictures have them."""
  fine, coarse = (np.concatenate([part[i] for part in parts.values()]) for i in (1, 2))
  found = [tuple(map(int, np.unique(fine[coarse == group]))) for group in range(GROUPS)]
  for group, labels in enumerate(found):
    if len(labels) != CLASSES // GROUPS:
      raise ValueError(
        f"{folder}: the coarse label {group} has the fine labels {labels}; each has"
        f" {CLASSES // GROUPS}. The files are damaged or not of CIFAR-100: fetch them again."
      )
  if len({label for labels in found for label in labels}) < CLASSES:
    raise ValueError(f"{folder}: a fine label has two coarse ones. Fetch the files again.")
  return tuple(found)
