"""Random routes that skip as many blocks as a learned one: AdaShare's ablation.

`config.random.like` names the work directory of a finished run whose chosen
route is imitated; without it `config.random.skip` gives the fraction of
skipped (task, block) pairs. `config.random.per_task` keeps the number of each
task (AdaShare's "Random #2"); without it only the total is kept ("Random #1").
With `config.random.work` routes have the same work instead, as `config.policy.serve` counts it,
within 2% of hard sharing's. The routes of a seed are distinct; `config.random.number` says which is
the first.

With `config.train.retrain_from=policy` training starts from the weights that the re-training of the
imitated run started from, those of its search; from scratch where that did, or none is imitated.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np

from dynashare_jax import types
from dynashare_jax.methods import _schedule
from dynashare_jax.ops import policy
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import routes as route_lib
from dynashare_jax.sharing import skip


def build(parts: contract.Parts) -> contract.Method:
  """Re-training of random routes."""
  config = parts.config
  route = _imitated(config, parts.spec, parts.blocks)
  count, number, per_task = config.policy.candidates, config.random.number, config.random.per_task
  of_work, serve = config.random.work, config.policy.serve
  enough = of_work or not number or number + count <= distinct(route, per_task)
  if number < 0 or not enough:
    raise ValueError(
      f"config.random.number={number} with {count} candidates: there are"
      f" {distinct(route, per_task)} distinct routes that skip {_skipped(route, per_task)}, from"
      " number 0. Ask for fewer."
    )

  told = f"skip {_skipped(route, per_task)}"
  draw: Callable[[jax.Array], np.ndarray]
  draw = lambda key: _drawn(key, route, number + count, per_task)
  if of_work:
    costs = parts.costs()
    share = route_lib.work(route, costs, serve)
    told = f"take {100 * share:.0f}% of hard sharing's work, {serve}"
    draw = lambda key: route_lib.of_work(
      _schedule.generator(key), route, number + count, costs, serve
    )

  def routes(key: jax.Array, alpha: jax.Array, measured: Any) -> np.ndarray:
    del alpha, measured
    return draw(key)[number:]

  # `scratch` are the weights that the run starts from: fresh ones, or those of a search.
  phases = _schedule.retrain(config, count, gated=False, can_keep=False)
  return contract.Method(
    "random_policy",
    phases,
    skip.trunk(parts),
    skip.make(parts, phases, routes),
    notes=(f"Random routes that {told}.",),
  )


def distinct(route: np.ndarray, per_task: bool) -> int:
  """Returns how many routes skip as many blocks as one `[T, L]`, that one among them.

  Args:
    per_task: each task as many; otherwise all tasks together.
  """
  rows = route if per_task else route.reshape(1, -1)
  return math.prod(math.comb(len(row), int(row.sum())) for row in rows)


def lacks(folder: str, number: int, per_task: bool, of_work: bool) -> bool:
  """Returns whether a finished run is there and has too few routes like its own for a number.

  A route that skips nothing has none: there the answer is true for every number. How many have the
  same work is not known before they are drawn: of such none counts as lacking.
  """
  if of_work or not (pathlib.Path(folder) / "policy.json").is_file():
    return False
  found = distinct(_chosen(folder)[1], per_task)
  return number >= found or found == 1


def _drawn(key: jax.Array, route: np.ndarray, count: int, per_task: bool) -> np.ndarray:
  """The first `[count, T, L]` distinct random routes of a key; some twice where there are fewer."""
  wanted, size = min(count, distinct(route, per_task)), count
  while True:
    drawn = np.asarray(policy.random_routes(key, route, size, per_task))
    _, firsts = np.unique(drawn.reshape(size, -1), axis=0, return_index=True)
    if len(firsts) >= wanted:
      others = np.setdiff1d(np.arange(size), firsts)
      return drawn[[*np.sort(firsts), *others][:count]]
    size *= 2


def _skipped(route: np.ndarray, per_task: bool) -> str:
  """What a route skips, in words."""
  skipped = (1 - route).sum(1).astype(int)
  if per_task:
    return f"{', '.join(map(str, skipped))} of {route.shape[1]} blocks, task by task"
  return f"{skipped.sum()} of {route.size} (task, block) pairs"


def _imitated(config: Any, spec: types.DatasetSpec, blocks: int) -> np.ndarray:
  """The route `[T, L]` whose number of skipped blocks is kept.

  Raises:
    ValueError: the file is missing or is of another kind of run, or the fraction is outside [0, 1).
  """
  tasks = len(spec.tasks)
  if not config.random.like:
    if not 0 <= config.random.skip < 1:
      raise ValueError(f"config.random.skip must be in [0, 1), but is {config.random.skip}.")
    # Spread evenly over the tasks: a remainder goes to the first ones.
    skipped = round(config.random.skip * tasks * blocks)
    route = np.ones((blocks, tasks), np.float32)
    route.reshape(-1)[:skipped] = 0
    return route.T.copy()
  names = [task.name for task in spec.tasks]
  saved, route = _chosen(config.random.like)
  if saved != names:
    raise ValueError(f"{config.random.like} is of the tasks {saved}; this run has {names}.")
  if route.shape != (tasks, blocks):
    raise ValueError(
      f"{config.random.like} has a route of shape {route.shape}; this run has {(tasks, blocks)}"
      " (tasks, blocks)."
    )
  return route


def _chosen(folder: str) -> tuple[list[str], np.ndarray]:
  """Names of the tasks of a finished run and its route; raises ValueError without."""
  path = pathlib.Path(folder) / "policy.json"
  if not path.is_file():
    raise ValueError(
      f"config.random.like={folder!r}: there is no {path}; name the work directory of a finished"
      " run."
    )
  saved = json.loads(path.read_text())
  return saved["tasks"], np.asarray(saved["routes"][saved["chosen"]], np.float32)
