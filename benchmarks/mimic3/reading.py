"""Conversion and reading of MIMIC-III stays, on made-up files.

  python -m benchmarks.mimic3.reading

Writes random stays as the benchmark's pipeline writes them, with lengths spread
as in MIMIC-III, converts them, and reads batches of 256 random stays (cut at
and padded to 170 hours, with all labels and masks), whole splits and single
stays. Needs no data. Writes docs/benchmarks/mimic3-reading.md; takes about a
minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import concurrent.futures
import multiprocessing
import pathlib
import tempfile
import time
from typing import Any, NamedTuple

from ml_collections import ConfigDict
import numpy as np

from benchmarks import timing
from dynashare_jax.data.mimic3 import columns
from dynashare_jax.data.mimic3 import dataset as mimic3
from dynashare_jax.data.mimic3 import listfile as mimic3_listfile

LIMIT = 20_000
MEDIAN_HOURS, SIGMA = 50.0, 1.05  # of a log-normal: mean about 87 hours
ROWS_PER_HOUR, FILLED = 1.5, 0.32  # as in the open demo
BATCH = 256
ALL = 41_902  # stays of MIMIC-III
READ = "random batches"
COPIED = "random batches, then copied"


def cell(channel: columns.Channel, rng: np.random.Generator) -> str:
  """A random cell."""
  if rng.random() > FILLED:
    return ""
  if channel.values:
    return str(rng.choice(channel.values))
  return f"{float(channel.normal) * rng.uniform(0.7, 1.3):.6g}"


def hourly(mask: np.ndarray, labels: list[str]) -> str:
  """Masks and labels between semicolons."""
  return ";".join([*map(str, mask), *labels])


def line(name: str, hours: float, rng: np.random.Generator) -> str:
  """A random line of a listfile."""
  times = np.arange(int(hours) + 1)
  mask = (times > 4).astype(int)
  left = [f"{hours - t:.6f}" for t in times]
  dies = [str(v) for v in (rng.random(len(times)) < 0.02).astype(int)]
  phenotypes = ";".join(map(str, rng.integers(0, 2, 25)))
  return (
    f"{name},{hours:.6f},47;{int(hours >= 48)};0,{hourly(mask, left)},"
    f"{phenotypes},{hourly(mask, dies)}\n"
  )


def write_files(folder: pathlib.Path, stays: int) -> int:
  """Writes random stays; returns how many rows they have."""
  rng = np.random.default_rng(0)
  pool = [",".join(cell(c, rng) for c in columns.CHANNELS) for _ in range(5000)]
  head = ",".join(columns.HEADER)
  total = 0
  sizes = {"train": stays - 2 * (stays // 7), "validation": stays // 7, "test": stays // 7}
  number = 0
  for split, (listfile, part) in mimic3_listfile.FILES.items():
    (folder / part).mkdir(exist_ok=True)
    lines = [",".join(mimic3_listfile.HEADER) + "\n"]
    for _ in range(sizes[split]):
      drawn = rng.lognormal(np.log(MEDIAN_HOURS), SIGMA)
      hours = float(np.clip(drawn, 3, 2400))
      rows = max(3, int(ROWS_PER_HOUR * hours))
      when = np.sort(rng.uniform(0, hours, rows)).tolist()
      picked = rng.integers(0, len(pool), rows).tolist()
      name = f"{number}_episode1_timeseries.csv"
      number += 1
      (folder / part / name).write_text(
        "\n".join([head, *(f"{t!r},{pool[i]}" for t, i in zip(when, picked, strict=True)), ""])
      )
      lines.append(line(name, hours, rng))
      total += rows
    (folder / listfile).write_text("".join(lines))
  return total


def reader(source: Any, touch: bool) -> Callable[[], int]:
  """Reads as many stays as a split has, in random batches.

  Args:
    source: a split.
    touch: copy every batch, so that its padding is really written and read.
  """
  order = np.random.default_rng(1).permutation(len(source))
  batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
  copy = np.zeros((BATCH, *source[0].inputs["series"].shape), np.float32)

  def run() -> int:
    read = 0
    for rows in batches:
      batch = source.batch(rows)
      if touch:
        copy[: len(rows)] = batch.inputs["series"]
      read += len(batch.present)
    return read

  return run


class Rates(NamedTuple):
  """Stays a second, in rounds: elapsed, and of processor time."""

  wall: list[float]
  cpu: list[float]


def rates(run: Callable[[], int], repeats: int) -> Rates:
  """Runs some rounds after a first one."""
  found = Rates([], [])
  for _ in range(repeats + 1):
    wall, cpu = time.perf_counter(), time.process_time()
    read = run()
    found.wall.append(read / (time.perf_counter() - wall))
    found.cpu.append(read / (time.process_time() - cpu))
  return Rates(found.wall[1:], found.cpu[1:])


def read_in_processes(source: Any, processes: int, repeats: int) -> Rates:
  """All processes together, each reading all; elapsed time alone."""
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:

    def read() -> int:
      return sum(pool.map(_work, [source] * processes))

    return Rates(rates(read, repeats).wall, [])


def _work(source: Any) -> int:
  return reader(source, True)()


def measure(dataset: Any, arguments: argparse.Namespace) -> dict[str, Rates]:
  """Every way to read."""
  source, repeats = dataset.source("train"), arguments.repeats
  cases = {
    READ: rates(reader(source, False), repeats),
    COPIED: rates(reader(source, True), repeats),
    "the whole training split at once": rates(
      lambda: len(dataset.arrays("train").present), repeats
    ),
    "single stays": rates(lambda: sum(1 for _ in map(source.__getitem__, range(1000))), repeats),
  }
  if arguments.cores > 1:
    cases[f"random batches, copied, in {arguments.cores} processes"] = read_in_processes(
      source, arguments.cores, repeats
    )
  return cases


def page(
  arguments: argparse.Namespace,
  rows: int,
  converted: tuple[float, float],
  opened: float,
  found: dict[str, Rates],
) -> str:
  """The Markdown page."""
  lines = [
    [name, timing.spread(r.wall), timing.spread(r.cpu) if r.cpu else ""]
    for name, r in found.items()
  ]
  head = ["read", "stays a second", "stays a second of processor time"]
  slowest = min(found[COPIED].cpu)
  cores, stays = arguments.cores, arguments.stays
  all_stays = converted[0] / stays * ALL
  cpu = f", {converted[1] / stays * ALL:.0f} s of processor time" if cores == 1 else ""
  return (
    "\n".join(
      [
        "# MIMIC-III: conversion and reading",
        "",
        f"""\
