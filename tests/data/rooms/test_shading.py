"""Colours and textures of the built-in scenes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from dynashare_jax.data.rooms import shading


def test_hsv_and_textures() -> None:
  hue = jnp.array([0.0, 1 / 3, 2 / 3, 0.5])
  colours = shading.hsv(hue, jnp.array([1.0, 1, 1, 0]), jnp.full(4, 0.5))
  expected = 0.5 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
  np.testing.assert_allclose(colours, expected, atol=1e-6)
  place = jnp.stack([jnp.linspace(0.05, 1.95, 20), jnp.zeros(20), jnp.zeros(20)])
  axis = jnp.broadcast_to(jnp.array([1.0, 0.0, 0.0])[:, None], (3, 20))
  for kind, name in enumerate(shading.TEXTURES):
    share = shading.mix(jnp.full(20, kind), place, axis, jnp.zeros(20))
    assert (np.asarray(share) >= 0).all() and (np.asarray(share) <= 1).all()
    assert (np.ptp(np.asarray(share)) > 0.3) == (name != "plain"), name
  stripes = shading.mix(jnp.full(20, 1), place, axis, jnp.zeros(20))
  np.testing.assert_array_equal(stripes, np.tile([1] * 5 + [0] * 5, 2))
