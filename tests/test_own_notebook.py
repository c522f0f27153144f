"""The notebook about one's own network: its file, and a real execution in a kernel."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
NAME = "own_network.ipynb"


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
  """What every cell printed."""
  folder = tmp_path_factory.mktemp("own_network")
  environment = os.environ | {
    "IPYTHONDIR": str(folder / "ipython"),
    "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
  }
  command = [sys.executable, str(FOLDER / "render.py"), f"--notebook={NAME}"]
  command += [f"--folder={folder / 'here'}", f"--pictures={folder / 'pictures'}"]
  done = subprocess.run(
    [*command, "--cell_seconds=200"], env=environment, cwd=folder, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  executed = nbformat.read(folder / "here" / NAME, as_version=4)
  assert not any(
    output.get("name") == "stderr" for cell in executed.cells for output in cell.get("outputs", ())
  )
  return {
    cell.id: "".join(output.get("text", "") for output in cell.get("outputs", ()))
    for cell in executed.cells
  }


def test_the_file_is_valid_has_no_outputs_and_words_before_code():
  notebook = nbformat.read(FOLDER / NAME, as_version=4)
  nbformat.validate(notebook)
  for before, cell in itertools.pairwise(notebook.cells):
    if cell.cell_type == "code":
      assert before.cell_type == "markdown", cell.id
      assert not cell.outputs and cell.execution_count is None, cell.id
  assert (FOLDER / NAME).read_text("utf-8") == nbformat.writes(notebook) + "\n"


def test_both_tasks_are_learnt(printed):
  assert printed["install"] == ""
  first, last = (re.findall(r"\d\.\d+", line) for line in printed["train"].splitlines())
  assert len(first) == 2
  assert all(float(b) < 0.1 * float(a) for a, b in zip(first, last, strict=True))


def _budgets(printed):
  """The columns of the table of budgets."""
  head, *rows = (line.split("|") for line in printed["budgets"].splitlines())
  assert [name.strip() for name in head] == ["target", "run of hard", "run of easy", "RMSE", "AUC"]
  columns = zip(*[[float(cell.strip(" %")) for cell in row] for row in rows], strict=True)
  return dict(zip(("target", "hard", "easy", "rmse", "auc"), columns, strict=True))


def test_a_small_budget_runs_the_blocks_for_the_hard_examples(printed):
  """Nothing told the gates which they are; all budgets come from one network."""
  found = _budgets(printed)
  assert found["target"] == (1.0, 0.6, 0.4, 0.2)
  assert found["easy"][0] > 65 and found["easy"][-1] < 20 and found["hard"][-1] > 40
  assert max(found["rmse"]) < 0.5 and min(found["auc"]) > 97


def test_the_gain_is_that_of_the_table_and_half_of_the_work_is_left_out(printed):
  rmse = _budgets(printed)["rmse"]
  number, yes, both = map(float, re.findall(r"[+-]\d+\.\d", printed["delta"]))
  assert number == pytest.approx(100 * (rmse[0] - rmse[2]) / rmse[0], abs=0.5)
  assert both == pytest.approx((number + yes) / 2, abs=0.1)
  ran = re.fullmatch(r"the blocks ran for (\d+), (\d+) of 4096 examples\n", printed["only"])
  assert 0 < sum(map(int, ran.groups())) < 0.55 * 2 * 4096
