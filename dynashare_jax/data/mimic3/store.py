"""The converted stays: memory-mapped arrays, made once and then checked.

The store is a folder of `.npy` files per split. Hours of all stays lie under one another, 56 bytes
an hour for the measurements and 4 for the labels; `counts` has the number of rows of each stay.
`index.json` is written last, and the folder gets its name last: what has that name is complete.

When it is opened, sizes and times of all files that it was made of are compared with those it
remembers. Where they differ, checksums of the contents decide whether it is still good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any, IO, NamedTuple

import numpy as np

from dynashare_jax.data.mimic3 import columns
from dynashare_jax.data.mimic3 import convert as mimic3_convert
from dynashare_jax.data.mimic3 import discretiser
from dynashare_jax.data.mimic3 import listfile
from dynashare_jax.data.mimic3 import problems as mimic3_problems

NAME = "mimic3"
_INDEX = "index.json"
_PARTIAL = f".{NAME}.partial"
_OLD = f".{NAME}.old"
_LOCK = f".{NAME}.lock"

try:
  import fcntl

  _lock: Callable[[Any], None] | None = lambda file: fcntl.flock(file, fcntl.LOCK_EX)
except ImportError:  # Windows: two runs must not convert at once
  _lock = None


class Split(NamedTuple):
  """The stays of a split, memory-mapped.

  Attributes:
    hours: measurements of all rows.
    labels: of all rows and stays.
    starts: first row of every stay.
  """

  hours: discretiser.Hours
  labels: listfile.Labels
  starts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Store:
  """A converted copy of the data; picklable.

  Attributes:
    folder: of its files.
    stays: split -> how many.
  """

  folder: str
  stays: Mapping[str, int]

  def split(self, name: str) -> Split:
    """Maps a split's files into memory."""

    def mapped(kind: str) -> np.ndarray:
      path = _file(pathlib.Path(self.folder), name, kind)
      # A plain view: slices of a memmap cost ten times as much.
      return np.asarray(np.load(path, mmap_mode="r"))

    labels = listfile.Labels(*map(mapped, listfile.Labels._fields))
    starts = np.cumsum(labels.counts) - labels.counts
    return Split(discretiser.Hours(mapped("numbers"), mapped("flags")), labels, starts)


def open_or_convert(
  source: pathlib.Path | None,
  cache: pathlib.Path,
  workers: int,
  verify: bool,
  progress: mimic3_convert.Progress,
) -> Store:
  """Opens the store, after making it where there is none that fits.

  Args:
    source: folder of the multitask problem; None takes the store as it is.
    cache: folder that the store lies in.
    workers: see `convert.convert_all`.
    verify: compare the contents of all files, the store's own too, whatever
      their sizes and times say.

  Raises:
    ValueError: problems of the files, all together; the folder cannot be
      written to; or there is neither source nor store.
  """
  found = _open(cache / NAME, verify)
  if source is None:
    if found is None:
      raise ValueError(
        f"{cache} holds no complete converted copy of MIMIC-III;"
        " give config.data_dir, the folder of the multitask problem."
      )
    return found
  if found is not None and _fits(found, source, verify):
    return found
  with _alone(cache):
    found = _open(cache / NAME, verify)  # another process may have made it
    if found is None or not _fits(found, source, verify):
      _convert(source, cache, workers, progress)
      found = _open(cache / NAME, False)
  if found is None:
    raise ValueError(f"{cache / NAME} was damaged while it was written; delete it and start again.")
  return found


def _file(folder: pathlib.Path, split: str, kind: str) -> pathlib.Path:
  return folder / f"{split}.{kind}.npy"


def _open(folder: pathlib.Path, verify: bool) -> Store | None:
  """Opens a store; None if there is none, or one that is damaged or old."""
  try:
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    if index["format"] != mimic3_convert.FORMAT:
      return None
    for name, (size, checksum) in index["files"].items():
      path = folder / name
      if path.stat().st_size != size or (verify and _digest(path) != checksum):
        return None
    return Store(str(folder), dict(index["stays"]))
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None


