"""Writes the tables of the planted problems, from a folder of runs or from the results kept here.

python -m benchmarks.planted.page             # of `results.json` beside this file
python -m benchmarks.planted.page --out=runs/planted --keep    # adds a folder's to them
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

KEPT = pathlib.Path(__file__).with_name("results.json")
_AS_LONG = ("hard, all steps", "single, equal parameters, all steps")
_CONTROLS = ("random", "planted", "hard", "single, equal parameters")
_DIGITS = 7  # of a kept loss, behind the point

# Problem -> method -> number -> result.
Results = dict[str, dict[str, dict[str, dict[str, Any]]]]


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--out", default="", help="folder that `run` filled")
  parser.add_argument("--keep", action="store_true", help="write its results to results.json, too")
  args = parser.parse_args()
  if args.keep and not args.out:
    parser.error("--keep keeps what is in a folder: give --out, too.")
  found = read(pathlib.Path(args.out)) if args.out else kept()
  if args.keep:
    both = kept()
    for problem, methods in found.items():
      for method, numbers in methods.items():
        both.setdefault(problem, {}).setdefault(method, {}).update(numbers)
    KEPT.write_text(json.dumps(_rounded(both), sort_keys=True) + "\n")
    found = kept()
  print(page(found))


def kept() -> Results:
  """Returns the results that the page in `docs/benchmarks` shows."""
  return dict(json.loads(KEPT.read_text())) if KEPT.is_file() else {}


def read(folder: pathlib.Path) -> Results:
  """Returns the results in a folder that `run` filled."""
  found: Results = {}
  for file in sorted(folder.glob("*/*/*.json")):
    if file.stem not in ("controls", "gates"):
      methods = found.setdefault(file.parts[-3], {})
      methods.setdefault(file.stem, {})[file.parts[-2]] = json.loads(file.read_text())
  return found


def page(results: Results) -> str:
  """Returns the tables of all problems."""
  return "\n\n".join(
    f"## {problem}\n\n{told.answer.capitalize()}.\n\n"
    f"{_table(results[problem], told.poor)}\n\n{_each(results[problem])}"
    for problem, told in planted.PROBLEMS.items()
    if problem in results
  )


def _rounded(value: Any) -> Any:
  """The same with shorter numbers."""
  if isinstance(value, dict):
    return {k: _rounded(v) for k, v in value.items()}
  if isinstance(value, list):
    return [_rounded(v) for v in value]
  return round(value, _DIGITS) if isinstance(value, float) else value


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


def _table(found: dict[str, dict[str, dict[str, Any]]], poor: Sequence[int]) -> str:
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


def _each(found: dict[str, dict[str, dict[str, Any]]]) -> str:
  """Percentile and loss of every number, a line a method."""
  lines = []
  for method, by_number in found.items():
    each = "; ".join(
      f"{number}: {_percent(one['percentile'])}, {np.mean(one['own']):.4f}"
      f" ({', '.join(f'{_mean(one, name):.4f}' for name in _AS_LONG)})"
      for number, one in sorted(by_number.items(), key=lambda item: int(item[0]))
    )
    lines.append(f"* {method}: {each}")
  head = "Number: percentile, loss (hard, single with equal parameters, as long)"
  return "\n".join([f"{head}:", "", *lines])


def _percent(value: float | None) -> str:
  return "all blocks" if value is None else f"{value:.0f}"


if __name__ == "__main__":
  main()
