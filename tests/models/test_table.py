"""Encodings of table rows against slow twins."""

from __future__ import annotations

import itertools

import jax
from jax import numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.models import table

SPEC = types.TableSpec(
  ("a", "b", "c"), (3, 2, 4), ("x", "y", "z"), ((0.0, 1.0, 4.0, 10.0), (-2.0, 2.0), (5.0,))
)
RNG = np.random.default_rng(0)


def _filled(value, edges):
  """How far a number fills every bin, in plain Python."""
  found = []
  for low, high in itertools.pairwise(edges):
    found.append(min(max((value - low) / (high - low), 0.0), 1.0))
  return found + [0.0] * (3 - len(found))


def test_numbers_fill_their_bins():
  numeric = np.concatenate(
    [
      RNG.uniform(-20, 20, (50, 3)),
      [[2.5, 0.0, 5.0], [-1e9, -1e9, -1e9], [1e9, 1e9, 1e9], [1.0, -2.0, 0.0]],
    ]
  )
  found = table.piecewise_linear(jnp.asarray(numeric, jnp.float32), SPEC)
  wanted = [[_filled(v, e) for v, e in zip(row, SPEC.edges, strict=True)] for row in numeric]
  assert found.shape == (54, 3, 3)
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_numbers_by_hand_and_outside_the_range():
  rows = jnp.asarray([[2.5, 1.0, 7.0], [-3.0, -3.0, 0.0], [11.0, 9.0, 9.0]])
  found = table.piecewise_linear(rows, SPEC)
  np.testing.assert_allclose(found[0], [[1, 0.5, 0], [0.75, 0, 0], [0, 0, 0]], atol=1e-6)
  assert (found[1] == 0).all()
  np.testing.assert_array_equal(found[2], [[1, 1, 1], [1, 0, 0], [0, 0, 0]])


def test_a_number_grows_with_its_code():
  rows = jnp.linspace(-1, 11, 40)[:, None].repeat(3, 1)
  sums = table.piecewise_linear(rows, SPEC)[:, 0].sum(-1)
  assert (jnp.diff(sums) >= 0).all()


def test_every_column_has_its_own_rows():
  module = table.Embeddings(SPEC, 5)
  codes = jnp.asarray([[0, 0, 0], [2, 1, 3]])
  found, variables = module.init_with_output(jax.random.key(0), codes)
  rows = variables["params"]["embedding"]["embedding"]
  assert rows.shape == (9, 5)
  np.testing.assert_array_equal(found[0], rows[jnp.asarray([0, 3, 5])])
  np.testing.assert_array_equal(found[1], rows[jnp.asarray([2, 4, 8])])


def _inputs():
  return {
    "categorical": jnp.asarray([[0, 1, 2], [2, 0, 3]]),
    "numeric": jnp.asarray([[2.5, 0.0, 5.0], [0.5, 1.0, 6.0]]),
  }


def test_a_row_as_a_vector():
  found = table.ColumnVector(SPEC, 5).init_with_output(jax.random.key(0), _inputs())[0]
  assert found.shape == (2, 3 * 5 + 3 * 3)
  filled = table.piecewise_linear(_inputs()["numeric"], SPEC)
  np.testing.assert_array_equal(found[:, 15:], filled.reshape(2, 9))


def test_a_row_as_a_series():
  found, variables = table.ColumnTokens(SPEC, 5).init_with_output(jax.random.key(0), _inputs())
  assert found.shape == (2, 6, 5)
  filled = np.asarray(table.piecewise_linear(_inputs()["numeric"], SPEC))
  weights = np.asarray(variables["params"]["numbers"])
  for column in range(3):
    np.testing.assert_allclose(
      found[:, 3 + column], filled[:, column] @ weights[column], rtol=1e-5, atol=1e-6
    )


def test_columns_of_one_kind_only():
  numbers = types.TableSpec((), (), ("x",), ((0.0, 1.0),))
  inputs = {"categorical": jnp.zeros((2, 0), jnp.int32), "numeric": jnp.ones((2, 1))}
  for module, shape in [
    (table.ColumnVector(numbers), (2, 1)),
    (table.ColumnTokens(numbers), (2, 1, 8)),
  ]:
    found = jax.eval_shape(lambda m=module, i=inputs: m.init_with_output(jax.random.key(0), i)[0])
    assert found.shape == shape
  codes = types.TableSpec(("a",), (3,), (), ())
  inputs = {"categorical": jnp.zeros((2, 1), jnp.int32), "numeric": jnp.ones((2, 0))}
  for module, shape in [
    (table.ColumnVector(codes), (2, 8)),
    (table.ColumnTokens(codes), (2, 1, 8)),
  ]:
    found = jax.eval_shape(lambda m=module, i=inputs: m.init_with_output(jax.random.key(0), i)[0])
    assert found.shape == shape