def _digest(path: pathlib.Path) -> str:
  return mimic3_convert.digest(path.read_bytes()).hex()


_Known = Mapping[str, Mapping[str, mimic3_convert.Stat]]  # part of the source -> file


def _known(source: pathlib.Path) -> _Known:
  """Sizes and times of the listfiles, and of the stays in both folders."""
  parts = {"", *(part for _, part in listfile.FILES.values())}
  return {part: mimic3_convert.stats(source / part) for part in parts}


def _inputs(
  folder: pathlib.Path, index: Mapping[str, Any]
) -> Iterator[tuple[str, str, mimic3_convert.Stat, str]]:
  """Part, name, size and time, and checksum of all files that a store was made of."""
  for split, (listed, part) in listfile.FILES.items():
    size, time, checksum = index["listfiles"][listed]
    yield "", listed, (size, time), checksum
    arrays = (np.load(_file(folder, split, kind)) for kind in ("names", "inputs", "digests"))
    for name, (size, time), digest in zip(*arrays, strict=True):
      yield part, name.decode(), (int(size), int(time)), digest.tobytes().hex()


def _fits(store: Store, source: pathlib.Path, verify: bool) -> bool:
  """Whether a store was made of the files that are there now."""
  folder, known = pathlib.Path(store.folder), _known(source)
  index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
  changed = False
  try:
    for part, name, stat, checksum in _inputs(folder, index):
      touched = known[part].get(name) != stat
      if (touched or verify) and _digest(source / part / name) != checksum:
        return False
      changed |= touched
  except OSError:  # a file is gone: converting again will name it
    return False
  if changed:
    _remember(folder, index, known)
  return True


def _remember(folder: pathlib.Path, index: dict[str, Any], known: _Known) -> None:
  """Notes new times of files whose contents did not change, if it may."""
  try:
    for split, (name, part) in listfile.FILES.items():
      path = _file(folder, split, "inputs")
      names = np.load(_file(folder, split, "names")).tolist()
      partial = path.with_suffix(f".{os.getpid()}")
      with open(partial, "wb") as file:
        np.save(file, np.array([known[part][n.decode()] for n in names]))
      os.replace(partial, path)
      index["files"][path.name] = [path.stat().st_size, _digest(path)]
      index["listfiles"][name][:2] = known[""][name]
    partial = folder / f"{_INDEX}.{os.getpid()}"
    partial.write_text(json.dumps(index), encoding="utf-8")
    os.replace(partial, folder / _INDEX)
  except OSError:
    return  # read-only: contents are compared again next time


@contextlib.contextmanager
def _alone(cache: pathlib.Path) -> Iterator[None]:
  """Keeps other processes from converting here; removes a folder it made for nothing."""
  fresh = not cache.exists()
  try:
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = _locked(cache / _LOCK)
  except OSError as error:
    raise ValueError(_unwritable(cache, error)) from error
  try:
    yield
  finally:
    with contextlib.suppress(OSError), file:
      (cache / _LOCK).unlink()
    if fresh:
      with contextlib.suppress(OSError):  # it is not empty: all went well
        cache.rmdir()


def _locked(path: pathlib.Path) -> IO[bytes]:
  """Waits for a lock; whoever has it removes its file at the end."""
  while True:
    file = open(path, "ab")  # noqa: SIM115  # stays open while it is locked
    with contextlib.suppress(OSError):  # a file system without locks
      if _lock is not None:
        _lock(file)
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(file.fileno()), path.stat()):
        return file
    file.close()


def _unwritable(cache: pathlib.Path, error: OSError) -> str:
  return (
    f"The folder {cache} for the converted MIMIC-III stays cannot be written to"
    f" ({error.strerror}). Name another one in config.data.cache; about 60 bytes an hour"
    " of stay are needed twice, 450 MB for all of MIMIC-III."
  )


