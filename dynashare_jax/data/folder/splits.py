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
from dynashare_jax.data.folder import table


def assign(
  names: Sequence[str],
  description: folder_description.Description,
  folder: str,
  rows: table.Rows | None = None,
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
  """Returns the names of the examples of every split, in order, and notes.

  Shares are of the examples that no other split names, drawn with the description's seed.

  Args:
    names: of all examples, in order.
    folder: that text files with names are relative to.
    rows: of the tables, one of which may have a column of splits.

  Raises:
    ValueError: an unknown name, a pattern that fits nothing, shares above 1, an empty split, or an
      example in two splits.
  """
  splits, where = description.splits, description.where
  if rows is not None and description.column:
    return _told(description, rows)
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
  return {split: found[split] for split in splits}, ()


def _told(
  description: folder_description.Description, rows: table.Rows
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
  """Splits by the cells of a column."""
  place = f"{description.where}: splits"
  column = rows.column(description.column, f"{place}.column")
  split_of: dict[str, str] = {}
  wanted = {split: cells for split, cells in description.splits.items() if isinstance(cells, tuple)}
  for split, cells in wanted.items():
    for cell in cells:
      if split_of.setdefault(cell, split) != split:
        raise ValueError(f"{place}.{split}: {cell!r} stands for {split_of[cell]}, too.")
  of = [split_of.get(value, split_of.get(value.lower(), "")) for value in column.texts]
  found: dict[str, list[str]] = {split: [] for split in description.splits}
  for example, code in zip(rows.examples, column.codes, strict=True):
    if code >= 0 and of[code]:
      found[of[code]].append(example)
  told = ", ".join(map(repr, column.texts[:12]))
  for split in ("train", "test"):
    if not found[split]:
      raise ValueError(
        f"{place}.{split}: no row of column {column.name!r} in {rows.where} says"
        f" {' or '.join(map(repr, wanted[split]))}; they say {told}. Name what stands"
        f" for {split} with splits.{split}."
      )
  others = [text for text, split in zip(column.texts, of, strict=True) if not split]
  lost = len(rows.examples) - sum(map(len, found.values()))
  notes = [f"warning: column {column.name!r} puts {lost} of {len(rows.examples)} pictures in no"]
  notes[0] += f" split{f', as {column.place(others[0])}: {others[0]!r}' if others else ''}"
  return {s: tuple(f) for s, f in found.items() if f}, tuple(notes if lost else ())


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
