"""Milliseconds of any route, from one timing of every block on this device.

A route's blocks add up: a call takes what every call takes, and every block as often as it is
computed. So the blocks of one network, timed once, price all routes, before any is trained.
docs/benchmarks/latency.md says how near.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import statistics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax.infer import clock
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.infer import work
from dynashare_jax.models import backbones
from dynashare_jax.models import series
from dynashare_jax.sharing import plan as plan_lib

TOGETHER = "together"
APART = "apart"
SERVES = (TOGETHER, APART)

Call = Callable[[], Any]

_EXECUTION = trained_lib.Execution(gates=False)
_WARM = 3  # calls before any that counts


class Latency(NamedTuple):
  """What the parts of a network take, in milliseconds, for one batch size on one device.

  Attributes:
    fixed: of every call: dispatch, stem, shortcuts and the last norm; of a network with one task
      its head, too.
    blocks: `[L]`, of the first computation of every block in a call.
    further: `[L]`, of each further one in the same call, for another group of tasks; more than the
      first where features must be copied, less where the device has room.
    heads: `[T]`, of every task's head.
  """

  fixed: float
  blocks: tuple[float, ...]
  further: tuple[float, ...]
  heads: tuple[float, ...]

  def predict(self, route: Any, serve: str = TOGETHER) -> float:
    """Returns the milliseconds of a route.

    Args:
      route: `[T, L]` of 0 and 1.
      serve: `together` is one call for all tasks, in which those with the same history share a
        block's computation (`Plan.computations`); `apart` is one call a task, one after another.

    Raises:
      ValueError: a route of another shape or with other values, or another word.
    """
    if serve not in SERVES:
      raise ValueError(f"serve is {serve!r}; it must be one of {', '.join(SERVES)}.")
    plan = _plan(route, [str(t) for t in range(len(self.heads))], len(self.blocks))
    if serve == TOGETHER:
      calls, first = 1, [min(n, 1) for n in plan.computations]
      more = [n - one for n, one in zip(plan.computations, first, strict=True)]
    else:
      calls, first = len(self.heads), np.sum(plan.route, 0).tolist()
      more = [0] * len(first)
    spent = np.dot(first, self.blocks) + np.dot(more, self.further)
    return float(calls * self.fixed + sum(self.heads) + spent)


def _plan(route: Any, tasks: Sequence[str], blocks: int) -> plan_lib.Plan:
  """The plan of a route without gates, whose shape is checked."""
  shape = np.shape(route)
  if shape != (len(tasks), blocks):
    raise ValueError(
      f"The route has the shape {shape}, but there are {len(tasks)} tasks and {blocks} blocks:"
      " give it a row a task and a column a block."
    )
  return plan_lib.make(tasks, route)


class Measured(NamedTuple):
  """What `measure` found.

  Attributes:
    latency: prices routes.
    also: milliseconds of the other calls, by their names.
  """

  latency: Latency
  also: dict[Any, float]


def measure(
  trained: trained_lib.Trained,
  inputs: Any,
  repeats: int = 100,
  also: Mapping[Any, Call] | None = None,
) -> Measured:
  """Times the network with all blocks and with none, and every block alone, on this device.

  The network is timed as a whole and for every task alone. Of a block, a program of it, for one
  group of tasks and for as many as there are tasks, less a program of its shortcut. Alone, blocks
  are fused otherwise than in the network: they are scaled to add up to what the networks with all
  blocks take more than those with none, in the mean.

  Weights and route of the model do not matter: one of `runs.untrained` does as well as a finished
  run. Every example executes what a route says; instance gates are left out. Calls take turns, and
  medians are taken: of processor time where the process has one processor core, so that other work
  on it hardly counts, else of elapsed time (`clock.Timing.steady`).

  Args:
    trained: a model whose tasks share a backbone.
    inputs: of one batch, whose size the milliseconds are for.
    repeats: rounds, at least 1.
    also: other warm calls that take turns with these, such as those of `call`, by names.

  Raises:
    ValueError: the model has no blocks that a route could leave out.

  Example:
    config = configs.load("configs/rooms.py")  # dynashare_jax.cli.configs
    model = runs.untrained(config)
    found = latency.measure(model, model.experiment.one_example()).latency
    found.predict([[1, 1, 0, 1, 1, 1, 1, 1]] * 3), found.predict(route, latency.APART)
  """
  params, stats, inputs = jax.device_put((trained.params, trained.stats, inputs))
  trained = dataclasses.replace(trained, params=params, stats=stats)
  tasks, blocks = len(trained.tasks), trained.experiment.units
  calls: dict[Any, Call] = {}
  for name, run in (("all", 1), ("none", 0)):
    calls[name, None] = call(trained, np.full((tasks, blocks), run), inputs)
    for t in range(tasks):
      calls[name, t] = call(trained.only([t]), np.full((1, blocks), run), inputs)
  calls |= _blocks(trained, inputs)
  own = len(calls)
  calls |= {("also", name): other for name, other in (also or {}).items()}
  timed = clock.alternate(calls, repeats)
  ms = {name: 1000 * statistics.median(timing.steady) for name, timing in timed.items()}
  others = {name[1]: ms[name] for name in list(calls)[own:]}
  return Measured(_solved(ms, tasks, blocks), others)


class Checked(NamedTuple):
  """A prediction beside what was measured in the same rounds.

  Attributes:
    latency: that predicts.
    macs: `[L]`, multiply-accumulates of every block's branch, for one example.
    plan: of the route, without gates.
    batch: examples of a call.
    measured: milliseconds of the route, by the way to serve it.
  """

  latency: Latency
  macs: tuple[int, ...]
  plan: plan_lib.Plan
  batch: int
  measured: dict[str, float]


def check(trained: trained_lib.Trained, inputs: Any, route: Any, repeats: int = 100) -> Checked:
  """Times the parts of a network and, in the same rounds, one of its routes; see `measure`.

  Raises:
    ValueError: the model has no blocks that a route could leave out, or the route does not fit.
  """
  plan = _plan(route, [task.name for task in trained.tasks], trained.experiment.units)
  calls = {serve: call(trained, route, inputs, serve) for serve in SERVES}
  found, measured = measure(trained, inputs, repeats, calls)
  batch = jax.tree.leaves(inputs)[0].shape[0]
  return Checked(found, work.branches(trained), plan, batch, measured)


def call(trained: trained_lib.Trained, route: Any, inputs: Any, serve: str = TOGETHER) -> Call:
  """Compiles a route and calls it until it is warm; `Latency.predict` says what it should take.

  Args:
    trained: a model whose tasks share a backbone; its own route does not matter.
    route: `[T, L]` of 0 and 1.
    inputs: of one batch.
    serve: see `Latency.predict`.

  Returns:
    A function without arguments that computes all tasks' predictions and waits for them.

  Raises:
    ValueError: the model has no blocks that a route could leave out, or the route does not fit.
  """
  if trained.plan is None or trained.experiment.method.independent:
    raise ValueError("This model executes everything for every task: it has no routes to price.")
  plan = _plan(route, [task.name for task in trained.tasks], trained.experiment.units)
  if serve == APART:
    alone = [call(trained.only([t]), [row], inputs) for t, row in enumerate(plan.route)]
    return lambda: [one() for one in alone]
  model = dataclasses.replace(trained, structure=plan)
  return _warm(model.forward(_EXECUTION), model.variables, inputs)


def _warm(function: Callable[..., Any], *args: Any) -> Call:
  """The function compiled for its arguments, called some times."""
  placed = jax.device_put(args)
  run = jax.jit(function).lower(*placed).compile()
  done = lambda: jax.block_until_ready(run(*placed))
  for _ in range(_WARM):
    done()
  return done


def _blocks(trained: trained_lib.Trained, inputs: Any) -> dict[Any, Call]:
  """Every block alone, for one group and for all tasks' groups, and the shortcut alone."""
  network, variables = trained.experiment.network, trained.variables

  def applied(run: Callable[..., Any], variables: Any, inputs: Any, x: Any) -> Any:
    groups = 1 if x is inputs else jax.tree.leaves(x)[0].shape[0]
    pass_ = backbones.Pass(False, jnp.ones((groups,)), series.steps_of(inputs))
    method = lambda network, x: run(network.trunk.shown(), x, pass_)
    return network.apply(variables, x, method=method)

  def skipped(block: int, backbone: Any, x: Any, pass_: Any) -> Any:
    return backbone.shortcut(block, x, pass_)

  def executed(block: int, backbone: Any, x: Any, pass_: Any) -> Any:
    return backbone.merge(backbone.shortcut(block, x, pass_), backbone.branch(block, x, pass_))

  def features(backbone: Any, inputs: Any, pass_: Any) -> list[Any]:
    found = [backbone.stem(inputs, pass_)]
    for block in range(backbone.num_blocks - 1):
      found.append(executed(block, backbone, found[-1], pass_))
    return found

  part = lambda run: functools.partial(applied, run)
  stem = lambda variables, inputs: applied(features, variables, inputs, inputs)
  calls: dict[Any, Call] = {}
  for block, x in enumerate(jax.jit(stem)(variables, inputs)):
    every = jax.tree.map(lambda a: jnp.repeat(a, len(trained.tasks), 0), x)
    run = part(functools.partial(executed, block))
    calls["block", block] = _warm(run, variables, inputs, x)
    calls["groups", block] = _warm(run, variables, inputs, every)
    calls["rest", block] = _warm(part(functools.partial(skipped, block)), variables, inputs, x)
  return calls


def _solved(ms: Mapping[Any, float], tasks: int, blocks: int) -> Latency:
  """The parts that add up to what the networks take; noise makes none negative."""
  # Without blocks, each task alone is a trunk and its head; all together are one trunk and all.
  alone, rest = [ms["none", t] for t in range(tasks)], ms["none", None]
  fixed = max((sum(alone) - rest) / (tasks - 1), 0.0) if tasks > 1 else rest
  heads = tuple(max(found - fixed, 0.0) for found in alone)
  single = [max(ms["block", l] - ms["rest", l], 0.0) for l in range(blocks)]
  whole = [ms["all", place] - ms["none", place] for place in (None, *range(tasks))]
  scale = max(statistics.mean(whole), 0.0) / (sum(single) or 1.0)
  more = [max(ms["groups", l] - ms["block", l], 0.0) / max(tasks - 1, 1) for l in range(blocks)]
  return Latency(fixed, tuple(scale * found for found in single), tuple(more), heads)
