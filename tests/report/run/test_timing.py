"""Tests of the section on time, with numbers worked out by hand."""

from __future__ import annotations

import json
import shutil

import pytest

from dynashare_jax.report import workdir as workdir_lib
from dynashare_jax.report.run import timing


@pytest.fixture
def made(workdir, tmp_path):
  """Makes the section of a run with some training lines."""

  def make(*lines):
    shutil.copy(workdir / "results.json", tmp_path)
    (tmp_path / "metrics.jsonl").write_text(
      "".join(
        json.dumps(
          {
            "step": step,
            "phase": phase,
            "candidate": -1,
            "cycle": 0,
            "kind": "train",
            "values": values,
          }
        )
        + "\n"
        for step, (phase, values) in enumerate(lines)
      )
    )
    return timing.section(workdir_lib.load(tmp_path))

  return make


def _values(input_, host, device, **more):
  return {
    "time/step": input_ + host + device,
    "time/input_wait": input_,
    "time/host": host,
    "time/device_wait": device,
    **{f"time/{k}": v for k, v in more.items()},
  }


def test_a_run_that_did_not_measure(made):
  text = made(("warmup", {"loss/total": 1.0}))
  assert text == (
    "## Time\n\n754 s of training and validation; median step: warmup 210 ms,"
    " weights 250 ms, policy 270 ms, retrain 180 ms. Peak memory 1.90 GB. jax"
    " 0.10.2, python 3.11."
  )


def test_a_row_a_phase(made):
  """Medians of 5, 10 and 90 ms of input in steps of 50 ms and more."""
  text = made(
    ("warmup", _values(0.010, 0.005, 0.035)),
    ("warmup", _values(0.005, 0.005, 0.040)),
    ("warmup", {"loss/total": 1.0}),  # the first dispatch alone
    ("warmup", _values(0.090, 0.005, 0.005)),
    ("retrain", _values(0.001, 0.001, 0.0)),
  )
  rows = [line for line in text.splitlines() if line.startswith("|")]
  assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[:1] + rows[2:]] == [
    ["phase", "step (ms)", "waits for batches (%)", "host (%)", "waits for devices (%)"],
    ["warmup", "50.0", "20", "10", "70"],
    ["retrain", "2.0", "50", "50", "0"],
  ]
  assert "Skew" not in text


def test_skew_of_several_processes(made):
  text = made(
    ("warmup", _values(0.01, 0.01, 0.0, skew=0.004)),
    ("warmup", _values(0.01, 0.01, 0.0, skew=0.008)),
  )
  assert "| skew (ms) |" in text and text.split()[-2:] == ["6.0", "|"]
  assert "the slowest process needs" in text
