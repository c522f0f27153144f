"""Random keys, functions of (seed, stream, step): never stored nor split."""

from __future__ import annotations

import zlib

import jax


def stream_key(seed: int | jax.Array, stream: str, step: int | jax.Array = 0) -> jax.Array:
  """Returns the key of one use of randomness, the same on every device.

  Args:
    seed: of the run; may be traced.
    stream: what the randomness is for, such as `policy` or `dropout`.
    step: the training step; may be traced.
  """
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
  return jax.random.fold_in(key, step)
