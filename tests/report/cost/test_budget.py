"""Tests of the table and the figure of metrics against a budget."""

from __future__ import annotations

import csv
import json

import pytest

from dynashare_jax.report import style
from dynashare_jax.report.cost import budget

SHARES = (0.22, 0.4, 0.7, 1.0)


def _split(share, better):
  return {
    "rate": 0.9 * share,
    "flops": share,
    "score": 0.5 * better,
    "error": 0.004,
    "metrics": {
      "segmentation": {"miou": 40 * better, "accuracy": 80.0},
      "depth": {"abs": 0.5 / better},
    },
  }


def _setting(value, share, better, **more):
  return {
    "unit": "flops",
    "budget": value,
    "thresholds": [0.0],
    "target_rate": 1.0,
    "validation": _split(1.01 * share, better),
    "test": _split(share, better),
    "batch": None,
    "ms": None,
    "predicted_ms": None,
    **more,
  }


def _curve(**more):
  return {
    "unit": "flops",
    "batch": 8,
    "device": "abacus",
    "reach": [0.22, 1.0],
    "left_out": [0.1],
    "tasks": [
      {
        "name": "segmentation",
        "metrics": [
          {"name": "miou", "higher_is_better": True, "unit": "%"},
          {"name": "accuracy", "higher_is_better": True, "unit": "%"},
        ],
      },
      {"name": "depth", "metrics": [{"name": "abs", "higher_is_better": False, "unit": "m"}]},
    ],
    "settings": [_setting(s, s, 0.5 + s / 2) for s in SHARES],
    "default": _setting(None, 0.8, 0.88),
    **more,
  }


def _rows(folder):
  text = (folder / "budget.csv").read_text()
  return list(csv.DictReader(text.splitlines()))


@pytest.fixture
def make(tmp_path):
  def write(curve):
    (tmp_path / "budgets").mkdir(exist_ok=True)
    (tmp_path / budget.CURVE).write_text(json.dumps(curve))
    return tmp_path

  return write


def test_table_has_a_row_a_budget_and_the_model_as_trained(make):
  folder = make(_curve())
  path = budget.write(folder)
  rows = _rows(folder)
  assert len(rows) == 5
  third = rows[2]
  assert float(third["budget (%)"]) == pytest.approx(70)
  assert float(third["met/validation (%)"]) == pytest.approx(70.7)
  assert float(third["met/test (%)"]) == pytest.approx(70)
  assert float(third["test/executed (%)"]) == pytest.approx(63)
  assert float(third["test/multiply-accumulates (%)"]) == pytest.approx(70)
  assert float(third["test/standard error (%)"]) == pytest.approx(0.4)
  assert float(third["test/segmentation miou (%)"]) == pytest.approx(34)
  assert float(third["test/depth abs (m)"]) == pytest.approx(0.5 / 0.85)
  assert float(third["validation/score"]) == pytest.approx(0.425)
  assert rows[-1]["budget (%)"] == "as trained"
  assert float(rows[-1]["met/test (%)"]) == pytest.approx(80)
  text = path.read_text()
  assert "22.0 % with all gates closed to 100.0 % with all open" in text
  assert "Out of reach and left out: 10.0 %." in text
  assert "depth abs (m) ↓" in text and "(figures/budget.png)" in text
  assert (folder / "figures" / "budget.png").stat().st_size > 10_000


def test_times_show_what_was_predicted_and_measured(make):
  timed = _setting(3.0, 0.6, 0.8, unit="ms", ms=3.03, predicted_ms=2.9)
  default = _setting(None, 0.8, 0.88)
  folder = make(_curve(unit="ms", settings=[timed], default=default, reach=[1.0, 4.0], left_out=[]))
  text = budget.write(folder).read_text()
  row, last = _rows(folder)
  assert float(row["budget (ms)"]) == 3.0
  assert float(row["met/predicted (ms)"]) == 2.9
  assert float(row["met/measured (ms)"]) == 3.03
  assert last["met/measured (ms)"] == ""
  assert "Timed at batch 8 on abacus." in text and "Out of reach" not in text


def test_panels_show_the_first_metric_against_the_work_on_test():
  with style.look():
    panels = budget.figure(_curve()).axes
  assert [p.get_title("left") for p in panels] == ["segmentation: miou (%) ↑", "depth: abs (m) ↓"]
  line, mark = panels[1].get_lines()
  assert list(line.get_xdata()) == pytest.approx([22, 40, 70, 100])
  assert line.get_ydata()[0] == pytest.approx(0.5 / 0.61)
  assert list(mark.get_xdata()) == [80]
  assert mark.get_ydata()[0] == pytest.approx(0.5 / 0.88)


@pytest.mark.parametrize("tasks", (1, 4, 7))
def test_any_number_of_tasks_is_drawn(tasks):
  curve = _curve()
  curve["tasks"] = [curve["tasks"][k % 2] for k in range(tasks)]
  with style.look():
    found = budget.figure(curve)
  assert sum(axes.get_visible() for axes in found.axes) == tasks


def test_a_missing_or_damaged_curve_is_refused(make, tmp_path):
  with pytest.raises(ValueError, match="Write it with python -m"):
    budget.write(tmp_path)
  curve = _curve()
  del curve["settings"][1]["test"]["metrics"]["depth"]
  with pytest.raises(ValueError, match="holds no budget curve .KeyError"):
    budget.write(make(curve))
