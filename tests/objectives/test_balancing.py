"""Every balancer against exact answers, its sources' numbers and what it promises."""

from __future__ import annotations

import importlib
import json

import hypothesis
from hypothesis import strategies as st
import jax
from jax import numpy as jnp
import numpy as np
from objectives import jacobians
import pytest

from dynashare_jax import defaults
from dynashare_jax import types
from dynashare_jax.objectives import balancing
from dynashare_jax.objectives import kinds
from dynashare_jax.objectives.balancing import graddrop
from dynashare_jax.objectives.balancing import gradvac
from dynashare_jax.objectives.balancing import pcgrad
from dynashare_jax.ops import gramian as ops

K = jacobians.MOST
BATCH = 30  # problems of one call, so that all calls are one program
SMALL = {"average": 0.0, "length": "own"}


def settings(name, **values):
  found = defaults.get_config().balance
  found.name = name
  for key, value in values.items():
    found[key] = value
  return found


def find(name, tasks=3, **values):
  specs = [types.TaskSpec(f"t{n}", "number") for n in range(tasks)]
  return balancing.find(settings(name, **values), specs)


GRAMIAN = tuple(n for n in balancing.available() if find(n).level == "gramian")
ENTRIES = {
  **{name: find(name, K, **SMALL) for name in GRAMIAN},
  "aligned_rmse": find("aligned", K, aligned_scale="rmse", **SMALL),
  "fairgrad_1": find("fairgrad", K, fairgrad_alpha=1.0, **SMALL),
  "fairgrad_0.5": find("fairgrad", K, fairgrad_alpha=0.5, **SMALL),
  "mgda_l2": find("mgda", K, normalise="unit", **SMALL),
  "cagrad_0.5": find("cagrad", K, cagrad_c=0.5, **SMALL),
  "plain_nash": find("nash", K),
  "smooth_modo": find("modo", K, normalise="log", smooth=0.5, length="sum"),
}
ASCENDING = jnp.tile(jnp.arange(K)[None], (K, 1))


def shapes(tree):
  return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@jax.jit
def everything(gramians, present, losses):
  """Weights `[N, K]` of every entry in its first step."""

  def one(gramian, there, values):
    facts = balancing.Facts(
      values, there & (jnp.diagonal(gramian) != 0), jnp.ones(K), gramian, None
    )
    found = {"pcgrad_ascending": pcgrad.weigh(facts, {}, ASCENDING)[0]}
    told = balancing.Losses(values, there, (1.0,) * K)
    for name, balancer in ENTRIES.items():
      key, state = jax.random.key(0), balancer.init(K, 1)
      found[name], moved = balancer.weigh(told, gramian, key, state)
      assert shapes(moved) == shapes(state), name
      found[f"state of {name}"] = jax.tree.leaves(moved)
    return found

  return jax.vmap(one)(gramians, present, losses)


def weights(problems, losses=None):
  """Of every entry the weights of every problem, those of absent tasks cut off."""
  gramians, present = jacobians.filled([*problems, *[np.eye(1)] * (BATCH - len(problems))])
  values = np.ones((BATCH, K), np.float32)
  for n, row in enumerate(losses or ()):
    values[n, : len(row)] = row
  found = jax.device_get(everything(gramians, present, values))
  for name, leaves in found.items():
    for leaf in jax.tree.leaves(leaves):
      bad = np.flatnonzero(~np.isfinite(leaf).reshape(BATCH, -1).all(1))
      assert bad.size == 0, (name, bad)
  named = {name: value for name, value in found.items() if not name.startswith("state of ")}
  assert all((value[~present] == 0).all() for name, value in named.items() if name in ENTRIES)
  return {
    name: [value[n, : len(j)].astype(np.float64) for n, j in enumerate(problems)]
    for name, value in named.items()
  }


@pytest.fixture(scope="module")
def reference(data_folder):
  path = data_folder.parent / "balancing_reference.json"
  if not path.is_file():
    pytest.skip(f"no reference numbers at {path}")
  return json.loads(path.read_text())


HARD = jacobians.generated()


@pytest.fixture(scope="module")
def hard():
  return weights(HARD)


def near(got, want, size, most):
  """Whether two updates differ by at most a share of their length, and of rounding."""
  assert np.linalg.norm(got - want) <= most * np.linalg.norm(want) + 2e-6 * size, (got, want)


