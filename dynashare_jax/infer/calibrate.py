"""A budget at run time: gate thresholds that make one checkpoint cost less."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from dynashare_jax.data import loader
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.infer import clock
from dynashare_jax.infer import closing
from dynashare_jax.infer import settings
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.infer import work as work_lib
from dynashare_jax.train import constants
from dynashare_jax.train import evaluate
from dynashare_jax.train import feed as feed_lib

TOLERANCE = 0.002  # relative distance to a budget that ends a search
_PATH_EXAMPLES = 512  # that the order of closing is found on
_TRIES = 24  # evaluations of a search
_HELD = 3  # blocks that are held back where the cost jumps
_TIMED = 16  # batches that a time is measured on
_ROUNDS = 9  # alternated repeats of a time
_REFINED = 3  # corrections of a predicted time
_TIME_TOLERANCE = 0.02


class Place(NamedTuple):
  """A place on the path, perhaps off it by some blocks that are held back.

  Attributes:
    position: in [0, 1]; 0 closes and 1 opens every gate, exactly.
    held: `(block, threshold)` of blocks that do not follow the path.
  """

  position: float
  held: tuple[tuple[int, float], ...] = ()


class Calibrator:
  """Finds settings of a trained model by measuring whole evaluations.

  One scalar moves all gated blocks along a path from "all closed" (0) to "all open" (1). Earlier
  blocks change what later gates see, so a place on the path is always evaluated end to end; what
  was evaluated once is kept. Where many examples have one and the same score, the cost jumps: that
  block is then held at the cheaper side, and the blocks that the path opens next fill the gap.

  Source: ours. The path closes first what costs the least validation score for the
    multiply-accumulates it saves, a quartile of a block's scores at a time. Gates that were trained
    for a range of target rates instead go through that range with threshold 0, and shift all scores
    alike beyond its ends.
  """

  def __init__(self, trained: trained_lib.Trained, batch: int = 8) -> None:
    """Prepares; evaluates nothing yet.

    Args:
      trained: with instance gates.
      batch: examples of the batch that is timed for budgets in `ms`.

    Raises:
      ValueError: no gate decides anything in this model, or `batch` does not
        fit the validation split.
    """
    self.trained = trained
    self.batch = batch
    experiment = trained.experiment
    _check(trained, batch)
    self.work = work_lib.of_plan(trained)
    self._feed = feed_lib.Feed(experiment)
    sharing = dataclasses.replace(trained.sharing, planned=True, sampled_gates=None)
    self._evaluator = evaluate.Evaluator(
      experiment.network, experiment.tasks, sharing, mesh_lib.batch_sharding(experiment.mesh)
    )
    self._seen: dict[str, dict[Place, settings.Measured]] = {}

  def knobs(self, place: Place) -> closing.Knobs:
    """Returns thresholds `[L]` and the rate that gates are given at a place."""
    found, target = self._path(place.position)
    thresholds = np.array(found)
    for block, threshold in place.held:
      thresholds[block] = threshold
    return thresholds, target

  def measure(self, place: Place, split: str = "validation") -> settings.Measured:
    """Measures cost and metrics of a split at a place, once."""
    seen = self._seen.setdefault(split, {})
    if place not in seen:
      seen[place] = self._evaluate(self.knobs(place), split)
    return seen[place]

  def reach(self, unit: str) -> tuple[float, float]:
    """Returns the lowest and the highest budget of a unit: all closed, all open."""
    if unit == settings.MS:
      return self._anchors
    lowest, highest = map(self.measure, _ENDS)
    return _cost(lowest, unit), _cost(highest, unit)

  def meet(self, budget: settings.Budget, test: bool = False) -> settings.Setting:
    """Finds the setting that meets a budget on validation, and measures it on test if asked.

    Raises:
      ValueError: the budget is out of reach; says what is in reach.
    """
    low, high = self.reach(budget.unit)
    _check_reach(budget, low, high)
    if budget.unit == settings.MS:
      return self._meet_ms(budget, test)
    place = self._find(budget.unit, budget.value)
    return self._setting(budget, place, test)

  def default(self, test: bool = False) -> settings.Setting:
    """Measures the model as trained: thresholds 0 and the run's own target rate."""
    return self._setting(None, None, test)

  def _setting(
    self, budget: settings.Budget | None, place: Place | None, test: bool, **times: Any
  ) -> settings.Setting:
    """What a place, or the model as trained, does on the splits, with standard errors."""
    trained = np.zeros(len(self.trained.gated)), self._target
    knobs = trained if place is None else self.knobs(place)

    def whole(split: str) -> settings.Measured:
      error = self._error(knobs, split)
      found = self._evaluate(knobs, split) if place is None else self.measure(place, split)
      return found._replace(error=error)

    return settings.Setting(
      budget.unit if budget else settings.FLOPS,
      budget.value if budget else None,
      tuple(map(float, knobs[0])),
      knobs[1],
      whole("validation"),
      whole("test") if test else None,
      **times,
    )

  def _error(self, knobs: closing.Knobs, split: str) -> float:
    """Standard error of the mean share of work, over a split's examples."""
    args, found = _args(knobs), []
    for arrays, indices, present in self._feed.evaluation(split)():
      inputs = loader.take(arrays, indices, present).inputs
      executed = np.asarray(self._executed(self.trained.variables, inputs, *args))
      amounts = np.zeros(executed.shape[1])
      for task, block, amount in self.work.gated:
        amounts += amount * executed[task, :, block]
      found.append(amounts[np.asarray(present)] / self.work.full)
    shares = np.concatenate(found)
    return float(shares.std() / math.sqrt(len(shares)))

  @functools.cached_property
  def _executed(self) -> Any:
    """`(variables, inputs, thresholds, target rate)` to `[T, B, L]`, jitted."""

    def run(variables: Any, inputs: Any, threshold: Any, target: Any) -> Any:
      forward = self.trained.forward(threshold=threshold, target_rate=target)
      return forward(variables, inputs)[1].executed

    return jax.jit(run)

  def _find(self, unit: str, goal: float) -> Place:
    """The place whose cost on validation is nearest to a goal, or within the tolerance of it."""
    place, gap = self._search(unit, goal, *_ENDS)
    found = [place]
    for _ in range(_HELD):
      if gap is None:
        break
      low, high = gap
      moved = np.abs(self.knobs(low)[0] - self.knobs(high)[0])
      block = int(moved.argmax())
      held = *low.held, (block, float(self.knobs(low)[0][block]))
      place, gap = self._search(unit, goal, Place(high.position, held), Place(1.0, held))
      found.append(place)
    return min(found, key=lambda p: abs(_cost(self.measure(p), unit) - goal))

  def _search(
    self, unit: str, goal: float, begin: Place, end: Place
  ) -> tuple[Place, tuple[Place, Place] | None]:
    """Bisects between places; the nearest, and the two between which the cost jumps, if it does."""
    held = begin.held
    costs = {p.position: _cost(self.measure(p), unit) for p in (begin, end)}
    costs |= {
      p.position: _cost(m, unit)
      for p, m in self._seen["validation"].items()
      if p.held == held and begin.position <= p.position
    }
    pair = None
    for _ in range(_TRIES):
      near = min(abs(cost - goal) for cost in costs.values())
      around = [p for p in itertools.pairwise(sorted(costs)) if costs[p[0]] <= goal <= costs[p[1]]]
      pair = around[0] if around else None
      if near <= TOLERANCE * goal or pair is None or pair[1] - pair[0] < 1e-6:
        break
      low, high = (costs[p] for p in pair)
      share = min(max((goal - low) / (high - low), 0.1), 0.9)
      position = pair[0] + share * (pair[1] - pair[0])
      costs[position] = _cost(self.measure(Place(position, held)), unit)
    nearest = min(costs, key=lambda p: abs(costs[p] - goal))
    met = abs(costs[nearest] - goal) <= TOLERANCE * goal
    if met or pair is None:
      return Place(nearest, held), None
    return Place(nearest, held), (Place(pair[0], held), Place(pair[1], held))

  def _evaluate(self, knobs: closing.Knobs, split: str, batches: Any = None) -> settings.Measured:
    trained = self.trained
    found = self._evaluator.run(
      trained.params,
      trained.stats,
      batches or self._feed.evaluation(split),
      trained.structure,
      threshold=knobs[0],
      target_rate=knobs[1],
    )
    score = evaluate.score(trained.tasks, found.metrics, self._constant)
    share = float(self.work.share(found.rate))
    return settings.Measured(float(found.rate.mean()), share, float(score.mean()), found.metrics)

  @functools.cached_property
  def _constant(self) -> evaluate.Values:
    """Metrics of the best constant prediction, on validation."""
    config = self.trained.experiment.config
    return evaluate.constants(
      self.trained.tasks,
      *constants.labels(
        self.trained.experiment.dataset, "validation", config.train.resident, config.eval.batch_size
      ),
    )

  @functools.cached_property
  def _path(self) -> closing.Path:
    trained = self.trained
    trained_for, target = trained.sharing.sampled_range, self._target
    if trained_for is not None:
      return closing.sampled(trained.gated, *trained_for)
    quartiles = closing.quartiles(trained, self._some_batches)

    def try_levels(levels: np.ndarray) -> tuple[float, float]:
      knobs = closing.thresholds(levels, quartiles), target
      found = self._evaluate(knobs, "validation", self._some_batches)
      return found.flops, found.score

    asked = sorted({block for _, block, _ in self.work.gated})
    nodes = closing.order(try_levels, asked, len(trained.gated))
    return closing.along(nodes[::-1], quartiles, target)

  @property
  def _target(self) -> float:
    """The target rate that gates read, in the run's own setting."""
    return self.trained.sharing.target_rate

  def _some_batches(self) -> Any:
    """Batches of the first examples of validation."""
    size = self.trained.experiment.config.eval.batch_size
    count = -(-_PATH_EXAMPLES // size)
    return itertools.islice(self._feed.evaluation("validation")(), count)

  @functools.cached_property
  def _anchors(self) -> tuple[float, float]:
    """Milliseconds with all gates closed and with all open."""
    closed, opened = self._clock(list(map(self.knobs, _ENDS)))
    if closed >= opened:
      raise ValueError(
        f"Closing all gates saves no time on this device at batch {self.batch}: {closed:.3g} ms,"
        f" all open {opened:.3g} ms. Give the budget in {settings.RATE} or {settings.FLOPS}."
      )
    return closed, opened

  def _meet_ms(self, budget: settings.Budget, test: bool) -> settings.Setting:
    """Predicts the time from the work along a line with measured corners, measures, corrects."""
    ends = [self.measure(p).flops for p in _ENDS]
    line = list(zip(self._anchors, ends, strict=True))
    best: tuple[float, Place, float, float] | None = None
    for _ in range(_REFINED):
      times, shares = zip(*sorted(line), strict=True)
      goal = float(np.interp(budget.value, times, shares))
      place = self._find(settings.FLOPS, goal)
      share = self.measure(place).flops
      predicted = float(np.interp(share, sorted(shares), sorted(times)))
      closed, ms, opened = self._clock([self.knobs(p) for p in (_ENDS[0], place, _ENDS[1])])
      found = abs(ms - budget.value), place, ms, predicted
      best = found if best is None else min(best, found)
      if best[0] <= _TIME_TOLERANCE * budget.value:
        break
      line = [(closed, ends[0]), (opened, ends[1])]
      line += [(ms, share)] if closed < ms < opened else []
    assert best is not None
    _, place, ms, predicted = best
    return self._setting(budget, place, test, batch=self.batch, ms=ms, predicted_ms=predicted)

  def _clock(self, knobs: Sequence[closing.Knobs]) -> list[float]:
    """Median milliseconds of a batch for every setting, in alternation."""
    run, variables, batches = self._timed

    def call(args: tuple[Any, Any]) -> None:
      for inputs in batches:
        jax.block_until_ready(run(variables, inputs, *args))

    calls = {i: functools.partial(call, _args(knob)) for i, knob in enumerate(knobs)}
    clock.alternate(calls, 1)  # compiles and warms up
    found = clock.alternate(calls, _ROUNDS)
    return [1000 * found[place].median / len(batches) for place in calls]

  @functools.cached_property
  def _timed(self) -> tuple[Any, Any, list[Any]]:
    """The jitted gated execution, its variables, and batches, on one device."""
    trained, device = self.trained, jax.local_devices()[0]
    way = strategy.of(trained, self.batch, device.platform)
    execution = trained_lib.Execution(compaction=way)

    def run(variables: Any, inputs: Any, threshold: Any, target: Any) -> Any:
      forward = trained.forward(execution, threshold=threshold, target_rate=target)
      return forward(variables, inputs)[0]

    source = trained.experiment.dataset.source("validation")
    count = min(len(source) // self.batch, _TIMED)
    parts = [range(k * self.batch, (k + 1) * self.batch) for k in range(count)]
    batches = [loader.stack([source[i] for i in part]).inputs for part in parts]
    return jax.jit(run), *jax.device_put((trained.variables, batches), device)


_ENDS = (Place(0.0), Place(1.0))


def _check(trained: trained_lib.Trained, batch: int) -> None:
  """Refuses models without gates, and batches that cannot be made."""
  name = trained.experiment.method.name
  if not any(trained.gated):
    raise ValueError(
      f"{trained.workdir} was trained with the method {name!r} without instance"
      " gates: nothing can be calibrated. Its cost is fixed. To choose among several finished runs,"
      " give them all: calibrate --workdir=A,B --curve."
    )
  route = np.asarray(trained.route)
  if not route[:, np.asarray(trained.gated)].any():
    raise ValueError(
      f"The route of {trained.workdir} skips every block that has a gate:"
      " nothing can be calibrated."
    )
  size = trained.experiment.dataset.spec.sizes["validation"]
  if not 1 <= batch <= size:
    raise ValueError(
      f"The batch must have 1 to {size} examples, as many as the validation split, not {batch}."
    )


def _check_reach(budget: settings.Budget, low: float, high: float) -> None:
  """Refuses a budget that no threshold meets; rounding is forgiven."""
  if low * (1 - TOLERANCE) <= budget.value <= high * (1 + TOLERANCE):
    return
  what, limit = ("below", "lowest") if budget.value < low else ("above", "highest")
  raise ValueError(
    f"A budget of {budget.value:g} {budget.unit} is {what} the {limit} in"
    f" reach: {math.ceil(1e4 * low) / 1e4:.4f} with all gates closed to"
    f" {math.floor(1e4 * high) / 1e4:.4f} with all open. Choose one between."
  )


def _args(knobs: closing.Knobs) -> tuple[np.ndarray, np.float32]:
  """Thresholds and target rate, as a program takes them."""
  return np.asarray(knobs[0], np.float32), np.float32(knobs[1])


def _cost(found: settings.Measured, unit: str) -> float:
  return found.rate if unit == settings.RATE else found.flops
