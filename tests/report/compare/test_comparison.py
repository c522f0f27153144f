"""The table of methods and its chart, against numbers worked by hand."""

from __future__ import annotations

import csv
import dataclasses
import math
import pathlib
from typing import Any

from matplotlib import image as images
import numpy as np
import pytest

from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.compare import comparison
from dynashare_jax.report.compare import comparison_figure
from dynashare_jax.report.compare import gains
from dynashare_jax.report.compare import raw


def made(
  method: str, seed: int, miou: float | None, error: float | None, **more: Any
) -> workdir_lib.Run:
  """A run with one percentage (higher is better) and one error (lower)."""
  results = {
    "dataset": "toy",
    "method": method,
    "seed": seed,
    "finished": True,
    "split": "test",
    "tasks": [
      {
        "name": "seg",
        "kind": "segmentation",
        "metrics": [{"name": "miou", "higher_is_better": True, "unit": "%", "test": miou}],
      },
      {
        "name": "depth",
        "kind": "depth",
        "metrics": [{"name": "abs", "higher_is_better": False, "unit": "m", "test": error}],
      },
    ],
    "parameters": {"backbone": 100, "gates": 20, "heads": 3, "policy": 4, "batch_stats": 1000},
    "execution": {"mean": 0.5 + 0.1 * seed},
    "timing": {"step_seconds": {"warmup": 9.0, "retrain": 0.2}},
  }
  results.update(more)
  return workdir_lib.Run(pathlib.Path(f"runs/{method}-{seed}"), results, {}, {}, (), {})


def three() -> dict[str, list[workdir_lib.Run]]:
  """Seed by seed, not on the means: the levels of the seeds differ a lot."""
  return {
    "hard": [made("hard", 0, 36.0, 0.5), made("hard", 1, 76.0, 0.9)],
    "single": [made("single", 1, 80.0, 1.0), made("single", 0, 40.0, 0.5)],
    "ours": [made("dynashare", 0, 44.0, 0.4), made("dynashare", 1, 80.0, 0.8)],
  }


def cell(table: tables.Table, row: int, group: str, title: str) -> Any:
  for place, column in enumerate(table.columns):
    if (column.group, column.title) == (group, title):
      return table.rows[row][place]
  raise AssertionError(f"no column {group}/{title}")


def test_rows_and_columns_keep_their_order() -> None:
  table = comparison.compare(three())
  assert [row[0] for row in table.rows] == ["hard", "single", "ours"]
  assert [(c.group, c.title) for c in table.columns] == [
    ("", "method"),
    ("seg", "miou"),
    ("depth", "abs"),
    ("Delta", "seg"),
    ("Delta", "depth"),
    ("Delta", "all tasks"),
    ("cost", "mean rank"),
    ("cost", "parameters"),
    ("cost", "executed"),
    ("cost", "step"),
    ("cost", "parameters"),
  ]


def test_mean_and_sample_deviation() -> None:
  found = cell(comparison.compare(three()), 0, "seg", "miou")
  assert found.value == 56.0
  assert found.std == pytest.approx(40.0 / math.sqrt(2))
  alone = {k: runs[:1] for k, runs in three().items()}
  assert cell(comparison.compare(alone), 0, "seg", "miou").std is None


def test_delta_is_against_the_same_seed() -> None:
  table = comparison.compare(three())
  # hard: seg -10 % and -5 %; depth 0 % and +10 %; all -5 % and +2.5 %.
  for name, mean, spread in (("seg", -7.5, 5.0), ("depth", 5.0, 10.0), ("all tasks", -1.25, 7.5)):
    found = cell(table, 0, "Delta", name)
    assert found.value == pytest.approx(mean)
    assert found.std == pytest.approx(spread / math.sqrt(2))
  # ours: seg +10 % and 0 %; depth +20 % and +20 %.
  assert cell(table, 2, "Delta", "all tasks").value == pytest.approx(12.5)
  assert cell(table, 1, "Delta", "seg") == tables.Cell(0.0, digits=2)


