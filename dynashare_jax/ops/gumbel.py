"""Samples of two-way decisions, relaxed or hard, from logistic noise.

A choice between two Gumbel-perturbed logits depends only on the difference of
the two Gumbel variables, which is a logistic variable. One draw per decision is
enough, and the two-way softmax becomes a sigmoid.
"""

from __future__ import annotations

import jax
from jax import numpy as jnp
from jaxtyping import Float, Integer, Shaped

from dynashare_jax.ops import policy
from dynashare_jax.types import Array

_TINY = 2.0**-25


def _logistic(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Draws float32 logistic noise that is finite for every draw."""
  uniform = jax.random.uniform(key, shape, jnp.float32)
  # 1 - 2**-24 is the largest float32 below 1: both ends stay finite.
  uniform = jnp.clip(uniform, _TINY, 1.0 - 2.0**-24)
  return jnp.log(uniform) - jnp.log1p(-uniform)


def _check_temperature(temperature: float | int | Array) -> None:
  """Refuses a temperature that is not positive, where it is known."""
  if isinstance(temperature, jax.core.Tracer):
    return
  if jnp.ndim(temperature) == 0 and not float(temperature) > 0:
    raise ValueError(
      f"temperature is {float(temperature)}: give a number above 0 (a hard choice is `hard_gate`)."
    )


def logistic_noise(
  key: jax.Array, examples: Integer[Array, " B"], shape: tuple[int, ...] = ()
) -> Float[jax.Array, "B ..."]:
  """Draws noise that belongs to an example, not to its place in a batch.

  Args:
    key: of this step and stream.
    examples: ids of the examples, for instance their places in the global
      batch. The noise of an example depends on its id and `key` alone, so any
      split of a batch over devices or micro-batches gives the same noise.
    shape: of one example's noise.

  Returns:
    Float32 `[B, *shape]`, the difference of two standard Gumbel variables;
    always finite (within about +-17.4).

  Source: DynaShare (CVPRW 2023), Eq. 1.
  Differs: one logistic draw replaces two Gumbel draws; same distribution.

  Example:
    >>> noise = logistic_noise(jax.random.key(0), jnp.array([5, 3, 5]))
    >>> noise[0].item() == noise[2].item()
    True
  """
  draw = lambda example: _logistic(jax.random.fold_in(key, example), shape)
  return jax.vmap(draw)(jnp.asarray(examples))


def soft_decisions(
  key: jax.Array, logits: Float[Array, "T L 2"], temperature: float | int | Float[Array, ""]
) -> Float[jax.Array, "T L"]:
  """Samples relaxed execute decisions of the task policies, for a whole batch.

  Args:
    key: of this step and stream. The noise of task t at block l depends on
      (`key`, t, l) alone: more tasks or blocks do not change it.
    logits: column 0 = execute, 1 = skip.
    temperature: above 0. Towards 0 decisions become hard samples, whose mean is
      alpha; towards infinity they become 0.5.

  Source: DynaShare (CVPRW 2023), Eq. 2.
  Differs: written as a sigmoid of a logistic perturbation, which stays finite
    at a temperature of 1e-6.

  Example:
    >>> cold = soft_decisions(jax.random.key(0), jnp.zeros((2, 3, 2)), 1e-6)
    >>> set(cold.ravel().tolist()) <= {0.0, 1.0}
    True
  """
  _check_temperature(temperature)
  tasks, blocks = logits.shape[:2]
  draw = lambda task, block: _logistic(jax.random.fold_in(jax.random.fold_in(key, task), block), ())
  by_block = jax.vmap(draw, in_axes=(None, 0))
  noise = jax.vmap(by_block, in_axes=(0, None))(jnp.arange(tasks), jnp.arange(blocks))
  score = logits[..., 0] - logits[..., 1] + noise
  return jax.nn.sigmoid(score / temperature)


def soft_choices(
  key: jax.Array, logits: Float[Array, "... K"], temperature: float | int | Float[Array, ""]
) -> Float[jax.Array, "... K"]:
  """Samples relaxed choices among K, for a whole batch; rows sum to 1.

  Args:
    key: of this step and stream.
    logits: of the choices, in the last axis.
    temperature: above 0. Towards 0 choices become hard samples of softmax(logits); towards infinity
      they become 1 / K.

  Source: Jang et al. 2017, Eq. 2.

  Example:
    >>> soft_choices(jax.random.key(0), jnp.array([9.0, -9.0, -9.0]), 0.1).round(3).tolist()
    [1.0, 0.0, 0.0]
  """
  _check_temperature(temperature)
  noise = jax.random.gumbel(key, jnp.shape(logits), jnp.float32)
  return jax.nn.softmax((jnp.asarray(logits) + noise) / temperature)


@jax.custom_jvp
def _binary(score: jax.Array, temperature: jax.Array) -> jax.Array:
  """Forward a step function, backward the sigmoid at this temperature."""
  del temperature
  return (score > 0).astype(score.dtype)


@_binary.defjvp
def _binary_jvp(
  primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Passes tangents through the relaxed decision."""
  score, temperature = primals
  soft = jax.nn.sigmoid(score / temperature)
  slope = soft * (1.0 - soft) / temperature
  return _binary(score, temperature), slope * tangents[0]


def hard_gate(
  score: Float[Array, "*shape"],
  noise: Float[Array, "*shape"] | None,
  temperature: float | int | Float[Array, ""] = 1.0,
) -> Float[jax.Array, "*shape"]:
  """Decides exactly 0 or 1 forward, with the relaxed decision's gradient backward.

  The derivative with respect to `score` is that of
  `sigmoid((score + noise) / temperature)`; `temperature` gets no gradient.

  Args:
    score: relevance: the logit of executing minus the logit of skipping.
    noise: logistic noise of the same shape (a sample), or None (the most
      likely decision, `score > 0`).
    temperature: above 0; it shapes the gradient only.

  Source: DynaShare (CVPRW 2023), section 3.2, Eq. 1 forward, Eq. 2 backward.
  Differs: the authors' code sums hard + soft - stop_gradient(soft), which is
    0 or 1 up to rounding; here the forward value is exact.

  Example:
    >>> hard_gate(jnp.array([-1.0, 2.0]), None).tolist()
    [0.0, 1.0]
    >>> jax.grad(hard_gate)(jnp.array(0.0), None).item()
    0.25
  """
  _check_temperature(temperature)
  perturbed = score if noise is None else score + noise.astype(score.dtype)
  return _binary(perturbed, jnp.asarray(temperature, perturbed.dtype))


def sample_routes(
  key: jax.Array, alpha: Float[Array, "T L"], count: int
) -> Shaped[jax.Array, "N T L"]:
  """Samples discrete routes of a policy: `count` times 0 or 1 for every task and block.

  Route n depends on (`key`, n) alone, so asking for more routes keeps the first
  ones. An alpha of exactly 0 never executes, of exactly 1 always.

  Source: DynaShare (CVPRW 2023), section 3.2 and Algorithm 2, line 2.

  Example:
    >>> sample_routes(jax.random.key(0), jnp.array([[0.0, 1.0]]), 2).tolist()
    [[[0.0, 1.0]], [[0.0, 1.0]]]
  """
  if count < 1:
    raise ValueError(f"count is {count}: sample at least one route.")
  policy.check_inside("alpha", alpha)

  def draw(index: Array) -> jax.Array:
    uniform = jax.random.uniform(jax.random.fold_in(key, index), alpha.shape, jnp.float32)
    return (uniform < alpha).astype(jnp.float32)

  return jax.vmap(draw)(jnp.arange(count))
