"""Converts the text files of all stays, in parts, so that it can be resumed.

A part is some hundred stays of a split. Each is written in one go under its
final name or not at all, and carries a key of the files that it was made of; a
conversion that was stopped finds the parts that are done.

Worker processes import this module: it needs NumPy and nothing heavier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import concurrent.futures.process
import contextlib
import hashlib
import itertools
import multiprocessing
import os
import pathlib
from typing import NamedTuple
import zipfile

import numpy as np

from dynashare_jax.data.mimic3 import columns
from dynashare_jax.data.mimic3 import discretiser
from dynashare_jax.data.mimic3 import listfile
from dynashare_jax.data.mimic3 import problems as mimic3_problems
from dynashare_jax.data.mimic3 import stays as mimic3_stays

FORMAT = 1  # of parts and store; another one is converted anew
STAYS = 512  # of a part
DIGEST = 16  # bytes of a file's checksum
_POOLED = 4  # parts from which worker processes are worth their start

Stat = tuple[int, int]  # size and time of the last change, nanoseconds
Progress = Callable[[int, int], None]  # called with stays done, and all


class Part(NamedTuple):
  """Stays that are converted together.

  Attributes:
    file: name of the converted part.
    folder: of the stays, below that of the data.
    names: of the stays' files.
    hours: lengths of the stays.
    key: of what the part is made of.
  """

  file: str
  folder: str
  names: tuple[str, ...]
  hours: tuple[float, ...]
  key: bytes


class Converted(NamedTuple):
  """A part that was converted.

  Attributes:
    hours: rows of all its stays.
    digests: checksum of every stay's file, uint8 `[S, 16]`.
  """

  hours: discretiser.Hours
  digests: np.ndarray


def digest(data: bytes) -> bytes:
  """Returns the checksum of a file's bytes."""
  return hashlib.blake2b(data, digest_size=DIGEST).digest()


def stats(folder: pathlib.Path) -> dict[str, Stat]:
  """Returns size and time of every file in a folder; none where there is no folder."""
  if not folder.is_dir():
    return {}
  with os.scandir(folder) as entries:
    found = {entry.name: entry.stat() for entry in entries}
  return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def cut(split: str, stays: Sequence[listfile.Listed], known: Mapping[str, Stat]) -> list[Part]:
  """Cuts a split into parts.

  Args:
    known: `stats` of the folder they lie in.
  """
  parts = []
  for number, begin in enumerate(range(0, len(stays), STAYS)):
    chosen = stays[begin : begin + STAYS]
    names, hours = tuple(s.name for s in chosen), tuple(s.hours for s in chosen)
    made_of = (FORMAT, columns.CHANNELS, [(s.name, s.hours, known.get(s.name)) for s in chosen])
    key, folder = digest(repr(made_of).encode()), listfile.FILES[split][1]
    parts.append(Part(f"{split}-{number:05}.npz", folder, names, hours, key))
  return parts


def load(path: pathlib.Path, part: Part) -> Converted | None:
  """Reads a converted part below `path`; None if missing, damaged or of other files."""
  try:
    with open(path / part.file, "rb") as file, np.load(file) as stored:
      if stored["key"].tobytes() != part.key:
        return None
      return Converted(discretiser.Hours(stored["numbers"], stored["flags"]), stored["digests"])
  except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
    return None


def convert_part(part: Part, source: str, target: str) -> tuple[list[mimic3_problems.Problem], int]:
  """Converts a part, unless that was done before.

  Args:
    target: folder of the converted parts.

  Returns:
    Problems, as kept, and their number; a part with any is not written.
  """
  problems, output = mimic3_problems.Problems(), pathlib.Path(target)
  if load(output, part) is None:
    converted = _read(part, pathlib.Path(source), problems)
    if converted is not None:
      _save(output / part.file, part, converted)
  return problems.kept, problems.total


def _read(part: Part, source: pathlib.Path, problems: mimic3_problems.Problems) -> Converted | None:
  """Reads and discretises a part's stays; None if anything is wrong."""
  counts = discretiser.count_bins(np.array(part.hours))
  first = np.cumsum(counts) - counts
  found, digests = [], []
  for name, hours, bins, begin in zip(part.names, part.hours, counts, first, strict=True):
    file = f"{part.folder}/{name}"
    try:
      data = (source / file).read_bytes()
    except OSError:
      problems.add(file, 0, "", "it cannot be read")
      continue
    series = mimic3_stays.parse(data, file, problems)
    digests.append(digest(data))
    if series is not None and not problems.total:
      found.append(mimic3_stays.events(series, hours, int(bins), int(begin)))
  if problems.total:
    return None
  events = discretiser.Events(*map(np.concatenate, zip(*found, strict=True)))
  return Converted(
    discretiser.pack(*discretiser.discretise(events, counts)),
    np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST),
  )


def _save(path: pathlib.Path, part: Part, converted: Converted) -> None:
  """Writes to a temporary name, then renames, so that a killed run leaves no half part."""
  partial = path.with_suffix(f".{os.getpid()}.partial")
  try:
    with open(partial, "wb") as file:
      key = np.frombuffer(part.key, np.uint8)
      np.savez(file, key=key, **converted.hours._asdict(), digests=converted.digests)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def convert_all(
  parts: Sequence[Part],
  source: pathlib.Path,
  target: pathlib.Path,
  workers: int,
  problems: mimic3_problems.Problems,
  progress: Progress,
) -> None:
  """Converts all parts, in worker processes where there are many.

  Args:
    target: folder for the converted parts.
    workers: processes at most; 0 as many as there are processors.
    problems: those that are found are added.
    progress: called with the number of stays that are done.

  Raises:
    ValueError: worker processes cannot be started, or one was killed.
  """
  total = sum(len(part.names) for part in parts)
  done = 0
  progress(0, total)
  processes = min(workers or os.cpu_count() or 1, len(parts)) if len(parts) >= _POOLED else 1
  given = (parts, itertools.repeat(str(source)), itertools.repeat(str(target)))
  with contextlib.ExitStack() as stack:
    results: Iterable[tuple[list[mimic3_problems.Problem], int]] = map(convert_part, *given)
    if processes > 1:
      context = multiprocessing.get_context("spawn")
      pool = concurrent.futures.ProcessPoolExecutor(processes, context)
      stack.callback(pool.shutdown, wait=True, cancel_futures=True)
      results = pool.map(convert_part, *given)
    try:
      for part, found in zip(parts, results, strict=True):
        problems.extend(*found)
        done += len(part.names)
        progress(done, total)
    except concurrent.futures.process.BrokenProcessPool:
      raise ValueError(
        "A process that converts MIMIC-III stays could not be started, or was killed"
        " (out of memory?). Set config.data.workers=1 to convert in one process."
      ) from None
