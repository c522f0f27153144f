"""Told to end (preempted): a checkpoint, then an exit that is restarted."""

from __future__ import annotations

import collections
from collections.abc import Iterator
import contextlib
import functools
import os
import signal
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax.distributed import cluster
from dynashare_jax.distributed import mesh as mesh_lib

STATUS = 143  # 128 and the number of SIGTERM, as of a program that it ends
STUCK = 4.0  # seconds that a process of several has to end by an exception
GONE = 1.0  # and where the others are lost, so that no save can end
_AGAIN = 1.0  # seconds; schedulers send several signals for one telling
_LAG = 2  # calls from a question to its answer: nothing waits for a device
_POLL = 1.0  # seconds between two looks at what other groups were told
_KEY = "dynashare_jax/told_to_end"


class PreemptedError(Exception):
  """The run was asked to end, and a checkpoint was written."""


class _Ear:
  """The signals that this process received, in whichever thread they arrived.

  Attributes:
    told: whether to end.
    trains: whether a `Watch` was opened, so that an end can wait for it.
    listens: whether the signal is received here.
    advice: the consequence of an end for the work done so far.
  """

  def __init__(self) -> None:
    self.clear()

  def clear(self) -> None:
    """Forgets everything."""
    self.told = self.trains = self.listens = False
    self._first: float | None = None  # monotonic seconds
    self.advice = ""
    self._leaving = False

  def note(self, again: bool = True) -> None:
    """Notes a SIGTERM; `again` is False where it may be the same one noticed twice."""
    now = time.monotonic()
    self.told = True
    if self._first is None:
      self._first = now
    if not self.trains:
      self._leave("")
    if again and now - self._first > _AGAIN:
      self._leave(" once more, before there was a checkpoint")

  def _leave(self, why: str) -> None:
    """Ends the process at once, from any thread."""
    if not self._leaving:
      self._leaving = True
      cluster.end(f"ended by SIGTERM{why}: {self.advice}", STATUS)


_EAR = _Ear()


@contextlib.contextmanager
def listen(advice: str = "the same command goes on") -> Iterator[None]:
  """Receives SIGTERM for as long as it is open.

  Before a `Watch` is opened, the process ends at once with status 143 and one line; afterwards the
  signal is kept for the watch. A second one, more than a second later, ends the process at once.
  Within another `listen`, and outside of the main thread, it changes nothing.

  Args:
    advice: the consequence of such an end for the work done so far, for that line.
  """
  main = threading.current_thread() is threading.main_thread()
  if _EAR.listens or not main:
    yield
    return
  # Python calls a handler when the main thread is next in Python; it may be
  # compiling for minutes. The pipe is written to at once.
  into, out = os.pipe()
  os.set_blocking(out, False)
  hears = threading.Thread(target=_hear, args=(into,), daemon=True)
  hears.start()
  _EAR.clear()
  _EAR.listens, _EAR.advice = True, advice
  before = signal.signal(signal.SIGTERM, lambda *_: _EAR.note(again=False))
  descriptor = signal.set_wakeup_fd(out, warn_on_full_buffer=False)
  try:
    yield
  finally:
    signal.set_wakeup_fd(descriptor)
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    os.write(out, bytes(1))  # Closing is no end if a child has it open, too.
    hears.join()  # Else it might note what came after all is forgotten.
    os.close(out)
    _EAR.clear()


