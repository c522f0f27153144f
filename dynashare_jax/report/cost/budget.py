"""What a budget buys: a table and a figure of metrics against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
import json
import pathlib
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from dynashare_jax.checkpoints import workdir as files
from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib

CURVE = pathlib.Path("budgets") / "curve.json"
PICTURE = pathlib.Path("figures") / "budget.png"
_ACROSS = 3  # panels in a row
_UNITS = {"rate": "%", "flops": "%", "ms": "ms"}
_WORDS = {
  "rate": "the executed share of all (task, block, example) triples",
  "flops": "a share of the multiply-accumulates with all gates open",
  "ms": "milliseconds of a batch with gated execution",
}


def write(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes `budget.md`, `budget.csv` and `figures/budget.png`; returns the path of the first.

  Args:
    workdir: of a run with `budgets/curve.json`: `unit`, `batch`, `reach` (lowest and highest
      budget), `left_out` (budgets out of reach), `tasks` (name and metrics, as in `results.json`),
      `settings` (see `infer.settings.Setting.to_dict`) and `default` (one, as trained).

  Raises:
    ValueError: there is no such file, or it is damaged.
  """
  folder = pathlib.Path(workdir)
  curve = load(folder)
  found = table(curve)
  style.draw(functools.partial(figure, curve), folder / PICTURE)
  files.write_text(folder / "budget.csv", tables.csv_text(found))
  path = folder / "budget.md"
  files.write_text(path, _markdown(curve, found))
  return path


def load(workdir: str | pathlib.Path) -> dict[str, Any]:
  """Reads `budgets/curve.json` of a work directory.

  Raises:
    ValueError: there is no such file, or it is damaged.
  """
  file = pathlib.Path(workdir) / CURVE
  try:
    curve: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for setting in (*curve["settings"], curve["default"]):
      for task in curve["tasks"]:
        for metric in task["metrics"]:
          setting["test"]["metrics"][task["name"]][metric["name"]]
    if curve["unit"] not in _UNITS:
      raise KeyError(curve["unit"])
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{file} holds no budget curve ({type(error).__name__}: {error}). Write"
      " it with python -m dynashare_jax calibrate --curve."
    ) from error
  return curve


def table(curve: Mapping[str, Any]) -> tables.Table:
  """Returns one row per budget of a loaded curve, and one for the model as trained.

  Columns: budget, what was met on validation and on test (of times only what was predicted and
  measured), execution rate and share of the multiply-accumulates on test with its standard error,
  every metric on test, validation score.
  """
  unit = curve["unit"]
  both = ("predicted", "measured") if unit == "ms" else ("validation", "test")
  columns = [
    tables.Column("budget", None, _UNITS[unit]),
    *(tables.Column(title, None, _UNITS[unit], "met") for title in both),
    *(
      tables.Column(title, None, "%", "test")
      for title in ("executed", "multiply-accumulates", "standard error")
    ),
    *(
      tables.metric_column(metric, f"{task['name']} {metric['name']}", "test")
      for task in curve["tasks"]
      for metric in task["metrics"]
    ),
    tables.Column("score", True, group="validation"),
  ]
  return tables.table(columns, [_row(curve, s) for s in (*curve["settings"], curve["default"])])


def _row(curve: Mapping[str, Any], setting: Mapping[str, Any]) -> list[tables.Entry]:
  """One setting's entries."""
  unit, test = curve["unit"], setting["test"]
  budget = setting["budget"]
  row: list[tables.Entry] = ["as trained" if budget is None else _cost(budget, unit)]
  if unit == "ms":
    row += [_cost(setting[key], unit) for key in ("predicted_ms", "ms")]
  else:
    row += [_cost(setting[s][unit], unit) for s in ("validation", "test")]
  row += [_cost(test[key], key) for key in ("rate", "flops")]
  row.append(tables.Cell(100 * workdir_lib.number(test["error"]), digits=2))
  for task in curve["tasks"]:
    for metric in task["metrics"]:
      row.append(workdir_lib.number(test["metrics"][task["name"]][metric["name"]]))
  row.append(tables.Cell(workdir_lib.number(setting["validation"]["score"])))
  return row


def _cost(value: Any, unit: str) -> tables.Cell:
  """Shares in percent, times in milliseconds."""
  number = workdir_lib.number(value)
  return tables.Cell(number, digits=3) if unit == "ms" else tables.Cell(100 * number, digits=1)


