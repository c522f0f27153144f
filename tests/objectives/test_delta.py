"""Relative gains: published rows, directions, and what has no gain."""

from __future__ import annotations

import numpy as np
import pytest

from dynashare_jax.objectives import delta
from dynashare_jax.objectives import kinds
from dynashare_jax.types import Metric, TaskSpec

SEGMENTATION = kinds.find("segmentation").metrics(TaskSpec("seg", "segmentation", 40))
NORMALS = kinds.find("normals").metrics(TaskSpec("sn", "normals", 3))
DEPTH = kinds.find("depth").metrics(TaskSpec("depth", "depth", unit="m"))


def _values(metrics, row) -> dict[str, float]:
  """Names a row of a published table."""
  return dict(zip([metric.name for metric in metrics], row, strict=True))


def _row(second, baseline, row) -> tuple[float, float, float]:
  """Gains of segmentation, of the second task, and overall."""
  metrics = {"seg": SEGMENTATION, "second": second}
  parts = [
    {"seg": _values(SEGMENTATION, r[:2]), "second": _values(second, r[2:])} for r in (row, baseline)
  ]
  gains = delta.deltas(metrics, *parts)
  return gains["seg"], gains["second"], delta.delta(gains)


@pytest.mark.parametrize(
  "row, published",
  [
    ((30.2, 61.4, 13.5, 10.3, 53.4, 80.9, 90.3), (6.9, 21.8, 14.4)),
    ((29.6, 61.3, 16.6, 12.9, 45.0, 72.1, 83.2), (5.6, 6.2, 5.9)),
    ((22.6, 55.0, 16.9, 13.7, 41.0, 73.1, 84.3), (-12.3, 3.1, -4.6)),
  ],
)
def test_reproduces_rows_of_table_1(row, published):
  single = (27.8, 58.5, 17.3, 14.4, 37.2, 73.7, 85.1)
  got = _row(NORMALS, single, row)
  assert got == pytest.approx(published, abs=0.2)


@pytest.mark.parametrize(
  "row, published",
  [
    ((45.0, 75.3, 0.016, 0.33, 74.8, 89.5, 94.7), (6.5, 3.5, 5.0)),
    ((41.5, 74.9, 0.016, 0.33, 75.5, 89.9, 94.9), (1.8, 3.8, 2.8)),
    ((37.7, 73.8, 0.018, 0.34, 72.4, 88.3, 94.2), (-3.7, -0.5, -2.1)),
  ],
)
def test_reproduces_rows_of_table_3(row, published):
  single = (40.2, 74.7, 0.017, 0.33, 70.3, 86.3, 93.3)
  got = _row(DEPTH, single, row)
  assert got == pytest.approx(published, abs=0.2)


@pytest.mark.parametrize(
  "row, published",
  [((0.407, 0.469, 26.384), 4.82), ((0.405, 0.470, 25.533), 5.72), ((0.417, 0.466, 25.965), 6.45)],
)
def test_reproduces_table_1_of_progressive_sharing(row, published):
  """Of Shi et al. 2023, Eq. 5: one metric a task."""
  names = ("mIoU", "abs_err", "mean_angle")
  metrics = {name: [Metric(name, higher_is_better=name == "mIoU")] for name in names}
  values, single = (
    {name: {name: value} for name, value in zip(names, found, strict=True)}
    for found in (row, (0.3768, 0.5323, 25.0227))
  )
  assert delta.delta(delta.deltas(metrics, values, single)) == pytest.approx(published, abs=0.01)


def test_reproduces_the_clinical_table():
  single = {"pheno": 77.0, "los": 45.0, "decomp": 91.0, "ihm": 86.0}
  run = {"pheno": 76.5, "los": 71.86, "decomp": 84.98, "ihm": 94.25}
  metrics = {task: (Metric("auc", True, "%"),) for task in single}
  gains = delta.deltas(
    metrics,
    {task: {"auc": value} for task, value in run.items()},
    {task: {"auc": value} for task, value in single.items()},
  )
  assert gains["los"] == pytest.approx(59.69, abs=0.01)
  assert delta.delta(gains) == pytest.approx(15.50, abs=0.01)


