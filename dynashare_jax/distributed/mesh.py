"""Where arrays lie: batches split, state everywhere or split, too."""

from __future__ import annotations

from collections.abc import Sequence
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from dynashare_jax.types import PyTree

AXIS = "data"
SMALL = 2**14  # numbers of a leaf below which it is never split


def use_compilation_cache() -> None:
  """Keeps compiled programs on disk, so that a second start is quick, unless jax does already.

  In `dynashare_jax` of the user's folder of caches; `JAX_COMPILATION_CACHE_DIR` names another.
  """
  if jax.config.values["jax_compilation_cache_dir"] is None:
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    jax.config.update("jax_compilation_cache_dir", os.path.join(home, "dynashare_jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Returns a mesh with the axis `data` of devices, by default all of all processes.

  They are ordered by process, so that a process holds a contiguous part of the global batch.

  Raises:
    ValueError: no device.
  """
  if devices is None:
    devices = jax.devices()
  if not devices:
    raise ValueError("A mesh needs at least one device.")
  ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
  return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def candidate_meshes(mesh: Mesh, groups: int) -> list[Mesh]:
  """Splits the devices of a mesh into groups, each of which trains a candidate.

  Returns:
    One mesh with the axis `data` per group. Each has whole processes, or lies within one.

  Raises:
    ValueError: the devices cannot be split so.
  """
  if not _splits(mesh, groups):
    devices, hosts = mesh.devices.size, len(processes(mesh))
    counts = [n for n in range(1, devices + 1) if _splits(mesh, n)]
    raise ValueError(
      f"{devices} device{'s' * (devices > 1)} in {hosts} process{'es' * (hosts > 1)} cannot make"
      f" {groups} groups of equal size, each of whole processes or within one. Set"
      f" config.train.candidate_groups to one of {counts}, or to 0: as many as fit."
    )
  grid = mesh.devices.reshape(groups, -1)  # candidate, data
  return [make_mesh(list(row)) for row in grid]


def most_groups(mesh: Mesh, most: int) -> int:
  """Returns the largest number of groups, `most` or fewer, that the devices can be split into."""
  return max(n for n in range(1, most + 1) if _splits(mesh, n))


def _splits(mesh: Mesh, groups: int) -> bool:
  """Whether devices make equal groups of whole processes or within one."""
  if groups < 1 or mesh.devices.size % groups:
    return False
  numbers = [d.process_index for d in mesh.devices.flat]
  size = len(numbers) // groups
  for first in range(0, len(numbers), size):
    members = numbers[first : first + size]
    whole_ones = all(numbers.count(n) == members.count(n) for n in set(members))
    if len(set(members)) > 1 and not whole_ones:
      return False
  return True


def quick(mesh: Mesh) -> dict[str, Any]:
  """Returns options for programs that run once: on the CPU less time goes into optimising them.

  None where jax was told to optimise no program (`JAX_DISABLE_MOST_OPTIMIZATIONS`).
  """
  cpu = mesh.devices.flat[0].platform == "cpu"
  least = jax.config.read("jax_disable_most_optimizations")
  return {"xla_backend_optimization_level": 1} if cpu and not least else {}


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what every device holds whole: state, policy, keys."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Returns the sharding of arrays that are split over the devices along an axis.

  It is 1 for `[steps, batch, ...]`.
  """
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def state_shardings(tree: PyTree, mesh: Mesh, split: bool) -> PyTree:
  """Returns one sharding per leaf of a state; it depends on the leaf's shape alone.

  Args:
    tree: arrays or `jax.ShapeDtypeStruct`s.
    split: whether large leaves are split over the devices, along the longest axis whose size is
      divisible by the number of devices. Parameters, both moments of Adam and the best model then
      take memory once, not once per device; the compiler gathers parameters where they are needed.
  """
  count = mesh.devices.size

  def of(leaf: jax.Array | np.ndarray) -> NamedSharding:
    axes = [a for a, n in enumerate(leaf.shape) if n % count == 0]
    if not split or leaf.size < SMALL or not axes:
      return replicated(mesh)
    return batch_sharding(mesh, max(axes, key=lambda a: leaf.shape[a]))

  return jax.tree.map(of, tree)


def place_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
  """Copies arrays to every device; see `place`."""
  return place(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def place(tree: PyTree, shardings: PyTree) -> PyTree:
  """Puts arrays, in several processes the same in each, onto the devices of their shardings.

  The result never shares memory with `tree`, so that it may be donated.
  """

  def put(leaf: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    if _in_parts(leaf):
      return _copier(sharding)(leaf)
    # Through the host: `device_put` of a JAX array keeps the buffer of the
    # device it is on, even with `may_alias=False`.
    host = np.array(leaf)
    if sharding.is_fully_addressable:
      return jax.device_put(host, sharding, may_alias=False)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

  return jax.tree.map(put, tree, shardings)


def whole(leaf: jax.Array | np.ndarray) -> np.ndarray:
  """Returns an array as NumPy; gathers one of which this process has only a part.

  All processes of the array's mesh must call it.
  """
  if _in_parts(leaf):
    assert isinstance(leaf, jax.Array)
    assert isinstance(leaf.sharding, NamedSharding)
    leaf = _copier(replicated(leaf.sharding.mesh))(leaf)  # type: ignore[arg-type]
  return np.asarray(leaf)


def _in_parts(leaf: jax.Array | np.ndarray) -> bool:
  """Whether this process has only a part of an array."""
  return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


@functools.lru_cache(maxsize=256)
def _copier(sharding: NamedSharding) -> jax.stages.Wrapped:
  """Compiled copies to a sharding, of arrays in several processes."""
  return jax.jit(jnp.copy, out_shardings=sharding)


def processes(mesh: Mesh) -> tuple[int, ...]:
  """Returns the numbers of the processes that have devices of a mesh, in order."""
  return tuple(sorted({d.process_index for d in mesh.devices.flat}))


def rank(mesh: Mesh) -> int:
  """Returns which of the processes of a mesh this one is, from 0; 0 is its first.

  Raises:
    ValueError: none of them.
  """
  return processes(mesh).index(jax.process_index())


def every(values: np.ndarray, mesh: Mesh) -> np.ndarray:
  """Gathers the values of the processes of a mesh; all must call it.

  Args:
    values: `[n]` numbers (float32, int32, uint32 or bool), of this process.

  Returns:
    `[processes, n]`, in the order of `processes`.
  """
  members = processes(mesh)
  if len(members) == 1:
    return values[None]
  devices = list(mesh.devices.flat)
  local = np.repeat(values[None], len(mesh.local_devices), 0)
  rows = jax.make_array_from_process_local_data(batch_sharding(mesh), local)
  found = np.asarray(_copier(replicated(mesh))(rows))
  firsts = [next(i for i, d in enumerate(devices) if d.process_index == p) for p in members]
  return found[firsts]


def place_batch(tree: PyTree, mesh: Mesh, axis: int = 0) -> PyTree:
  """Splits a batch over the devices.

  Args:
    tree: arrays whose `axis` holds the examples; in several processes only
      this process's examples, in the order of the processes.
    axis: which axis is split.

  Raises:
    ValueError: the examples cannot be split evenly.
  """
  sharding = batch_sharding(mesh, axis)
  local = len(mesh.local_devices)
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    shape = np.shape(leaf)
    if len(shape) <= axis or shape[axis] % local:
      raise ValueError(
        f"Batch leaf {jax.tree_util.keystr(path)} of shape {shape} cannot be split over {local}"
        f" devices along axis {axis}; choose a batch size that they divide."
      )
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  return jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree
  )
