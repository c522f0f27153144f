"""What a trained model costs: parameters, work, memory and measured time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
import statistics
from typing import Any, NamedTuple

import jax
import numpy as np

from dynashare_jax.infer import clock
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.infer import work
from dynashare_jax.models.trunks import contract as trunks
from dynashare_jax.train import optim

ALL = "all tasks"
MASKED = "masked"
PLANNED = "planned"
GATED = "planned + gated"
SEPARATE = "single-task networks"
WHOLE = "whole network"
LEAN = "closed channels cut out"
WAYS = (MASKED, PLANNED, GATED, WHOLE, LEAN, SEPARATE)


# Numbers that an execution reads, by parameter group; `batch_stats` are running averages of batch
# norms and gates, which are not trained.
Parameters = Mapping[str, int]


class Times(NamedTuple):
  """Seconds of repeated calls with one batch size.

  Attributes:
    seconds: of every call, at least one.
    activations: bytes of activations and scratch memory of the program,
      without parameters, inputs and results.
  """

  seconds: tuple[float, ...]
  activations: int

  @property
  def median(self) -> float:
    """Of the calls, in seconds."""
    return statistics.median(self.seconds)


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of one way of execution.

  Attributes:
    scope: a task's name, or `ALL`.
    way: one of `WAYS`.
    parameters: that it reads.
    macs: analytic multiply-accumulates of an example; with gates the mean at the rates that were
      given.
    xla_macs: half the operations that XLA counts for an example, before its optimisations; None
      with gates, where it counts every branch of a conditional. It leaves out taps in the padding
      and counts elementwise work.
    times: batch size -> what was measured.
  """

  scope: str
  way: str
  parameters: Parameters
  macs: float
  xla_macs: float | None
  times: Mapping[int, Times] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model and a way to execute it.

  Attributes:
    scope: a task's name, or `ALL`.
    way: one of `WAYS`.
    model: of the tasks in scope alone.
    macs: see `Cost`.
  """

  scope: str
  way: str
  model: trained_lib.Trained
  macs: float

  def forward(self, batch: int) -> trained_lib.Forward:
    """Returns the forward pass for a batch size; only gated execution depends on it."""
    how = trained_lib.Execution(planned=self.way != MASKED)
    if self.way == GATED:
      platform = jax.devices()[0].platform
      how = how._replace(compaction=strategy.of(self.model, batch, platform))
    return self.model.forward(how)


def subjects(
  trained: trained_lib.Trained,
  rate: np.ndarray | None = None,
  separate: trained_lib.Trained | None = None,
) -> tuple[Subject, ...]:
  """Lists everything to measure: all tasks together, then every task alone.

  Args:
    rate: execution rates `[T, L]` of its gates, for the expected work; default all gates open.
    separate: one network per task, to compare with; its weights do not matter.

  Returns:
    Masked, planned and, with gates, gated execution; and the separate networks. A model that is
    itself one network per task has these alone.
  """
  columns = trained.experiment.method.independent
  if columns:
    separate = trained
  every = tuple(range(len(trained.tasks)))
  scopes, lean = {ALL: every}, trained.lean()
  if len(every) > 1:
    scopes |= {task.name: (t,) for t, task in enumerate(trained.tasks)}
  found: list[Subject] = []
  for scope, tasks in scopes.items():
    cut = lambda model, tasks=tasks: model if tasks == every else model.only(tasks)
    if not columns:
      found += _shared(scope, cut(trained), None if rate is None else rate[list(tasks)])
      found += [] if lean is trained else [_subject(scope, LEAN, cut(lean))]
    if separate is not None:
      found.append(_subject(scope, SEPARATE, cut(separate)))
  return tuple(found)


def _subject(scope: str, way: str, model: trained_lib.Trained) -> Subject:
  how = trained_lib.Execution(planned=way != MASKED)
  return Subject(scope, way, model, work.total(model, how))


def _shared(scope: str, model: trained_lib.Trained, rate: np.ndarray | None) -> list[Subject]:
  """The ways of a model whose tasks share something."""
  if model.plan is None:
    return [_subject(scope, WHOLE, model)]
  found = [_subject(scope, way, model) for way in (MASKED, PLANNED)]
  plan = work.of_plan(model)
  if plan.gated:
    macs = float(plan.full) if rate is None else plan.at(rate)
    found.append(Subject(scope, GATED, model, macs))
  return found


def parameters(
  forward: trained_lib.Forward, model: Any, inputs: Any, rules: optim.Rules
) -> Parameters:
  """Counts the parameters that a forward pass reads, by group.

  What the traced computation never touches, such as a block that every task skips, does not count.
  `rules` are those of the network's leaves.
  """
  traced = jax.make_jaxpr(forward)(model, inputs).jaxpr
  read = {id(v) for equation in traced.eqns for v in equation.invars}
  groups = dict.fromkeys([leaf.group for leaf in rules.values()])
  counts = dict.fromkeys(("backbone", "gates", "heads", *groups, "batch_stats"), 0)
  leaves = jax.tree_util.tree_leaves_with_path(model)
  for (path, leaf), variable in zip(leaves, traced.invars, strict=False):
    if id(variable) in read:
      kind, _, name = optim.path_of(path).partition("/")
      rule = trunks.leaf_of(rules, name)
      counts[rule.group if kind == "params" and rule is not None else kind] += leaf.size
  return counts


def xla_macs(forward: Callable[..., Any], *args: Any) -> float:
  """Returns half the floating-point operations that XLA counts; nothing is compiled.

  XLA counts 2 for a multiply-accumulate, leaves out those that meet padding,
  and counts elementwise work, too. A conditional counts all its branches.
  """
  counted: Any = jax.jit(forward).lower(*args).cost_analysis()
  return float(counted["flops"]) / 2


def static(subject: Subject) -> Cost:
  """Counts everything that needs no clock."""
  model = subject.model
  one = model.experiment.one_example()
  run = subject.forward(1)
  return Cost(
    subject.scope,
    subject.way,
    parameters(run, model.variables, one, model.experiment.network.leaves()),
    subject.macs,
    None if subject.way == GATED else xla_macs(run, model.variables, one),
  )


def measure(
  chosen: Sequence[Subject],
  examples: Any,
  batches: Sequence[int],
  repeats: int,
  tell: Callable[[str], None] = lambda text: None,
) -> tuple[Cost, ...]:
  """Measures everything on this machine's default device.

  Calls of one batch size take turns, round by round; round r reads the r-th
  batch of the examples, because gates make times depend on them.

  Args:
    chosen: see `subjects`.
    examples: real inputs; leading axis at least the largest batch size.
    batches: batch sizes of at least 1, without repeats.
    repeats: rounds, at least 1.
    tell: called with a line on what is done now.
  """
  found = [static(subject) for subject in chosen]
  times: list[dict[int, Times]] = [{} for _ in chosen]
  for batch in batches:
    tell(f"batch {batch}: compiling {len(chosen)} programs")
    for kept, measured in zip(times, _time(chosen, examples, batch, repeats), strict=True):
      kept[batch] = measured
  return tuple(
    dataclasses.replace(cost, times=kept) for cost, kept in zip(found, times, strict=True)
  )


def _time(chosen: Sequence[Subject], examples: Any, batch: int, repeats: int) -> list[Times]:
  """All subjects with one batch size, in turn."""
  total = len(jax.tree.leaves(examples)[0])
  parts = [
    jax.device_put(jax.tree.map(lambda a, i=i: a[i : i + batch], examples))
    for i in range(0, total - batch + 1, batch)
  ][:repeats]
  programs, calls = [], {}
  exact = any(any(subject.model.gated) for subject in chosen)  # Then no way's norms are folded.
  for place, subject in enumerate(chosen):
    model = subject.model if exact else subject.model.folded()
    variables = jax.device_put(model.variables)
    run = jax.jit(subject.forward(batch)).lower(variables, parts[0]).compile()
    jax.block_until_ready(run(variables, parts[0]))
    programs.append(run)
    turn = itertools.cycle(parts)
    calls[place] = lambda run=run, variables=variables, turn=turn: run(variables, next(turn))
  found = clock.alternate(calls, repeats)
  scratch = lambda run: int(getattr(run.memory_analysis(), "temp_size_in_bytes", 0))
  return [Times(tuple(found[i].wall), scratch(run)) for i, run in enumerate(programs)]


class Block(NamedTuple):
  """The work of one block.

  Attributes:
    macs: multiply-accumulates of its branch, for one example.
    masked: how often masked execution computes it for an example: for every task, but the first
      block, whose input is the same for all, once.
    planned: how often its plan does.
    gated: how often with gates, the mean over examples; None without gates in the model.
  """

  macs: int
  masked: int
  planned: int
  gated: float | None


def blocks(trained: trained_lib.Trained, rate: np.ndarray | None = None) -> tuple[Block, ...]:
  """Counts the work of every block, for all tasks.

  Args:
    trained: a model whose tasks share a backbone.
    rate: execution rates `[T, L]`; default all gates open.

  Raises:
    ValueError: the model leaves nothing out, and has no plan.
  """
  plan = trained.plan
  if plan is None or trained.experiment.method.independent:
    raise ValueError("This model executes everything for every task: it has no plan to list.")
  amounts = work.branches(trained)
  found = []
  for block, split in enumerate(plan.splits):
    first = [group[0] for group in split.groups[: split.running]]
    open_ = [1.0 if rate is None else float(rate[t, block]) for t in first]
    gated = sum(open_) if plan.gated[block] else float(split.running)
    masked = len(plan.tasks) if block else 1
    shown = gated if any(plan.gated) else None
    found.append(Block(amounts[block], masked, split.running, shown))
  return tuple(found)
