"""Several processes of one run: how they find each other, and what they are."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
import contextlib
import ctypes
import errno
import hashlib
import json
import os
import pathlib
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple, NoReturn
import urllib.error
import urllib.request

import jax
from jax.experimental import multihost_utils
import numpy as np

from dynashare_jax.distributed import gloo_priority

HEARTBEAT = 10  # seconds of silence after which a process counts as lost
SEEN_WITHIN = 10.0  # seconds for a new file to be seen by all hosts
LOST = (
  "lost contact with the other processes of this run: one of them ended"
  " (its log says why), or the network failed"
)
ON = "The same command goes on from the last checkpoint"
# What exceptions say when a process or the network is gone.
_SIGNS = re.compile(
  "gloo|nccl|coordination service|coordinationservice|connection closed by peer|connection reset by"
  " peer|socket closed|barrier timed out|heartbeat|unavailable:|deadline_exceeded|failed to connect"
)


class Place(NamedTuple):
  """The place of a process among all of its run.

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
  place: Place = NOWHERE, seconds: int = 60, environment: Mapping[str, str] | None = None
) -> bool:
  """Joins the processes of this run, before anything is computed.

  Args:
    place: from the command line. If it is empty, and SLURM, Open MPI or a TPU says that there are
      several processes, jax finds the others.
    seconds: to wait for the others.
    environment: variables to look at; default those of the process.

  Returns:
    Whether there are several processes.

  Raises:
    ValueError: `place` or a variable is incomplete or makes no sense, or jax cannot start.
    SystemExit: 1, at once and after one line, when the others were not found in time (jax would
      abort the program). It is not the user's error for sure: a scheduler may try again.
  """
  given = check(place)
  if environment is None:
    environment = os.environ
  idle = gloo_priority.wanted(environment)
  if not given and not found_several(environment):
    return False
  where = f"at {place.coordinator}" if given else "where the scheduler tells"
  alarm = end_after(
    seconds,
    f"error: the processes of this run did not meet {where} within {seconds}"
    " s. Is process 0 running, is its address right, were all started?",
  )
  # It would take SIGTERM for itself; see `preemption`.
  jax.config.update("jax_enable_preemption_service", False)
  _tell_at_abort(f"error: {LOST}. {ON}.")
  try:
    jax.distributed.initialize(
      place.coordinator if given else None,
      place.processes if given else None,
      place.process if given else None,
      initialization_timeout=seconds + 60,
      heartbeat_timeout_seconds=HEARTBEAT,
    )
  except (RuntimeError, ValueError) as error:
    first = str(error).strip().splitlines()[0]
    raise ValueError(f"The processes of this run did not meet {where}: {first}") from error
  finally:
    alarm.cancel()
  with gloo_priority.lowered() if idle else contextlib.nullcontext():
    return jax.process_count() > 1


def end(message: str, status: int = 1) -> NoReturn:
  """Ends the program at once, from any thread; its last line on standard error is the message."""
  with contextlib.suppress(Exception):  # Those may lie on a full disk, too.
    sys.stdout.flush()
    sys.stderr.flush()
  with contextlib.suppress(OSError):
    out = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # No thread writes below it.
    os.write(out, f"{message}\n".encode())
  os._exit(status)


def end_after(seconds: float, message: str, status: int = 1) -> threading.Timer:
  """Starts a timer that will `end` the program unless it is cancelled or the program is over."""
  alarm = threading.Timer(seconds, end, (message, status))
  alarm.daemon = True
  alarm.start()
  return alarm


_kept: list[Any] = []  # C has the address of what is in here.


def _tell_at_abort(message: str) -> None:
  """Lets one line and status 1 follow where jax aborts this process."""
  # jax does so from a thread of C++ when the coordinator or a heartbeat is lost,
  # after a dump of its stack; its own callback for this cannot be used from
  # Python (`std::bad_cast`; jax 0.10.2 and 0.12.0).
  kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
  handler = kind(lambda _: end(message))
  _kept.append(handler)
  install = ctypes.pythonapi.PyOS_setsig
  install.argtypes, install.restype = [ctypes.c_int, kind], ctypes.c_void_p
  install(signal.SIGABRT, handler)


def is_lost(error: BaseException | None) -> bool:
  """Returns whether an exception, or one behind it, says that a process or the network is gone.

  It never does in a run of one process.
  """
  if not jax.distributed.is_initialized():
    return False
  while error is not None:
    if _SIGNS.search(str(error).lower()):
      return True
    error = error.__cause__ or error.__context__
  return False


