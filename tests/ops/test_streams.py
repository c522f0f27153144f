"""Keys are functions of (seed, stream, step) and of nothing else."""

from __future__ import annotations

import itertools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.ops import streams


def _data(*args):
  return tuple(np.asarray(jax.random.key_data(streams.stream_key(*args))))


def test_the_same_arguments_give_the_same_key():
  assert _data(3, "gates", 17) == _data(3, "gates", 17)
  assert _data(3, "gates") == _data(3, "gates", 0)


def test_keys_differ_by_seed_stream_and_step():
  keys = {
    _data(seed, stream, step)
    for seed, stream, step in itertools.product(
      (0, 1, 2**31), ("policy", "gates", "dropout"), (0, 1, 1_000_000)
    )
  }
  assert len(keys) == 27


def test_a_key_is_the_same_in_every_process():
  # Python's own hash of a string differs from process to process.
  assert _data(0, "policy", 5) == (3891364535, 263979053)


@pytest.mark.parametrize("step", [0, 123_456, 2**31 - 1])
def test_a_traced_step_gives_the_same_key(step):
  traced = jax.jit(lambda s: jax.random.key_data(streams.stream_key(1, "gates", s)))(
    jnp.int32(step)
  )
  assert tuple(np.asarray(traced)) == _data(1, "gates", step)


def test_draws_do_not_depend_on_devices_or_jit():
  key = streams.stream_key(0, "dropout", 3)
  draw = lambda k: jax.random.uniform(k, (8,))
  np.testing.assert_array_equal(draw(key), jax.jit(draw)(key))
