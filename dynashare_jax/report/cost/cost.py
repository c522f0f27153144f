"""Tables and a page of what a model costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import pathlib

from dynashare_jax.infer import cost as cost_lib
from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report.cost import cost_figure

Score = cost_figure.Score
quartiles = cost_figure.quartiles


def size_table(costs: Sequence[cost_lib.Cost]) -> tables.Table:
  """Parameters, multiply-accumulates and memory: a row a scope and a way."""
  batches = list(costs[0].times)
  titles = ["BN buffers" if group == "batch_stats" else group for group in costs[0].parameters]
  columns = [
    *_first_columns(),
    *(tables.Column(t) for t in titles),
    tables.Column("work", unit="million MAC"),
    tables.Column("of masked", unit="%"),
    tables.Column("XLA's count", unit="million MAC"),
    tables.Column("XLA / analytic"),
    *(tables.Column(f"activations, batch {b}", unit="MB") for b in batches),
  ]
  rows: list[tuple[tables.Entry, ...]] = []
  for found in costs:
    masked = _masked(costs, found.scope)
    xla = math.nan if found.xla_macs is None else found.xla_macs
    rows.append(
      (
        found.scope,
        found.way,
        *found.parameters.values(),
        tables.Cell(found.macs / 1e6),
        tables.Cell(100 * found.macs / masked.macs if masked else math.nan, digits=1),
        tables.Cell(xla / 1e6),
        tables.Cell(xla / found.macs, digits=3),
        *(tables.Cell(found.times[b].activations / 1e6) for b in batches),
      )
    )
  return tables.Table(tuple(columns), tuple(rows))


def time_table(costs: Sequence[cost_lib.Cost]) -> tables.Table:
  """Latency at the first batch size, throughput at all, against masked."""
  batches = list(costs[0].times)
  columns = [*_first_columns(), tables.Column(f"batch {batches[0]}", unit="ms")]
  columns += [tables.Column(f"batch {b}", unit="examples / s") for b in batches]
  columns += [tables.Column(f"batch {b}", unit="× as fast as masked") for b in batches]
  rows: list[tuple[tables.Entry, ...]] = []
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
    rows.append(tuple(row))
  return tables.Table(tuple(columns), tuple(rows))


def block_table(blocks: Sequence[cost_lib.Block]) -> tables.Table:
  """How often each block is computed for an example, and what it costs."""
  titles = ("masked", "planned", "planned + gated")
  columns = (
    tables.Column("block", align="left"),
    tables.Column("work, once", unit="million MAC"),
    *(tables.Column(title, unit="times") for title in titles),
    *(tables.Column(title, unit="million MAC") for title in titles),
  )
  rows: list[tuple[tables.Entry, ...]] = []
  for index, block in enumerate(blocks):
    gated = math.nan if block.gated is None else block.gated
    times = (float(block.masked), float(block.planned), gated)
    digits = (0, 0, 2)
    rows.append(
      (
        str(index),
        tables.Cell(block.macs / 1e6),
        *(tables.Cell(t, digits=d) for t, d in zip(times, digits, strict=True)),
        *(tables.Cell(t * block.macs / 1e6) for t in times),
      )
    )
  return tables.Table(columns, tuple(rows))


def score_table(scores: Sequence[Score]) -> tables.Table:
  """The main metrics, of the model and of single-task networks."""
  columns = (
    tables.Column("task", align="left"),
    tables.Column("metric", align="left"),
    tables.Column("this model"),
    tables.Column(cost_lib.SEPARATE),
  )
  rows = [
    (
      s.task,
      f"{s.metric} {tables.UP if s.higher_is_better else tables.DOWN}",
      tables.Cell(s.value),
      tables.Cell(s.separate),
    )
    for s in scores
  ]
  return tables.Table(columns, tuple(rows))


def long_table(costs: Sequence[cost_lib.Cost], scores: Sequence[Score]) -> tables.Table:
  """Everything, a row a scope, way and batch size: for the CSV file."""
  titles = (
    "scope",
    "execution",
    "batch",
    *costs[0].parameters,
    "macs",
    "xla_macs",
    "activation_bytes",
    "seconds_median",
    "seconds_first_quartile",
    "seconds_third_quartile",
    "seconds_min",
    "seconds_max",
    "repeats",
    "examples_per_second",
    "metric",
    "metric_value",
  )
  by_task = {score.task: score for score in scores}
  rows: list[tuple[tables.Entry, ...]] = []
  for found in costs:
    score = by_task.get(found.scope)
    for batch, measured in found.times.items():
      low, middle, high = quartiles(measured.seconds)
      xla = math.nan if found.xla_macs is None else found.xla_macs
      rows.append(
        (
          found.scope,
          found.way,
          batch,
          *found.parameters.values(),
          found.macs,
          xla,
          measured.activations,
          middle,
          low,
          high,
          min(measured.seconds),
          max(measured.seconds),
          len(measured.seconds),
          batch / middle,
          score.metric if score else "",
          score.of(found.way) if score else math.nan,
        )
      )
  return tables.Table(tuple(map(tables.Column, titles)), tuple(rows))


def _first_columns() -> tuple[tables.Column, tables.Column]:
  return (tables.Column("for", align="left"), tables.Column("execution", align="left"))


def _masked(costs: Sequence[cost_lib.Cost], scope: str) -> cost_lib.Cost | None:
  """The masked execution of a scope, which others are compared with."""
  for found in costs:
    if (found.scope, found.way) == (scope, cost_lib.MASKED):
      return found
  return None


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
) -> str:
  """The Markdown page.

  Args:
    costs: measured.
    blocks: of the plan; none for a network a task.
    scores: a task each.
    facts: lines about the run and the machine.
  """
  parts = ["# Cost", "", *(f"- {fact}" for fact in facts), ""]
  if scores:
    parts += ["![metric against time](figures/cost.png)", ""]
  parts += [
    "## Time",
    "",
    "Medians with (first–third quartile); calls take turns, round by round.",
    "",
    tables.markdown(time_table(costs)),
    "",
    "## Size and work",
    "",
    "Parameters that the execution reads; running averages of batch norms"
    " apart. Work is analytic, of one example, all taps of a convolution"
    " counted, with gates the mean over the test examples. XLA leaves out taps"
    " in the padding, which makes its count smaller where dilation is large,"
    " and adds elementwise work. Activations are the temporary buffers of the"
    " compiled program.",
    "",
    tables.markdown(size_table(costs)),
    "",
  ]
  if blocks:
    parts += [
      "## Blocks",
      "",
      "How often an example computes a block's branch for all tasks together.",
      "",
      tables.markdown(block_table(blocks)),
      "",
    ]
  if scores:
    parts += ["## Main metrics", "", tables.markdown(score_table(scores)), ""]
  return "\n".join(parts)


def write(
  folder: pathlib.Path,
  costs: Sequence[cost_lib.Cost],
  blocks: Sequence[cost_lib.Block],
  scores: Sequence[Score],
  facts: Sequence[str],
) -> str:
  """Writes `cost.md`, `cost.csv` and `figures/cost.png`.

  Args:
    folder: of the run.
    costs: measured.
    blocks: see `page`.
    scores: a task each.
    facts: see `page`.

  Returns:
    The page's text.
  """
  text = page(costs, blocks, scores, facts)
  (folder / "cost.md").write_text(text, encoding="utf-8")
  (folder / "cost.csv").write_text(tables.csv_text(long_table(costs, scores)), encoding="utf-8")
  with style.look():
    drawing = cost_figure.figure(costs, scores)
    if drawing is not None:
      style.save(drawing, folder / "figures" / "cost.png")
  return text


def scores_of(
  results: Mapping[str, list[dict[str, object]]], baseline: Mapping[str, Mapping[str, float]] | None
) -> tuple[Score, ...]:
  """The first metric of every task.

  Args:
    results: what `results.json` holds.
    baseline: task -> metric -> value of single-task networks, or None.
  """
  found = []
  for task in results["tasks"]:
    metrics = task["metrics"]
    assert isinstance(metrics, list)
    main, name = metrics[0], str(task["name"])
    unit = f" ({main['unit']})" if main["unit"] else ""
    value = main["test"]
    found.append(
      Score(
        name,
        f"{main['name']}{unit}",
        bool(main["higher_is_better"]),
        math.nan if value is None else float(value),
        math.nan if baseline is None else float(baseline[name][main["name"]]),
      )
    )
  return tuple(found)
