"""Where arrays lie: one mesh axis, state everywhere, batches split."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from dynashare_jax.types import PyTree

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Puts devices in one row.

  Args:
    devices: default all devices of all processes. They are ordered by process,
      so that a process holds a contiguous part of the global batch.

  Returns:
    A mesh with the axis `data`.

  Raises:
    ValueError: no device.
  """
  if devices is None:
    devices = jax.devices()
  if not devices:
    raise ValueError("A mesh needs at least one device.")
  ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
  return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of what every device holds whole: state, policy, keys."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Sharding of what is split over the devices.

  Args:
    mesh: of `make_mesh`.
    axis: which array axis holds the examples; 1 for `[steps, batch, ...]`.

  Returns:
    A sharding for arrays of more than `axis` axes.
  """
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def place_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
  """Copies arrays to every device.

  The result never shares memory with `tree`, so that it may be donated.

  Args:
    tree: NumPy or JAX arrays; in several processes the same in each.
    mesh: of `make_mesh`.

  Returns:
    The same structure of global arrays.
  """
  sharding = replicated(mesh)

  def place(leaf: jax.Array | np.ndarray) -> jax.Array:
    # Through the host: `device_put` of a JAX array keeps the buffer of the
    # device it is on, even with `may_alias=False`.
    host = np.array(leaf)
    if sharding.is_fully_addressable:
      return jax.device_put(host, sharding, may_alias=False)
    return jax.make_array_from_callback(
      host.shape, sharding, lambda index: host[index]
    )

  return jax.tree.map(place, tree)


def place_batch(tree: PyTree, mesh: Mesh, axis: int = 0) -> PyTree:
  """Splits a batch over the devices.

  Args:
    tree: arrays whose `axis` holds the examples; in several processes only
      this process's examples, in the order of the processes.
    mesh: of `make_mesh`.
    axis: which axis is split.

  Returns:
    The same structure of global arrays.

  Raises:
    ValueError: the examples cannot be split evenly.
  """
  sharding = batch_sharding(mesh, axis)
  local = len(mesh.local_devices)
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    shape = np.shape(leaf)
    if len(shape) <= axis or shape[axis] % local:
      raise ValueError(
        f"Batch leaf {jax.tree_util.keystr(path)} of shape {shape} cannot be"
        f" split over {local} devices along axis {axis}; choose a batch size"
        " that they divide."
      )
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  return jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(
      sharding, np.asarray(leaf)
    ),
    tree,
  )
