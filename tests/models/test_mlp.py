"""The residual perceptron against its formula."""

from __future__ import annotations

import functools

import jax
from jax import numpy as jnp
import ml_collections
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.models import backbones
from dynashare_jax.models.backbones import mlp

TABLE = types.TableSpec(("a", "b"), (3, 4), ("x",), ((0.0, 1.0, 4.0),))
PASS = backbones.Pass(False, jnp.ones((1,)))

# Compiling takes most of the time of these tests.
QUICK = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _forward(module, inputs, pass_=PASS):
  x = module.stem(inputs, pass_)
  for block in range(module.num_blocks):
    residual = module.shortcut(block, x, pass_)
    x = module.merge(residual, module.branch(block, x, pass_))
  return module.final(x)


def _layer_norm(x, p):
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * p["scale"] + p["bias"]


def test_blocks_equal_their_formula():
  net = mlp.ResidualMlp(2, width=6, hidden=9)
  x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
  found, variables = QUICK(lambda key: net.init_with_output(key, jnp.asarray(x), method=_forward))(
    jax.random.key(0)
  )
  p = jax.tree.map(np.float64, variables["params"])
  y = x.reshape(4, 6) @ p["project"]["kernel"] + p["project"]["bias"]
  for block in range(2):
    q = p[f"block_{block}"]
    h = _layer_norm(y, q["norm"])
    h = np.maximum(h @ q["widen"]["kernel"] + q["widen"]["bias"], 0)
    y = y + h @ q["narrow"]["kernel"] + q["narrow"]["bias"]
  wanted = np.maximum(_layer_norm(y, p["last_norm"]), 0)
  assert found.shape == (1, 4, 6)
  np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_skipped_block_changes_nothing():
  net = mlp.ResidualMlp(2, width=6, hidden=9)
  x = jnp.ones((1, 4, 6))
  kept = net.init_with_output(jax.random.key(0), x, method=lambda m, x: m.shortcut(1, x, PASS))[0]
  assert kept is x


def test_tables_are_read_by_their_columns():
  net = mlp.ResidualMlp(1, width=6, hidden=9, table_spec=TABLE, embedding=5)
  inputs = {"categorical": jnp.zeros((2, 2), jnp.int32), "numeric": jnp.ones((2, 1))}
  params = jax.eval_shape(lambda: net.init(jax.random.key(0), inputs, method=_forward))["params"]
  assert params["columns"]["codes"]["embedding"]["embedding"].shape == (7, 5)
  assert params["project"]["kernel"].shape == (2 * 5 + 2, 6)


def test_dropout_draws_in_training_only():
  net = mlp.ResidualMlp(1, width=6, hidden=64, dropout=0.5)
  x = jnp.ones((2, 3))
  variables = QUICK(lambda key: net.init(key, x, method=_forward))(jax.random.key(0))

  @functools.partial(QUICK, static_argnums=0)
  def run(train, seed):
    return net.apply(
      variables,
      x,
      PASS._replace(train=train),
      method=_forward,
      rngs={"dropout": jax.random.key(seed)},
    )

  np.testing.assert_array_equal(run(False, 0), run(False, 1))
  assert jnp.abs(run(True, 0) - run(True, 1)).max() > 1e-3
  np.testing.assert_array_equal(run(True, 0), run(True, 0))


def _config(**values):
  return ml_collections.ConfigDict(
    dict(blocks=(2, 1), width=6, hidden=9, dropout=0.0, embedding=4) | values
  )


def _spec(kind):
  return types.DatasetSpec("toy", (), kind, (3,), {"train": 1}, TABLE)


def test_build_adds_up_the_blocks():
  net = mlp.build(_config(), _spec("table"), jnp.float32)
  assert (net.num_blocks, net.embedding, net.table_spec) == (3, 4, TABLE)


@pytest.mark.parametrize(
  "values, kind, message",
  [
    ({"blocks": ()}, "table", "at least 1"),
    ({"blocks": (0,)}, "table", "at least 1"),
    ({}, "image", "cannot read images"),
  ],
)
def test_a_config_without_sense_is_refused(values, kind, message):
  with pytest.raises(ValueError, match=message):
    mlp.build(_config(**values), _spec(kind), jnp.float32)
