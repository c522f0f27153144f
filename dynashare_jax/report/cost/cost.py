"""Tables and a page of what a model costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
import math
import pathlib
from typing import Any

import numpy as np

from dynashare_jax.infer import cost as cost_lib
from dynashare_jax.infer import latency as latency_lib
from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.cost import cost_figure

Score = cost_figure.Score
quartiles = cost_figure.quartiles


def size_table(costs: Sequence[cost_lib.Cost]) -> tables.Table:
  """Returns parameters, multiply-accumulates and memory, one row per scope and execution."""
  batches, groups = list(costs[0].times), _groups(costs)
  columns = [
    *("for", "execution"),
    *("BN buffers" if group == "batch_stats" else group for group in groups),
    tables.Column("work", unit="million MAC"),
    tables.Column("of masked", unit="%"),
    tables.Column("XLA's count", unit="million MAC"),
    "XLA / analytic",
    *(tables.Column(f"activations, batch {b}", unit="MB") for b in batches),
  ]
  rows: list[list[tables.Entry]] = []
  for found in costs:
    masked = _masked(costs, found.scope)
    xla = _known(found.xla_macs)
    share = 100 * found.macs / masked.macs if masked else math.nan
    row: list[tables.Entry] = [found.scope, found.way]
    row += [*map(found.parameters.get, groups), found.macs / 1e6]
    row += [tables.Cell(share, digits=1), xla / 1e6, tables.Cell(xla / found.macs, digits=3)]
    rows.append([*row, *(found.times[b].activations / 1e6 for b in batches)])
  return tables.table(columns, rows, words=2)


def time_table(costs: Sequence[cost_lib.Cost]) -> tables.Table:
  """Returns latency at the first batch size, throughput at all, and speed against masked."""
  batches = list(costs[0].times)
  units = [(batches[0], "ms")]
  units += [(b, unit) for unit in ("examples / s", "× as fast as masked") for b in batches]
  columns = ("for", "execution", *(tables.Column(f"batch {b}", unit=unit) for b, unit in units))
  rows: list[list[tables.Entry]] = []
  for found in costs:
    masked = _masked(costs, found.scope)
    seconds = [found.times[b].seconds for b in batches]
    row: list[tables.Entry] = [found.scope, found.way]
    row.append(_spread([1000 * s for s in seconds[0]]))
    row += [_spread([b / s for s in spent]) for b, spent in zip(batches, seconds, strict=True)]
    for batch, spent in zip(batches, seconds, strict=True):
      if masked is None:
        row.append(None)
        continue
      pairs = zip(masked.times[batch].seconds, spent, strict=True)
      row.append(tables.Cell(quartiles([a / b for a, b in pairs])[1], digits=2))
    rows.append(row)
  return tables.table(columns, rows, words=2)


def block_table(blocks: Sequence[cost_lib.Block]) -> tables.Table:
  """Returns how often each block is computed for an example, and its multiply-accumulates."""
  titles = ("masked", "planned", "planned + gated")
  columns = (
    "block",
    tables.Column("work, once", unit="million MAC"),
    *(tables.Column(title, unit=unit) for unit in ("times", "million MAC") for title in titles),
  )
  rows: list[list[tables.Entry]] = []
  for index, block in enumerate(blocks):
    times = (float(block.masked), float(block.planned), _known(block.gated))
    shown = [tables.Cell(t, digits=d) for t, d in zip(times, (0, 0, 2), strict=True)]
    work = block.macs / 1e6
    rows.append([str(index), work, *shown, *(t * work for t in times)])
  return tables.table(columns, rows)


def part_table(found: latency_lib.Checked) -> tables.Table:
  """Returns what the parts of a network take, and how often a route computes each."""
  parts, calls = found.latency, len(found.plan.tasks)
  columns = (
    "part",
    tables.Column("first", unit="ms"),
    tables.Column("further", unit="ms"),
    tables.Column("group", unit="ms"),
    tables.Column("one example", unit="million MAC"),
    *(tables.Column(f"times, {serve}") for serve in latency_lib.SERVES),
  )
  rows: list[tuple[tables.Entry, ...]] = [("call, stem", parts.fixed, None, None, None, 1, calls)]
  apart = np.sum(found.plan.route, 0).tolist()
  work = [macs / 1e6 for macs in found.macs]
  times = (found.plan.computations, apart)
  each = zip(parts.blocks, parts.further, parts.groups, work, *times, strict=True)
  rows += [(f"block {l}", *row) for l, row in enumerate(each)]
  named = zip(found.plan.tasks, parts.heads, strict=True)
  rows += [(f"head of {task}", ms, None, None, None, 1, 1) for task, ms in named]
  return tables.table(columns, rows)


def served_table(found: latency_lib.Checked) -> tables.Table:
  """Returns predicted and measured milliseconds of a route."""
  columns = ("served", *(tables.Column(t, unit="ms") for t in ("predicted", "measured")))
  rows: list[tuple[tables.Entry, ...]] = []
  for serve, measured in found.measured.items():
    predicted = found.latency.predict(found.plan.route, serve)
    error = tables.Cell(100 * (predicted / measured - 1), digits=1, signed=True)
    rows.append((serve, predicted, measured, error))
  return tables.table((*columns, tables.Column("error", unit="%")), rows)


def latency_sections(found: latency_lib.Checked) -> tuple[str, str]:
  """Returns the sections of a route's milliseconds and of those of the parts."""
  route = ",".join("".join(map(str, row)) for row in found.plan.route)
  text = (
    f"The route {route} at batch {found.batch}, without gates. Predicted: the parts below, each as"
    " often as the route computes it. Together: one call for all tasks, shared work once. Apart:"
    " one call a task, one after another. Medians; the parts were timed in the same rounds."
  )
  below = (
    "Timed once on this device: they price any route, before it is trained. First: a block's first"
    " computation in a call; further: each one more in it, for another group of tasks; group: what"
    " each one more costs that comes to the block at all."
  )
  return (
    tables.section("Milliseconds of the route", text, served_table(found)),
    tables.section("Milliseconds of the parts", below, part_table(found)),
  )