# Names in the reference file: entry, factor from the file's length to ours, what not to compare.
EXACT = {
  "mgda": ("mgda", "n", ()),
  "mgda_l2": ("mgda_l2", "direction", ()),
  "upgrad": ("upgrad", "n", ()),
  "dualproj": ("dualproj", "n", ()),
  "pcgrad_ascending": ("pcgrad_ascending", "1", ()),
  "cagrad_c0.4": ("cagrad", "n", ()),
  "cagrad_c0.5": ("cagrad_0.5", "n", ()),
  "imtlg": ("imtl_g", "n", ("stationary",)),
  "config": ("config", "1", ("stationary",)),
  "nash": ("nash", "1", ("stationary",)),
  "fairgrad_a1": ("fairgrad_1", "1", ("stationary",)),
  "fairgrad_a2": ("fairgrad", "1", ("stationary", "scaled")),
  "fairgrad_a0.5": ("fairgrad_0.5", "1", ("stationary", "scaled")),
  "aligned_min": ("aligned", "n", ("scaled", "stationary")),
  "aligned_rmse": ("aligned_rmse", "n", ("scaled", "stationary")),
  "sdmgrad_limit_lambda0.3": ("sdmgrad", "n", ()),
  "unit_norms": ("unit", "1", ()),
}


def test_reference_numbers(reference):
  """Of exact solvers in float64, on ten Jacobians."""
  names = list(reference["jacobians"])
  problems = [np.array(reference["jacobians"][name]) for name in names]
  found = weights(problems)
  for entry, (ours, length, but) in EXACT.items():
    for name, jacobian, got in zip(names, problems, found[ours], strict=True):
      if name in but:
        continue
      want = np.array(reference["exact"][entry][name]["weights"])
      n = (np.linalg.norm(jacobian, axis=1) > 0).sum()
      want = want * {"n": n, "1": 1, "direction": got.sum() / want.sum()}[length]
      size = np.abs(want) @ np.linalg.norm(jacobian, axis=1)
      most = 1e-3 if (ours[:6], name) == ("cagrad", "scaled") else 2e-5
      near(got @ jacobian, want @ jacobian, size, most)


def test_three_steps_of_gradient_vaccine(reference):
  step = jax.jit(lambda g, s: gradvac.weigh(facts_of(g), s, 0.5, ASCENDING[:3, :3]))
  for name in ("three_mixed", "three_agree", "duplicate"):
    jacobian = np.array(reference["jacobians"][name])
    state = {"cosines": jnp.zeros((3, 3))}
    for want in reference["aggregators"]["GradVac_ascending_3calls"][name]["vector"]:
      got, state = step(jnp.asarray(jacobian @ jacobian.T, jnp.float32), state)
      near(np.asarray(got, np.float64) @ jacobian, np.array(want), 1.0, 1e-4)


def facts_of(gramian):
  tasks = len(gramian)
  return balancing.Facts(jnp.ones(tasks), jnp.ones(tasks, bool), jnp.ones(tasks), gramian, None)


def test_dropped_signs(reference):
  drop = jax.jit(graddrop.drop, static_argnums=2)
  for name, jacobian in reference["jacobians"].items():
    rows = np.zeros((5, K), np.float32)
    rows[: len(jacobian), : len(jacobian[0])] = jacobian
    got = drop(rows, np.array(reference["graddrop_uniform"], np.float32))
    want = reference["aggregators"]["GradDrop_u"][name]["vector"]
    np.testing.assert_allclose(got[: len(want)], want, 1e-4)
  rows = np.zeros((5, K), np.float32)
  rows[:2, 0] = 1, -3
  # Half of what is dropped leaks.
  np.testing.assert_allclose(drop(rows, np.full(K, 0.2, np.float32), 0.5)[0], 1 - 1.5)


def test_quadratic_problems_against_enumeration(hard):
  """Near duplicates (8) are beyond what float32 inner products tell."""
  for n, jacobian in enumerate(HARD):
    if n in (5, 7):
      continue
    kept = np.linalg.norm(jacobian, axis=1) > 0
    rows, sizes = jacobian[kept], np.linalg.norm(jacobian[kept], axis=1)
    got = {name: hard[name][n][kept] for name in ("mgda", "upgrad", "dualproj")}
    want = len(rows) * jacobians.shortest(rows)
    near(got["mgda"] @ rows, want @ rows, want @ sizes, 2e-5)
    for name in ("upgrad", "dualproj"):
      weighed = np.abs(got[name]) @ sizes
      near(got[name] @ rows, getattr(jacobians, name)(rows), weighed, 2e-5)


