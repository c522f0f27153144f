"""Nearest labels and bilinear logits against slow twins."""

from __future__ import annotations

from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.ops import resize


@pytest.mark.parametrize("size", [(3, 4), (5, 8), (1, 1), (41, 41), (7, 13)])
def test_labels_follow_the_reference_rule(size):
  labels = np.arange(2 * 41 * 29).reshape(2, 41, 29)
  got = np.asarray(resize.reduce_nearest(jnp.asarray(labels), size))
  for row in range(size[0]):
    for column in range(size[1]):
      source = labels[:, row * 41 // size[0], column * 29 // size[1]]
      np.testing.assert_array_equal(got[:, row, column], source)


def test_masks_and_channels_keep_type_and_channels():
  mask = resize.reduce_nearest(jnp.ones((1, 8, 8), bool), (2, 2))
  assert mask.dtype == bool and mask.shape == (1, 2, 2)
  vectors = resize.reduce_nearest(jnp.ones((1, 8, 6, 3)), (4, 2))
  assert vectors.shape == (1, 4, 2, 3)


def _linear(values, length):
  """Interpolates the first axis at pixel centres, edges repeated."""
  places = (np.arange(length) + 0.5) * len(values) / length - 0.5
  places = np.clip(places, 0, len(values) - 1)
  low = np.floor(places).astype(int)
  high = np.minimum(low + 1, len(values) - 1)
  share = (places - low).reshape(-1, *[1] * (values.ndim - 1))
  return (1 - share) * values[low] + share * values[high]


def test_logits_against_bilinear_twin():
  logits = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
  got = np.asarray(resize.enlarge(jnp.asarray(logits, jnp.float32), (13, 20)))
  for image, large in zip(logits, got, strict=True):
    columns = _linear(image.swapaxes(0, 1), 20).swapaxes(0, 1)
    np.testing.assert_allclose(large, _linear(columns, 13), atol=1e-5)


def test_rounding_is_that_of_pytorch():
  """Where i * (H / h) is whole, float32 may fall just below it."""
  rows = jnp.arange(26)[None, :, None]
  got = resize.reduce_nearest(rows, (22, 1))[0, :, 0]
  assert got[11] == 12  # not 13; as torch.nn.functional.interpolate says
  pair = jnp.arange(2.0)[None, None, :, None]
  large = resize.enlarge_nearest(pair, (1, 282))[0, 0, :, 0]
  assert large[140:143].tolist() == [0.0, 0.0, 1.0]  # exactly, 141 takes 1


@pytest.mark.parametrize("size", [(13, 20), (41, 41), (61, 81), (4, 5)])
def test_nearest_logits_against_a_slow_twin(size):
  logits = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
  got = np.asarray(resize.enlarge_nearest(jnp.asarray(logits, jnp.float32), size))
  assert got.shape == (2, *size, 3)
  for row in range(size[0]):
    for column in range(size[1]):
      source = logits[:, row * 4 // size[0], column * 5 // size[1]]
      np.testing.assert_allclose(got[:, row, column], source, rtol=1e-6)


def test_equal_sizes_change_nothing():
  logits = jnp.ones((1, 4, 4, 2))
  assert resize.enlarge_nearest(logits, (4, 4)) is logits
  assert resize.enlarge(logits, (4, 4)) is logits
  labels = jnp.ones((1, 4, 4), jnp.int32)
  assert resize.reduce_nearest(labels, (4, 4)) is labels
