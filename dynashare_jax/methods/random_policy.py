"""Random routes that skip as many blocks as a learned one: AdaShare's ablation.

`config.random.like` names the work directory of a finished run whose chosen
route is imitated; without it `config.random.skip` gives the fraction of
skipped (task, block) pairs. `config.random.per_task` keeps the number of each
task (AdaShare's "Random #2"); without it only the total is kept ("Random #1").
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import numpy as np

from dynashare_jax import types
from dynashare_jax.methods import _schedule
from dynashare_jax.ops import policy
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip


def build(parts: contract.Parts) -> contract.Method:
  """Re-training of random routes from scratch."""
  config = parts.config
  route = _imitated(config, parts.spec, parts.blocks)
  count = config.policy.candidates

  def routes(key: jax.Array, alpha: jax.Array, measured: Any) -> jax.Array:
    del alpha, measured
    return policy.random_routes(key, route, count, config.random.per_task)

  phases = _schedule.retrain(config, count, gated=False, can_keep=False)
  return contract.Method(
    "random_policy",
    phases,
    skip.trunk(parts),
    skip.make(parts, phases, routes),
    notes=(_note(route, config.random.per_task),),
  )


def _note(route: np.ndarray, per_task: bool) -> str:
  """What a report should say of the routes."""
  skipped = (1 - route).sum(1).astype(int)
  if per_task:
    share = ", ".join(str(n) for n in skipped)
    return f"Random routes: the tasks skip {share} of {route.shape[1]} blocks."
  return f"Random routes that skip {skipped.sum()} of {route.size} (task, block) pairs."


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
  path = pathlib.Path(config.random.like) / "policy.json"
  if not path.is_file():
    raise ValueError(
      f"config.random.like={config.random.like!r}: there is no"
      f" {path}; name the work directory of a finished run."
    )
  saved = json.loads(path.read_text())
  names = [task.name for task in spec.tasks]
  if saved["tasks"] != names:
    raise ValueError(f"{path} is of the tasks {saved['tasks']}; this run has {names}.")
  route = np.asarray(saved["routes"][saved["chosen"]], np.float32)
  if route.shape != (tasks, blocks):
    raise ValueError(
      f"{path} has a route of shape {route.shape}; this run has {(tasks, blocks)} (tasks, blocks)."
    )
  return route
