"""Candidates re-trained at once end as those that are re-trained in turn."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import socket
import threading
import time

import jax
import numpy as np
import pytest
from tiny import forks

from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.distributed import preemption
from dynashare_jax.monitoring import logs
from dynashare_jax.train import candidates
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import part as part_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROCESS = ROOT / "tests" / "tiny" / "process.py"
# Candidates 14-20, 20-26 and 26-32; saved at 11, at the ends and at 22.
VALUES = {"policy__candidates": 3, "train__checkpoint_every": 11}


class Stop(Exception):
  """Raised in the middle of a run."""


@pytest.fixture
def before(monkeypatch):
  """Calls a function `(candidate, step)` before every look, in any loop."""
  advance = loop_lib.Loop._advance

  def install(hook):
    def watched(self, index, offset, count, step, *rest):
      hook(self.experiment.method.phases[index].candidate, step)
      return advance(self, index, offset, count, step, *rest)

    monkeypatch.setattr(loop_lib.Loop, "_advance", watched)

  return install


@pytest.fixture(scope="module")
def searched(train, stopped, tmp_path_factory):
  """Fills a folder with a search; gives the run that goes on in turn on some devices."""
  start, kept = tmp_path_factory.mktemp("searched"), {}
  stopped(start, 14, **VALUES)

  def find(folder, devices=1):
    if devices not in kept:
      turn = tmp_path_factory.mktemp("turn") / "run"
      shutil.copytree(start, turn)
      kept[devices] = train(turn, devices, **VALUES)
    shutil.copytree(start, folder, dirs_exist_ok=True)
    return kept[devices]

  return find


def _lines(folder):
  """Metric lines without what measures time."""
  lines = logs.read(folder)
  for line in lines:
    line["values"] = {
      k: v for k, v in line["values"].items() if not k.startswith(("time/", "memory/"))
    }
  return lines


def _ends_like(folder, want, same_bits):
  """What is on disk is what the run in turn left.

  Only the evaluation on test is summed over other devices.
  """
  assert json.dumps(_lines(folder)) == json.dumps(want.lines)
  files = [(f / "policy.json").read_text() for f in (folder, want.folder)]
  assert files[0] == files[1]
  found, other = (json.loads((f / "results.json").read_text()) for f in (folder, want.folder))
  for name in ("candidates", "chosen", "chosen_step"):
    assert found[name] == other[name]
  for task, twin in zip(found["tasks"], other["tasks"], strict=True):
    for metric, like in zip(task["metrics"], twin["metrics"], strict=True):
      np.testing.assert_allclose(metric["test"], like["test"], 1e-6)
  with checkpoint.Checkpoints(folder / "checkpoints", read_only=True) as saved:
    step, state, record = saved.restore(want.state)
  assert step == 32
  same_bits(jax.device_get(state), jax.device_get(want.state))
  assert record["candidates"].keys() == {"0", "1", "2"}
  assert not (folder / "candidates").exists()


def _is_in_turn(got, want, same_bits):
  """A run in this process is the run in turn."""
  same_bits(jax.device_get(got.state), jax.device_get(want.state))
  assert json.dumps(got.loop.candidates) == json.dumps(want.loop.candidates)
  assert list(got.loop.candidates) == [0, 1, 2]
  assert got.loop.step_seconds["retrain"]
  _ends_like(got.folder, want, same_bits)


@pytest.mark.parametrize("each, devices, groups", [(1, 2, 2), (2, 4, 0)])
def test_at_once_is_in_turn(searched, train, same_bits, before, tmp_path, each, devices, groups):
  """Groups of as many devices as the run in turn has in all."""
  want = searched(tmp_path, each)
  threads = {}
  before(lambda candidate, step: threads.setdefault(candidate, threading.get_ident()))
  got = train(tmp_path, devices, train__candidate_groups=groups, **VALUES)
  _is_in_turn(got, want, same_bits)
  assert len(set(threads.values())) == 2  # As many as fit, too.
  assert threads[2] == threads[0]
  curves = list((tmp_path / "tensorboard").iterdir())
  assert len(curves) == 2  # The search's, and all candidates'.


@pytest.mark.parametrize("groups", [1, 2])
def test_a_stop_in_one_candidate(searched, train, same_bits, before, tmp_path, groups):
  """Begun in two groups, gone on in one or two."""
  want = searched(tmp_path)
  ready = threading.Event()

  def stop(candidate, step):
    if candidate == 2:  # Candidate 0 is done.
      ready.set()
    if candidate == 1 and step >= 23:
      assert ready.wait(60)
      raise Stop(f"at {step}")

  before(stop)
  with pytest.raises(Stop, match="at 23"):
    train(tmp_path, 2, train__candidate_groups=2, **VALUES)
  begun = {p.name for p in (tmp_path / "candidates").iterdir()}
  assert begun == {"0", "1", "2"}
  assert not (tmp_path / "results.json").exists()
  first = {}
  before(lambda candidate, step: first.setdefault(candidate, step))
  got = train(tmp_path, groups, train__candidate_groups=groups, **VALUES)
  assert 0 not in first and first[1] == 22 and first[2] >= 26
  _is_in_turn(got, want, same_bits)


def test_in_turn_stays_in_turn(searched, train, same_run, before, tmp_path):
  want = searched(tmp_path, 2)
  begun = []

  def stop(candidate, step):
    if step >= 21:  # Candidate 0 is done, and saved.
      raise Stop

  before(stop)
  with pytest.raises(Stop):
    train(tmp_path, 2, **VALUES)
  before(lambda candidate, step: begun.append((candidate, (tmp_path / "candidates").exists())))
  got = train(tmp_path, 2, train__candidate_groups=2, **VALUES)
  same_run(got, want)
  candidates_of = [number for number, _ in begun]
  assert candidates_of == sorted(candidates_of) and set(candidates_of) == {1, 2}
  assert not any(there for _, there in begun)


@pytest.mark.parametrize("place", ["take", "save", "rmtree"])
def test_a_stop_while_they_are_merged(
  searched, train, same_bits, before, tmp_path, monkeypatch, place
):
  """After the first candidate, before and after the state is saved."""
  want = searched(tmp_path)

  owner = candidates.shutil if place == "rmtree" else loop_lib.Loop
  whole = getattr(owner, place)

  def fail(*given, **named):
    late = given[0] == tmp_path / "candidates" or (
      isinstance(given[0], loop_lib.Loop)
      and given[0].part is None
      and (tmp_path / "candidates" / "2").exists()
    )
    if late:
      raise Stop
    return whole(*given, **named)

  with monkeypatch.context() as patch:
    patch.setattr(owner, place, fail)
    with pytest.raises(Stop):
      train(tmp_path, 2, train__candidate_groups=2, **VALUES)
  assert (tmp_path / "candidates" / "2").is_dir()

  def never(candidate, step):
    raise AssertionError("a trained candidate must not train again")

  before(never)
  got = train(tmp_path, 2, train__candidate_groups=2, **VALUES)
  same_bits(jax.device_get(got.state), jax.device_get(want.state))
  _ends_like(tmp_path, want, same_bits)


def test_told_to_end(searched, train, same_bits, before, tmp_path):
  """All groups stop, with a checkpoint of where they are."""
  want = searched(tmp_path)
  ready = threading.Barrier(2)

  def tell(candidate, step):
    if step in (17, 23):  # Both are in the middle.
      if not ready.wait(60):
        os.kill(os.getpid(), signal.SIGTERM)
      ready.wait(60)

  before(tell)
  with pytest.raises(preemption.PreemptedError, match="told to end while"):
    train(tmp_path, 2, train__candidate_groups=2, **VALUES)
  saved = {}
  for folder in (tmp_path / "candidates").iterdir():
    with checkpoint.Checkpoints(folder / "checkpoints", read_only=True) as one:
      saved[folder.name] = one.latest_step()
  assert saved in ({"0": 18, "1": 24}, {"0": 18, "1": 23}, {"0": 17, "1": 24})
  before(lambda candidate, step: None)
  got = train(tmp_path, 2, train__candidate_groups=2, **VALUES)
  _is_in_turn(got, want, same_bits)


def test_one_that_cannot_be_saved(searched, train, same_bits, before, tmp_path):
  """Saves run in the background of threads; their errors end the run."""
  want = searched(tmp_path)
  folder = tmp_path / "candidates" / "1" / "checkpoints"

  def spoil(candidate, step):
    while candidate == 1 and step == 22 and folder.is_dir():
      if (folder / "22").is_dir():
        folder.rename(folder.with_name("away"))
        folder.write_text("in the way")

  before(spoil)
  with pytest.raises(OSError, match="Could not write .*candidates/1"):
    train(tmp_path, 2, train__candidate_groups=2, **VALUES)
  folder.unlink()
  before(lambda candidate, step: None)
  got = train(tmp_path, 2, train__candidate_groups=2, **VALUES)
  _is_in_turn(got, want, same_bits)


def test_a_damaged_search_does_away_with_its_candidates(
  searched, train, same_bits, before, tmp_path, caplog
):
  """On other devices the search may find other routes."""
  want = searched(tmp_path)

  def stop(candidate, step):
    if candidate == 1:
      raise Stop

  before(stop)
  with pytest.raises(Stop):
    train(tmp_path, 2, train__candidate_groups=2, **VALUES)
  shutil.rmtree(tmp_path / "checkpoints" / "14")
  before(lambda candidate, step: None)
  got = train(tmp_path, 1, **VALUES)
  assert "search is not at its end" in caplog.text
  same_bits(jax.device_get(got.state), jax.device_get(want.state))
  _ends_like(tmp_path, want, same_bits)


def _start(folder, count, number, port):
  values = {**VALUES, "train__candidate_groups": count}
  return forks.Fork(
    *(str(PROCESS), str(folder), str(port), str(count), str(number)),
    TINY_DEVICES="1",
    TINY_CONFIG=json.dumps(values),
  )


def _port():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def _end(*started):
  texts = [process.communicate(timeout=300)[0] for process in started]
  return [process.returncode for process in started], texts


def test_two_processes(searched, same_bits, tmp_path):
  """Each trains by itself; bit for bit as one process in turn."""
  want = searched(tmp_path)
  port = _port()
  codes, texts = _end(*[_start(tmp_path, 2, i, port) for i in range(2)])
  assert codes == [0, 0], texts
  # The whole run, and a candidate each; the third one when the first is done.
  assert [
    [line.split()[-1] for line in text.splitlines() if line.startswith("from step")]
    for text in texts
  ] == [["14", "14", "26"], ["14", "20"]]
  _ends_like(tmp_path, want, same_bits)


MEET = """
import sys, time
import jax
from dynashare_jax.distributed import cluster, mesh, preemption
from dynashare_jax.train import candidates
port, number = sys.argv[1], int(sys.argv[2])
jax.config.update("jax_num_cpu_devices", 1)
with preemption.listen():
  cluster.join(cluster.Place(f"localhost:{port}", 2, number))
  told = False
  if number == 0:
    with preemption.Watch(mesh.make_mesh(jax.local_devices())) as watch:
      print("trains", flush=True)
      while not watch.reached(0):
        time.sleep(0.1)
      told = watch.told
  else:
    print("waits", flush=True)
  print("told", candidates._meet(told), flush=True)
