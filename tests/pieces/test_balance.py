"""Balancers of one's own loop: what each method sees, and what is made of its answer."""

from __future__ import annotations

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from dynashare_jax import balance
from dynashare_jax import defaults
from dynashare_jax.objectives import balancing
from dynashare_jax.ops import streams
from dynashare_jax.types import TaskSpec

RNG = np.random.default_rng(6)
T = 3
WEIGHTS = (1.0, 2.0, 0.5)
LOSSES = np.array([2.0, 1.0, 3.0], np.float32)
TRUNK = RNG.normal(size=(T, 2, 3)).astype(np.float32)
HEADS = np.diag([5.0, 7.0, 9.0]).astype(np.float32)  # a number a task, with its own gradient alone
GRADIENTS = [{"heads": HEADS[t], "trunk": {"kernel": TRUNK[t]}} for t in range(T)]
SHARED = {"heads": False, "trunk": True}
# One of each way through `update`; tests/objectives have what the others compute.
WAYS = ("autolambda", "excess", "fixed", "graddrop", "log", "moco", "nash", "unit")
SLOPES = np.array([0.1, -0.2, 0.3], np.float32)
ROWS = TRUNK.reshape(T, -1)


def _package(name):
  """The balancer of a run's configuration."""
  settings = defaults.get_config().balance
  settings.name = name
  return balancing.find(settings, [TaskSpec(f"t{t}", "number") for t in range(T)])


@pytest.fixture(scope="module")
def steps():
  """Of every method: what it was asked in a step, its answer, and the gradient."""

  def one(name):
    balancer = balance.make(name, T, weights=WEIGHTS, shared=SHARED, seed=11)
    seen = []

    def weigh(losses, gramian, key, state):
      answer, new = package.weigh(losses, gramian, key, state)
      seen.append((losses.value, gramian, jax.random.key_data(key), jnp.asarray(answer)))
      return answer, new

    package = _package(name)
    balancer = dataclasses.replace(balancer, _of=package._replace(weigh=weigh))
    state = balancer.init(GRADIENTS[0])._replace(step=jnp.int32(1))
    more = {"slopes": jnp.asarray(SLOPES)} if balancer.reads == "slopes" else {}
    gradient, state = balancer.update(GRADIENTS, state, LOSSES, **more)
    ((*asked, answer),) = seen
    combined = None
    if package.combine is not None:
      told = balancing.Losses(jnp.asarray(LOSSES), jnp.ones(T, bool), WEIGHTS)
      key = streams.stream_key(11, "balance", 1)
      combined = package.combine([[jnp.asarray(row)] for row in TRUNK], told, answer, key)[0]
    return asked, answer, combined, gradient, state.step

  every = jax.jit(lambda: {name: one(name) for name in WAYS})
  return jax.device_get(every.lower().compile({"xla_backend_optimization_level": 0})())


def test_every_method_of_the_package_can_be_made():
  for name in balancing.available():
    balancer, package = balance.make(name, T, shared=SHARED), _package(name)
    assert balancer.reads == ("slopes" if package.ahead else package.level)
    assert balancer.looks_back == (package.after is not None)
    kept = package.init(T, 1, [GRADIENTS[0]["trunk"]["kernel"]])
    found = balancer.init(GRADIENTS[0]).kept
    jax.tree.map(np.testing.assert_array_equal, found, kept)


