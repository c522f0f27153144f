"""Re-trainings of several candidates at once, each on a group of devices.

The devices are a mesh with the axes `candidate` and `data`: its rows are the
groups. Candidate c is trained by group c modulo the number of groups, in the
folder `candidates/<c>` with checkpoints and metrics of its own; then all are
merged in their order, so that the run ends as one that trained them in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import functools
import itertools
import pathlib
import shutil
import threading
from typing import Any

from absl import logging
import jax
import numpy as np

from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.distributed import preemption
from dynashare_jax.monitoring import logs
from dynashare_jax.monitoring import monitor as monitor_lib
from dynashare_jax.train import checks
from dynashare_jax.train import evaluate
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import part as part_lib
from dynashare_jax.train import state as state_lib

FOLDER = "candidates"
_LONGEST = 2**31 - 1  # milliseconds that groups wait for the slowest: 24 days
_meetings = itertools.count()  # the same in all processes


def layout(
  experiment: experiment_lib.Experiment, workdir: pathlib.Path, step: int
) -> list[jax.sharding.Mesh]:
  """Returns one mesh per group that re-trains candidates; none: in turn. All processes agree.

  It is decided where the re-training begins, and stays: who has begun in turn goes on in turn, who
  has begun in groups goes on with the folders of the candidates, in any number of groups.

  Args:
    step: of the latest checkpoint of the whole run.
  """
  folder = workdir / FOLDER
  groups = checks.groups_of(experiment.config, experiment.method, experiment.mesh)
  candidates = part_lib.spans(experiment)
  if len(candidates) < 2:
    return []
  search = step - candidates[0].start
  first = mesh_lib.rank(experiment.mesh) == 0
  there = bool(mesh_lib.every(np.array([folder.is_dir()]), experiment.mesh)[0, 0])
  if there and search and first:
    # Of a finished run; or the search goes on from an earlier checkpoint, and
    # on other devices may find other routes.
    if search < 0:
      logging.warning(
        "Candidates are trained again, as the search is not at its end: %s is deleted.", folder
      )
    shutil.rmtree(folder)
  if search > 0 or (groups == 1 and (search < 0 or not there)):
    return []
  return mesh_lib.candidate_meshes(experiment.mesh, groups)


def train(
  loop: loop_lib.Loop,
  checkpoints: checkpoint.Checkpoints,
  start: state_lib.State,
  meshes: Sequence[jax.sharding.Mesh],
) -> state_lib.State:
  """Re-trains all candidates, and merges them; returns the final state.

  Args:
    checkpoints: of the whole run; the state after the last step is saved.
    start: the state at the end of the search, NumPy arrays.
    meshes: one a group.

  Raises:
    PreemptedError: a process was told to end.
  """
  told = _train_groups(loop, start, meshes)
  if _meet(told):
    raise preemption.PreemptedError(
      "told to end while candidates were re-trained; checkpoints of them are written"
    )
  state = _merge(loop, checkpoints, start, len(meshes))
  if mesh_lib.rank(loop.experiment.mesh) == 0:
    shutil.rmtree(loop.workdir / FOLDER)
  return state


def _train_groups(
  loop: loop_lib.Loop, start: state_lib.State, meshes: Sequence[jax.sharding.Mesh]
) -> bool:
  """Trains the groups of this process; whether they were told to end."""
  start = loop.searched(start)
  start = jax.tree.map(np.asarray, start)
  constant = loop.constant()
  loop.free()
  halt = threading.Event()
  mine = [
    number for number, mesh in enumerate(meshes) if jax.process_index() in mesh_lib.processes(mesh)
  ]
  works = [
    functools.partial(
      _train_group,
      loop,
      meshes[number],
      number,
      len(meshes),
      start,
      constant,
      halt,
      loop.profile if number == mine[0] else 0,
    )
    for number in mine
  ]
  if len(works) == 1:
    return works[0]()
  return any(_at_once(works, halt))


def _train_group(
  loop: loop_lib.Loop,
  mesh: jax.sharding.Mesh,
  group: int,
  groups: int,
  start: state_lib.State,
  constant: evaluate.Values,
  halt: threading.Event,
  profile: int,
) -> bool:
  """Trains the candidates of a group in turn; whether it was told to end."""
  experiment = dataclasses.replace(loop.experiment, mesh=mesh)
  mine = list(enumerate(part_lib.spans(experiment)))[group::groups]
  before: loop_lib.Loop | None = None
  done = 0
  for number, steps in mine:
    part = part_lib.Part(
      steps,
      start,
      constant,
      done,
      sum(len(s) for _, s in mine),
      group == 0 and mesh_lib.rank(mesh) == 0,
      halt,
    )
    one = type(loop)(experiment, _folder(loop, number), part=part)
    if before is None:
      one.monitor = monitor_lib.Monitor(mesh, loop.workdir / "profile", profile, loop.config)
    else:
      one.share(before)
    try:
      with (
        checkpoint.Checkpoints(one.workdir / "checkpoints", mesh=mesh) as checkpoints,
        preemption.Watch(mesh) as watch,
      ):
        at, state = one.restore(checkpoints)
        one.train(checkpoints, watch, at, state, steps.stop)
    except preemption.PreemptedError:
      return True
    before = one
    done += len(steps)
  return False


def _at_once(works: Sequence[Callable[[], bool]], halt: threading.Event) -> list[bool]:
  """Runs each in a thread; the first error halts the others and is raised."""
  with concurrent.futures.ThreadPoolExecutor(len(works), "candidate") as pool:
    running = [pool.submit(work) for work in works]
    try:
      done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_EXCEPTION)
      if any(one.exception() for one in done):
        halt.set()
    except BaseException:
      halt.set()
      raise
  errors = [one.exception() for one in running]
  for error in errors:
    if error is not None and not isinstance(error, part_lib.HaltedError):
      raise error
  return [one.result() for one in running]


def _meet(told: bool) -> bool:
  """Waits for all processes; whether any of them was told to end.

  The slowest may train for days yet. Collectives would time out, and none is
  under way: this is a barrier of the service that the processes started with.
  """
  if jax.process_count() == 1:
    return told
  from jax._src import distributed  # The only way to its barriers.

  client: Any = distributed.global_state.client
  name = f"dynashare_jax/candidates/{next(_meetings)}"
  here = mesh_lib.make_mesh(jax.local_devices()[:1])
  # Told to end while it waits, this process tells the others; they all come.
  with preemption.Watch(here):
    if told:
      client.key_value_set(f"{name}/{jax.process_index()}", "told to end")
    # In a thread, so that Ctrl-C is heard.
    pool = concurrent.futures.ThreadPoolExecutor(1, "meeting")
    pool.submit(client.wait_at_barrier, name, _LONGEST).result()
    pool.shutdown()
  return bool(client.key_value_dir_get(f"{name}/"))


def _merge(
  loop: loop_lib.Loop, checkpoints: checkpoint.Checkpoints, start: state_lib.State, groups: int
) -> state_lib.State:
  """Puts the candidates behind one another, as if trained in turn; saves."""
  experiment = loop.experiment
  candidates = part_lib.spans(experiment)
  best = experiment.place(start.best)
  spent = [0.0] * groups
  first = mesh_lib.rank(experiment.mesh) == 0
  with logs.MetricLog(loop.workdir, first) as log:
    log.rewind(candidates[0].start)
    for number, steps in enumerate(candidates):
      folder = _folder(loop, number)
      with checkpoint.Checkpoints(folder / "checkpoints", mesh=experiment.mesh) as saved:
        found = saved.restore(experiment.template, steps.stop)
      assert found is not None
      _, state, record = found
      best = loop.better(best, state.best)
      loop.take(record)
      spent[number % groups] += record["seconds"]
      for line in logs.read(folder) if first else ():
        log.write(**line)
  loop.spent += max(spent)
  state = state.replace(best=best)
  loop.save(checkpoints, experiment.total_steps, state)
  checkpoints.wait()
  return state


def _folder(loop: loop_lib.Loop, number: int) -> pathlib.Path:
  return loop.workdir / FOLDER / str(number)
