"""How long a run took, and what its steps waited for."""

from __future__ import annotations

import math

import numpy as np

from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib

_PARTS = {
  "time/input_wait": "waits for batches",
  "time/host": "host",
  "time/device_wait": "waits for devices",
}


def section(run: workdir_lib.Run) -> str:
  """Returns a section with times, memory, versions, and a row per phase."""
  timing = run.results.get("timing") or {}
  if not timing:
    return ""
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
  rows: list[list[tables.Entry]] = []
  for phase, found in phases.items():
    medians = [_median(found, name) for name in _PARTS]
    whole = sum(medians)
    shares = [100 * m / whole if whole else math.nan for m in medians]
    times = [1000 * _median(found, f"time/{k}") for k in ("step", "skew")[: 1 + skewed]]
    step, *skew = (tables.Cell(time, digits=1) for time in times)
    rows.append([phase, step, *(tables.Cell(share, digits=0) for share in shares), *skew])
  columns = (
    "phase",
    tables.Column("step", unit="ms"),
    *(tables.Column(title, unit="%") for title in _PARTS.values()),
    *[tables.Column("skew", unit="ms")] * skewed,
  )
  text = (
    "\n\nWhere the time of a step went (medians). What waits for batches or works on the host may"
    " overlap with the devices; see docs/monitoring.md."
  )
  if skewed:
    text += " Skew: how much more time of its own the slowest process needs than the fastest."
  return text + "\n\n" + tables.markdown(tables.table(columns, rows))


def _median(found: list[workdir_lib.Json], name: str) -> float:
  values = [workdir_lib.number(v[name]) for v in found if name in v]
  return float(np.median(values)) if values else math.nan
