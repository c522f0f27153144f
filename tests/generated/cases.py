"""What generated cases share: how many there are, and what a refusal must look like."""

from __future__ import annotations

from collections.abc import Callable
import os
import re
from typing import Any
import unicodedata

import hypothesis

CASES = 1000  # of all files together
_TOLD = os.environ.get("DYNASHARE_CASES")  # how many instead, drawn anew
# Of other libraries, where nobody took the error for the user's.
_FOREIGN = (
  *("zero-size array", "could not broadcast", "invalid literal", "setting an array element"),
  *("could not convert", "cannot reshape", "not enough values", "too many values", "operands"),
  *("object of type", "out of bounds", "NaN to integer", "infinity to integer", "is not in list"),
  *("arg is an empty", "dtype", "int too large", "Traceback", "not in range", "codec"),
)


def some(share: float) -> hypothesis.settings:
  """Returns the settings of a test that has a share of all cases."""
  return hypothesis.settings(
    max_examples=max(1, round(share * int(_TOLD or CASES))),
    derandomize=_TOLD is None,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )


def attempt(work: Callable[[], Any], *places: str) -> tuple[Any, str]:
  """Returns a result and no text, or None and the text of a refusal.

  A refusal is what a command makes one line of (`cli.guard`): it is one line, names one of the
  places, and is in this package's words.
  """
  try:
    return work(), ""
  except (ValueError, OSError) as error:
    text = str(error)
    line = text.partition(" For example:")[0]
    odd = [letter for letter in line if unicodedata.category(letter) == "Cc" and letter != "\t"]
    assert not odd, f"a refusal of several lines: {text!r}"
    assert any(place in text for place in places), f"no place in: {text}"
    own = re.sub(r"Cannot read .*|config\.[\w.]+|'[^']*'|\"[^\"]*\"", "", line)
    assert not any(words in own for words in _FOREIGN), f"another library's words: {text}"
    return None, text
