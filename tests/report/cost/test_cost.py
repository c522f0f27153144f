"""The page, the CSV file and the figure of costs, from known numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
import math

import pytest

from dynashare_jax.infer import cost as cost_lib
from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report.cost import cost
from dynashare_jax.report.cost import cost_figure

SIZES = {"backbone": 1000, "gates": 30, "heads": 20, "batch_stats": 7}
NAN = math.nan


def _cost(scope, way, ms, macs=4e6, xla=3e6):
  """Five calls a batch size: 0.8, 0.9, 1, 1.1 and 3 times the median."""
  times = {
    batch: cost_lib.Times(
      tuple(ms * batch / 1000 * f for f in (1.0, 0.8, 1.1, 0.9, 3.0)), 2_000_000 * batch
    )
    for batch in (1, 4)
  }
  return cost_lib.Cost(scope, way, SIZES, macs, xla, times)


@pytest.fixture
def costs():
  return [
    _cost(cost_lib.ALL, cost_lib.MASKED, 10.0),
    _cost(cost_lib.ALL, cost_lib.PLANNED, 5.0, 2e6, 1.5e6),
    _cost(cost_lib.ALL, cost_lib.GATED, 4.0, 1e6, None),
    _cost(cost_lib.ALL, cost_lib.SEPARATE, 20.0, 8e6, 6e6),
    _cost("depth", cost_lib.MASKED, 3.0),
    _cost("depth", cost_lib.PLANNED, 2.0),
  ]


@pytest.fixture
def scores():
  return (
    cost.Score("segmentation", "miou (%)", True, 33.0, 31.0),
    cost.Score("depth", "abs (m)", False, 0.68, NAN),
  )


BLOCKS = (cost_lib.Block(1_000_000, 2, 1, 1.0), cost_lib.Block(500_000, 2, 2, 0.75))


def test_times_are_medians_with_quartiles(costs):
  found = cost.time_table(costs)
  assert [tables.heading(c) for c in found.columns] == [
    "for",
    "execution",
    "batch 1 (ms)",
    "batch 1 (examples / s)",
    "batch 4 (examples / s)",
    "batch 1 (× as fast as masked)",
    "batch 4 (× as fast as masked)",
  ]
  first = [tables.format_entry(entry) for entry in found.rows[0]]
  # One call that took three times as long moves neither.
  assert first == [
    "all tasks",
    "masked",
    "10.0 (9.0–11.0)",
    "100 (91–111)",
    "100 (91–111)",
    "1.00",
    "1.00",
  ]
  assert [tables.format_entry(row[5]) for row in found.rows] == [
    "1.00",
    "2.00",
    "2.50",
    "0.50",
    "1.00",
    "1.50",
  ]


def test_without_masked_nothing_is_compared():
  found = cost.time_table([_cost(cost_lib.ALL, cost_lib.SEPARATE, 1.0)])
  assert found.rows[0][5] is None
  sizes = cost.size_table([_cost(cost_lib.ALL, cost_lib.SEPARATE, 1.0)])
  assert tables.format_entry(sizes.rows[0][7]) == tables.MISSING


def test_sizes(costs):
  found = cost.size_table(costs)
  shown = [tables.format_entry(entry) for entry in found.rows[1]]
  assert shown == [
    "all tasks",
    "planned",
    "1,000",
    "30",
    "20",
    "7",
    "2.000",
    "50.0",
    "1.500",
    "0.750",
    "2.000",
    "8.000",
  ]
  assert [tables.format_entry(e) for e in found.rows[2]][8:10] == ["–", "–"]


def test_blocks():
  found = cost.block_table(BLOCKS)
  assert [tables.format_entry(e) for e in found.rows[1]] == [
    "1",
    "0.5000",
    "2",
    "2",
    "0.75",
    "1.000",
    "1.000",
    "0.3750",
  ]
  plain = cost.block_table([cost_lib.Block(1, 2, 1, None)])
  assert tables.format_entry(plain.rows[0][4]) == tables.MISSING


def test_files(tmp_path, costs, scores):
  text = cost.write(tmp_path, costs, BLOCKS, scores, ["Run: one.", "Two."])
  assert (tmp_path / "cost.md").read_text() == text
  assert text.startswith("# Cost\n\n- Run: one.\n- Two.\n\n![metric")
  assert [line for line in text.splitlines() if line.startswith("## ")] == [
    "## Time",
    "## Size and work",
    "## Blocks",
    "## Main metrics",
  ]
  assert (tmp_path / "figures" / "cost.png").read_bytes()[:4] == b"\x89PNG"
  rows = list(csv.DictReader(io.StringIO((tmp_path / "cost.csv").read_text())))
  assert len(rows) == 2 * len(costs)
  row = rows[11]
  assert (row["scope"], row["execution"], row["batch"]) == ("depth", "planned", "4")
  assert float(row["seconds_median"]) == pytest.approx(0.008)
  assert float(row["seconds_max"]) == pytest.approx(0.024)
  assert float(row["seconds_first_quartile"]) == pytest.approx(0.0072)
  assert float(row["examples_per_second"]) == pytest.approx(500)
  assert row["metric"] == "abs (m)" and float(row["metric_value"]) == 0.68
  assert rows[4]["xla_macs"] == "" and rows[0]["metric"] == ""


def test_a_page_without_blocks_and_metrics(tmp_path, costs):
  text = cost.write(tmp_path, costs, (), (), [])
  assert "## Blocks" not in text and "figures/" not in text
  assert not (tmp_path / "figures").exists()


def test_main_metrics_come_from_the_results():
  metric = lambda name, value: {"name": name, "higher_is_better": False, "unit": "m", "test": value}
  found = cost.scores_of(
    {"tasks": [{"name": "depth", "metrics": [metric("abs", 0.5), metric("rel", 0.1)]}]},
    {"depth": {"abs": 0.6, "rel": 0.2}},
  )
  assert found == (cost.Score("depth", "abs (m)", False, 0.5, 0.6),)
  unknown = cost.scores_of({"tasks": [{"name": "depth", "metrics": [metric("abs", None)]}]}, None)
  assert math.isnan(unknown[0].value) and math.isnan(unknown[0].separate)


# The figure.


def _points(axes):
  """Marker -> filled or not -> place of the points."""
  return {
    (line.get_marker(), line.get_markerfacecolor() != "white"): (
      float(line.get_xdata()[0]),
      float(line.get_ydata()[0]),
    )
    for line in axes.lines
    if line.get_marker() not in ("", "None", None)
  }


def test_points_of_the_figure(costs, scores):
  with style.look():
    drawing = cost_figure.figure(costs, scores)
  first, second = drawing.axes
  assert first.get_title(loc="left") == "segmentation"
  assert _points(first) == {
    ("s", True): (10.0, 33.0),
    ("o", True): (5.0, 33.0),
    ("D", True): (4.0, 33.0),
    ("^", True): (20.0, 31.0),
  }
  assert first.get_ylabel() == "miou (%) ↑"
  low, high = first.get_ylim()
  assert low < 31 < 33 < high
  # Smaller is better: it points up all the same.
  bottom, top = second.get_ylim()
  assert bottom > 0.68 > top
  # The networks' metric is not known, but their time is.
  assert ("^", True) not in _points(second)
  assert _points(second)["s", False] == (pytest.approx(3.0), 0.68)
  texts = [text.get_text().strip() for text in second.texts]
  assert "20 ms, metric unknown" in texts and "4 ms" in texts
  legend = [t.get_text() for t in drawing.legends[0].get_texts()]
  ways = [way for way in cost_lib.WAYS if way not in (cost_lib.WHOLE, cost_lib.LEAN)]
  assert legend == [*ways, "all tasks", "one task alone"]


def test_no_figure_without_a_metric(costs):
  assert cost_figure.figure(costs, ()) is None


def test_a_metric_that_nobody_knows_leaves_times(costs):
  score = cost.Score("depth", "abs (m)", False, NAN, NAN)
  with style.look():
    drawing = cost_figure.figure(costs, (score,))
  assert _points(drawing.axes[0]) == {}
  assert len(drawing.axes[0].texts) == 4


def test_many_tasks_take_rows(costs):
  many = [cost.Score(f"t{i}", "miou", True, 1.0) for i in range(5)]
  with style.look():
    drawing = cost_figure.figure(costs, many)
  assert sum(axes.get_visible() for axes in drawing.axes) == 5


def test_groups_of_parameters_are_those_of_any_model(costs, scores):
  other = dataclasses.replace(
    costs[0], way=cost_lib.WHOLE, parameters={"backbone": 5, "fusion": 3, "batch_stats": 0}
  )
  found = cost.size_table([other, costs[3]])
  titles = [column.title for column in found.columns][2:7]
  assert titles == ["backbone", "fusion", "BN buffers", "gates", "heads"]
  assert [row[2:7] for row in found.rows] == [(5, 3, 0, None, None), (1000, None, 7, 30, 20)]
  with style.look():
    drawing = cost_figure.figure([other], scores)
  assert [t.get_text() for t in drawing.legends[0].get_texts()] == [cost_lib.WHOLE]
