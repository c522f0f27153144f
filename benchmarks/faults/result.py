"""What a finished tiny run left behind, compared with an uninterrupted one."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import runpy
from typing import Any

from absl import flags
import jax
import numpy as np

from benchmarks.faults.group import ROOT
from benchmarks.faults.group import STEPS
from dynashare_jax import runs as main
from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.monitoring import logs

_MEASURED = ("time/", "memory/")  # values that no two runs share


@dataclasses.dataclass
class Result:
  """What a finished run found.

  Attributes:
    lines: of its metrics.
    routes: those drawn, and which was chosen.
    policy: the file `policy.json`.
    results: the file `results.json`, without times.
    state: leaves of the last state.
  """

  lines: list[dict[str, Any]]
  routes: Any
  policy: dict[str, Any]
  results: dict[str, Any]
  state: list[np.ndarray]


@functools.lru_cache(maxsize=1)
def _experiment() -> Any:
  """The parts of the tiny run, on one device."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  tiny = runpy.run_path(str(ROOT / "tests" / "tiny" / "configs.py"))
  tiny["find_stripes"]()
  return main.build(tiny["make"](), jax.devices()[:1])[0]


def read(folder: pathlib.Path) -> Result:
  """Reads a finished run.

  Raises:
    OSError, ValueError: it is not finished or not whole.
  """
  lines = logs.read(folder)
  for line in lines:
    line["values"] = {k: v for k, v in line["values"].items() if not k.startswith(_MEASURED)}
  policy = json.loads((folder / "policy.json").read_text())
  results = json.loads((folder / "results.json").read_text())
  del results["timing"]
  if not (folder / "report.md").is_file():
    raise ValueError(f"{folder} has no report.")
  with checkpoint.Checkpoints(folder / "checkpoints", read_only=True) as saved:
    found = saved.restore(_experiment().template)
  assert found is not None and found[0] == STEPS, found
  state = [np.asarray(leaf) for leaf in jax.tree.leaves(found[1])]
  return Result(lines, (policy["routes"], policy["chosen"]), policy, results, state)


def same(found: Result, wanted: Result) -> str:
  """What differs of two runs that must agree in every bit; empty if nothing."""
  if json.dumps(found.lines) != json.dumps(wanted.lines):
    return "metrics.jsonl differs"
  if found.policy != wanted.policy:
    return "policy.json differs"
  if found.results != wanted.results:
    return "results.json differs"
  for place, (a, b) in enumerate(zip(found.state, wanted.state, strict=True)):
    if a.dtype != b.dtype or a.tobytes() != b.tobytes():
      return f"leaf {place} of the state differs"
  return ""


def furthest(found: Result, wanted: Result) -> float:
  """How far the values of two runs' metrics are apart, relative above 1.

  Infinite where they have other lines or another route.
  """
  key = [
    (x["step"], x["phase"], x["candidate"], x["kind"], sorted(x["values"])) for x in wanted.lines
  ]
  if found.routes != wanted.routes or key != [
    (x["step"], x["phase"], x["candidate"], x["kind"], sorted(x["values"])) for x in found.lines
  ]:
    return float("inf")
  apart = 0.0
  for a, b in zip(found.lines, wanted.lines, strict=True):
    for name, value in b["values"].items():
      one, two = np.asarray(a["values"][name]), np.asarray(value)
      scale = np.maximum(1.0, np.abs(two))
      difference = np.nan_to_num(np.abs(one - two) / scale)  # NaN is a loss of
      apart = max(apart, float(difference.max()))  # nothing valid, in both.
  return apart