@pytest.mark.parametrize("name", WAYS)
def test_a_method_sees_the_step_and_its_weights_make_the_update(steps, name):
  (losses, gramian, key), weights, combined, gradient, count = steps[name]
  package = _package(name)
  assert count == 2
  np.testing.assert_array_equal(losses, LOSSES)
  np.testing.assert_array_equal(key, jax.random.key_data(streams.stream_key(11, "balance", 1)))
  if package.ahead is not None:
    np.testing.assert_array_equal(gramian, SLOPES)
  elif package.level == "losses":
    assert gramian is None
  else:  # of what is shared alone
    np.testing.assert_allclose(gramian, ROWS @ ROWS.T, rtol=1e-5, atol=1e-5)
  wanted = np.einsum("t,t...->...", weights, TRUNK) if combined is None else combined
  np.testing.assert_allclose(gradient["trunk"]["kernel"], wanted, rtol=1e-5, atol=1e-6)
  whole = package.heads or package.level == "losses"
  factors = weights if whole else np.array(WEIGHTS)
  np.testing.assert_allclose(gradient["heads"], factors * np.diagonal(HEADS), rtol=1e-5)


def test_weights_are_those_of_the_papers():
  """Worked by hand; see the docstring of each file."""
  rows = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], np.float32)
  pcgrad = balance.make("pcgrad", 2, length="own")
  found = jax.jit(lambda: pcgrad.weigh([1.0, 1.0], pcgrad.init(), gramian=rows @ rows.T)[0])()
  np.testing.assert_allclose(found, [20 / 9, 30 / 19], rtol=1e-5)
  famo = balance.make("famo", 2)
  found, state = famo.weigh([1.0, 3.0], famo.init())
  np.testing.assert_allclose(found, [1.5, 0.5], rtol=1e-6)
  # The first loss fell more: Adam's first step moves by the rate, against it.
  after = famo.after([1.0, 3.0], [0.5, 3.0], state)
  np.testing.assert_allclose(after.kept["algorithm"]["value"], [-0.025, 0.025], rtol=1e-4)
  assert famo.looks_back and balance.make("dwa", 2).after([1.0], [1.0], state) is state


def _losses(params, x, y):
  """Of two heads on one trunk, over a batch."""
  features = jnp.tanh(x @ params["trunk"])
  guess = features @ params["heads"]
  return jnp.array([1.0, 10.0]) * jnp.mean((guess - y) ** 2, 0)


PARAMS = {
  "trunk": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32),
  "heads": jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32),
}
BATCH = tuple(jnp.asarray(RNG.normal(size=(8, n)), jnp.float32) for n in (3, 2))


def test_a_step_is_the_optimisers_of_the_update_of_the_gradients():
  """By one backward pass a task; a list of functions, and more beside the losses, are the same."""
  unit = balance.make("unit", 2, shared=lambda tree: {name: name == "trunk" for name in tree})
  each = [lambda *args, t=t: _losses(*args)[t] for t in range(2)]
  rows = [jax.grad(one)(PARAMS, *BATCH) for one in each]
  gradient, state = jax.jit(unit.update)(rows, unit.init(), _losses(PARAMS, *BATCH))
  wanted = jax.tree.map(lambda p, g: p - 0.1 * g, PARAMS, gradient)
  sgd = optax.sgd(0.1)
  beside = lambda *args: (_losses(*args), {"seen": args[1].sum()})
  for losses, aux in ((each, False), (beside, True)):
    move = jax.jit(balance.step(unit, sgd, losses, aux))
    params, _, moved, told = move(PARAMS, sgd.init(PARAMS), unit.init(), *BATCH)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, wanted)
    assert int(moved.step) == int(state.step) == 1
    values, more = told if aux else (told, {"seen": BATCH[0].sum()})
    np.testing.assert_allclose(values, _losses(PARAMS, *BATCH), rtol=1e-6)
    np.testing.assert_allclose(more["seen"], BATCH[0].sum(), rtol=1e-6)


