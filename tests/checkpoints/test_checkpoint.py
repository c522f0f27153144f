"""Tests of checkpoints: what a user must be able to rely on."""

from __future__ import annotations

import logging
import math
import pathlib
import subprocess
import time

from absl import logging as absl_logging
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import forks

from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.distributed import mesh as mesh_lib


def _state(step: int, width: int = 300) -> dict:
  key = jax.random.key(step)
  return {
    "params": {"w": jax.random.normal(key, (width,)), "none": None},
    "half": jax.random.normal(key, (7,)).astype(jnp.bfloat16),
    "count": jnp.int32(step),
    "opt": (jnp.zeros((0, 3)), jnp.array([True, False])),
    "host": np.arange(3, dtype=np.int64) + step,
  }


def _assert_same_bits(got, want) -> None:
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert isinstance(a, np.ndarray) == isinstance(b, np.ndarray)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _save(directory, scores: dict[int, float | None], **options) -> None:
  with checkpoint.Checkpoints(directory, **options) as checkpoints:
    for step, score in scores.items():
      checkpoints.save(step, _state(step), {"step": step}, score)


def _steps(directory) -> set[int]:
  return {int(p.name) for p in directory.iterdir() if p.name.isdigit()}


def _largest(folder: pathlib.Path) -> pathlib.Path:
  """The file that holds the array data of a step."""
  files = [p for p in (folder / "state").rglob("*") if p.parent.name == "d"]
  return max(files, key=lambda p: p.stat().st_size)


@pytest.fixture
def warnings_logged(monkeypatch):
  """Text of the warnings, whatever handler absl has."""
  texts: list[str] = []

  class Handler(logging.Handler):
    def emit(self, record):
      if record.levelno >= logging.WARNING:
        texts.append(record.getMessage())

  handler = Handler()
  logger = absl_logging.get_absl_logger()
  logger.addHandler(handler)
  yield texts
  logger.removeHandler(handler)


def test_round_trip_is_bit_identical(tmp_path):
  record = {
    "phase": {"name": "policy", "step": np.int64(4)},
    "history": [0.1, float("nan")],
    "route": np.eye(2),
  }
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(_state(0)) is None
    assert checkpoints.latest_step() is None
    checkpoints.save(5, _state(5), record, 0.25)
    assert checkpoints.latest_step() == 5
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    step, state, got = checkpoints.restore(_state(0))
  assert step == 5
  _assert_same_bits(state, _state(5))
  assert got["phase"] == {"name": "policy", "step": 4}
  assert got["history"][0] == 0.1 and math.isnan(got["history"][1])
  assert got["route"] == [[1.0, 0.0], [0.0, 1.0]]


def test_donated_right_after_save(tmp_path):
  change = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
  x = jnp.arange(200_000, dtype=jnp.float32)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {"x": x}, {})
    for _ in range(3):
      x = change(x)
    _, state, _ = checkpoints.restore({"x": np.zeros(200_000, np.float32)})
  np.testing.assert_array_equal(state["x"], np.arange(200_000))


def test_restored_state_may_be_donated(tmp_path):
  _save(tmp_path, {1: None})
  mesh = mesh_lib.make_mesh()
  template = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=mesh_lib.replicated(mesh)),
    {"w": np.zeros(300, np.float32)},
  )
  with checkpoint.Checkpoints(tmp_path / "b") as checkpoints:
    checkpoints.save(1, {"w": np.arange(300, dtype=np.float32)}, {})
    _, state, _ = checkpoints.restore(template)
  assert state["w"].sharding == mesh_lib.replicated(mesh)
  doubled = jax.jit(lambda s: s["w"] * 2, donate_argnums=0)(state)
  np.testing.assert_array_equal(doubled, 2 * np.arange(300))


def test_latest_and_best_stay_across_restarts(tmp_path):
  _save(tmp_path, {1: 0.1, 2: 0.9, 3: 0.2})
  _save(tmp_path, {4: None, 5: float("nan"), 6: 0.3})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.best_step() == 2
    assert checkpoints.latest_step() == 6
    step, state, _ = checkpoints.restore(_state(0), step=2)
    assert step == 2
    _assert_same_bits(state, _state(2))
    with pytest.raises(ValueError, match="no checkpoint of step 3"):
      checkpoints.restore(_state(0), step=3)
    checkpoints.save(7, _state(7), {}, 0.95)
    checkpoints.save(8, _state(8), {}, 0.0)
    checkpoints.save(9, _state(9), {}, 0.0)
  assert _steps(tmp_path) == {7, 8, 9}
  assert list((tmp_path / "todelete").iterdir()) == []


def test_without_scores_only_the_latest_stay(tmp_path):
  _save(tmp_path, {1: None, 2: None, 3: None}, keep_latest=1)
  assert _steps(tmp_path) == {3}
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.best_step() is None


