"""Gated columns: their limits, and that what is cut out was of no use."""

from __future__ import annotations

import functools
from typing import Any

from flax import traverse_util
import jax
from jax import numpy as jnp
from models.conftest import QUICK
import numpy as np
import pytest

from dynashare_jax.models import norm
from dynashare_jax.models.backbones import mlp
from dynashare_jax.models.backbones import resnet
from dynashare_jax.models.backbones import tcn
from dynashare_jax.models.backbones import vgg
from dynashare_jax.models.backbones import vit
from dynashare_jax.models.trunks import columns
from dynashare_jax.models.trunks import gated
from dynashare_jax.ops import costs

TASKS = 2
PICTURES = resnet.ResNet(2, (1, 1), (4, 6), (1, 2), (1, 1), "small")
VECTORS = mlp.ResidualMlp(2, width=6, hidden=8, dropout=0.0)
SERIES = tcn.Tcn(2, width=5, dropout=0.0)
TOKENS = vit.Vit(2, 8, 12, 2, 4, 2)
SHAPES = {"pictures": (3, 8, 8, 3), "vectors": (3, 5), "series": (3, 6, 4)}
BACKBONES = {
  "pictures": PICTURES,
  "bottleneck": PICTURES.clone(
    block_kind="bottleneck", blocks=(2,), widths=(3,), strides=(1,), dilations=(1,)
  ),
  "vectors": VECTORS,
  "series": SERIES,
  "tokens": TOKENS,
  "plain": vgg.Vgg((1, 1), (4, 6)),
}


def _trunk(backbone: Any, tasks: int = TASKS, **more: Any) -> gated.GatedTrunk:
  return gated.GatedTrunk(tuple(backbone.clone() for _ in range(tasks + 1)), **more)


def _gates(trunk: gated.GatedTrunk, value: Any) -> dict[str, np.ndarray]:
  """The same for all channels, or by chance where `value` is a generator."""
  found = {}
  for name, channels in gated.places(trunk.columns[0], trunk.inner):
    shape = (len(trunk.columns) - 1, channels)
    drawn = value if isinstance(value, int) else value.integers(0, 2, shape)
    found[name] = np.broadcast_to(drawn, shape).astype(np.float32)
  return found


def _inputs(kind: str) -> jax.Array:
  return jax.random.uniform(jax.random.key(1), SHAPES.get(kind, SHAPES["pictures"]))


@functools.cache
def _variables(trunk: Any, kind: str) -> Any:
  """Variables away from 0 and 1."""
  make = lambda key: trunk.init(key, _inputs(kind), _gates(trunk, 1), False)
  made = jax.jit(make, compiler_options=QUICK)(jax.random.key(0))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: jnp.asarray(x + 0.2 * rng.random(x.shape), x.dtype), made)


@functools.partial(jax.jit, static_argnums=(0, 4), compiler_options=QUICK)
def _value(trunk: Any, variables: Any, inputs: Any, gates: Any, train: bool) -> Any:
  """Features, new statistics, and gradients of a sum that weighs the tasks apart."""

  def loss(params: Any) -> Any:
    (features, _), changed = trunk.apply(
      {**variables, "params": params}, inputs, gates, train, mutable=["batch_stats"]
    )
    total = sum((t + 1) * jnp.square(f).mean() for t, f in enumerate(features))
    return total, (jnp.stack(features), changed.get("batch_stats", {}))

  return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def _zero(tree: Any) -> bool:
  return all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("train", [True, False])
def test_open_gates_are_single_task_networks(train, same_bits):
  trunk, inputs = _trunk(PICTURES), _inputs("pictures")
  variables = _variables(trunk, "pictures")
  (_, (features, stats)), grads = _value(trunk, variables, inputs, _gates(trunk, 1), train)
  alone = columns.ColumnTrunk(tuple(PICTURES.clone() for _ in range(TASKS)))
  theirs = {
    n: {f"columns_{t}": tree[f"columns_{t}"] for t in range(TASKS)} for n, tree in variables.items()
  }
  (_, (wanted, moved)), slopes = _value(alone, theirs, inputs, (), train)
  np.testing.assert_array_equal(features, wanted)
  same_bits({name: stats[name] for name in moved}, moved)
  assert _zero((grads[f"columns_{TASKS}"], grads["mixing"]))
  for name, slope in slopes.items():
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), grads[name], slope
    )


