"""Penalties on the task policies and on the execution rates of the gates."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float
import numpy as np

from dynashare_jax import lookup
from dynashare_jax.ops import losses
from dynashare_jax.types import Array

_LEAST_LOG_ALPHA = -16.0


def sparsity(
  logits: Float[Array, "T L 2"], opened: Bool[Array, " L"], form: str = "code"
) -> Float[Array, ""]:
  """Charges every task for the blocks that it would execute.

  Args:
    logits: column 0 = execute, 1 = skip.
    opened: blocks that the curriculum has opened. The others count nothing and get exactly zero
      gradient.
    form: `code`, the mean over open blocks of -log(1 - alpha), at least 0; or `paper`, the sum over
      open blocks of log alpha, at most 0. Both are summed over tasks.

  Returns:
    Dimensionless; 0 when no block is open.

  Raises:
    ValueError: unknown `form`.

  Source: DynaShare (CVPRW 2023), Eq. 3; AdaShare, Eq. 5; authors' code.
  Differs: the `paper` form has no lower bound, and its gradient pushes hardest on blocks that are
    already skipped; log alpha is therefore clipped at -16 (alpha about 1e-7), where its gradient
    ends. The default is what the authors' code minimises.

  Example:
    >>> opened = jnp.array([False, False, True])
    >>> round(sparsity(jnp.zeros((2, 3, 2)), opened).item(), 4)  # of two tasks, log 2 each
    1.3863
  """
  lookup.one_of("the form of the sparsity penalty", form, ("code", "paper"))
  logs, mask = jax.nn.log_softmax(logits, axis=-1), opened[None, :]
  if form == "code":
    return jnp.sum(jnp.where(mask, -logs[..., 1], 0.0)) / jnp.maximum(jnp.sum(opened), 1)
  clipped = jnp.maximum(logs[..., 0], _LEAST_LOG_ALPHA)
  return jnp.sum(jnp.where(mask, clipped, 0.0))


def sharing(logits: Float[Array, "T L 2"], form: str = "mean") -> Float[Array, ""]:
  """Charges every pair of tasks for executing different blocks.

  Args:
    logits: column 0 = execute, 1 = skip; block 0 is nearest the input.
    form: `mean`, differences of alpha with weight (L - l) / L for block l = 0 .. L-1, so that the
      first block costs most to disagree on, averaged over pairs and blocks; `paper`, the same
      summed over ordered pairs and blocks; or `authors`, differences of logit column 0 with weight
      (l + 1) / L, so that the last block costs most, summed over unordered pairs and blocks.

  Returns:
    Dimensionless. The gradient at equal values is 0.

  Raises:
    ValueError: fewer than two tasks, or unknown `form`.

  Source: DynaShare (CVPRW 2023), Eq. 4; AdaShare, Eq. 6; authors' code.
  Differs: Eq. 4 does not say where l starts; from 0, no block is free. As a sum it outweighs mean
    task losses, the more so the more tasks and blocks there are; `mean` does not.

  Example:
    >>> both, first = jnp.array([[[99.0, -99.0]] * 2]), jnp.array([[[-99.0, 99.0], [99.0, -99.0]]])
    >>> sharing(jnp.concatenate([both, first])).item()  # block 0 of two
    0.5
  """
  tasks, blocks = logits.shape[:2]
  if tasks < 2:
    raise ValueError(
      f"the sharing penalty compares tasks and there is {tasks}: use at least "
      "two tasks or leave the penalty out."
    )
  lookup.one_of("the form of the sharing penalty", form, ("mean", "paper", "authors"))
  if form != "authors":
    values, pairs = jax.nn.sigmoid(logits[..., 0] - logits[..., 1]), 2.0
    weights = (blocks - np.arange(blocks)) / blocks
  else:
    values, pairs = jnp.asarray(logits)[..., 0], 1.0
    weights = (np.arange(blocks) + 1) / blocks
  first, second = np.triu_indices(tasks, 1)
  apart = losses.magnitude(values[first] - values[second])
  scaled = jnp.asarray(weights, apart.dtype)[None, :] * apart
  return jnp.mean(scaled) if form == "mean" else pairs * jnp.sum(scaled)


def budget(
  logits: Float[Array, "T L 2"],
  opened: Bool[Array, " L"],
  costs: Sequence[float],
  share: float,
  serve: str,
) -> Float[Array, ""]:
  """Charges a policy for expected work above a budget.

  Args:
    logits: column 0 = execute, 1 = skip.
    opened: blocks that may be skipped; the others are executed by all tasks.
    costs: `[L]`, work of every block, in any unit.
    share: of the work of hard sharing that is free, in (0, 1].
    serve: `apart`, every task's blocks count; `together`, a block counts as often as its most
      willing task executes it, which is least that a plan can need.

  Returns:
    The square of the excess, a share: at least 0.

  Raises:
    ValueError: costs that do not fit, or another word for `serve`.

  Example:
    >>> opened = jnp.array([True, True, True])
    >>> budget(jnp.zeros((2, 3, 2)), opened, (1, 1, 1), 0.25, "apart").item()  # (0.5 - 0.25)^2
    0.0625
  """
  lookup.one_of("`serve`", serve, ("together", "apart"))
  check_costs(costs, logits.shape[1])
  alpha = jnp.where(opened[None], jax.nn.sigmoid(logits[..., 0] - logits[..., 1]), 1.0)
  each = jnp.asarray(costs, alpha.dtype)
  expected = alpha.mean(0) if serve == "apart" else alpha.max(0)
  return jnp.square(jnp.maximum((expected * each).sum() / each.sum() - share, 0.0))


def check_costs(costs: Sequence[float] | np.ndarray, blocks: int) -> None:
  """Refuses the work of blocks that is not L finite numbers of at least 0, some above.

  Raises:
    ValueError: says what they are.
  """
  each = np.asarray(costs, np.float64)
  if each.shape != (blocks,) or not (np.isfinite(each).all() and (each >= 0).all() and each.any()):
    raise ValueError(
      f"`costs` must be {blocks} numbers, one a block, at least 0 and not all 0, but are"
      f" {each.tolist()}."
    )


def conflict(logits: Float[Array, "T L 2"], cosine: Float[Array, "T T"]) -> Float[Array, ""]:
  """Charges pairs of tasks for executing the same block, by how much their gradients disagree.

  Args:
    logits: column 0 = execute, 1 = skip.
    cosine: mean cosines of the tasks' gradients; a pair above 0 is paid for sharing.

  Returns:
    Minus the mean over pairs and blocks of cosine * alpha * alpha'.

  Raises:
    ValueError: fewer than two tasks.

  Source: ours; Eq. 4 of DynaShare pays every pair alike for executing the same blocks.

  Example:
    >>> cosine = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    >>> conflict(jnp.zeros((2, 3, 2)), cosine).item()
    0.25
  """
  if len(logits) < 2:
    raise ValueError("the conflict penalty compares tasks and there is 1: use at least two.")
  alpha = jax.nn.sigmoid(logits[..., 0] - logits[..., 1])
  first, second = np.triu_indices(logits.shape[0], 1)
  both = alpha[first] * alpha[second]
  return -jnp.mean(cosine[first, second][:, None] * both)


def instance(
  rates: Float[Array, "T L"],
  targets: Sequence[float | int] | Float[Array, " L"],
  form: str = "code",
) -> Float[Array, ""]:
  """Pulls the execution rates of the gates towards their targets.

  Args:
    rates: fraction in [0, 1] of the batch whose gate of task t is open at block l. Give the target
      where the route of t skips l: it then counts 0.
    targets: wanted fractions in (0, 1]; 1 means that the block has no gate.
    form: `code`, the sum over gated blocks of (target - rate)^2, over L, summed over tasks;
      `paper`, the sum over gated blocks of (mean rate of the tasks - target)^2; or `total`, ours:
      the square of what all gates of all tasks together have too much or too little, so that they
      may divide the rate among themselves, over their number and L (as `code` where all are off
      alike). A block is gated when its target is below 1; the others always execute and count
      nothing.

  Returns:
    Dimensionless, at least 0; exactly 0 when all targets are 1.

  Raises:
    ValueError: unknown `form`, another number of targets than blocks, or one outside of (0, 1].

  Source: DynaShare (CVPRW 2023), Eq. 5; authors' code.
  Differs: Eq. 5 names no task; its beta is read as the mean over tasks. The authors' code fails
    when all targets are 1; here that costs nothing.

  Example:
    >>> instance(jnp.array([[0.5, 1.0]]), (0.25, 1.0)).item()  # 0.25^2 / 2
    0.03125
  """
  lookup.one_of("the form of the instance penalty", form, ("code", "paper", "total"))
  wanted = jnp.asarray(targets, rates.dtype)
  if wanted.shape != rates.shape[1:]:
    raise ValueError(f"{wanted.size} target rates for {rates.shape[1]} blocks: give one per block.")
  if not isinstance(targets, jax.core.Tracer):
    check_target_rates(targets, wanted.size)
  gated = wanted < 1.0
  if form == "code":
    squares = jnp.square(wanted[None, :] - rates)
    return jnp.sum(jnp.where(gated[None, :], squares, 0.0)) / rates.shape[1]
  if form == "total":
    excess = jnp.sum(jnp.where(gated[None, :], rates - wanted[None, :], 0.0))
    return jnp.square(excess) / (jnp.maximum(jnp.sum(gated), 1) * rates.size)
  squares = jnp.square(jnp.mean(rates, axis=0) - wanted)
  return jnp.sum(jnp.where(gated, squares, 0.0))


def check_target_rates(targets: object, blocks: int) -> tuple[float, ...]:
  """Returns L target rates, from one in (0, 1] for all blocks or one per block.

  Raises:
    ValueError: not a number, another length than L, or a rate outside (0, 1].
  """
  try:
    array = np.asarray(targets, np.float64)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"target rates must be a number or a sequence of numbers, got {targets!r}."
    ) from error
  array = np.full((blocks,), array) if array.ndim == 0 else array
  if array.shape != (blocks,):
    raise ValueError(
      f"target rates have shape {array.shape} for {blocks} blocks: give one, or one per block."
    )
  for block, rate in enumerate(array):
    if not 0.0 < rate <= 1.0:
      raise ValueError(f"target rate of block {block} is {rate}: it must be above 0 and at most 1.")
  return tuple(array.tolist())