def test_a_step_of_losses_looks_back_and_ahead():
  """FAMO sees the losses after the update; Auto-lambda what its weights do to the other half."""
  sgd = optax.sgd(0.1)
  famo = balance.make("famo", 2)
  params, _, state, before = jax.jit(balance.step(famo, sgd, _losses))(
    PARAMS, sgd.init(PARAMS), famo.init(), *BATCH
  )
  wanted = famo.after(before, _losses(params, *BATCH), famo.weigh(before, famo.init())[1])
  found = jax.tree.leaves(state)
  for a, b in zip(found, jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4)

  auto = balance.make("autolambda", 2, autolambda_step=0.1)
  near, far = (jax.tree.map(lambda a, n=n: a[n::2], BATCH) for n in range(2))

  def after(weights):
    slopes = jax.grad(lambda p: weights @ _losses(p, *near))(PARAMS)
    return _losses(jax.tree.map(lambda p, g: p - 0.1 * g, PARAMS, slopes), *far).sum()

  slopes = jax.jit(jax.grad(after))(jnp.ones(2))
  weights, wanted = auto.weigh(_losses(PARAMS, *BATCH), auto.init(), slopes=slopes)
  gradient = jax.grad(lambda p: weights @ _losses(p, *BATCH))(PARAMS)
  step = jax.jit(balance.value_and_grad(auto, _losses))
  found = jax.tree.leaves(step(PARAMS, auto.init(), *BATCH)[1:])
  for a, b in zip(found, jax.tree.leaves((gradient, wanted)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  with pytest.raises(ValueError, match="halves the batch.*even number"):
    balance.value_and_grad(auto, _losses)(PARAMS, auto.init(), BATCH[0][:7], BATCH[1][:7])


def test_a_task_without_labels_takes_no_part():
  """Even where its gradient is no number; with one task left the update is that task's."""
  unit = balance.make("unit", T, weights=WEIGHTS, shared=SHARED, length="own")
  bad = [GRADIENTS[0], *[jax.tree.map(lambda a: a * np.nan, g) for g in GRADIENTS[1:]]]
  losses = LOSSES * [1.0, np.nan, np.nan]
  run = jax.jit(lambda g: unit.update(g, unit.init(), losses, labelled=[True, False, False]))
  found, state = run(bad)
  length = np.linalg.norm(ROWS[0])
  np.testing.assert_allclose(found["trunk"]["kernel"], TRUNK[0] / length, rtol=1e-4)
  np.testing.assert_array_equal(found["heads"], [5.0, 0.0, 0.0])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
  fixed = balance.make("fixed", T, weights=WEIGHTS)
  assert fixed.weigh(LOSSES, fixed.init(), labelled=[True, False, True])[0].tolist() == [1, 0, 0.5]


@pytest.mark.parametrize(
  "name, options, told",
  [
    ("nsh", {}, "'nsh'.*Did you mean 'nash'"),
    ("cagrad", {"cagrad_d": 1.0}, "'cagrad_d'.*Did you mean 'cagrad_c'"),
    ("nash", {"cagrad_c": 1.0}, "'cagrad_c'; it must be one of average, length"),
    ("nash", {"every": 2}, "setting of the method 'nash' is 'every'"),
    ("nash", {"length": "plan"}, "`length` is 'plan'.*Did you mean 'plain'"),
    ("log", {"normalise": "unit"}, "itself: set normalise='none', not 'unit'"),
    ("nash", {"weights": (1.0, 2.0)}, "for 3 tasks: give one a task"),
    ("nash", {"weights": (1.0, -2.0, 1.0)}, "at least 0"),
  ],
)
def test_what_cannot_be_made_is_told(name, options, told):
  with pytest.raises(ValueError, match=told):
    balance.make(name, T, **options)


def test_what_is_missing_in_a_step_is_told():
  nash, moco, auto = (balance.make(name, 2) for name in ("nash", "moco", "autolambda"))
  state = nash.init()
  with pytest.raises(ValueError, match="reads the gramian: give `gramian=`"):
    nash.weigh([1.0, 2.0], state)
  with pytest.raises(ValueError, match="`gramian` has the shape \\(3, 3\\), not \\(2, 2\\)"):
    nash.weigh([1.0, 2.0], state, gramian=jnp.eye(3))
  with pytest.raises(ValueError, match="`losses` has the shape \\(3,\\), not \\(2,\\)"):
    nash.weigh([1.0, 2.0, 3.0], state, gramian=jnp.eye(2))
  with pytest.raises(ValueError, match="reads the slopes: give `slopes=`"):
    auto.weigh([1.0, 2.0], auto.init())
  with pytest.raises(ValueError, match="reads elements of gradients: call `update`"):
    moco.weigh([1.0, 2.0], state)
  with pytest.raises(ValueError, match="call init\\(params\\)"):
    moco.init()
  with pytest.raises(ValueError, match="3 gradients for 2 tasks"):
    nash.update(GRADIENTS, state, [1.0, 2.0])
  with pytest.raises(ValueError, match="share no parameter"):
    none = balance.make("nash", 2, shared={"heads": False, "trunk": False})
    none.update(GRADIENTS[:2], state, [1.0, 2.0])
  with pytest.raises(ValueError, match="not with a list"):
    balance.step(nash, optax.sgd(0.1), [_losses], has_aux=True)
  with pytest.raises(ValueError, match="losses have the shape \\(2,\\), not \\(3,\\)"):
    three = balance.make("fixed", 3)
    balance.value_and_grad(three, _losses)(PARAMS, three.init(), *BATCH)


@pytest.mark.parametrize(
  ("name", "options", "told"),
  [
    ("fixed", {"tasks": 2.5}, "`tasks` must be a whole number"),
    ("fixed", {"tasks": True}, "`tasks` must be a whole number"),
    ("fixed", {"weights": "12"}, "in the order of the tasks"),
    ("fixed", {"weights": (np.inf, 1)}, "give one a task"),
    ("dwa", {"epoch": 0}, "`epoch` must be a whole number of at least 1"),
    ("random", {"seed": 2**31}, "`seed` must be below"),
    ("cagrad", {"cagrad_c": -1.0}, "`cagrad_c` must be at least 0"),
    ("cagrad", {"cagrad_c": np.nan}, "`cagrad_c` must be at least 0"),
    ("cagrad", {"cagrad_c": "a"}, "`cagrad_c` must be as 0.4, but is 'a'"),
    ("cagrad", {"cagrad_c": None}, "`cagrad_c` must be as 0.4, but is None"),
    ("fixed", {"smooth": 5.0}, r"`smooth` must be in \[0, 1\)"),
    ("go4align", {"go4align_groups": 0}, "`go4align_groups` must be at least 1"),
    ("aligned", {"aligned_scale": "max"}, "`aligned_scale` is 'max'"),
  ],
)
def test_settings_out_of_range_are_refused(name, options, told):
  with pytest.raises(ValueError, match=told):
    balance.make(name, **{"tasks": 2, **options})


@pytest.mark.parametrize("name", ["fixed", "pcgrad"])
@pytest.mark.parametrize("other", [{"v": jnp.ones(3)}, {"w": jnp.ones(1)}])
def test_gradients_of_other_parameters_are_refused(name, other):
  balancer = balance.make(name, tasks=2)
  with pytest.raises(ValueError, match="differ in names or shapes"):
    balancer.update([{"w": jnp.ones(3)}, other], balancer.init(), [1.0, 2.0])
  with pytest.raises(ValueError, match="nothing to balance"):
    balancer.update([{}, {}], balancer.init(), [1.0, 2.0])


def test_words_are_no_flags_and_none_is_no_state():
  balancer = balance.make("pcgrad", tasks=2, shared={"w": "no"})
  with pytest.raises(ValueError, match="must hold True and False, not 'no'"):
    balancer.update([{"w": jnp.ones(3)}] * 2, balance.State(jnp.int32(0), {}), [1.0, 2.0])
  with pytest.raises(ValueError, match="`state` must be of `init`"):
    balance.make("fixed", tasks=2).weigh([1.0, 2.0], None)
  assert balance.make("fixed", tasks=2, weights=np.array([1.0, 2.0])).weights == (1.0, 2.0)