def test_no_delta_without_single_task_runs(tmp_path: pathlib.Path) -> None:
  runs = three()
  del runs["single"]
  table = comparison.compare(runs)
  assert "Delta" not in {column.group for column in table.columns}
  (tmp_path / "delta.png").write_bytes(b"of an earlier table")
  text = comparison.write(runs, tmp_path).read_text()
  assert not (tmp_path / "delta.png").exists()
  assert "no single-task runs" in text and "delta.png" not in text


def test_single_is_found_by_its_method() -> None:
  runs = {"columns" if k == "single" else k: v for k, v in three().items()}
  assert gains.baseline(runs) == "columns"
  assert gains.over_single(runs)["hard"]["seg"] == pytest.approx([-10.0, -5.0])


def test_the_share_of_random_routes_that_a_method_beats(tmp_path: pathlib.Path) -> None:
  """Deltas of ours: 15 and 10; of random routes 0, 15, 20 (a half and one of three) and 0."""
  chance = [
    made("random_policy", 0, 40.0, 0.5),
    made("random_policy", 0, 44.0, 0.4),
    made("random_policy", 0, 48.0, 0.4),
    made("random_policy", 1, 80.0, 1.0),
  ]
  runs = three() | {"chance": chance}
  (found,) = gains.over_random(runs).values()
  assert found["ours"] == pytest.approx((50 + 100) / 2)
  assert found["hard"] == pytest.approx((0 + 100) / 2)
  assert math.isnan(found["chance"])
  assert gains.over_random(three()) == {}
  many = three() | {"chance": chance * 2}  # eight runs of two seeds
  assert gains.reliable(many) == {}
  table = comparison.compare(runs)
  assert cell(table, 2, "seeds", "beats random routes").value == pytest.approx(75)
  assert cell(table, 3, "Delta", "all tasks").value == pytest.approx((0 + 15 + 20 + 0) / 4)
  two = comparison.compare(runs | {"later": chance[:2]})  # of other routes, a column of their own
  assert cell(two, 2, "seeds", "beats chance").value == pytest.approx(75)
  assert cell(two, 2, "seeds", "beats later").value == pytest.approx(75)
  text = comparison.write(runs, tmp_path).read_text()
  assert "over 2 seeds (0, 1)" in text and "50 is chance" in text and "Trials" not in text
  again, _ = raw.read(tmp_path / raw.FILE)
  assert gains.over_random(again) == gains.over_random(runs)


def test_ranks_of_the_means() -> None:
  table = comparison.compare(three())
  # miou 56, 60, 62: ranks 3, 2, 1. abs 0.7, 0.75, 0.6: ranks 2, 3, 1.
  ranks = [cell(table, row, "cost", "mean rank").value for row in range(3)]
  assert ranks == [2.5, 2.5, 1.0]


def test_costs() -> None:
  table = comparison.compare(three())
  assert cell(table, 0, "cost", "parameters") == tables.Cell(127.0, digits=0)
  executed = cell(table, 0, "cost", "executed")
  assert executed.value == pytest.approx(55.0)
  assert executed.std == pytest.approx(10 / math.sqrt(2))
  assert cell(table, 0, "cost", "step").value == pytest.approx(0.2)


def test_what_a_network_takes() -> None:
  """In backbones: 1124 without heads of 562 each; of a plan the work that it executes."""
  blocks = {"per_example_all_blocks": [[3e6, 5e6]] * 2, "stem": 1e6, "heads": {"seg": 2e6}}
  served = {"together": {"work": 1.5}, "apart": {"work": 0.75}}
  timing = {"seconds": 90.0, "steps": 300, "peak_memory_gb": 1.25}
  runs = {
    "single": [made("single", 0, 40.0, 0.5, macs={"total": 30e6}, timing=timing)],
    "ours": [made("dynashare", 0, 44.0, 0.4, macs=blocks, served=served, timing=timing)],
  }
  table = comparison.compare(runs)
  columns = [(c.title, c.unit) for c in table.columns]
  value = lambda row, title, unit: table.rows[row][columns.index((title, unit))].value
  assert value(0, "parameters", "backbones") == pytest.approx(2.0)
  assert value(0, "multiply-accumulates", "M") == pytest.approx(30)
  assert value(1, "multiply-accumulates", "M") == pytest.approx(1 + 1.5 * 8 + 2)
  assert value(1, "steps", "") == 300
  assert value(1, "training", "min") == pytest.approx(1.5)
  assert value(1, "memory", "GB") == pytest.approx(1.25)


