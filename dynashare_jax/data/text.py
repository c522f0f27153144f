"""Reads text files: UTF-8 with or without a mark, and tables by the rules of the csv module."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
import csv
import gzip
import io
import os
import pathlib
import zlib

SEPARATORS = ",;\t|"
_OTHERS = {  # how files begin that are no text
  b"\x1f\x8b": "compressed by gzip: give it the ending .gz",
  b"PK\x03\x04": "a zip archive or an Excel sheet",
  b"\xd0\xcf\x11\xe0": "an old Excel sheet",
  b"PAR1\x15": "a Parquet file: give it the ending .parquet",
  b"BZh91AY&SY": "compressed by bzip2",
  b"\xfd7zXZ": "compressed by xz",
  b"\x28\xb5\x2f\xfd": "compressed by zstd",
}


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
    found = path.read_bytes()
    found = gzip.decompress(found) if path.suffix == ".gz" else found
  except (OSError, EOFError, zlib.error) as error:
    raise ValueError(f"Cannot read {path} ({error}).") from error
  for begin, told in _OTHERS.items():
    if found.startswith(begin):
      more = "" if ":" in told else ": save it as CSV in UTF-8"
      raise ValueError(f"{path} is no text, but {told}{more}.")
  return found


def records(
  path: str | os.PathLike[str], content: str, mark: str, empty: list[int]
) -> Iterator[tuple[int, list[str]]]:
  """Yields the records of a CSV file, each with the number of its last line.

  Args:
    mark: what parts fields.
    empty: to add the lines of records without any value, which are left out; blank lines are, too.

  Raises:
    ValueError: a quote that is never closed, or within quotes and not doubled.
  """
  # Strict: a quote that is never closed would swallow all that follows.
  reader = csv.reader(
    io.StringIO(content, newline=""), delimiter=mark, skipinitialspace=True, strict=True
  )
  while True:
    begin = reader.line_num + 1
    try:
      row = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      raise ValueError(f"{path}, line {_csv_fault(str(error), begin, reader.line_num)}.") from error
    if not any(cell.strip() for cell in row):
      empty += [reader.line_num] * (len(row) > 1)
      continue
    yield reader.line_num, row


def _csv_fault(error: str, begin: int, line: int) -> str:
  """What is wrong with a record, behind the number of a line."""
  if "unexpected end" in error:
    return f"{begin}: a quote is opened there and never closed"
  if "field limit" in error:
    return f"{begin}: a field is longer than any that is read, perhaps as a quote is never closed"
  if "expected after" in error:
    return (
      f'{line}: behind a quote the field goes on ({error}); a quote within quotes is written ""'
    )
  return f"{line}: {error}"


def separator(line: str, fits: Callable[[list[str]], bool]) -> str:
  """Returns what separates a line's fields: of `SEPARATORS` the first that fits, or a comma."""
  split = lambda mark: next(csv.reader([line], delimiter=mark, skipinitialspace=True), [])
  return next((mark for mark in SEPARATORS if fits(split(mark))), ",")
