"""A program in place of `dynashare_jax.main` that tells when it ran."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import sys
from typing import Any

import pytest

from dynashare_jax.cli import benchmark_jobs

# Waits, writes what a finished run leaves, and a record. FAKE holds settings by
# the name of the run, or by "*" for all.
_SOURCE = """
import json, os, pathlib, signal, sys, time
start = time.time()
value = lambda name: [a.split("=", 1)[1] for a in sys.argv[1:]
                      if a.startswith(f"--{name}=")][-1]
folder = pathlib.Path(value("workdir"))
told = json.loads(os.environ.get("FAKE", "{}"))
told = told.get("*", {}) | told.get(folder.name, {})
method, seed = value("config.method"), int(value("config.seed"))
records = pathlib.Path(os.environ["FAKE_RECORDS"])
record = {"name": folder.name, "argv": sys.argv[1:], "start": start,
          "pid": os.getpid(), "environment": dict(os.environ),
          "interrupts": signal.getsignal(signal.SIGINT) is not signal.SIG_IGN}

def write(**more):
  path = records / f"{os.getpid()}.json"
  path.with_suffix(".new").write_text(json.dumps(record | more))
  path.with_suffix(".new").rename(path)

def checkpoint(*unused):
  (folder / "checkpoint").write_text("saved")
  sys.exit(9)

if told.get("worker"):  # A process of its own, as workers that load data.
  import subprocess
  worker = subprocess.Popen([sys.executable, "-S", "-c",
                             "import time; time.sleep(60)"])
  record["worker"] = worker.pid
if told.get("stubborn"):
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif told.get("saves"):
  signal.signal(signal.SIGTERM, checkpoint)
for argument in sys.argv[1:]:  # What main reads when it starts.
  name, _, path = argument.partition("=")
  if name in ("--config.baseline", "--config.random.like"):
    record["read"] = pathlib.Path(path, "results.json").is_file()
write()
print("".join(f"line {i}\\n" for i in range(40)), end="", flush=True)
time.sleep(told.get("seconds", 0))
if "after" in told:  # Ends when another run has ended, at most 30 s later.
  for _ in range(3000):
    if (folder.parent / told["after"] / "report.md").is_file():
      break
    time.sleep(0.01)
if told.get("code"):
  print(f"error: {folder.name} is not finite", flush=True)
elif not told.get("silent"):
  level = {"single": 50.0, "hard": 45.0}.get(method, 55.0) + seed
  results = {
    "dataset": "rooms", "method": method, "seed": seed, "finished": True,
    "split": "test",
    "tasks": [{"name": "seg", "kind": "segmentation", "metrics": [
      {"name": "miou", "higher_is_better": True, "unit": "%",
       "test": level}]}],
  }
  (folder / "results.json").write_text(json.dumps(results))
  if "route" in told:
    route = {"tasks": ["seg"], "chosen": 0, "routes": [[told["route"]]]}
    (folder / "policy.json").write_text(json.dumps(route))
  (folder / "report.md").write_text("# report")
write(end=time.time())
sys.exit(told.get("code", 0))
"""


def alive(pid: int) -> bool:
  """Whether a process is there and is no zombie."""
  try:
    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
  except FileNotFoundError:
    return False
  return state.split()[0] != "Z"


@dataclasses.dataclass
class Program:
  """What ran, in the order of the starts.

  Attributes:
    folder: of the program and of its records.
    patch: how its settings come into the environment.
  """

  folder: pathlib.Path
  patch: pytest.MonkeyPatch

  @property
  def script(self) -> pathlib.Path:
    return self.folder / "program.py"

  def set(self, settings: dict[str, dict[str, Any]]) -> None:
    """Says what runs do, by their names; `*` stands for all."""
    self.patch.setenv("FAKE", json.dumps(settings))

  def records(self) -> list[dict[str, Any]]:
    """Start, end, arguments, environment and more of what has run."""
    found = [json.loads(path.read_text()) for path in self.folder.glob("*.json")]
    return sorted(found, key=lambda record: record["start"])

  def names(self) -> list[str]:
    return [record["name"] for record in self.records()]

  def options(self, name: str) -> list[str | None]:
    """Value of `--name=value` in every command; the last one counts."""
    found = []
    for record in self.records():
      values = [a.split("=", 1)[1] for a in record["argv"] if a.startswith(f"--{name}=")]
      found.append(values[-1] if values else None)
    return found

  def clear(self) -> None:
    for path in self.folder.glob("*.json"):
      path.unlink()

  def pids(self) -> list[int]:
    """Of all runs, and of the processes that they started."""
    return [record[key] for record in self.records() for key in ("pid", "worker") if key in record]

  def end(self) -> None:
    """Kills what a failed test has left."""
    for pid in filter(alive, self.pids()):
      os.kill(pid, signal.SIGKILL)


def install(folder: pathlib.Path, patch: pytest.MonkeyPatch) -> Program:
  """Puts the program in the place of `dynashare_jax.main`."""
  folder.mkdir()
  program = Program(folder, patch)
  program.script.write_text(_SOURCE)
  command = (sys.executable, "-I", "-S", str(program.script))
  patch.setattr(benchmark_jobs, "PROGRAM", command)
  patch.setattr(benchmark_jobs, "_POLL", 0.01)
  patch.setenv("FAKE_RECORDS", str(folder))
  patch.setenv("JAX_PLATFORMS", "cpu")
  for name in [n for n in os.environ if n.startswith(("SLURM_", "OMPI_"))]:
    patch.delenv(name)
  patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  return program