@pytest.mark.parametrize("name, alpha", [("nash", 1.0), ("fairgrad", 2.0)])
def test_fair_shares_solve_their_equation(hard, name, alpha):
  """But where zero lies in the hull of the gradients: then there is no solution."""
  for n, jacobian in enumerate(HARD):
    if n in (2, 3, 5, 7, 8, 9, 15, 19):
      continue
    kept = np.linalg.norm(jacobian, axis=1) > 0
    if name == "fairgrad" and n == 11:
      continue  # 1e12 between rows: beyond float32
    lengths, product = jacobians.cosines(jacobian[kept])
    found = hard[name][n][kept] * lengths
    want = lengths ** (1 / alpha - 1) * found ** (-1 / alpha)
    np.testing.assert_allclose(product @ found, want, 2e-4, 1e-6 * np.abs(found).sum())


def test_two_tasks_by_hand():
  """Lengths 1 and 2, cosine -0.5."""
  rows = np.array([[1.0, 0.0], [-1.0, np.sqrt(3.0)]])
  found = {name: value[0] for name, value in weights([rows]).items()}
  for name, want in {
    "nash": [np.sqrt(2), np.sqrt(2) / 2],
    "pcgrad": [2.0, 1.25],
    "upgrad": [2.0, 1.25],
    "imtl_g": [4 / 3, 2 / 3],
    "mgda": [10 / 7, 4 / 7],
    "unit": [1.0, 0.5],
    "dualproj": [1.0, 1.0],
  }.items():
    np.testing.assert_allclose(found[name], want, 1e-5, err_msg=name)


def test_hard_gradients_give_numbers(hard):
  """All are finite, see `weights`; where nothing pulls, weights are those of the configuration."""
  for name in ENTRIES:
    np.testing.assert_array_equal(hard[name][5], 1.0)


def test_a_mixture_whose_length_rounds_to_nothing():
  """Opposed gradients of such lengths that a corner of SDMGrad's mixtures is zero."""
  balancer = find("sdmgrad", 2)
  least = 0.15 / 1.3  # 0.3 / (2 * 1.3)
  long = np.linspace(0.99, 1.01, 400) * (1 - least) / least
  rows = np.stack([np.stack([long, -np.ones_like(long)]), np.zeros((2, 400))], 1).T  # [N, P, K]
  rows = (rows * np.float32(0.37)).astype(np.float32)
  told = balancing.Losses(jnp.ones(2), jnp.ones(2, bool), (1.0, 1.0))
  weigh = lambda row: balancer.weigh(told, row.T @ row, None, {})[0]
  found = jax.jit(jax.vmap(weigh))(jnp.asarray(rows))
  share = found / found.sum(1, keepdims=True)
  wanted = np.clip(1 / (1 + long), least, None)
  np.testing.assert_allclose(share[:, 0], wanted, 2e-3)


def test_forty_tasks():
  jacobian = np.random.default_rng(3).normal(size=(40, 60)) * 10 ** np.linspace(-3, 3, 40)[:, None]
  gramian = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
  names = ("nash", "upgrad")
  told = balancing.Losses(jnp.ones(40), jnp.ones(40, bool), (1.0,) * 40)
  of = {name: find(name, 40) for name in names}
  run = jax.jit(lambda g: {n: b.weigh(told, g, jax.random.key(0), {})[0] for n, b in of.items()})
  for name, found in run(gramian).items():
    update = np.asarray(found, np.float64) @ jacobian
    np.testing.assert_allclose(
      np.linalg.norm(update), np.linalg.norm(jacobian.sum(0)), 1e-3, err_msg=name
    )


SCALES = st.lists(st.floats(-2, 2), min_size=4, max_size=4)