@pytest.mark.parametrize("train", [True, False])
def test_closed_gates_are_hard_sharing(train):
  """Whatever the other columns and the mixtures are."""
  trunk, inputs = _trunk(PICTURES), _inputs("pictures")
  variables = _variables(trunk, "pictures")
  (_, (features, stats)), grads = _value(trunk, variables, inputs, _gates(trunk, 0), train)
  shared = f"columns_{TASKS}"
  alone = columns.ColumnTrunk((PICTURES.clone(),))
  theirs = {n: {"columns_0": tree[shared]} for n, tree in variables.items()}
  (_, (wanted, moved)), _ = _value(alone, theirs, inputs, (), train)
  for task in range(TASKS):
    np.testing.assert_allclose(features[task], wanted[0], rtol=1e-5, atol=1e-6)
    assert _zero(grads[f"columns_{task}"])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    stats[shared],
    moved["columns_0"],
  )


def _leant(trunk: Any, variables: Any, gates: Any, inputs: Any) -> tuple[Any, Any]:
  """The lean trunk and its variables."""
  lean, cut = trunk.lean(gates)
  shapes = jax.eval_shape(lambda k: lean.init(k, inputs, (), False), jax.random.key(0))
  kept = {}
  for name, tree in shapes.items():
    mine = traverse_util.flatten_dict(variables[name], sep="/")
    wanted = traverse_util.flatten_dict(tree, sep="/")
    leaves = {path: cut(path, mine[path]) for path in wanted}
    assert {p: a.shape for p, a in leaves.items()} == {p: a.shape for p, a in wanted.items()}
    kept[name] = traverse_util.unflatten_dict(leaves, sep="/")
  return lean, kept


@pytest.mark.parametrize(
  "kind, inner",
  [
    ("pictures", False),
    ("bottleneck", True),
    ("vectors", True),
    ("series", True),
    ("tokens", True),
    ("plain", False),
  ],
)
def test_what_is_cut_out_was_of_no_use(kind, inner):
  trunk, inputs = _trunk(BACKBONES[kind], inner=inner), _inputs(kind)
  variables = _variables(trunk, kind)
  gates = _gates(trunk, np.random.default_rng(0))
  gates["block_0"] = np.zeros_like(gates["block_0"])  # all shared
  gates["stem"][1] = 1  # all of a task's own
  lean, kept = _leant(trunk, variables, gates, inputs)
  params, stats = norm.fold(kept["params"], kept.get("batch_stats", {}))
  assert not stats  # Every batch norm here follows a convolution.
  folded = {"params": params}

  def all_(variables: Any, kept: Any, folded: Any) -> Any:
    alone = [lean.only((t,))[0].apply(kept, inputs, (), False)[0][0] for t in range(TASKS)]
    whole = trunk.apply(variables, inputs, gates, False)[0]
    smaller = [lean.apply(tree, inputs, (), False)[0] for tree in (kept, folded)]
    return whole, *smaller, alone

  compiled = jax.jit(all_, compiler_options=QUICK)
  whole, smaller, quicker, alone = compiled(variables, kept, folded)
  for task in range(TASKS):
    scale = float(jnp.abs(whole[task]).max())
    np.testing.assert_allclose(smaller[task], whole[task], atol=1e-5 * scale)
    np.testing.assert_allclose(alone[task], smaller[task], atol=1e-5 * scale)
    np.testing.assert_allclose(quicker[task], smaller[task], atol=1e-5 * scale)
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert size(kept) < size(variables)
  assert (size(folded) < size(kept)) == ("batch_stats" in kept)


def _work(gates: Any, macs: Any) -> float:
  """Of places whose channels are cut out where nobody reads them, each of some work a column.

  A task's channel is needed where its gate is 1, a shared one where some gate is 0.
  """
  share = lambda g: g.mean(1).sum() + (1 - g.prod(0)).mean()
  return float(sum(m * share(np.asarray(g)) for g, m in zip(gates, macs, strict=True)))


def test_work_by_hand():
  gates = np.asarray([[1, 1, 0, 0], [0, 0, 0, 1]])
  assert _work([gates], [100]) == 175  # 100 (.5 + .25 + 1)
  limits = {0: 100, 1: 200}  # one column, or one a task
  for value, wanted in limits.items():
    assert _work([np.full((2, 4), value)], [100]) == wanted
  rng = np.random.default_rng(0)
  for _ in range(20):  # an open gate never costs less
    some = rng.integers(0, 2, (3, 5))
    more = np.maximum(some, rng.integers(0, 2, (3, 5)))
    assert _work([more], [1]) >= _work([some], [1]) - 1e-12


