"""Writes the page of the planted problems from the results in a folder.

python -m benchmarks.planted.page --out=runs/planted > docs/benchmarks/planted.md
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import pathlib
from typing import Any

import numpy as np

from dynashare_jax.data.planted import dataset as planted
from dynashare_jax.report import tables

_AS_LONG = ("hard, all steps", "single, equal parameters, all steps")
_CONTROLS = ("random", "planted", "hard", "single, equal parameters")


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
        f"## {problem}\n\n{told.answer.capitalize()}.\n\n"
        f"{_table(found, told.poor)}\n\n{_each(found)}"
      )
  return "\n\n".join(parts)


def _found(folder: pathlib.Path) -> dict[str, dict[int, dict[str, Any]]]:
  """Method -> number -> result."""
  found: dict[str, dict[int, dict[str, Any]]] = {}
  for file in sorted(folder.glob("*/*.json")):
    if file.stem not in ("controls", "gates"):
      found.setdefault(file.stem, {})[int(file.parent.name)] = json.loads(file.read_text())
  return found


def _mean(found: dict[str, Any], control: str, tasks: Sequence[int] | None = None) -> float:
  """Mean loss of a control over its trainings and the tasks; NaN without it."""
  if control not in found["controls"]:
    return float("nan")
  losses = np.asarray(found["controls"][control])
  return float(losses.mean() if tasks is None else losses[:, list(tasks)].mean())


def _against(results: Sequence[dict[str, Any]], control: str, tasks: Sequence[int]) -> tables.Cell:
  """Mean over the numbers of how much lower or higher the loss is than a control's, in percent."""
  ratios = [np.mean([one["own"][t] for t in tasks]) / _mean(one, control, tasks) for one in results]
  return tables.Cell(100 * (float(np.mean(ratios)) - 1), digits=0, signed=True)


def _table(found: dict[str, dict[int, dict[str, Any]]], poor: Sequence[int]) -> str:
  """A row a method with its controls of as many steps, and one a control of the routes."""
  cell = lambda values: tables.mean_std(list(values), 4)
  whole = lambda number: tables.Cell(float(number), digits=0)
  rows: list[tuple[Any, ...]] = []
  for method, by_number in found.items():
    results = list(by_number.values())
    every = range(len(results[0]["own"]))
    percentiles = [one["percentile"] for one in results if one["percentile"] is not None]
    nothing = float("nan")
    rows.append(
      (
        method,
        str(len(results)),
        str(results[0]["steps"]),
        cell([np.mean(one["own"]) for one in results]),
        whole(np.mean(percentiles) if percentiles else nothing),
        whole(np.min(percentiles) if percentiles else nothing),
        *(cell([_mean(one, name) for one in results]) for name in _AS_LONG),
        *(_against(results, name, every) for name in _AS_LONG),
        *(_against(results, name, poor) for name in _AS_LONG if poor),
        whole(100 * np.mean([one["executed"] for one in results])),
        whole(100 * np.mean([one["work"]["together"] for one in results])),
      )
    )
  titles = (
    *("method", "numbers", "steps", "loss", "percentile, mean", "least"),
    *("hard, as long", "single, as long", "to hard, %", "to single, %"),
    *(("poor tasks to hard, %", "to single, %") if poor else ()),
    *("executed, %", "work together, %"),
  )
  results = list(found[max(found, key=lambda name: len(found[name]))].values())
  controls = [(name, cell([_mean(one, name) for one in results])) for name in _CONTROLS]
  return "\n\n".join(
    tables.markdown(tables.table(*both), bold_best=False)
    for both in ((titles, rows), (("trained for 1,500 steps", "loss"), controls))
  )


def _each(found: dict[str, dict[int, dict[str, Any]]]) -> str:
  """Percentile and loss of every number, a line a method."""
  lines = []
  for method, by_number in found.items():
    each = "; ".join(
      f"{number}: {_percent(one['percentile'])}, {np.mean(one['own']):.4f}"
      f" ({', '.join(f'{_mean(one, name):.4f}' for name in _AS_LONG)})"
      for number, one in sorted(by_number.items())
    )
    lines.append(f"* {method}: {each}")
  head = "Number: percentile, loss (hard, single with equal parameters, as long)"
  return "\n".join([f"{head}:", "", *lines])


def _percent(value: float | None) -> str:
  return "all blocks" if value is None else f"{value:.0f}"


if __name__ == "__main__":
  main()
