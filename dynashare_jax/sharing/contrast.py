"""Instance gates taught by contrast: what do the gated blocks save this example?

The gradient of a gate says what a slightly other decision would do, in a network that is used to
the decision that was made. Here every step also runs the network with all gated blocks and with
none of them. What they save an example, its loss without less its loss with them, is its *gain*,
and a block is worth running where the gain is above the block's *price*. A price rises while gates
open more often than wanted, and falls, to 0 at least, while they open less (dual ascent on Eq. 5's
rate, of which no more is wanted than what helps). A gate learns to tell the two sides apart, and
every example weighs what a wrong decision costs, the distance from its gain to the price: so gates
follow the mean gain of like examples, however noisy one gain is.

Source: ours. Related: contextual bandits with full information, cost-sensitive classification.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynashare_jax.objectives import balancing

_FIRST = 100  # steps in which a price is the mean of the gains' quantiles
_SPEED = 0.05  # of a price afterwards, in mean deviations of the gains
_SETTLES = 25  # ... and at most this, over the number of steps
SURE = 1e6  # noise that decides for a gate


def blank(tasks: int, blocks: int) -> dict[str, jax.Array]:
  """Returns the prices `[T, L]` before the first step, and the number of steps, 0."""
  return {"price": jnp.zeros((tasks, blocks)), "looks": jnp.zeros((), jnp.int32)}


def gains(losses: balancing.Losses) -> tuple[jax.Array, jax.Array]:
  """Returns what the gated blocks save every example, weighed as its task, and where it is known.

  Args:
    losses: of a step; `others` are those with all gated blocks and those with none.

  Returns:
    `[T, B]`, and bool `[T, B]`, where an example has labels.
  """
  (full, known), (bare, _) = map(balancing.means, losses.others)
  gain = (bare - full) * jnp.asarray(losses.prior)[:, None]
  return jax.lax.stop_gradient(jnp.where(known, gain, 0.0)), known


def taught(
  relevance: jax.Array, asked: jax.Array, found: tuple[jax.Array, jax.Array], price: jax.Array
) -> jax.Array:
  """Returns the mean cross-entropy of the gates, examples weighed by what is at stake.

  Args:
    relevance: scores `[T, B, L]` of the gates.
    asked: bool `[T, L]`, where there is a gate.
    found: see `gains`.
    price: `[T, L]`.
  """
  gain, known = found
  over = gain[:, :, None] - price[:, None, :]
  stake = jnp.abs(over) * known[:, :, None] * asked[:, None, :]
  error = optax.sigmoid_binary_cross_entropy(relevance, (over > 0).astype(relevance.dtype))
  return jnp.sum(stake * error) / jnp.maximum(stake.sum(), 1e-12)


def moved(
  memory: dict[str, jax.Array],
  relevance: jax.Array,
  asked: jax.Array,
  found: tuple[jax.Array, jax.Array],
  rates: jax.Array,
) -> dict[str, jax.Array]:
  """Returns prices nearer to those at which no gate opens more often than wanted.

  Args:
    memory: see `blank`; what else it has stays.
    relevance: scores `[T, B, L]` of the gates.
    asked: bool `[T, L]`, where there is a gate.
    found: see `gains`.
    rates: `[L]`, wanted.
  """
  (gain, known), price, looks = found, memory["price"], memory["looks"] + 1
  count = known.sum(1)[:, None]
  mean = lambda values: jnp.where(known[:, :, None], values, 0.0).sum(1) / jnp.maximum(count, 1)
  # The first steps' mean gain above which as many examples lie as shall be opened.
  ordered = jnp.sort(jnp.where(known, gain, np.inf), 1)
  place = jnp.round((1 - rates)[None] * jnp.maximum(count - 1, 0)).astype(jnp.int32)
  first = price + (jnp.take_along_axis(ordered, place, 1) - price) / looks
  spread = mean(jnp.abs(gain[:, :, None] - mean(gain[:, :, None])[:, None]))
  speed = jnp.minimum(_SPEED, _SETTLES / looks)
  later = price + speed * spread * (mean(relevance > 0) - rates[None])
  moved = jnp.maximum(jnp.where(looks <= _FIRST, first, later), 0.0)
  price = jnp.where(asked & (count > 0), moved, price)
  return memory | {"price": price, "looks": looks}
