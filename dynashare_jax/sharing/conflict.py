"""Do tasks conflict, and where: the cosines of their gradients, unit by unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SURE = 2.0  # standard errors from 0 at which a sign counts


class Conflict(NamedTuple):
  """Cosines of the tasks' gradients with respect to the shared weights of each unit.

  Attributes:
    cosine: `[U, T, T]`, means over batches; NaN where a task never had a label or a gradient.
    error: `[U, T, T]`, their standard errors; NaN for fewer than two batches.
    mean: `[T, T]`, means over units and batches.
    mean_error: `[T, T]`, their standard errors.
    batches: how many were measured.
  """

  cosine: np.ndarray
  error: np.ndarray
  mean: np.ndarray
  mean_error: np.ndarray
  batches: int


def blank(units: int, tasks: int) -> dict[str, jax.Array]:
  """Returns the sums over no batch; row U is the mean over all units."""
  zeros = jnp.zeros((units + 1, tasks, tasks))
  return {"count": zeros, "sum": zeros, "squares": zeros}


def observe(sums: dict[str, jax.Array], gramians: jax.Array) -> dict[str, jax.Array]:
  """Adds a batch, whose gradients have the products `gramians` `[U, T, T]`; traced.

  A pair counts where both gradients are not 0. What else `sums` has stays.
  """
  norms = jnp.sqrt(jnp.diagonal(gramians, axis1=1, axis2=2))
  scale = norms[:, :, None] * norms[:, None, :]
  there = scale > 0
  cosine = jnp.where(there, gramians / jnp.where(there, scale, 1.0), 0.0)
  units = jnp.maximum(there.sum(0), 1)
  cosine = jnp.concatenate([cosine, (cosine.sum(0) / units)[None]])
  there = jnp.concatenate([there, there.any(0)[None]]).astype(cosine.dtype)
  added = {"count": there, "sum": cosine, "squares": jnp.square(cosine)}
  return sums | {name: sums[name] + value for name, value in added.items()}


def of(sums: Any) -> Conflict | None:
  """Returns the means of what was observed; None before the first batch."""
  count, total, squares = (np.asarray(sums[k], np.float64) for k in ("count", "sum", "squares"))
  if not count.any():
    return None
  with np.errstate(divide="ignore", invalid="ignore"):
    mean = total / count
    spread = np.maximum(squares / count - np.square(mean), 0) * count / (count - 1)
    error = np.where(count > 1, np.sqrt(spread / count), np.nan)
  return Conflict(mean[:-1], error[:-1], mean[-1], error[-1], int(count.max()))


def pairs(found: Conflict) -> list[tuple[int, int]]:
  """Returns the pairs of tasks that conflict: a mean cosine below 0 by two standard errors."""
  below = found.mean + SURE * found.mean_error < 0
  return [(int(t), int(u)) for t, u in np.argwhere(np.triu(below, 1))]


def words(names: Sequence[str], found: Conflict) -> str:
  """Says who conflicts, and what to do about it."""
  against = pairs(found)
  if not against:
    return (
      "No pair of tasks conflicts: no mean cosine is below 0 by two standard errors. Share"
      " everything (`config.method=hard`); routes can save work here, but resolve nothing."
    )
  told = [
    f"{names[t]} and {names[u]} ({found.mean[t, u]:+.2f} ± {found.mean_error[t, u]:.2f})"
    for t, u in sorted(against, key=lambda pair: found.mean[pair])
  ]
  return (
    f"{len(against)} of {len(names) * (len(names) - 1) // 2} pairs of tasks conflict:"
    f" {', '.join(told)}. Routes that keep them apart can help (`config.method=affinity`)."
  )
