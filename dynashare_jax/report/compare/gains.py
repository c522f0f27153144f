"""Gains of several methods over the single-task runs of the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math

from dynashare_jax.objectives import delta
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.types import Metric

Runs = Mapping[str, Sequence[workdir_lib.Run]]

ALL = "all tasks"
SINGLE = "single"


def baseline(runs: Runs) -> str | None:
  """Returns the label of the single-task runs (the first of several), or None."""
  for label, found in runs.items():
    if found and all(r.results.get("method") == SINGLE for r in found):
      return label
  return None


def over_single(runs: Runs) -> dict[str, dict[str, list[float]]]:
  """Computes relative gains over the single-task run of the same seed.

  Returns:
    Label -> task (and `all tasks`) -> percent, one number per seed; NaN where
    it is not defined (no single-task run of that seed, a metric without a
    value, a single-task metric of 0). Empty without single-task runs.
  """
  reference = baseline(runs)
  if reference is None:
    return {}
  references = {seed(run): run for run in runs[reference]}
  found: dict[str, dict[str, list[float]]] = {}
  for label, several in runs.items():
    tasks: dict[str, list[float]] = {}
    for run in several:
      for task, value in _of_run(run, references.get(seed(run))).items():
        tasks.setdefault(task, []).append(value)
    found[label] = tasks
  return found


def seed(run: workdir_lib.Run) -> int:
  """Returns the seed of a run."""
  return int(run.results["seed"])


def first(runs: Runs) -> workdir_lib.Run:
  """Returns the first run of all."""
  return next(run for several in runs.values() for run in several)


def metrics(run: workdir_lib.Run) -> dict[str, tuple[Metric, ...]]:
  """Returns task -> its metrics, in the order of the results."""
  return {
    task["name"]: tuple(
      Metric(
        m["name"], bool(m["higher_is_better"]), m.get("unit") or "", bool(m.get("in_delta", True))
      )
      for m in task["metrics"]
    )
    for task in run.results["tasks"]
  }


def values(run: workdir_lib.Run) -> dict[str, dict[str, float]]:
  """Returns task -> metric -> value on test; NaN where there is none."""
  return {
    task["name"]: {m["name"]: workdir_lib.number(m["test"]) for m in task["metrics"]}
    for task in run.results["tasks"]
  }


def ranked(runs: Runs) -> delta.RankTest | None:
  """Tests the methods' ranks over the seeds that all of them have; None for fewer than two."""
  seeds = set.intersection(*({seed(run) for run in several} for several in runs.values()))
  if len(runs) < 2 or not seeds:
    return None
  found = {
    label: [values(run) for run in sorted(several, key=seed) if seed(run) in seeds]
    for label, several in runs.items()
  }
  return delta.rank_test(metrics(first(runs)), found)


def check(runs: Runs) -> None:
  """Raises ValueError unless the runs can stand in one table."""
  if not runs or not all(runs.values()):
    empty = ", ".join(label for label in runs if not runs[label])
    raise ValueError(
      "A comparison needs at least one finished run of every method"
      + (f"; there is none of {empty}." if empty else ".")
    )
  for several in runs.values():
    for run in several:
      if not run.results.get("finished"):
        raise ValueError(f"{run.path} is not finished: start its training command again.")
  reference = first(runs)
  for label, several in runs.items():
    seeds = [seed(run) for run in several]
    if len(set(seeds)) < len(seeds):
      raise ValueError(f"{label} has a seed twice: {sorted(seeds)}. Give one run per seed.")
    for run in several:
      _check_alike(run, reference)


def _check_alike(run: workdir_lib.Run, other: workdir_lib.Run) -> None:
  for key in ("dataset", "split"):
    if run.results.get(key) != other.results.get(key):
      raise ValueError(
        f"{run.path} has {key} {run.results.get(key)!r}, but {other.path} has"
        f" {other.results.get(key)!r}: they cannot stand in one table."
      )
  if metrics(run) != metrics(other):
    raise ValueError(
      f"{run.path} has other tasks or metrics than {other.path}: they cannot"
      " stand in one table. Train them with the same config.data.tasks."
    )


def _of_run(run: workdir_lib.Run, single: workdir_lib.Run | None) -> dict[str, float]:
  """Gains of one run by task and of all tasks; NaN where not defined."""
  new = values(run)
  against = values(single) if single is not None else {}
  found = {}
  for task, names in metrics(run).items():
    old = against.get(task)
    if old is None or any(old[m.name] == 0 for m in names if m.in_delta):
      found[task] = math.nan
    else:
      found[task] = delta.delta_task(names, new[task], old)
  return found | {ALL: delta.delta(found)}
