"""Batch norms that are each task's own: their limits, whose rows they read, and what they count."""

from __future__ import annotations

import functools

import jax
from jax import numpy as jnp
from models.conftest import QUICK
import numpy as np
import pytest
from train.stepper import Stepper

from dynashare_jax.models import norm
from dynashare_jax.models.backbones import vgg
from dynashare_jax.models.trunks import contract
from dynashare_jax.models.trunks import normed
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import costs
from dynashare_jax.ops import routing

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, (2, 6, 3, 5)).astype(np.float32)
PARAMS = {name: RNG.normal(size=(2, 5)).astype(np.float32) for name in ("scale", "bias")}
STATS = {
  "mean": RNG.normal(size=(2, 5)).astype(np.float32),
  "var": RNG.uniform(1, 2, (2, 5)).astype(np.float32),
}
TINY = {
  "data__images": True,
  "model__backbone": "vgg",
  "model__blocks": (1, 1),
  "model__widths": (4, 6),
  "model__norm": "task",
}


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _run(kind, at_test, params, stats, x, mask=None):
  module = {"task": norm.TaskNorm, "batch": norm.GroupedBatchNorm}[kind]()
  inside = lambda tree: {"tasks": tree} if kind == "task" else tree
  variables = {"params": inside(params), "batch_stats": inside(stats)}
  ones = jnp.ones((len(x),))
  y, changed = module.apply(variables, x, ones, at_test, mask, mutable=["batch_stats"])
  changed = changed["batch_stats"]
  return y, changed["tasks"] if kind == "task" else changed


@pytest.mark.parametrize("at_test", [False, True])
def test_of_one_task_it_is_the_ordinary_norm_bit_for_bit(at_test):
  rows = lambda tree, t: {name: leaf[t : t + 1] for name, leaf in tree.items()}
  plain = lambda tree, t: {name: leaf[t] for name, leaf in tree.items()}
  both, stats = _run("task", at_test, PARAMS, STATS, X)
  for t in range(2):
    own = _run("task", at_test, rows(PARAMS, t), rows(STATS, t), X[t : t + 1])
    wanted = _run("batch", at_test, plain(PARAMS, t), plain(STATS, t), X[t : t + 1])
    np.testing.assert_array_equal(own[0], wanted[0])
    np.testing.assert_array_equal(both[t : t + 1], wanted[0])
    for name in STATS:
      np.testing.assert_array_equal(own[1][name][0], wanted[1][name])
      np.testing.assert_array_equal(stats[name][t], wanted[1][name])


def test_a_task_reads_its_own_rows_alone():
  """As if the others were not in the batch; without any it keeps its running averages."""
  mask = np.asarray([[1, 0, 1, 0, 1, 0], [0] * 6], bool)
  shared = X[:1]
  y, stats = _run("task", False, PARAMS, STATS, np.repeat(shared, 2, 0), mask)
  alone, wanted = _run("task", False, PARAMS, STATS, np.repeat(shared[:, ::2], 2, 0))
  np.testing.assert_allclose(y[0, ::2], alone[0], rtol=1e-5, atol=1e-5)
  for name in STATS:
    np.testing.assert_allclose(stats[name][0], wanted[name][0], rtol=1e-5)
    np.testing.assert_array_equal(stats[name][1], STATS[name][1])
  whole, _ = _run("task", False, PARAMS, STATS, np.repeat(shared, 2, 0))
  np.testing.assert_allclose(y[1], whole[1], rtol=1e-5, atol=1e-5)


def test_vgg_16_counts_with_20_norms():
  """20 heads of 5; every task runs all of it."""
  net = vgg.Vgg((1, 2, 3, 3, 3), (64, 128, 256, 512, 512), "task")
  trunk = normed.NormedTrunk(net, 20)
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  made = lambda x: trunk.init_with_output(jax.random.key(0), x, (), False)
  work, ((features, _), variables) = costs.traced(made, x)
  count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert count + 20 * (512 * 5 + 5) == 14_934_948
  assert [f.shape for f in features] == [(1, 2, 2, 512)] * 20
  first = 32 * 32 * 27 * 64  # before the first norm
  assert work == first + 20 * (313_196_544 - first)


def _lifted(tree):
  """Variables with ordinary norms as with those of one task."""
  wide = lambda of: jax.tree.map(lambda leaf: leaf[None], of)
  if not isinstance(tree, dict):
    return tree
  return {k: {"tasks": wide(v)} if k == "norm" else _lifted(v) for k, v in tree.items()}


