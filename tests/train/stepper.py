"""Steps of one phase of an experiment, from its initial state."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.train import step as step_lib

_PROGRAMS = {}  # of an experiment, which stays alive, and a spec


class Stepper:
  """Runs steps of one phase from the initial state."""

  def __init__(self, experiment, name, route=None, cycle=0):
    self.experiment = experiment
    phases = experiment.method.phases
    self.index = next(i for i, p in enumerate(phases) if p.name == name and p.cycle == cycle)
    self.phase = phases[self.index]
    shape = (len(experiment.tasks), experiment.units)
    self.route = np.ones(shape) if route is None else np.asarray(route, float)
    self.spec = experiment.spec(self.index, self.route)
    name = id(experiment), self.spec
    if name not in _PROGRAMS:
      program = step_lib.make(
        experiment.objective,
        functools.partial(experiment.optimizer, self.spec.optimizer),
        self.spec,
        mesh_lib.batch_sharding(experiment.mesh),
      )
      _PROGRAMS[name] = experiment, program
    self.jitted = _PROGRAMS[name][1]

  def start(self):
    state = self.experiment.initial_state()
    state = self.experiment.with_optimizer(state, self.index)
    return mesh_lib.place_replicated(state, self.experiment.mesh)

  def __call__(self, state, first=0, count=1, batch=None, rows=None):
    batch = batch or self.experiment.dataset.arrays("train")
    size = self.experiment.config.train.batch_size
    if rows is None:
      rows = (np.arange(count * size).reshape(count, size) + first * size) % 64
    experiment = self.experiment
    horizon = experiment.horizon(self.index)
    moving = step_lib.moving_of(
      experiment.sharing, self.phase, experiment.config.seed, first, first, self.route, horizon
    )
    return self.jitted(state, batch, jnp.asarray(rows, jnp.int32), moving)
