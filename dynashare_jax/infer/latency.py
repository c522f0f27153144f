"""Milliseconds of any route, from one timing of every block on this device.

A route's blocks add up: a call takes what every call takes, and every block as often as it is
computed. So the blocks of one network, timed once, price all routes, before any is trained.
docs/benchmarks/latency.md says how near.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from dynashare_jax.sharing import prices

TOGETHER, APART = SERVES = prices.SERVES
Latency = prices.Prices  # in milliseconds, for one batch size on one device

Call = Callable[[], Any]

_EXECUTION = trained_lib.Execution(gates=False)
_WARM = 3  # calls before any that counts


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
  """Times every block alone, and the network with all blocks and with either half of them.

  Of a block, a program of it less one of its shortcut, for one group of tasks and for as many as
  there are tasks. Alone, blocks are fused otherwise than in the network; so they share a scale,
  which is fitted to the networks, for all tasks and for every task, with what a call and the heads
  take (least squares of relative errors). A half is every other block.

  Weights and route of the model do not matter: one of `runs.untrained` does as well as a finished
  run. Every example executes what a route says; instance gates are left out. Calls take turns, and
  medians are taken: of processor time where the process has one processor core, which other
  work moves less, else of elapsed time (`clock.Timing.steady`).

  Args:
    trained: a model whose tasks share a backbone.
    inputs: of one batch, whose size the milliseconds are for.
    repeats: rounds, at least 1.
    also: other warm calls that take turns with these, such as those of `call`, by names.

  Raises:
    ValueError: the model has no blocks that a route could leave out.

  Example:
    config = configs.load("configs/rooms.py")  # dynashare_jax.library.configs
    model = runs.untrained(config)
    found = latency.measure(model, model.experiment.one_example()).latency
    found.predict([[1, 1, 0, 1, 1, 1, 1, 1]] * 3), found.predict(route, latency.APART)
  """
  params, stats, inputs = jax.device_put((trained.params, trained.stats, inputs))
  trained = dataclasses.replace(trained, params=params, stats=stats)
  tasks, blocks = len(trained.tasks), trained.experiment.units
  every = np.arange(blocks)
  rows = np.stack([every >= 0, every % 2 == 0, every % 2 == 1]).astype(int)
  calls: dict[Any, Call] = {}
  for place, row in enumerate(rows):
    calls[place, None] = call(trained, [row] * tasks, inputs)
    calls |= {(place, t): call(trained.only([t]), [row], inputs) for t in range(tasks)}
  calls |= _blocks(trained, inputs)
  own = len(calls)
  calls |= {("also", name): other for name, other in (also or {}).items()}
  timed = clock.alternate(calls, repeats)
  ms = {name: 1000 * statistics.median(timing.steady) for name, timing in timed.items()}
  others = {name[1]: ms[name] for name in list(calls)[own:]}
  return Measured(_solved(ms, rows, tasks), others)


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
  plan = prices.planned(route, [task.name for task in trained.tasks], trained.experiment.units)
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
  plan = prices.planned(route, [task.name for task in trained.tasks], trained.experiment.units)
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
  """Every block, and its shortcut, alone: for one group, and for as many as tasks."""
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

  part = lambda run: functools.partial(applied, run)
  features = lambda backbone, inputs, pass_: backbone.features(inputs, pass_)[:-1]
  stem = lambda variables, inputs: applied(features, variables, inputs, inputs)
  calls: dict[Any, Call] = {}
  for block, x in enumerate(jax.jit(stem)(variables, inputs)):
    for groups in (1, len(trained.tasks)):
      wide = jax.tree.map(lambda a, n=groups: jnp.repeat(a, n, 0), x)
      for name, run in (("block", executed), ("rest", skipped)):
        program = part(functools.partial(run, block))
        calls[name, block, groups] = _warm(program, variables, inputs, wide)
  return calls


def _solved(ms: Mapping[Any, float], rows: np.ndarray, tasks: int) -> Latency:
  """The parts that add up to what the networks of some blocks `[N, L]` take; none is negative."""
  every = range(rows.shape[1])
  of = lambda name, groups: np.asarray([ms[name, l, groups] for l in every])
  more = max(tasks - 1, 1)
  single, several = (np.maximum(of("block", n) - of("rest", n), 0) for n in (1, tasks))
  carried = of("rest", tasks) - of("rest", 1)
  # Unknown: a call, the scale of the blocks, and heads; one task's head counts in its call.
  heads = np.eye(tasks) if tasks > 1 else np.zeros((1, 0))
  places = [(n, t) for n in range(len(rows)) for t in (None, *range(tasks))]
  terms = [[1.0, rows[n] @ single, *(heads.sum(0) if t is None else heads[t])] for n, t in places]
  spent = np.asarray([ms[place] for place in places])
  solved = np.linalg.lstsq(np.asarray(terms) / spent[:, None], np.ones(len(places)))[0]
  fixed, scale, *of_heads = np.maximum(solved, 0).tolist()
  return Latency(
    fixed,
    tuple((scale * single).tolist()),
    tuple((np.maximum(several - single, 0) / more).tolist()),
    tuple((np.maximum(carried, 0) / more).tolist()),
    tuple(of_heads) if tasks > 1 else (0.0,),
  )
