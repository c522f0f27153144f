"""Phases that several methods share."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import numpy as np

from dynashare_jax import defaults
from dynashare_jax import lookup
from dynashare_jax.ops import gumbel
from dynashare_jax.ops import policy
from dynashare_jax.sharing import conflict
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import prices
from dynashare_jax.sharing import routes as route_lib
from dynashare_jax.sharing import skip

STARTS = ("scratch", "policy")
_SHORTER = 12, 4  # as long as a trial is a re-training: of all candidates, of two


def plain(config: Any, *more: str) -> tuple[contract.Phase, ...]:
  """One stretch of ordinary training of everything; `more` are groups beside backbone and heads."""
  phase = contract.Phase(
    "retrain",
    positive(config.train.steps, "train.steps"),
    trainable=("backbone", *more, "heads"),
    candidate=0,
    optimizer="retrain",
    select=True,
  )
  return (phase,)


def search(config: Any, blocks: int) -> tuple[contract.Phase, ...]:
  """Warm-up, then weights and policy in turn with the curriculum.

  Source: DynaShare Algorithm 1; AdaShare section 3.3.
  """
  train, pol = config.train, config.policy
  phases = list(warmup(config))
  positive(train.weight_steps, "train.weight_steps")
  positive(train.policy_steps, "train.policy_steps")
  for cycle in range(positive(train.cycles, "train.cycles")):
    speed = pol.curriculum_speed if pol.curriculum else 0
    settings = skip.Stretch(
      "soft",
      open_blocks=policy.opened(cycle, speed, blocks) if speed else blocks,
      temperature=policy.temperature(
        cycle, pol.temperature, pol.temperature_decay, pol.temperature_floor
      ),
    )
    common: dict[str, Any] = dict(optimizer="alternate", cycle=cycle)
    phases.append(
      contract.Phase(
        "weights",
        train.weight_steps,
        data="weights",
        settings=settings,
        title=f"weights {cycle}",
        **common,
      )
    )
    phases.append(
      contract.Phase(
        "policy",
        train.policy_steps,
        data="policy",
        trainable=("policy",),
        settings=settings._replace(penalties=True),
        evaluate=cycle == train.cycles - 1,
        record=True,
        title=f"policy {cycle}",
        **common,
      )
    )
  return tuple(phases)


def plain_warmup(config: Any) -> tuple[contract.Phase, ...]:
  """Returns a training of all weights with all blocks, on all training data."""
  steps = positive(config.train.warmup_steps, "train.warmup_steps")
  return (contract.Phase("warmup", steps, evaluate=True),)


def warmup(config: Any) -> tuple[contract.Phase, ...]:
  """Returns the training of all weights before a search, and the comparison of gradients after it.

  Gradients are compared on the policy's part of the training data, which that warm-up does not see.
  """
  train, measure = config.train, config.policy.measure
  if train.warmup_steps < 0:
    raise ValueError(f"config.train.warmup_steps must be at least 0, but is {train.warmup_steps}.")
  if not train.warmup_steps:
    if measure:
      raise ValueError(
        "config.policy.measure compares the tasks' gradients after a warm-up, but"
        " config.train.warmup_steps is 0: give it some, or set --config.policy.measure=0."
      )
    return ()
  routing = "random" if config.policy.warmup == "random" else "all"
  phase = contract.Phase(
    "warmup",
    train.warmup_steps,
    data="weights" if measure else "train",
    settings=skip.Stretch(routing),
    evaluate=True,
  )
  if not measure:
    return (phase,)
  compare = contract.Phase(
    "measure", measure, data="policy", trainable=(), measure=True, record=True
  )
  return (phase, compare)


def retrain(
  config: Any, candidates: int, gated: bool, can_keep: bool, halving: bool = False
) -> tuple[contract.Phase, ...]:
  """One re-training per candidate route (DynaShare Algorithm 2), or of the route that does best.

  Args:
    halving: whether all routes are trained for a twelfth of the steps, the first and the best of
      the others for a quarter, and then the better one in full; of 8 routes that takes 27% of the
      steps of 8 re-trainings. With two `policy.finalists` there is no second round, and both are
      trained in full: 33%.
    gated: whether instance gates take part.
    can_keep: whether there was a search whose weights can be kept.
  """
  start = config.train.retrain_from
  lookup.one_of("config.train.retrain_from", start, STARTS)
  steps = positive(config.train.retrain_steps, "train.retrain_steps")
  positive(candidates, "policy.candidates")
  if halving and candidates < 2:
    raise ValueError(
      f"config.policy.halving compares candidates, but config.policy.candidates is {candidates}:"
      " set --config.policy.halving=False, or more candidates."
    )
  groups = ("backbone", "heads") + (("gates",) if gated else ())
  full = contract.Phase(
    "retrain",
    steps,
    trainable=groups,
    settings=skip.Stretch("route", gated=gated),
    start=start if can_keep else "scratch",
    optimizer="retrain",
    select=True,
  )
  first, second = (
    dataclasses.replace(
      full, name="trial", steps=max(1, steps // n), select=False, evaluate=True, trial=number
    )
    for number, n in enumerate(_SHORTER, 1)
  )
  stretches = [(full, candidates)]
  if halving:
    stretches = [(first, candidates)] if candidates > 2 else []
    stretches += [(full, 2)] if _finalists(config) > 1 else [(second, 2), (full, 1)]
  return tuple(
    dataclasses.replace(phase, candidate=index)
    for phase, count in stretches
    for index in range(count)
  )


def _finalists(config: Any) -> int:
  """How many candidates are trained in full after trials."""
  if (count := config.policy.finalists) not in (1, 2):
    raise ValueError(f"config.policy.finalists must be 1 or 2, but is {count}.")
  return int(count)


def resolved(parts: contract.Parts) -> contract.Parts:
  """Returns the parts with the values that `compat.search` stands for."""
  config = copy.deepcopy(parts.config)
  if config.compat.search == "papers":
    config.update_from_flattened_dict(defaults.PAPERS)
    if config.compat.sharing == "mean":
      config.compat.sharing = "paper"
  if len(parts.spec.tasks) < 2:  # Nothing to compare, to share or to weigh.
    config.policy.measure, config.policy.conflict, config.policy.sharing = 0, 0.0, 0.0
  return parts._replace(config=config)


def _check_limit(limit: prices.Limit, keep_first: bool) -> None:
  """Refuses a limit in which not every task can execute one block, and too many to plan for."""
  tasks, blocks = len(limit.prices.heads), len(limit.prices.blocks)
  route_lib.check_size(tasks, blocks)
  one = np.tile(np.eye(blocks)[:, None], (1, tasks, 1))  # a block for all tasks
  if (least := limit.totals(one[: 1 if keep_first else blocks]).min()) > limit.most:
    raise ValueError(
      f"{limit.name} is too small for one block a task, which takes {limit.told(least)}, served"
      f" {limit.serve}: give more."
    )


def routes(parts: contract.Parts) -> skip.Routes:
  """Returns what makes the routes of a learned policy: sampled, or within the budget."""
  pol, count = parts.config.policy, parts.config.policy.candidates
  if pol.routes == "sampled":
    return lambda key, alpha, measured: gumbel.sample_routes(key, alpha, count)
  return within_budget(parts, count)


def within_budget(parts: contract.Parts, count: int, learns: bool = True) -> skip.Routes:
  """Returns what makes the best route within the budget, hard sharing, and others near the first.

  Args:
    count: of routes.
    learns: whether there is a policy; else the measured agreement alone decides.

  Raises:
    ValueError: the budget is too small for one block a task, or there are too many of them.
  """
  limit, keep_first = skip.limit(parts), parts.config.policy.keep_first
  _check_limit(limit, keep_first)

  def made(key: jax.Array, alpha: jax.Array, measured: conflict.Conflict | None) -> np.ndarray:
    rng = generator(key)
    agreement = None if measured is None else measured.mean
    likes = np.asarray(alpha, np.float64) if learns else None
    return route_lib.candidates(rng, likes, agreement, limit, count, keep_first)

  return made


def generator(key: jax.Array) -> np.random.Generator:
  """Returns NumPy's random numbers of a key."""
  return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