def _flip(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


@pytest.mark.parametrize(
  "harm",
  [
    lambda step: _flip(_largest(step)),
    lambda step: _largest(step).write_bytes(_largest(step).read_bytes()[:99]),
    lambda step: _largest(step).unlink(),
    lambda step: (step / "record" / "metadata").write_text("{"),
    lambda step: (step / "state" / "_METADATA").write_bytes(b""),
    lambda step: (step / "state" / "manifest.ocdbt").unlink(),
  ],
  ids=["flip", "truncate", "missing", "record", "metadata", "manifest"],
)
def test_damaged_step_is_reported_and_the_one_before_used(tmp_path, warnings_logged, harm):
  _save(tmp_path, {1: None, 2: None})
  harm(tmp_path / "2")
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    step, state, record = checkpoints.restore(_state(0))
    assert step == 1 and record == {"step": 1}
    _assert_same_bits(state, _state(1))
    text = "\n".join(warnings_logged)
    assert "step 2" in text and "damaged" in text
    assert "Trying step 1 instead" in text
    assert checkpoints.latest_step() == 1
    checkpoints.save(2, _state(2), {"step": 2})  # In its place.
    step, state, _ = checkpoints.restore(_state(0))
    assert step == 2
    _assert_same_bits(state, _state(2))
  assert (tmp_path / "damaged" / "2").is_dir()


def test_flipped_bits_of_raw_data_name_the_leaf(tmp_path, warnings_logged):
  """Data that does not compress: Orbax alone restores the flip silently."""
  noise = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {"a": noise, "b": np.ones(3)}, {})
    checkpoints.save(2, {"a": noise, "b": np.ones(3)}, {})
  _flip(_largest(tmp_path / "2"))
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    step, state, _ = checkpoints.restore({"a": noise, "b": np.ones(3)})
  assert step == 1
  np.testing.assert_array_equal(state["a"], noise)
  assert "a: its checksum does not fit" in "\n".join(warnings_logged)


def test_all_damaged_is_one_clear_error(tmp_path):
  _save(tmp_path, {1: None, 2: None})
  for step in (1, 2):
    _flip(tmp_path / str(step) / "record" / "metadata")
  for _ in range(2):  # Also when it is started again.
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
      with pytest.raises(checkpoint.DamagedCheckpointError, match="step 1: .*step 2: .*delete"):
        checkpoints.restore(_state(0))


def test_damaged_best_is_a_clear_error(tmp_path):
  _save(tmp_path, {1: 0.9, 2: 0.1})
  _largest(tmp_path / "1").unlink()
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(checkpoint.DamagedCheckpointError, match="step 1"):
      checkpoints.restore(_state(0), step=1)
    assert checkpoints.restore(_state(0))[0] == 2


@pytest.mark.parametrize(
  "change,message",
  [
    (
      {"params": {"w": jnp.zeros(5), "none": None}},
      r"params/w: saved float32\[300\], wanted float32\[5\]",
    ),
    ({"count": jnp.float32(0)}, r"count: saved int32\[\], wanted float32\[\]"),
    ({"more": jnp.zeros(2)}, r"more: saved nothing, wanted float32\[2\]"),
    ({"half": None}, r"half: saved bfloat16\[7\], wanted nothing"),
  ],
)
def test_another_model_is_a_clear_error(tmp_path, change, message):
  _save(tmp_path, {1: None})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(ValueError, match=message):
      checkpoints.restore(_state(0) | change)


def test_wrong_use_is_a_clear_error(tmp_path):
  with pytest.raises(ValueError, match="keep_latest"):
    checkpoint.Checkpoints(tmp_path, keep_latest=0)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, _state(2), {})
    with pytest.raises(ValueError, match="step 2 is not above step 2"):
      checkpoints.save(2, _state(2), {})
    with pytest.raises(ValueError, match="'k' is a PRNG key"):
      checkpoints.save(3, {"k": jax.random.key(0)}, {})


def test_read_only_changes_nothing(tmp_path, caplog):
  _save(tmp_path, {1: None})
  (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
  before = sorted(p.name for p in tmp_path.iterdir())
  caplog.clear()
  with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.restore(_state(0))[0] == 1 and not caplog.messages
    with pytest.raises(ValueError, match="read-only"):
      checkpoints.save(2, _state(2), {})
  assert sorted(p.name for p in tmp_path.iterdir()) == before
  missing = checkpoint.Checkpoints(tmp_path / "no", read_only=True)
  assert missing.restore(_state(0)) is None and missing.latest_step() is None
  assert not (tmp_path / "no").exists()


def test_relative_path(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _save("run/checkpoints", {1: None})
  assert _steps(tmp_path / "run" / "checkpoints") == {1}


_SAVER = """
import sys
import numpy as np
from dynashare_jax.checkpoints import checkpoint
with checkpoint.Checkpoints(sys.argv[1]) as checkpoints:
  latest = checkpoints.latest_step() or 0
  for step in range(latest + 1, latest + 1000):
    state = {str(i): np.full(20_000, step, np.float32) for i in range(20)}
    checkpoints.save(step, state, {"step": step}, score=float(step % 7))
    print(step, flush=True)
"""


def test_killed_while_saving(tmp_path):
  """Kill -9 at any moment leaves a whole step, and no litter after a start."""
  last = 0
  for round_ in range(2):
    with forks.Fork("-c", _SAVER, str(tmp_path), stderr=subprocess.PIPE) as child:
      assert child.stdout is not None
      for _ in range(6 + round_):
        told = child.stdout.readline()
        assert told, "The saving process died by itself."
      time.sleep(0.02 * round_)
      child.kill()
      rest = child.stdout.read().split()
    saved = int((rest or [told])[-1])
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
      template = {str(i): np.zeros(20_000, np.float32) for i in range(20)}
      step, state, record = checkpoints.restore(template)
      # A save returns when the one before is whole.
      assert saved - 1 <= step <= saved + 1
      assert step > last and record == {"step": step}
      assert all((leaf == step).all() for leaf in state.values())
      assert checkpoints.best_step() is not None
    last = step
    left = {p.name for p in tmp_path.iterdir()}
    assert {n for n in left if not n.isdigit()} <= {"todelete"}
