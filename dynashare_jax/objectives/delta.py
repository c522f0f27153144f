"""Relative gain of a run over its single-task runs, and mean ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
import numpy as np

from dynashare_jax.types import Metric

Values = Mapping[str, float]


def _value(values: Values, name: str, whose: str) -> float:
  """Returns the value of a metric; an error names the metric."""
  if name not in values:
    raise ValueError(
      f"metric {name!r} is missing from {whose}, which has {', '.join(sorted(values)) or 'none'}."
    )
  value: Any = values[name]
  if isinstance(value, str) or value is None or np.ndim(value):
    raise ValueError(f"metric {name!r} of {whose} must be a number, but is {value!r}.")
  return float(value)


def delta_task(metrics: Sequence[Metric], values: Values, baseline: Values) -> float:
  """Averages the relative gains of one task's metrics.

  Args:
    metrics: names and directions; those with `in_delta` count, all alike.
    values: metric name -> value of the run.
    baseline: metric name -> value of the single-task run.

  Returns:
    Percent; above 0 is better than the baseline. nan when a value is nan.

  Raises:
    ValueError: no metric, or one twice; a missing value, or none; a baseline of 0.

  Source: DynaShare (CVPRW 2023), Eq. 7.
  Differs: divides by the baseline's magnitude, so that a gain over a negative
    baseline (a kappa below chance) stays a gain.

  Example:
    >>> delta_task([Metric("miou", True)], {"miou": 33.0}, {"miou": 30.0})
    10.0
  """
  if not metrics:
    raise ValueError("a relative gain needs at least one metric of the task.")
  _check(metrics)
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


def _check(metrics: Sequence[Metric]) -> None:
  """Refuses a metric twice, a direction that is a word, and metrics none of which counts."""
  names = [metric.name for metric in metrics]
  if len(set(names)) < len(names):
    raise ValueError(f"a metric is named twice: {', '.join(names)}.")
  for metric in metrics:
    if not isinstance(metric.higher_is_better, bool | np.bool_):
      raise ValueError(
        f"`higher_is_better` of metric {metric.name!r} must be True or False, but is"
        f" {metric.higher_is_better!r}."
      )
  if not any(metric.in_delta for metric in metrics):
    raise ValueError(f"none of the metrics {', '.join(names)} counts in Delta (`in_delta`).")


def deltas(
  metrics: Mapping[str, Sequence[Metric]],
  values: Mapping[str, Values],
  baseline: Mapping[str, Values],
) -> dict[str, float]:
  """Computes `delta_task` of every task, in the order of `metrics`; percent.

  Raises:
    ValueError: as `delta_task`, with the task's name, or a missing task.

  Example:
    >>> deltas({"depth": [Metric("abs", False)]}, {"depth": {"abs": 3}}, {"depth": {"abs": 4}})
    {'depth': 25.0}
  """
  gains = {}
  for task, names in metrics.items():
    for where, known in (("the run", values), ("the baseline", baseline)):
      if task not in known:
        raise ValueError(f"task {task!r} is missing from {where}.")
      if not isinstance(known[task], Mapping):
        raise ValueError(f"task {task!r} of {where} must be a dict of metric -> value.")
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

  Example:
    >>> delta({"seg": 10.0, "depth": -4.0})
    3.0
  """
  if not tasks:
    raise ValueError("an overall gain needs at least one task.")
  return float(np.mean([_value(tasks, task, "the tasks") for task in tasks]))


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

  Example:
    >>> values = {"one": {"seg": {"miou": 30.0}}, "two": {"seg": {"miou": 33.0}}}
    >>> mean_rank({"seg": [Metric("miou", True)]}, values)
    {'one': 2.0, 'two': 1.0}
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
    ranks.append(_ranks(np.array(column) * (-1 if metric.higher_is_better else 1)))
  means = np.mean(ranks, axis=0)
  return {name: float(rank) for name, rank in zip(methods, means, strict=True)}


def _ranks(costs: np.ndarray) -> np.ndarray:
  """Ranks of numbers of which the smallest is best; NaN is last."""
  # An infinite one is a number, and ranks before NaN.
  places = np.unique(costs, return_inverse=True, equal_nan=True)[1]
  better = np.sum(places[None, :] < places[:, None], axis=1)
  equal = np.sum(places[None, :] == places[:, None], axis=1)
  return np.asarray(better + (equal + 1) / 2)


