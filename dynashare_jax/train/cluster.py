"""Several processes of one run: how they find each other, and what they are."""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
import os
import sys
import threading
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
import numpy as np

HEARTBEAT = 10  # seconds of silence after which a process counts as lost


class Place(NamedTuple):
  """Where a process is told that it stands.

  Attributes:
    coordinator: `host:port` of process 0; empty to find out.
    processes: how many there are; 0 to find out.
    process: number of this one; -1 to find out.
  """

  coordinator: str = ""
  processes: int = 0
  process: int = -1


NOWHERE = Place()


def join(
    place: Place = NOWHERE, seconds: int = 60,
    environment: Mapping[str, str] | None = None
) -> bool:
  """Joins the processes of this run, before anything is computed.

  Args:
    place: from the command line. If it is empty, and SLURM, Open MPI or a TPU
      tells that there are several processes, jax finds the others.
    seconds: to wait for the others.
    environment: variables to look at; default those of the process.

  Returns:
    Whether there are several processes.

  Raises:
    ValueError: `place` is incomplete or makes no sense, or jax cannot start.
    SystemExit: 2, at once and after one line, when the others were not found in
      time (jax would abort the program).
  """
  given = check(place)
  several = given or found_several(
      os.environ if environment is None else environment)
  if not several:
    return False
  where = f"at {place.coordinator}" if given else "where the scheduler tells"
  alarm = threading.Timer(seconds, _give_up, (
      f"error: the processes of this run did not meet {where} within {seconds}"
      " s. Is process 0 running, is its address right, were all started?",))
  alarm.daemon = True
  alarm.start()
  try:
    jax.distributed.initialize(
        place.coordinator if given else None,
        place.processes if given else None, place.process if given else None,
        initialization_timeout=seconds + 60,
        heartbeat_timeout_seconds=HEARTBEAT)
  except (RuntimeError, ValueError) as error:
    first = str(error).strip().splitlines()[0]
    raise ValueError(f"The processes of this run did not meet {where}: {first}"
                     ) from error
  finally:
    alarm.cancel()
  return jax.process_count() > 1


def _give_up(message: str) -> None:
  """Ends the program from another thread."""
  print(message, file=sys.stderr, flush=True)
  os._exit(2)


def check(place: Place) -> bool:
  """Whether a place is told.

  Raises:
    ValueError: it is told in part, or makes no sense.
  """
  if place == NOWHERE:
    return False
  host, _, port = place.coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise ValueError("--coordinator must be host:port of process 0, but is"
                     f" {place.coordinator!r}.")
  if not 0 <= place.process < place.processes:
    raise ValueError(
        "--processes and --process_id must be a number of processes and one of"
        f" 0 to that number - 1, but are {place.processes} and"
        f" {place.process}.")
  return True


def found_several(environment: Mapping[str, str]) -> bool:
  """Whether a scheduler says that this is one of several processes.

  Args:
    environment: variables of SLURM (`SLURM_NTASKS` in a step), Open MPI
      (`OMPI_COMM_WORLD_SIZE`) or of a TPU with several hosts
      (`TPU_WORKER_HOSTNAMES`).
  """
  step = "SLURM_PROCID" in environment and "SLURM_LOCALID" in environment
  counts = [environment.get("SLURM_NTASKS", "1") if step else "1",
            environment.get("OMPI_COMM_WORLD_SIZE", "1")]
  hosts = [h for h in environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
           if h.strip()]
  return len(hosts) > 1 or any(c.isdigit() and int(c) > 1 for c in counts)


def told(batch_size: int) -> str:
  """What was found, for the first line of the log.

  Args:
    batch_size: of training, over all devices.
  """
  devices = jax.device_count()
  kind = jax.devices()[0].device_kind
  parts = [f"{jax.process_count()} processes", f"{devices} devices ({kind})",
           f"{jax.local_device_count()} in this process, number"
           f" {jax.process_index()}",
           f"{batch_size // devices} of {batch_size} examples a step on each"]
  return ", ".join(parts)


def check_equal(what: Mapping[str, Any]) -> None:
  """Makes sure that all processes run the same.

  Args:
    what: name -> anything JSON can hold, such as the configuration and the
      versions of programs.

  Raises:
    ValueError: in every process, naming what differs; and where processes have
      different numbers of devices.
  """
  if jax.process_count() == 1:
    return
  texts = [json.dumps(value, sort_keys=True, default=str)
           for value in what.values()]
  texts.append(str(jax.local_device_count()))
  names = [*what, "number of devices"]
  digests = np.array([
      int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
      for text in texts], np.uint32)
  every = np.asarray(multihost_utils.process_allgather(digests))
  for place, name in enumerate(names):
    column = every[:, place]
    if (column != column[0]).any():
      groups = np.unique(column, return_inverse=True)[1].tolist()
      raise ValueError(
          f"The processes of this run differ in their {name} (those of equal"
          f" number agree: {groups}). Start all with the same command, code and"
          " devices.")