@hypothesis.settings(max_examples=5, deadline=None, derandomize=True)
@hypothesis.given(seed=st.integers(0, 10**6), scales=SCALES, common=st.sampled_from([1e-3, 1e4]))
def test_promises(seed, scales, common):
  """Invariances, order of tasks, absent rows, no ascent, lengths."""
  draw = np.random.default_rng(seed)
  jacobian = draw.normal(size=(4, 12))
  factors = 10 ** np.array(scales)[:, None]
  order = draw.permutation(4)
  absent = np.insert(jacobian, 2, 0.0, axis=0)
  agree = np.abs(jacobian)
  problems = [jacobian, factors * jacobian, jacobian[order], absent, common * jacobian, agree]
  found = weights(problems)
  update = lambda name, n: found[name][n] @ problems[n]
  same = lambda name, a, b: near(a, b, max(map(np.linalg.norm, (a, b))), 2e-4)
  unit = lambda v: v / np.linalg.norm(v)
  for name in found:
    # The order of tasks does not matter, but to surgery; absent ones change nothing.
    if name not in ("gradvac", "pcgrad", "pcgrad_ascending"):
      same(name, update(name, 2), update(name, 0))
    if name not in ("gradvac", "pcgrad", "modo", "smooth_modo"):
      same(name, update(name, 3), update(name, 0))
  for name in ("nash", "unit", "mgda_l2", "fairgrad_1"):
    same(name, update(name, 1), update(name, 0))
    same(name, update(name, 4), update(name, 0))
  for name in ("imtl_g", "config"):
    same(name, unit(update(name, 1)), unit(update(name, 0)))
  for name in ("mgda", "upgrad", "cagrad", "dualproj", "aligned", "config", "sdmgrad"):
    same(name, found[name][4], found[name][0])
  for name in ("upgrad", "dualproj", "mgda", "nash", "fairgrad", "config"):
    moved = unit(update(name, 0))
    assert (jacobian @ moved >= -1e-5 * np.linalg.norm(jacobian, axis=1)).all(), name
  for name in ("upgrad", "dualproj", "pcgrad"):
    np.testing.assert_allclose(found[name][5], 1.0, 1e-5)
  np.testing.assert_allclose(np.linalg.norm(update("nash", 0)), 2.0, 1e-5)
  plain = np.linalg.norm(jacobian.sum(0))
  np.testing.assert_allclose(np.linalg.norm(update("plain_nash", 0)), plain, 1e-4)
  np.testing.assert_allclose(np.abs(found["smooth_modo"][0]).sum(), 4.0, 1e-5)


def replay(name, entries, after=False, labelled=None, start=None, **values):
  """Weights of successive steps at level losses, and the last state."""
  balancer = find(name, len(entries[0]), **values)
  state = balancer.init(len(entries[0]), 1)
  if start is not None:
    state["algorithm"]["value"] = jnp.asarray(start)
  there = jnp.ones(len(entries[0]), bool) if labelled is None else jnp.asarray(labelled)
  told = lambda values: balancing.Losses(jnp.asarray(values), there, (1.0,) * len(entries[0]))
  weigh = jax.jit(lambda v, s: balancer.weigh(told(v), None, jax.random.key(0), s))
  found = []
  for n, entry in enumerate(entries):
    before = shapes(state)
    got, state = weigh(jnp.asarray(entry, jnp.float32), state)
    assert shapes(state) == before
    if after:
      state = balancer.after(told(entry), told(entries[min(n + 1, len(entries) - 1)]), state)
    found.append(np.asarray(got))
  return np.array(found), state


def test_losses_against_reference_numbers(reference):
  entries = np.array(reference["losses"], np.float32)
  want = lambda name: np.array([call["weights"] for call in reference["scalarizers"][name]])
  for name, theirs, factor, values in (
    ("geometric", "GeometricMean", 3, {}),
    ("stch_torchjd", "STCH_mu1", 9, {}),
    ("stch_torchjd", "STCH_mu0.1", 9, {"stch_mu": 0.1}),
    ("dwa", "DWA_T2_one_batch_an_epoch", 1, {}),
  ):
    got = replay(name, entries, **values)[0]
    np.testing.assert_allclose(got, want(theirs) * factor, 2e-5, 1e-6, err_msg=theirs)
  start = [0.2, -0.3, 1.0]
  for name, theirs in (("uncertainty", "UW_logvar_0.2_-0.3_1"), ("imtl_l", "IMTLL_s_0.2_-0.3_1")):
    got = replay(name, entries[:1], start=start)[0]
    np.testing.assert_allclose(got[0], want(theirs)[0], 1e-5)
  got, state = replay("famo", entries, after=True)
  np.testing.assert_allclose(got, 3 * want("FAMO_then_update_with_next"), 1e-4)
  np.testing.assert_allclose(
    state["algorithm"]["value"], reference["scalarizers"]["FAMO_final_logits"], 1e-3
  )


