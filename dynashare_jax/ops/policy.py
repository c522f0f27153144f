"""The task policy: its logits, its schedules, and random policies."""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Shaped
import numpy as np

from dynashare_jax import lookup
from dynashare_jax.types import Array

INITIAL = ("equal", "all", "random")


def alpha(logits: Float[Array, "T L 2"]) -> Float[jax.Array, "T L"]:
  """Turns policy logits into the probability of executing a block.

  Column 0 = execute, 1 = skip: `softmax(logits)[..., 0]`.

  Source: DynaShare (CVPRW 2023), section 3.2, below Eq. 1.
  Differs: the paper writes [1 - alpha, alpha]; column 0 is execute here.

  Example:
    >>> alpha(jnp.zeros((2, 3, 2))).tolist()
    [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
  """
  return jax.nn.sigmoid(logits[..., 0] - logits[..., 1])


def init_logits(
  how: str, tasks: int, blocks: int, key: jax.Array | None = None
) -> Float[jax.Array, "T L 2"]:
  """Makes the policy logits at the start of training, float32 `[T, L, 2]`.

  Args:
    how: `equal` (alpha 0.5), `all` (logits 3 and -3, alpha 0.9975) or `random`
      (normal, standard deviation 1e-3).
    tasks: T, at least 1.
    blocks: L, at least 1.
    key: needed by `random`.

  Example:
    >>> init_logits("all", tasks=1, blocks=2).tolist()
    [[[3.0, -3.0], [3.0, -3.0]]]
  """
  _check_sizes(tasks, blocks)
  lookup.one_of("`how` a policy starts, or config.policy.init", how, INITIAL)
  if how == "equal":
    return jnp.zeros((tasks, blocks, 2), jnp.float32)
  if how == "all":
    return jnp.tile(jnp.array([3.0, -3.0], jnp.float32), (tasks, blocks, 1))
  if key is None:
    raise ValueError("the policy's initialisation `random` needs a key.")
  return 1e-3 * jax.random.normal(key, (tasks, blocks, 2), jnp.float32)


def _check_sizes(tasks: int, blocks: int) -> None:
  if tasks < 1 or blocks < 1:
    raise ValueError(
      f"a policy needs at least one task and one block, got {tasks} tasks and {blocks} blocks."
    )


def open_mask(blocks: int, opened: int) -> Bool[jax.Array, " L"]:
  """Returns which blocks the curriculum has opened: the last `opened` ones.

  Source: AdaShare (Sun et al. 2020), section 3.2, curriculum learning.

  Example:
    >>> open_mask(4, 1).tolist()
    [False, False, False, True]
  """
  return jnp.arange(blocks) >= blocks - opened