@contextlib.contextmanager
def interruptible(advice: str) -> Iterator[None]:
  """Takes a first Ctrl-C in training as a request to end, as SIGTERM; a second one interrupts.

  So does the first before training. Outside of the main thread it changes nothing.

  Args:
    advice: the consequence of such an end for the work done so far.

  Raises:
    KeyboardInterrupt: after Ctrl-C, once the run is saved.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  heard = False

  def hear(number: int, frame: Any) -> None:
    nonlocal heard
    if heard or not _EAR.trains:
      signal.default_int_handler(number, frame)
    heard = _EAR.told = True

  before = signal.signal(signal.SIGINT, hear)
  try:
    yield
  except PreemptedError as told:
    if not heard:
      raise
    raise KeyboardInterrupt(f"{told}; {advice}") from None
  finally:
    signal.signal(signal.SIGINT, before or signal.default_int_handler)


def _hear(descriptor: int) -> None:
  """Notes every SIGTERM that a pipe reports, until it reports signal 0."""
  received = b""
  while 0 not in received:
    received = os.read(descriptor, 64)
    if signal.SIGTERM in received:
      _EAR.note()
  os.close(descriptor)


class Watch:
  """Notices that this run was asked to end, in all its processes at once.

  All processes of a mesh stop at the same step, whichever of them was asked: with every call a flag
  of each is gathered on the devices, behind the steps that are under way, and the answer is read
  two calls later. Where the mesh is a part of the run, the other processes get to know it, too.

  Source: what `jax.experimental.multihost_utils` offers for this (`reached_preemption_sync_point`)
    counts the steps of all processes; groups of them may be at different ones.

  Attributes:
    told: whether this run is to stop.
  """

  def __init__(self, mesh: jax.sharding.Mesh | None = None) -> None:
    """Prepares for the processes of a mesh, by default all, which stop together."""
    self.told = False
    count = jax.process_count()
    if mesh is None and count > 1:
      mesh = mesh_lib.make_mesh()
    members = len(mesh_lib.processes(mesh)) if mesh is not None else 1
    self._mesh = mesh if members > 1 else None
    self._part = members < count
    self._answers: collections.deque[jax.Array] = collections.deque()
    self._open = contextlib.ExitStack()

  def reached(self, step: int) -> bool:
    """Returns whether to stop before a step; all processes get the same answer.

    Args:
      step: global, ascending from call to call; the same in all processes of the mesh.
    """
    del step  # The calls are counted; they are the same, too.
    if self.told:
      return True
    if self._mesh is None:
      self.told = _EAR.told
    else:
      self._answers.append(_anywhere(self._mesh)(_EAR.told))
      if len(self._answers) > _LAG:
        self.told = bool(np.asarray(self._answers.popleft()))
    return self.told

  def __enter__(self) -> Watch:
    self._open.enter_context(listen())
    _EAR.trains = True
    if self._part:
      self._open.enter_context(_spread())
    return self

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    if error is not None and jax.process_count() > 1 and not isinstance(error, PreemptedError):
      _end_soon(error)
    self._open.close()


def _end_soon(error: BaseException) -> None:
  """Ends the process if it cannot close by itself what it has open."""
  # A save that is under way waits for the other processes, and they may wait
  # for this one.
  text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
  seconds = STUCK
  if cluster.is_lost(error):
    text, seconds = f"{cluster.LOST}. {cluster.ON}.", GONE
  cluster.end_after(seconds, f"error: {text}")


@functools.lru_cache(maxsize=16)
def _anywhere(mesh: jax.sharding.Mesh) -> Any:
  """A function, which never blocks, of whether a flag is set in any process of a mesh."""
  sharding = mesh_lib.batch_sharding(mesh)
  reduce = jax.jit(jnp.any, out_shardings=mesh_lib.replicated(mesh))
  local = len(mesh.local_devices)
  flags = functools.partial(jax.make_array_from_process_local_data, sharding)
  return lambda flag: reduce(flags(np.full((local,), flag)))


@contextlib.contextmanager
def _spread() -> Iterator[None]:
  """Passes an end on to all groups of a run, and receives it from them."""
  from jax._src import distributed  # The only way to the key-value store.

  client = distributed.global_state.client
  done = threading.Event()

  def look() -> None:
    while client is not None and not done.wait(_POLL):
      try:
        if _EAR.told:
          client.key_value_set(_KEY, "yes", allow_overwrite=True)
          return
        client.key_value_try_get(_KEY)
        _EAR.told = True
        return
      except Exception:  # Not told; or the service is lost, which ends us.
        continue

  thread = threading.Thread(target=look, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