def test_losses_by_hand():
  one = lambda name, losses, **values: replay(name, [losses], **values)[0][0]
  np.testing.assert_allclose(one("fixed", [2.0, 3.0]), 1.0)
  np.testing.assert_allclose(one("log", [2.0, 0.5]), [0.5, 2.0])
  np.testing.assert_allclose(one("fixed", [2.0, 0.5], normalise="log"), [0.5, 2.0])
  np.testing.assert_allclose(one("fixed", [2.0, 0.5], length="sum"), 1.0)
  np.testing.assert_allclose(one("log", [1.0, 4.0], offset=-1.0), [0.5, 0.2])
  np.testing.assert_allclose(one("uncertainty_closed", [2.0, 0.5]), [0.25, 1.0], 1e-6)
  np.testing.assert_allclose(one("geometric", [4.0, 1.0]), [0.5, 2.0], 1e-6)
  np.testing.assert_allclose(one("go4align", [1.0, 1.0, 4.0]), [2.0, 2.0, 0.5], 1e-3)
  np.testing.assert_allclose(one("stch_torchjd", [np.log(9.0), 0.0]), [1.5, 0.5], 1e-6)
  np.testing.assert_allclose(one("random", [1.0, 5.0, 7.0]).sum(), 3.0, 1e-6)
  # Warm-up, the mean 1 of the reference epoch, then shares of log(L / N).
  got = replay("stch", [[2.0, 4.0], [1.0, 1.0], [2.0, 1.0]], stch_warmup=1)[0]
  np.testing.assert_allclose(got, [[0.5, 0.25], [1.0, 1.0], [2 / 3, 2 / 3]], 1e-6)
  # A half of the past, exact from the first step: 1, then (1 + 2 * 0.25) / 3 of 1 / L.
  got = replay("log", [[1.0], [4.0]], smooth=0.5)[0]
  np.testing.assert_allclose(got[:, 0], [1.0, 0.5])


def test_what_is_kept_of_gradients():
  """By hand: one leaf of one element; the second task has no label in the second step."""
  steps = [([3.0], [0.0]), ([4.0], [5.0]), ([4.0], [4.0])]
  wanted = {
    # 3, then 3 + (4 - 3) / 2, then 3.5 + (4 - 3.5) / 2; 0 stays, then 0 + (4 - 0) / 2.
    "moco": ([[3.0], [3.5], [3.75]], [[0.0], [0.0], [2.0]], [0.0, 0.0]),
    # 16 / sqrt(9 + 16 + 16), 16 / sqrt(16).
    "excess": ([[3.0], [4.0], [4.0]], [[0.0], [0.0], [4.0]], [16 / np.sqrt(41.0), 4.0]),
  }
  for name, (first, second, told) in wanted.items():
    balancer = find(name, 2, moco_beta=0.5, excess_lr=1.0, length="own")
    state, run = balancer.init(2, 1, [jnp.zeros(1)]), jax.jit(balancer.track)
    for n, rows in enumerate(steps):
      losses = balancing.Losses(jnp.ones(2), jnp.array([True, n != 1]), (1.0, 1.0))
      rows = [[jnp.array(row)] for row in rows]
      found, state = run(rows, losses, [jnp.array(True)], state)
      np.testing.assert_allclose([found[0][0], found[1][0]], [first[n], second[n]], 1e-6)
    np.testing.assert_allclose(state["told"], told, 1e-6)
  # v moves by E / E(0): 0 in the first step, then 16 / 5 / 3.
  both = balancing.Losses(jnp.ones(2), jnp.ones(2, bool), (1.0, 1.0))
  state = {**balancer.init(2, 1, [jnp.zeros(1)]), "told": jnp.array([3.0, 2.0])}
  weights, state = balancer.weigh(both, jnp.eye(2), None, state)
  np.testing.assert_allclose(weights, 1.0)
  weights, _ = balancer.weigh(both, jnp.eye(2), None, {**state, "told": jnp.array([3.2, 2.0])})
  np.testing.assert_allclose(weights[0] / weights[1], np.exp(16 / 15 - 1), 1e-5)


def test_weights_that_look_ahead():
  """Adam's first step is its rate, towards more of what makes losses smaller."""
  balancer = find("autolambda", 2, autolambda_lr=0.01)
  losses = balancing.Losses(jnp.ones(2), jnp.ones(2, bool), (1.0, 2.0))
  state = balancer.init(2, 1)
  weights, prior, rate = balancer.ahead(state, losses.prior)
  np.testing.assert_allclose([*weights, *prior, rate], [1.0, 2.0, 1.0, 2.0, 0.01], 1e-6)
  weights, _ = balancer.weigh(losses, jnp.array([-3.0, 0.1]), None, state)
  np.testing.assert_allclose(weights, [1.1, 2 * 0.9], 1e-5)


