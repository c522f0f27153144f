"""A trained model and the ways to execute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.models import norm
from dynashare_jax.models.trunks import contract
from dynashare_jax.objectives import kinds
from dynashare_jax.ops import resize
from dynashare_jax.sharing import plan as plan_lib
from dynashare_jax.sharing import skip
from dynashare_jax.train import experiment as experiment_lib

Forward = Callable[[Any, Any], tuple[dict[str, jax.Array], contract.Signals]]


Execution = skip.Execution
MASKED = Execution(planned=False)
PLANNED = Execution()


@dataclasses.dataclass(frozen=True)
class Trained:
  """A chosen model of a finished run.

  Attributes:
    experiment: the run's parts.
    params: of the network.
    stats: running batch statistics.
    structure: that it has fixed, see `Sharing`; of skipped blocks the plan.
    workdir: of the run.
    step: the global step that the model comes from; of single-task networks the last of them.
  """

  experiment: experiment_lib.Experiment
  params: Any
  stats: Any
  structure: Any
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
  def sharing(self) -> Any:
    """What is decided about the trunk."""
    return self.experiment.sharing

  @property
  def plan(self) -> plan_lib.Plan | None:
    """What is computed once, for which tasks; None for a trunk that leaves out nothing."""
    found: plan_lib.Plan | None = self.sharing.plan(self.structure)
    return found

  @property
  def route(self) -> np.ndarray | None:
    """The plan's route, int `[T, L]` of 0 and 1; None without a plan."""
    return None if self.plan is None else np.asarray(self.plan.route)

  @property
  def gated(self) -> tuple[bool, ...]:
    """For every unit, whether an instance gate decides."""
    return (False,) * self.experiment.units if self.plan is None else self.plan.gated

  def forward(self, execution: Execution = PLANNED, **options: Any) -> Forward:
    """Returns the forward pass as a pure function, to be jitted by the caller.

    Args:
      execution: how.
      **options: of the method's `Sharing.at_test`; of skipped blocks `threshold`, the score `[L]`
        that gates must exceed (None is 0), and `target_rate`, which gates may read.

    Returns:
      `(variables, inputs) -> (logits of every task, signals)`.
    """
    experiment = self.experiment
    return forward(
      experiment.network, experiment.sharing, self.structure, execution=execution, **options
    )

  def lean(self) -> Trained:
    """Returns the model that computes the same in a smaller network, or the model itself."""
    found = self.experiment.lean(self.params, self.stats, self.structure)
    if found is None:
      return self
    experiment, params, stats = found
    return dataclasses.replace(
      self, experiment=experiment, params=params, stats=stats, structure=()
    )

  def folded(self) -> Trained:
    """Returns the model with batch norms in the weights before them, see `models.norm.fold`.

    With instance gates it is the model itself: rounding could turn their decisions.
    """
    if any(self.gated):
      return self
    params, stats = norm.fold(self.params, self.stats)
    return dataclasses.replace(self, params=params, stats=stats)

  def only(self, tasks: Sequence[int]) -> Trained:
    """Returns the model with some of its tasks: what of the trunk they need, and their heads."""
    tasks, experiment = tuple(tasks), self.experiment
    network, renamed = experiment.network.only(tasks)
    spec = experiment.dataset.spec
    spec = dataclasses.replace(spec, tasks=tuple(self.tasks[t] for t in tasks))
    dataset = dataclasses.replace(experiment.dataset, spec=spec)
    sharing, structure = self.sharing, self.structure
    if experiment.network.trunk.only(tasks) is not None:
      sharing, structure = sharing.only(structure, tasks)
    method = dataclasses.replace(experiment.method, sharing=sharing)
    return dataclasses.replace(
      self,
      experiment=dataclasses.replace(experiment, dataset=dataset, method=method, network=network),
      params=_renamed(self.params, renamed),
      stats=_renamed(self.stats, renamed),
      structure=structure,
    )


def _renamed(tree: Any, renamed: Callable[[str], str | None]) -> Any:
  """The leaves that are kept, under their new names."""
  every = traverse_util.flatten_dict(tree, sep="/")
  kept = {new: leaf for name, leaf in every.items() if (new := renamed(name)) is not None}
  return traverse_util.unflatten_dict(kept, sep="/")


def forward(network: Any, sharing: Any, structure: Any, **options: Any) -> Forward:
  """Returns the forward pass of a network with a structure, a pure function.

  Args:
    sharing: of its method.
    structure: see `Sharing`.
    **options: of `Sharing.at_test`.
  """
  static, arrays = sharing.at_test(structure, **options)

  def run(variables: Any, inputs: Any) -> tuple[dict[str, jax.Array], contract.Signals]:
    control = sharing.control_at_test(static, arrays)
    return network.apply(variables, inputs, control, False)

  return run


def predictions(
  spec: types.DatasetSpec, logits: dict[str, jax.Array], probabilities: bool = False
) -> dict[str, Any]:
  """Returns task -> what its logits say; of pixels at the size of the picture.

  Args:
    spec: of the data.
    logits: of every task.
    probabilities: of classes how likely every one is, instead of the likeliest.
  """
  found: dict[str, Any] = {}
  for task in spec.tasks:
    kind, values = kinds.find(task.kind), logits[task.name]
    if kind.dense and spec.input_kind == "image":
      height, width = spec.input_shape[:2]
      values = jnp.asarray(resize.enlarge(values, (height, width)))
    found[task.name] = (kind.probabilities if probabilities else kind.predict)(task, values)
  return found


def untrained(
  experiment: experiment_lib.Experiment, workdir: pathlib.Path = pathlib.Path()
) -> Trained:
  """Returns a model with fresh weights, all of whose tasks execute every block."""
  params, stats = experiment.fresh("init")
  every = jax.tree.map(np.ones_like, experiment.sharing.blank(1))
  structure = experiment.sharing.chosen(every, 0)
  return Trained(experiment, params, stats, structure, workdir, 0)


def restore(experiment: experiment_lib.Experiment, workdir: str | pathlib.Path) -> Trained:
  """Reads the chosen model of a finished run; changes nothing on disk.

  Args:
    experiment: of the run's own configuration.

  Raises:
    ValueError: the run is not finished, or its checkpoint cannot be read.
  """
  folder = pathlib.Path(workdir)
  state = _last(experiment, folder)
  chosen = int(np.asarray(state.best.candidate)[0])
  return Trained(
    experiment=experiment,
    params=state.best.params,
    stats=state.best.stats,
    structure=experiment.sharing.chosen(state.routes, chosen),
    workdir=folder,
    step=int(np.asarray(state.best.step).max()),
  )


def searched(trained: Trained) -> tuple[Any, Any] | None:
  """Returns the parameters and statistics that the re-trainings of a finished run began with.

  None: they began from scratch; only those of a search or of a warm-up are kept.
  """
  anchor = _last(trained.experiment, trained.workdir).anchor
  return (anchor["params"], anchor["stats"]) if anchor else None


def _last(experiment: experiment_lib.Experiment, folder: pathlib.Path) -> Any:
  """The state at the end of a finished run."""
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
  return state
