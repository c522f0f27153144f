"""The report of a run: numbers, warning, links, and what may be missing."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.run import figures
from dynashare_jax.report.run import report
from dynashare_jax.report.run import served as of_served


def copy(workdir, target, **changes):
  """The run's results with some top-level values changed, alone."""
  results = json.loads((workdir / "results.json").read_text()) | changes
  (target / "results.json").write_text(json.dumps(results))
  return target


def table(text, title):
  """Cells of the first table under a heading."""
  part = text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
  rows = [line for line in part.splitlines() if line.startswith("|")]
  return [[c.strip() for c in row.strip("|").split("|")] for row in (rows[0], *rows[2:])]


@pytest.fixture(scope="module")
def text(workdir, tmp_path_factory):
  """The report of a run with every file."""
  target = copy(workdir, tmp_path_factory.mktemp("report"))
  for name in ("policy.json", "metrics.jsonl", "predictions.npz", "config.json"):
    (target / name).write_bytes((workdir / name).read_bytes())
  path = report.write_report(target)
  assert path == target / "report.md"
  found = path.read_text(encoding="utf-8")
  links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", found)
  assert len(links) == 11 and all((target / link).is_file() for link in links)
  return found


def test_the_headline_names_the_run_and_what_it_reached(text):
  assert text.startswith("# dynashare on rooms, seed 0\n")
  line = text.splitlines()[2]
  assert "segmentation miou 40.00 %" in line and "8.000 %" in line
  assert "depth abs 0.5000 m" in line and "55.0%" in line


def test_metrics_on_both_splits_beside_a_constant(text):
  rows = table(text, "Metrics")
  assert ["normals", "mean ↓", "deg", "20.00", "20.20", "38.00"] in rows
  assert ["segmentation", "miou ↑", "%", "40.00", "40.40", "8.000"] in rows
  assert len(rows) == 1 + 5


def test_the_balance_of_the_kept_retraining(text):
  """Weights of `normals` run from 0.62 to 1 over ages of 120 to 500."""
  rows = table(text, "Balance over time")
  assert rows[1] == ["segmentation", "1.000", "1.000", "1.000", "2.000", "2.000"]
  assert rows[2] == ["normals", "0.8100", "0.6200", "1.000", "4.000", "3.240"]
  told = text.split("## Balance over time\n")[1]
  assert "`nash`" in told and "phase `retrain`" in told
  assert "two tasks: 0.25, below 0 in 25% of these steps" in told


def test_losses_follow_the_metrics(workdir, tmp_path):
  tasks = json.loads((workdir / "results.json").read_text())["tasks"]
  tasks[0]["loss"] = {"test": 0.5, "validation": 0.25}
  text = report.write_report(copy(workdir, tmp_path, tasks=tasks)).read_text()
  rows = table(text, "Metrics")
  assert len(rows) == 1 + 6
  assert [tasks[0]["name"], "loss ↓", "", "0.5000", "0.2500", "–"] in rows


def test_delta_of_every_task_and_overall(text):
  rows = table(text, "Delta over single-task networks")
  assert rows[1:] == [
    ["segmentation", "+4.00"],
    ["normals", "+3.00"],
    ["depth", "−1.00"],
    ["mean", "+2.00"],
  ]
  assert "../single-0" in text


def test_execution_rates_and_targets_of_gated_blocks(text):
  rows = table(text, "Execution rate")
  assert rows[1] == ["segmentation", "100", "100", "0", "100", "58", "0", "51", "62", "58.9"]
  assert rows[-1] == ["target"] + ["–"] * 4 + ["55"] * 4 + ["–"]


def test_candidates_with_the_kept_one_marked(text):
  rows = table(text, "Candidates")
  assert [row[0] for row in rows[1:]] == ["0", "1 (kept)", "2"]
  assert rows[2][1] == "**0.6800**" and rows[2][2] == "17 of 24"


def test_parameters_with_and_without_heads(text):
  rows = dict(table(text, "Size")[1:])
  assert rows["without heads"] == "11,024,256"
  assert rows["with heads"] == "13,024,256"
  assert rows["batch-norm buffers (not trained)"] == "9,600"


def test_both_ways_to_serve(workdir, tmp_path):
  served = {"together": {"work": 1.25, "ms": 3.0}, "apart": {"work": 0.75, "ms": 6.5}}
  unmeasured = {serve: {"work": found["work"], "ms": None} for serve, found in served.items()}
  shown = lambda told: of_served.section(workdir_lib.load(copy(workdir, tmp_path, served=told)))
  text = shown(unmeasured)
  title = "Served together and apart"
  assert table(text, title)[1:] == [["together", "125.0"], ["apart", "75.0"]]
  assert "redicted:" not in text and "Measured:" not in text
  (tmp_path / "cost.csv").write_text(
    "scope,execution,batch,seconds_median\n"
    "all tasks,planned,2,0.004\nsegmentation,planned,2,0.001\nnormals,planned,2,0.002\n"
  )
  served |= {"batch": 1, "device": "a CPU"}
  text = shown(served)
  assert table(text, title)[1:] == [
    ["together", "125.0", "3.000", "4.000"],
    ["apart", "75.0", "6.500", "3.000"],
  ]
  assert "blocks timed on a CPU, batch 1." in text and "Measured: planned, batch 2" in text