def score_table(scores: Sequence[Score]) -> tables.Table:
  """Returns the main metrics, of the model and of single-task networks."""
  rows = [
    (s.task, tables.directed(s.metric, s.higher_is_better), s.value, s.separate) for s in scores
  ]
  return tables.table(("task", "metric", "this model", cost_lib.SEPARATE), rows, words=2)


def long_table(costs: Sequence[cost_lib.Cost], scores: Sequence[Score]) -> tables.Table:
  """Returns everything, one row per scope, execution and batch size: for the CSV file."""
  by_task = {score.task: score for score in scores}
  rows: list[dict[str, Any]] = []
  for found in costs:
    score = by_task.get(found.scope)
    groups = {group: found.parameters.get(group) for group in _groups(costs)}
    work = {"macs": found.macs, "xla_macs": _known(found.xla_macs)}
    metric = {
      "metric": score.metric if score else "",
      "metric_value": score.of(found.way) if score else math.nan,
    }
    for batch, measured in found.times.items():
      seconds = measured.seconds
      low, middle, high = quartiles(seconds)
      row: dict[str, Any] = {"scope": found.scope, "execution": found.way, "batch": batch}
      row |= groups | work | {"activation_bytes": measured.activations, "seconds_median": middle}
      row |= {"seconds_first_quartile": low, "seconds_third_quartile": high}
      row |= {"seconds_min": min(seconds), "seconds_max": max(seconds), "repeats": len(seconds)}
      rows.append(row | {"examples_per_second": batch / middle} | metric)
  return tables.table(rows[0], [list(row.values()) for row in rows])


def _groups(costs: Sequence[cost_lib.Cost]) -> list[str]:
  """The groups of parameters that any of the models has."""
  return list(dict.fromkeys(group for found in costs for group in found.parameters))


def _known(value: float | None) -> float:
  """A number, or NaN for None."""
  return math.nan if value is None else value


def _masked(costs: Sequence[cost_lib.Cost], scope: str) -> cost_lib.Cost | None:
  """The masked execution of a scope, which others are compared with."""
  return next((c for c in costs if (c.scope, c.way) == (scope, cost_lib.MASKED)), None)


def _spread(values: Sequence[float]) -> str:
  """`median (first quartile–third quartile)`."""
  low, middle, high = quartiles(values)
  digits = max(tables.decimals(middle) - 1, 0)
  shown = [tables.format_number(v, digits) for v in (middle, low, high)]
  return f"{shown[0]} ({shown[1]}–{shown[2]})"


def page(
  costs: Sequence[cost_lib.Cost],
  blocks: Sequence[cost_lib.Block],
  scores: Sequence[Score],
  facts: Sequence[str],
  checked: latency_lib.Checked | None = None,
) -> str:
  """Writes the Markdown page; there are no blocks where every task has its own network.

  Args:
    blocks: of the plan.
    checked: the route's milliseconds, where there is a route.
    scores: one per task.
    facts: lines about the run and the machine.
  """
  parts = ["# Cost", "\n".join(f"- {fact}" for fact in facts)]
  if scores:
    parts.append("![metric against time](figures/cost.png)")
  text = "Medians with (first–third quartile); calls take turns, round by round."
  parts.append(tables.section("Time", text, time_table(costs)))
  text = (
    "Parameters that the execution reads; running averages of batch norms apart. Work is analytic,"
    " of one example, all taps of a convolution counted, with gates the mean over the test"
    " examples. XLA leaves out taps in the padding, which makes its count smaller where dilation"
    " is large, and adds elementwise work. Activations are the temporary buffers of the compiled"
    " program."
  )
  parts.append(tables.section("Size and work", text, size_table(costs)))
  if blocks:
    text = "How often an example computes a block's branch for all tasks together."
    parts.append(tables.section("Blocks", text, block_table(blocks)))
  if checked is not None:
    parts += latency_sections(checked)
  if scores:
    parts.append(tables.section("Main metrics", "", score_table(scores)))
  return "\n\n".join(parts) + "\n"


def write(
  folder: pathlib.Path,
  costs: Sequence[cost_lib.Cost],
  blocks: Sequence[cost_lib.Block],
  scores: Sequence[Score],
  facts: Sequence[str],
  checked: latency_lib.Checked | None = None,
) -> str:
  """Writes `cost.md`, `cost.csv` and `figures/cost.png` of a `page`; returns its text."""
  text = page(costs, blocks, scores, facts, checked)
  (folder / "cost.md").write_text(text, encoding="utf-8")
  (folder / "cost.csv").write_text(tables.csv_text(long_table(costs, scores)), encoding="utf-8")
  drawing = functools.partial(cost_figure.figure, costs, scores)
  style.draw(drawing, folder / "figures" / "cost.png")
  return text


def scores_of(
  results: Mapping[str, Any], baseline: Mapping[str, Mapping[str, float]] | None
) -> tuple[Score, ...]:
  """Returns the first metric of every task.

  Args:
    baseline: task -> metric -> value of single-task networks, or None.
  """
  found = []
  for task in results["tasks"]:
    main, name = task["metrics"][0], task["name"]
    column = tables.metric_column(main)
    separate = None if baseline is None else baseline[name][main["name"]]
    numbers = map(workdir_lib.number, (main["test"], separate))
    title = tables.heading(column, arrow=False)
    found.append(Score(name, title, bool(column.higher_is_better), *numbers))
  return tuple(found)
