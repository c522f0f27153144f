"""How long a user waits for the first step, for benchmarks/scaling/run.py."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.scaling import children as scaling_children

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "rooms.py"
LIMIT = 240  # seconds that a start may take
STAGES = (
  "interpreter",
  "imports",
  "data and network",
  "labels checked",
  "initial state",
  "first step",
)


def measure(rounds: int) -> dict[str, object]:
  """Starts Rooms with an empty cache of compiled programs, then with a full.

  Args:
    rounds: with a full cache.

  Returns:
    Seconds from the start of the process to the end of the first step: `cold`,
    `warm` (a round each), and `stages` of one more start.
  """
  with tempfile.TemporaryDirectory() as name:
    scratch = pathlib.Path(name)
    cold = start(scratch / "cold", scratch / "cache")
    warm = [start(scratch / f"warm-{i}", scratch / "cache") for i in range(rounds)]
    return {"cold": cold, "warm": warm, "stages": stages(scratch / "stages", scratch / "cache")}


def start(workdir: pathlib.Path, cache: pathlib.Path) -> float:
  """Seconds from starting the user's command to its first line of metrics.

  Args:
    workdir: a new folder.
    cache: of compiled programs.

  Raises:
    ChildError: it ended, or took too long.
  """
  metrics = workdir / "metrics.jsonl"
  began = time.monotonic()
  with tempfile.TemporaryFile("w+") as log:
    process = subprocess.Popen(
      [
        sys.executable,
        "-m",
        "dynashare_jax.main",
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        "--config.train.log_every=1",
      ],
      cwd=ROOT,
      env=_environment(cache),
      stdout=log,
      stderr=log,
      stdin=subprocess.DEVNULL,
    )
    try:
      while not (metrics.is_file() and metrics.stat().st_size):
        seconds = time.monotonic() - began
        if process.poll() is not None or seconds > LIMIT:
          log.seek(0)
          raise scaling_children.ChildError(
            f"No first step after {seconds:.0f} s: {log.read()[-1500:]}"
          )
        time.sleep(0.01)
      return time.monotonic() - began
    finally:
      process.kill()
      process.wait()


def stages(workdir: pathlib.Path, cache: pathlib.Path) -> dict[str, float]:
  """Seconds of every stage of a start, in order."""
  began = time.time()
  with contextlib.closing(
    scaling_children.Child(
      "starter",
      environment=_environment(cache),
      limit=LIMIT,
      config=str(CONFIG),
      workdir=str(workdir),
    )
  ) as child:
    marks = child.answer(LIMIT)["marks"]
  found = {}
  for stage in STAGES:
    found[stage], began = marks[stage] - began, marks[stage]
  return found


def _environment(cache: pathlib.Path) -> dict[str, str]:
  """Variables of a start on the CPU with its own cache."""
  return os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}