"""


def test_one_that_waits_is_told_to_end():
  """And so are those that train yet."""
  port = _port()
  started = [forks.Fork("-c", MEET, str(port), str(i)) for i in range(2)]
  for process, word in zip(started, ("trains", "waits"), strict=True):
    line = ""
    while word not in line:
      line = process.stdout.readline()
      assert line, "ended early"
  time.sleep(0.5)
  started[1].send_signal(signal.SIGTERM)
  codes, texts = _end(*started)
  assert codes == [0, 0] and all("told True" in text for text in texts), texts


def test_one_candidate_is_never_split_off(build):
  experiment = build(2, method="hard", train__candidate_groups=2)
  assert candidates.layout(experiment, pathlib.Path("nowhere"), 0) == []


@pytest.mark.parametrize(
  "devices, groups, message",
  [
    (4, 3, r"4 devices in 1 process cannot make 3 groups.*\[1, 2, 4\]"),
    (1, 2, r"^1 device in 1 process cannot make 2 groups.*\[1\], or to 0"),
    (4, 4, "candidate_groups=4 is more than the 3 candidates"),
    (4, -1, "candidate_groups must be at least 0, but is -1"),
  ],
)
def test_groups_that_cannot_be(build, devices, groups, message):
  with pytest.raises(ValueError, match=message):
    build(devices, train__candidate_groups=groups, **VALUES)


def test_spans(build):
  assert part_lib.spans(build(**VALUES)) == [range(14, 20), range(20, 26), range(26, 32)]
  assert part_lib.spans(build(method="hard")) == [range(0, 8)]