def opened(cycle: int, speed: int, blocks: int) -> int:
  """Counts the blocks that the curriculum has opened, at most all.

  Args:
    cycle: number of stretches of weights and policy that went before.
    speed: cycles until one more block opens, at least 1.

  Source: authors' code. Differs: AdaShare's paper opens one block per epoch; that is `speed` 1.

  Example:
    >>> [opened(cycle, speed=2, blocks=3) for cycle in range(8)]
    [1, 1, 2, 2, 3, 3, 3, 3]
  """
  if speed < 1:
    raise ValueError(f"curriculum speed is {speed}: give at least 1 cycle.")
  _check_sizes(1, blocks)
  if cycle < 0:
    raise ValueError(f"cycle is {cycle}: cycles count from 0.")
  return min(cycle // speed + 1, blocks)


def temperature(
  cycle: int, initial: float = 5.0, decay: float = 0.965, floor: float = 1e-3
) -> float:
  """Computes the Gumbel softmax temperature of a cycle.

  Args:
    cycle: number of stretches of weights and policy that went before.
    initial: temperature of cycle 0, above 0.
    decay: factor per cycle, in (0, 1].
    floor: smallest temperature, above 0.

  Source: DynaShare (CVPRW 2023), section 4.2: 5, decaying at 0.965.
  Differs: the paper decays when the baseline's performance is met; as the
    authors' code does, this decays every cycle. The floor is ours.

  Example:
    >>> temperature(0), temperature(1), temperature(1000)
    (5.0, 4.825, 0.001)
  """
  if cycle < 0:
    raise ValueError(f"cycle is {cycle}: cycles count from 0.")
  if not (initial > 0 and floor > 0 and 0 < decay <= 1):
    raise ValueError(
      f"temperature needs initial > 0, floor > 0 and 0 < decay <= 1, got "
      f"{initial}, {floor} and {decay}."
    )
  return max(initial * decay ** min(cycle, 10**6), floor)


def draw_routes(key: jax.Array, tasks: int, blocks: int) -> Float[jax.Array, "T L"]:
  """Draws a route of 0 and 1: each task executes each block with one probability of its own.

  The probabilities are uniform in 0 .. 1, so that a network trained on such routes has seen every
  depth. The draw of a task and a block depends on (`key`, task, block) alone.

  Raises:
    ValueError: no task or no block.

  Example:
    >>> draw_routes(jax.random.key(0), tasks=2, blocks=3).shape
    (2, 3)
  """
  _check_sizes(tasks, blocks)
  of = lambda task, number: jax.random.fold_in(jax.random.fold_in(key, task), number)
  row = lambda task: jax.vmap(lambda l: jax.random.uniform(of(task, l)))(jnp.arange(blocks + 1))
  uniform = jax.vmap(row)(jnp.arange(tasks))
  return (uniform[:, 1:] < uniform[:, :1]).astype(jnp.float32)


def entropy(alpha: Float[Array, "T L"]) -> float:
  """Computes the mean entropy of a policy's decisions in bit: 0 is decided, 1 is a coin.

  Example:
    >>> round(entropy(np.array([[0.5, 1.0]])), 6)
    0.5
  """
  check_inside("alpha", alpha)
  p = np.clip(np.asarray(alpha, np.float64), 1e-12, 1 - 1e-12)
  bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
  return float(bits.mean()) if bits.size else 0.0


def check_inside(name: str, values: Any) -> None:
  """Refuses numbers outside of 0 .. 1, where they are known.

  Raises:
    ValueError: names the first.
  """
  if isinstance(values, jax.core.Tracer):
    return
  known = np.asarray(values)
  odd = known[~((known >= 0) & (known <= 1))]
  if odd.size:
    raise ValueError(f"`{name}` must hold numbers in 0 .. 1, but has {odd.flat[0]}.")


def spread(alpha: Float[Array, "T L"]) -> float:
  """Computes the standard deviation of alpha between tasks, mean over blocks.

  Example:
    >>> spread(np.array([[0.0, 1.0], [1.0, 1.0]]))
    0.25
  """
  return float(np.asarray(alpha, np.float64).std(0).mean())


def random_routes(
  key: jax.Array, route: Shaped[Array, "T L"], count: int, per_task: bool
) -> Float[jax.Array, "N T L"]:
  """Shuffles a route: as many skipped blocks, at random places, `count` times.

  Args:
    key: of the shuffling. Result n depends on (`key`, n) alone.
    route: 0 or 1; for instance the one that a policy was re-trained with.
    count: number of random routes.
    per_task: keep every task's number of skipped blocks; otherwise only the number in total.

  Source: AdaShare (Sun et al. 2020), ablation, the two random policies.

  Example:
    >>> random_routes(jax.random.key(0), np.array([[1, 1, 0]]), 3, True).sum((1, 2)).tolist()
    [2.0, 2.0, 2.0]
  """
  if count < 1:
    raise ValueError(f"count is {count}: ask for at least one route.")
  check_inside("route", route)
  route = jnp.asarray(route, jnp.float32)

  def draw(index: Array) -> jax.Array:
    folded = jax.random.fold_in(key, index)
    if per_task:
      return jax.random.permutation(folded, route, axis=1, independent=True)
    flat = jax.random.permutation(folded, route.reshape(-1))
    return flat.reshape(route.shape)

  return jax.vmap(draw)(jnp.arange(count))
