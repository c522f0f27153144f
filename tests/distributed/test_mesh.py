"""Tests of device placement (on four CPU devices)."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynashare_jax.distributed import mesh as mesh_lib


def test_axis_and_order_of_devices():
  mesh = mesh_lib.make_mesh(jax.devices()[::-1])
  assert mesh.axis_names == ("data",)
  assert list(mesh.devices) == jax.devices()
  with pytest.raises(ValueError, match="at least one device"):
    mesh_lib.make_mesh([])


def test_batch_is_split_in_order_and_state_is_everywhere():
  mesh = mesh_lib.make_mesh()
  count = len(jax.devices())
  x = np.arange(4 * count * 3, dtype=np.float32).reshape(4 * count, 3)
  placed = mesh_lib.place_batch({"x": x}, mesh)["x"]
  for i, shard in enumerate(sorted(placed.addressable_shards, key=lambda s: s.device.id)):
    np.testing.assert_array_equal(shard.data, x[4 * i : 4 * i + 4])
  state = mesh_lib.place_replicated({"w": x}, mesh)["w"]
  assert state.is_fully_replicated and len(state.devices()) == count
  np.testing.assert_array_equal(state, x)


def test_second_axis_of_a_chunk_of_steps():
  mesh = mesh_lib.make_mesh()
  count = len(jax.devices())
  chunk = np.arange(3 * 2 * count).reshape(3, 2 * count)
  placed = mesh_lib.place_batch(chunk, mesh, axis=1)
  assert placed.sharding == mesh_lib.batch_sharding(mesh, 1)
  assert placed.addressable_shards[0].data.shape == (3, 2)


def test_uneven_batch_names_the_leaf():
  mesh = mesh_lib.make_mesh()
  if len(jax.devices()) == 1:
    pytest.skip("One device divides every batch.")
  with pytest.raises(ValueError, match=r"'x'.*\(3, 2\)"):
    mesh_lib.place_batch({"x": np.zeros((3, 2))}, mesh)


def test_jit_reduces_globally():
  mesh = mesh_lib.make_mesh()
  x = np.arange(8.0, dtype=np.float32)
  mean = jax.jit(jnp.mean, out_shardings=mesh_lib.replicated(mesh))
  assert mean(mesh_lib.place_batch(x, mesh)) == x.mean()


def test_placed_state_survives_donation_of_itself():
  mesh = mesh_lib.make_mesh()
  original = {"w": jnp.ones((64, 64)), "n": np.ones((64, 64), np.float32)}
  placed = mesh_lib.place_replicated(original, mesh)
  double = jax.jit(lambda t: jax.tree.map(lambda v: v * 2, t), donate_argnums=0)
  doubled = double(placed)
  for leaf in jax.tree.leaves(double(doubled)):
    for shard in leaf.addressable_shards:
      assert (np.asarray(shard.data) == 4).all()
  assert float(original["w"].sum()) == 64 * 64
  assert float(original["n"].sum()) == 64 * 64


def _mesh(*numbers):
  """Devices of these processes."""
  devices = [types.SimpleNamespace(process_index=n) for n in numbers]
  return types.SimpleNamespace(devices=np.array(devices))


def test_rows_of_candidates():
  """Devices in order: `candidate` outside, `data` within."""
  devices = jax.devices()
  rows = mesh_lib.candidate_meshes(mesh_lib.make_mesh(), 2)
  assert [list(row.devices) for row in rows] == [devices[:2], devices[2:]]
  assert {row.axis_names for row in rows} == {("data",)}
  with pytest.raises(ValueError, match=r"3 groups of equal.*of \[1, 2, 4\]"):
    mesh_lib.candidate_meshes(mesh_lib.make_mesh(), 3)


@pytest.mark.parametrize(
  "numbers, counts",
  [
    ([0, 0, 0, 0], [1, 2, 4]),
    ([0, 1, 2], [1, 3]),
    ([0, 0, 1, 1], [1, 2, 4]),
    ([0, 0, 1, 1, 2, 2], [1, 3, 6]),  # 2 groups would halve process 1.
    ([0, 0, 1, 1, 2, 2, 3, 3], [1, 2, 4, 8]),
    ([0, 0, 0, 1], [1, 4]),
    ([0] * 6 + [1] * 6, [1, 2, 4, 6, 12]),  # 3 would take 2 of each.
  ],
)
def test_groups_of_whole_processes_or_within_one(numbers, counts):
  mesh = _mesh(*numbers)
  found = [n for n in range(1, len(numbers) + 1) if mesh_lib.most_groups(mesh, n) == n]
  assert found == counts
  for most in range(1, 14):
    assert mesh_lib.most_groups(mesh, most) == max(n for n in counts if n <= most)


def test_what_a_process_brings_is_the_only_row():
  mesh = mesh_lib.make_mesh()
  values = np.array([1.5, -2], np.float32)
  np.testing.assert_array_equal(mesh_lib.every(values, mesh), values[None])
  assert mesh_lib.processes(mesh) == (0,) and mesh_lib.rank(mesh) == 0


def test_large_leaves_are_split_along_their_longest_axis(monkeypatch):
  monkeypatch.setattr(mesh_lib, "SMALL", 64)
  mesh = mesh_lib.make_mesh()
  tree = {
    "wide": np.zeros((8, 32)),
    "tall": np.zeros((32, 8)),
    "odd": np.zeros((3, 5, 8)),
    "small": np.zeros((7, 8)),
    "never": np.zeros((9, 9)),
    "number": np.zeros(()),
  }
  where = mesh_lib.state_shardings(tree, mesh, True)
  specs = {name: tuple(sharding.spec) for name, sharding in where.items()}
  assert specs == {
    "wide": (None, "data"),
    "tall": ("data",),
    "small": (),
    "odd": (None, None, "data"),
    "never": (),
    "number": (),
  }
  whole = mesh_lib.state_shardings(tree, mesh, False)
  assert all(sharding.is_fully_replicated for sharding in whole.values())
  placed = mesh_lib.place({"wide": np.arange(256.0).reshape(8, 32)}, {"wide": where["wide"]})[
    "wide"
  ]
  assert {s.data.shape for s in placed.addressable_shards} == {(8, 8)}
  np.testing.assert_array_equal(mesh_lib.whole(placed), np.arange(256.0).reshape(8, 32))


def test_a_program_that_runs_once_is_optimised_no_more_than_jax_was_told(monkeypatch):
  mesh = mesh_lib.make_mesh()
  for least, wanted in ((True, {}), (False, {"xla_backend_optimization_level": 1})):
    monkeypatch.setattr(jax.config, "read", {"jax_disable_most_optimizations": least}.__getitem__)
    options = mesh_lib.quick(mesh)
    assert options == wanted
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2  # XLA knows it.
