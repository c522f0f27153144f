"""A run stopped anywhere and started again ends as if it had never stopped."""

from __future__ import annotations

import pathlib
import random
import time

from absl import logging
import jax
import numpy as np
import pytest
from tiny import configs
from tiny import forks

from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.train import results

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Of the tiny run: warm-up 0-4, cycles 4-9 and 9-14, candidates 14-20 and 20-26.
STOPS = (4, 7, 14, 17, 24)


class Stop(Exception):
  """Raised in the middle of a run."""


def _stop_at(step, error=Stop):
  def hook(loop, now):
    if now >= step:
      raise error(f"at {step}")

  return hook


def _steps(folder):
  with checkpoint.Checkpoints(folder / "checkpoints", read_only=True) as found:
    return found.latest_step()


def test_one_stop_after_another_changes_nothing(train, whole, same_run, tmp_path, monkeypatch):
  """At phase borders, in their middle, at candidates' starts, at the end.

  Every stop has a checkpoint close before, from which the run goes on.
  """
  want, saved = whole(), 0
  for stop in STOPS:
    starts = []

    def hook(loop, step, stop=stop, starts=starts):
      starts.append(step)
      _stop_at(stop)(loop, step)

    with pytest.raises(Stop):
      train(tmp_path, before_chunk=hook, **configs.SAVES)
    assert starts[0] == saved
    saved = _steps(tmp_path) or 0
    assert 0 <= stop - saved <= 3
  assert saved == 24
  finish = results.finish

  def fail(*unused):
    raise Stop("trained, but nothing is written")

  monkeypatch.setattr(results, "finish", fail)
  with pytest.raises(Stop):
    train(tmp_path, **configs.SAVES)
  monkeypatch.setattr(results, "finish", finish)

  def never(loop, step):
    raise AssertionError("a trained run must not train again")

  same_run(train(tmp_path, before_chunk=never, **configs.SAVES), want)


def test_ctrl_c_leaves_a_run_that_goes_on(train, whole, same_run, tmp_path):
  want = whole()
  with pytest.raises(KeyboardInterrupt):
    train(tmp_path, before_chunk=_stop_at(17, KeyboardInterrupt), **configs.SAVES)
  assert _steps(tmp_path) == 16
  assert not list((tmp_path / "checkpoints").glob("*tmp*"))
  same_run(train(tmp_path, **configs.SAVES), want)


@pytest.mark.parametrize("damage", ["state", "record"])
def test_damaged_checkpoint_falls_back(train, whole, same_run, tmp_path, damage, monkeypatch):
  """To the step before; the way from there is the same."""
  want = whole()
  with pytest.raises(Stop):
    train(tmp_path, before_chunk=_stop_at(18), **configs.SAVES)
  latest = _steps(tmp_path)
  folder = tmp_path / "checkpoints" / str(latest) / damage
  # Array data lie in folders `d`; beside them are descriptions.
  for file in folder.rglob("*"):
    if file.is_file() and (damage == "record" or file.parent.name == "d"):
      data = bytearray(file.read_bytes())
      for place in range(len(data) // 2, len(data), 50):
        data[place] ^= 64
      file.write_bytes(data)
  warned = []
  monkeypatch.setattr(logging, "warning", lambda *args: warned.append(args))
  starts = []
  got = train(tmp_path, before_chunk=lambda loop, step: starts.append(step), **configs.SAVES)
  assert warned and starts[0] < latest
  same_run(got, want)


def test_checkpoint_of_another_network_is_refused(train, tmp_path):
  with pytest.raises(Stop):
    train(tmp_path, before_chunk=_stop_at(9), **configs.SAVES)
  with pytest.raises(ValueError, match="does not fit.*saved float32"):
    train(tmp_path, model__width=9, **configs.SAVES)


def test_a_killed_run_goes_on(whole, same_bits, tmp_path):
  """`kill -9` at a moment that nothing in the run can foresee."""
  folder = tmp_path / "run"
  want = whole(method="hard", train__steps=26, **configs.SAVES)
  command = str(ROOT / "tests" / "tiny" / "start.py"), str(folder)
  with forks.Fork(*command) as process:
    _wait_for(folder / "metrics.jsonl", 13, process)
    time.sleep(random.Random(7).uniform(0, 0.1))
    assert process.poll() is None, process.stdout.read()
    process.kill()
  again = forks.Fork(*command)
  told, _ = again.communicate(timeout=300)
  assert again.returncode == 0, told
  got = want._replace(folder=folder)
  assert got.lines == want.lines
  assert got.results == want.results
  with checkpoint.Checkpoints(folder / "checkpoints", read_only=True) as found:
    step, state, _ = found.restore(want.state)
  assert step == 26
  same_bits(jax.tree.map(np.asarray, state), jax.tree.map(np.asarray, want.state))


def _wait_for(file, lines, process):
  """Until a file has so many lines."""
  for _ in range(6000):
    if file.exists() and file.read_bytes().count(b"\n") >= lines:
      return
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.02)
  raise AssertionError(f"{file} never had {lines} lines")


@pytest.mark.parametrize("name", ["dwa", "moco", "unit"])
def test_the_state_of_a_balancer_goes_on(train, same_run, tmp_path, name):
  """Told to end between two looks at the gradients, too."""
  often = {"balance__every": 3, "train__steps_per_dispatch": 4} if name == "unit" else {}
  values = {
    **often,
    **configs.SAVES,
    "method": "hard",
    "model__blocks": (1,),
    "gates__target_rates": (1.0,),
    "balance__name": name,
    "balance__smooth": 0.5,
    "data__train": 16,
  }
  want = train(tmp_path / "whole", **values)
  with pytest.raises(Stop):
    train(tmp_path / "stopped", before_chunk=_stop_at(5), **values)
  same_run(train(tmp_path / "stopped", **values), want)
  own = {"moco": {"kept", "told"}, "unit": {"last"}}
  assert set(want.state.balance) == {"algorithm", "smooth"} | own.get(name, set())
  assert all(np.all(leaf) for leaf in want.state.balance["algorithm"].values())
  assert not np.isclose(*want.state.balance["smooth"]["sum"])
