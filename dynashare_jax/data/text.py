"""Reads text files: UTF-8 with or without a mark, and tables by the rules of the csv module."""

from __future__ import annotations

import codecs
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
  path, content = pathlib.Path(path), _bytes(path)
  try:
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = 1 + content.count(b"\n", 0, error.start)
    raise ValueError(
      f"{path}, line {line}: the byte 0x{content[error.start]:02x} is not UTF-8. Save"
      " the file as UTF-8."
    ) from error


def read_any(path: str | os.PathLike[str], encoding: str = "") -> tuple[str, str]:
  """Reads a file of text in any usual encoding.

  Args:
    encoding: empty for UTF-8 or UTF-16, where a mark says so, else Windows-1252, which has all that
      Latin-1 has.

  Returns:
    The text, and the name of the encoding.

  Raises:
    ValueError: it cannot be read, or not so; names file and line.
  """
  content = _bytes(path)
  if encoding:
    names: tuple[str, ...] = (encoding,)
  elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    names = ("utf-16",)
  else:
    names = ("utf-8-sig", "cp1252")
  for name in names:
    try:
      return content.decode(name), name
    except LookupError as error:
      raise ValueError(
        f"There is no encoding {name!r}; such are utf-8, latin-1, cp1250."
      ) from error
    except UnicodeDecodeError as error:
      place, byte = 1 + content.count(b"\n", 0, error.start), content[error.start]
  raise ValueError(
    f"{path}, line {place}: the byte 0x{byte:02x} is not {names[-1]}. Say which encoding it is, as"
    " encoding: cp1250, or save the file as UTF-8."
  )


def _bytes(path: str | os.PathLike[str]) -> bytes:
  """What a file holds, uncompressed."""
  path = pathlib.Path(path)
  try:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
  except (OSError, EOFError, zlib.error) as error:
    raise ValueError(f"Cannot read {path} ({error}).") from error


def separator(line: str, fits: Callable[[list[str]], bool]) -> str:
  """Returns what separates a line's fields: of `SEPARATORS` the first that fits, or a comma."""
  split = lambda mark: next(csv.reader([line], delimiter=mark, skipinitialspace=True), [])
  return next((mark for mark in SEPARATORS if fits(split(mark))), ",")
