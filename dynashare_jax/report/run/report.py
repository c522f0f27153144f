"""The report of a run: Markdown with tables and figures."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np

from dynashare_jax.checkpoints import workdir as files
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.run import balance_pages
from dynashare_jax.report.run import classes
from dynashare_jax.report.run import conflict_pages
from dynashare_jax.report.run import figures
from dynashare_jax.report.run import served
from dynashare_jax.report.run import timing

_LABELS = {"policy": "policy logits"}  # of groups of parameters; others have their own name
# Rounds of trials: a column's title, and what happened.
_ROUNDS = {
  "score": ("score of its trial", "all for a twelfth of the steps"),
  "second": ("of its longer trial", "two for a quarter of the steps"),
}
_BUFFERS = "batch_stats"  # counted beside the parameters, but not trained


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes `report.md` and its figures into a finished run's work directory; returns its path.

  Raises:
    ValueError: no such directory, a damaged file, or an unfinished run.
  """
  run = workdir_lib.load(workdir)
  if not run.results:
    raise ValueError(
      f"{run.path} has no results.json: the run has not finished. Start the"
      " same training command again; it resumes."
    )
  try:
    return _written(run)
  except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"The files of the run in {run.path} do not fit together ({type(error).__name__}: {error}):"
      " results.json or policy.json was changed. Delete results.json and run the training command"
      " again: it writes both anew."
    ) from error


