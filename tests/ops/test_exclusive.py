"""Exclusive capacity, its schedules and targets, and masks: by hand, and by counting."""

from __future__ import annotations

import itertools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.ops import exclusive


def _column(*values):
  return np.asarray(values, np.float32)[:, None]


@pytest.mark.parametrize(
  "phi, wanted",
  [((0.99, 0.01, 0.01), 0.99), ((0.99, 0.5, 0.25), 0.625), ((0.9, 0.4), 0.6), ((1, 1, 1), 0)],
)
def test_capacity_by_hand(phi, wanted):
  np.testing.assert_allclose(exclusive.capacity(_column(*phi)), [wanted], atol=1e-6)


def test_one_task_has_no_capacity():
  with pytest.raises(ValueError, match="there is only one"):
    exclusive.capacity(_column(0.5))


@pytest.mark.parametrize(
  "tasks, channels, sizes",
  [(3, 512, [171, 171, 170]), (20, 512, [26] * 12 + [25] * 8), (2, 2, [1, 1])],
)
def test_tasks_own_equal_stretches(tasks, channels, sizes):
  found = exclusive.owners(tasks, channels)
  np.testing.assert_array_equal(np.bincount(found), sizes)
  assert (np.diff(found) >= 0).all()


def test_a_task_without_channels_is_refused():
  with pytest.raises(ValueError, match="2 channels cannot be split among 3 tasks"):
    exclusive.owners(3, 2)


@pytest.mark.parametrize(
  "phi, wanted, found",
  [
    ((0.99, 0.8, 0.6), 0.15, (0.995, 0.9, 0.8)),
    ((0.99, 0.95, 0.97), 0.1, (0.975, 0.875, 0.925)),
    ((0.99, 0.99, 0.99), 0.25, (0.98, 0.75, 0.75)),  # Guests that do not differ.
  ],
)
def test_targets_by_hand(phi, wanted, found):
  owns = np.asarray([[True], [False], [False]])
  made = exclusive.target(_column(*phi), owns, wanted, 0.02)
  np.testing.assert_allclose(made, _column(*found), atol=1e-5)
  np.testing.assert_allclose(exclusive.capacity(made), [wanted], atol=1e-5)


def test_targets_have_the_wanted_capacity_and_keep_how_guests_compare():
  rng = np.random.default_rng(0)
  owns = exclusive.owners(4, 50)[None] == np.arange(4)[:, None]
  phi = np.where(owns, 0.99, rng.uniform(0.05, 0.9, (4, 50))).astype(np.float32)
  made = np.asarray(exclusive.target(phi, owns, 0.3, 0.01))
  np.testing.assert_allclose(exclusive.capacity(made), 0.3, atol=1e-5)
  ratio = lambda p: (1 - p) / (1 - p.min(0))[None]
  np.testing.assert_allclose(ratio(made), ratio(phi), rtol=1e-4)


# Epochs of a run of 200 with 25 frozen ones at either end.
_EPOCHS = (0, 24, 25, 54, 55, 62, 99, 100, 137, 174, 175, 199)
_WANTED = {
  "linear": (1, 1, 1, 0.8054, 0.7987, 0.7517, 0.5034, 0.4966, 0.2483, 0, 0, 0),
  "step5": (1, 1, 1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0, 0, 0),
  "step10": (1, 1, 1, 0.8889, 0.7778, 0.7778, 0.5556, 0.4444, 0.2222, 0, 0, 0),
  "step20": (1, 1, 1, 0.8421, 0.7895, 0.7895, 0.5263, 0.4737, 0.2632, 0, 0, 0),
  "quad": (1, 1, 1, 0.6486, 0.6379, 0.5650, 0.2534, 0.2467, 0.0617, 0, 0, 0),
  "quad_slow": (1, 1, 1, 0.9621, 0.9595, 0.9383, 0.7533, 0.7466, 0.4350, 0, 0, 0),
  "separ": (1,) * 12,
  "fullshare": (0,) * 12,
}


@pytest.mark.parametrize("name", exclusive.SCHEDULES)
def test_schedules(name):
  found = exclusive.schedule(name, 200, 25)
  np.testing.assert_allclose(found[list(_EPOCHS)], _WANTED[name], atol=5e-5)
  assert (np.diff(found) <= 0).all()
  count = {"step5": 5, "step10": 10, "step20": 20, "separ": 1, "fullshare": 1}.get(name, 150)
  assert len(np.unique(found)) == count
  if name not in exclusive.CONSTANT:
    sudden = np.repeat([1.0, 0.0], 100)
    np.testing.assert_array_equal(exclusive.schedule(name, 200, 100), sudden)
    np.testing.assert_array_equal(exclusive.schedule(name, 2, 0), [1, 0])


