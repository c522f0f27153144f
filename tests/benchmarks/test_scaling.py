"""Tests of what the scaling benchmark reads from the package, and its runs."""

from __future__ import annotations

import math
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from dynashare_jax.distributed import mesh as mesh_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]

from benchmarks.scaling import children  # noqa: E402
from benchmarks.scaling import model  # noqa: E402
from benchmarks.scaling import network  # noqa: E402


def test_split_arrays_are_counted_as_the_package_splits_them() -> None:
  mesh = mesh_lib.make_mesh()
  shapes = [(256, 128), (3, 3, 64, 100), (127, 255), (64,), (2**14,), ()]
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  places = mesh_lib.state_shardings(arrays, mesh, True)
  held = sum(
    4 * math.prod(place.shard_shape(a.shape)) for a, place in zip(arrays, places, strict=True)
  )
  assert model.held_bytes(shapes, 4, True, mesh_lib.SMALL) == held
  assert held < model.held_bytes(shapes, 4, False)


def test_all_reduces_are_read_from_a_program() -> None:
  text = """
  %a = (f32[3,8]{1,0}, f32[8]{0}) all-reduce(%x, %y), channel_id=1
  ROOT %b = bf16[2,2]{1,0} all-reduce-start(%z), channel_id=2
  %c = f32[] all-reduce(%w), channel_id=3
  %d = f32[100]{0} all-gather(%v), dimensions={0}
  %e = f32[7]{0} add(%all-reduce.1, %all-reduce.2)"""
  assert network.reduced(text) == [[96, 32], [8], [4]]
  assert network.small([[96, 32], [2**16]]) == (1, 128)


def test_all_reduces_of_a_compiled_sum() -> None:
  mesh = mesh_lib.make_mesh()
  x = mesh_lib.place_batch(jnp.ones((4, 6)), mesh)
  whole = jax.jit(lambda a: a.sum(0), out_shardings=mesh_lib.replicated(mesh))
  assert network.reduced(whole.lower(x).compile().as_text()) == [[24]]


def test_facts_of_rooms_by_hand() -> None:
  found = network.facts("small ResNet, Rooms")
  assert (found.crop, found.batch, found.candidates) == ((48, 64), 16, 2)
  # Cycles of 20 + 10 steps, 8 of them, after 240 and a comparison of 10; 320 for each candidate.
  assert (found.search_steps, found.retrain_steps) == (490, 320)
  # A picture, classes, depth, normals, three masks, and whether it is there.
  assert found.input_bytes == 48 * 64 * (12 + 4 + 4 + 12 + 3) + 1
  # Gates are re-trained, but do not train in the search.
  moved = sum(math.prod(shape) for shape in found.gradients)
  assert 0 < moved - found.trained < 0.1 * moved
  # Parameters, both moments, the best model and the search's, and little more.
  assert 5 <= found.state_bytes / (4 * moved) < 5.2


def test_all_reduces_need_two_devices() -> None:
  with pytest.raises(ValueError, match="counted with 2 devices, not 4"):
    network.collectives("small ResNet, Rooms")


def test_a_failing_process_tells_why_and_is_gone() -> None:
  with children.Child("nobody") as child:
    with pytest.raises(children.ChildError, match="KeyError: 'nobody'"):
      child.answer(60)
  assert child._process.poll() is not None


def test_a_silent_process_is_killed() -> None:
  with children.Child("trainer", environment={"JAX_PLATFORMS": "cpu"}) as child:
    with pytest.raises(children.ChildError, match=r"no answer within 0 s"):
      child.answer(0.01)
    child.close()
  assert child._process.returncode is not None


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, "-m", "benchmarks.scaling.run", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=100,
    check=False,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )


def test_an_unknown_part_is_refused() -> None:
  found = _run("--parts=weak,speed")
  assert found.returncode == 2
  assert "there is no speed" in found.stderr


def test_the_page_of_a_device_runs_on_the_cpu() -> None:
  before = {path: path.stat().st_mtime_ns for path in (ROOT / "docs" / "benchmarks").glob("*.md")}
  found = _run("--parts=accelerator", "--quick", "--rounds=1")
  assert found.returncode == 0, found.stderr
  assert "# A training step on one cpu" in found.stdout
  assert "| small ResNet, Rooms | float32 | 16x16 | 2 |" in found.stdout
  assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_terminated_benchmark_leaves_no_process() -> None:
  process = subprocess.Popen(
    [sys.executable, "-m", "benchmarks.scaling.run", "--parts=dispatch", "--quick"],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  child: list[str] = []
  while not child and process.poll() is None:
    time.sleep(0.02)
    child = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
  process.terminate()
  assert process.wait(30) == 143
  assert child
  for _ in range(100):  # It watches for its parent's end.
    if not pathlib.Path(f"/proc/{child[0]}").exists():
      return
    time.sleep(0.1)
  pytest.fail("the child is still there")
