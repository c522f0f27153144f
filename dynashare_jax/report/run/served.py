"""What a run's network takes, served together (all tasks at once) and apart (one at a time)."""

from __future__ import annotations

import csv
import math
from typing import NamedTuple

from dynashare_jax.infer import cost as cost_lib
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.sharing import prices

SERVES = prices.SERVES
# Of the executions that `cost` measures, a run's own: the first of these that there is.
_OWN = (cost_lib.GATED, cost_lib.PLANNED, cost_lib.LEAN, cost_lib.WHOLE, cost_lib.SEPARATE)


class Measured(NamedTuple):
  """What `cost` measured of a run's own execution.

  Attributes:
    batch: examples of a call, the first size that was measured.
    way: see `infer.cost.Cost`.
    ms: median milliseconds, by the way to serve it; apart the sum over the tasks.
  """

  batch: int
  way: str
  ms: dict[str, float]


def measured(run: workdir_lib.Run) -> Measured | None:
  """Reads `cost.csv`; None without it."""
  file = run.path / "cost.csv"
  if not file.is_file():
    return None
  with open(file, encoding="utf-8", newline="") as text:
    rows = list(csv.DictReader(text))
  way = next(way for way in _OWN if any(row["execution"] == way for row in rows))
  own = [r for r in rows if r["execution"] == way and r["batch"] == rows[0]["batch"]]
  ms = {row["scope"]: 1000 * float(row["seconds_median"]) for row in own}
  together = ms.pop(cost_lib.ALL)
  of = {prices.TOGETHER: together, prices.APART: sum(ms.values()) if ms else together}
  return Measured(int(rows[0]["batch"]), way, of)


def work(run: workdir_lib.Run, serve: str) -> float:
  """Returns the work of the chosen route in percent of hard sharing's; NaN where unknown."""
  return 100 * _told(run, serve, "work")


def _told(run: workdir_lib.Run, serve: str, name: str) -> float:
  """A number of `results.json`; NaN where there is none."""
  found = (run.results.get("served") or {}).get(serve) or {}
  return workdir_lib.number(found.get(name))


def section(run: workdir_lib.Run) -> str:
  """Returns the section with work and, where they are known, milliseconds of both ways."""
  found, clocked = run.results.get("served") or {}, measured(run)
  if not found and clocked is None:
    return ""
  columns = ["served", tables.Column("work", unit="% of hard sharing")]
  text = (
    "Together: all tasks for every input, shared work once. Apart: one task at a time. Work: of the"
    " blocks of the route, without gates, against all blocks for all tasks, served the same way."
  )
  predicted = [_told(run, serve, "ms") for serve in SERVES]
  if not all(map(math.isnan, predicted)):
    columns.append(tables.Column("predicted", unit="ms"))
    text += (
      f" Predicted: without gates, from blocks timed on {found['device']}, batch {found['batch']}."
    )
  if clocked is not None:
    columns.append(tables.Column("measured", unit="ms"))
    text += f" Measured: {clocked.way}, batch {clocked.batch}; see [cost.md](cost.md)."
  rows: list[list[tables.Entry]] = []
  for serve, ms in zip(SERVES, predicted, strict=True):
    row: list[tables.Entry] = [serve, tables.Cell(work(run, serve), digits=1)]
    row += [ms] * (not all(map(math.isnan, predicted)))
    rows.append(row if clocked is None else [*row, clocked.ms[serve]])
  return tables.section("Served together and apart", text, tables.table(columns, rows))
