"""Fused columns: what a column reads of the others, by hand and at its limits."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax import numpy as jnp
from models.conftest import QUICK
import numpy as np
import pytest

from dynashare_jax.models import fusions
from dynashare_jax.models.backbones import base
from dynashare_jax.models.backbones import mlp
from dynashare_jax.models.backbones import resnet
from dynashare_jax.models.trunks import columns
from dynashare_jax.models.trunks import fused

PASS = base.Pass(True, jnp.ones((1,)))
PICTURES = resnet.ResNet(2, (1, 1), (4, 6), (1, 2), (1, 1), "small")
VECTORS = mlp.ResidualMlp(2, width=6, hidden=8, dropout=0.0)
KINDS = {"pictures": (PICTURES, (3, 8, 8, 3)), "vectors": (VECTORS, (3, 5))}


def _trunk(
  backbone: Any, fusion: Any = fusions.Stitch, tasks: int = 2, stem: bool = False, **more: Any
) -> fused.FusedColumnTrunk:
  fuse = (fusion() if stem else None, *(fusion() for _ in range(backbone.num_blocks)))
  return fused.FusedColumnTrunk(tuple(backbone.clone() for _ in range(tasks)), fuse, **more)


@functools.partial(jax.jit, static_argnums=(0, 3), compiler_options=QUICK)
def _value(trunk: Any, variables: Any, inputs: Any, train: bool) -> Any:
  """Features, signals, new statistics, and gradients of a sum that weighs the tasks apart."""

  def loss(params: Any) -> Any:
    (features, signals), changed = trunk.apply(
      {**variables, "params": params}, inputs, (), train, mutable=["batch_stats"]
    )
    total = sum((t + 1) * jnp.square(f).mean() for t, f in enumerate(features))
    return total, (jnp.stack(features), signals, changed.get("batch_stats", {}))

  return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def _made(trunk: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
  """Variables away from 0 and 1, and inputs."""
  inputs = jax.random.uniform(jax.random.key(1), shape)
  variables = jax.jit(lambda k: trunk.init(k, inputs, (), False), compiler_options=QUICK)(
    jax.random.key(0)
  )
  leaves, tree = jax.tree.flatten(variables["params"])
  moved = [x + 0.1 * jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(leaves)]
  return {**variables, "params": jax.tree.unflatten(tree, moved)}, inputs


def _with_alpha(variables: Any, matrix: Any) -> Any:
  """The variables with one mixture everywhere."""
  change = lambda path, x: matrix if path[-1].key == "alpha" else x
  params = jax.tree_util.tree_map_with_path(change, variables["params"])
  return {**variables, "params": params}


def _stitched(stitch: fusions.Stitch, alpha: Any, *x: Any) -> np.ndarray:
  found = stitch.apply({"params": {"alpha": jnp.asarray(alpha)}}, _features(*x), PASS)
  return np.stack([np.asarray(a)[0, 0] for a in found])


def _features(*x: Any) -> list[jax.Array]:
  return [jnp.asarray(a, jnp.float32)[None, None] for a in x]


# What a fusion computes.


@pytest.mark.parametrize(
  "own, wanted", [(0.5, ([2.0], [2.0])), (0.9, ([1.2], [2.8])), (1.0, ([1.0], [3.0]))]
)
def test_a_stitch_starts_with_rows_that_sum_to_one(own, wanted):
  stitch = fusions.Stitch(own=own)
  x = _features([1.0], [3.0])
  found, _ = stitch.init_with_output(jax.random.key(0), x, PASS)
  np.testing.assert_allclose([a[0, 0] for a in found], wanted, rtol=1e-6)


def test_a_row_belongs_to_the_task_that_reads():
  found = _stitched(fusions.Stitch(), [[1.0, 2.0], [3.0, 4.0]], [1.0], [10.0])
  np.testing.assert_allclose(found, [[21.0], [43.0]])


def test_every_channel_has_its_own_mixture():
  alpha = np.zeros((2, 2, 2))
  alpha[0, 1] = [1.0, 0.0]
  alpha[1, 0] = [0.0, 2.0]
  found = _stitched(fusions.Stitch(channels=True), alpha, [1.0, 2.0], [3.0, 4.0])
  np.testing.assert_allclose(found, [[3.0, 0.0], [0.0, 4.0]])


def test_subspaces_are_contiguous_parts_of_a_column():
  stitch, x = fusions.Stitch(subspaces=2), ([1.0, 2.0], [3.0, 4.0])
  np.testing.assert_allclose(_stitched(stitch, np.full((4, 4), 0.25), *x), np.full((2, 2), 2.5))
  wide = (np.arange(4.0), 10 + np.arange(4.0))
  swapped = np.eye(4)[[3, 1, 2, 0]]  # the first half of task 0 with the last of task 1
  np.testing.assert_allclose(_stitched(stitch, swapped, *wide), [[12, 13, 2, 3], [10, 11, 0, 1]])


def test_one_task_reads_itself():
  np.testing.assert_array_equal(fusions.start(1, 0.9), [[1.0]])
  np.testing.assert_allclose(fusions.start(3, 0.8).sum(1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("kernel, wanted", [(np.eye(2), 0.0), (np.ones((2, 2)), 4.0)])
def test_the_overlap_of_halves(kernel, wanted):
  assert float(fusions.overlap(jnp.asarray(kernel))) == wanted


def test_a_reduction_starts_as_a_mixture_of_the_same_channel():
  """Its norm neutral: mean 0 and variance 1 - epsilon, so that nothing is changed."""
  x = _features([1.0, 2.0], [3.0, 4.0])
  reduction = fusions.Reduction()
  variables = reduction.init(jax.random.key(0), x, PASS._replace(train=False))
  stats = {f"norm_{k}": {"mean": jnp.zeros(2), "var": jnp.full(2, 1 - 1e-5)} for k in range(2)}
  found = reduction.apply(variables | {"batch_stats": stats}, x, PASS._replace(train=False))
  np.testing.assert_allclose([a[0, 0] for a in found], [[1.2, 2.2], [2.8, 3.8]], rtol=1e-6)
  # [in, C, out, C]: what column 1 reads of the first channel of column 0 in its second.
  kernel = np.zeros((2, 2, 2, 2))
  kernel[0, 0, 1, 1] = 5.0
  variables["params"]["kernel"] = jnp.asarray(kernel, jnp.float32)
  found = reduction.apply(variables | {"batch_stats": stats}, x, PASS._replace(train=False))
  np.testing.assert_allclose([a[0, 0] for a in found], [[0.0, 0.0], [0.0, 5.0]], rtol=1e-6)


def test_features_of_both_signs_keep_them_in_a_reduction():
  x = _features([-1.0, 1.0], [-3.0, 3.0])
  found, _ = fusions.Reduction(rectified=False).init_with_output(jax.random.key(0), x, PASS)
  assert float(found[0].min()) < 0
  found, _ = fusions.Reduction().init_with_output(jax.random.key(0), x * 2, PASS)
  assert min(float(a.min()) for a in found) >= 0


def test_heads_start_with_the_last_layer_and_can_read_earlier_ones():
  x = [_features([1.0], [2.0]), _features([10.0], [20.0])]
  found, variables = fusions.LayerMix().init_with_output(jax.random.key(0), x)
  np.testing.assert_array_equal([a[0, 0] for a in found], [[10.0], [20.0]])
  beta = jnp.asarray([[0.5, 0.1], [1.0, 0.0]])
  found = fusions.LayerMix().apply({"params": {"beta": beta}}, x)
  np.testing.assert_allclose([a[0, 0] for a in found], [[1.5], [2.0]])
  assert variables["params"]["beta"].shape == (2, 2)


# What a fused network computes.


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_an_identity_equals_single_task_networks(kind, train, same_bits):
  backbone, shape = KINDS[kind]
  trunk = _trunk(backbone, functools.partial(fusions.Stitch, own=1.0))
  variables, inputs = _made(trunk, shape)
  variables = _with_alpha(variables, jnp.eye(2))
  alone = columns.ColumnTrunk(tuple(backbone.clone() for _ in range(2)))
  only = lambda tree: {k: v for k, v in tree.items() if k.startswith("columns")}
  theirs = {name: only(tree) for name, tree in variables.items()}
  (_, (features, _, stats)), grads = _value(trunk, variables, inputs, train)
  (_, (wanted, _, moved)), slopes = _value(alone, theirs, inputs, train)
  np.testing.assert_array_equal(features, wanted)
  same_bits(only(stats), moved)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), only(grads), slopes
  )


def test_neutral_reductions_equal_single_task_networks_at_test():
  trunk = _trunk(PICTURES, functools.partial(fusions.Reduction, own=1.0), stem=True)
  variables, inputs = _made(trunk, KINDS["pictures"][1])
  fresh = trunk.init(jax.random.key(0), inputs, (), False)
  for place in range(3):
    name = f"fuse_{place}"
    variables["params"][name] = fresh["params"][name]
    for norm in variables["batch_stats"][name].values():
      norm["var"] = jnp.full_like(norm["var"], 1 - 1e-5)
  alone = columns.ColumnTrunk(tuple(PICTURES.clone() for _ in range(2)))
  only = lambda tree: {k: v for k, v in tree.items() if k.startswith("columns")}
  (_, (features, *_)), _ = _value(trunk, variables, inputs, False)
  theirs = {name: only(tree) for name, tree in variables.items()}
  (_, (wanted, *_)), _ = _value(alone, theirs, inputs, False)
  np.testing.assert_allclose(features, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fusion", [fusions.Stitch, fusions.Reduction])
def test_the_order_of_the_tasks_does_not_matter(fusion):
  trunk = _trunk(PICTURES, fusion, stem=True)
  variables, inputs = _made(trunk, KINDS["pictures"][1])

  def turned(path: Any, x: Any) -> Any:
    name = path[-1].key
    if name == "alpha":
      return x[::-1, ::-1]
    return x[::-1, :, ::-1] if name == "kernel" and x.shape[:1] == (2,) and x.ndim == 4 else x

  swap = {"columns_0": "columns_1", "columns_1": "columns_0", "norm_0": "norm_1"} | {
    "norm_1": "norm_0"
  }
  fuse = lambda tree: {swap.get(k, k): v for k, v in tree.items()}
  renamed = {
    name: {
      swap.get(k, k): fuse(v) if k.startswith("fuse") else v
      for k, v in jax.tree_util.tree_map_with_path(turned, tree).items()
    }
    for name, tree in variables.items()
  }
  (_, (features, *_)), _ = _value(trunk, variables, inputs, True)
  (_, (other, *_)), _ = _value(trunk, renamed, inputs, True)
  np.testing.assert_allclose(features, other[::-1], rtol=1e-4, atol=1e-5)


def test_every_column_moves_for_every_task():
  """A task's gradient reaches the other column through the mixtures alone."""
  trunk = _trunk(VECTORS)
  variables, inputs = _made(trunk, (3, 5))
  one = lambda p: jnp.square(trunk.apply({"params": p}, inputs, (), True)[0][0]).sum()
  slope = jax.jit(jax.grad(one), compiler_options=QUICK)
  grads = slope(variables["params"])
  assert float(jnp.abs(grads["columns_1"]["block_0"]["widen"]["kernel"]).max()) > 0
  apart = _with_alpha(variables, jnp.eye(2))["params"]
  grads = slope(apart)
  assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(grads["columns_1"]))


