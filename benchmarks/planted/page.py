"""Writes the page of the planted problems from the results in a folder.

python -m benchmarks.planted.page --out=runs/planted > docs/benchmarks/planted.md
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import numpy as np

from dynashare_jax.data.planted import dataset as planted
from dynashare_jax.report import tables

_CONTROLS = ("random", "hard, all steps", "single, equal parameters", "planted", "hard")


def main() -> None:
  """Prints the page."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--out", default="runs/planted")
  print(page(pathlib.Path(parser.parse_args().out)))


def page(folder: pathlib.Path) -> str:
  """Returns tables of all problems in a folder that `run` filled."""
  parts = []
  for problem, told in planted.PROBLEMS.items():
    found = _found(folder / problem)
    if found:
      parts.append(
        f"## {problem}\n\n{told.answer.capitalize()}.\n\n{_table(found)}\n\n{_each(found)}"
      )
  return "\n\n".join(parts)


def _found(folder: pathlib.Path) -> dict[str, dict[int, dict[str, Any]]]:
  """Method -> number -> result."""
  found: dict[str, dict[int, dict[str, Any]]] = {}
  for file in sorted(folder.glob("*/*.json")):
    if file.stem not in ("controls", "gates"):
      found.setdefault(file.stem, {})[int(file.parent.name)] = json.loads(file.read_text())
  return found


def _mean(found: dict[str, Any], control: str) -> float:
  """Mean loss of a control over its trainings and the tasks; NaN without it."""
  return float(np.mean(found["controls"][control])) if control in found["controls"] else np.nan


def _table(found: dict[str, dict[int, dict[str, Any]]]) -> str:
  """A row a method, and one a control."""
  cell = lambda values: tables.mean_std(list(values), 4)
  rows: list[tuple[Any, ...]] = []
  for method, by_number in found.items():
    results = list(by_number.values())
    own = np.array([np.mean(one["own"]) for one in results])
    percentiles = [one["percentile"] for one in results if one["percentile"] is not None]
    rows.append(
      (
        method,
        cell(own),
        tables.Cell(float(np.mean(percentiles)) if percentiles else np.nan, digits=0),
        tables.Cell(float(np.min(percentiles)) if percentiles else np.nan, digits=0),
        *(
          tables.Cell(100 * float(np.mean(own / other - 1)), digits=0, signed=True)
          for name in _CONTROLS[1:3]
          for other in [np.array([_mean(one, name) for one in results])]
        ),
        tables.Cell(100 * float(np.mean([one["executed"] for one in results])), digits=0),
        tables.Cell(100 * float(np.mean([one["work"]["together"] for one in results])), digits=0),
        str(results[0]["steps"]),
      )
    )
  results = list(found[max(found, key=lambda name: len(found[name]))].values())
  empty = (np.nan,) * 6
  for control in _CONTROLS:
    rows.append(
      (f"{control} (control)", cell([_mean(one, control) for one in results]), *empty, "")
    )
  titles = (
    "method",
    "loss",
    "percentile, mean",
    "least",
    "to hard, %",
    "to single, %",
    "executed, %",
    "work together, %",
    "steps",
  )
  return tables.markdown(tables.table(titles, rows), bold_best=False)


def _each(found: dict[str, dict[int, dict[str, Any]]]) -> str:
  """Percentile and loss of every number, a line a method."""
  lines = []
  for method, by_number in found.items():
    each = "; ".join(
      f"{number}: {_percent(one['percentile'])}, {np.mean(one['own']):.4f}"
      f" ({_mean(one, 'hard, all steps'):.4f}, {_mean(one, 'single, equal parameters'):.4f})"
      for number, one in sorted(by_number.items())
    )
    lines.append(f"* {method}: {each}")
  head = "Number: percentile, loss (hard with all steps, single with equal parameters)"
  return "\n".join([f"{head}:", "", *lines])


def _percent(value: float | None) -> str:
  return "all blocks" if value is None else f"{value:.0f}"


if __name__ == "__main__":
  main()
