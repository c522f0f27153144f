"""A state that is split over the devices trains as one that each has whole."""

from __future__ import annotations

import json
import pathlib
import socket

import jax
import numpy as np
import pytest
from tiny import configs
from tiny import forks

from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.monitoring import logs

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROCESS = ROOT / "tests" / "tiny" / "process.py"
SMALL = 48  # Weights of the tiny network have more numbers, the policy less.
SHORT = configs.SHORT | {"train__warmup_steps": 2}
PICTURES = {
  "method": "hard",
  "balance__name": "nash",
  "data__images": True,
  "train__steps": 4,
  "model__backbone": "resnet",
  "model__blocks": (1,),
  "model__widths": (4,),
  "model__strides": (1,),
  "model__dilations": (1,),
  "gates__target_rates": (1.0,),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
  monkeypatch.setattr(mesh_lib, "SMALL", SMALL)


@pytest.fixture(scope="module")
def both(train, tmp_path_factory):
  """The run of every device has a whole state; the one that splits it."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mesh_lib, "SMALL", SMALL)
    return [
      train(tmp_path_factory.mktemp("run"), 4, train__shard_state=split, **SHORT)
      for split in (False, True)
    ]


def _close(got, want):
  """The same state within 1e-6."""
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
  ):
    np.testing.assert_allclose(a, b, 1e-6, 1e-6, err_msg=jax.tree_util.keystr(path))


def _held(tree):
  """Fraction of every large leaf's numbers that each device holds."""
  return {
    shard.data.size / leaf.size
    for leaf in jax.tree.leaves(tree)
    if leaf.size >= SMALL
    for shard in leaf.addressable_shards
  }


def test_it_changes_nothing(both):
  whole, split = both
  _close(split.state, whole.state)
  np.testing.assert_array_equal(split.state.routes, whole.state.routes)
  for line, twin in zip(split.lines, whole.lines, strict=True):
    assert line["step"] == twin["step"]
    for name, value in line["values"].items():
      np.testing.assert_allclose(value, twin["values"][name], 1e-6, 1e-6)
  assert split.found["chosen"] == whole.found["chosen"]
  for task, twin in zip(split.found["tasks"], whole.found["tasks"], strict=True):
    for metric, other in zip(task["metrics"], twin["metrics"], strict=True):
      np.testing.assert_allclose(metric["test"], other["test"], 1e-6)


def test_every_device_holds_its_part_alone(both):
  whole, split = both
  parts = [split.state.params, split.state.opt, split.state.best.params, split.state.anchor]
  for tree in parts:
    assert _held(tree) == {0.25}
  for tree in (whole.state.params, whole.state.opt, whole.state.best.params):
    assert _held(tree) == {1.0}
  # Both moments of Adam.
  large = [leaf for leaf in jax.tree.leaves(split.state.params) if leaf.size >= SMALL]
  moments = [leaf for leaf in jax.tree.leaves(split.state.opt) if leaf.size >= SMALL]
  assert len(large) >= 2 and len(moments) >= 2 * len(large)


@pytest.mark.parametrize("before", [False, True])
def test_checkpoints_of_one_go_on_in_the_other(both, train, stopped, tmp_path, before):
  stopped(tmp_path, 11, 4, train__shard_state=before, **SHORT, **configs.SAVES)
  with checkpoint.Checkpoints(tmp_path / "checkpoints", read_only=True) as found:
    assert 7 < found.latest_step() < 13
  run = train(tmp_path, 4, train__shard_state=not before, **SHORT, **configs.SAVES)
  _close(run.state, both[0].state)
  assert _held(run.state.best.params) == {1.0 if before else 0.25}


def test_a_flipped_bit_is_found(both, tmp_path):
  """Checksums are those of whole leaves."""
  split = both[1]
  saved = checkpoint.Checkpoints(tmp_path, mesh=split.experiment.mesh)
  saved.save(1, split.state, {})
  saved.close()
  with checkpoint.Checkpoints(tmp_path) as found:
    _, state, _ = found.restore(split.state)
    assert _held(state.params) == {0.25}
    for file in (tmp_path / "1" / "state").rglob("*"):
      if file.is_file() and file.parent.name == "d":
        data = bytearray(file.read_bytes())
        for place in range(len(data) // 2, len(data), 50):
          data[place] ^= 64
        file.write_bytes(data)
    with pytest.raises(checkpoint.DamagedCheckpointError):
      found.restore(split.state)


def test_two_processes(train, tmp_path):
  """Each has a half; results are those of a whole state, balanced by products of gradients."""
  want = train(tmp_path / "one", 2, **PICTURES)
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  values = {**PICTURES, "train__shard_state": True}
  started = [
    forks.Fork(
      *(str(PROCESS), str(tmp_path / "two"), str(port), "2", str(number)),
      TINY_DEVICES="1",
      TINY_SMALL=str(SMALL),
      TINY_CONFIG=json.dumps(values),
    )
    for number in range(2)
  ]
  texts = [process.communicate(timeout=150)[0] for process in started]
  assert [process.returncode for process in started] == [0, 0], texts
  lines = logs.read(tmp_path / "two")
  assert len(lines) == len(want.lines)
  for line, twin in zip(lines, want.lines, strict=True):
    for name, value in twin["values"].items():
      np.testing.assert_allclose(line["values"][name], value, 1e-6, 1e-6)
  folder = tmp_path / "two" / "checkpoints"
  places = json.loads((folder / "4" / "state" / "_sharding").read_text())
  split = [name for name, place in places.items() if "data" in json.loads(place)["partition_spec"]]
  assert len(split) >= 4 * 3  # Of parameters, both moments and the best.
  with checkpoint.Checkpoints(folder, read_only=True) as found:
    _, state, _ = found.restore(want.state)
  _close(state, want.state)
  found = json.loads((tmp_path / "two" / "results.json").read_text())
  for task, twin in zip(found["tasks"], want.results["tasks"], strict=True):
    for metric, other in zip(task["metrics"], twin["metrics"], strict=True):
      np.testing.assert_allclose(metric["test"], other["test"], 1e-5)
  pictures = [np.load(tmp_path / name / "predictions.npz") for name in ("one", "two")]
  assert pictures[0].files == pictures[1].files
  for name in pictures[0].files:
    np.testing.assert_allclose(pictures[1][name], pictures[0][name], 2e-3)