def test_ranks_are_tested_over_seeds_and_tasks(tmp_path: pathlib.Path) -> None:
  """Seeds 0 and 1, two tasks each; k = 3: 2.343 * sqrt(3 * 4 / (6 * 4))."""
  text = comparison.write(three(), tmp_path).read_text()
  assert "Mean ranks over 4 cases, a seed and a task each: ours 1." in text
  assert "From a difference of 1.66 on" in text


def test_both_ways_to_serve_where_they_are_known(tmp_path: pathlib.Path) -> None:
  work = lambda together, apart: {"together": {"work": together}, "apart": {"work": apart}}
  runs = {
    "hard": [made("hard", seed, 36.0, 0.5, served=work(1.0, 1.0)) for seed in (0, 1)],
    "ours": [made("dynashare", seed, 44.0, 0.4, served=work(1.2 + seed, 0.8)) for seed in (0, 1)],
  }
  table = comparison.compare(runs)
  assert [c.title for c in table.columns][-3:] == ["step", "work, together", "work, apart"]
  assert cell(table, 0, "cost", "work, together") == tables.Cell(100.0, None, 1)
  found = cell(table, 1, "cost", "work, together")
  assert (found.value, found.std) == (pytest.approx(170), pytest.approx(100 / math.sqrt(2)))
  assert cell(table, 1, "cost", "work, apart").value == pytest.approx(80)
  head = "scope,execution,batch,seconds_median\n"
  lines = "".join(
    f"{scope},{way},{batch},{seconds}\n"
    for batch in (4, 8)
    for way, times in (
      ("planned", (9.0, 9.0, 9.0)),
      ("planned + gated", (0.002 * batch, 0.001, 0.0025)),
      ("single-task networks", (7.0, 7.0, 7.0)),
    )
    for scope, seconds in zip(("all tasks", "seg", "depth"), times, strict=True)
  )
  (tmp_path / "cost.csv").write_text(head + lines)
  runs["ours"][0] = dataclasses.replace(runs["ours"][0], path=tmp_path)
  table = comparison.compare(runs)
  assert cell(table, 1, "cost", "together").value == pytest.approx(8.0)
  assert cell(table, 1, "cost", "apart").value == pytest.approx(3.5)
  assert math.isnan(cell(table, 0, "cost", "apart").value)
  text = comparison.write(runs, tmp_path / "out").read_text()
  assert "by `cost`, batch 4" in text and "served the same way" in text


def test_a_missing_seed_and_a_zero_are_left_out_and_told(tmp_path: pathlib.Path) -> None:
  runs = three()
  runs["hard"].append(made("hard", 2, 50.0, 0.5))  # single has no seed 2
  runs["single"][0] = made("single", 1, 0.0, 1.0)
  found = gains.over_single(runs)
  assert found["hard"]["seg"] == pytest.approx([-10.0, np.nan, np.nan], nan_ok=True)
  assert found["hard"]["depth"] == pytest.approx([0.0, 10.0, np.nan], nan_ok=True)
  assert cell(comparison.compare(runs), 0, "Delta", "seg").value == (pytest.approx(-10.0))
  text = comparison.write(runs, tmp_path).read_text()
  assert "hard: Δ seg is not defined in 2 of 3 runs" in text
  assert "over 2 seeds (0, 1); hard over 0, 1, 2" in text


def test_a_metric_without_value_is_a_dash() -> None:
  runs = three()
  runs["ours"] = [made("dynashare", 0, None, 0.4)]
  table = comparison.compare(runs)
  assert math.isnan(cell(table, 2, "seg", "miou").value)
  assert math.isnan(cell(table, 2, "Delta", "all tasks").value)
  assert cell(table, 2, "Delta", "depth").value == pytest.approx(20.0)


