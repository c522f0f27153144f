"""Trains many routes of a planted problem equally, and tells the loss of each on test."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import methods
from dynashare_jax import runs
from dynashare_jax.data import loader
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import forward as forward_lib
from dynashare_jax.train import state as state_lib
from dynashare_jax.train import step as step_lib

AT_ONCE = 16  # routes that are trained side by side


class Judge:
  """Trains networks of one configuration from scratch, many side by side.

  Every training has an initialisation of its own; the order of the examples is the same for all.
  """

  def __init__(self, config: Any, method: str = "hard") -> None:
    """Opens the data and builds the network.

    Args:
      config: of a planted problem.
      method: whose network is trained: `hard`, on any route, or `single`.
    """
    config = config.copy_and_resolve_references()
    config.method, config.train.execution = method, "masked"
    make = methods.find(method).build
    self.experiment = experiment_lib.build(config, runs.open_dataset(config), make)
    self._train = functools.cache(self._make)
    self.blocks = self.experiment.units
    self.tasks = len(self.experiment.tasks)
    self.parts = {
      name: jax.tree.map(jnp.asarray, self.experiment.dataset.arrays(name))
      for name in ("train", "test")
    }

  @property
  def parameters(self) -> int:
    """Parameters of the network."""
    state = jax.eval_shape(self.experiment.initial_state)
    return sum(leaf.size for leaf in jax.tree.leaves(state.params["network"]))

  def losses(self, routes: Any, steps: int, seed: int = 0, start: Any = None) -> np.ndarray:
    """Returns the test loss of every task, `[N, T]`.

    Args:
      routes: `[N, T, L]` of 0 and 1.
      steps: of each training, with `config.optimizers.retrain`.
      seed: of initialisations and of the order.
      start: parameters of the network to begin with; default fresh ones for each route.
    """
    found = []
    for first in range(0, len(routes), AT_ONCE):
      some = np.asarray(routes[first : first + AT_ONCE], np.float32)
      # Always as many, so that one program serves all; or one alone.
      full = some if len(some) == 1 else np.resize(some, (AT_ONCE, *some.shape[1:]))
      keys = [jax.random.fold_in(jax.random.key(seed), first + i) for i in range(len(full))]
      done = self._train(steps)(jnp.stack(keys), full, self._rows(steps, seed), start)
      found.append(np.asarray(done)[: len(some)])
    return np.concatenate(found)

  def _rows(self, steps: int, seed: int) -> np.ndarray:
    """Examples of every step, `[steps, B]`."""
    config = self.experiment.config
    order = loader.Order(config.data.train, config.train.batch_size, seed, "judge")
    return order.indices(0, steps)

  def _make(self, steps: int) -> Any:
    """Compiled: (keys [N], routes [N, T, L], rows) -> losses [N, T]."""
    experiment = self.experiment
    sharing, tx = experiment.sharing, experiment.optimizer("retrain", steps)
    told = skip.Stretch("all" if self.experiment.method.independent else "route")
    phase = contract.Phase("retrain", steps, settings=told, candidate=0)
    static = sharing.static(phase, np.ones((self.tasks, self.blocks)))
    spec = forward_lib.Spec(static, phase.trainable, "retrain")
    inputs, train, test = experiment.sample_inputs(), self.parts["train"], self.parts["test"]

    def begin(key: jax.Array, given: Any) -> state_lib.State:
      fresh = experiment.network.init({"params": key}, inputs, sharing.everything(), False)
      params = fresh["params"] if given is None else given
      made = state_lib.start(params, {}, sharing.init(key), self.tasks, sharing.blank(1), False, {})
      balance = experiment.balancer.init(self.tasks, steps)
      return made.replace(opt=tx.init(made.params), balance=balance)

    def run(keys: jax.Array, routes: jax.Array, rows: jax.Array, given: Any) -> jax.Array:
      """Trains every route with the same examples, and scores each on test."""
      moving = step_lib.moving_of(sharing, phase, 0, 0, 0, routes[0])

      def one(states: state_lib.State, row: Any) -> Any:
        step, chosen = row
        batch = jax.tree.map(lambda a: a[chosen], train)
        advance = lambda state, route: step_lib.advance(
          experiment.objective, tx, spec, state, batch, moving._replace(structure=route), step
        )[0]
        return jax.vmap(advance)(states, routes), None

      states = jax.vmap(lambda key: begin(key, given))(keys)
      states, _ = jax.lax.scan(one, states, (jnp.arange(steps), rows))
      control = lambda route: skip.skip_trunk.Decisions(static.modes, route)

      def score(params: Any, route: jax.Array) -> jax.Array:
        logits, _ = experiment.network.apply({"params": params}, test.inputs, control(route), False)
        sums = forward_lib.task_losses(experiment.tasks, logits, test)
        return jnp.stack([s.total / jnp.maximum(s.count, 1) for s in sums])

      return jax.lax.map(lambda pair: score(*pair), (states.params["network"], routes))

    return jax.jit(run)


def equal_single(config: Any, parameters: int) -> Any:
  """Returns the configuration of single-task networks with at most as many parameters in all."""
  config = config.copy_and_resolve_references()
  for hidden in range(config.model.hidden, 0, -1):
    config.model.hidden = hidden
    if Judge(config, "single").parameters <= parameters or hidden == 1:
      break
  return config