@pytest.mark.parametrize(
  "name",
  [
    n
    for n in balancing.available()
    if find(n).level == "losses" and n not in ("fixed", "autolambda")
  ],
)
def test_an_absent_task_leaves_the_problem(name, same_bits):
  """The others' weights are those of the smaller problem, and its state stays."""
  entries = np.array([[2.0, 3.0, 0.0], [1.0, 4.0, 0.0], [0.5, 2.0, 0.0]], np.float32)
  labelled = [True, True, False]
  got, state = replay(name, entries, find(name).after is not None, labelled)
  assert (got[:, 2] == 0).all()
  if name != "random":
    want = replay(name, entries[:, :2], find(name).after is not None)[0]
    np.testing.assert_allclose(got[:, :2], want, 1e-5)
  third = lambda tree: [leaf[2] for leaf in jax.tree.leaves(tree) if leaf.ndim]
  same_bits(third(state), third(find(name).init(3, 1)))


def test_weights_of_the_configuration():
  """Factors of the result for methods to which a loss's factor says nothing, else of rows."""
  losses, there = jnp.array([2.0, 4.0]), jnp.ones(2, bool)
  got = find("log", 2).weigh(balancing.Losses(losses, there, (3.0, 1.0)), None, None, {})[0]
  np.testing.assert_allclose(got, [1.5, 0.25])
  gramian = jnp.array([[1.0, 0.0], [0.0, 4.0]])
  told = balancing.Losses(losses, there, (3.0, 1.0))
  wanted = {
    "nash": [np.sqrt(3.0), 0.5],  # w = sqrt(p) / d
    "config": [3.0 * 5 / 10, 0.5 * 5 / 10],
    "mgda": [3 * 8 / 5, 2 / 5],
    "upgrad": [3.0, 1.0],
  }
  of = {name: find(name, 2, length="own") for name in wanted}
  run = jax.jit(lambda g: {name: b.weigh(told, g, None, {})[0] for name, b in of.items()})
  for name, got in run(gramian).items():
    np.testing.assert_allclose(got, wanted[name], 1e-5, err_msg=name)
  # A weight of 0 leaves the problem, too.
  told = balancing.Losses(losses, there, (0.0, 1.0))
  np.testing.assert_allclose(find("log", 2).weigh(told, None, None, {})[0], [0.0, 0.25])
  assert find("fixed", 2).weigh(told, None, None, {}) == ((0.0, 1.0), {})


def test_what_cannot_run_is_refused(monkeypatch):
  with pytest.raises(ValueError, match=r"config.balance.name is 'nahs'.*Did you mean 'nash'"):
    find("nahs")
  with pytest.raises(ValueError, match="'log' takes out the size of the losses itself"):
    find("log", normalise="unit")
  with pytest.raises(ValueError, match=r"'graddrop' has no weights .*smooth=0.0"):
    find("graddrop", smooth=0.5)
  for name, values, message in (
    ("autolambda", {"length": "plain"}, "'autolambda' weighs losses by what they are after a step"),
    ("graddrop", {"features": True}, "'graddrop' needs every element .*features=False"),
    ("log", {"features": True}, "'log' reads losses alone: set config.balance.features=False"),
    ("moco", {"every": 2}, "'moco' makes a new update .*: set config.balance.every=1"),
    ("log", {"every": 2}, "'log' reads losses alone: set config.balance.every=1"),
  ):
    with pytest.raises(ValueError, match=message):
      find(name, **values)
  monkeypatch.setattr(type(kinds.find("number")), "lowest", -1.0)
  for name, values in (("famo", {}), ("fixed", {"normalise": "log"}), ("log", {"offset": -0.5})):
    with pytest.raises(ValueError, match=rf"'{name}' .*task 't0' \(kind 'number'\) can be -1.0"):
      find(name, **values)
  find("log", offset=-1.0)
  find("nash")


def test_every_balancer_tells_what_it_is():
  for name in balancing.available():
    module = importlib.import_module(f"{balancing.__name__}.{name}")
    assert all(part in module.__doc__ for part in ("Source: ", "Invariances: ", "Example: ")), name


def test_nearest_point_of_a_simplex():
  found = ops.simplex(jnp.array([0.9, 0.5, 7.0, -1.0]), jnp.array([True, True, False, True]))
  np.testing.assert_allclose(found, [0.7, 0.3, 0.0, 0.0], 1e-6)
