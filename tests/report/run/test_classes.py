"""Intersection over union of every class: order, table, file, figures."""

from __future__ import annotations

import copy
import csv

import numpy as np
import pytest

from dynashare_jax.report import style
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.compare import class_comparison
from dynashare_jax.report.compare import comparison
from dynashare_jax.report.run import classes
from dynashare_jax.report.run import report

ORDER = ["wall", "floor", "chair", "window", "table", "lamp"]


@pytest.fixture(scope="module")
def run(workdir):
  """The complete run."""
  return workdir_lib.load(workdir)


def changed(run, method="dynashare", seed=0, iou=None, details=True):
  """A run with other numbers in its results, in memory."""
  results = copy.deepcopy(run.results) | {"method": method, "seed": seed}
  if iou is not None:
    results["tasks"][0]["details"]["iou"] = iou
  if not details:
    del results["tasks"][0]["details"]
  return workdir_lib.Run(run.path, results, {}, {}, (), {})


def test_the_most_frequent_class_comes_first(run):
  found = classes.of(run, "segmentation")
  assert list(found.names) == ORDER
  assert found.share.tolist() == [45, 30, 12, 10.005, 2.995, 0]
  np.testing.assert_array_equal(found.iou, [50, 60, 30, 40, 10, np.nan])
  assert classes.of(run, "depth") is None
  assert [one.task for one in classes.all_of(run)] == ["segmentation"]


def test_bars_have_the_lengths_of_the_numbers(run):
  with style.look():
    left, right = classes.figure(run).axes
  assert [p.get_width() for p in left.patches] == [45, 30, 12, 10.005, 2.995, 0]
  assert [p.get_width() for p in right.patches] == [50, 60, 30, 40, 10, 0]
  assert [t.get_text() for t in left.get_yticklabels()] == ORDER
  assert [t.get_text() for t in right.texts][-1] == "does not occur"
  assert right.get_title("left") == "segmentation: IoU (%), mean 38.0"
  assert left.get_ylim()[0] > left.get_ylim()[1], "the first class is on top"


def test_a_table_of_few_classes_needs_no_file(run, tmp_path, make):
  old = tmp_path / "classes-segmentation.csv"
  old.write_text("of an earlier run")
  target = make(tmp_path, results=run.results)
  text = classes.section(workdir_lib.load(target))
  assert text.startswith("## Classes of segmentation\n")
  rows = [line.split("|")[1:-1] for line in text.splitlines()[2:]]
  cells = [[cell.strip() for cell in row] for row in rows]
  assert cells[2] == ["wall", "45.00", "90.00", "50.00"]
  assert cells[-1] == ["lamp", "0.00", "–", "–"]
  assert not old.exists()


def test_many_classes_go_to_a_file(run, tmp_path, make):
  results = copy.deepcopy(run.results)
  share = np.arange(33.0)
  results["tasks"][0] |= {
    "classes": [],
    "details": {
      "share": (100 * share / share.sum()).tolist(),
      "iou": [None, *(2.5 * share[1:]).tolist()],
    },
  }
  path = report.write_report(make(tmp_path, results=results))
  text = path.read_text()
  part = text.split("## Classes of segmentation\n")[1].split("\n## ")[0]
  assert part.count("\n| class ") == 1 + 20  # the heading and 20 classes
  assert "20 most frequent of 33 classes" in part
  assert "(classes-segmentation.csv)" in part
  rows = list(csv.DictReader((tmp_path / "classes-segmentation.csv").read_text().splitlines()))
  assert [row["class"] for row in rows] == [f"class {k}" for k in range(32, -1, -1)]
  assert float(rows[0]["IoU (%)"]) == 80 and rows[-1]["IoU (%)"] == ""
  assert (tmp_path / "figures" / "classes.png").stat().st_size > 10_000


def test_results_without_classes_have_no_section(run):
  plain = changed(run, details=False)
  assert classes.section(plain) == "" and classes.figure(plain) is None


def test_methods_are_means_over_their_seeds(run):
  runs = {
    "hard": [
      changed(run, "hard", 0, [10, 20, 30, None, None, 60.0]),
      changed(run, "hard", 1, [30, 40, 30, 8, None, 60.0]),
    ],
    "old": [changed(run, "old", details=False)],
    "ours": [changed(run)],
  }
  found = class_comparison.means(runs, "segmentation")
  assert list(found) == ["hard", "ours"]
  assert list(found["hard"].names) == ORDER
  np.testing.assert_array_equal(found["hard"].iou, [20, 30, 30, 60, 8, np.nan])
  with style.look():
    left, right = class_comparison.chart(runs, "segmentation").axes
  drawn = {line.get_label(): line.get_xdata().tolist() for line in right.lines}
  assert drawn["ours"][:5] == [50, 60, 30, 40, 10]
  assert drawn["hard"][:5] == [20, 30, 30, 60, 8]
  assert list(right.lines[0].get_ydata()) == list(range(6))
  assert right.get_title("left").endswith("mean over seeds")
  # Colours are those of the methods' places in the table.
  assert right.lines[1].get_color() == style.colour(2)
  assert [t.get_text() for t in left.get_yticklabels()] == ORDER


def test_other_classes_are_not_compared(run):
  other = changed(run, "hard")
  other.results["tasks"][0]["classes"] = ["sky"] * 6
  runs = {"ours": [changed(run)], "hard": [other]}
  assert list(class_comparison.means(runs, "segmentation")) == ["ours"]
  assert class_comparison.chart(runs, "segmentation") is None


def test_the_comparison_links_what_it_drew(run, tmp_path):
  runs = {name: [changed(run, name)] for name in ("single", "hard")}
  text = comparison.write(runs, tmp_path).read_text()
  part = text.split("## segmentation\n")[1].split("\n## ")[0]
  assert "![Classes of segmentation](classes-segmentation.png)" in part
  assert (tmp_path / "classes-segmentation.png").stat().st_size > 10_000
  assert "classes-depth" not in text
  bare = {name: [changed(run, name, details=False)] for name in ("single", "hard")}
  text = comparison.write(bare, tmp_path).read_text()
  assert "classes-" not in text
  assert not (tmp_path / "classes-segmentation.png").exists()
