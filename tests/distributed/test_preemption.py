"""A run that is told to end saves what it has, and goes on as if it had not."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import types

import jax
from jax._src import distributed
import pytest
from tiny import forks

from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.cli import guard as command
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.distributed import preemption

# Python hears of a signal only after the loop in C, minutes later.
_DEAF = """
import hashlib, sys
from dynashare_jax.distributed import preemption
with preemption.listen("the same command goes on"):
  if sys.argv[1:]:
    preemption.Watch().__enter__()
  print("ready", flush=True)
  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def _until(what, seconds=10):
  """Waits for a signal to arrive; other threads may receive it first."""
  until = time.monotonic() + seconds
  while not what():
    assert time.monotonic() < until
    time.sleep(0.01)


def _tell():
  os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def handler():
  """A handler that a test must leave in its place."""
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  yield
  assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
  signal.signal(signal.SIGTERM, before)
  assert signal.set_wakeup_fd(-1) == -1


def test_a_watch_is_told(handler):
  with preemption.Watch() as watch:
    assert not watch.reached(1)
    _tell()
    _until(lambda: watch.reached(2))
    assert watch.told and watch.reached(3)
  with preemption.Watch() as later:
    assert not later.reached(1)


def test_watches_in_threads_hear_of_the_main_thread(handler):
  """And they leave its handler alone."""
  found = []

  def look():
    with preemption.Watch() as watch:
      ready.set()
      _until(lambda: watch.reached(1))
      found.append(watch.told)

  ready = threading.Event()
  with preemption.listen():
    thread = threading.Thread(target=look)
    thread.start()
    assert ready.wait(10)
    _tell()
    thread.join(20)
    assert found == [True]


def test_a_run_told_to_end_goes_on_bit_for_bit(train, whole, same_run, tmp_path, handler):
  want = whole()

  def told(loop, step):
    if step >= 7:
      _tell()
      time.sleep(0.1)

  with pytest.raises(
    preemption.PreemptedError, match="told to end after step 8 of 26; a checkpoint"
  ):
    train(tmp_path, before_chunk=told)
  with checkpoint.Checkpoints(tmp_path / "checkpoints", read_only=True) as found:
    assert found.latest_step() == 8
  starts = []
  got = train(tmp_path, before_chunk=lambda loop, step: starts.append(step))
  assert starts[0] == 8
  same_run(got, want)


def test_the_command_ends_with_143(capsys, handler):
  def work():
    raise preemption.PreemptedError("told to end after step 3 of 26")

  with pytest.raises(SystemExit) as ended:
    command.run(work, "the same command goes on")
  assert ended.value.code == 143
  assert capsys.readouterr().err == (
    "ended by SIGTERM: told to end after step 3 of 26. The same command goes on.\n"
  )


def test_a_deaf_main_thread_ends_all_the_same():
  """At once before anything is trained, later by the second signal."""
  programs = [forks.Fork("-c", _DEAF, *more, stderr=subprocess.PIPE) for more in ([], ["watch"])]
  try:
    for program in programs:
      assert program.stdout.readline() == "ready\n", program.stderr.read()
      program.send_signal(signal.SIGTERM)
    assert programs[0].wait(10) == 143
    assert programs[0].stderr.read() == ("ended by SIGTERM: the same command goes on\n")
    with pytest.raises(subprocess.TimeoutExpired):
      programs[1].wait(1.2)
    programs[1].send_signal(signal.SIGTERM)
    assert programs[1].wait(10) == 143
    assert programs[1].stderr.read() == (
      "ended by SIGTERM once more, before there was a checkpoint: the same command goes on\n"
    )
  finally:
    for program in programs:
      program.kill()
      program.communicate()


def test_one_group_of_processes_tells_the_others(monkeypatch, handler):
  """Through jax's key-value store, here a dict."""
  group = mesh_lib.make_mesh(jax.devices()[:1])
  store = {}
  client = types.SimpleNamespace(
    key_value_set=lambda key, value, allow_overwrite: store.update({key: value}),
    key_value_try_get=store.__getitem__,
  )
  monkeypatch.setattr(distributed.global_state, "client", client)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(preemption, "_POLL", 0.01)
  with preemption.Watch(group) as told:
    _tell()
    _until(lambda: store)
    assert told.reached(1)
  with preemption.Watch(group) as other:
    _until(lambda: other.reached(1))
  store.clear()
  with preemption.Watch(group) as last:
    assert not last.reached(1)