- Command: `python -m benchmarks.mimic3.reading --stays={stays}
  --repeats={arguments.repeats} --cores={cores}`
{timing.machine(cores, ("numpy",))}
- {stays:,} made-up stays with {rows:,} rows, of {MEDIAN_HOURS:.0f} hours in the
  median; batches of {BATCH} random stays, 170 hours of 76 columns, with all
  labels and masks.""",
        "",
        timing.table(head, lines),
        "",
        f"""\
Target: more than {LIMIT:,} stays a second on 2 cores. \
{"Met" if slowest > LIMIT else "Missed"} by one core:
batches that are copied once more took, at their slowest, a second of processor
time for {slowest:,.0f} stays.

Conversion took {converted[0]:.1f} s in {cores} process(es); at this rate the
{ALL:,} stays of MIMIC-III take {all_stays:.0f} s{cpu}. Opening the converted
stays and comparing sizes and times of all files took {opened:.2f} s.
""",
      ]
    ).rstrip()
    + "\n"
  )


def main() -> None:
  """Measures and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--stays", type=int, default=8000, help="made up")
  parser.add_argument("--repeats", type=int, default=5, help="rounds")
  parser.add_argument("--cores", type=int, default=2, help="to use")
  arguments = parser.parse_args()
  timing.pin(arguments.cores)
  with tempfile.TemporaryDirectory() as name:
    rows = write_files(pathlib.Path(name), arguments.stays)
    config = ConfigDict(mimic3.defaults())
    config.workers = arguments.cores
    begin = time.perf_counter(), time.process_time()
    mimic3.build(config, ConfigDict(mimic3.compat()), name, 0)
    converted = (time.perf_counter() - begin[0], time.process_time() - begin[1])
    again = time.perf_counter()
    dataset = mimic3.build(config, ConfigDict(mimic3.compat()), name, 0)
    opened = time.perf_counter() - again
    found = measure(dataset, arguments)
  timing.write("mimic3-reading.md", page(arguments, rows, converted, opened, found))


if __name__ == "__main__":
  main()
