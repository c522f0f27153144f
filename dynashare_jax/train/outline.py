"""What a run will do and how large it is, without data and without a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dynashare_jax import types
from dynashare_jax.ops import routing
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import results

PAPERS_SIZE = (224, 224)  # at which the papers count multiply-accumulates


def describe(experiment: experiment_lib.Experiment, route: Any = None) -> str:
  """Phases, shapes, parameters and multiply-accumulates as text.

  Args:
    experiment: of a configuration; its data are not read.
    route: `[T, L]` of 0 and 1, whose multiply-accumulates are told too.

  Raises:
    ValueError: a route of another shape or with other values.
  """
  state = jax.eval_shape(experiment.initial_state)
  pieces = results.pieces(experiment, state.params["network"], state.stats)
  parts = [
    _head(experiment),
    _phases(experiment),
    _shapes(experiment, pieces),
    _parameters(experiment, state),
    _macs(experiment, state, pieces, route),
  ]
  return "\n\n".join(parts)


def read_route(text: str) -> np.ndarray:
  """Reads a route such as `10111111,11111011`: a row a task.

  Raises:
    ValueError: rows of several lengths, or other letters than 0 and 1.
  """
  rows = text.replace(" ", "").split(",")
  if set("".join(rows)) - set("01") or len({len(row) for row in rows}) != 1:
    raise ValueError(
      f"The route {text!r} must be rows of 0 and 1 of one"
      " length, a row a task, with commas between them."
    )
  return np.asarray([[int(letter) for letter in row] for row in rows])


def _head(experiment: experiment_lib.Experiment) -> str:
  spec = experiment.dataset.spec
  size = " x ".join(map(str, spec.input_shape))
  lines = [
    f"{experiment.method.name} on {spec.name}: {spec.input_kind} {size}, {len(spec.tasks)} tasks"
  ]
  for task in spec.tasks:
    outputs = f", {task.outputs} outputs" if task.outputs > 1 else ""
    lines.append(f"  {task.name}: {task.kind}{outputs}, weight {task.weight:g}")
  lines.append(f"  balancer {experiment.balancer.name}: {_balance(experiment)}")
  lines += [f"  note: {note}" for note in experiment.notes]
  return "\n".join(lines)


def _balance(experiment: experiment_lib.Experiment) -> str:
  """What the balancer reads, and the passes of a step that its reading adds."""
  balancer, tasks = experiment.balancer, len(experiment.tasks)
  if balancer.after is not None:
    return "reads losses before and after the update, one more forward pass a step"
  if balancer.ahead is not None:
    return "reads losses after a step on half a batch: five passes of half a batch more"
  if balancer.level == "losses":
    return "reads no more than losses, no further pass"
  what = {"gramian": "inner products of gradients", "gradients": "gradients"}[balancer.level]
  if balancer.features:
    return f"reads {what} in shared features, no further pass of the trunk"
  often = f" in every {balancer.every}th step" if balancer.every > 1 else ""
  kept = "" if balancer.track is None else f", and keeps {tasks} gradients more"
  return (
    f"reads {what}, {tasks} backward passes of the trunk a step where the backbone trains, in place"
    f" of 1{often}{kept}"
  )


def _phases(experiment: experiment_lib.Experiment) -> str:
  """One row for equal phases in turn."""
  rows = [["phase", "steps", "data", "trains", "blocks", "optimiser"]]
  counts: dict[tuple[str, ...], list[int]] = {}
  for phase in experiment.method.phases:
    blocks = experiment.sharing.describe(phase)
    row = (phase.name, phase.data, ", ".join(phase.trainable), blocks, phase.optimizer)
    counts.setdefault(row, []).append(phase.steps)
  for (name, *rest), steps in counts.items():
    times = f"{len(steps)} x {steps[0]}" if len(steps) > 1 else str(steps[0])
    rows.append([name, times, *rest])
  batch = experiment.config.train.batch_size
  return f"Phases, {experiment.total_steps:,} steps of {batch} examples in all\n{_table(rows)}"


def _shapes(experiment: experiment_lib.Experiment, pieces: results.Pieces) -> str:
  """Sizes of the features of one example, block by block."""
  marks = experiment.sharing.marks() or [""] * experiment.units
  names = ["stem", *(f"block {block}{mark}" for block, mark in enumerate(marks))]
  rows = [["features", "shape"]]
  shape = lambda x: " and ".join(_size(a.shape[2:]) for a in jax.tree.leaves(x))
  rows += [[n, shape(x)] for n, x in zip(names, pieces.features, strict=False)]
  rows += [[name, _size(found.shape[1:])] for name, found in sorted(pieces.logits.items())]
  return "Shapes of one example\n" + _table(rows)


def _parameters(experiment: experiment_lib.Experiment, state: Any) -> str:
  counts = results.parameters(
    experiment, state.params["network"], state.stats, state.params["policy"]
  )
  rows = [["parameters", "number"]]
  buffers = counts.pop("batch_stats")
  rows += [[name, f"{count:,}"] for name, count in counts.items()]
  rows.append(["all that train", f"{sum(counts.values()):,}"])
  rows.append(["batch-norm buffers (not trained)", f"{buffers:,}"])
  return _table(rows)


def _macs(
  experiment: experiment_lib.Experiment, state: Any, pieces: results.Pieces, route: Any
) -> str:
  """Multiply-accumulates of an example, all taps counted."""
  rows = [["multiply-accumulates of an example", "millions"]]
  tasks, blocks = experiment.tasks, pieces.branches
  heads = sum(pieces.heads.values())
  if not blocks:
    what = f"{len(tasks)} networks" if experiment.method.independent else "the whole network"
    rows.append([f"{what} with heads", _mega(pieces.trunk + heads)])
    return _table(rows)
  stem = pieces.trunk - sum(blocks)
  rows.append(["stem and shortcuts", _mega(stem)])
  rows += [[f"block {i}", _mega(count)] for i, count in enumerate(blocks)]
  rows += [[f"head {name}", _mega(n)] for name, n in pieces.heads.items()]
  rows.append(["every block once, all heads (hard sharing)", _mega(pieces.trunk + heads)])
  every = pieces.trunk * len(tasks) + heads
  rows.append(["a pass a task, all blocks, all heads (masked)", _mega(every)])
  chosen = np.ones((len(tasks), experiment.units), int)
  if route is not None:
    chosen = np.asarray(route)
    _check_route(chosen, experiment)
    plan = routing.splits(routing.fixed(chosen.tolist(), (False,) * experiment.units, train=False))
    once = sum(split.running * blocks[i] for i, split in enumerate(plan))
    rows.append(["the route's plan, all heads", _mega(stem + once + heads)])
  what = "the route" if route is not None else "all blocks"
  rows.append(
    [f"{what} by the papers' convention (a pass a task, no heads)", _mega(_papers(pieces, chosen))]
  )
  if experiment.dataset.spec.input_kind == "image":
    small = results.pieces(experiment, state.params["network"], state.stats, PAPERS_SIZE)
    rows.append(
      [f"the same at {_size(PAPERS_SIZE)}, the papers' figure", _mega(_papers(small, chosen))]
    )
  return _table(rows)


def _papers(pieces: results.Pieces, chosen: np.ndarray) -> int:
  """The papers' count: a pass a task, no heads, skipped blocks free."""
  stem = pieces.trunk - sum(pieces.branches)
  return int(len(chosen) * stem + (chosen * np.asarray(pieces.branches)).sum())


def _check_route(route: np.ndarray, experiment: experiment_lib.Experiment) -> None:
  wanted = (len(experiment.tasks), experiment.units)
  if route.shape != wanted:
    raise ValueError(
      f"The route has {route.shape[0]} tasks and {route.shape[1]} blocks; this network has"
      f" {wanted[0]} and {wanted[1]}."
    )


def _mega(count: int) -> str:
  return f"{count / 1e6:,.2f}"


def _size(shape: Sequence[int]) -> str:
  return " x ".join(map(str, shape))


def _table(rows: Sequence[Sequence[str]]) -> str:
  """Columns of even width; the first row is a heading."""
  wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = [
    "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip()
    for row in rows
  ]
  lines.insert(1, "  " + "  ".join("-" * width for width in wide))
  return "\n".join(lines)


def without_data(spec: types.DatasetSpec) -> types.Dataset:
  """A data set that can be described but not read."""

  def refuse(split: str) -> Any:
    raise ValueError(
      f"The {split} split of {spec.name} was not opened: this is a description only."
    )

  return types.Dataset(spec, refuse, refuse)
