"""Writes the page on balancing from the results in a folder.

python -m benchmarks.balancing.page --out=runs/balancing > docs/benchmarks/balancing.md
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import json
import math
import pathlib
from typing import Any

import numpy as np

from benchmarks.balancing import digits
from benchmarks.balancing import factorial
from benchmarks.balancing import toy
from dynashare_jax.report import tables

BALANCED = ("log", "unit", "nash", "upgrad after unit")  # blind to the scale of losses

Errors = Mapping[str, Mapping[int, float]]


def main() -> None:
  """Prints the page."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--out", default="runs/balancing")
  print(page(pathlib.Path(parser.parse_args().out)))


def page(folder: pathlib.Path) -> str:
  """Returns all tables of a folder that the scripts beside this one filled."""
  parts = []
  for problem in factorial.PROBLEMS:
    found = list(factorial.results(folder, problem))
    if found:
      parts.append(_factorial(problem, found))
  kept = {file.stem: toy.Found(**np.load(file)) for file in sorted(folder.glob("toy/*.npz"))}
  if kept:
    parts.append(_toy(kept))
  file = folder / "digits.json"
  if file.is_file():
    parts.append(_digits(json.loads(file.read_text())))
  return "\n\n".join(parts)


def relative(found: Sequence[tuple[str, float, Mapping[int, Any]]]) -> dict[str, dict[int, float]]:
  """Returns of every row and number how much larger the error is than separate networks', in %.

  The mean over tasks of the error over that of the task's own network on the same number.
  """
  single = next((results for name, _, results in found if name == factorial.SINGLE), {})
  return {
    name: {
      number: 100 * (float(np.mean(np.divide(one["test"], single[number]["test"]))) - 1)
      for number, one in results.items()
      if number in single
    }
    for name, _, results in found
  }


def lead(errors: Errors, row: str, other: str) -> tuple[float, float]:
  """Returns how much lower the error of a row is than of another, and the standard error.

  Mean over the numbers of both of the differences, in points; NaN for fewer than two.
  """
  both = sorted(set(errors.get(row, ())) & set(errors.get(other, ())))
  gains = [errors[other][number] - errors[row][number] for number in both]
  if len(gains) < 2:
    return math.nan, math.nan
  return float(np.mean(gains)), float(np.std(gains, ddof=1) / math.sqrt(len(gains)))


def _factorial(problem: str, found: Sequence[tuple[str, float, Mapping[int, Any]]]) -> str:
  """A row a way to train; on uneven scales the targets."""
  errors = relative(found)
  rows = []
  for name, rate, results in found:
    values = list(errors[name].values())
    spread = tables.mean_std(values, 1, signed=True)
    error = math.nan if spread.std is None else spread.std / math.sqrt(len(values))
    mean = tables.mean_std([float(np.mean(one["test"])) for one in results.values()], 4)
    pairs = sum(_parted(np.asarray(one["route"])) for one in results.values())
    told = f"{pairs} of {len(results)}" if name.startswith("affinity") else tables.MISSING
    cells = mean, spread, tables.Cell(error, None, 1), told
    rows.append((name, len(results), f"{rate:g}", *cells))
  titles = ("trained", "numbers", "rate", "error", "to single, %", "standard error", "pairs found")
  table = tables.markdown(tables.table(titles, rows), bold_best=False)
  parts = [f"### {problem.capitalize()} scales", table]
  if problem == "uneven":
    parts.append(_targets(errors))
  return "\n\n".join(parts)


def _parted(route: np.ndarray) -> bool:
  """Whether the two pairs of tasks share all blocks within and none across."""
  first, second, third, fourth = route
  return bool((first == second).all() and (third == fourth).all() and not (first & third).any())


def _targets(errors: Errors) -> str:
  """How far balanced learned sharing is ahead of what lacks one of the two, and of neither."""
  rows = []
  for name in BALANCED:
    row = f"affinity + {name}"
    for other in ("affinity + sum", f"hard + {name}", factorial.NARROW):
      gain, error = lead(errors, row, other)
      if math.isfinite(gain):
        met = "met" if gain > 3 * error else "not met"
        cells = tables.Cell(gain, error, 1, signed=True), tables.Cell(gain / error, digits=1)
        rows.append((row, other, *cells, met))
  titles = ("row", "against", "lead, points ± standard error", "in standard errors", "above 3")
  return tables.markdown(tables.table(titles, rows, words=2), bold_best=False)


def _toy(found: Mapping[str, toy.Found]) -> str:
  """A row a balancer, a pair of columns a scale."""
  rows = []
  for name, one in found.items():
    spread = zip(one.reached.sum(1), one.worse.mean(1), one.worse.std(1, ddof=1), strict=True)
    cells = [e for n, mean, std in spread for e in (int(n), tables.Cell(mean, std, 1))]
    rows.append((name, *cells))
  titles = [t for s in toy.SCALES for t in (f"reach it, times {s:g}", f"worse loss, times {s:g}")]
  table = tables.markdown(tables.table(("balancer", *titles), rows), bold_best=False)
  return f"## Two losses of two numbers\n\n{table}"


def _digits(told: Mapping[str, Any]) -> str:
  """A row a balancer, a column a scale."""
  rows = []
  for name, values in told["found"].items():
    rows.append((name, *(tables.mean_std(np.mean(v, 1).tolist(), 1) for v in values)))
  titles = ("balancer", *(f"accuracy, second loss times {s:g}, %" for s in digits.SCALES))
  return "## Two overlapping digits\n\n" + tables.markdown(
    tables.table(titles, rows), bold_best=False
  )


if __name__ == "__main__":
  main()
