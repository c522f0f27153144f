"""The training loop, read from top to bottom."""

from __future__ import annotations

import functools
import math
import pathlib
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.checkpoints import checkpoint
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.distributed import preemption
from dynashare_jax.monitoring import logs
from dynashare_jax.monitoring import monitor as monitor_lib
from dynashare_jax.ops import policy
from dynashare_jax.ops import streams
from dynashare_jax.train import candidates
from dynashare_jax.train import constants
from dynashare_jax.train import evaluate
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import feed as feed_lib
from dynashare_jax.train import finite
from dynashare_jax.train import optim
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
    part: candidates.Part | None = None,
  ) -> None:
    """Prepares; nothing is computed yet.

    Args:
      experiment: what to train.
      workdir: its folder.
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
    self.spent = 0.0
    self.monitor = monitor_lib.Monitor(
      experiment.mesh, pathlib.Path(workdir) / "profile", profile, self.config
    )
    self._pending: dict[str, np.ndarray] = {}
    self._constant = None if part is None else part.constant
    self._compiled = functools.lru_cache(maxsize=4)(self._compile)

  def share(self, other: Loop) -> None:
    """Uses the programs and splits of another loop on the same devices."""
    self.feed, self.evaluator = other.feed, other.evaluator
    self._compiled = other._compiled

  def free(self) -> None:
    """Frees the splits on the devices; they are placed again when asked for."""
    self.feed = feed_lib.Feed(self.experiment)

  def save(self, checkpoints: checkpoint.Checkpoints, step: int, state: state_lib.State) -> None:
    """Starts to save what is there after a step."""
    checkpoints.save(step, state, self._record(step), float(np.mean(state.best.scores)))

  def take(self, record: dict[str, Any]) -> None:
    """Takes over candidates and times of a checkpoint's record."""
    self.candidates |= {int(k): v for k, v in record["candidates"].items()}
    for name, seconds in record["step_seconds"].items():
      kept = self.step_seconds.setdefault(name, [])
      kept += seconds
      del kept[:-_TIMES]

  def run(self) -> state_lib.State:
    """Runs what is not done yet; returns the final state.

    Raises:
      PreemptedError: the run was told to end, and its state is saved.
      NonFiniteLossError: a loss or a parameter is not finite any more.
    """
    experiment, part = self.experiment, self.part
    if part is None:
      self.feed.check()
    with (
      checkpoint.Checkpoints(self.workdir / "checkpoints", mesh=experiment.mesh) as checkpoints,
      preemption.Watch(experiment.mesh) as watch,
    ):
      step, state = self._restore(checkpoints)
      if part is not None:
        return self._train(checkpoints, watch, step, state, part.steps.stop)
      meshes = candidates.layout(experiment, self.workdir, step)
      if not meshes:
        return self._train(checkpoints, watch, step, state, experiment.total_steps)
      last = candidates.spans(experiment)[0].start
      state = self._train(checkpoints, watch, step, state, last)
      if step < last:
        self.profile = 0  # It is recorded.
      checkpoints.wait()
      start = jax.tree.map(mesh_lib.whole, state.replace(opt={}))
      del state  # The devices are the groups' now.
      return candidates.train(self, checkpoints, start, meshes)

  def _train(
    self,
    checkpoints: checkpoint.Checkpoints,
    watch: preemption.Watch,
    step: int,
    state: state_lib.State,
    last: int,
  ) -> state_lib.State:
    """Trains from one step to another, phase after phase."""
    experiment, config = self.experiment, self.config
    began, spent_before = time.monotonic(), self.spent
    active = mesh_lib.rank(experiment.mesh) == 0
    done_before, total, shown = candidates.display(experiment, self.part)
    with (
      logs.MetricLog(self.workdir, active) as log,
      logs.Progress(total, step - done_before, shown) as progress,
      self.monitor,
    ):
      log.rewind(step)
      while step < last:
        index, offset = experiment.locate(step)
        phase = experiment.method.phases[index]
        if offset == 0:
          state = self._begin(index, state)
        stop = self._next_stop(phase, offset)
        self.monitor.begin(_title(phase), step, phase.steps - offset)
        state, parts, seconds = self._advance(index, offset, stop - offset, step, state, watch)
        done = len(parts["loss/total"])
        step += done
        finite.check_losses(_title(phase), step - done, parts, self._advice())
        parts = self._with_pending(parts)
        if offset + done < stop:  # Told to end in between.
          self._pending = parts
          finite.check_state(_title(phase), step, state, self._advice())
          self.spent = spent_before + time.monotonic() - began
          self.save(checkpoints, step, state)
          break
        speed = progress.update(
          step - done_before, _title(phase), _task_losses(parts), done * config.train.batch_size
        )
        self._note_seconds(phase, seconds, done)
        self._log(log, phase, step, parts, speed, self.monitor.look(done))
        told = watch.reached(step)
        saves = told or self._saves(index, step, done)
        evaluates = self._evaluates(phase, stop)
        if saves or evaluates:
          finite.check_state(_title(phase), step, state, self._advice())
        if evaluates:
          state = self._evaluate(log, phase, step, state)
        if phase.name == "policy" and stop == phase.steps:
          log.write(step, phase.name, -1, phase.cycle, "alpha", {"alpha": self._alpha(state)})
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

  def _restore(self, checkpoints: checkpoint.Checkpoints) -> tuple[int, state_lib.State]:
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

  def _record(self, step: int) -> dict[str, Any]:
    """What a checkpoint stores beside the state."""
    index, offset = self.experiment.locate(step)
    return {
      "phase": {"index": index, "offset": offset},
      "data": {"step": step},
      "config": self.config.to_dict(),
      "candidates": workdir_lib.plain(self.candidates),
      "pending": self._pending,
      "step_seconds": self.step_seconds,
      "seconds": self.spent,
    }

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
    if phase.start == "scratch":
      params, stats = experiment.fresh("retrain")
      state = state.replace(params={**state.params, "network": params}, stats=stats)
    elif phase.start == "policy":
      start = _copy(state.anchor)
      state = state.replace(
        params={**state.params, "network": start["params"]}, stats=start["stats"]
      )
    if before is not None and before.optimizer == phase.optimizer and phase.candidate < 0:
      return state
    state = state.replace(opt=experiment.optimizer(index).init(state.params))
    return experiment.place(state)

  def searched(self, state: state_lib.State) -> state_lib.State:
    """The state at the end of the search, with what all re-trainings need."""
    key = streams.stream_key(self.config.seed, "routes")
    routes = self.experiment.method.routes(
      key, self.experiment.sampling_alpha(state.params["policy"]["logits"])
    )
    state = state.replace(routes=jnp.asarray(routes, jnp.float32))
    if not state.anchor:
      return state
    return state.replace(anchor=_copy({"params": state.params["network"], "stats": state.stats}))

  def _next_stop(self, phase: types.Phase, offset: int) -> int:
    """Where the host looks next; a function of the phase and offset alone."""
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
    route = np.asarray(state.routes[max(phase.candidate, 0)])
    run = self._compiled(
      step_lib.spec_of(
        phase,
        len(self.experiment.tasks),
        self.experiment.gated,
        route.astype(int).tolist(),
        self.experiment.planned,
        tuple(self.config.train.shared_prefixes),
        self.experiment.optimizer_steps(index),
      )
    )
    parts: list[dict[str, jax.Array]] = []
    began, timed = time.monotonic(), 0
    done = 0
    while done < count and not (parts and watch.reached(step + done)):
      if self.part is not None:
        self.part.check()
      size = min(self.config.train.steps_per_dispatch, count - done)
      with self.monitor.input():
        arrays, rows, draws = self.feed.chunk(index, offset + done, size)
      inputs = step_lib.inputs_of(
        phase,
        self.config.seed,
        offset + done,
        step + done,
        self.experiment.blocks,
        route,
        self.config.gates.noise_fades,
      )
      state, found = run(state, arrays, rows, inputs, draws)
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

  def _compile(self, spec: step_lib.Spec) -> Any:
    experiment = self.experiment
    tx = optim.make(self.config, spec.optimizer, spec.steps)
    return step_lib.make(
      experiment.network,
      tx,
      spec,
      experiment.objective,
      mesh_lib.batch_sharding(experiment.mesh),
      experiment.dataset.augment,
      experiment.shardings,
    )

  def _advice(self) -> str:
    return (
      f"The last good checkpoint is kept in"
      f" {self.workdir / 'checkpoints'}. Lower the learning rate of this"
      " phase (config.optimizers) or check the data."
    )

  def _note_seconds(self, phase: types.Phase, seconds: float, count: int) -> None:
    """Remembers seconds a step; short stretches mostly measure start-up."""
    if count > 1 or phase.steps == 1:
      kept = self.step_seconds.setdefault(phase.name, [])
      kept.append(round(seconds, 6))
      del kept[:-_TIMES]

  def _log(
    self,
    log: logs.MetricLog,
    phase: types.Phase,
    step: int,
    parts: dict[str, np.ndarray],
    speed: float,
    times: dict[str, float],
  ) -> None:
    values = {k: float(v.astype(np.float64).mean()) for k, v in parts.items()}
    if phase.routing == "soft":
      values["temperature"] = phase.temperature
      values["open_blocks"] = phase.open_blocks
    values |= {"time/examples_per_second": speed} | times
    log.write(step, phase.name, phase.candidate, phase.cycle, "train", values)

  def _evaluates(self, phase: types.Phase, offset: int) -> bool:
    """Whether validation is due: when selecting, and when a search ends."""
    if offset == phase.steps:
      return (
        phase.select
        or phase.name == "warmup"
        or (phase.name == "policy" and self._last_cycle(phase))
      )
    return phase.select and offset % self.config.train.eval_every == 0

  def _last_cycle(self, phase: types.Phase) -> bool:
    return phase.cycle == max(p.cycle for p in self.experiment.method.phases)

  def _saves(self, index: int, step: int, count: int) -> bool:
    """Whether a checkpoint is due: regularly, and where a re-training ends.

    Args:
      index: of the phase.
      step: global, now.
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

  def _alpha(self, state: state_lib.State) -> np.ndarray:
    return np.asarray(policy.alpha(state.params["policy"]["logits"]))

  def route(self, phase: types.Phase, state: state_lib.State) -> np.ndarray:
    """The discrete route `[T, L]` that an evaluation in a phase uses."""
    if phase.candidate >= 0:
      return np.asarray(state.routes[phase.candidate])
    if phase.routing == "soft":
      opened = np.asarray(policy.open_mask(self.experiment.blocks, phase.open_blocks))
      chosen = (self._alpha(state) >= 0.5) | ~opened[None]
      return chosen.astype(np.float32)
    return np.ones_like(self._alpha(state))

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

  def _evaluate(
    self, log: logs.MetricLog, phase: types.Phase, step: int, state: state_lib.State
  ) -> state_lib.State:
    """Validates, and keeps the model if it is the best so far."""
    result = self.evaluator.run(
      state.params["network"],
      state.stats,
      self.feed.evaluation(self.selection),
      self.route(phase, state),
      phase.gated,
    )
    scores = evaluate.score(self.experiment.tasks, result.metrics, self.constant())
    values = {
      f"{task}/{name}": value
      for task, metrics in result.metrics.items()
      for name, value in metrics.items()
    }
    values |= {f"loss/{name}": v for name, v in result.losses.items()}
    values |= {"score": float(scores.mean()), "rate": float(result.rate.mean())}
    log.write(step, phase.name, phase.candidate, phase.cycle, "eval", values)
    if not phase.select:
      return state
    self._note_candidate(phase, state, result, float(scores.mean()))
    return state.replace(best=self._better(state, scores, phase, step))

  def _note_candidate(
    self, phase: types.Phase, state: state_lib.State, result: evaluate.Result, score: float
  ) -> None:
    """Remembers a candidate's best validation, for the report."""
    old = self.candidates.get(phase.candidate)
    if old is None or score > old["score"]:
      self.candidates[phase.candidate] = {
        "index": phase.candidate,
        "score": score,
        "route": self.route(phase, state).astype(int).tolist(),
        "validation": result.metrics,
      }

  def _better(
    self, state: state_lib.State, scores: np.ndarray, phase: types.Phase, step: int
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
    found = selection.better(old, new, self.experiment.method.columns)
    return old if found is old else self.experiment.place(found)


def _copy(tree: Any) -> Any:
  return jax.tree.map(jnp.array, tree)


def _title(phase: types.Phase) -> str:
  """A phase as the user sees it."""
  if phase.candidate >= 0:
    return f"{phase.name} {phase.candidate}"
  if phase.routing == "soft":
    return f"{phase.name} {phase.cycle}"
  return phase.name


def _task_losses(parts: dict[str, np.ndarray]) -> dict[str, float]:
  """Last losses by task, for the display."""
  return {
    k.removeprefix("loss/"): float(v[-1])
    for k, v in parts.items()
    if k.startswith("loss/") and k != "loss/total" and math.isfinite(float(v[-1]))
  }
