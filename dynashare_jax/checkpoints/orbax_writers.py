"""How Orbax writes in those processes alone that a mesh has devices of."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dynashare_jax.distributed import mesh as mesh_lib

# Asynchronously, processes and threads find each other's new folders by a
# counter of all saves, which differs where groups save by themselves.
ASYNCHRONOUS = ocp.AsyncOptions(create_directories_asynchronously=False)


def processes(mesh: jax.sharding.Mesh) -> ocp.options.MultiprocessingOptions:
  """Returns which processes wait for one another, and which of them writes for all."""
  members = mesh_lib.processes(mesh)
  if len(members) == jax.process_count():
    return ocp.options.MultiprocessingOptions()
  return ocp.options.MultiprocessingOptions(
    primary_host=members[0],
    active_processes=set(members),
    barrier_sync_key_prefix=f"from_{members[0]}",
  )


def handlers(mesh: jax.sharding.Mesh) -> dict[str, Any] | None:
  """Returns the writers of the items `state` and `record`; None is Orbax's own choice.

  Its own handlers leave to process 0 what one process does for all, and let every device write a
  part of what all have, with a compiled slice for every shape: of no use within one process.
  """
  options, alone = processes(mesh), len(mesh_lib.processes(mesh)) == 1
  if options.active_processes is None and not alone:
    return None
  arrays = ocp.type_handlers.ArrayHandler(
    primary_host=options.primary_host, use_replica_parallel=False if alone else None
  )
  types = ocp.type_handlers.create_type_handler_registry(
    (np.ndarray, ocp.type_handlers.NumpyHandler()),  # To restore with.
    (jax.Array, arrays),
  )
  state = ocp.PyTreeCheckpointHandler(multiprocessing_options=options, type_handler_registry=types)
  return {"state": state, "record": ocp.JsonCheckpointHandler(multiprocessing_options=options)}


def accepted(leaf: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
  """Returns an array as Orbax takes it in one of several processes.

  It refuses arrays that lie in one process alone, as those of a group within
  a process do. They are handed over as if another process had a copy; the
  first copy, which is this one, is what is written.
  """
  if jax.process_count() == 1 or not (isinstance(leaf, jax.Array) and leaf.is_fully_addressable):
    return leaf
  own = next(iter(leaf.sharding.addressable_devices))
  other = next(d for d in jax.devices() if d.process_index != jax.process_index())
  single = jax.sharding.SingleDeviceSharding(own)
  row = jax.sharding.Mesh(np.array([own, other]), (mesh_lib.AXIS,))
  return jax.make_array_from_single_device_arrays(
    leaf.shape, mesh_lib.replicated(row), [jax.device_put(leaf, single)]
  )