def test_selection_on_test_is_warned_of_before_any_number(workdir, tmp_path):
  plain = report.write_report(copy(workdir, tmp_path)).read_text()
  assert "test split" not in plain.split("## Metrics")[0]
  warned = report.write_report(copy(workdir, tmp_path, compat={"selection": "test"})).read_text()
  top = warned.split("## Metrics")[0]
  assert "selected on the test split" in top and "> [!CAUTION]\n> 🔴" in top


def test_missing_parts_are_skipped(workdir, tmp_path):
  found = report.write_report(
    copy(workdir, tmp_path, delta=None, candidates=[], macs=None, notes=[])
  )
  text = found.read_text()
  for title in ("Delta", "Candidates", "Notes", "Learning curves", "Predictions", "Served"):
    assert f"## {title}" not in text
  assert "Multiply-accumulates" not in text


def test_a_metric_without_a_value_prints_a_dash(workdir, tmp_path):
  tasks = json.loads((workdir / "results.json").read_text())["tasks"]
  tasks[0]["metrics"][0]["test"] = None
  text = report.write_report(copy(workdir, tmp_path, tasks=tasks)).read_text()
  assert table(text, "Metrics")[1][3] == "–"


def test_an_unfinished_run_says_what_to_do(tmp_path):
  with pytest.raises(ValueError, match="has not finished"):
    report.write_report(tmp_path)


def test_a_method_without_a_policy_has_its_own_groups_and_sections(tmp_path, make):
  score = {"name": "f1", "higher_is_better": True, "unit": "%", "test": 50.0, "constant": 20.0}
  results = {
    "dataset": "toy",
    "method": "experts",
    "seed": 3,
    "tasks": [{"name": "a", "kind": "binary", "metrics": [score]}],
    "parameters": {"experts": 1000, "mixture": 20},
    "macs": {"total": 3.5e6, "per_example_all_blocks": None},
    "candidates": [{"index": k, "score": 0.5 + k} for k in range(2)],
    "chosen": 1,
    "sections": [{"title": "Experts", "text": "Task a uses expert **2**."}],
    "execution": None,
  }
  rows = [
    {"step": s, "phase": phase, "cycle": s // 4, "kind": "train", "values": {"loss/a": 1 / s}}
    for s, phase in enumerate(["warmup", "left", "right"] * 4, 1)
  ]
  folder = make(tmp_path, results=results, lines=rows)
  text = report.write_report(folder).read_text()
  assert text.startswith("# experts on toy, seed 3\n") and "triples" not in text
  assert dict(table(text, "Size")[1:]) == {"experts": "1,000", "mixture": "20", "all": "1,020"}
  assert "Multiply-accumulates of one example: 3.50 M." in text
  assert "## Experts\n\nTask a uses expert **2**.\n" in text
  assert table(text, "Candidates")[1:] == [["0", "0.5000"], ["1 (kept)", "**1.500**"]]
  drawn = [path.name for path in (folder / "figures").iterdir()]
  assert drawn == ["learning_curves.png"]
  for gone in ("Execution rate", "Time", "Notes", "Policy and route", "Instance gates"):
    assert f"## {gone}" not in text


def test_names_of_any_kind_are_written_and_drawn(workdir, tmp_path):
  """Names are no mathematics, no HTML, no headings and no formulas."""
  results = json.loads((workdir / "results.json").read_text())
  first = results["tasks"][0]
  first["classes"] = ["$x^{$", "<script>", "[x](javascript:y)", "line\n\n# Heading", "=cmd", "%"]
  first["metrics"][0]["unit"] = "$y_{$"
  results["notes"] = ["a\n# note"]
  (tmp_path / "results.json").write_text(json.dumps(results))
  found = report.write_report(tmp_path).read_text(encoding="utf-8")
  assert (tmp_path / "figures" / "classes.png").is_file()
  assert "$x^{$" in found and "&lt;script>" in found and "<script>" not in found
  assert "](javascript" not in found
  assert not [line for line in found.splitlines() if line.startswith(("# Heading", "# note"))]


def test_a_figure_that_cannot_be_drawn_is_a_warning(workdir, tmp_path, monkeypatch):
  warned = []
  monkeypatch.setattr(
    figures.logging, "warning", lambda text, *values: warned.append(text % values)
  )

  def bad(run):
    raise TypeError("of a font")

  two = figures.PLOTS[:1] + (dataclasses.replace(figures.PLOTS[-1], draw=bad),)
  monkeypatch.setattr(figures, "PLOTS", two)
  copy(workdir, tmp_path)
  report.write_report(tmp_path)
  assert warned == ["Classes is left out: TypeError: of a font"]


@pytest.mark.parametrize(
  ("name", "value"),
  [("tasks", None), ("notes", 7), ("sections", [{}]), ("versions", None), ("delta", 5)],
)
def test_results_that_say_something_else_are_one_line(workdir, tmp_path, monkeypatch, name, value):
  monkeypatch.setattr(report.figures, "write_figures", lambda run: ())
  copy(workdir, tmp_path, **{name: value})
  with pytest.raises(
    ValueError, match="do not fit together .*results.json or policy.json"
  ) as error:
    report.write_report(tmp_path)
  assert str(tmp_path) in str(error.value)
