"""Gains of several methods over the single-task runs of the same seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import math
import re
from typing import Any, NamedTuple

import numpy as np

from dynashare_jax.objectives import delta
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.train import baselines
from dynashare_jax.types import Metric

Runs = Mapping[str, Sequence[workdir_lib.Run]]

ALL = "all tasks"
SINGLE = "single"
HARD = "hard"
RANDOM = "random_policy"  # may have several runs of a seed, a route each
SEEDS = 5  # from which on tables show `reliable`


def baseline(runs: Runs) -> str | None:
  """Returns the label of the single-task runs (the first of several), or None."""
  return next((label for label, several in runs.items() if _is(several, SINGLE)), None)


def _is(several: Sequence[workdir_lib.Run], method: str) -> bool:
  return bool(several) and all(run.results.get("method") == method for run in several)


def over_single(runs: Runs) -> dict[str, dict[str, list[float]]]:
  """Computes relative gains over the single-task run of the same seed, from the raw metrics.

  Where no label is that of single-task runs, the metrics count that every run stored of its
  `config.baseline`.

  Returns:
    Label -> task (and `all tasks`) -> percent, one number per run; NaN where
    it is not defined (no single-task run of that seed, a metric without a
    value, a single-task metric of 0). Empty without any single-task run.
  """
  references = _references(runs)
  found: dict[str, dict[str, list[float]]] = {}
  if not any(references.values()):
    return found
  for label, several in runs.items():
    tasks: dict[str, list[float]] = {}
    for run in several:
      for task, value in _of_run(run, references[label, seed(run)]).items():
        tasks.setdefault(task, []).append(value)
    found[label] = tasks
  return found


def _references(runs: Runs) -> dict[tuple[str, int], baselines.Values]:
  """Label and seed -> task -> metric -> value of the run's baseline; empty where it has none."""
  reference = baseline(runs)
  pairs = [(label, run) for label, several in runs.items() for run in several]
  if reference is None:
    return {(label, seed(run)): _read_values(_stored(run)) for label, run in pairs}
  singles = {seed(run): values(run) for run in runs[reference]}
  return {(label, seed(run)): singles.get(seed(run), {}) for label, run in pairs}


def _stored(run: workdir_lib.Run) -> workdir_lib.Json:
  """What a run tells of its `config.baseline`; empty if it is of an older version."""
  found = run.results.get("delta") or {}
  return found if "values" in found else {}


def _read_values(stored: workdir_lib.Json) -> baselines.Values:
  return {
    task: {name: workdir_lib.number(value) for name, value in metrics.items()}
    for task, metrics in (stored.get("values") or {}).items()
  }


def told(runs: Runs, mixed: Collection[str] = ()) -> list[str]:
  """Returns lines that name the baselines of every Delta, and how they differ from the runs.

  Args:
    mixed: parts of `train.baselines.PARTS` in which they may.

  Raises:
    ValueError: a run and its baseline differ in another part, or there is none of its seed.
  """
  if not any(_references(runs).values()):
    return []
  reference = baseline(runs)
  singles = {seed(run): run for run in runs.get(reference or "", ())}
  names: dict[str, str] = {}
  away: dict[str, dict[str, None]] = {}
  for label, several in runs.items():
    for run in several:
      own = run.results.get("identity")
      if reference is None:
        name, differences = _of_stored(run, mixed)
      elif (single := singles.get(seed(run))) is not None:
        other = single.results.get("identity")
        name = f"`{reference}`, seed {seed(run)}" + (
          f" ({baselines.digest(other)})" if other else ""
        )
        pair = f"{single.path} and {run.path}"
        differences = [] if single is run else baselines.check(own, other, mixed, pair)
      elif own is None or "seed" in mixed:
        continue
      else:
        raise ValueError(
          f"{run.path} has no single-task run of its seed {seed(run)}; there are those of"
          f" {', '.join(map(str, sorted(singles)))}. Train it, or leave its Δ out:"
          " --mixed=seed."
        )
      names.setdefault(name, "")
      for difference in differences:
        away.setdefault(difference, {})[label] = None
  lines = [f"Baselines of Δ: {'; '.join(names)}."]
  for difference, labels in away.items():
    which = ", ".join(labels)
    lines.append(
      f"Of an older version, so that nobody checked whether baseline and run have the same data,"
      f" schedule and version ({baselines.UNKNOWN}): {which}."
      if difference == baselines.UNKNOWN
      else f"**Mixed: {which} and their baseline differ: {difference}.**"
    )
  return lines


