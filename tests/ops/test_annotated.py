"""What a door refuses by the annotations of a function."""

from __future__ import annotations

import jax
from jax import numpy as jnp
from jaxtyping import Float, Integer
import numpy as np
import pytest

from dynashare_jax import gates
from dynashare_jax import policy
from dynashare_jax.ops import annotated

KEY = jax.random.key(0)
LOGITS = jnp.zeros((2, 3, 2))
OPEN = jnp.ones(3, bool)


@annotated.checked
def _function(
  x: Float[jax.Array, "*shape"], y: Float[jax.Array, "*shape"], count: int = 1, rate: float = 1.0
) -> jax.Array:
  return x + y * count * rate


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    ((jnp.ones(2), jnp.ones(3)), "`y` must be an array [*shape] with *shape = (2,), but has"),
    ((jnp.ones(2), 3.0), "`y` must be an array [*shape], but is a float"),
    ((jnp.ones(2, int), jnp.ones(2)), "`x` must be an array [*shape] of float numbers, but is"),
    ((jnp.ones(2), jnp.ones(2), 1.5), "`count` must be a whole number, but is 1.5"),
    ((jnp.ones(2), jnp.ones(2), True), "`count` must be a whole number, but is True"),
    ((jnp.ones(2), jnp.ones(2), 1, np.nan), "`rate` must be a finite number, but is nan"),
  ],
)
def test_arguments_are_refused_by_name(arguments, told):
  with pytest.raises(ValueError) as error:
    _function(*arguments)
  assert str(error.value).startswith(f"_function: {told}")


def test_what_fits_passes_traced_too():
  traced = jax.jit(lambda x, n, r: _function(x, y=x, count=n, rate=r))
  assert traced(jnp.ones(2), 2, 0.5).tolist() == [2.0, 2.0]
  with pytest.raises(ValueError, match="has the shape"):
    jax.jit(_function)(jnp.ones(2), jnp.ones((2, 1)))
  with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
    _function(jnp.ones(2))


def test_numbers_that_32_bits_cut_are_refused():
  @annotated.checked
  def ids(examples: Integer[np.ndarray, " B"]) -> int:
    return len(examples)

  assert ids(np.array([2**32 - 1, -1])) == 2
  with pytest.raises(ValueError, match="numbers of 32 bits, but has 4294967296"):
    ids(np.array([2**32, 0]))


@pytest.mark.parametrize(
  ("call", "told"),
  [
    (lambda: policy.alpha(jnp.zeros((2, 3))), r"alpha: `logits` must be an array \[T, L, 2\]"),
    (lambda: policy.alpha([[[0.0, 0.0]]]), "but is a list"),
    (lambda: policy.sharing(jnp.zeros((2, 3))), r"\[T, L, 2\]"),
    (lambda: policy.sparsity(LOGITS, OPEN[:1]), r"`opened` must be an array \[L\] with L = 3"),
    (lambda: policy.conflict(LOGITS, jnp.ones((3, 3))), "with T = 2"),
    (lambda: policy.conflict(LOGITS[:1], jnp.ones((1, 1))), "at least two"),
    (lambda: policy.budget(LOGITS, OPEN, (1,), 0.5, "apart"), "`costs` must be 3 numbers"),
    (lambda: policy.budget(LOGITS, OPEN, (1, -1, 1), 0.5, "apart"), "at least 0"),
    (lambda: policy.budget(LOGITS, OPEN, (1, 1, 1), 0.5, "alone"), "`serve` is 'alone'"),
    (lambda: policy.instance(jnp.ones((2, 2)), (0.5, 1.5)), "target rate of block 1 is 1.5"),
    (lambda: policy.soft_decisions(KEY, jnp.zeros((2, 3, 3)), 1.0), r"\[T, L, 2\]"),
    (lambda: policy.sample_routes(KEY, 2 * jnp.ones((2, 3)), 1), "`alpha` must hold numbers in 0"),
    (lambda: policy.sample_routes(KEY, jnp.ones((2, 3)), 1.5), "`count` must be a whole number"),
    (lambda: policy.random_routes(KEY, np.full((2, 3), np.nan), 1, True), "`route` must hold"),
    (lambda: policy.draw_routes(KEY, 0, 3), "at least one task and one block"),
    (lambda: policy.opened(5, 1.5, 9), "`speed` must be a whole number"),
    (lambda: policy.temperature(1, np.inf), "`initial` must be a finite number"),
    (lambda: policy.entropy(np.array([[2.0]])), "`alpha` must hold numbers"),
    (lambda: gates.hard_gate(jnp.zeros(2, int), jnp.ones(2)), "of float numbers, but is int32"),
    (lambda: gates.hard_gate(jnp.ones(3), jnp.ones((4, 1))), r"\*shape = \(3,\)"),
    (lambda: gates.logistic_noise(KEY, jnp.array([0.5])), "of integer numbers"),
  ],
)
def test_pieces_refuse_what_would_broadcast(call, told):
  with pytest.raises(ValueError, match=told):
    call()