def check(place: Place) -> bool:
  """Returns whether a place is given.

  Raises:
    ValueError: it is given in part, or makes no sense.
  """
  if place == NOWHERE:
    return False
  host, _, port = place.coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise ValueError(f"--coordinator must be host:port of process 0, but is {place.coordinator!r}.")
  if not 0 <= place.process < place.processes:
    raise ValueError(
      "--processes and --process_id must be a number of processes and one of 0 to that number - 1,"
      f" but are {place.processes} and {place.process}."
    )
  return True


def wait_of(environment: Mapping[str, str]) -> int:
  """Returns the seconds that processes wait for one another: `DYNASHARE_WAIT`, else 60.

  Raises:
    ValueError: it is no number of seconds above 0.
  """
  told = environment.get("DYNASHARE_WAIT", "60")
  if not told.isdigit() or int(told) < 1:
    raise ValueError(
      f"The variable DYNASHARE_WAIT must be a whole number of seconds above 0, but is {told!r}."
    )
  return int(told)


def found_several(environment: Mapping[str, str]) -> bool:
  """Returns whether a scheduler says that this is one of several processes.

  Kubernetes as such is not looked at: it does not tell a process how many there
  are without rights and a package that few have (docs/launch/gke.md).

  Args:
    environment: variables of SLURM (`SLURM_NTASKS` in a step), of Open MPI
      (`OMPI_COMM_WORLD_SIZE`) or of a TPU with several hosts: on Kubernetes
      `TPU_PROCESS_ADDRESSES` or `TPU_WORKER_HOSTNAMES`; on a TPU VM, which jax
      marks with `TPU_ML_PLATFORM`, the machine's metadata name the hosts.
  """
  counts = [environment.get("OMPI_COMM_WORLD_SIZE", "1")]
  if "SLURM_PROCID" in environment and "SLURM_LOCALID" in environment:
    counts.append(environment.get("SLURM_NTASKS", "1"))
  if any(c.isdigit() and int(c) > 1 for c in counts):
    return True
  hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES"))
  machine = environment.get("TPU_ML_PLATFORM") == "JAX"
  if hosts is None and machine and "TPU_SKIP_MDS_QUERY" not in environment:
    hosts = _metadata("worker-network-endpoints", environment)
  return len([h for h in (hosts or "").split(",") if h.strip()]) > 1


def _metadata(name: str, environment: Mapping[str, str]) -> str:
  """An attribute of a Google Cloud machine; empty where there is none."""
  host = environment.get("GCE_METADATA_IP", "metadata.google.internal")
  question = urllib.request.Request(
    f"http://{host}/computeMetadata/v1/instance/attributes/{name}",
    headers={"Metadata-Flavor": "Google"},
  )
  direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  for _ in range(3):
    try:
      with direct.open(question, timeout=5) as answer:
        return str(answer.read().decode())
    except urllib.error.HTTPError as error:
      error.close()
      return ""
    except OSError:
      time.sleep(0.5)
  return ""


def told(batch_size: int) -> str:
  """Describes processes, devices and the batch over all of them, for the first line of the log."""
  processes, devices = jax.process_count(), jax.device_count()
  each = f"{batch_size // devices} of {batch_size} examples a step on each"
  kind = jax.devices()[0].device_kind
  return (
    f"{processes} process{'es' * (processes > 1)}, {devices} device{'s' * (devices > 1)} ({kind}),"
    f" {jax.local_device_count()} in this process, number {jax.process_index()},"
    f" {each if batch_size else 'a batch that suits the data'}"
  )


def code() -> str:
  """Returns a digest of the source of this package, by content."""
  root = pathlib.Path(__file__).resolve().parents[1]
  digest = hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    digest.update(str(path.relative_to(root).as_posix()).encode() + b"\0")
    digest.update(path.read_bytes() + b"\0")
  return digest.hexdigest()


