"""Tests of the recording of a few steps."""

from __future__ import annotations

import gzip
import json
import logging

import jax
import pytest

from dynashare_jax.monitoring import profiler
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import stages

SHORT = {
  "method": "hard",
  "train__steps": 8,
  "train__log_every": 2,
  "train__eval_every": 8,
  "train__checkpoint_every": 8,
}


def _record(loop):
  """Events of the one recording that a loop leaves."""
  stages.run(loop)
  (path,) = (loop.workdir / "profile" / "process-0").glob(
    "plugins/profile/*/perfetto_trace.json.gz"
  )
  with gzip.open(path) as file:
    return path, json.load(file)["traceEvents"]


def test_a_run_leaves_a_recording(build, tmp_path, capsys):
  """Three steps after the first, with what was waited for in each."""
  path, events = _record(loop_lib.Loop(build(**SHORT), tmp_path, 3))
  steps = [e for e in events if e.get("name") == profiler.STEP]
  assert [e["args"]["step_num"] for e in steps] == ["2", "3", "4"]
  batches = [e for e in events if e.get("name") == "wait for a batch"]
  assert len(batches) == 3
  for step, batch in zip(steps, batches, strict=True):
    assert step["ts"] <= batch["ts"]
    assert batch["ts"] + batch["dur"] <= step["ts"] + step["dur"]
  assert any(e.get("name") == "wait for the devices" for e in events)
  told = capsys.readouterr().err
  assert f"Profile of steps 2 to 4: {path}\n" in told
  assert "https://ui.perfetto.dev" in told


@pytest.fixture
def recorder(monkeypatch):
  """What jax's profiler was asked for."""
  calls = []
  monkeypatch.setattr(
    jax.profiler, "start_trace", lambda folder, **kw: calls.append(("start", folder))
  )

  def stop():
    folder = calls[-1][1] / "plugins" / "profile" / "now"
    folder.mkdir(parents=True)
    (folder / "perfetto_trace.json.gz").touch()
    calls.append(("stop", folder))

  monkeypatch.setattr(jax.profiler, "stop_trace", stop)
  return calls


def _steps(made, phases, size=1):
  """Runs phases of some steps; what is recorded: (first, last)."""
  step, recorded = 0, []
  for steps in phases:
    for place in range(0, steps, size):
      made.begin(step, steps - place, place == 0)
      made.before()
      recorded += [step + 1] if made._recording else []
      step += size
      made.after(None, size)
  made.close()
  return recorded


@pytest.mark.parametrize(
  "phases, size, wanted",
  [
    ((9,), 1, [2, 3, 4]),
    ((3, 1, 3, 4, 9), 1, [9, 10, 11]),  # the first with 3 after its first
    ((8, 16), 4, [5]),  # a dispatch has four steps
    ((3, 2), 1, []),
  ],
)
def test_the_second_dispatch_of_a_phase_with_enough_steps(
  tmp_path, recorder, caplog, phases, size, wanted
):
  made = profiler.Profiler(tmp_path, 3)
  assert _steps(made, phases, size) == wanted
  assert [name for name, _ in recorder] == ["start", "stop"] * bool(wanted)
  missed = "No profile was recorded: no phase had 3 steps left" in caplog.text
  assert missed == (not wanted)


def test_a_recording_that_a_run_cuts_short(tmp_path, recorder):
  made = profiler.Profiler(tmp_path, 5)
  for step in range(3):
    made.begin(step, 9 - step, step == 0)
    made.before()
    made.after(None, 1)
  made.before()  # An error while a batch is read.
  made.close(failed=True)
  assert [name for name, _ in recorder] == ["start", "stop"]
  assert _steps(profiler.Profiler(tmp_path / "b", 2), (9,)) == [2, 3]


def test_none_is_wanted(tmp_path, recorder, caplog):
  assert _steps(profiler.Profiler(tmp_path / "x"), (9,)) == []
  assert not recorder and not (tmp_path / "x").exists() and not caplog.text
  with pytest.raises(ValueError, match="number of steps, not -1"):
    profiler.Profiler(tmp_path, -1)


@pytest.mark.parametrize("where", ["start", "stop"])
def test_what_goes_wrong_is_one_warning(tmp_path, recorder, caplog, monkeypatch, where):
  if where == "start":
    (tmp_path / "x").write_text("")  # A file where the folder should be.
  else:

    def full():
      raise OSError(28, "No space left on device")

    monkeypatch.setattr(jax.profiler, "stop_trace", full)
  _steps(profiler.Profiler(tmp_path / "x", 2), (9, 9))
  said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
  assert len(said) == 1
  assert said[0].startswith(f"No profile could be recorded in {tmp_path / 'x'}: ")
  monkeypatch.undo()  # Another may record afterwards.
  assert profiler._busy.acquire(blocking=False)
  profiler._busy.release()


def test_one_recording_at_a_time(tmp_path, recorder):
  """Threads of one process that train candidates at once."""
  first, second = (profiler.Profiler(tmp_path / n, 2) for n in "ab")
  for made in (first, second):
    made.begin(0, 5, True)
    made.after(None, 1)
  first.before()
  second.before()
  assert [name for name, _ in recorder] == ["start"]
  first.close()
  second.before()
  assert [name for name, _ in recorder] == ["start", "stop", "start"]
  second.close()
