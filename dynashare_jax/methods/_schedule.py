"""Phases that several methods share."""

from __future__ import annotations

from typing import Any

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.ops import policy
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip

STARTS = ("scratch", "policy")


def plain(config: Any) -> tuple[contract.Phase, ...]:
  """One stretch of ordinary training of everything."""
  steps = positive(config.train.steps, "train.steps")
  return (
    contract.Phase("retrain", steps, candidate=0, optimizer="retrain", start="keep", select=True),
  )


def search(config: Any, blocks: int) -> tuple[contract.Phase, ...]:
  """Warm-up, then weights and policy in turn with the curriculum.

  Source: DynaShare Algorithm 1; AdaShare section 3.3.
  """
  train, pol = config.train, config.policy
  phases = []
  if train.warmup_steps < 0:
    raise ValueError(f"config.train.warmup_steps must be at least 0, but is {train.warmup_steps}.")
  if train.warmup_steps:
    phases.append(contract.Phase("warmup", train.warmup_steps, evaluate=True))
  positive(train.weight_steps, "train.weight_steps")
  positive(train.policy_steps, "train.policy_steps")
  for cycle in range(positive(train.cycles, "train.cycles")):
    speed = pol.curriculum_speed
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


def retrain(
  config: Any, candidates: int, gated: bool, can_keep: bool
) -> tuple[contract.Phase, ...]:
  """One re-training per candidate route (DynaShare Algorithm 2).

  Args:
    gated: whether instance gates take part.
    can_keep: whether there was a search whose weights can be kept.
  """
  start = config.train.retrain_from
  lookup.one_of("config.train.retrain_from", start, STARTS)
  positive(config.train.retrain_steps, "train.retrain_steps")
  groups = ("backbone", "heads") + (("gates",) if gated else ())
  return tuple(
    contract.Phase(
      "retrain",
      config.train.retrain_steps,
      trainable=groups,
      settings=skip.Stretch("route", gated=gated),
      candidate=index,
      start=start if can_keep else "scratch",
      optimizer="retrain",
      select=True,
    )
    for index in range(positive(candidates, "policy.candidates"))
  )


def needs_several(spec: types.DatasetSpec, config: Any) -> None:
  """Refuses a sharing loss with one task."""
  if len(spec.tasks) < 2 and config.policy.sharing > 0:
    raise ValueError(
      f"config.policy.sharing is above 0, but there is only one task ({spec.tasks[0].name}):"
      " nothing can be shared. Set --config.policy.sharing=0.0 or train more tasks."
    )


def positive(value: int, name: str) -> int:
  """Returns the value, or refuses one below 1."""
  if value < 1:
    raise ValueError(f"config.{name} must be at least 1, but is {value}.")
  return value
