"""Reading a work directory: missing, torn and doubled content."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dynashare_jax.report import workdir as workdir_lib


def line(step, value, kind="train", candidate=-1):
  """A row of metrics.jsonl."""
  return {
    "step": step,
    "phase": "warmup",
    "candidate": candidate,
    "cycle": 0,
    "kind": kind,
    "values": {"loss/total": value},
  }


def test_all_parts_are_read(workdir):
  run = workdir_lib.load(workdir)
  assert run.tasks == ("segmentation", "normals", "depth")
  assert run.alpha.shape == run.rates.shape == run.route.shape == (3, 8)
  assert run.routes.shape == (3, 3, 8) and run.chosen == 1
  assert run.route[0].tolist() == [1, 1, 0, 1, 1, 0, 1, 1]
  assert run.gated.tolist() == [False] * 4 + [True] * 4
  assert run.task("depth")["kind"] == "depth" and run.task("nothing") == {}
  assert "prediction/depth" in run.predictions


def test_an_empty_directory_is_an_empty_run(tmp_path):
  run = workdir_lib.load(tmp_path)
  assert run.tasks == () and run.lines == () and not run.predictions
  assert run.alpha is run.route is run.rates is run.gated is None
  assert run.target_rates is None and run.chosen == 0


def test_torn_lines_are_dropped_and_one_before_the_last_is_warned_of(tmp_path, caplog):
  whole = json.dumps(line(1, 2.0))
  file = tmp_path / "metrics.jsonl"
  file.write_text(whole + "\n" + whole[:20])
  assert len(workdir_lib.load(tmp_path).lines) == 1 and not caplog.text
  file.write_text(whole[:20] + "\n" + whole + "\n")
  assert len(workdir_lib.load(tmp_path).lines) == 1
  assert "metrics.jsonl line 1 is damaged and left out" in caplog.text


def test_a_resumed_run_counts_a_step_once_and_the_later_row(tmp_path, make):
  make(
    tmp_path,
    lines=[
      line(1, 5.0),
      line(2, 4.0),
      line(2, 3.0),
      line(2, 9.0, "eval"),
      line(2, 7.0, candidate=0),
    ],
  )
  rows = workdir_lib.load(tmp_path).lines
  assert [row["values"]["loss/total"] for row in rows] == [5.0, 3.0, 9.0, 7.0]


def test_rows_without_a_finite_number_are_left_out():
  rows = [line(1, None), line(2, float("nan")), line(3, 1.0)]
  found = workdir_lib.select(rows, "train", "loss/total")
  assert [row["step"] for row in found] == [3]
  assert workdir_lib.select(rows, "train", "loss/x") == []
  assert len(workdir_lib.select(rows, "train")) == 3


def test_null_targets_are_nan(tmp_path, make):
  make(tmp_path, policy={"tasks": ["a"], "alpha": None, "target_rates": [None, 0.5]})
  rates = workdir_lib.load(tmp_path).target_rates
  assert np.isnan(rates[0]) and rates[1] == 0.5


def test_no_directory_and_damaged_json_say_what_to_do(tmp_path):
  with pytest.raises(ValueError, match="no work directory"):
    workdir_lib.load(tmp_path / "absent")
  for content in (b"", b"x"):
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"predictions.npz holds no predictions .* Delete it and"):
      workdir_lib.load(tmp_path)
  (tmp_path / "results.json").write_text("{")
  with pytest.raises(ValueError, match="results.json is not valid JSON"):
    workdir_lib.load(tmp_path)
