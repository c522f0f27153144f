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
from dynashare_jax.ops import policy
from dynashare_jax.ops import streams
from dynashare_jax.train import checkpoint
from dynashare_jax.train import constants
from dynashare_jax.train import evaluate
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import feed as feed_lib
from dynashare_jax.train import logs
from dynashare_jax.train import mesh as mesh_lib
from dynashare_jax.train import monitor as monitor_lib
from dynashare_jax.train import optim
from dynashare_jax.train import preemption
from dynashare_jax.train import state as state_lib
from dynashare_jax.train import step as step_lib
from dynashare_jax.train import workdir as workdir_lib


class NonFiniteLossError(FloatingPointError):
  """The loss became NaN or infinite."""


class Loop:
  """Trains one experiment in one work directory, from wherever it stands."""

  def __init__(
      self, experiment: experiment_lib.Experiment, workdir: pathlib.Path,
      profile: int = 0
  ) -> None:
    """Prepares; nothing is computed yet.

    Args:
      experiment: what to train.
      workdir: its folder.
      profile: how many steps to record a profile of; 0 for none.
    """
    self.experiment = experiment
    self.config = experiment.config
    self.workdir = workdir
    self.feed = feed_lib.Feed(experiment)
    self.evaluator = experiment.evaluator()
    self.step_seconds: dict[str, list[float]] = {}
    self.candidates: dict[int, dict[str, Any]] = {}
    self.spent = 0.0
    self.monitor = monitor_lib.Monitor(
        experiment.mesh, pathlib.Path(workdir) / "profile", profile)
    self._pending: dict[str, np.ndarray] = {}
    self._constant: evaluate.Values | None = None
    self._compiled = functools.lru_cache(maxsize=4)(self._compile)

  def run(self) -> state_lib.State:
    """Runs all phases that are not done yet; returns the final state."""
    experiment, config = self.experiment, self.config
    began = time.monotonic()
    self.feed.check()
    with checkpoint.Checkpoints(self.workdir / "checkpoints") as checkpoints:
      step, state = self._restore(checkpoints)
      spent_before = self.spent
      active = jax.process_index() == 0
      with (logs.MetricLog(self.workdir, active) as log,
            logs.Progress(experiment.total_steps, step, active) as progress,
            preemption.Watch() as watch, self.monitor):
        log.rewind(step)
        while step < experiment.total_steps:
          index, offset = experiment.locate(step)
          phase = experiment.method.phases[index]
          if offset == 0:
            state = self._begin(index, state)
          stop = self._next_stop(phase, offset)
          state, parts, seconds = self._advance(
              index, offset, stop - offset, step, state, watch)
          done = len(parts["loss/total"])
          step += done
          self._check_finite(phase, step - done, parts)
          parts = self._with_pending(parts)
          if offset + done < stop:  # Told to end in between.
            self._pending = parts
            self._check_state(phase, step, state)
            self.spent = spent_before + time.monotonic() - began
            checkpoints.save(step, state, self._record(step),
                             float(np.mean(state.best.scores)))
            break
          speed = progress.update(
              step, _title(phase), _task_losses(parts),
              done * config.train.batch_size)
          self._note_seconds(phase, seconds, done)
          self._log(log, phase, step, parts, speed,
                    self.monitor.look(done))
          told = watch.reached(step)
          saves = told or self._saves(index, step, done)
          evaluates = self._evaluates(phase, stop)
          if saves or evaluates:
            self._check_state(phase, step, state)
          if evaluates:
            state = self._evaluate(log, phase, step, state)
          if phase.name == "policy" and stop == phase.steps:
            log.write(step, phase.name, -1, phase.cycle, "alpha",
                      {"alpha": self._alpha(state)})
          if saves:
            self.spent = spent_before + time.monotonic() - began
            checkpoints.save(step, state, self._record(step),
                             float(np.mean(state.best.scores)))
          if told:
            break
      self.spent = spent_before + time.monotonic() - began
    if watch.told and step < experiment.total_steps:
      raise preemption.PreemptedError(
          f"told to end after step {step} of {experiment.total_steps}; a"
          " checkpoint of it is written")
    return state

  def _with_pending(
      self, parts: dict[str, np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Losses since the last look, those before an early end included."""
    pending, self._pending = self._pending, {}
    if not pending:
      return parts
    return {k: np.concatenate([pending[k], v]) for k, v in parts.items()}

  def _restore(
      self, checkpoints: checkpoint.Checkpoints
  ) -> tuple[int, state_lib.State]:
    """The latest whole checkpoint, or the beginning."""
    if checkpoints.latest_step() is None:
      state = self.experiment.initial_state()
      return 0, self.experiment.place(state)
    found = checkpoints.restore(self.experiment.template)
    assert found is not None
    step, state, record = found
    self.candidates = {int(k): v for k, v in record["candidates"].items()}
    self.step_seconds = record["step_seconds"]
    self.spent = record["seconds"]
    self._pending = {k: np.asarray(v, np.float32)
                     for k, v in record.get("pending", {}).items()}
    logging.info("Resuming at step %d of %d.", step,
                 self.experiment.total_steps)
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
        "step_seconds": self.step_seconds, "seconds": self.spent}

  def _begin(self, index: int, state: state_lib.State) -> state_lib.State:
    """Prepares a phase: routes, parameters to start from, optimiser.

    A function of the state and the configuration alone, so that a run which
    resumes at a border prepares the same.
    """
    experiment = self.experiment
    phases = experiment.method.phases
    phase = phases[index]
    before = phases[index - 1] if index else None
    if phase.candidate == 0:
      key = streams.stream_key(self.config.seed, "routes")
      routes = experiment.method.routes(
          key, experiment.sampling_alpha(state.params["policy"]["logits"]))
      state = state.replace(routes=jnp.asarray(routes, jnp.float32))
      if state.anchor:
        state = state.replace(anchor=_copy(
            {"params": state.params["network"], "stats": state.stats}))
    if phase.start == "scratch":
      params, stats = experiment.fresh("retrain")
      state = state.replace(params={**state.params, "network": params},
                            stats=stats)
    elif phase.start == "policy":
      start = _copy(state.anchor)
      state = state.replace(
          params={**state.params, "network": start["params"]},
          stats=start["stats"])
    if (before is not None and before.optimizer == phase.optimizer
        and phase.candidate < 0):
      return state
    state = state.replace(opt=experiment.optimizer(index).init(state.params))
    return experiment.place(state)

  def _next_stop(self, phase: types.Phase, offset: int) -> int:
    """Where the host looks next; a function of the phase and offset alone."""
    train = self.config.train
    every = [train.log_every]
    if phase.select:
      every.append(train.eval_every)
    return min([phase.steps] + [(offset // n + 1) * n for n in every])

  def _advance(
      self, index: int, offset: int, count: int, step: int,
      state: state_lib.State, watch: preemption.Watch
  ) -> tuple[state_lib.State, dict[str, np.ndarray], float]:
    """Runs steps in dispatches of `steps_per_dispatch`; fewer if told to end.

    At most two dispatches are under way, so that an end is never far.
    """
    phase = self.experiment.method.phases[index]
    route = np.asarray(state.routes[max(phase.candidate, 0)])
    run = self._compiled(step_lib.spec_of(
        phase, len(self.experiment.tasks), self.experiment.gated,
        route.astype(int).tolist(), self.experiment.planned,
        tuple(self.config.train.shared_prefixes),
        self.experiment.optimizer_steps(index)))
    parts: list[dict[str, jax.Array]] = []
    began, timed = time.monotonic(), 0
    done = 0
    while done < count and not (parts and watch.reached(step + done)):
      size = min(self.config.train.steps_per_dispatch, count - done)
      with self.monitor.input():
        arrays, rows, draws = self.feed.chunk(index, offset + done, size)
      inputs = step_lib.inputs_of(
          phase, self.config.seed, offset + done, step + done,
          self.experiment.blocks, route, self.config.gates.noise_fades)
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
    return step_lib.make(experiment.network, tx, spec, experiment.objective,
                         mesh_lib.batch_sharding(experiment.mesh),
                         experiment.dataset.augment, experiment.shardings)

  def _check_finite(
      self, phase: types.Phase, first: int, parts: dict[str, np.ndarray]
  ) -> None:
    """Stops on the first loss that is not finite."""
    bad = {name: values for name, values in parts.items()
           if "/" in name and name != "loss/total"
           and not np.isfinite(values).all()}
    total = parts["loss/total"]
    if not bad and np.isfinite(total).all():
      return
    where = min(int(np.argmin(np.isfinite(v))) for v in
                (bad or {"total": total}).values())
    names = [n.split("/")[1] for n, v in bad.items()
             if not np.isfinite(v[where])] or ["total"]
    raise NonFiniteLossError(
        f"The loss of {', '.join(names)} is not finite at step"
        f" {first + where + 1}, in phase {_title(phase)}. {self._advice()}")

  def _check_state(
      self, phase: types.Phase, step: int, state: state_lib.State
  ) -> None:
    """Stops on parameters that are not finite, before they are kept.

    A gradient can overflow where the loss did not; only the next loss would
    tell, after the checkpoint.
    """
    groups = optim.labels(state.params)
    found = _finite({"params": state.params, "stats": state.stats})
    bad = sorted({group for group, good in zip(
        jax.tree.leaves(groups), jax.tree.leaves(found["params"]), strict=True)
        if not good})
    if not all(map(bool, jax.tree.leaves(found["stats"]))):
      bad.append("batch statistics")
    if bad:
      raise NonFiniteLossError(
          f"The gradient or the parameters of {', '.join(bad)} became not"
          f" finite at or shortly before step {step}, in phase"
          f" {_title(phase)}. {self._advice()}")

  def _advice(self) -> str:
    return (f"The last good checkpoint is kept in"
            f" {self.workdir / 'checkpoints'}. Lower the learning rate of this"
            " phase (config.optimizers) or check the data.")

  def _note_seconds(
      self, phase: types.Phase, seconds: float, count: int
  ) -> None:
    """Remembers seconds a step; short stretches mostly measure start-up."""
    if count > 1 or phase.steps == 1:
      kept = self.step_seconds.setdefault(phase.name, [])
      kept.append(round(seconds, 6))
      del kept[:-200]

  def _log(
      self, log: logs.MetricLog, phase: types.Phase, step: int,
      parts: dict[str, np.ndarray], speed: float, times: dict[str, float]
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
      return phase.select or phase.name == "warmup" or (
          phase.name == "policy" and self._last_cycle(phase))
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
    return offset == 0 and following > index and (
        following == len(phases) or phases[following].candidate >= 0)

  def _alpha(self, state: state_lib.State) -> np.ndarray:
    return np.asarray(policy.alpha(state.params["policy"]["logits"]))

  def route(self, phase: types.Phase, state: state_lib.State) -> np.ndarray:
    """The discrete route `[T, L]` that an evaluation in a phase uses."""
    if phase.candidate >= 0:
      return np.asarray(state.routes[phase.candidate])
    if phase.routing == "soft":
      opened = np.asarray(
          policy.open_mask(self.experiment.blocks, phase.open_blocks))
      chosen = (self._alpha(state) >= 0.5) | ~opened[None]
      return chosen.astype(np.float32)
    return np.ones_like(self._alpha(state))

  def constant(self) -> evaluate.Values:
    """Metrics of the best constant prediction on the selection split."""
    if self._constant is None:
      self._constant = evaluate.constants(
          self.experiment.tasks, *constants.labels(
              self.experiment.dataset, self.selection,
              self.config.train.resident, self.config.eval.batch_size))
    return self._constant

  @property
  def selection(self) -> str:
    """The split that chooses models."""
    return str(self.config.compat.selection)

  def _evaluate(
      self, log: logs.MetricLog, phase: types.Phase, step: int,
      state: state_lib.State
  ) -> state_lib.State:
    """Validates, and keeps the model if it is the best so far."""
    result = self.evaluator.run(
        state.params["network"], state.stats,
        self.feed.evaluation(self.selection), self.route(phase, state),
        phase.gated)
    scores = evaluate.score(self.experiment.tasks, result.metrics,
                            self.constant())
    values = {f"{task}/{name}": value for task, metrics in
              result.metrics.items() for name, value in metrics.items()}
    values |= {f"loss/{name}": v for name, v in result.losses.items()}
    values |= {"score": float(scores.mean()), "rate": float(result.rate.mean())}
    log.write(step, phase.name, phase.candidate, phase.cycle, "eval", values)
    if not phase.select:
      return state
    self._note_candidate(phase, state, result, float(scores.mean()))
    return state.replace(best=self._better(state, scores, phase, step))

  def _note_candidate(
      self, phase: types.Phase, state: state_lib.State,
      result: evaluate.Result, score: float
  ) -> None:
    """Remembers a candidate's best validation, for the report."""
    old = self.candidates.get(phase.candidate)
    if old is None or score > old["score"]:
      self.candidates[phase.candidate] = {
          "index": phase.candidate, "score": score,
          "route": self.route(phase, state).astype(int).tolist(),
          "validation": result.metrics}

  def _better(
      self, state: state_lib.State, scores: np.ndarray, phase: types.Phase,
      step: int
  ) -> state_lib.Best:
    """The best model after an evaluation: a task's own with columns."""
    best = state.best
    old = np.asarray(best.scores)
    if self.experiment.method.columns:
      wins = scores > old
    else:
      wins = np.full(scores.shape, scores.mean() > old.mean())
    if not wins.any():
      return best

    def pick(path: Any, kept: jax.Array, new: jax.Array) -> jax.Array:
      return jnp.array(new) if wins[_column(path)] else kept

    pick_all = jax.tree_util.tree_map_with_path
    replaced = state_lib.Best(
        params=pick_all(pick, best.params, state.params["network"]),
        stats=pick_all(pick, best.stats, state.stats),
        scores=jnp.asarray(np.where(wins, scores, old)),
        candidate=jnp.asarray(np.where(wins, phase.candidate, best.candidate),
                              jnp.int32),
        step=jnp.asarray(np.where(wins, step, best.step), jnp.int32))
    return self.experiment.place(replaced)


def _column(path: Any) -> int:
  """Which task a leaf belongs to when every task has its own column."""
  for part in path:
    name = str(getattr(part, "key", part))
    stem, _, number = name.rpartition("_")
    if stem in ("columns", "heads") and number.isdigit():
      return int(number)
  return 0


@jax.jit
def _finite(tree: Any) -> Any:
  """Whether every number of every leaf is finite."""
  return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)


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
  return {k.removeprefix("loss/"): float(v[-1]) for k, v in parts.items()
          if k.startswith("loss/") and k != "loss/total"
          and math.isfinite(float(v[-1]))}
