"""The front of gain against cost, and runs to choose among, by hand."""

from __future__ import annotations

import itertools
import json
import math
import pathlib

import pytest
from report.conftest import results

from dynashare_jax.report import style
from dynashare_jax.report import tables
from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.compare import front_figure
from dynashare_jax.report.compare import several

WORK, MS = "work (M)", "time (ms)"


def _point(label: str, kind: str, work: float, ms: float, gain: float) -> front_figure.Point:
  return front_figure.Point(label, kind, {WORK: work, MS: ms}, tables.Cell(gain, 0.3))


POINTS = [
  _point("single", "single", 300, 9.1, 0),
  _point("hard", "hard", 100, 3.2, -2.1),
  _point("hard, half", "hard", 27, 1.4, -5.5),
  _point("weak", "gated", 260, 9.1, 1.2),
  _point("strong", "gated", 120, math.nan, -1.4),
  _point("as strong", "gated", 120, 4.0, -1.4),
  _point("dynashare", "dynashare", 120, 5.8, -1.5),
  _point("no gain", "mtan", 1, 0.1, math.nan),
]


def test_a_front_has_what_no_other_beats():
  assert front_figure.best(POINTS, WORK) == ["hard, half", "hard", "strong", "as strong", "weak"]
  assert front_figure.best(POINTS, MS) == ["hard, half", "hard", "as strong", "weak"]
  assert front_figure.axes_of(POINTS) == [WORK, MS]
  assert front_figure.axes_of(POINTS[-2:]) == []
  assert front_figure.chart(POINTS[-2:], "gain") is None


def test_every_mark_has_a_name_that_covers_no_other():
  with style.look():
    fig = front_figure.chart(POINTS, "gain (%)")
    fig.draw_without_rendering()
  assert [axes.get_xlabel() for axes in fig.axes] == [WORK, MS]
  for axes, count in zip(fig.axes, (7, 6), strict=True):
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert len(boxes) == count and "no gain" not in boxes
    for one, other in itertools.combinations(boxes, 2):
      assert not boxes[one].shrunk(0.95, 0.95).overlaps(boxes[other]), (one, other)
    steps = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
    assert list(steps.get_ydata()) == sorted(steps.get_ydata())


@pytest.fixture
def runs(tmp_path) -> list[workdir_lib.Run]:
  """Two gated runs that differ in a weight, timed, and hard sharing, which nobody timed."""
  found = []
  for label, method, weight, macs, score, ms in (
    ("weak", "gated", 0.01, 8e9, 0.7, 5.0),
    ("strong", "gated", 0.1, 4e9, 0.6, 6.0),
    ("hard", "hard", 0.1, 5e9, 0.5, None),
  ):
    folder = tmp_path / label
    folder.mkdir()
    told = results(method, seed=3)
    told["macs"] = {"total": macs}
    told |= {"candidates": [{"index": 0, "score": score}], "chosen": 0}
    told["delta"] = None
    config = {"seed": 3, "method": method, "gated": {"weight": weight, "inner": True}}
    (folder / "results.json").write_text(json.dumps(told))
    (folder / "config.json").write_text(json.dumps(config))
    if ms:
      rows = (
        f"all tasks,closed channels cut out,1,{ms / 1000}\ndepth,closed channels cut out,1,0.1\n"
      )
      (folder / "cost.csv").write_text("scope,execution,batch,seconds_median\n" + rows)
    found.append(workdir_lib.load(folder))
  return found


def test_runs_to_choose_among(runs, tmp_path):
  path = several.write(runs, tmp_path)
  rows = [line for line in path.read_text().splitlines() if line.startswith("| ")][1:]
  rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
  assert [row[0] for row in rows if set(row[0]) != {"-"}] == ["strong", "hard", "weak"]
  strong, hard, weak = (
    next(r for r in rows if r[0] == name) for name in ("strong", "hard", "weak")
  )
  assert weak[2] == "gated.weight=0.01" and strong[2] == "gated.weight=0.1"
  assert strong[-1] == "multiply-accumulates of an example" and hard[-1] == ""
  assert "together, batch 1" in weak[-1] and "multiply" in weak[-1]
  assert hard[4] == tables.MISSING and float(strong[4]) == 6.0
  assert (tmp_path / "calibration.png").stat().st_size > 1000
  assert (tmp_path / "calibration.csv").is_file()


def test_two_folders_of_one_name_are_refused(runs, tmp_path):
  with pytest.raises(ValueError, match="the same name"):
    several.write([runs[0], runs[0]], tmp_path)
  assert not pathlib.Path(tmp_path / several.PAGE).exists()