def check_equal(what: Mapping[str, Any]) -> None:
  """Makes sure that all processes have equal values (anything JSON can hold) by name.

  Raises:
    ValueError: in every process, naming what differs; and where processes have
      different numbers of devices.
  """
  if jax.process_count() == 1:
    return
  counts = collections.Counter(d.process_index for d in jax.devices())
  if len(set(counts.values())) > 1:  # Then they cannot gather anything.
    raise ValueError(
      "The processes of this run differ in their number of devices"
      f" ({', '.join(str(counts[p]) for p in sorted(counts))}). Start all with equally many."
    )
  texts = [json.dumps(value, sort_keys=True, default=str) for value in what.values()]
  digests = [hashlib.sha256(text.encode()).digest()[:4] for text in texts]
  every = _gather(np.array([int.from_bytes(d, "little") for d in digests], np.uint32))
  for place, name in enumerate(what):
    column = every[:, place].tolist()
    different = list(dict.fromkeys(column))
    if len(different) > 1:
      groups = [different.index(digest) for digest in column]
      raise ValueError(
        f"The processes of this run differ in their {name} (those of equal number agree:"
        f" {groups}). Start all with the same command and code."
      )


def _gather(values: np.ndarray) -> np.ndarray:
  """The values of every process, `[processes, ...]`."""
  return np.asarray(multihost_utils.process_allgather(values))


def by_first(folder: pathlib.Path, work: Callable[[], object], number: int = 0) -> int:
  """Runs something in process 0 alone, before the others go on; returns its `number`, 32 bits.

  Raises:
    ValueError: in process 0 what `work` raised; in the others, that it raised.
    OSError: in the others, if it did so because the disk is full.
  """
  failure: Exception | None = None
  if jax.process_index() == 0:
    try:
      work()
    except (ValueError, OSError) as error:
      failure = error
  told = _gather(np.array([number, failure is not None, _full_disk(failure)], np.uint32))[0]
  if failure is not None:
    raise failure
  if told[1]:
    text = f"Process 0 cannot use the work directory {folder}; its log says why"
    raise OSError(int(told[2]), text) if told[2] else ValueError(f"{text}.")
  return int(told[0])


def check_shared(folder: pathlib.Path, prepare: Callable[[], object] = lambda: None) -> None:
  """Makes sure that all processes see and can write one folder.

  Args:
    folder: the work directory.
    prepare: run first, by process 0 alone; makes the folder, or raises.

  Raises:
    ValueError: in every process, naming those that cannot write or see it.
    ValueError, OSError: as `by_first`, where `prepare` raised.
  """
  if jax.process_count() == 1:
    prepare()
    return
  number = secrets.randbits(32)

  def begin() -> None:
    prepare()
    (folder / f".shared-{number:08x}").touch()

  token = folder / f".shared-{by_first(folder, begin, number):08x}"
  seen = _waited_for(token)
  problem = 0 if seen and _can_write(folder) else 1 if not seen else 2
  host = np.frombuffer(socket.gethostname().encode()[:64].ljust(64), np.uint8).astype(np.uint32)
  every = _gather(np.concatenate([np.array([problem], np.uint32), host]))
  if jax.process_index() == 0:
    token.unlink(missing_ok=True)
  what = {
    1: "does not see what process 0 wrote there (is it on a file system that all hosts share?)",
    2: "cannot write there",
  }
  found = [
    f"{_listed(every, kind)} {text}" for kind, text in what.items() if (every[:, 0] == kind).any()
  ]
  if found:
    raise ValueError(
      f"The work directory {folder} does not serve all processes: {'; '.join(found)}. Choose"
      " another --workdir."
    )


def _full_disk(error: BaseException | None) -> int:
  """The number of the error in an exception's causes that means a full disk; else 0."""
  while error is not None:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      return int(number)
    error = error.__cause__
  return 0


def _listed(every: np.ndarray, kind: int) -> str:
  """Processes with a problem, and their hosts."""
  return ", ".join(
    f"process {number} on {bytes(row[1:].astype(np.uint8)).decode().strip()}"
    for number, row in enumerate(every)
    if row[0] == kind
  )


def _waited_for(path: pathlib.Path) -> bool:
  """Whether a file is there, or comes soon (network file systems are slow)."""
  until = time.monotonic() + SEEN_WITHIN
  while not _sees(path):
    if time.monotonic() > until:
      return False
    time.sleep(0.1)
  return True


def _sees(path: pathlib.Path) -> bool:
  """Whether a file is there, also over NFS."""
  # A client of it may take up to a minute for a name as missing that it asked
  # for before; to open the folders makes it ask the server again.
  for folder in (path.parent.parent, path.parent):
    with contextlib.suppress(OSError), os.scandir(folder):
      pass
  return path.exists()


def _can_write(folder: pathlib.Path) -> bool:
  try:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".check."):
      return True
  except OSError:
    return False
