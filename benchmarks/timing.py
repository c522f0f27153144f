"""Timings in alternation, and how a benchmark's page tells of its machine."""

from __future__ import annotations

from collections.abc import Sequence
import importlib.metadata
import os
import pathlib
import platform
import statistics

from dynashare_jax.infer import clock

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "benchmarks"

Timing, alternate = clock.Timing, clock.alternate


def pin(threads: int) -> None:
  """Confines the process to some cores, so that XLA makes as many threads.

  Must be called before jax computes anything.

  Args:
    threads: how many cores.

  Raises:
    ValueError: the process has fewer.
  """
  if not hasattr(os, "sched_setaffinity"):
    return  # Not on this system; thread counts are then the libraries' own.
  cores = sorted(os.sched_getaffinity(0))
  if not 0 < threads <= len(cores):
    raise ValueError(
      f"--threads is {threads}, but this process may use"
      f" {len(cores)} cores; give 1 to {len(cores)}."
    )
  os.sched_setaffinity(0, cores[-threads:])


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
  """Quotients round by round, so that a slow round slows both."""
  return [a / b for a, b in zip(over, under, strict=True)]


def spread(values: Sequence[float], digits: int = 3) -> str:
  """`median (min–max)` with significant digits."""

  def show(value: float) -> str:
    return f"{float(f'{value:.{digits}g}'):,.10g}"

  low, high = show(min(values)), show(max(values))
  return f"{show(statistics.median(values))} ({low}–{high})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table; the first column is text, the others are numbers."""
  lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(threads: int, packages: Sequence[str]) -> str:
  """Processor, load and versions, as a list in Markdown."""
  versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
  load = os.getloadavg()[0]
  return "\n".join(
    [
      f"- Machine: {_processor()}, {os.cpu_count()} cores; pinned to"
      f" {threads} of them; load average {load:.1f} at the end (other work was"
      " running if it is above the pinned cores).",
      f"- Versions: Python {platform.python_version()}, {versions}.",
    ]
  )


def _processor() -> str:
  """The processor's name."""
  try:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.split(":", 1)[1].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()


def write(name: str, text: str) -> None:
  """Writes a page of `docs/benchmarks` and prints it."""
  DOCS.mkdir(parents=True, exist_ok=True)
  (DOCS / name).write_text(text, encoding="utf-8")
  print(text)
