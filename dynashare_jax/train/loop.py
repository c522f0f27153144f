"""The training loop, read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import math
import pathlib
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.distributed import preemption
from dynashare_jax.monitoring import logs
from dynashare_jax.monitoring import monitor as monitor_lib
from dynashare_jax.ops import streams
from dynashare_jax.sharing import contract
from dynashare_jax.train import constants
from dynashare_jax.train import evaluate
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import feed as feed_lib
from dynashare_jax.train import finite
from dynashare_jax.train import forward
from dynashare_jax.train import part as part_lib
from dynashare_jax.train import selection
from dynashare_jax.train import state as state_lib
from dynashare_jax.train import step as step_lib

_TIMES = 200  # seconds a step of a phase that are kept

NonFiniteLossError = finite.NonFiniteLossError


class Loop:
  """Trains one experiment in one work directory, from wherever it stands."""

  def __init__(
    self,
    experiment: experiment_lib.Experiment,
    workdir: pathlib.Path,
    profile: int = 0,
    part: part_lib.Part | None = None,
  ) -> None:
    """Prepares; nothing is computed yet.

    Args:
      profile: how many steps to record a profile of; 0 for none.
      part: train only these steps of the run; default all.
    """
    self.experiment = experiment
    self.config = experiment.config
    self.workdir = workdir
    self.profile = profile
    self.part = part
    self.feed = feed_lib.Feed(experiment)
    self.evaluator = experiment.evaluator()
    self.step_seconds: dict[str, list[float]] = {}
    self.candidates: dict[int, dict[str, Any]] = {}
    self.trials: list[dict[str, Any]] = []
    self.spent = 0.0
    self._opened = mesh_lib.rank(experiment.mesh) == 0 and workdir_lib.is_opened(workdir)
    self.monitor = monitor_lib.Monitor(
      experiment.mesh, pathlib.Path(workdir) / "profile", profile, self.config
    )
    self._rules = experiment.network.leaves()
    self._pending: dict[str, np.ndarray] = {}
    self._constant = None if part is None else part.constant
    self.programs = functools.lru_cache(maxsize=4)(self._compile)

  def train(
    self,
    checkpoints: checkpoint.Checkpoints,
    watch: preemption.Watch,
    step: int,
    state: state_lib.State,
    last: int,
    look: Callable[[int], None] = lambda index: None,
  ) -> state_lib.State:
    """Trains from one step to another, phase after phase.

    Args:
      look: told the number of every phase that is come to.
    """
    experiment, config = self.experiment, self.config
    began, spent_before = time.monotonic(), self.spent
    active = mesh_lib.rank(experiment.mesh) == 0
    done_before, total, shown = part_lib.display(experiment, self.part)
    with (
      logs.MetricLog(self.workdir, active) as log,
      logs.Progress(total, step - done_before, shown) as progress,
      self.monitor,
    ):
      log.rewind(step)
      while step < last:
        index, offset = experiment.locate(step)
        phase = experiment.method.phases[index]
        look(index)
        if offset == 0:
          state = self._begin(index, state)
        stop = self.next_stop(phase, offset)
        self.monitor.begin(str(phase), step, phase.steps - offset)
        state, parts, seconds = self._advance(index, offset, stop - offset, step, state, watch)
        done = len(parts["loss/total"])
        step += done
        finite.check_losses(str(phase), step - done, parts, self._advice())
        parts = self._with_pending(parts)
        if offset + done < stop:  # Told to end in between.
          self._pending = parts
          finite.check_state(str(phase), step, state, self._rules, self._advice())
          self.spent = spent_before + time.monotonic() - began
          self.save(checkpoints, step, state)
          break
        speed = progress.update(
          step - done_before, str(phase), _task_losses(parts), done * config.train.batch_size
        )
        self._note_seconds(phase, seconds, done)
        self._log(log, phase, step, parts, speed, self.monitor.look(done))
        told = watch.reached(step)
        saves = told or self._saves(index, step, done)
        evaluates = self._evaluates(phase, stop)
        if saves or evaluates:
          finite.check_state(str(phase), step, state, self._rules, self._advice())
        if evaluates:
          state = self._evaluate(log, phase, step, state)
        if phase.record and stop == phase.steps:
          lines = self.experiment.sharing.lines(phase, state.params["policy"], state.memory)
          for kind, values in lines.items():
            log.write(step, phase.name, -1, phase.cycle, kind, values)
        if saves:
          self.spent = spent_before + time.monotonic() - began
          self.save(checkpoints, step, state)
        if told:
          break
    self.spent = spent_before + time.monotonic() - began
    if watch.told and step < last:
      raise preemption.PreemptedError(
        f"told to end after step {step} of {experiment.total_steps}; a checkpoint of it is written"
      )
    return state

  def _with_pending(self, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Losses since the last look, those before an early end included."""
    pending, self._pending = self._pending, {}
    if not pending:
      return parts
    return {k: np.concatenate([pending[k], v]) for k, v in parts.items()}

  def _begin(self, index: int, state: state_lib.State) -> state_lib.State:
    """Prepares a phase: routes, parameters to start from, optimiser.

    A function of the state and the configuration alone, so that a run which
    resumes at a border prepares the same.
    """
    experiment = self.experiment
    phases = experiment.method.phases
    phase = phases[index]
    before = phases[index - 1] if index else None
    if phase.candidate == 0 and self.part is None:
      state = self.searched(state)
    key = streams.stream_key(self.config.seed, "begin", index)
    params, memory = experiment.sharing.begin(phase, state.params, state.memory, key)
    state = state.replace(params=params, memory=memory)
    if phase.start == "scratch":
      params, stats = experiment.fresh("retrain")
      state = state.replace(params={**state.params, "network": params}, stats=stats)
    elif phase.start == "policy":
      start = state_lib.copied(state.anchor)
      state = state.replace(
        params={**state.params, "network": start["params"]}, stats=start["stats"]
      )
    if before is not None and before.optimizer == phase.optimizer and phase.candidate < 0:
      return state
    return experiment.place(experiment.with_optimizer(state, index))

  def searched(self, state: state_lib.State) -> state_lib.State:
    """The state at the end of the search, or of the trials, with what all trainings after need."""
    if self.trials:
      return state.replace(routes=self._ordered(state.routes))
    key = streams.stream_key(self.config.seed, "routes")
    structures = self.experiment.sharing.structures(state.params["policy"], state.memory, key)
    state = state.replace(routes=structures)
    if not state.anchor:
      return state
    found = {"params": state.params["network"], "stats": state.stats}
    return state.replace(anchor=state_lib.copied(found))

  def _ordered(self, structures: Any) -> Any:
    """The structures by the scores of their trials, the best first."""
    places = order(self.trials, self.config.policy.margin)
    self.trials = [self.trials[place] for place in places]
    return jax.tree.map(lambda leaf: leaf[np.array(places)], structures)

  def next_stop(self, phase: contract.Phase, offset: int) -> int:
    """Returns where the host looks next; a function of the phase and offset alone."""
    train = self.config.train
    every = [train.log_every]
    if phase.select:
      every.append(train.eval_every)
    return min([phase.steps] + [(offset // n + 1) * n for n in every])

  def _advance(
    self,
    index: int,
    offset: int,
    count: int,
    step: int,
    state: state_lib.State,
    watch: preemption.Watch,
  ) -> tuple[state_lib.State, dict[str, np.ndarray], float]:
    """Runs steps in dispatches of `steps_per_dispatch`; fewer if told to end.

    At most two dispatches are under way, so that an end is never far.
    """
    phase = self.experiment.method.phases[index]
    place = max(phase.candidate, 0)
    structure = jax.tree.map(lambda leaf: np.asarray(leaf[place]), state.routes)
    horizon = self.experiment.horizon(index)
    every = self.experiment.balancer.every if "backbone" in phase.trainable else 1
    ways = (False, True) if every > 1 else (False,)
    programs = [self.programs(self.experiment.spec(index, structure, held)) for held in ways]
    parts: list[dict[str, jax.Array]] = []
    began, timed = time.monotonic(), 0
    done = 0
    while done < count and not (parts and watch.reached(step + done)):
      if self.part is not None:
        self.part.check()
      since = (offset + done) % every  # steps since the balancer last saw gradients
      size = min(self.config.train.steps_per_dispatch, count - done)
      if every > 1:
        size = min(size, every - since if since else 1)
      with self.monitor.input():
        arrays, rows, draws = self.feed.chunk(index, offset + done, size)
      moving = step_lib.moving_of(
        self.experiment.sharing,
        phase,
        self.config.seed,
        offset + done,
        step + done,
        structure,
        horizon,
      )
      state, found = programs[since > 0](state, arrays, rows, moving, draws)
      parts.append(found)
      done += size
      self.monitor.dispatched(parts, size)
      if done == size and count > size:  # The first call may compile.
        jax.block_until_ready(found)
        began, timed = time.monotonic(), size
    with self.monitor.device():
      host = jax.device_get(parts)
    seconds = (time.monotonic() - began) / max(done - timed, 1)
    joined = {k: np.concatenate([p[k] for p in host]) for k in host[0]}
    return state, joined, seconds

  def _compile(self, spec: forward.Spec) -> Any:
    """The program of all phases with a spec."""
    experiment = self.experiment
    return step_lib.make(
      experiment.objective,
      functools.partial(experiment.optimizer, spec.optimizer),
      spec,
      mesh_lib.batch_sharding(experiment.mesh),
      experiment.dataset.augment,
      experiment.shardings,
    )

  def _log(
    self,
    log: logs.MetricLog,
    phase: contract.Phase,
    step: int,
    parts: dict[str, np.ndarray],
    speed: float,
    times: dict[str, float],
  ) -> None:
    values = {k: float(v.astype(np.float64).mean()) for k, v in parts.items()}
    values |= self.experiment.sharing.scalars(phase)
    values |= {"time/examples_per_second": speed} | times
    log.write(step, phase.name, phase.candidate, phase.cycle, "train", values)

  def _note_seconds(self, phase: contract.Phase, seconds: float, count: int) -> None:
    """Remembers seconds a step; short stretches mostly measure start-up."""
    if count > 1 or phase.steps == 1:
      kept = self.step_seconds.setdefault(phase.name, [])
      kept.append(round(seconds, 6))
      del kept[:-_TIMES]

  def _evaluates(self, phase: contract.Phase, offset: int) -> bool:
    """Whether validation is due: when selecting, and where a phase asks for it."""
    if offset == phase.steps:
      return phase.select or phase.evaluate
    return phase.select and offset % self.config.train.eval_every == 0

  def _evaluate(
    self, log: logs.MetricLog, phase: contract.Phase, step: int, state: state_lib.State
  ) -> state_lib.State:
    """Validates, and keeps the model if it is the best so far."""
    structure, split = self.structure(phase, state), self.feed.evaluation(self.selection)
    params = self.experiment.sharing.used(state.params["network"], state.memory)
    result = self.evaluator.run(params, state.stats, split, structure)
    kept = state.replace(params={**state.params, "network": params})
    scores = evaluate.score(self.experiment.tasks, result.metrics, self.constant())
    values = {
      f"{task}/{name}": value
      for task, metrics in result.metrics.items()
      for name, value in metrics.items()
    }
    values |= {f"loss/{name}": v for name, v in result.losses.items()}
    values |= {"score": float(scores.mean()), "rate": float(result.rate.mean())}
    log.write(step, phase.name, phase.candidate, phase.cycle, "eval", values)
    if phase.trial:
      self._note_trial(phase, values["score"], self.experiment.sharing.noted(structure))
    if not phase.select:
      return state
    old, score = self.candidates.get(phase.candidate), float(scores.mean())
    if old is None or score > old["score"]:  # The candidate's best, for the report.
      self.candidates[phase.candidate] = {
        "index": phase.candidate,
        "score": score,
        **self.experiment.sharing.noted(structure),
        "validation": result.metrics,
      }
    return state.replace(best=self._better(kept, scores, phase, step))

  def _note_trial(self, phase: contract.Phase, score: float, noted: dict[str, Any]) -> None:
    """Keeps the score of a trial; a second one joins the first of the same structure."""
    if phase.trial == 1 or len(self.trials) <= phase.candidate:
      self.trials.append({"index": phase.candidate, **noted})
    self.trials[phase.candidate]["score" if phase.trial == 1 else "second"] = score

  def _better(
    self, state: state_lib.State, scores: np.ndarray, phase: contract.Phase, step: int
  ) -> state_lib.Best:
    """The best model after an evaluation."""
    tasks = scores.shape
    return self.better(
      state.best,
      state_lib.Best(
        state.params["network"],
        state.stats,
        jnp.asarray(scores),
        jnp.full(tasks, phase.candidate, jnp.int32),
        jnp.full(tasks, step, jnp.int32),
      ),
    )

  def better(self, old: state_lib.Best, new: state_lib.Best) -> state_lib.Best:
    """The better of two models, on the devices; see `selection.better`."""
    owner = self.experiment.owner if self.experiment.method.independent else None
    found = selection.better(old, new, owner)
    return old if found is old else self.experiment.place(found)

  def structure(self, phase: contract.Phase, state: state_lib.State) -> Any:
    """Returns the structure that an evaluation in a phase uses."""
    return self.experiment.sharing.structure(phase, state.params["policy"], state.routes)

  def constant(self) -> evaluate.Values:
    """Metrics of the best constant prediction on the selection split."""
    if self._constant is None:
      self._constant = evaluate.constants(
        self.experiment.tasks,
        *constants.labels(
          self.experiment.dataset,
          self.selection,
          self.config.train.resident,
          self.config.eval.batch_size,
        ),
      )
    return self._constant

  @property
  def selection(self) -> str:
    """The split that chooses models."""
    return str(self.config.compat.selection)

  def _saves(self, index: int, step: int, count: int) -> bool:
    """Whether a checkpoint is due: regularly, and where a re-training ends.

    Args:
      count: steps since the host last looked.
    """
    every = self.config.train.checkpoint_every
    if step // every > (step - count) // every:
      return True
    following, offset = self.experiment.locate(step)
    phases = self.experiment.method.phases
    return (
      offset == 0
      and following > index
      and (following == len(phases) or phases[following].candidate >= 0)
    )

  def save(self, checkpoints: checkpoint.Checkpoints, step: int, state: state_lib.State) -> None:
    """Starts to save what is there after a step.

    Raises:
      FileNotFoundError: the folder's configuration, which was there, is not any more.
    """
    if self._opened and not workdir_lib.is_opened(self.workdir):
      raise FileNotFoundError(
        f"The files of this run in {self.workdir} are gone: they were deleted or moved while it"
        f" trained. It ended at step {step}, for nothing could be made of its results."
      )
    checkpoints.save(step, state, self._record(step), float(np.mean(state.best.scores)))

  def _record(self, step: int) -> dict[str, Any]:
    """What a checkpoint stores beside the state."""
    index, offset = self.experiment.locate(step)
    return {
      "phase": {"index": index, "offset": offset},
      "data": {"step": step},
      "config": self.config.to_dict(),
      "candidates": workdir_lib.plain(self.candidates),
      "trials": workdir_lib.plain(self.trials),
      "pending": self._pending,
      "step_seconds": self.step_seconds,
      "seconds": self.spent,
    }

  def restore(self, checkpoints: checkpoint.Checkpoints) -> tuple[int, state_lib.State]:
    """The latest whole checkpoint, or the beginning."""
    if checkpoints.latest_step() is None:
      first, state = (
        (0, self.experiment.initial_state())
        if self.part is None
        else (self.part.steps.start, self.part.start)
      )
      return first, self.experiment.place(state)
    found = checkpoints.restore(self.experiment.template)
    assert found is not None
    step, state, record = found
    self.take(record)
    self.spent = record["seconds"]
    self._pending = {k: np.asarray(v, np.float32) for k, v in record.get("pending", {}).items()}
    logging.info("Resuming at step %d of %d.", step, self.experiment.total_steps)
    return step, state

  def take(self, record: dict[str, Any]) -> None:
    """Takes over candidates and times of a checkpoint's record."""
    self.candidates |= {int(k): v for k, v in record["candidates"].items()}
    self.trials = record.get("trials") or self.trials
    for name, seconds in record["step_seconds"].items():
      kept = self.step_seconds.setdefault(name, [])
      kept += seconds
      del kept[:-_TIMES]

  def share(self, other: Loop) -> None:
    """Uses the programs and splits of another loop on the same devices."""
    self.feed, self.evaluator = other.feed, other.evaluator
    self.programs = other.programs

  def free(self) -> None:
    """Frees the splits on the devices; they are placed again when asked for."""
    self.feed = feed_lib.Feed(self.experiment)

  def _advice(self) -> str:
    return (
      f"The last good checkpoint is kept in {self.workdir / 'checkpoints'}. Lower the learning"
      " rate of this phase (config.optimizers) or check the data."
    )


def order(trials: Sequence[Mapping[str, Any]], margin: float) -> list[int]:
  """Returns the places of tried structures, the best first.

  A short training tells good structures from bad, not the best from the second best. So number 0,
  the search's own, stays first after the first round, and structures after number 1 (of skipping,
  hard sharing) count with `margin` less score in both rounds.

  Args:
    trials: of each, its number `index`, the `score` of the first round, and for the two that went
      on, that of the `second`.
    margin: at least 0.
  """
  lead = lambda trial: margin * (trial["index"] < 2)
  if any("second" in trial for trial in trials):
    rank = lambda trial: (-trial.get("second", -np.inf) - lead(trial), 0.0)
  else:
    rank = lambda trial: (float(trial["index"] > 0), -trial["score"] - lead(trial))
  return sorted(range(len(trials)), key=lambda place: rank(trials[place]))


def _task_losses(parts: dict[str, np.ndarray]) -> dict[str, float]:
  """Last losses by task, for the display."""
  return {
    k.removeprefix("loss/"): float(v[-1])
    for k, v in parts.items()
    if k.startswith("loss/") and k != "loss/total" and math.isfinite(float(v[-1]))
  }
