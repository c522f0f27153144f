"""Reads text files: UTF-8 with or without a mark, and tables by the rules of the csv module."""

from __future__ import annotations

from collections.abc import Callable
import csv
import gzip
import os
import pathlib
import zlib

SEPARATORS = ",;\t|"


def read(path: str | os.PathLike[str]) -> str:
  """Reads a file of text, plain or compressed (`.gz`).

  Raises:
    ValueError: it cannot be read, or is not UTF-8; names file and line.
  """
  path = pathlib.Path(path)
  try:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
  except (OSError, EOFError, zlib.error) as error:
    raise ValueError(f"Cannot read {path} ({error}).") from error
  try:
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = 1 + content.count(b"\n", 0, error.start)
    raise ValueError(
      f"{path}, line {line}: the byte 0x{content[error.start]:02x} is not UTF-8. Save"
      " the file as UTF-8."
    ) from error


def separator(line: str, fits: Callable[[list[str]], bool]) -> str:
  """Returns what separates a line's fields: of `SEPARATORS` the first that fits, or a comma."""
  split = lambda mark: next(csv.reader([line], delimiter=mark, skipinitialspace=True), [])
  return next((mark for mark in SEPARATORS if fits(split(mark))), ",")