def test_directions_and_negative_baselines():
  higher, lower = (Metric("k", True),), (Metric("k", False),)
  assert delta.delta_task(higher, {"k": 3.0}, {"k": 2.0}) == 50.0
  assert delta.delta_task(lower, {"k": 3.0}, {"k": 2.0}) == -50.0
  assert delta.delta_task(higher, {"k": 0.1}, {"k": -0.1}) == 200.0
  assert delta.delta_task(higher, {"k": 2.0}, {"k": 2.0}) == 0.0
  assert np.isnan(delta.delta_task(higher, {"k": np.nan}, {"k": 2.0}))


def test_what_has_no_gain_names_the_metric():
  metric = (Metric("miou", True),)
  with pytest.raises(ValueError, match="'seg'.*baseline of metric 'miou' is 0"):
    delta.deltas({"seg": metric}, {"seg": {"miou": 1.0}}, {"seg": {"miou": 0.0}})
  with pytest.raises(ValueError, match="'miou' is missing from the run"):
    delta.delta_task(metric, {"iou": 1.0}, {"miou": 1.0})
  with pytest.raises(ValueError, match="'miou' is missing from the baseline"):
    delta.delta_task(metric, {"miou": 1.0}, {})
  with pytest.raises(ValueError, match="'seg' is missing from the baseline"):
    delta.deltas({"seg": metric}, {"seg": {"miou": 1.0}}, {})
  with pytest.raises(ValueError, match="at least one metric"):
    delta.delta_task((), {}, {})
  with pytest.raises(ValueError, match="at least one task"):
    delta.delta({})


def test_mean_rank_by_hand():
  metrics = {"a": (Metric("up", True), Metric("down", False))}
  methods = {
    "first": {"a": {"up": 3.0, "down": 1.0}},
    "second": {"a": {"up": 2.0, "down": 1.0}},
    "third": {"a": {"up": 2.0, "down": np.nan}},
  }
  # up: 1, 2.5, 2.5; down: 1.5, 1.5, 3.
  assert delta.mean_rank(metrics, methods) == {"first": 1.25, "second": 2.0, "third": 2.75}
  with pytest.raises(ValueError, match="'up'.*task 'a' of method 'new'"):
    delta.mean_rank(metrics, {"new": {}})
  with pytest.raises(ValueError, match="at least one method"):
    delta.mean_rank(metrics, {})


def test_an_auc_is_not_mixed_with_a_kappa():
  """DynaShare's +15.5% for length of stay: a kappa set against an AUC."""
  metrics = kinds.find("multiclass").metrics(TaskSpec("los", "multiclass", 10))
  assert [m.name for m in metrics if m.in_delta] == ["auc_ovo"]
  before = {"accuracy": 40.0, "kappa": 20.0, "kappa_linear": 30.0, "auc_ovo": 80.0}
  after = before | {"kappa": 80.0, "kappa_linear": 0.0, "auc_ovo": 84.0}
  assert delta.delta_task(metrics, after, before) == pytest.approx(5.0)


def test_the_critical_difference_is_that_of_the_book():
  """Demsar 2006, table 5: q is 2.569 for four methods; 14 cases have a difference of 1.25."""
  metrics = {"a": (Metric("auc", True, ""),)}
  runs = lambda shift: [{"a": {"auc": float(run + shift)}} for run in range(14)]
  found = delta.rank_test(metrics, {f"m{shift}": runs(shift) for shift in range(4)})
  assert found.ranks == {"m0": 4.0, "m1": 3.0, "m2": 2.0, "m3": 1.0} and found.cases == 14
  assert found.difference == pytest.approx(2.569 * (4 * 5 / (6 * 14)) ** 0.5, abs=1e-3)
  # All 14 agree: the statistic is 14 * 3 = 42 with 3 degrees of freedom.
  assert found.p == pytest.approx(4.0e-9, rel=0.1)


