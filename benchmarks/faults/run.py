"""Kills tiny runs at random moments, and looks whether they survive.

  python -m benchmarks.faults.run                      # 200 kills, 50 moves
  python -m benchmarks.faults.run --kills=20 --elastic=4 --minutes=5

Real processes on this machine, which find each other over its loopback: a run
with two processes is hit by one fault after another, then finishes, and is
compared bit for bit with one that nothing happened to. Then runs are stopped
and go on with other processes and devices. Overwrites
`docs/benchmarks/faults.md`, unless `--dry`. Ends with status 1 if anything was
not as it should be; what such processes wrote is then in `FOLDER/kept`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import pathlib
import sys
import tempfile
import time

from absl import logging

os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

from benchmarks import timing
from benchmarks.faults import group as groups
from benchmarks.faults import lane as lanes
from benchmarks.faults import page as faults_page
from benchmarks.faults import result as results
from benchmarks.faults import tally as faults_tally


def main() -> None:
  """Parses arguments, lets the lanes work, and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--kills", type=int, default=200)
  parser.add_argument(
    "--elastic", type=int, default=50, help="restarts with other processes and devices"
  )
  parser.add_argument("--minutes", type=float, default=60, help="at most")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--workers", type=int, default=1, help="runs at the same time")
  parser.add_argument("--folder", help="for the runs; default a temporary one")
  parser.add_argument("--dry", action="store_true", help="write no page")
  given = parser.parse_args()
  logging.set_verbosity(logging.ERROR)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(given.folder or temporary).absolute()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
    good = work(given, folder)
  sys.exit(0 if good else 1)


def work(given: argparse.Namespace, folder: pathlib.Path) -> bool:
  """Does it all; whether everything was as it should be."""
  began = time.monotonic()
  seconds = uninterrupted(folder)
  wanted = results.read(folder / "reference")
  print(
    "uninterrupted: {:.1f} s until the processes met, {:.1f} s to the first"
    " step, {:.1f} s in all".format(*seconds),
    flush=True,
  )
  tally = faults_tally.Tally(given.kills, given.elastic, began + 60 * given.minutes)

  def lane(number: int) -> None:
    with lanes.Lane(
      folder / f"lane-{number}", 1000 * given.seed + number, tally, wanted, seconds
    ) as one:
      one.go_on()

  with concurrent.futures.ThreadPoolExecutor(given.workers) as pool:
    for done in [pool.submit(lane, number) for number in range(given.workers)]:
      done.result()
  minutes = (time.monotonic() - began) / 60
  command = (
    f"--kills={given.kills} --elastic={given.elastic}"
    f" --minutes={given.minutes:g} --seed={given.seed}"
    f" --workers={given.workers}"
  )
  text = faults_page.page(command, tally, seconds, minutes)
  if given.dry:
    print(text)
  else:
    timing.write("faults.md", faults_page.with_goodput(timing.DOCS / "faults.md", above=text))
  return (
    not any(r.problem for r in tally.records + tally.elastic)
    and not any(r.problem for r in tally.runs)
    and not tally.unasked
  )


def uninterrupted(folder: pathlib.Path) -> tuple[float, float, float]:
  """Trains twice without a fault: the first compiles, the second is timed.

  Returns:
    Seconds of the second until its processes met, until its first step, and in
    all.
  """
  for name in ("compiled", "reference"):
    with groups.Group(
      folder / name, folder / f"{name}.logs", 2, {"TINY_PAUSE": lanes.PAUSE, "TINY_DEVICES": "1"}
    ) as run:
      began = time.monotonic()
      while run.living and run.phase == "meeting":
        time.sleep(0.02)
      met = time.monotonic() - began
      while run.living and run.began_at is None:
        time.sleep(0.02)
      first = time.monotonic() - began
      ends = run.ends(began, 300)
      whole = max(end.seconds for end in ends)
      if any(end.status for end in ends):
        raise SystemExit(f"The uninterrupted run: {groups.describe(ends)}")
  return met, first, whole


if __name__ == "__main__":
  main()
