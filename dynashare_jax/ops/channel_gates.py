"""Gates of channels: a task's own features or the shared ones, and what the shared column reads.

Source: GatedMTL (ICLR 2024 submission; later InterroGate), Eqs. 2 to 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types

Gates = Mapping[str, types.Array]  # place -> `[T, C]`
MIN = 1e-6  # of a share of work that counts as too much


def opened(alpha: jax.Array) -> jax.Array:
  """Returns 1 where a gate takes the task's own channel (alpha above 0), else 0; any shape.

  The gradient is that of sigmoid(alpha): straight through the threshold (section 3.1).
  Differs: the paper leaves open what alpha = 0 means; here it is shared.
  """
  soft = jax.nn.sigmoid(alpha)
  # Exactly 0 or 1: the difference is 0.
  return (alpha > 0).astype(soft.dtype) + (soft - jax.lax.stop_gradient(soft))


def gate(own: jax.Array, shared: jax.Array, gates: types.Array) -> jax.Array:
  """Returns a task's features `[..., C]`: its own where `gates` `[C]` are 1, else the shared ones.

  Source: Eq. 2.
  """
  g = jnp.asarray(gates, own.dtype).reshape((1,) * (own.ndim - 1) + (-1,))
  return g * own + (1 - g) * shared


def mix(beta: jax.Array, features: Sequence[jax.Array]) -> jax.Array:
  """Returns what the shared column reads `[..., C]`: of every channel a mean over tasks.

  Args:
    beta: `[T, C]`; its softmax over tasks weighs them.
    features: of every task, `[..., C]`.

  Source: Eq. 3.
  """
  weights = jax.nn.softmax(beta, 0)
  shape = (1,) * (features[0].ndim - 1) + (-1,)
  each = zip(weights, features, strict=True)
  found: jax.Array = sum(w.reshape(shape).astype(x.dtype) * x for w, x in each)
  return found


def use(gates: Gates, weights: Mapping[str, float]) -> jax.Array:
  """Returns `[T]`, the share of channels that are a task's own: means of places, then weighed.

  Args:
    gates: of every place, 0 and 1 or soft.
    weights: of every place; they sum to 1.
  """
  return jnp.stack(
    [weights[name] * jnp.asarray(gates[name]).mean(1) for name in sorted(gates)]
  ).sum(0)


def excess(alpha: Gates, targets: Sequence[float], weights: Mapping[str, float]) -> jax.Array:
  """Returns the mean over tasks of how far sigmoid(alpha) is in use above the task's target.

  Source: Eq. 4, with equal `weights`. Soft values are bounded, not gates.
  """
  soft = {name: jax.nn.sigmoid(value) for name, value in alpha.items()}
  return jax.nn.relu(use(soft, weights) - jnp.asarray(targets, jnp.float32)).mean()


def within(
  alpha: Mapping[str, np.ndarray], targets: Sequence[float], weights: Mapping[str, float]
) -> dict[str, np.ndarray]:
  """Returns gates, 0 and 1: alpha above 0, and of every task the highest that fit its target.

  Args:
    alpha: place -> `[T, C]`.
    targets: the most use of every task, see `use`.
    weights: of every place; they sum to 1.
  """
  names = sorted(alpha)
  price = np.concatenate(
    [np.full(alpha[n].shape[1], weights[n] / alpha[n].shape[1]) for n in names]
  )
  every = np.concatenate([np.asarray(alpha[n], np.float64) for n in names], 1)
  open_ = np.zeros(every.shape, np.float32)
  for task, target in enumerate(targets):
    order = np.argsort(-every[task], kind="stable")
    fits = (np.cumsum(price[order]) <= target + MIN) & (every[task][order] > 0)
    open_[task, order[fits]] = 1
  ends = np.cumsum([alpha[n].shape[1] for n in names])[:-1]
  return dict(zip(names, np.split(open_, ends, 1), strict=True))