def test_the_penalty_is_that_of_the_last_layer_of_every_block():
  trunk = _trunk(PICTURES, functools.partial(fusions.Stitch, 2), orthogonal=0.5)
  variables, inputs = _made(trunk, KINDS["pictures"][1])
  (_, (_, signals, _)), _ = _value(trunk, variables, inputs, True)
  wanted = 0.0
  for column in ("columns_0", "columns_1"):
    for block in ("block_0", "block_1"):
      kernel = np.asarray(variables["params"][column][block]["conv_1"]["kernel"], np.float64)
      matrix = kernel.reshape(-1, kernel.shape[-1])
      half = matrix.shape[1] // 2
      wanted += np.square(matrix[:, :half].T @ matrix[:, half:]).sum()
  np.testing.assert_allclose(signals.charges["orthogonal"], 0.5 * wanted, rtol=1e-5)


def test_columns_start_alike_or_not():
  inputs = jnp.zeros((2, 5))
  for aligned in (True, False):
    trunk = _trunk(VECTORS, aligned=aligned)
    params = trunk.begin(trunk.init(jax.random.key(0), inputs, (), False)["params"])
    first, second = (params[f"columns_{k}"]["project"]["kernel"] for k in range(2))
    assert bool((first == second).all()) == aligned
    assert set(params) == {"columns_0", "columns_1", "fuse_1", "fuse_2"}


def test_no_column_belongs_to_one_task():
  trunk = _trunk(VECTORS)
  assert trunk.only((0,)) is None
  assert {leaf.owner for leaf in trunk.leaves().values()} == {None}
