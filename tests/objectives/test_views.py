"""Averages of several views of the same pictures."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.objectives import kinds
from dynashare_jax.objectives import views
from dynashare_jax.types import TaskSpec

SEG = TaskSpec("s", "segmentation", 3)
DEPTH = TaskSpec("d", "depth")
NORMALS = TaskSpec("n", "normals", 3)
MAPS = TaskSpec("r", "regression", 2)
SIZES = dict.fromkeys("sdnr", (8, 12))


def _look(images):
  """A 'network': at every pixel, numbers that depend on its place too.

  It is not symmetric, so that mirrored views matter, and works on half the
  size.
  """
  small = images[:, ::2, ::2]
  ramp = jnp.linspace(0, 1, small.shape[2])[None, None, :, None]
  mixed = small * (1 + ramp) + ramp
  return {"s": 3 * mixed, "d": 1 + mixed[..., :1], "n": mixed - 1.0, "r": mixed[..., :2]}, "signals"


def _images(seed=0, height=8, width=12):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.random((2, height, width, 3)), jnp.float32)


def _averaged(seen, images, tasks=(SEG, DEPTH, NORMALS, MAPS), look=_look):
  return views.averaged(tasks, seen, look, images, SIZES)


def test_one_plain_view_is_the_networks_own_answer():
  images = _images()
  plain = views.listed((1.0,), False)
  assert plain == (views.PLAIN,)
  text = str(jax.make_jaxpr(lambda x: _averaged(plain, x)[0])(images))
  assert text == str(jax.make_jaxpr(lambda x: _look(x)[0])(images))


def test_the_first_view_is_upright_and_plain_where_it_can_be():
  found = views.listed((0.5, 1.0, 2.0), True)
  assert [(v.scale, v.mirrored) for v in found] == [
    (1.0, False),
    (1.0, True),
    (0.5, False),
    (0.5, True),
    (2.0, False),
    (2.0, True),
  ]
  assert [v.distance for v in found] == [1, 1, 0.5, 0.5, 2, 2]
  assert [v.sideways for v in found] == [1, -1] * 3
  assert views.listed((0.5, 2.0), True)[0] == views.View(0.5, False, 0.5)
  plain = views.listed((0.5,), True, depth_scaled=False, normals_negated=False)
  assert plain == (views.View(0.5), views.View(0.5, True))


@pytest.mark.parametrize(
  "scales", [(), (0.0,), (-1.0, 1.0), (1.0, 1.0), (float("nan"),), (1000.0,)]
)
def test_scales_that_no_picture_can_have(scales):
  with pytest.raises(
    ValueError, match="config.eval.scales must be one or more different numbers above 0"
  ):
    views.listed(scales, False)


def test_only_pictures_and_dense_tasks_have_views():
  several = views.listed((1.0,), True)
  views.check((SEG, DEPTH), "image", several)
  views.check((TaskSpec("b", "binary"),), "table", (views.PLAIN,))
  wrong = "need pictures, but the inputs are of the kind 'series'; set config"
  with pytest.raises(ValueError, match=wrong):
    views.check((SEG,), "series", several)
  with pytest.raises(
    ValueError, match="the task 'b' of the kind 'binary' has one for every example"
  ):
    views.check((SEG, TaskSpec("b", "binary")), "image", several)


def test_pictures_are_resized_as_in_training_and_mirrored():
  images = _images()
  assert views.seen(views.PLAIN, images) is images
  np.testing.assert_array_equal(views.seen(views.View(mirrored=True), images), images[:, :, ::-1])
  half = views.seen(views.View(0.5), images)
  # Pixel centres meet between four pixels: their mean.
  twin = images.reshape(2, 4, 2, 6, 2, 3).mean((2, 4))
  np.testing.assert_allclose(half, twin, rtol=1e-5)
  assert views.seen(views.View(0.01), images).shape == (2, 1, 1, 3)
  assert views.seen(views.View(1.3), images).shape == (2, 10, 16, 3)


def test_segmentation_averages_probabilities():
  """One view is sure of class 0, the other prefers 1 a little: 0 wins."""
  logits = iter(
    [{"s": jnp.log(jnp.array([[[[0.9, 0.1]]]]))}, {"s": jnp.log(jnp.array([[[[0.4, 0.6]]]]))}]
  )
  task = TaskSpec("s", "segmentation", 2)
  found, _ = views.averaged(
    (task,),
    views.listed((1.0,), True),
    lambda x: (next(logits), None),
    jnp.zeros((1, 1, 1, 3)),
    {"s": (1, 1)},
  )
  np.testing.assert_allclose(np.exp(found["s"][0, 0, 0]), [0.65, 0.35], 1e-5)


def test_impossible_classes_stay_finite():
  kind = kinds.find("segmentation")
  votes = kind.votes(SEG, jnp.array([[[[0.0, -1e4, -1e4]]]]))
  assert np.isfinite(kind.elected(SEG, votes)).all()
  assert int(kind.elected(SEG, votes).argmax()) == 0


def test_normals_of_a_slanted_plane():
  """A wall that faces right: mirrored, it is seen to face left."""
  normal = np.array([0.6, 0.0, 0.8], np.float32)

  def look(images):
    mirrored = bool(images[0, 0, 0, 0] > images[0, 0, -1, 0])
    seen = normal * np.array([-1 if mirrored else 1, 1, 1], np.float32)
    return {"n": jnp.broadcast_to(7 * seen, images.shape)}, None

  ramp = jnp.broadcast_to(jnp.arange(4.0)[None, None, :, None], (1, 2, 4, 3))
  found, _ = views.averaged((NORMALS,), views.listed((1.0,), True), look, ramp, {"n": (2, 4)})
  got = kinds.find("normals").predict(NORMALS, found["n"])
  np.testing.assert_allclose(got, np.broadcast_to(normal, got.shape), atol=1e-6)
  # The authors mirror without negating: then x is left as it is seen.
  plain = views.listed((1.0,), True, normals_negated=False)
  found, _ = views.averaged((NORMALS,), plain, look, ramp, {"n": (2, 4)})
  np.testing.assert_allclose(found["n"][..., 0], 0, atol=1e-6)


@pytest.mark.parametrize("scaled", [True, False])
def test_depth_of_a_plane_at_4_metres(scaled):
  """A network that has learnt that enlarged things are nearer, or has not."""

  def look(images):
    scale = images.shape[1] / 8
    depth = 4.0 / scale if scaled else 4.0
    return {"d": jnp.full((*images.shape[:3], 1), depth)}, None

  seen = views.listed((0.5, 1.0, 2.0), False, depth_scaled=scaled)
  found, _ = _averaged(seen, _images(), (DEPTH,), look)
  np.testing.assert_allclose(found["d"], 4.0, rtol=1e-6)


def test_values_are_averaged_at_the_size_of_the_labels():
  """Against a slow twin: two scales, each also mirrored."""
  images = _images()
  found, rest = _averaged(views.listed((1.0, 2.0), True), images, (MAPS,))
  total = np.zeros((2, 8, 12, 2))
  for scale in (1.0, 2.0):
    for mirrored in (False, True):
      picture = views.seen(views.View(scale, mirrored), images)
      logits = _look(picture)[0]["r"]
      logits = logits[:, :, ::-1] if mirrored else logits
      total += np.asarray(jax.image.resize(logits, (2, 8, 12, 2), "linear", antialias=False)) / 4
  np.testing.assert_allclose(found["r"], total, atol=1e-6)
  assert rest == "signals"


def test_the_signals_are_those_of_the_first_view():
  count = iter(range(9))
  _, rest = _averaged(
    views.listed((0.5, 1.0), True),
    _images(),
    look=lambda x: (_look(x)[0], (next(count), x.shape[1])),
  )
  assert rest == (0, 8)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5)])
def test_a_mirrored_picture_gives_the_mirrored_average(scales):
  """Whatever the network: flips make the average equivariant."""
  images = _images()
  seen = views.listed(scales, True)
  tasks = (SEG, DEPTH, NORMALS, MAPS)
  average = jax.jit(lambda x: _averaged(seen, x)[0])
  upright, mirrored = average(images), average(images[:, :, ::-1])
  alone, _ = _look(images[:, :, ::-1])
  for task in tasks:
    want = upright[task.name][:, :, ::-1]
    if task is NORMALS:
      want = want * jnp.array([-1.0, 1, 1])[None, None, None]
    np.testing.assert_allclose(mirrored[task.name], want, atol=2e-5)
    own = _look(images)[0][task.name][:, :, ::-1]
    assert np.abs(own - alone[task.name]).max() > 0.1, "the network is not"
