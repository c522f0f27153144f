"""Re-trainings at once against one after another, for benchmarks/scaling/run.py."""

from __future__ import annotations

from collections.abc import Sequence
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.scaling import children as scaling_children

ROOT = pathlib.Path(__file__).resolve().parents[2]
CANDIDATES = 4
WAYS = {"in turn": 1, "at once": 2}
LIMIT = 400  # seconds that a run may take
_SHORT = {  # The search is as short as it can be; nearly all is re-training.
  "train.warmup_steps": 2,
  "train.cycles": 1,
  "train.weight_steps": 2,
  "train.policy_steps": 2,
  "train.steps": 6,
  "policy.curriculum_speed": 1,
  "policy.candidates": CANDIDATES,
  "eval.pictures": 0,
  "data.train": 512,
  "data.validation": 64,
  "data.test": 64,
}


def measure(rounds: int, steps: int, cores: Sequence[int]) -> dict[str, Any]:
  """Runs of Rooms in two processes, which take turns with the two ways.

  Args:
    rounds: of both ways.
    steps: of each re-training.
    cores: two, that both processes may use.

  Returns:
    `in turn` and `at once`: seconds that one step of all re-trainings takes,
    without compiling, validation and checkpoints, of each round; `steps`;
    `apart`: how far the candidates' scores of the two ways are apart;
    `same`: whether both drew the same routes and chose the same one.

  Raises:
    ChildError: a run failed or took too long.
  """
  found: dict[str, Any] = {name: [] for name in WAYS}
  results: dict[str, Any] = {}
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    for number in range(rounds):
      for way, groups in WAYS.items():
        workdir = folder / f"{way.replace(' ', '-')}-{number}"
        _run(workdir, folder / "cache", groups, steps, cores)
        results[way] = json.loads((workdir / "results.json").read_text())
        found[way].append(results[way]["timing"]["step_seconds"]["retrain"] * CANDIDATES / groups)
      print({way: v[-1:] for way, v in found.items()}, flush=True)
  one, two = (results[way] for way in WAYS)
  pairs = list(zip(one["candidates"], two["candidates"], strict=True))
  return found | {
    "steps": steps,
    "apart": max(abs(a["score"] - b["score"]) for a, b in pairs),
    "same": one["chosen"] == two["chosen"] and all(a["route"] == b["route"] for a, b in pairs),
  }


def _run(
  workdir: pathlib.Path, cache: pathlib.Path, groups: int, steps: int, cores: Sequence[int]
) -> None:
  """Trains in two processes, with a thread each that computes."""
  values = _SHORT | {
    "train.retrain_steps": steps,
    "train.candidate_groups": groups,
    "train.eval_every": steps,
    "train.checkpoint_every": steps,
  }
  address = f"localhost:{scaling_children.free_port()}"
  command = [
    sys.executable,
    "-m",
    "dynashare_jax.main",
    "--config=configs/rooms.py",
    f"--workdir={workdir}",
    f"--coordinator={address}",
    "--processes=2",
    *(f"--config.{name}={value}" for name, value in values.items()),
  ]
  environment = os.environ | {
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "NPROC": "1",
    "DYNASHARE_IDLE_GLOO": "1",
  }
  logs = [workdir.with_suffix(f".{number}.log") for number in range(2)]
  processes = []
  try:
    for number, log in enumerate(logs):
      with open(log, "wb") as file:
        processes.append(
          subprocess.Popen(
            [*command, f"--process_id={number}"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
          )
        )
      os.sched_setaffinity(processes[-1].pid, cores)
    until = time.monotonic() + LIMIT
    for process in processes:
      process.wait(max(until - time.monotonic(), 0.01))
  except subprocess.TimeoutExpired as error:
    raise scaling_children.ChildError(f"A run took longer than {LIMIT} s.") from error
  finally:
    for process in processes:
      process.kill()
      process.wait()
  if any(process.returncode for process in processes):
    raise scaling_children.ChildError(logs[0].read_text()[-1500:])
