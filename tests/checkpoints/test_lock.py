"""Tests of the lock of a work directory."""

from __future__ import annotations

import json
import os
import pathlib
import socket

from absl import logging
import pytest
from tiny import forks

from dynashare_jax.checkpoints import lock

HOLDER = """
import sys
import time
from dynashare_jax.checkpoints import lock
with lock.held(sys.argv[1]):
  print(end="x", flush=True)
  time.sleep(600)
"""


def test_the_second_is_told_who_is_first(tmp_path):
  folder = tmp_path / "a" / "run"
  with lock.held(folder, make=True):
    told = json.loads((folder / lock.LOCK).read_text())
    assert told["host"] == socket.gethostname() and told["pid"] == os.getpid()
    for _ in range(2):  # Refusing leaves all as it is.
      with pytest.raises(ValueError) as error, lock.held(folder):
        raise AssertionError("two writers")
      text = str(error.value)
      assert f"in use by process {os.getpid()} on {socket.gethostname()}, since 2" in text
      assert str(folder) in text and "--workdir" in text and "\n" not in text
  assert not (tmp_path / "a").exists()  # Made for nothing.
  folder.mkdir(parents=True)
  (folder / "config.json").touch()
  with lock.held(folder):
    pass
  assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_killed_process_holds_nothing(tmp_path, monkeypatch):
  warned: list[str] = []
  monkeypatch.setattr(logging, "warning", lambda text, *values: warned.append(text % values))
  with forks.Fork("-c", HOLDER, str(tmp_path)) as child:
    assert child.stdout is not None and child.stdout.read(1) == "x"
    with pytest.raises(ValueError, match=f"process {child.pid} on "), lock.held(tmp_path):
      pass
    child.kill()
  assert (tmp_path / lock.LOCK).is_file()
  with lock.held(tmp_path):
    pass
  assert not warned


@pytest.mark.parametrize("text", ["", "[]", "no JSON", '{"host": 1}'])
def test_a_file_that_says_nothing_is_no_obstacle(text, tmp_path, monkeypatch):
  (tmp_path / lock.LOCK).write_text(text)
  monkeypatch.setattr(lock, "_SOON", 0.1)
  with lock.held(tmp_path):
    (tmp_path / lock.LOCK).write_text(text)
    with pytest.raises(ValueError, match="in use by another process"), lock.held(tmp_path):
      pass


def test_what_another_host_left_is_told_and_not_trusted(tmp_path, monkeypatch):
  warned: list[str] = []
  monkeypatch.setattr(logging, "warning", lambda text, *values: warned.append(text % values))
  left = {"host": "elsewhere", "pid": 7, "since": "2026-01-02 03:04:05+00:00"}
  (tmp_path / lock.LOCK).write_text(json.dumps(left))
  with lock.held(tmp_path):
    assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()
  (line,) = warned
  assert "Process 7 on elsewhere" in line and left["since"] in line and str(tmp_path) in line


def test_file_systems_without_locks_lock_nothing(tmp_path, monkeypatch):
  def without(*unused):
    raise OSError(38, "Function not implemented")

  monkeypatch.setattr(lock, "_flock", without)
  with lock.held(tmp_path), lock.held(tmp_path):
    pass


def test_folders_that_are_not_there_are_not_made(tmp_path):
  with lock.held(tmp_path / "none"):
    assert not (tmp_path / "none").exists()
  (tmp_path / "file").touch()
  with lock.held(tmp_path / "file", make=True):  # Whoever writes there will say so.
    assert pathlib.Path(tmp_path / "file").is_file()


def test_a_file_deleted_by_its_holder_is_no_lock(tmp_path, monkeypatch):
  """A start that opened the file before its holder ended, and locked it after."""
  take, first = lock.take, []

  def late(file):
    if not first:
      first.append(True)
      (tmp_path / lock.LOCK).unlink()
    return take(file)

  monkeypatch.setattr(lock, "take", late)
  with lock.held(tmp_path), pytest.raises(ValueError, match="in use by"), lock.held(tmp_path):
    pass
