"""Saves and restores a run: state and record of one step, kept together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import logging as std_logging
import math
import os
import pathlib
import shutil
import sys
import threading
import time
from typing import Any, TYPE_CHECKING

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax.checkpoints import leaves as leaves_lib
from dynashare_jax.checkpoints import workdir
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.types import PyTree

if TYPE_CHECKING:  # Orbax takes half a second to import: `Checkpoints` does it.
  import orbax.checkpoint as ocp

_TRASH = "todelete"
_DAMAGED = "damaged"
_UNFINISHED = "*.orbax-checkpoint-tmp*"  # folders of saves that a kill interrupted
_QUIET = threading.Lock()


class DamagedCheckpointError(ValueError):
  """No checkpoint that could be used is whole."""


class _Damage(Exception):
  """What is wrong with one step; its text names the leaf."""


class _KeepBest:
  """A preservation policy: keeps the step with the highest score of the records.

  They carry a checksum; a damaged metrics file of Orbax stops its manager from opening.
  """

  def __init__(self, scores: dict[int, float | None]):
    self._scores = scores

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
    del context
    best = _best(self._scores, [info.step for info in checkpoints])
    return [info.step == best for info in checkpoints]


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
  """The checkpoints of one directory: the latest ones and the best one.

  A save is asynchronous and atomic: a run killed at any moment finds either
  the whole step or none of it. Orbax restores flipped bits without a word, so
  every leaf is stored with its CRC32, which a restore checks.

  With several processes all those of the mesh must create this object, save and
  restore. Threads of one process may each have an object of their own.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    keep_latest: int = 2,
    read_only: bool = False,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Opens the directory; creates it unless `read_only`.

    Args:
      directory: a relative path is made absolute.
      keep_latest: how many of the latest steps stay, beside the best one. Two,
        so that a damaged step has one before it.
      read_only: leave everything as it is (another process may be training).
      mesh: whose processes save and restore; default all of them.

    Raises:
      ValueError: `keep_latest` is below 1.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import preservation_policy

    from dynashare_jax.checkpoints import orbax_writers as writers

    if keep_latest < 1:
      raise ValueError(f"keep_latest must be at least 1, not {keep_latest}.")
    self._directory = pathlib.Path(directory).expanduser().absolute()
    self._read_only = read_only
    self._mesh = mesh or mesh_lib.make_mesh()
    self._first = mesh_lib.rank(self._mesh) == 0
    self._damaged: dict[int, str] = {}
    self._scores: dict[int, float | None] = {}
    self._manager: ocp.CheckpointManager | None = None
    if read_only and not self._directory.is_dir():
      return
    if not read_only:
      self._directory.mkdir(parents=True, exist_ok=True)
      self._empty_trash()
      self._delete(_UNFINISHED)
    with _without_warnings() if read_only else contextlib.nullcontext():
      self._manager = ocp.CheckpointManager(
        self._directory,
        item_names=("state", "record"),
        item_handlers=writers.handlers(self._mesh),
        options=ocp.CheckpointManagerOptions(
          preservation_policy=preservation_policy.AnyPreservationPolicy(
            [preservation_policy.LatestN(keep_latest), _KeepBest(self._scores)]
          ),
          todelete_subdir=None if read_only else _TRASH,
          cleanup_tmp_directories=False,  # `_delete` does, at once.
          create=False,
          read_only=read_only,
          async_options=writers.ASYNCHRONOUS,
          multiprocessing_options=writers.processes(self._mesh),
        ),
      )
    for step in self._manager.all_steps():
      try:
        self._scores[step] = self._read(step)["score"]
      except _Damage:
        self._scores[step] = None  # A restore reports it.

  def save(
    self, step: int, state: PyTree, record: Mapping[str, Any], score: float | None = None
  ) -> None:
    """Starts to write a step; waits only for the save before this one.

    Write the step's metric lines before: a resumed run keeps the lines up to the restored step.

    Args:
      step: global step; above every step that is there.
      state: arrays (JAX or NumPy). They may be donated as soon as this returns.
      record: what JSON can hold, NumPy scalars and arrays included: phase and data position,
        config, metrics history. It comes back as JSON does it: lists for tuples and arrays, strings
        for keys. NaN survives.
      score: validation score, higher is better; None or NaN never counts as the best.

    Raises:
      ValueError: a step that is not above the latest one; a leaf that cannot be saved; read-only.
      OSError: this or the previous save could not be written.
    """
    import orbax.checkpoint as ocp

    from dynashare_jax.checkpoints import orbax_writers as writers

    manager = self._writable()
    self._put_damaged_aside()
    latest = self.latest_step()
    if latest is not None and step <= latest:
      raise ValueError(
        f"Checkpoint step {step} is not above step {latest}, the latest in {self._directory}."
      )
    arrays = leaves_lib.named(state)
    leaves = {name: leaves_lib.describe(leaf, name) for name, leaf in arrays.items()}
    score = float(score) if score is not None and math.isfinite(score) else None
    body = {
      "step": int(step),
      "score": score,
      "leaves": leaves,
      "record": workdir.plain(record, nan_to_null=False),
    }
    filled = {name: writers.accepted(leaf) for name, leaf in arrays.items() if leaf.size}
    self._scores[int(step)] = score
    try:
      manager.save(
        int(step),
        args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(filled),
          record=ocp.args.JsonSave({"body": body, "crc32": leaves_lib.text_crc(body)}),
        ),
        force=True,
      )
    except Exception as error:
      raise OSError(
        f"Could not write the checkpoint of step {step} (or the one before) to"
        f" {self._directory}: {error}"
      ) from error
    self._empty_trash()

  def restore(
    self, template: PyTree, step: int | None = None
  ) -> tuple[int, PyTree, dict[str, Any]] | None:
    """Reads the latest whole step, or the given one.

    A damaged step is reported through `logging` and the step before is tried.
    It is moved into the folder `damaged` when the next step is saved.

    Args:
      template: arrays or `jax.ShapeDtypeStruct`s with the wanted structure,
        shapes, dtypes and shardings (any number of devices). NumPy leaves come
        back as NumPy arrays, all others as JAX arrays. Or a function of the
        step that returns them, where the structure changes during a run.
      step: read this step, for example `best_step()`, and no other.

    Returns:
      Step, state and record; None if nothing was ever saved here.

    Raises:
      ValueError: the saved state has other leaves, shapes or dtypes.
      DamagedCheckpointError: there are checkpoints, but none is whole.
    """
    self.wait()
    if step is not None:
      return self._restore_one(template, step)
    steps = self._whole()
    for position, candidate in enumerate(steps):
      try:
        state, record = self._load(template, candidate)
      except _Damage as damage:
        self._damaged[candidate] = str(damage)
        before = [f"Trying step {step} instead." for step in steps[position + 1 :]]
        where = f"Checkpoint step {candidate} in {self._directory}"
        text = (*before, "There is no step before it.")[0]
        logging.warning("%s is damaged: %s. %s", where, damage, text)
        continue
      return candidate, state, record
    if self._damaged or any(self._directory.glob(f"{_DAMAGED}/*")):
      listing = "; ".join(f"step {s}: {why}" for s, why in sorted(self._damaged.items()))
      raise DamagedCheckpointError(
        f"Every checkpoint in {self._directory} is damaged"
        f" ({listing or 'see its folder ' + _DAMAGED}). Restore the folder from a"
        " copy, or delete it (or choose another --workdir) to start from the beginning."
      )
    return None

  def latest_step(self) -> int | None:
    """Returns the latest step, without those found damaged; None if there is none."""
    return next(iter(self._whole()), None)

  def best_step(self) -> int | None:
    """Returns the step with the highest score (of equals the latest); None if none has one."""
    return _best(self._scores, self._whole())

  def wait(self) -> None:
    """Waits until everything is written; raises OSError if the save could not be."""
    if self._manager is None:
      return
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise OSError(f"Could not write a checkpoint to {self._directory}: {error}") from error
    self._empty_trash()

  def close(self) -> None:
    """Waits, then frees threads; the object cannot be used afterwards."""
    if self._manager is not None:
      try:
        self.wait()
      finally:
        self._manager.close()
        self._manager = None

  def __exit__(self, *unused: object) -> None:
    self.close()

  def _writable(self) -> ocp.CheckpointManager:
    if self._read_only or self._manager is None:
      raise ValueError(
        f"The checkpoints in {self._directory} were opened read-only or are"
        " closed; they cannot be written."
      )
    return self._manager

  def _steps(self) -> list[int]:
    """All steps, latest first."""
    if self._manager is None:
      return []
    return sorted(self._manager.all_steps(), reverse=True)

  def _whole(self) -> list[int]:
    """The steps that were not found damaged, latest first."""
    return [step for step in self._steps() if step not in self._damaged]

  def _restore_one(self, template: PyTree, step: int) -> tuple[int, PyTree, dict[str, Any]]:
    if step not in self._steps():
      raise ValueError(
        f"There is no checkpoint of step {step} in {self._directory}; there are"
        f" {sorted(self._steps())}."
      )
    try:
      state, record = self._load(template, step)
    except _Damage as damage:
      raise DamagedCheckpointError(
        f"Checkpoint step {step} in {self._directory} is damaged: {damage}."
      ) from damage
    return step, state, record

  def _read(self, step: int) -> dict[str, Any]:
    """Score, record and description of the leaves, checked."""
    import orbax.checkpoint as ocp

    assert self._manager is not None
    try:
      wanted = ocp.args.Composite(record=ocp.args.JsonRestore())
      stored = self._manager.restore(step, args=wanted)["record"]
      body, crc = stored["body"], stored["crc32"]
      whole = leaves_lib.text_crc(body) == crc and body["step"] == step
    except Exception as error:
      raise _Damage(f"record: {_first_line(error)}") from error
    if not whole:
      raise _Damage("record: its checksum does not fit")
    return body

  def _load(self, template: PyTree, step: int) -> tuple[PyTree, dict[str, Any]]:
    """Reads and checks one step; all processes agree that it is whole."""
    template = template(step) if callable(template) else template
    wanted = leaves_lib.named(template)
    problem, body, host = "", {}, {}
    try:
      body = self._read(step)
      leaves_lib.check_structure(body["leaves"], wanted, self._directory / str(step))
      host = self._read_leaves(step, body["leaves"])
    except _Damage as damage:
      problem = str(damage)
    if not self._everywhere(not problem):
      raise _Damage(problem or "another process could not read it")
    leaves = [leaves_lib.place(host[name], leaf) for name, leaf in wanted.items()]
    structure = jax.tree.structure(template)
    return jax.tree.unflatten(structure, leaves), body["record"]

  def _read_leaves(self, step: int, leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state as NumPy arrays, every checksum compared."""
    import orbax.checkpoint as ocp

    assert self._manager is not None
    host: dict[str, np.ndarray] = {
      name: np.zeros(leaf["shape"], jnp.dtype(leaf["dtype"]))
      for name, leaf in leaves.items()
      if 0 in leaf["shape"]
    }
    numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    args = {name: numpy for name in leaves if name not in host}
    wanted = ocp.args.Composite(state=ocp.args.PyTreeRestore(restore_args=args))
    try:
      with _quiet_futures():
        host |= self._manager.restore(step, args=wanted)["state"]
    except Exception as error:
      named = next((n for n in args if f'"{n}/' in str(error)), "state")
      raise _Damage(f"{named}: {_first_line(error)}") from error
    for name, leaf in leaves.items():
      got = host[name]
      if (list(got.shape), got.dtype.name) != (leaf["shape"], leaf["dtype"]):
        raise _Damage(f"{name}: it has become {got.dtype.name}{got.shape}")
      if leaf["crc32"] is not None and leaves_lib.crc(got) != leaf["crc32"]:
        raise _Damage(f"{name}: its checksum does not fit")
    return host

  def _put_damaged_aside(self) -> None:
    """Makes room for the steps that take the place of damaged ones."""
    manager = self._writable()
    present = [s for s in self._damaged if s in manager.all_steps()]
    if not present:
      return
    aside = self._directory / _DAMAGED
    if self._first:
      aside.mkdir(exist_ok=True)
      for step in present:
        target = aside / str(step)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(self._directory / str(step), target)
        logging.warning("Moved damaged checkpoint step %d to %s.", step, target)
    self._everywhere(True)
    for step in present:
      del self._damaged[step]
      self._scores.pop(step, None)
    manager.reload()

  def _empty_trash(self) -> None:
    """Deletes what Orbax renamed into the trash folder."""
    if not self._read_only:
      self._delete(f"{_TRASH}/*")

  def _delete(self, pattern: str) -> None:
    """Deletes the folders that a pattern names, in the first process."""
    for path in self._directory.glob(pattern) if self._first else ():
      shutil.rmtree(path, ignore_errors=True)

  def _everywhere(self, good: bool) -> bool:
    """Whether it is true in all processes of the mesh."""
    return bool(mesh_lib.every(np.asarray([good]), self._mesh).all())


def _best(scores: Mapping[int, float | None], steps: Sequence[int]) -> int | None:
  """The step with the highest score (of equal scores the latest), or None."""
  scored = [(scores[s], s) for s in steps if scores.get(s) is not None]
  return max(scored)[1] if scored else None


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
  """Keeps Orbax from warning that what is only read is only read."""
  log = logging.get_absl_logger()
  errors = lambda record: record.levelno >= std_logging.ERROR
  log.addFilter(errors)
  try:
    yield
  finally:
    log.removeFilter(errors)


@contextlib.contextmanager
def _quiet_futures() -> Iterator[None]:
  """Hides the tracebacks of reads that end after the first failed one closed their event loop."""
  with _QUIET:  # The hook is the program's; threads take turns.
    before = sys.unraisablehook

    def hook(report: Any) -> None:
      if "Event loop is closed" not in str(report.exc_value):
        before(report)

    sys.unraisablehook = hook
    try:
      yield
    except BaseException:
      time.sleep(0.2)  # They are on their way in other threads.
      raise
    finally:
      sys.unraisablehook = before


def _first_line(error: Exception) -> str:
  text = str(error).strip() or "no message"
  return f"{type(error).__name__}: {text.splitlines()[0][:200]}"
