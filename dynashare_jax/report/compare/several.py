"""Finished runs of one problem side by side, to choose among them on validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import functools
import json
import pathlib
from typing import Any

from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.compare import comparison
from dynashare_jax.report.compare import front_figure
from dynashare_jax.report.compare import gains

PAGE = "calibration.md"
_SCORE = "validation score"
_NOT_SHOWN = ("baseline", "mixed", "data_dir", "method", "seed")
_TEXT = (
  "Every row is a run of its own. On a front no other row has at least the validation score at no"
  " more cost; test is only read. The score is what models are selected by: the mean over tasks of"
  " what they improve on a constant prediction. Milliseconds are those that `cost` measured."
)


def write(runs: Sequence[workdir_lib.Run], folder: str | pathlib.Path) -> pathlib.Path:
  """Writes `calibration.md`, `.csv` and `.png`: scores on validation against costs, and the fronts.

  Args:
    runs: with names of folders that differ.
    folder: where to write.

  Returns:
    The path of the page.

  Raises:
    ValueError: runs that cannot be compared, or two whose folders have one name.
  """
  named = {run.path.name: [run] for run in runs}
  if len(named) < len(runs):
    raise ValueError("Two of the folders have the same name; give runs whose folders differ by it.")
  gains.check(named, ("seed",))
  points = [
    point._replace(gain=tables.Cell(_score(named[point.label][0])))
    for point in comparison.points(named)
  ]
  table = _table(named, points)
  target = pathlib.Path(folder)
  (target / "calibration.csv").write_text(tables.csv_text(table), encoding="utf-8")
  drawn = functools.partial(front_figure.chart, points, _SCORE)
  picture = style.draw(drawn, target / "calibration.png")
  parts = ["# Runs to choose among", _TEXT, tables.markdown(table, bold_best=False)]
  parts += ["![Validation score against cost](calibration.png)"] * (picture is not None)
  path = target / PAGE
  path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
  return path


def _table(named: gains.Runs, points: Sequence[front_figure.Point]) -> tables.Table:
  """A row a run, from the cheapest on."""
  costs = front_figure.axes_of(points)
  best = {cost: front_figure.best(points, cost) for cost in costs}
  settings, deltas = _settings(named), gains.over_single(named)
  columns = [
    *(tables.Column(title, align="left") for title in ("run", "method", "settings")),
    *(tables.Column(name, unit=unit) for name, unit in map(_parts, costs)),
    tables.Column(_SCORE, True),
    *[tables.Column("Δ on test", True, "%")] * bool(deltas),
    tables.Column("on the front by", align="left"),
  ]
  rows = []
  for point in sorted(points, key=lambda p: [p.costs[cost] for cost in costs]):
    gain = deltas[point.label][gains.ALL] if deltas else []
    fronts = [_parts(cost)[0] for cost in costs if point.label in best[cost]]
    rows.append(
      [point.label, point.kind, settings[point.label]]
      + [point.costs[cost] for cost in costs]
      + [point.gain, *(tables.Cell(g, digits=2, signed=True) for g in gain), "; ".join(fronts)]
    )
  return tables.table(columns, rows)


def _parts(cost: str) -> tuple[str, str]:
  """Name and unit of a cost."""
  name, _, unit = cost.rpartition(" (")
  return name, unit.removesuffix(")")


def _score(run: workdir_lib.Run) -> float:
  """That of the chosen candidate on validation; NaN where there is none."""
  found = run.results.get("candidates") or ()
  return workdir_lib.number(next((c["score"] for c in found if c["index"] == run.chosen), None))


def _settings(named: gains.Runs) -> dict[str, str]:
  """What of the configurations differs between the runs."""
  flat = {label: dict(_flat(run.config)) for label, (run,) in named.items()}
  names = sorted({name for found in flat.values() for name in found})
  shown = [n for n in names if len({json.dumps(found.get(n)) for found in flat.values()}) > 1]
  return {
    label: ", ".join(f"{n}={found[n]}" for n in shown if n in found)
    for label, found in flat.items()
  }


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Names and values of a configuration, but for those that say where and in what place it ran."""
  for name, value in config.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{prefix}{name}.")
    elif prefix + name not in _NOT_SHOWN:
      yield prefix + name, value
