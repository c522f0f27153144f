"""Tests of device placement (on four CPU devices)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynashare_jax.train import mesh as mesh_lib


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
  for i, shard in enumerate(
    sorted(placed.addressable_shards, key=lambda s: s.device.id)
  ):
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
