"""Methods side by side: means over seeds, gains over single-task, costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
import pathlib
import statistics
from typing import Any

from matplotlib.figure import Figure

from dynashare_jax.objectives import delta
from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.compare import class_comparison
from dynashare_jax.report.compare import comparison_figure
from dynashare_jax.report.compare import example_figures
from dynashare_jax.report.compare import front_figure
from dynashare_jax.report.compare import gains
from dynashare_jax.report.compare import raw
from dynashare_jax.report.run import served

DELTA = "Delta"
SEEDS = "seeds"
COST = "cost"
_GAIN = "Δ over single-task networks (%)"
_HARD = "beats hard sharing"
_BEATEN = "beats random routes"  # of the only such row; else the row is named
_WORK = "work, "  # in titles, before the way to serve
# Figures of a task, `<name>-<task>.png`: how each is drawn, and its caption.
_FIGURES: dict[str, tuple[Callable[[gains.Runs, str], Figure | None], str]] = {
  "classes": (
    class_comparison.chart,
    "Intersection over union of every class, the most frequent class first.",
  ),
  "examples": (
    example_figures.examples,
    "Predictions for the same test examples; of every method the run with the"
    " lowest seed. Light grey has no label.",
  ),
}


def compare(runs: gains.Runs, told: raw.Told = raw.NOTHING) -> tables.Table:
  """Puts methods, each with one finished run per seed, into the rows of one table.

  Returns:
    Columns: method; every metric of every task on test; Delta of every task and of all (only if one
    label's runs are of the method `single`, or runs stored their baselines); from `gains.SEEDS`
    seeds on the interquartile mean of Delta with its 95% interval, and the probability of
    improvement over hard sharing; trials, there and where some are told; the share of random routes
    that a method beats, where a seed has several; mean rank; trainable
    parameters (of `single`, all its columns), and those without heads and with batch statistics as
    a multiple of one single-task backbone (the papers' count, if there is `single`); executed
    percentage of (task, block, example) triples; multiply-accumulates of all tasks of an example;
    median seconds of a re-training step; steps, minutes and memory of the whole run; where they are
    known, work and milliseconds of both ways to serve. Columns without any number are left out, but
    for the trials. Numbers are means with the sample standard deviation over seeds. A column's
    `group` is its task, `Delta`, `seeds` or `cost`.

  Raises:
    ValueError: no run, an unfinished run, a seed twice under one label, runs that differ in data
      set, split, tasks or metrics, or trials of no label; see also `gains.told`.

  Source: DynaShare (CVPRW 2023), Eqs. 7 and 8 for Delta.
  """
  gains.check(runs, told.mixed)
  if lost := [label for label in told.trials if label not in runs]:
    raise ValueError(f"Trials are told of {lost[0]!r}, but the table has {', '.join(runs)}.")
  columns = [tables.Column("method", align="left")]
  bodies: list[list[tables.Entry]] = [[label] for label in runs]
  blocks = (_metric_columns(runs), _delta_columns(runs), _seed_columns(runs, told.trials))
  for columns_of, cells_of in (*blocks, _cost_columns(runs)):
    columns += columns_of
    for body, cells in zip(bodies, cells_of, strict=True):
      body += cells
  return tables.Table(tuple(columns), tuple(map(tuple, bodies)))


def write(
  runs: gains.Runs, folder: str | pathlib.Path, told: raw.Told = raw.NOTHING
) -> pathlib.Path:
  """Writes `table.md`, `.csv`, `.tex`, `.json` and figures; returns the path of `table.md`.

  The figures are `delta.png`, `front.png` (Delta against the costs that two methods have),
  `classes-<task>.png` of segmentations whose runs list classes, and `examples-<task>.png` of tasks
  whose runs drew the same examples. `table.json` has the raw results
  (see `raw.text`).

  Args:
    runs: label -> its finished runs, one per seed.
    folder: created if absent.

  Raises:
    ValueError: as `compare`.
  """
  table = compare(runs, told)
  target = pathlib.Path(folder)
  target.mkdir(parents=True, exist_ok=True)
  (target / "table.csv").write_text(tables.csv_text(table), encoding="utf-8")
  (target / "table.tex").write_text(_latex(table, runs), encoding="utf-8")
  (target / raw.FILE).write_text(raw.text(runs, told), encoding="utf-8")
  shown = functools.partial(comparison_figure.chart, _over_single(runs))
  bars = style.draw(shown, target / "delta.png") is not None
  found = points(runs)
  style.draw(functools.partial(front_figure.chart, found, _GAIN), target / "front.png")
  path = target / "table.md"
  text = markdown(runs, told, figures(runs, target), found if bars else None)
  path.write_text(text, encoding="utf-8")
  return path


def figures(runs: gains.Runs, folder: pathlib.Path) -> dict[str, dict[str, pathlib.Path]]:
  """Draws what tasks can show; removes figures of an earlier call that have no data any more.

  Returns:
    `classes` and `examples` -> task -> path of its figure.
  """
  found: dict[str, dict[str, pathlib.Path]] = {}
  for name, (draw, _) in _FIGURES.items():
    found[name] = {}
    for task in gains.first(runs).tasks:
      file = folder / f"{name}-{task}.png"
      if style.draw(functools.partial(draw, runs, task), file):
        found[name][task] = file
  return found


def _over_single(runs: gains.Runs) -> dict[str, dict[str, list[float]]]:
  """Gains of all but the single-task runs themselves."""
  reference = gains.baseline(runs)
  return {label: one for label, one in gains.over_single(runs).items() if label != reference}


_Block = tuple[list[tables.Column], list[list[tables.Entry]]]


def _metric_columns(runs: gains.Runs) -> _Block:
  """Every metric of every task; a column has the same decimals throughout."""
  columns: list[tables.Column] = []
  bodies: list[list[tables.Entry]] = [[] for _ in runs]
  values = {k: list(map(gains.values, several)) for k, several in runs.items()}
  for task, metrics in gains.metrics(gains.first(runs)).items():
    for metric in metrics:
      columns.append(tables.Column(metric.name, metric.higher_is_better, metric.unit, group=task))
      cells = [tables.mean_std([v[task][metric.name] for v in values[label]]) for label in runs]
      finite = [abs(c.value) for c in cells if math.isfinite(c.value)]
      digits = tables.decimals(max(finite, default=0.0))
      for body, cell in zip(bodies, cells, strict=True):
        body.append(dataclasses.replace(cell, digits=digits))
  return columns, bodies


def _delta_columns(runs: gains.Runs) -> _Block:
  """Gains by task and of all; nothing without single-task runs."""
  found = gains.over_single(runs)
  bodies: list[list[tables.Entry]] = [[] for _ in runs]
  if not found:
    return [], bodies
  reference = gains.baseline(runs)
  names = [*gains.metrics(gains.first(runs)), gains.ALL]
  columns = [tables.Column(name, True, "%", group=DELTA) for name in names]
  for body, label in zip(bodies, runs, strict=True):
    for name in names:
      cell = tables.mean_std(found[label][name], digits=2, signed=True)
      # Against itself: exactly 0, without a spread.
      body.append(tables.Cell(0.0, digits=2) if label == reference else cell)
  return columns, bodies


def _seed_columns(runs: gains.Runs, trials: Mapping[str, int]) -> _Block:
  """What several seeds and random routes say of Delta, and the trials; nothing where none is."""
  bodies: list[list[tables.Entry]] = [[] for _ in runs]
  found, beaten = gains.reliable(runs), gains.over_random(runs)
  columns = [tables.Column("trials", group=SEEDS)] if found or trials else []
  if found:
    titles = ("IQM of Δ", "%"), (_HARD, "")
    columns = [tables.Column(t, True, unit, group=SEEDS) for t, unit in titles] + columns
  for name in beaten:
    title = f"beats {name}" if len(beaten) > 1 else _BEATEN
    columns.append(tables.Column(title, True, "%", group=SEEDS))
  for body, label in zip(bodies, runs, strict=True):
    if found:
      one = found.get(label, gains.Reliable(math.nan, (math.nan, math.nan), math.nan))
      # Against itself: exactly 0.
      ends = None if label == gains.baseline(runs) else one.interval
      mean = tables.Cell(one.mean, digits=2, signed=True, interval=ends)
      body += [mean, tables.Cell(one.improvement, digits=2)]
    if found or trials:
      body.append(trials.get(label))
    body += [tables.Cell(shares[label], digits=0) for shares in beaten.values()]
  return columns, bodies


def _cost_columns(runs: gains.Runs) -> _Block:
  """Mean rank of the means, parameters, executed share, time of a step."""
  columns = [
    tables.Column("mean rank", False, group=COST),
    tables.Column("parameters", group=COST),
    tables.Column("executed", unit="%", group=COST),
    tables.Column("step", unit="s", group=COST),
  ]
  metrics = gains.metrics(gains.first(runs))
  ranks = delta.mean_rank(metrics, _means(runs))
  bodies: list[list[tables.Entry]] = []
  for label, several in runs.items():
    results = [run.results for run in several]
    executed = [100 * _number(r, "execution", "mean") for r in results]
    steps = [_number(r, "timing", "step_seconds", "retrain") for r in results]
    bodies.append(
      [
        tables.Cell(ranks[label], digits=2),
        _steady(tables.mean_std([_parameters(r, "batch_stats") for r in results], digits=0)),
        _steady(tables.mean_std(executed, digits=1)),
        tables.mean_std(steps, digits=3),
      ]
    )
  for title, unit, of, digits in (
    ("parameters", "backbones", _backbones(runs), 2),
    ("multiply-accumulates", "M", _macs, 2),
    ("steps", "", lambda r: _number(r, "timing", "steps"), 0),
    ("training", "min", lambda r: _number(r, "timing", "seconds") / 60, 1),
    ("memory", "GB", lambda r: _number(r, "timing", "peak_memory_gb"), 1),
  ):
    found = [[of(run.results) for run in several] for several in runs.values()]
    if any(math.isfinite(value) for row in found for value in row):
      columns.append(tables.Column(title, unit=unit, group=COST))
      for body, row in zip(bodies, found, strict=True):
        body.append(_steady(tables.mean_std(row, digits=digits)))
  more, cells = _served_columns(runs)
  return columns + more, [body + own for body, own in zip(bodies, cells, strict=True)]


def _backbones(runs: gains.Runs) -> Callable[[workdir_lib.Json], float]:
  """Counts parameters as the papers do: without heads, with buffers, over one backbone's."""
  counted = functools.partial(_parameters, without="heads")
  reference = gains.baseline(runs)
  if reference is None:
    return lambda results: math.nan
  one = runs[reference][0]
  unit = counted(one.results) / len(one.tasks)
  return lambda results: counted(results) / unit


def _macs(results: workdir_lib.Json) -> float:
  """Millions of multiply-accumulates of all tasks of one example; of a plan what it executes."""
  macs = results.get("macs") or {}
  blocks, share = workdir_lib.matrix(macs.get("per_example_all_blocks")), math.nan
  if blocks is not None:
    share = _number(results, "served", "together", "work")
  if blocks is None or math.isnan(share):
    return _number(macs, "total") / 1e6
  heads = sum(workdir_lib.number(n) for n in (macs.get("heads") or {}).values())
  return float(_number(macs, "stem") + share * blocks[0].sum() + heads) / 1e6


def points(runs: gains.Runs) -> list[front_figure.Point]:
  """Returns Delta and costs of every method: multiply-accumulates, and what `cost` measured."""
  found, batch = gains.over_single(runs), _batch(runs)
  mean = lambda values: tables.mean_std(values).value
  made = []
  for label, several in runs.items():
    costs = {"multiply-accumulates of an example (M)": mean([_macs(r.results) for r in several])}
    for serve in served.SERVES:
      ms = mean([_ms(run, serve, batch) for run in several])
      costs[f"all tasks {serve}, batch {batch} (ms)"] = ms
    gain = tables.mean_std(found[label][gains.ALL] if found else ())
    made.append(front_figure.Point(label, several[0].results["method"], costs, gain))
  return made


def _front(found: Sequence[front_figure.Point]) -> str:
  """The figure of Delta against costs, and which methods are best for a cost."""
  told = "; ".join(
    f"{cost.rpartition(' (')[0]}: {', '.join(front_figure.best(found, cost))}"
    for cost in front_figure.axes_of(found)
  )
  return told and (
    "![Delta against what a method costs](front.png)\n\nThe grey steps and filled marks are the"
    " front: no other row has at least the Δ at no more cost. Rows of one method have a line"
    f" between them; bars are standard deviations over seeds. On the front, by {told}."
  )


def _ms(run: workdir_lib.Run, serve: str, batch: int | None) -> float:
  """Milliseconds that `cost` measured of a run at a batch size; NaN where it did not."""
  found = served.measured(run)
  return math.nan if found is None or found.batch != batch else found.ms[serve]


def _served_columns(runs: gains.Runs) -> _Block:
  """Work, and what `cost` measured, for both ways to serve; nothing where it is not known."""
  ms = functools.partial(_ms, batch=_batch(runs))
  columns: list[tables.Column] = []
  bodies: list[list[tables.Entry]] = [[] for _ in runs]
  for title, unit, of, digits in ((_WORK, "%", served.work, 1), ("", "ms", ms, None)):
    found = {
      serve: [[of(run, serve) for run in several] for several in runs.values()]
      for serve in served.SERVES
    }
    if not any(math.isfinite(v) for rows in found.values() for row in rows for v in row):
      continue
    for serve, rows in found.items():
      columns.append(tables.Column(title + serve, unit=unit, group=COST))
      for body, row in zip(bodies, rows, strict=True):
        body.append(_steady(tables.mean_std(row, digits=digits)))
  return columns, bodies


def _batch(runs: gains.Runs) -> int | None:
  """The batch size of the first run that `cost` measured."""
  found = (served.measured(run) for several in runs.values() for run in several)
  return next((one.batch for one in found if one is not None), None)


def _number(found: Any, *names: str) -> float:
  """A number deep within results; NaN where it or what should hold it is absent."""
  for name in names:
    found = (found or {}).get(name)
  return workdir_lib.number(found)


def _steady(cell: tables.Cell) -> tables.Cell:
  """Drops a spread of 0: a method's seeds share the size of the network."""
  return dataclasses.replace(cell, std=cell.std or None)


def _means(runs: gains.Runs) -> dict[str, dict[str, dict[str, float]]]:
  """Label -> task -> metric -> mean over seeds."""
  found: dict[str, dict[str, dict[str, float]]] = {}
  for label, several in runs.items():
    values = [gains.values(run) for run in several]
    found[label] = {
      task: {name: tables.mean_std([v[task][name] for v in values]).value for name in one}
      for task, one in values[0].items()
    }
  return found


def _parameters(results: workdir_lib.Json, without: str) -> float:
  """Numbers in all groups but one; NaN where the results have no counts."""
  counts = results.get("parameters") or {}
  if not counts:
    return math.nan
  return float(sum(count or 0 for group, count in counts.items() if group != without))


def _part(table: tables.Table, groups: Sequence[str]) -> tables.Table:
  """The methods with the columns of some groups only."""
  places = [i for i, c in enumerate(table.columns) if i == 0 or c.group in groups]
  columns = [
    dataclasses.replace(c, title="Δ " * (c.group == DELTA) + c.title, group="")
    for c in (table.columns[i] for i in places)
  ]
  return tables.table(columns, ([row[i] for i in places] for row in table.rows))


def _seeds(runs: gains.Runs) -> str:
  """`3 seeds (0, 1, 2)`, or those of most methods, and of the others each one's own."""
  found = {k: tuple(sorted(set(map(gains.seed, several)))) for k, several in runs.items()}
  most = statistics.mode(found.values())
  told = lambda seeds: ", ".join(map(str, seeds))
  text = f"{len(most)} seed{'s' * (len(most) > 1)} ({told(most)})"
  others = [f"{label} over {told(seeds)}" for label, seeds in found.items() if seeds != most]
  return "; ".join([text, *others])


def markdown(
  runs: gains.Runs,
  told: raw.Told = raw.NOTHING,
  drawn: Mapping[str, Mapping[str, pathlib.Path]] | None = None,
  front: Sequence[front_figure.Point] | None = None,
) -> str:
  """Returns a page: an overview first, then one table per task.

  Args:
    drawn: of `figures`.
    front: `points(runs)`, if there are a `delta.png` and a `front.png`.

  Raises:
    ValueError: as `compare`.
  """
  table, first = compare(runs, told), gains.first(runs).results
  several = any(len(found) > 1 for found in runs.values())
  spread = "mean ± sample standard deviation over " if several else ""
  parts = [
    f"# {first['dataset']}: methods compared",
    f"On {first['split']}; {spread}{_seeds(runs)}. Bold is best.",
    f"```\n{told.command}\n```" if told.command else "",
    tables.markdown(_part(table, (DELTA, SEEDS, COST))),
    _legend(table, runs),
    " ".join(gains.told(runs, told.mixed)),
    _rank_test(runs),
    "![Delta of every method](delta.png)" if front is not None else "",
    _front(front or ()),
  ]
  for task in gains.metrics(gains.first(runs)):
    parts.append(tables.section(task, "", _part(table, (task,))))
    parts += [
      f"![{name.capitalize()} of {task}]({drawn[name][task].name})\n\n{text}"
      for name, (_, text) in _FIGURES.items()
      if drawn and task in drawn[name]
    ]
  lines = [f"* {note}" for note in [*told.notes, *_own_notes(runs)]]
  if lines:
    parts.append("## Notes\n\n" + "\n".join(lines))
  return "\n\n".join(part for part in parts if part) + "\n"


def _rank_test(runs: gains.Runs) -> str:
  """Which methods rank apart, over seeds and tasks."""
  found = gains.ranked(runs)
  if found is None:
    return ""
  order = sorted(found.ranks, key=lambda label: found.ranks[label])
  ranks = ", ".join(f"{label} {found.ranks[label]:.2f}" for label in order)
  near = [
    label for label in order[1:] if found.ranks[label] - found.ranks[order[0]] < found.difference
  ]
  among = f" Not told apart from {order[0]}: {', '.join(near)}." if near else ""
  alike = "" if math.isnan(found.p) else f" All alike: p = {found.p:.2g} (Friedman)."
  return (
    f"Mean ranks over {found.cases} cases, a seed and a task each: {ranks}. From a difference of"
    f" {found.difference:.2f} on two of them differ at the 5% level (Nemenyi).{among}{alike} Both"
    " suppose that tasks of one seed are independent, which they are not."
  )


def _legend(table: tables.Table, runs: gains.Runs) -> str:
  """The meaning of the overview's columns."""
  text = (
    "Mean rank: over all metrics of all tasks, 1 is best. Parameters: trainable ones; in"
    " backbones: without heads and with batch statistics, over those of one single-task backbone,"
    " as the papers count. Executed: share of (task, block, example) triples on test."
    " Multiply-accumulates: of all tasks of one example, without gates. Step: median of"
    " re-training. Steps: of all phases of a run, a search among them."
  )
  columns, _ = _served_columns(runs)
  if any(column.title.startswith(_WORK) for column in columns):
    text += (
      " Work: of the blocks of the routes, without gates, against hard sharing served the same way:"
      " together, all tasks at once, or apart, one after another."
    )
  if (batch := _batch(runs)) is not None:
    text += f" Together, apart (ms): a call of each, by `cost`, batch {batch}."
  titles = {column.title for column in table.columns if column.group == SEEDS}
  if "IQM of Δ" in titles:
    text += (
      " IQM of Δ: interquartile mean over seeds and tasks, with its 95% interval (10,000 draws of a"
      " stratified bootstrap). Beats hard sharing: probability that a run has the higher Δ of a"
      " task, averaged over tasks."
    )
  if "trials" in titles:
    text += " Trials: validation-only ones that a method's settings took, where that was told."
  if any(title.startswith("beats ") for title in titles - {_HARD}):
    text += (
      " Beats random routes: share of the random routes of the same seed that have a lower Δ of all"
      " tasks, averaged over seeds; 50 is chance."
    )
  if not any(column.group == DELTA for column in table.columns):
    return text + " There are no single-task runs here, hence no Δ."
  return (
    "Δ: mean relative change of a task's metrics against the single-task run"
    " of the same seed, positive is better (DynaShare Eqs. 7 and 8). " + text
  )


def _own_notes(runs: gains.Runs) -> list[str]:
  """Warnings about rows: selected on test, or without some numbers."""
  found = []
  for label, several in runs.items():
    if any((r.results.get("compat") or {}).get("selection") == "test" for r in several):
      found.append(
        f"**{label} was selected on the test split: its numbers are optimistic"
        " and not comparable with others.**"
      )
    values = list(map(gains.values, several))
    for task, names in values[0].items():
      for name in names:
        if lost := _lost([v[task][name] for v in values]):
          found.append(f"{label}: {task} {name} has no value in {lost}; the others are averaged.")
  for label, tasks in _over_single(runs).items():
    for task, changes in tasks.items():
      if lost := _lost(changes):
        found.append(
          f"{label}: Δ {task} is not defined in {lost} (no single-task run of the seed,"
          " or a metric without a value or with the single-task value 0)."
        )
  return found


def _lost(values: Sequence[float]) -> str:
  """`1 of 3 runs` for values of which some are NaN, else nothing."""
  lost = sum(map(math.isnan, values))
  return f"{lost} of {len(values)} runs" if lost else ""


def _latex(table: tables.Table, runs: gains.Runs) -> str:
  """A float for the overview and one per task, each narrow enough for a page."""
  name = gains.first(runs).results["dataset"]
  parts: list[tuple[str, tuple[str, ...], str]] = [
    ("overview", (DELTA, SEEDS, COST), f"tab:{name}")
  ]
  parts += [(task, (task,), f"tab:{name}-{task}") for task in gains.metrics(gains.first(runs))]
  return "\n".join(
    tables.latex(_part(table, groups), f"{name}: {title}, {_seeds(runs)}.", label)
    for title, groups, label in parts
  )
