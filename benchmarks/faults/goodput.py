"""How many steps a run makes whose processes are killed again and again.

  python -m benchmarks.faults.goodput                      # 4 processes, 20 minutes
  python -m benchmarks.faults.goodput --minutes=6 --window=2

Starts `launch/local.sh` on this machine and counts steps in windows that take turns: without
faults; with one process killed every so often, started again from a process that has imported
everything and from the cache of compiled programs; and the same started plainly, from an empty
cache. A window begins with the first steps that are logged. Replaces the section "Goodput" of
`docs/benchmarks/faults.md`, unless `--dry`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import timing
from benchmarks.faults import group
from benchmarks.faults import page
from benchmarks.scaling import children
from dynashare_jax.monitoring import logs

NONE, WARM, COLD = "no faults", "kills, warm restart", "kills, cold restart"
_PAUSE = "sleep"  # the launcher's, between two looks
START = 300.0  # seconds in which the first steps must be made
RUN = {
  "config": "planted",
  "config.method": "hard",
  "config.data.tasks": "t0,t1",
  "config.model.blocks": "1,",
  "config.train.batch_size": "4096",
  "config.train.steps": "1000000",
  "config.train.steps_per_dispatch": "5",
  "config.train.log_every": "5",
  "config.train.eval_every": "1000000",
  "config.train.checkpoint_every": "20",
}


@dataclasses.dataclass
class Window:
  """What was seen in one window.

  Attributes:
    kind: `NONE`, `WARM` or `COLD`.
    steps: made in it and not lost.
    seconds: that it took.
    again: seconds from each kill to the next line of metrics.
    others: share of the cores' time that other programs took.
  """

  kind: str
  steps: int = 0
  seconds: float = 0.0
  again: list[float] = dataclasses.field(default_factory=list)
  others: float = 0.0


class Launched:
  """A run under `launch/local.sh`, ended on exit."""

  def __init__(self, folder: pathlib.Path, processes: int, warm: bool) -> None:
    """Starts it; `warm` keeps a process with everything imported."""
    self.cache = folder / "cache"
    self.lines = folder / "run" / "metrics.jsonl"
    flags = [f"--{name}={value}" for name, value in RUN.items()]
    self._log = folder / "launcher.txt"
    log = self._log.open("w")
    self._launcher = subprocess.Popen(
      [
        str(group.ROOT / "launch" / "local.sh"),
        str(processes),
        "1",
        *flags,
        f"--workdir={folder / 'run'}",
      ],
      cwd=group.ROOT,
      env=os.environ
      | {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(group.ROOT),
        "PORT": str(group.free_port()),
        "LOGS": str(folder / "logs"),
        "RESTARTS": "100000",
        "GRACE": "5",
        "WARM": str(int(warm)),
        "JAX_COMPILATION_CACHE_DIR": str(self.cache),
        "NPROC": "1",
      },
      stdout=log,
      stderr=log,
    )
    log.close()

  def step(self) -> int:
    """The last step of the metrics; 0 before there is one."""
    if self._launcher.poll() is not None:
      raise SystemExit(f"The launcher ended: {self._log.read_text()[-1500:]}")
    found = logs.read(self.lines.parent) if self.lines.is_file() else []
    return max((line["step"] for line in found), default=0)

  def size(self) -> int:
    """Bytes of the metrics."""
    return self.lines.stat().st_size if self.lines.is_file() else 0

  def processes(self) -> list[int]:
    """Pids of the processes that train: descendants of the launcher with no child of their own."""
    parents = dict(_parents())
    found = {self._launcher.pid}
    for _ in range(3):
      found |= {pid for pid, (parent, _) in parents.items() if parent in found}
    inner = {parent for parent, _ in parents.values()}
    return sorted(p for p in found - inner if parents.get(p, (0, _PAUSE))[1] != _PAUSE)

  def __enter__(self) -> Launched:
    return self

  def __exit__(self, *unused: object) -> None:
    self._launcher.terminate()
    try:
      self._launcher.wait(60)
    except subprocess.TimeoutExpired:
      self._launcher.kill()
      self._launcher.wait()


def _parents() -> Iterator[tuple[int, tuple[int, str]]]:
  """Parent and name of every process of this machine, by pid."""
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError, ValueError):
      name, _, rest = path.read_text().partition("(")[2].rpartition(")")
      yield int(path.parent.name), (int(rest.split()[1]), name)


def measure(
  kind: str, folder: pathlib.Path, processes: int, every: float, seconds: float, seed: int
) -> Window:
  """Counts the steps of one window.

  Args:
    kind: `NONE`, `WARM` or `COLD`.
    folder: for the run; its compiled programs are kept in `folder/cache`.
    processes: of the run.
    every: seconds from one kill to the next; the first comes in the middle.
    seconds: of the window.
    seed: of which process is killed.
  """
  window, choose = Window(kind), random.Random(seed)
  shutil.rmtree(folder / "run", ignore_errors=True)
  with children.Others() as others, Launched(folder, processes, kind != COLD) as run:
    began = time.monotonic()
    while run.step() == 0 or len(run.processes()) < processes:
      if time.monotonic() > began + START:
        raise SystemExit(f"No step in {START:.0f} s; see {folder}.")
      time.sleep(0.1)
    began, first = time.monotonic(), run.step()
    kill, hit = began + every / 2, None
    while (now := time.monotonic()) < began + seconds:
      if kind != NONE and now >= kill:
        if kind == COLD:
          shutil.rmtree(run.cache, ignore_errors=True)
        os.kill(choose.choice(run.processes()), signal.SIGKILL)
        kill += every
        hit, size = now, run.size()
        time.sleep(0.5)  # What was written before the kill is no answer to it.
        size = run.size()
      elif hit is not None and run.size() != size:
        if run.size() > size:
          window.again.append(now - hit)
          hit = None
        size = run.size() if hit is not None else 0
      time.sleep(0.05)
    window.seconds = time.monotonic() - began
    window.steps = run.step() - first
  window.others = others.share
  return window


def section(windows: list[Window], given: argparse.Namespace) -> str:
  """The section of the page, in Markdown."""
  kinds = [kind for kind in (NONE, WARM, COLD) if any(w.kind == kind for w in windows)]
  of = {kind: [w for w in windows if w.kind == kind] for kind in kinds}
  speed = {k: [60 * w.steps / w.seconds for w in found] for k, found in of.items()}
  rows = []
  for kind in kinds:
    again = [s for w in of[kind] for s in w.again]
    ratios = timing.ratios(speed[kind], speed[NONE])
    whole = sum(w.steps for w in of[kind]) / sum(w.steps for w in of[NONE])
    rows.append(
      [
        kind,
        f"{sum(w.seconds for w in of[kind]) / 60:.0f}",
        str(len(again)),
        timing.spread(speed[kind]),
        f"{100 * whole:.1f}%",
        "" if kind == NONE else timing.spread([100 * r for r in ratios]),
        timing.spread(again) if again else "",
      ]
    )
  others = statistics.mean(w.others for w in windows)
  head = [
    "",
    "minutes",
    "kills",
    "steps a minute",
    "steps of fault-free",
    "by round, %",
    "s to go on",
  ]
  flags = " ".join(f"--{name}={value}" for name, value in RUN.items())
  return f"""- Command: `python -m benchmarks.faults.goodput --processes={given.processes}
  --every={given.every:g} --minutes={given.minutes:g} --window={given.window:g}`; meanwhile
  other programs took {100 * others:.0f}% of the cores' time.
{timing.machine(len(os.sched_getaffinity(0)), ("jax", "orbax-checkpoint"))}
- The run: `{flags}`.
- `kill -9` hits one of {given.processes} processes every {given.every:g} s. Windows of
  {given.window:g} minutes take turns, {len(of[NONE])} rounds; medians with (minimum–maximum).
  Steps are those that stay: what a kill undid is made again and counted once. "s to go on" is
  from the kill to the next line of metrics. The checkpoint cadence is the same in all rows.

{timing.table(head, rows)}
"""


def main() -> None:
  """Parses arguments, measures, and writes the section."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--processes", type=int, default=4)
  parser.add_argument("--every", type=float, default=60, help="seconds from kill to kill")
  parser.add_argument("--minutes", type=float, default=20, help="of each kind, in all")
  parser.add_argument("--window", type=float, default=4, help="minutes of a window")
  parser.add_argument("--folder", help="for the runs; default a temporary one")
  parser.add_argument("--dry", action="store_true", help="write no page")
  given = parser.parse_args()
  windows = []
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(given.folder or temporary).absolute()
    for number in range(max(round(given.minutes / given.window), 1)):
      for kind in (NONE, WARM, COLD):
        place = folder / kind.replace(" ", "-").replace(",", "")
        place.mkdir(parents=True, exist_ok=True)
        told = place, given.processes, given.every, 60 * given.window, number
        windows.append(found := measure(kind, *told))
        print(found, flush=True)
  text = section(windows, given)
  if given.dry:
    print(text)
  else:
    timing.write("faults.md", page.with_goodput(timing.DOCS / "faults.md", text))


if __name__ == "__main__":
  main()