def _written(run: workdir_lib.Run) -> pathlib.Path:
  """Draws all figures and writes the page; returns its path."""
  drawn = figures.write_figures(run)
  sections = [
    _headline(run),
    _warning(run),
    _metrics(run),
    classes.section(run),
    _delta(run),
    _execution(run),
    *(f"## {own['title']}\n\n{own['text']}" for own in run.results.get("sections") or ()),
    conflict_pages.section(run),
    balance_pages.section(run),
    _candidates(run),
    _parameters(run),
    served.section(run),
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
    unit = f" {tables.escape_markdown(metric['unit'])}" if metric["unit"] else ""
    value, constant = (_text(metric[k]) + unit for k in ("test", "constant"))
    name = tables.escape_markdown(task["name"])
    parts.append(f"{name} {metric['name']} {value} (a constant prediction: {constant})")
  text = (
    f"# {results['method']} on {results['dataset']}, seed {results['seed']}\n"
    f"\nOn test: {'; '.join(parts)}."
  )
  rate = 100 * workdir_lib.number((results.get("execution") or {}).get("mean"))
  if math.isnan(rate):
    return text
  return f"{text} {rate:.1f}% of all (task, block, example) triples are executed."


def _text(value: Any) -> str:
  return tables.format_number(workdir_lib.number(value))


def _warning(run: workdir_lib.Run) -> str:
  """A caution of GitHub's Markdown, red in other viewers too, when test chose the model."""
  if (run.results.get("compat") or {}).get("selection") != "test":
    return ""
  return (
    "> [!CAUTION]\n> \N{LARGE RED CIRCLE} **The model was selected on the"
    " test split (config.compat.selection = test): these numbers are"
    " optimistic and not comparable with others.**"
  )


def _metrics(run: workdir_lib.Run) -> str:
  """Metrics and losses (without the task's weight) of both splits and of a constant."""
  rows = []
  for task in run.results["tasks"]:
    loss = {"name": "loss", "higher_is_better": False, "unit": ""} | task.get("loss", {})
    for metric in [*task["metrics"], *([loss] if "loss" in task else [])]:
      title = tables.directed(metric["name"], metric["higher_is_better"])
      values = (workdir_lib.number(metric.get(k)) for k in ("test", "validation", "constant"))
      rows.append((task["name"], title, metric["unit"], *values))
  titles = ("task", "metric", "unit", "test", "validation", "constant prediction")
  return tables.section("Metrics", "", tables.table(titles, rows, words=3))


def _delta(run: workdir_lib.Run) -> str:
  """Relative gain over single-task networks."""
  found = run.results.get("delta")
  if not found:
    return ""
  rows = [
    (name, tables.Cell(workdir_lib.number(value), digits=2, signed=True))
    for name, value in (*found["tasks"].items(), ("mean", found["overall"]))
  ]
  hashed = f" (identity {found['identity']})" if found.get("identity") else ""
  told = "".join(f" **Of the two, {text}.**" for text in found.get("differences") or ())
  return tables.section(
    "Delta over single-task networks",
    "Mean relative change of a task's metrics, positive is better (DynaShare Eqs. 7 and 8),"
    f" against `{found['baseline']}`{hashed}.{told}",
    tables.table(("task", tables.Column("Delta", unit="%")), rows),
  )


def _execution(run: workdir_lib.Run) -> str:
  """Execution rates by block and task, with targets."""
  rates = run.rates
  if rates is None:
    return ""
  percent = lambda share, digits=0: tables.Cell(100 * float(share), digits=digits)
  rows: list[tuple[tables.Entry, ...]] = [
    (name, *map(percent, row), percent(row.mean(), 1))
    for name, row in zip(run.tasks, rates, strict=True)
  ]
  targets, gated = run.target_rates, run.gated
  if targets is not None and gated is not None and gated.any():
    rows.append(("target", *map(percent, np.where(gated, targets, math.nan)), math.nan))
  return tables.section(
    "Execution rate",
    "Percent of test examples that execute a block; block 0 is nearest the input. Blocks off a"
    " task's route have 0; blocks with a target have an instance gate.",
    tables.table(
      ("task", *(f"block {place}" for place in range(rates.shape[1])), "all blocks"), rows
    ),
  )


def _candidates(run: workdir_lib.Run) -> str:
  """The candidates that were tried or re-trained, how they validated, and their routes, if any."""
  found = run.results.get("candidates") or []
  trials = run.results.get("trials") or []
  if len(found) + len(trials) < 2:
    return ""
  scores = {candidate["index"]: candidate["score"] for candidate in found}
  every = trials or found  # Trials stand in the order in which candidates are numbered.
  columns = [tables.Column("candidate", align="left"), tables.Column("validation score", True)]
  rounds = [name for name in ("score", "second") if any(name in trial for trial in trials)]
  columns += [tables.Column(_ROUNDS[name][0]) for name in rounds]
  routed = all(candidate.get("route") for candidate in every)
  if routed:
    columns.append(tables.Column("blocks executed"))
    columns.append(tables.Column("route (a row a task)", align="left"))
  rows = []
  for place, candidate in enumerate(every):
    index = place if trials else candidate["index"]
    kept = " (kept)" if index == run.chosen else ""
    row: list[Any] = [f"{index}{kept}", workdir_lib.number(scores.get(index))]
    row += [workdir_lib.number(candidate.get(name)) for name in rounds]
    if routed:
      route = candidate["route"]
      row.append(f"{sum(map(sum, route))} of {sum(map(len, route))}")
      row.append(" / ".join("".join("■" if u else "□" for u in part) for part in route))
    rows.append(row)
  full = [_ROUNDS[name][1] for name in rounds] + [f"{len(found)} in full."]
  tried = " Trained were " + ", then ".join(full) if rounds else ""
  return tables.section(
    "Candidates",
    f"{'Routes of the policy; v' if routed else 'V'}alidation chose.{tried} The score is the mean"
    " over tasks of their metrics (percentages / 100, errors as 1 - error / error of the constant"
    " prediction).",
    tables.table(columns, rows),
  )


def _parameters(run: workdir_lib.Run) -> str:
  """Trainable parameters by group, with and without heads, and multiply-accumulates."""
  counts = dict(run.results.get("parameters") or {})
  buffers, heads = counts.pop(_BUFFERS, None), counts.pop("heads", None)
  rows = [(_LABELS.get(group, group), count) for group, count in counts.items()]
  core = sum(counts.values())
  rows.append(("without heads" if heads is not None else "all", core))
  if heads is not None:
    rows += [("heads", heads), ("with heads", core + heads)]
  if buffers is not None:
    rows.append(("batch-norm buffers (not trained)", buffers))
  parts = [
    tables.section("Size", "", tables.table(("parameters", "count"), rows)) if counts else "",
    _macs(run),
  ]
  return "\n\n".join(part for part in parts if part)


def _macs(run: workdir_lib.Run) -> str:
  """Multiply-accumulates of one example, and what its executions need where blocks are counted."""
  macs = run.results.get("macs") or {}
  total = workdir_lib.number(macs.get("total")) / 1e6
  blocks, rates = workdir_lib.matrix(macs.get("per_example_all_blocks")), run.rates
  if blocks is None or rates is None:
    known = not math.isnan(total)
    return f"Multiply-accumulates of one example: {total:,.2f} M." if known else ""
  rest = rates.shape[0] * macs["stem"] + sum(macs["heads"].values())
  apart, used = (float(work.sum() + rest) for work in (blocks, blocks * rates))
  return (
    f"Multiply-accumulates of one example, a pass a task as the papers count: {used / 1e6:,.2f} M"
    f" executed of {apart / 1e6:,.2f} M with all blocks ({100 * used / apart:.1f}%). Hard sharing,"
    f" one pass for all tasks: {total:,.2f} M."
  )


def _notes(run: workdir_lib.Run) -> str:
  """What the data set and the method noted; changed switches."""
  lines = [f"* {tables.printable(note)}" for note in run.results.get("notes") or ()]
  lines += [
    f"* config.compat.{name} = {value} (the authors' behaviour)"
    for name, value in (run.results.get("compat") or {}).items()
  ]
  return "## Notes\n\n" + "\n".join(lines) if lines else ""


def _figure(run: workdir_lib.Run, written: figures.Written) -> str:
  """A figure with its caption."""
  link = written.path.relative_to(run.path).as_posix()
  return f"## {written.plot.title}\n\n![{written.plot.title}]({link})\n\n{written.plot.caption}"
