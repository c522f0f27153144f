"""The splits of a data set in folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import fnmatch
import itertools
import os
import pathlib
import unicodedata

from dynashare_jax import lookup
from dynashare_jax.data import loader
from dynashare_jax.data import text
from dynashare_jax.data.folder import description as folder_description


def assign(
  names: Sequence[str], description: folder_description.Description, folder: str
) -> dict[str, tuple[str, ...]]:
  """Returns the names of the examples of every split, in order.

  Shares are of the examples that no other split names, drawn with the description's seed.

  Args:
    names: of all examples, in order.
    folder: that text files with names are relative to.

  Raises:
    ValueError: an unknown name, a pattern that fits nothing, shares above 1, an empty split, or an
      example in two splits.
  """
  splits, where = description.splits, description.where
  shares = {split: value for split, value in splits.items() if isinstance(value, float)}
  found = {
    split: _named(dict.fromkeys(names), value, f"{where}: splits.{split}", folder)
    for split, value in splits.items()
    if not isinstance(value, float)
  }
  taken = set(itertools.chain.from_iterable(found.values()))
  rest = [name for name in names if name not in taken]
  found |= _shared(rest, shares, description.seed, where)
  if not description.overlap:
    _check_overlap(found, where)
  return {split: found[split] for split in splits}


def _named(
  known: Mapping[str, None], value: str | tuple[str, ...], place: str, folder: str
) -> tuple[str, ...]:
  """Examples that a list, a pattern or a text file names."""
  entries: Sequence[str] = (value,) if isinstance(value, str) else value
  if isinstance(value, str) and value.endswith(".txt"):
    path = pathlib.Path(folder) / value
    if not path.is_file():
      raise ValueError(f"{place}: there is no file {path}.")
    lines = [line.strip() for line in text.read(path).splitlines()]
    entries = [line for line in lines if line and not line.startswith("#")]
    place = f"{place} ({os.fspath(path)})"
  found: dict[str, None] = {}
  for entry in (unicodedata.normalize("NFC", entry) for entry in entries):
    if entry in known:
      found[entry] = None
      continue
    fits = fnmatch.filter(known, entry) if set("*?[") & set(entry) else []
    if not fits:
      raise ValueError(
        f"{place}: no example is called {entry!r}.{lookup.hint(entry, known)} There are"
        f" {len(known)}, first {next(iter(known))!r}."
      )
    found |= dict.fromkeys(fits)
  if not found:
    raise ValueError(f"{place}: names no example.")
  return tuple(name for name in known if name in found)


def _shared(
  rest: Sequence[str], shares: Mapping[str, float], seed: int, where: str
) -> dict[str, tuple[str, ...]]:
  """Cuts what is left into shares."""
  if sum(shares.values()) > 1 + 1e-6:
    listed = " and ".join(f"{split} {share:g}" for split, share in shares.items())
    raise ValueError(
      f"{where}: splits: the shares {listed} add up to {sum(shares.values()):g}; they must not"
      " exceed 1."
    )
  mixed = loader.Order(len(rest), len(rest), seed, "splits").indices(0)[0] if rest else []
  found, total, begin = {}, 0.0, 0
  for split, share in shares.items():
    total += share
    end = round(total * len(rest))
    if end <= begin:
      raise ValueError(
        f"{where}: splits.{split}: {share:g} of {len(rest)} examples that no other split names"
        " is none."
      )
    found[split] = tuple(rest[i] for i in sorted(mixed[begin:end]))
    begin = end
  return found


def _check_overlap(found: Mapping[str, Sequence[str]], where: str) -> None:
  seen: dict[str, str] = {}
  for split, names in found.items():
    for name in names:
      if name in seen:
        raise ValueError(
          f"{where}: splits: {name!r} is in {seen[name]} and in {split}. If"
          " that is meant, say overlap: true."
        )
      seen[name] = split