def _of_stored(run: workdir_lib.Run, mixed: Collection[str]) -> tuple[str, list[str]]:
  """Name of the baseline that a run stored, and how they differ."""
  found = _stored(run)
  if not found:
    return "none", []
  hashed = f" ({found['identity']})" if found["identity"] else ""
  for difference in found["differences"]:
    part = re.split(r"[. ]", difference)[0]
    if part in baselines.PARTS and part not in mixed:
      raise ValueError(
        f"{run.path} and its baseline {found['baseline']} must not be compared: {difference}. Train"
        f" the baseline again with the same settings, or allow it:"
        f" --mixed={','.join((*mixed, part))}."
      )
  return f"`{found['baseline']}`{hashed}", found["differences"]


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


def values(run: workdir_lib.Run) -> baselines.Values:
  """Returns task -> metric -> value on test; NaN where there is none."""
  return baselines.values(run.results)


def ranked(runs: Runs) -> delta.RankTest | None:
  """Tests the methods' ranks over the seeds that all of them have; None for fewer than two."""
  seeds = set.intersection(*({seed(run) for run in several} for several in runs.values()))
  if len(runs) < 2 or not seeds:
    return None
  found = {
    label: [values(_by(several)[number]) for number in sorted(seeds)]
    for label, several in runs.items()
  }
  return delta.rank_test(metrics(first(runs)), found)


def check(runs: Runs, mixed: Collection[str] = ()) -> None:
  """Raises ValueError unless the runs can stand in one table; `mixed` as of `told`."""
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
    if len(set(seeds)) < len(seeds) and not _is(several, RANDOM):
      raise ValueError(f"{label} has a seed twice: {sorted(seeds)}. Give one run per seed.")
    for run in several:
      _check_alike(run, reference)
  told(runs, mixed)


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


def _of_run(run: workdir_lib.Run, against: baselines.Values) -> dict[str, float]:
  """Gains of one run by task and of all tasks; NaN where not defined."""
  new = values(run)
  found = {}
  for task, names in metrics(run).items():
    old = against.get(task)
    if old is None or any(old.get(m.name, 0) == 0 for m in names if m.in_delta):
      found[task] = math.nan
    else:
      found[task] = delta.delta_task(names, new[task], old)
  return found | {ALL: delta.delta(found)}


def over_random(runs: Runs) -> dict[str, dict[str, float]]:
  """Computes the share of random routes that methods beat, in Delta of all tasks.

  Returns:
    Of every label whose runs are random routes, several of a seed: label -> percent, the mean over
    seeds, half of one for an equal Delta; NaN of random routes and of single-task networks.
  """
  gained = over_single(runs)
  if not gained:
    return {}
  several = lambda label: _is(runs[label], RANDOM) and len(runs[label]) > len(_by(runs[label]))
  return {label: _beaten(runs, gained, label) for label in filter(several, runs)}


def _beaten(runs: Runs, gained: Mapping[str, Any], random: str) -> dict[str, float]:
  """`over_random` of one label."""
  chance: dict[int, list[float]] = {}
  for run, gain in zip(runs[random], gained[random][ALL], strict=True):
    if math.isfinite(gain):
      chance.setdefault(seed(run), []).append(gain)
  found = {}
  for label, several in runs.items():
    shares = [
      100 * float(np.mean([(gain > other) + 0.5 * (gain == other) for other in chance[seed(run)]]))
      for run, gain in zip(several, gained[label][ALL], strict=True)
      if seed(run) in chance and math.isfinite(gain)
    ]
    out = label == baseline(runs) or _is(several, RANDOM) or not shares
    found[label] = math.nan if out else float(np.mean(shares))
  return found


def _by(several: Sequence[workdir_lib.Run]) -> dict[int, workdir_lib.Run]:
  """The first run of every seed."""
  return {seed(run): run for run in reversed(several)}


class Reliable(NamedTuple):
  """What several seeds say of a method.

  Attributes:
    mean: interquartile mean of Delta over seeds and tasks, percent.
    interval: its 95% interval.
    improvement: probability that a run beats one of hard sharing on a task; NaN without any.
  """

  mean: float
  interval: tuple[float, float]
  improvement: float


def reliable(runs: Runs) -> dict[str, Reliable]:
  """Returns what `SEEDS` and more seeds say of every method that has so many with all Deltas."""
  found = {label: _scores(tasks) for label, tasks in over_single(runs).items()}
  enough = lambda label: min(len(found[label]), len(_by(runs[label]))) >= SEEDS
  found = {label: scores for label, scores in found.items() if enough(label)}
  hard = next((label for label in found if _is(runs[label], HARD)), None)
  return {
    label: Reliable(
      float(delta.interquartile_mean(scores)),
      delta.interval(scores),
      math.nan
      if hard in (None, label)
      else delta.probability_of_improvement(scores, found[str(hard)]),
    )
    for label, scores in found.items()
  }


def _scores(tasks: Mapping[str, Sequence[float]]) -> np.ndarray:
  """Delta of every run and task, without the runs that lack one."""
  scores = np.array([tasks[name] for name in tasks if name != ALL]).T
  return np.asarray(scores[np.isfinite(scores).all(1)])
