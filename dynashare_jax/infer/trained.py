"""A trained model and the ways to execute it."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.infer import plan as plan_lib
from dynashare_jax.models import trunks
from dynashare_jax.ops import compaction as compaction_lib
from dynashare_jax.ops import routing
from dynashare_jax.train import experiment as experiment_lib

Forward = Callable[[Any, Any], tuple[dict[str, jax.Array], trunks.Signals]]


class Execution(NamedTuple):
  """How a forward pass is executed; hashable.

  Attributes:
    planned: on the route's plan; else every block is computed for every task
      and masked, as the authors do (the reference).
    gates: whether instance gates decide, where the model has some.
    compaction: how examples that a gate skips are left out; None computes and
      masks them.
  """

  planned: bool = True
  gates: bool = True
  compaction: compaction_lib.Compaction | None = None


MASKED = Execution(planned=False)
PLANNED = Execution()


@dataclasses.dataclass(frozen=True)
class Trained:
  """A chosen model of a finished run.

  Attributes:
    experiment: the run's parts.
    params: of the network.
    stats: running batch statistics.
    route: int `[T, L]` of 0 and 1.
    gates: whether instance gates belong to the method.
    workdir: of the run.
    step: the global step that the model comes from; of single-task networks
      the last of them.
  """

  experiment: experiment_lib.Experiment
  params: Any
  stats: Any
  route: np.ndarray
  gates: bool
  workdir: pathlib.Path
  step: int

  @property
  def tasks(self) -> tuple[types.TaskSpec, ...]:
    """Tasks in order."""
    return self.experiment.tasks

  @property
  def variables(self) -> dict[str, Any]:
    """What `forward` takes first."""
    return {"params": self.params, "batch_stats": self.stats}

  @property
  def gated(self) -> tuple[bool, ...]:
    """For every block, whether an instance gate decides."""
    blocks = self.experiment.blocks
    return self.experiment.gated if self.gates else (False,) * blocks

  @property
  def plan(self) -> plan_lib.Plan:
    """The plan of its route, with its gates."""
    return plan_lib.make([t.name for t in self.tasks], self.route, self.gated)

  def forward(
    self, execution: Execution = PLANNED, threshold: Any = None, target_rate: float | None = None
  ) -> Forward:
    """The forward pass as a pure function, to be jitted by the caller.

    Args:
      execution: how.
      threshold: score `[L]` that gates must exceed; None is 0.
      target_rate: what gates are told that read it; default the run's.

    Returns:
      `(variables, inputs) -> (logits of every task, signals)`.
    """
    return forward(
      self.experiment.network,
      self.plan,
      execution,
      self.experiment.method.columns,
      threshold,
      self.experiment.target_rate if target_rate is None else target_rate,
    )


def forward(
  network: Any,
  plan: plan_lib.Plan,
  execution: Execution = PLANNED,
  columns: bool = False,
  threshold: Any = None,
  target_rate: float = 1.0,
) -> Forward:
  """The forward pass of a network on a plan, a pure function.

  Args:
    network: a `models.trunks.Network`.
    plan: of its route and gates.
    execution: how.
    columns: whether it is a network a task, which execute everything.
    threshold: score `[L]` that gates must exceed; None is 0.
    target_rate: what gates are told that read it.
  """
  tasks, blocks = len(plan.tasks), len(plan.gated)
  gated = execution.gates and any(plan.gated)
  if columns:
    kinds = routing.all_run(blocks, tasks)
  elif not execution.planned:
    kinds = routing.own(blocks, tasks)
  else:
    gates = plan.gated if gated else (False,) * blocks
    kinds = routing.fixed(plan.route, gates, train=False)

  def run(variables: Any, inputs: Any) -> tuple[dict[str, jax.Array], trunks.Signals]:
    decisions = trunks.Decisions(
      kinds,
      jnp.asarray(plan.route, jnp.float32),
      gated=gated,
      threshold=None if threshold is None else jnp.asarray(threshold),
      target=jnp.float32(target_rate),
      compaction=execution.compaction,
    )
    return network.apply(variables, inputs, decisions, False)

  return run


def restore(experiment: experiment_lib.Experiment, workdir: str | pathlib.Path) -> Trained:
  """Reads the chosen model of a finished run; changes nothing on disk.

  Args:
    experiment: of the run's own configuration.
    workdir: its folder.

  Raises:
    ValueError: the run is not finished, or its checkpoint cannot be read.
  """
  folder = pathlib.Path(workdir)
  if not (folder / "results.json").is_file():
    raise ValueError(
      f"{folder} holds no finished run: there is no results.json. Train it"
      " first with dynashare_jax.main; the same command resumes."
    )
  with checkpoint.Checkpoints(folder / "checkpoints", read_only=True) as saved:
    found = saved.restore(experiment.template)
  if found is None:
    raise ValueError(f"{folder / 'checkpoints'} holds no checkpoint.")
  step, state, _ = found
  if step != experiment.total_steps:
    raise ValueError(
      f"The latest whole checkpoint of {folder} is of step {step} of"
      f" {experiment.total_steps}. Run dynashare_jax.main again to finish."
    )
  chosen = int(np.asarray(state.best.candidate)[0])
  return Trained(
    experiment=experiment,
    params=state.best.params,
    stats=state.best.stats,
    route=np.asarray(state.routes[chosen]).astype(int),
    gates=experiment.method.target_rates is not None,
    workdir=folder,
    step=int(np.asarray(state.best.step).max()),
  )
