"""Tests of metric files and progress."""

from __future__ import annotations

import io
import math
import struct

import numpy as np
from tensorboardX.proto import event_pb2

from dynashare_jax.monitoring import logs


def _events(path):
  """Reads TensorBoard events: length, checksum, event, checksum."""
  data, place = path.read_bytes(), 0
  while place < len(data):
    (length,) = struct.unpack("<Q", data[place : place + 8])
    yield event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
    place += 16 + length


def _write(log: logs.MetricLog, steps: range) -> None:
  for step in steps:
    log.write(step, "warmup", -1, 0, "train", {"loss/total": step / 7})


def test_lines_come_back(tmp_path):
  with logs.MetricLog(tmp_path) as log:
    log.write(3, "policy", 1, 2, "eval", {"a": np.float32(0.5), "b": float("nan")})
    log.write(4, "policy", -1, 2, "alpha", {"alpha": np.eye(2)})
    lines = logs.read(tmp_path)  # While it is open.
  assert lines[0]["step"] == 3 and lines[0]["phase"] == "policy"
  assert lines[0]["candidate"] == 1 and lines[0]["cycle"] == 2
  assert lines[0]["kind"] == "eval"
  assert lines[0]["values"]["a"] == 0.5 and math.isnan(lines[0]["values"]["b"])
  assert lines[1]["values"]["alpha"] == [[1.0, 0.0], [0.0, 1.0]]
  assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
  assert list((tmp_path / "tensorboard").iterdir())


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
  with logs.MetricLog(tmp_path / "one") as log:
    log.rewind(-1)
    _write(log, range(1, 11))
  with logs.MetricLog(tmp_path / "two") as log:
    _write(log, range(1, 8))
  path = tmp_path / "two" / "metrics.jsonl"
  with open(path, "a", encoding="utf-8") as file:
    file.write('{"step": 8, "pha')
  with logs.MetricLog(tmp_path / "two") as log:
    log.rewind(5)
    _write(log, range(6, 11))
  assert path.read_bytes() == (tmp_path / "one/metrics.jsonl").read_bytes()


def test_rewind_to_the_beginning_and_without_a_file(tmp_path):
  with logs.MetricLog(tmp_path) as log:
    log.rewind(4)
    _write(log, range(3))
    log.rewind(-1)
  assert logs.read(tmp_path) == []
  assert logs.read(tmp_path / "nothing") == []


def test_tensorboard_purges_later_steps(tmp_path):
  with logs.MetricLog(tmp_path) as log:
    _write(log, range(3))
    log.rewind(1)
    _write(log, range(2, 3))
  files = sorted((tmp_path / "tensorboard").iterdir())
  assert len(files) == 2
  steps = [[(e.step, e.session_log.status) for e in _events(file)] for file in files]
  assert [step for step, _ in steps[0]] == [0, 0, 1, 2]  # First: file version.
  assert (2, 1) in steps[1]  # A session that starts at step 2.


def test_damaged_line_is_left_out(tmp_path, caplog):
  with logs.MetricLog(tmp_path) as log:
    _write(log, range(3))
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text().replace('"step": 1', '"step" 1'))
  assert [line["step"] for line in logs.read(tmp_path)] == [0, 2]


def test_inactive_writes_nothing(tmp_path):
  with logs.MetricLog(tmp_path / "run", active=False) as log:
    log.rewind(0)
    _write(log, range(3))
  assert not (tmp_path / "run").exists()


class _Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


def test_progress_prints_a_line_now_and_then():
  now = [0.0]
  out = io.StringIO()
  with logs.Progress(
    100, start_step=10, every_seconds=5, file=out, clock=lambda: now[0]
  ) as progress:
    assert math.isnan(progress.update(10, "warmup", {}))
    for step in range(11, 21):
      now[0] += 1.0
      speed = progress.update(step, "warmup", {"depth": 0.5}, examples=8)
  assert speed == 8.0
  lines = out.getvalue().splitlines()
  assert len(lines) == 3  # At seconds 0, 5 and 10.
  assert "warmup  step 20/100  depth 0.5" in lines[-1]
  assert "8 examples/s  0:01:20 left" in lines[-1]


def test_progress_bar_on_a_terminal():
  out = _Terminal()
  with logs.Progress(10, file=out) as progress:
    progress.update(10, "policy", {"a": 1.0}, examples=2)
  assert "policy" in out.getvalue() and "10/10" in out.getvalue()


def test_inactive_progress_is_silent():
  out = io.StringIO()
  logs.Progress(10, file=out, active=False).update(10, "x", {})
  assert out.getvalue() == ""