class RankTest(NamedTuple):
  """Whether mean ranks differ by more than chance.

  Attributes:
    ranks: method -> mean rank over all cases; 1 is best.
    difference: from which on two mean ranks differ at the 5% level.
    p: of all methods being alike; NaN for fewer than three.
    cases: how many there are.
  """

  ranks: dict[str, float]
  difference: float
  p: float
  cases: int


def rank_test(
  metrics: Mapping[str, Sequence[Metric]], methods: Mapping[str, Sequence[Mapping[str, Values]]]
) -> RankTest:
  """Tests whether methods rank alike over runs and tasks.

  A case is a task of one run of every method; a method's rank in it is that of its mean rank over
  the task's metrics.

  Args:
    metrics: task -> its metrics.
    methods: method -> its runs, in the same order (such as by seed) -> task -> metric values.

  Raises:
    ValueError: fewer than two methods, no run, or methods with different numbers of runs.

  Source: Friedman's test and Nemenyi's critical difference, as Demsar 2006 has them. Tasks of one
    run are not independent, as the tests suppose.

  Example:
    >>> worse, better = [{"seg": {"miou": 30.0}}] * 6, [{"seg": {"miou": 33.0}}] * 6
    >>> found = rank_test({"seg": [Metric("miou", True)]}, {"one": worse, "two": better})
    >>> found.ranks, round(found.difference, 2)
    ({'one': 2.0, 'two': 1.0}, 0.8)
  """
  from scipy import stats  # Takes most of a second.

  counts = {len(runs) for runs in methods.values()}
  if len(methods) < 2 or len(counts) != 1 or not min(counts):
    raise ValueError("a test of ranks needs two methods or more, each with as many runs.")
  if not metrics:
    raise ValueError("a test of ranks needs at least one task.")
  cases = []
  for run in range(counts.pop()):
    for task, names in metrics.items():
      values = {method: {task: runs[run].get(task, {})} for method, runs in methods.items()}
      cases.append(_ranks(np.array(list(mean_rank({task: names}, values).values()))))
  count, ranks = len(methods), np.array(cases)
  spread = stats.studentized_range.ppf(0.95, count, np.inf) / 2**0.5
  difference = spread * (count * (count + 1) / (6 * len(cases))) ** 0.5
  differs = count > 2 and len(cases) > 1 and np.ptp(ranks)
  p = stats.friedmanchisquare(*ranks.T).pvalue if differs else float("nan")
  means = {name: float(rank) for name, rank in zip(methods, ranks.mean(0), strict=True)}
  return RankTest(means, float(difference), float(p), len(cases))


def interquartile_mean(scores: Float[np.ndarray, "*more runs tasks"]) -> Float[np.ndarray, "*more"]:
  """Averages the middle half of all runs and tasks: a quarter is cut at either end, rounded down.

  Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
    Precipice", section 4.3.
  """
  flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
  cut = flat.shape[-1] // 4
  return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(-1))


def interval(scores: Float[np.ndarray, "runs tasks"], draws: int = 10_000) -> tuple[float, float]:
  """Returns the 95% interval of the interquartile mean, by a stratified bootstrap.

  Every draw takes as many runs with replacement, of every task on its own; the same ones with every
  call. The interval ends at the 2.5th and the 97.5th percentile of the draws.

  Source: Agarwal et al. 2021, section 4.1. Of fewer than five runs it is too narrow.
  """
  chosen = np.random.default_rng(0).integers(len(scores), size=(draws, *scores.shape))
  means = interquartile_mean(np.take_along_axis(scores[None], chosen, 1))
  low, high = np.percentile(means, (2.5, 97.5))
  return float(low), float(high)


def probability_of_improvement(
  scores: Float[np.ndarray, "runs tasks"], other: Float[np.ndarray, "others tasks"]
) -> float:
  """Returns how often a run beats one of another method, 0 to 1, averaged over the tasks.

  All pairs of runs count, equal ones half: the Mann-Whitney statistic over their number.

  Source: Agarwal et al. 2021, section 4.3.
  """
  above = scores[:, None] - other[None]
  return float(np.mean((above > 0) + 0.5 * (above == 0)))
