"""Stops a run whose numbers are not finite any more."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dynashare_jax.train import optim
from dynashare_jax.train import state as state_lib


class NonFiniteLossError(FloatingPointError):
  """The loss became NaN or infinite."""


def check_losses(title: str, first: int, parts: dict[str, np.ndarray], advice: str) -> None:
  """Stops on the first loss that is not finite.

  Args:
    first: global steps that were done before.
    parts: parts of the loss of every step since, `[steps]` each.
    advice: the end of the message.

  Raises:
    NonFiniteLossError: names tasks and step.
  """
  bad = {
    name: values
    for name, values in parts.items()
    if name.startswith(("loss/", "penalty/"))
    and name != "loss/total"
    and not np.isfinite(values).all()
  }
  total = parts["loss/total"]
  if not bad and np.isfinite(total).all():
    _check_balance(title, first, parts, advice)
    return
  where = min(int(np.argmin(np.isfinite(v))) for v in (bad or {"total": total}).values())
  names = [n.split("/")[1] for n, v in bad.items() if not np.isfinite(v[where])] or ["total"]
  raise NonFiniteLossError(
    f"The loss of {', '.join(names)} is not finite at step"
    f" {first + where + 1}, in phase {title}. {advice}"
  )


def _check_balance(title: str, first: int, parts: dict[str, np.ndarray], advice: str) -> None:
  """Stops on the first weight of a task or length of a gradient that is not finite."""
  for part, what in (("norm/", "gradient's length"), ("weight/", "balancer's weight")):
    for name, values in parts.items():
      if name.startswith(part) and not np.isfinite(values).all():
        where = int(np.argmin(np.isfinite(values)))
        raise NonFiniteLossError(
          f"The {what} of {name.removeprefix(part)} is not finite at step"
          f" {first + where + 1}, in phase {title}, though the loss is. {advice}"
        )


def check_state(
  title: str, step: int, state: state_lib.State, rules: optim.Rules, advice: str
) -> None:
  """Stops on parameters that are not finite, before they are kept.

  A gradient can overflow where the loss did not; only the next loss would
  show it, after the checkpoint.

  Raises:
    NonFiniteLossError: names the groups of parameters, ends in `advice`.
  """
  groups = optim.groups(state.params, rules)
  beside = {"stats": state.stats, "balance": state.balance, "memory": state.memory}
  found = _finite({"params": state.params} | beside)
  bad = sorted(
    {
      group
      for group, good in zip(jax.tree.leaves(groups), jax.tree.leaves(found["params"]), strict=True)
      if not good
    }
  )
  names = {"stats": "batch statistics", "balance": "the balancer", "memory": "the method"}
  bad += [names[k] for k in beside if not all(map(bool, jax.tree.leaves(found[k])))]
  if bad:
    raise NonFiniteLossError(
      f"The gradient or the parameters of {', '.join(bad)} became not"
      f" finite at or shortly before step {step}, in phase {title}. {advice}"
    )


def _finite(tree: Any) -> Any:
  """Whether every number of every leaf is finite; on the host where the leaves lie there whole."""
  here = lambda leaf: (
    not isinstance(leaf, jax.Array)
    or (leaf.is_fully_addressable and {one.platform for one in leaf.devices()} == {"cpu"})
  )
  if all(map(here, jax.tree.leaves(tree))):
    return jax.tree.map(lambda leaf: np.isfinite(np.asarray(leaf)).all(), tree)
  return _finite_there(tree)


@jax.jit
def _finite_there(tree: Any) -> Any:
  """`_finite` on the devices."""
  return jax.tree.map(lambda leaf: jax.numpy.isfinite(leaf).all(), tree)
