"""The file that describes series: its keys, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from dynashare_jax.data import description as described
from dynashare_jax.data.table import description as table_description

EXAMPLE = """
  series: visits.csv          # a row for every id and time; or one file a series: stays/*.csv
  id: patient
  time: time
  labels: outcomes.csv        # a row for every id
  tasks:                      # each the column of its name
    died: {}"""
KEYS = (
  *("name", "series", "id", "time", "labels", "static", "bin", "keep", "fill", "observed", "steps"),
  *("cut", "tasks", "splits", "columns", "inputs", "delimiter", "encoding", "decimal", "thousands"),
  *("missing", "names", "bins", "most_categories"),
)
_UNITS = {"s": 1 / 86400, "min": 1 / 1440, "h": 1 / 24, "d": 1.0, "w": 7.0}
_WIDTH = re.compile(rf"(\d+(?:\.\d*)?|\.\d+) *({'|'.join(_UNITS)})")
_MOST_CATEGORIES = 32


@dataclasses.dataclass(frozen=True)
class Description:
  """Series.

  Attributes:
    rows: the table of rows, with the tasks; its own splits and labels are those of `labels`.
    labels: path of the table of labels; empty where rows have them.
    id: column; empty where every file is a series.
    time: column.
    static: columns of `labels` that are inputs.
    bin: width of a step; 0 for none.
    dated: whether `bin` has a unit of time, and is in days.
    keep, fill, observed, steps, cut: see `types.SeriesSpec`; steps 0 is as long as the longest.
  """

  rows: table_description.Description
  labels: str
  id: str
  time: str
  static: tuple[str, ...]
  bin: float
  dated: bool
  keep: str
  fill: bool
  observed: bool
  steps: int
  cut: str


def parse(raw: Mapping[str, Any], where: str) -> Description:
  """Checks what `description.read` read.

  Raises:
    ValueError: names the file, the key and what is allowed.
  """
  part = described.Part(raw, where, "")
  part.check_keys(KEYS)
  path = part.line("series")
  own = {k: value for k, value in raw.items() if k in table_description.KEYS and k != "id"}
  own = {"most_categories": _MOST_CATEGORIES} | own | {"table": path}
  rows = table_description.parse(own, where)
  files = "*" in path
  name = part.text("id", "" if files else "id")
  labels = part.line("labels", "")
  if not name and not labels:
    raise part.refusal("labels", "is missing: where every file is a series, a table has the labels")
  time = part.text("time", "time")
  static = table_description.texts(part, "static")
  if static and not labels:
    raise part.refusal("static", "names columns of the table of labels, and there is none")
  taken = {*rows.labels, name, time}
  for key, names in (("static", static), ("inputs", rows.inputs), ("columns", rows.roles)):
    for column in names:
      if column in taken and (key, column) != ("columns", time):
        what = "the label of a task" if column in rows.labels else "id or time"
        raise part.refusal(key, f"{column!r} is {what}, and so no input")
  bin_, dated = _width(part)
  return Description(
    rows,
    labels,
    name,
    time,
    static,
    bin_,
    dated,
    part.choice("keep", ("last", "mean")),
    part.choice("fill", ("forward", "none")) == "forward",
    part.choice("observed", (True, False)),
    table_description.whole(part, "steps", 1) if "steps" in raw else 0,
    part.choice("cut", ("last", "first")),
  )


def _width(part: described.Part) -> tuple[float, bool]:
  """The width of a step: a number, or a text as 30min, in days."""
  value = part.raw.get("bin", 0)
  found = _WIDTH.fullmatch(value) if isinstance(value, str) else None
  if found:
    return float(found.group(1)) * _UNITS[found.group(2)], True
  number = described.number_of(value)
  if number is None or number < 0 or number == float("inf"):
    units = ", ".join(_UNITS)
    raise part.refusal("bin", f"must be a number, or one with a unit ({units}) as 30min")
  return number, False
