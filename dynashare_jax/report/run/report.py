"""The report of a run: Markdown with tables and figures."""

from __future__ import annotations

import math
import pathlib
from typing import Any

from dynashare_jax.checkpoints import workdir as files
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.run import classes
from dynashare_jax.report.run import figures
from dynashare_jax.report.run import timing


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes `report.md` and its figures from the files of a work directory.

  Args:
    workdir: of a finished run.

  Returns:
    The report's path.

  Raises:
    ValueError: no such directory, a damaged file, or an unfinished run.
  """
  run = workdir_lib.load(workdir)
  if not run.results:
    raise ValueError(
      f"{run.path} has no results.json: the run has not finished. Start the"
      " same training command again; it resumes."
    )
  drawn = figures.write_figures(run)
  sections = [
    _headline(run),
    _warning(run),
    _metrics(run),
    classes.section(run),
    _delta(run),
    _execution(run),
    _candidates(run),
    _parameters(run),
    timing.section(run),
    _notes(run),
    *(_figure(run, written) for written in drawn),
  ]
  path = run.path / "report.md"
  files.write_text(path, "\n\n".join(s for s in sections if s) + "\n")
  return path


def _headline(run: workdir_lib.Run) -> str:
  """Title, and one sentence that says what came out."""
  results = run.results
  parts = []
  for task in results["tasks"]:
    metric = task["metrics"][0]
    value = tables.format_number(workdir_lib.number(metric["test"]))
    constant = tables.format_number(workdir_lib.number(metric["constant"]))
    parts.append(
      f"{task['name']} {metric['name']} {value}{_unit(metric)}"
      f" (a constant prediction: {constant}{_unit(metric)})"
    )
  rate = 100 * workdir_lib.number(results["execution"]["mean"])
  return (
    f"# {results['method']} on {results['dataset']}, seed {results['seed']}\n"
    f"\nOn test: {'; '.join(parts)}. {rate:.1f}% of all (task, block,"
    " example) triples are executed."
  )


def _unit(metric: dict[str, Any]) -> str:
  return f" {metric['unit']}" if metric["unit"] else ""


def _warning(run: workdir_lib.Run) -> str:
  """Says loudly, in red, when models were chosen on test.

  A caution of GitHub's Markdown, which drops colours of HTML, and a red mark
  for other viewers.
  """
  if run.results["compat"].get("selection") != "test":
    return ""
  return (
    "> [!CAUTION]\n> \N{LARGE RED CIRCLE} **The model was selected on the"
    " test split (config.compat.selection = test): these numbers are"
    " optimistic and not comparable with others.**"
  )


def _metrics(run: workdir_lib.Run) -> str:
  """Metrics and losses on test and validation, beside a constant prediction.

  Losses are means over the split without the task's weight.
  """
  rows = []
  for task in run.results["tasks"]:
    for metric in task["metrics"]:
      arrow = tables.UP if metric["higher_is_better"] else tables.DOWN
      rows.append(
        (
          task["name"],
          f"{metric['name']} {arrow}",
          metric["unit"],
          *(workdir_lib.number(metric[k]) for k in ("test", "validation", "constant")),
        )
      )
    if "loss" in task:
      rows.append(
        (
          task["name"],
          f"loss {tables.DOWN}",
          "",
          workdir_lib.number(task["loss"]["test"]),
          workdir_lib.number(task["loss"]["validation"]),
          math.nan,
        )
      )
  columns = (
    tables.Column("task", align="left"),
    tables.Column("metric", align="left"),
    tables.Column("unit", align="left"),
    tables.Column("test"),
    tables.Column("validation"),
    tables.Column("constant prediction"),
  )
  return "## Metrics\n\n" + tables.markdown(tables.Table(columns, tuple(rows)))


def _delta(run: workdir_lib.Run) -> str:
  """Relative gain over single-task networks."""
  found = run.results.get("delta")
  if not found:
    return ""
  columns = (tables.Column("task", align="left"), tables.Column("Delta", unit="%"))
  rows = [
    (name, tables.Cell(workdir_lib.number(value), digits=2, signed=True))
    for name, value in found["tasks"].items()
  ]
  rows.append(("mean", tables.Cell(workdir_lib.number(found["overall"]), digits=2, signed=True)))
  return (
    "## Delta over single-task networks\n\nMean relative change of a"
    " task's metrics, positive is better (DynaShare Eqs. 7 and 8),"
    f" against `{found['baseline']}`.\n\n" + tables.markdown(tables.Table(columns, tuple(rows)))
  )


def _execution(run: workdir_lib.Run) -> str:
  """Execution rates by block and task, with targets."""
  rates = run.rates
  if rates is None:
    return ""
  columns = (
    (tables.Column("task", align="left"),)
    + tuple(tables.Column(f"block {l}") for l in range(rates.shape[1]))
    + (tables.Column("all blocks"),)
  )
  rows: list[Any] = [
    (
      name,
      *(tables.Cell(100 * r, digits=0) for r in row),
      tables.Cell(100 * float(row.mean()), digits=1),
    )
    for name, row in zip(run.tasks, rates, strict=True)
  ]
  targets, gated = run.target_rates, run.gated
  if targets is not None and gated is not None and gated.any():
    rows.append(
      (
        "target",
        *(
          tables.Cell(100 * t if g else math.nan, digits=0)
          for t, g in zip(targets, gated, strict=True)
        ),
        math.nan,
      )
    )
  return (
    "## Execution rate\n\nPercent of test examples that execute a block;"
    " block 0 is nearest the input. Blocks off a task's route have 0;"
    " blocks with a target have an instance gate.\n\n"
    + tables.markdown(tables.Table(columns, tuple(rows)))
  )


def _candidates(run: workdir_lib.Run) -> str:
  """The routes that were re-trained and how they validated."""
  found = run.results.get("candidates") or []
  if len(found) < 2:
    return ""
  columns = (
    tables.Column("candidate", align="left"),
    tables.Column("validation score", True),
    tables.Column("blocks executed"),
    tables.Column("route (a row a task)", align="left"),
  )
  rows = []
  for candidate in found:
    route = candidate["route"]
    name = str(candidate["index"])
    if candidate["index"] == run.chosen:
      name += " (kept)"
    drawn = " / ".join("".join("■" if u else "□" for u in row) for row in route)
    rows.append(
      (
        name,
        workdir_lib.number(candidate["score"]),
        f"{sum(map(sum, route))} of {sum(map(len, route))}",
        drawn,
      )
    )
  return (
    "## Candidates\n\nRoutes sampled from the policy; validation chose."
    " The score is the mean over tasks of their metrics (percentages"
    " / 100, errors as 1 - error / error of the constant prediction).\n\n"
    + tables.markdown(tables.Table(columns, tuple(rows)))
  )


def _parameters(run: workdir_lib.Run) -> str:
  """Trainable parameters by group, with and without heads."""
  counts = run.results["parameters"]
  core = counts["backbone"] + counts["gates"] + counts["policy"]
  rows = [
    ("backbone", counts["backbone"]),
    ("gates", counts["gates"]),
    ("policy logits", counts["policy"]),
    ("without heads", core),
    ("heads", counts["heads"]),
    ("with heads", core + counts["heads"]),
    ("batch-norm buffers (not trained)", counts["batch_stats"]),
  ]
  columns = (tables.Column("parameters", align="left"), tables.Column("count"))
  text = "## Size\n\n" + tables.markdown(tables.Table(columns, tuple(rows)))
  return text + _macs(run)


def _macs(run: workdir_lib.Run) -> str:
  """Multiply-accumulates of one example, and what its executions need."""
  macs = run.results.get("macs") or {}
  blocks = workdir_lib.matrix(macs.get("per_example_all_blocks"))
  rates = run.rates
  if blocks is None or rates is None:
    return ""
  heads = sum(macs["heads"].values())
  apart = float(blocks.sum() + rates.shape[0] * macs["stem"] + heads)
  used = float((blocks * rates).sum() + rates.shape[0] * macs["stem"] + heads)
  share = 100 * used / apart
  return (
    "\n\nMultiply-accumulates of one example, a pass a task as the"
    f" papers count: {used / 1e6:,.2f} M executed of"
    f" {apart / 1e6:,.2f} M with all blocks ({share:.1f}%). Hard sharing,"
    f" one pass for all tasks: {macs['total'] / 1e6:,.2f} M."
  )


def _notes(run: workdir_lib.Run) -> str:
  """What the data set and the method had to say; changed switches."""
  lines = [f"* {note}" for note in run.results["notes"]]
  lines += [
    f"* config.compat.{name} = {value} (the authors' behaviour)"
    for name, value in run.results["compat"].items()
  ]
  return "## Notes\n\n" + "\n".join(lines) if lines else ""


def _figure(run: workdir_lib.Run, written: figures.Written) -> str:
  """A figure with its caption."""
  link = written.path.relative_to(run.path).as_posix()
  return f"## {written.plot.title}\n\n![{written.plot.title}]({link})\n\n{written.plot.caption}"
