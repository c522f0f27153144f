"""Relative gain of a run over its single-task runs, and mean ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dynashare_jax.types import Metric

Values = Mapping[str, float]


def _value(values: Values, name: str, whose: str) -> float:
  """Returns the value of a metric; an error names the metric."""
  if name not in values:
    raise ValueError(
      f"metric {name!r} is missing from {whose}, which has {', '.join(sorted(values)) or 'none'}."
    )
  return float(values[name])


def delta_task(metrics: Sequence[Metric], values: Values, baseline: Values) -> float:
  """Averages the relative gains of one task's metrics.

  Args:
    metrics: names and directions; those with `in_delta` count, all alike.
    values: metric name -> value of the run.
    baseline: metric name -> value of the single-task run.

  Returns:
    Percent; above 0 is better than the baseline. nan when a value is nan.

  Raises:
    ValueError: no metric, a missing value, or a baseline of 0.

  Source: DynaShare (CVPRW 2023), Eq. 7.
  Differs: divides by the baseline's magnitude, so that a gain over a negative
    baseline (a kappa below chance) stays a gain.
  """
  if not metrics:
    raise ValueError("a relative gain needs at least one metric of the task.")
  gains = []
  for metric in (m for m in metrics if m.in_delta):
    value = _value(values, metric.name, "the run")
    reference = _value(baseline, metric.name, "the baseline")
    if reference == 0:
      raise ValueError(
        f"the baseline of metric {metric.name!r} is 0, so a relative gain is "
        "not defined: leave the metric out or use another baseline."
      )
    sign = 1.0 if metric.higher_is_better else -1.0
    gains.append(sign * (value - reference) / abs(reference))
  return float(100.0 * np.mean(gains))


def deltas(
  metrics: Mapping[str, Sequence[Metric]],
  values: Mapping[str, Values],
  baseline: Mapping[str, Values],
) -> dict[str, float]:
  """Computes `delta_task` of every task, in the order of `metrics`; percent.

  Raises:
    ValueError: as `delta_task`, with the task's name, or a missing task.
  """
  gains = {}
  for task, names in metrics.items():
    for where, known in (("the run", values), ("the baseline", baseline)):
      if task not in known:
        raise ValueError(f"task {task!r} is missing from {where}.")
    try:
      gains[task] = delta_task(names, values[task], baseline[task])
    except ValueError as error:
      raise ValueError(f"task {task!r}: {error}") from error
  return gains


def delta(tasks: Mapping[str, float]) -> float:
  """Averages the relative gains of the tasks, as `deltas` returns them; percent.

  Raises:
    ValueError: no task.

  Source: DynaShare (CVPRW 2023), Eq. 8.
  """
  if not tasks:
    raise ValueError("an overall gain needs at least one task.")
  return float(np.mean(list(tasks.values())))


def mean_rank(
  metrics: Mapping[str, Sequence[Metric]], methods: Mapping[str, Mapping[str, Values]]
) -> dict[str, float]:
  """Averages the rank of every method over all metrics of all tasks.

  Args:
    metrics: task -> its metrics.
    methods: method -> task -> metric values.

  Returns:
    Method -> mean rank; 1 is best. Equal values share the mean of their ranks; nan ranks last.

  Raises:
    ValueError: no metric, no method, or a missing value.
  """
  pairs = [(task, metric) for task in metrics for metric in metrics[task]]
  if not pairs or not methods:
    raise ValueError("a mean rank needs at least one method and one metric.")
  ranks = []
  for task, metric in pairs:
    column = [
      _value(tasks.get(task, {}), metric.name, f"task {task!r} of method {method!r}")
      for method, tasks in methods.items()
    ]
    costs = np.array(column) * (-1 if metric.higher_is_better else 1)
    costs = np.where(np.isnan(costs), np.inf, costs)
    better = np.sum(costs[None, :] < costs[:, None], axis=1)
    equal = np.sum(costs[None, :] == costs[:, None], axis=1)
    ranks.append(better + (equal + 1) / 2)
  means = np.mean(ranks, axis=0)
  return {name: float(rank) for name, rank in zip(methods, means, strict=True)}