def thinned(made: skip.Routes, rates: tuple[float, ...]) -> skip.Routes:
  """Returns routes that, in the place of gates, leave out as much for all examples alike.

  Args:
    made: the routes.
    rates: wanted of every block, 1 without a gate. Of the (task, block) pairs with a gate that a
      route executes, as many as the rates say are closed, rounded over all of them, at random.
  """
  gated = np.asarray(rates) < 1

  def constant(key: jax.Array, alpha: jax.Array, measured: conflict.Conflict | None) -> np.ndarray:
    routes = np.array(made(key, alpha, measured), np.float32)
    rng = generator(jax.random.fold_in(key, 1))
    for route in routes:
      pairs = rng.permutation(np.argwhere(route * gated))
      tasks, blocks = pairs[: round(sum(1 - rates[block] for _, block in pairs))].T
      route[tasks, blocks] = 0
    return routes

  return constant


def notes(parts: contract.Parts) -> tuple[str, ...]:
  """Returns what a report says of a single task, and of a budget in milliseconds."""
  alone = (
    f"There is one task ({parts.spec.tasks[0].name}), and none to share with: policy.sharing,"
    " policy.conflict and policy.measure count as 0.",
  ) * (len(parts.spec.tasks) < 2)
  return alone + _budget_notes(parts)


def _budget_notes(parts: contract.Parts) -> tuple[str, ...]:
  """What is said of a budget in milliseconds, if there is one."""
  if not parts.config.policy.budget_ms or parts.timed is None:
    return ()
  limit, (_, batch, device) = skip.limit(parts), parts.timed
  return (
    f"Routes take at most {limit.told(limit.most)} a call of {batch}"
    f" example{'s' * (batch > 1)}, served {limit.serve}, as predicted from blocks timed on {device}"
    f" ({limit.name}).",
  )


def needs_arrays(parts: contract.Parts) -> None:
  """Refuses a backbone whose features are trees, where single arrays are mixed or weighed."""
  if parts.backbone().trees:
    config = parts.config
    raise ValueError(
      f"config.method={config.method!r} mixes features that are one array, but those of"
      f" config.model.backbone={config.model.backbone!r} are several: choose another of either."
    )


def check(config: Any, group: str, *rules: tuple[str, bool, str]) -> None:
  """Refuses values of a group of the configuration.

  Args:
    rules: of a value its name, whether it fits, and what would.
  """
  for name, fits, wanted in rules:
    if not fits:
      raise ValueError(f"config.{group}.{name} must be {wanted}, but is {config[group][name]}.")


def positive(value: int, name: str) -> int:
  """Returns the value, or refuses one below 1."""
  if value < 1:
    raise ValueError(f"config.{name} must be at least 1, but is {value}.")
  return value
