"""How long a run took, and what its steps waited for."""

from __future__ import annotations

import math

import numpy as np

from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib

_PARTS = ("time/input_wait", "time/host", "time/device_wait")


def section(run: workdir_lib.Run) -> str:
  """A section with times, memory, versions, and a row a phase."""
  timing = run.results["timing"]
  steps = ", ".join(
    f"{name} {1000 * workdir_lib.number(seconds):.0f} ms"
    for name, seconds in timing["step_seconds"].items()
  )
  versions = ", ".join(f"{k} {v}" for k, v in run.results["versions"].items())
  seconds = workdir_lib.number(timing["seconds"])
  memory = workdir_lib.number(timing["peak_memory_gb"])
  return (
    f"## Time\n\n{seconds:,.0f} s of training and validation; median"
    f" step: {steps}. Peak memory {memory:.2f} GB. {versions}." + _waits(run)
  )


def _waits(run: workdir_lib.Run) -> str:
  """Where the time of a step went; nothing for runs that did not measure."""
  phases: dict[str, list[workdir_lib.Json]] = {}
  for line in workdir_lib.select(run.lines, "train", "time/step"):
    phases.setdefault(str(line["phase"]), []).append(line["values"])
  if not phases:
    return ""
  skewed = any("time/skew" in v for found in phases.values() for v in found)
  columns = [
    tables.Column("phase", align="left"),
    tables.Column("step", unit="ms"),
    tables.Column("waits for batches", unit="%"),
    tables.Column("host", unit="%"),
    tables.Column("waits for devices", unit="%"),
  ]
  if skewed:
    columns.append(tables.Column("skew", unit="ms"))
  rows: list[tuple[tables.Entry, ...]] = []
  for phase, found in phases.items():
    medians = [_median(found, name) for name in _PARTS]
    whole = sum(medians)
    shares = [100 * m / whole if whole else math.nan for m in medians]
    row: list[tables.Entry] = [
      tables.Cell(1000 * _median(found, "time/step"), digits=1),
      *(tables.Cell(share, digits=0) for share in shares),
    ]
    if skewed:
      row.append(tables.Cell(1000 * _median(found, "time/skew"), digits=1))
    rows.append((phase, *row))
  text = (
    "\n\nWhere the time of a step went (medians). What waits for batches"
    " or works on the host may overlap with the devices; see"
    " docs/monitoring.md."
  )
  if skewed:
    text += " Skew: how much more time of its own the slowest process needs than the fastest."
  return text + "\n\n" + tables.markdown(tables.Table(tuple(columns), tuple(rows)))


def _median(found: list[workdir_lib.Json], name: str) -> float:
  values = [workdir_lib.number(v[name]) for v in found if name in v]
  return float(np.median(values)) if values else math.nan