def test_the_score_function_against_enumeration():
  """Losses (m1 + 2 m2 - 1)^2 of masks with probabilities .3 and .6."""
  phi = jnp.asarray([[0.3], [0.6]])
  masks = jnp.asarray(list(itertools.product((0.0, 1.0), repeat=2)))[:, :, None]
  losses = (masks[:, 0, 0] + 2 * masks[:, 1, 0] - 1) ** 2

  @jax.jit
  def found(expected):
    def estimate(phi, mask, loss):
      logs = exclusive.log_probabilities(mask, phi).sum()
      return exclusive.score((loss - expected)[None], logs[None])

    values, slopes = jax.vmap(jax.value_and_grad(estimate), (None, 0, 0))(phi, masks, losses)
    chance = jnp.exp(jax.vmap(lambda m: exclusive.log_probabilities(m, phi).sum())(masks))
    mean = (chance[:, None, None] * slopes).sum(0)
    spread = (chance[:, None, None] * (slopes - mean[None]) ** 2).sum(0)
    return values, (chance * losses).sum(), mean[:, 0], spread[:, 0]

  for expected, spread in ((0.0, (31.469, 9.477)), (1.42, (14.293, 3.915))):
    values, mean, slopes, variance = found(expected)
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_allclose(mean, 1.42, rtol=1e-5)
    np.testing.assert_allclose(slopes, [1.4, 1.2], rtol=1e-4)
    np.testing.assert_allclose(slopes * (phi * (1 - phi))[:, 0], [0.294, 0.288], rtol=1e-4)
    np.testing.assert_allclose(variance, spread, rtol=1e-3)


@pytest.mark.parametrize(
  "family, q, p, wanted, slope",
  [
    ("bernoulli", 0.2, 0.5, 0.192745, -1.386294),
    ("bernoulli", 0.01, 0.99, 4.503217, None),
    ("gaussian", 0.5, 0.8, 0.806853, -6.0),
    ("gaussian", 0.01, 0.99, 4895.405, None),
    ("bernoulli", 0.7, 0.7, 0.0, 0.0),
    ("gaussian", 0.7, 0.7, 0.0, 0.0),
  ],
)
def test_divergences(family, q, p, wanted, slope):
  found, slopes = jax.jit(
    jax.value_and_grad(lambda q: exclusive.divergence(q, jnp.asarray(p), family))
  )(q)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
  if slope is not None:
    np.testing.assert_allclose(slopes, slope, rtol=1e-4, atol=1e-5)


def test_logits_give_back_probabilities_with_a_finite_start():
  phi = np.asarray([[0.01, 0.99], [0.3, 0.5]], np.float32)
  made = exclusive.logits(phi, 0.01)
  assert np.abs(made).max() < 6
  np.testing.assert_allclose(exclusive.probabilities(made, 0.01), phi, atol=1e-6)
  ends = exclusive.probabilities(np.full((1, 2), [-50.0, 50.0], np.float32), 0.01)
  np.testing.assert_allclose(ends, [[0.005, 0.995]], atol=1e-6)


@pytest.mark.parametrize("family", exclusive.FAMILIES)
def test_masks_belong_to_their_seed_step_layer_task_and_channel(family):
  phi = jnp.full((3, 64), 0.5)

  @jax.jit
  def drawn(seed, step):
    of = lambda phi, seed, layer, step: exclusive.sample(phi, family, seed, layer, step)
    first, fewer = of(phi, seed, "a/conv_0", step), of(phi[:2], seed, "a/conv_0", step)
    others = of(phi, seed + 1, "a/conv_0", step), of(phi, seed, "a/conv_1", step)
    return first, fewer, (*others, of(phi, seed, "a/conv_0", step + 1), first[::-1])

  first, fewer, others = drawn(1, 5)
  np.testing.assert_array_equal(first[:2], fewer)
  for other in others:
    assert (np.asarray(other)[0] != np.asarray(first)[0]).any()


def test_masks_have_their_mean_and_deviation():
  phi = jnp.tile(jnp.asarray([0.2, 0.5, 0.9])[:, None], (1, 100_000))
  draw = jax.jit(lambda: [exclusive.sample(phi, f, 0, "a", 0) for f in exclusive.FAMILIES])
  flips, noise = map(np.asarray, draw())
  assert set(np.unique(flips)) == {0.0, 1.0}
  np.testing.assert_allclose(flips.mean(1), [0.2, 0.5, 0.9], atol=0.01)
  np.testing.assert_allclose(noise.mean(1), 1, atol=0.02)
  np.testing.assert_allclose(noise.std(1), [2, 1, 1 / 3], rtol=0.02)
  deviations = exclusive.deviation(np.asarray([0.99, 0.01]))
  np.testing.assert_allclose(deviations, [0.1005, 9.950], rtol=1e-3)


def test_gaussian_masks_have_the_gradient_of_a_draw_that_stays():
  phi, move = jnp.asarray([[0.3, 0.6], [0.7, 0.5]]), jnp.asarray([[0, 1e-2], [0, 0]])
  of = lambda phi: (jnp.sin(exclusive.sample(phi, "gaussian", 3, "a", 2)) ** 2).sum()
  slope = jax.grad(of)
  found, near, far = jax.jit(lambda: (slope(phi), of(phi - move), of(phi + move)))()
  np.testing.assert_allclose(found[0, 1], (far - near) / 2e-2, rtol=2e-3)


def test_the_entropy_of_even_masks_is_one_bit():
  np.testing.assert_allclose(
    exclusive.entropy(jnp.asarray([0.5, 0.11, 0.89])), [1, 0.49992, 0.49992], rtol=1e-4
  )