def test_selection_on_test_is_told(tmp_path: pathlib.Path) -> None:
  runs = three()
  runs["ours"][0].results["compat"] = {"selection": "test"}
  text = comparison.write(runs, tmp_path).read_text()
  assert "ours was selected on the test split" in text
  assert "hard was selected" not in text


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"dataset": "other"}, "dataset 'other'"),
    ({"split": "validation"}, "split 'validation'"),
    ({"tasks": []}, "other tasks or metrics"),
    ({"finished": False}, "not finished"),
    ({"seed": 1}, "seed twice"),
  ],
)
def test_runs_that_do_not_belong_together(change: dict[str, Any], words: str) -> None:
  runs = three()
  runs["ours"][0].results.update(change)
  with pytest.raises(ValueError, match=words):
    comparison.compare(runs)


def test_a_method_without_runs_is_named() -> None:
  with pytest.raises(ValueError, match="none of ours"):
    comparison.compare(three() | {"ours": []})
  with pytest.raises(ValueError, match="at least one"):
    comparison.compare({})


def test_written_files_agree(tmp_path: pathlib.Path) -> None:
  path = comparison.write(three(), tmp_path / "new", raw.Told("python -m command", ["a note"]))
  assert path == tmp_path / "new" / "table.md"
  text = path.read_text()
  for words in (
    "python -m command",
    "* a note",
    "2 seeds (0, 1)",
    "## depth",
    "Δ all tasks (%) ↑",
    "**+12.50 ± 3.54**",
    "(delta.png)",
  ):
    assert words in text
  lines = (path.parent / "table.csv").read_text().splitlines()
  rows = list(csv.DictReader(lines))
  assert [row["method"] for row in rows] == ["hard", "single", "ours"]
  assert float(rows[2]["Delta/all tasks (%)"]) == pytest.approx(12.5)
  assert float(rows[0]["seg/miou (%) std"]) == pytest.approx(28.284271)
  latex = (path.parent / "table.tex").read_text()
  assert latex.count(r"\begin{table}") == latex.count(r"\toprule") == 3
  assert r"\textbf{+12.50 $\pm$ 3.54}" in latex


def test_chart_has_a_bar_for_every_method_but_single(tmp_path: pathlib.Path) -> None:
  comparison.write(three(), tmp_path)
  picture = images.imread(tmp_path / "delta.png")[..., :3]
  assert min(picture.shape[:2]) > 150

  def area(index: int) -> int:
    colour = np.array([int(style.colour(index)[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int((np.abs(picture - colour).max(-1) < 0.01).sum())

  assert area(0) > 500 and area(1) > 500  # hard, ours
  assert area(2) < 50


def test_bars_end_at_the_means_and_share_a_scale() -> None:
  found = gains.over_single(three())
  del found["single"]
  with style.look():
    drawing = comparison_figure.chart(found)
  assert drawing is not None
  titles = [axes.get_title("left") for axes in drawing.axes]
  assert titles == ["all tasks", "seg", "depth"]
  for axes, bars in zip(drawing.axes, ([-1.25, 12.5], [-7.5, 5.0], [5.0, 20.0]), strict=True):
    ends = [patch.get_width() for patch in axes.patches]
    assert ends == pytest.approx(bars)
    assert axes.get_xlim() == drawing.axes[0].get_xlim()
    assert axes.get_xlim()[0] < min(bars) and axes.get_xlim()[1] > max(bars)
  words = {text.get_text().strip() for text in drawing.axes[0].texts}
  assert {"single-task", "+12.5"} <= words


def test_chart_of_nothing(tmp_path: pathlib.Path) -> None:
  assert comparison_figure.chart({}) is None
  nothing = {"hard": {"seg": [math.nan], "all tasks": [math.nan]}}
  assert comparison_figure.chart(nothing) is None
  (tmp_path / "delta.png").write_bytes(b"of an earlier table")
  comparison.write({"hard": three()["hard"]}, tmp_path)
  assert not (tmp_path / "delta.png").exists()