def test_ranks_of_methods_with_unequal_runs_are_refused():
  metrics = {"a": (Metric("auc", True, ""),)}
  run = {"a": {"auc": 1.0}}
  with pytest.raises(ValueError, match="each with as many runs"):
    delta.rank_test(metrics, {"one": [run], "two": [run, run]})


# Two methods, five runs of three tasks; equal numbers are in both.
_ONE = np.array(
  [[1.5, -2.0, 0.3], [2.5, -1.0, 4.0], [0.5, -3.5, 1.0], [3.0, 0.0, 9.0], [1.0, -2.5, -6.0]]
)
_OTHER = np.array(
  [[1.0, -1.0, 0.3], [0.0, -2.0, 2.0], [0.5, -4.0, 1.5], [2.0, -1.5, 0.0], [-1.0, -3.0, 5.0]]
)


def test_interquartile_means_intervals_and_improvement_are_those_of_rliable():
  """Numbers of rliable 1.2.0 (pip install rliable "pandas<3").

  python -c "from rliable import library, metrics; import numpy as np; from test_delta import *
  iqm = lambda s: np.array([metrics.aggregate_iqm(s)])
  for s in (_ONE, _OTHER): print(library.get_interval_estimates(
    {'m': s}, iqm, reps=50000, random_state=np.random.RandomState(0)))
  print(metrics.probability_of_improvement(_ONE, _OTHER))"
  """
  assert delta.interquartile_mean(_ONE) == pytest.approx(0.4222222222)
  assert delta.interquartile_mean(_OTHER) == pytest.approx(-0.0222222222)
  # Percentiles of 10,000 draws lie within some hundredths of those of 50,000.
  assert delta.interval(_ONE) == pytest.approx((-0.74444444, 1.5), abs=0.04)
  assert delta.interval(_OTHER) == pytest.approx((-0.56666667, 0.61111111), abs=0.04)
  assert delta.interval(_ONE) == delta.interval(_ONE)
  assert delta.probability_of_improvement(_ONE, _OTHER) == pytest.approx(0.6333333333)
  assert delta.probability_of_improvement(_OTHER, _ONE) == pytest.approx(0.3666666667)


def test_the_middle_half_ignores_the_ends():
  """Of 2 runs and 3 tasks one number is cut at either end; of 3 and 1, none."""
  assert delta.interquartile_mean(np.array([[1.0, 2.0, 1e9], [3.0, 6.0, -1e9]])) == 3.0
  assert delta.interquartile_mean(np.array([[1.0], [2.0], [6.0]])) == 3.0
  assert delta.interval(np.full((5, 2), 7.0)) == (7.0, 7.0)


@pytest.mark.parametrize(
  ("metrics", "told"),
  [
    ([Metric("m", True), Metric("m", False)], "named twice"),
    ([Metric("m", "lower")], "must be True or False, but is 'lower'"),
    ([Metric("m", True, "", False)], "counts in Delta"),
  ],
)
def test_what_no_gain_can_be_computed_of(metrics, told):
  with pytest.raises(ValueError, match=told):
    delta.delta_task(metrics, {"m": 2.0}, {"m": 1.0})


def test_infinity_ranks_before_nan():
  values = {name: {"t": {"m": v}} for name, v in (("a", np.nan), ("b", np.inf), ("c", 1.0))}
  assert delta.mean_rank({"t": [Metric("m", False)]}, values) == {"a": 3.0, "b": 2.0, "c": 1.0}
  with pytest.raises(ValueError, match="at least one task"):
    delta.rank_test({}, {"a": [{}], "b": [{}]})
  with pytest.raises(ValueError, match="missing from task 't'"):
    delta.rank_test({"t": [Metric("m", True)]}, {"a": [{}], "b": [{}]})
