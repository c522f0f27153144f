"""A run from its beginning, or from where it stands, to its end."""

from __future__ import annotations

import sys

from absl import logging
import jax

from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.distributed import preemption
from dynashare_jax.train import ahead as ahead_lib
from dynashare_jax.train import candidates
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import part as part_lib
from dynashare_jax.train import state as state_lib


def run(loop: loop_lib.Loop) -> state_lib.State:
  """Runs what is not done yet; returns the final state.

  The search, and re-trainings in turn, are one loop on all devices. Where groups of devices
  re-train candidates at once, each candidate has a loop of its own.

  Raises:
    PreemptedError: the run was told to end, and its state is saved.
    NonFiniteLossError: a loss or a parameter is not finite any more.
  """
  with ahead_lib.Ahead(loop) as ahead:
    if not any((loop.workdir / "checkpoints").glob("[0-9]*")):
      ahead.start()
    return _run(loop, ahead)


def _run(loop: loop_lib.Loop, ahead: ahead_lib.Ahead) -> state_lib.State:
  """`run`, which tells what phase it has come to."""
  experiment = loop.experiment
  looked_at = loop.feed.check()
  if mesh_lib.rank(experiment.mesh) == 0:
    for found in looked_at:
      print(found, file=sys.stderr, flush=True)
      for doubt in found.doubts:
        logging.warning("%s: %s.", found.split, doubt)
  with (
    checkpoint.Checkpoints(loop.workdir / "checkpoints", mesh=experiment.mesh) as checkpoints,
    preemption.Watch(experiment.mesh) as watch,
  ):
    step, state = loop.restore(checkpoints)
    meshes = candidates.layout(experiment, loop.workdir, step)
    if not meshes:
      return loop.train(checkpoints, watch, step, state, experiment.total_steps, ahead.look)
    last = part_lib.spans(experiment)[0].start
    ahead.end = experiment.locate(last)[0]
    state = loop.train(checkpoints, watch, step, state, last, ahead.look)
    if step < last:
      loop.profile = 0  # It is recorded.
    checkpoints.wait()
    start = jax.tree.map(mesh_lib.whole, state.replace(opt={}, balance={}))
    del state  # The devices are the groups' now.
    return candidates.train(loop, checkpoints, start, meshes)