def _markdown(curve: Mapping[str, Any], found: tables.Table) -> str:
  """Heading, what the columns mean, table and figure."""
  unit = curve["unit"]
  low, high = (
    tables.format_entry(_cost(value, unit)) + f" {_UNITS[unit]}" for value in curve["reach"]
  )
  text = (
    f"# Metrics against a budget\n\nOne checkpoint, no re-training: gate"
    f" thresholds meet a budget ({_WORDS[unit]}) on validation; test is only"
    f" read. In reach: {low} with all gates closed to {high} with all open."
  )
  if unit == "ms":
    text += f" Timed at batch {curve['batch']} on {curve['device']}."
  if curve["left_out"]:
    left = ", ".join(tables.format_entry(_cost(b, unit)) for b in curve["left_out"])
    text += f" Out of reach and left out: {left} {_UNITS[unit]}."
  text += (
    " Metrics and the columns `executed`, `multiply-accumulates` and `standard"
    " error` (of the mean over test examples) are of the test split, `score` of"
    " validation. Validation and test differ by chance: expect a distance of"
    " one or two standard errors, and calibrate on more examples for less."
  )
  return (
    f"{text}\n\n{tables.markdown(found)}\n\n![Metrics against the budget]"
    f"({PICTURE.as_posix()})\n\nThe first metric of every task on test against"
    " the share of the multiply-accumulates that test examples needed. The"
    " diamond is the model as trained (thresholds 0).\n"
  )


def figure(curve: Mapping[str, Any]) -> Figure:
  """Draws one panel per task: its first metric against the share of work, on test."""
  across = style.balanced(len(curve["tasks"]), _ACROSS)
  margin = (max(0.3, 4.2 - 3.1 * across), 0.5)
  words = "multiply-accumulates on test, % of all gates open"
  fig, grid = style.panels(len(curve["tasks"]), across, (3.1, 2.7), margin, common=words)
  for place, (axes, task) in enumerate(zip(grid, curve["tasks"], strict=True)):
    _panel(axes, curve, task, place)
  return fig


def _panel(axes: Axes, curve: Mapping[str, Any], task: Mapping[str, Any], place: int) -> None:
  """One task: the curve, and the model as trained as a diamond."""
  metric = task["metrics"][0]
  points = sorted(_points(curve["settings"], task["name"], metric["name"]))
  colour = style.colour(place)
  axes.grid(axis="y")
  line = np.reshape(points, (-1, 2)).T
  axes.plot(*line, "-o", color=colour, markersize=4.2, clip_on=False, zorder=3)
  (mark,) = _points([curve["default"]], task["name"], metric["name"])
  edge = {"markeredgecolor": style.INK, "markeredgewidth": 1.3}
  axes.plot(*mark, "D", color="white", markersize=6, zorder=4, clip_on=False, **edge)
  axes.set_title(f"{task['name']}: {tables.heading(tables.metric_column(metric))}")
  axes.margins(x=0.04, y=0.14)
  _name_default(axes, points, mark, bool(metric["higher_is_better"]))


def _name_default(
  axes: Axes, points: Sequence[tuple[float, float]], mark: tuple[float, float], higher: bool
) -> None:
  """Words for the diamond on its worse side, where the curve is not."""
  # Metrics get worse to the left, so below a rising curve (above a falling one)
  # and to the right there is room.
  xs = [x for x, _ in (*points, mark)]
  late = mark[0] > (min(xs) + max(xs)) / 2
  arrow = {"arrowstyle": "-", "color": style.SOFT, "linewidth": 0.8, "shrinkB": 5}
  place = {"ha": "center" if late else "left", "va": "top" if higher else "bottom"}
  words = {"textcoords": "offset points", "fontsize": 8, "color": style.INK, "arrowprops": arrow}
  axes.annotate("as trained", mark, (0, -16 if higher else 16), **place, **words)


def _points(
  settings: Sequence[Mapping[str, Any]], task: str, metric: str
) -> list[tuple[float, float]]:
  """Percent of the work and a metric, on test."""
  number, tests = workdir_lib.number, [setting["test"] for setting in settings]
  return [(100 * number(t["flops"]), number(t["metrics"][task][metric])) for t in tests]