def _convert(
  source: pathlib.Path, cache: pathlib.Path, workers: int, progress: mimic3_convert.Progress
) -> None:
  """Makes the store; a conversion that was stopped goes on where it was."""
  problems = mimic3_problems.Problems()
  listed = listfile.read(source, problems)
  staging, known = cache / _PARTIAL, _known(source)
  parts = {
    split: mimic3_convert.cut(split, stays, known[listfile.FILES[split][1]])
    for split, stays in listed.items()
  }
  every = [part for some in parts.values() for part in some]
  try:
    staging.mkdir(mode=0o700, exist_ok=True)
    mimic3_convert.convert_all(every, source, staging, workers, problems, progress)
    if problems.total:
      shutil.rmtree(staging, ignore_errors=True)
      problems.check(str(source))
    made = _assemble(staging, source, listed, parts, known)
    _publish(made, cache)
    shutil.rmtree(staging)
  except OSError as error:
    raise ValueError(_unwritable(cache, error)) from error


def _assemble(
  staging: pathlib.Path,
  source: pathlib.Path,
  listed: Mapping[str, list[listfile.Listed]],
  parts: Mapping[str, list[mimic3_convert.Part]],
  known: _Known,
) -> pathlib.Path:
  """Writes all files of the store into a folder."""
  made = staging / NAME
  shutil.rmtree(made, ignore_errors=True)
  made.mkdir(mode=0o700)
  for split, stays in listed.items():
    labels = listfile.labels_of(stays)
    digests = _gather(made, split, staging, parts[split], int(labels.counts.sum()))
    names = [stay.name for stay in stays]
    arrays = {
      **labels._asdict(),
      "names": np.array([name.encode() for name in names]),
      "inputs": np.array([known[listfile.FILES[split][1]][name] for name in names]),
      "digests": digests,
    }
    for kind, array in arrays.items():
      np.save(_file(made, split, kind), array)
  index = {
    "format": mimic3_convert.FORMAT,
    "stays": {split: len(stays) for split, stays in listed.items()},
    "files": {path.name: [path.stat().st_size, _digest(path)] for path in sorted(made.iterdir())},
    "listfiles": {
      name: [*known[""][name], _digest(source / name)] for name, _ in listfile.FILES.values()
    },
  }
  (made / _INDEX).write_text(json.dumps(index), encoding="utf-8")
  return made


def _gather(
  made: pathlib.Path, split: str, staging: pathlib.Path, parts: list[mimic3_convert.Part], rows: int
) -> np.ndarray:
  """Puts the measurements of all parts together; returns the checksums."""
  digests = []
  with (
    _file(made, split, "numbers").open("wb") as numbers,
    _file(made, split, "flags").open("wb") as flags,
  ):
    _header(numbers, "<f4", (rows, len(columns.NUMBERS)))
    _header(flags, "|u1", (rows, discretiser.PACKED))
    for part in parts:
      converted = mimic3_convert.load(staging, part)
      if converted is None:
        file = staging / part.file
        raise ValueError(f"{file} was damaged while stays were converted; start again.")
      numbers.write(converted.hours.numbers.astype("<f4").tobytes())
      flags.write(converted.hours.flags.tobytes())
      digests.append(converted.digests)
  return np.concatenate(digests)


def _header(file: IO[bytes], kind: str, shape: tuple[int, int]) -> None:
  """Begins a .npy file, whose rows are written one part after another."""
  np.lib.format.write_array_header_1_0(
    file, {"descr": kind, "fortran_order": False, "shape": shape}
  )


def _publish(made: pathlib.Path, cache: pathlib.Path) -> None:
  """Gives a finished store its name."""
  old, final = cache / _OLD, cache / NAME
  shutil.rmtree(old, ignore_errors=True)
  if final.exists():
    final.rename(old)
  made.rename(final)
  shutil.rmtree(old, ignore_errors=True)