def test_with_one_task_hard_sharing_is_as_with_ordinary_norms():
  net = vgg.Vgg((1, 1), (4, 6))
  own = normed.NormedTrunk(net.clone(norm_kind="task"), 1)
  plain = skip_trunk.SkipTrunk(net, 1, (False,) * 2)
  x = jax.random.uniform(jax.random.key(1), (3, 8, 8, 3))

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(key, x):
    every = skip_trunk.Decisions(routing.all_run(2, 1))
    v = plain.init(key, x, every, True)
    wide = _lifted(v)
    (a, _), changed = plain.apply(v, x, every, True, mutable=["batch_stats"])
    (b, _), moved = own.apply(wide, x, (), True, mutable=["batch_stats"])
    return a, b, _lifted(changed), moved

  a, b, changed, moved = run(jax.random.key(0), x)
  np.testing.assert_array_equal(a[0], b[0])
  jax.tree.map(np.testing.assert_array_equal, changed, moved)
  assert np.ptp(a[0]) > 0.1


def test_a_network_of_some_tasks_gives_what_the_whole_gave_them():
  whole = normed.NormedTrunk(vgg.Vgg((1, 1), (4, 6), "task"), 3)
  x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
  shapes = jax.eval_shape(lambda: whole.init(jax.random.key(0), x, (), False))
  variables = jax.tree.map(lambda a: RNG.uniform(0.5, 1.5, a.shape).astype(np.float32), shapes)
  (two, names), (last, _) = whole.only((2, 0)), whole.only((2, 0))[0].only((1,))
  assert names == {"backbone": "backbone"}

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(v, x):
    return [trunk.apply(v, x, (), False)[0] for trunk in (whole, two, last)]

  every, some, first = run(variables, x)
  for found, wanted in zip((*some, *first), (every[2], every[0], every[0]), strict=True):
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
  assert np.abs(every[0] - every[2]).max() > 0.1
  work = lambda trunk: costs.macs(lambda v, x: trunk.apply(v, x, (), False)[0], variables, x)
  stem = 2 * 64 * 27 * 4
  assert work(last) - stem == (work(whole) - stem) / 3


@pytest.mark.parametrize("method", ["hard", "single"])
def test_a_step_on_one_tasks_data_leaves_the_others_norms_as_they_are(build, method):
  experiment = build(method=method, **TINY, optimizers__retrain__weight_decay=0.0)
  first, other = (task.name for task in experiment.tasks[:2])
  stepper = Stepper(experiment, "retrain")
  before = stepper.start()
  old = jax.device_get((before.params["network"]["trunk"], before.stats["trunk"]))
  batch = experiment.dataset.arrays("train")
  none = {name: np.zeros_like(valid) for name, valid in batch.valid.items() if name != first}
  after, parts = stepper(before, batch=batch._replace(valid={**batch.valid, **none}))
  new = jax.device_get((after.params["network"]["trunk"], after.stats["trunk"]))
  leaves = zip(jax.tree_util.tree_leaves_with_path(new), jax.tree.leaves(old), strict=True)
  norms = 0
  for (path, found), was in leaves:
    name = jax.tree_util.keystr(path)
    if "norm" not in name:
      continue
    norms += 1
    if method == "single":  # of a column
      assert (found != was).any() == ("columns_0" in name), name
    else:
      np.testing.assert_array_equal(found[1:], was[1:], name)
      assert (found[0] != was[0]).any(), name
  assert norms == 12 * (len(experiment.tasks) if method == "single" else 1)
  assert np.isfinite(parts[f"loss/{first}"]).all() and other in none


@pytest.mark.parametrize(
  "values, message",
  [
    (
      {"method": "adashare"},
      "config.method='adashare' computes features for several tasks at once",
    ),
    ({"method": "mtan"}, "config.method='mtan' computes features for several tasks at once"),
    (
      {"method": "hard", "model__backbone": "vit", "model__patch": 4, "model__attention_heads": 2},
      "config.model.backbone='vit' has none to choose: use 'batch'",
    ),
  ],
)
def test_what_has_no_norms_of_tasks_is_refused(build, values, message):
  resnet = {"model__backbone": "resnet", "model__strides": (1, 1), "model__dilations": (1, 1)}
  with pytest.raises(
    ValueError, match=f"config.model.norm='task' gives every task norms.*{message}"
  ):
    build(**{**TINY, **resnet, **values})


def test_rows_go_with_inputs():
  rows = jnp.ones((2, 3), bool)
  assert contract.unlabelled(contract.Labelled(1, rows)) == (1, rows)
  assert contract.unlabelled({"length": 1}) == ({"length": 1}, None)