def test_work_is_what_the_formula_says():
  trunk, inputs = _trunk(VECTORS, 3, inner=True), _inputs("vectors")
  shapes = jax.eval_shape(
    lambda k: trunk.init(k, inputs, _gates(trunk, 1), False), jax.random.key(0)
  )
  layers = {"stem": 5 * 6, "widen": 6 * 8, "narrow": 8 * 6}  # multiply-accumulates
  for seed in range(5):
    gates = _gates(trunk, np.random.default_rng(seed))
    lean, _ = trunk.lean(gates)
    kept = jax.eval_shape(lambda k, lean=lean: lean.init(k, inputs, (), False), jax.random.key(0))
    found = costs.macs(lambda v, lean=lean: lean.apply(v, inputs, (), False)[0], kept)
    macs = [layers["stem" if n == "stem" else "widen" if "." in n else "narrow"] for n in gates]
    assert found == pytest.approx(3 * _work(list(gates.values()), macs))
  whole = costs.macs(lambda v: trunk.apply(v, inputs, _gates(trunk, 1), False)[0], shapes)
  assert whole == 3 * 4 * (layers["stem"] + 2 * (layers["widen"] + layers["narrow"]))


def test_a_column_that_nobody_takes_is_gone():
  trunk, inputs = _trunk(VECTORS), _inputs("vectors")
  gates = _gates(trunk, 0)
  gates["block_1"][0, 0] = 1
  lean, kept = _leant(trunk, _variables(trunk, "vectors"), gates, inputs)
  sizes = {name: sum(a.size for a in jax.tree.leaves(t)) for name, t in kept["params"].items()}
  norm = 2 * 6  # after the last block, of every task
  assert sizes["columns_1"] == norm and "mixing" not in sizes
  assert sizes["columns_0"] == norm + 2 * 6 + 6 * 8 + 8 + 8 * 1 + 1  # its block, one output
  assert "last_norm" not in kept["params"]["columns_2"]
  # Without the task that has it, that output is not computed.
  cost = lambda rows: costs.macs(lambda v: lean.only(rows)[0].apply(v, inputs, (), False)[0], kept)
  assert cost((0, 1)) - cost((1,)) == 3 * (6 * 8 + 8)


def test_the_order_of_the_tasks_does_not_matter():
  trunk, inputs = _trunk(VECTORS), _inputs("vectors")
  variables = _variables(trunk, "vectors")
  gates = _gates(trunk, np.random.default_rng(3))
  swap = {"columns_0": "columns_1", "columns_1": "columns_0"}
  params = {swap.get(k, k): v for k, v in variables["params"].items()}
  params["mixing"] = {k: v[::-1] for k, v in params["mixing"].items()}
  (_, (features, _)), _ = _value(trunk, variables, inputs, gates, True)
  turned = {k: v[::-1] for k, v in gates.items()}
  (_, (other, _)), _ = _value(trunk, {"params": params}, inputs, turned, True)
  np.testing.assert_allclose(features, other[::-1], rtol=1e-5, atol=1e-6)


def test_before_the_gates_nothing_can_be_cut_out():
  """A closed channel of a task still feeds the shared column, as Eq. 3 is printed."""
  trunk, inputs = _trunk(VECTORS, before=True), _inputs("vectors")
  variables = _variables(_trunk(VECTORS), "vectors")
  gates = _gates(trunk, 0)
  assert trunk.lean(gates) is None
  (_, (features, _)), grads = _value(trunk, variables, inputs, gates, True)
  (_, (hard, _)), _ = _value(_trunk(VECTORS), variables, inputs, gates, True)
  assert float(jnp.abs(features - hard).max()) > 0.01
  assert not _zero(grads["columns_0"])


@pytest.mark.parametrize(
  "blocks, kind, tasks, wanted",
  [((2, 2, 2, 2), "basic", 5, 9_920), ((3, 4, 6, 3), "bottleneck", 3, 45_504)],
)
def test_gates_are_as_many_as_the_channels_of_stem_and_blocks(blocks, kind, tasks, wanted):
  net = resnet.ResNet(2, blocks, (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4), block_kind=kind)
  assert tasks * sum(channels for _, channels in gated.places(net, False)) == wanted
  if kind == "basic":
    assert sum(channels for _, channels in gated.places(net, True)) == 3_904
