"""The trunk of experts against hard sharing, single networks, a NumPy twin, and its limits."""

from __future__ import annotations

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.models.backbones import mlp
from dynashare_jax.models.backbones import resnet
from dynashare_jax.models.trunks import columns
from dynashare_jax.models.trunks import experts as expert_trunk
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import routing

QUICK = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
RNG = np.random.default_rng(0)
VECTORS = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)
PICTURES = jnp.asarray(RNG.normal(size=(3, 8, 12, 3)), jnp.float32)
BLOCKS = 2

ALL_OF_THREE = ((0, 1, 2),) * 2
# Two tasks with an own expert each, and a shared one.
OWN_AND_SHARED = {"reads": ((0, 2), (1, 2)), "streams": (0, 1, 2)}


def _mlp():
  return mlp.ResidualMlp(BLOCKS, width=6, hidden=4, dropout=0.0)


def _resnet():
  return resnet.ResNet(2, (1, 1), (4, 6), (1, 2), (1, 2), "small")


def _trunk(reads, levels=(BLOCKS,), streams=(), backbone=_mlp):
  count = 1 + max(e for experts in reads for e in experts)
  made = tuple(backbone() for _ in range(count))
  return expert_trunk.ExpertTrunk(made, reads, levels, streams)


def _variables(trunk, inputs=VECTORS, seed=1):
  """Random numbers everywhere, so that no gate is uniform; running variances are 1."""
  shapes = jax.eval_shape(lambda: trunk.init(jax.random.key(0), inputs, (), False))
  rng = np.random.default_rng(seed)
  number = lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32)
  params = jax.tree.map(number, shapes["params"])
  stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes.get("batch_stats", {}))
  return {"params": params, "batch_stats": stats}


@functools.partial(
  jax.jit, static_argnums=(0, 3, 4), compiler_options={"xla_backend_optimization_level": 0}
)
def _jitted(trunk, variables, inputs, control, train):
  found, changed = trunk.apply(variables, inputs, control, train, mutable=["batch_stats"])
  return *found, changed.get("batch_stats", {})


def _run(trunk, variables, inputs=VECTORS, control=(), train=False):
  """Features, signals and new statistics."""
  return _jitted(trunk, variables, inputs, control, train)


def _hard(trunk, variables, inputs=VECTORS, train=False):
  """Features of two tasks, and new statistics, of hard sharing of the first expert."""
  backbone = trunk.experts[0].clone(parent=None)
  hard = skip_trunk.SkipTrunk(backbone, 2, (False,) * backbone.num_blocks)
  theirs = {k: {"backbone": v["experts_0"]} for k, v in variables.items() if v}
  decisions = skip_trunk.Decisions(routing.all_run(backbone.num_blocks, 2))
  features, _, stats = _run(hard, theirs, inputs, decisions, train)
  return features, stats


def _single(trunk, variables):
  """One network per task: the experts in their order."""
  count = len(trunk.reads)
  single = columns.ColumnTrunk(tuple(e.clone(parent=None) for e in trunk.experts[:count]))
  params = {f"columns_{k}": variables["params"][f"experts_{k}"] for k in range(count)}
  return _run(single, {"params": params})[0]


def _choose(variables, name, expert):
  """Variables in which a gate takes one of its experts, whatever it reads."""
  gate = variables["params"][name]
  chosen = {
    "kernel": jnp.zeros_like(gate["kernel"]),
    "bias": jnp.zeros_like(gate["bias"]).at[expert].set(50.0),
  }
  return {**variables, "params": {**variables["params"], name: chosen}}


# Limits in which other methods are known.


@pytest.mark.parametrize("inputs, backbone", [(VECTORS, _mlp), (PICTURES, _resnet)])
def test_one_expert_is_hard_sharing(inputs, backbone, same_bits):
  trunk = _trunk(((0,), (0,)), (backbone().num_blocks,), backbone=backbone)
  variables = _variables(trunk, inputs)
  features, signals, stats = _run(trunk, variables, inputs, train=True)
  wanted, moved = _hard(trunk, variables, inputs, train=True)
  same_bits(features, wanted)
  assert not stats or stats["experts_0"].keys() == moved["backbone"].keys()
  same_bits(jax.tree.leaves(stats), jax.tree.leaves(moved))
  assert (np.asarray(signals.own[0]) == 1).all()
  assert signals.executed.shape == (2, len(inputs), trunk.units)


@pytest.mark.parametrize("levels", [(2,), (1, 1)])
def test_shared_experts_alone_are_hard_sharing_and_own_ones_single_networks(levels, same_bits):
  shared = _trunk(((0,), (0,)), levels, (2,))
  variables = _variables(shared)
  same_bits(_run(shared, variables)[0], _hard(shared, variables)[0])
  own = _trunk(((0,), (1,)), levels, (0, 1))
  variables = _variables(own)
  same_bits(_run(own, variables)[0], _single(own, variables))


def test_gates_that_choose_are_single_networks():
  trunk = _trunk(ALL_OF_THREE)
  variables = _variables(trunk)
  for t in range(2):
    variables = _choose(variables, f"mixture_0_{t}", t)
  features, signals, _ = _run(trunk, variables)
  np.testing.assert_allclose(features, _single(trunk, variables), rtol=1e-6, atol=1e-12)
  np.testing.assert_allclose(signals.own[0], np.eye(2, 3), atol=1e-12)


def test_gates_that_choose_give_a_path_through_levels():
  """Task 0: its own expert, after a shared one; task 1: the shared one, after that of task 0."""
  trunk = _trunk(levels=(1, 1), **OWN_AND_SHARED)
  variables = _variables(trunk)
  for name, expert in [("0_0", 1), ("0_1", 1), ("0_2", 0), ("1_0", 0), ("1_1", 1)]:
    variables = _choose(variables, f"mixture_{name}", expert)
  features = _run(trunk, variables)[0]
  for t, (first, second) in enumerate([("experts_2", "experts_0"), ("experts_0", "experts_2")]):
    head, tail = (variables["params"][name] for name in (first, second))
    joined = {**tail, "project": head["project"]} | {"block_0": head["block_0"]}
    wanted = _hard(trunk, {"params": {"experts_0": joined}})[0]
    np.testing.assert_allclose(features[t], wanted[0], rtol=1e-5, atol=1e-6)


def test_equal_experts_make_gates_mean_nothing():
  trunk = _trunk(ALL_OF_THREE)
  variables = _variables(trunk)
  params = variables["params"]
  params |= {f"experts_{e}": params["experts_0"] for e in range(3)}
  wanted = _hard(trunk, variables)[0]
  np.testing.assert_allclose(_run(trunk, variables)[0], wanted, rtol=1e-5, atol=1e-6)


def test_the_order_of_experts_means_nothing():
  trunk = _trunk(ALL_OF_THREE)
  variables, order = _variables(trunk), [2, 0, 1]
  turned = {
    f"experts_{place}": variables["params"][f"experts_{e}"] for place, e in enumerate(order)
  }
  for t in range(2):
    gate = variables["params"][f"mixture_0_{t}"]
    turned[f"mixture_0_{t}"] = jax.tree.map(lambda a: a[..., jnp.asarray(order)], gate)
  features, signals, _ = _run(trunk, variables)
  others, turned_signals, _ = _run(trunk, {**variables, "params": turned})
  np.testing.assert_allclose(others, features, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    turned_signals.own[0], signals.own[0][:, jnp.asarray(order)], rtol=1e-5
  )


# Counts.


@pytest.mark.parametrize(
  "reads, levels, streams, numbers",
  [
    (((0, 1, 2),) * 2, (2,), (), 2 * 3),
    (((0, 1), (1, 2)), (2,), (), 2 * 2),
    (((0, 2), (1, 2)), (2,), (0, 1, 2), 2 * 2),
    (((0, 2), (1, 2)), (1, 1), (0, 1, 2), (2 * 2 + 3) + 2 * 2),
    (((0, 1, 4), (2, 3, 4)), (1, 1), (0, 0, 1, 1, 2), (2 * 3 + 5) + 2 * 3),
    (((0, 1), (2, 3)), (1, 1), (0, 0, 1, 1), 2 * (2 * 2)),  # nobody reads a shared stream
    (((0,), (1,)), (1, 1), (0, 1), 0),
    (((0,), (0,)), (1, 1), (2,), 0),
  ],
)
def test_gates_have_the_numbers_of_their_formula(reads, levels, streams, numbers):
  """Of every link the 6 channels read and a bias; the shared gate is absent at the last level."""
  trunk = _trunk(reads, levels, streams)
  shapes = jax.eval_shape(lambda: trunk.init(jax.random.key(0), VECTORS, (), False))["params"]
  sizes = dict.fromkeys(("backbone", "fusion"), 0)
  for name, part in shapes.items():
    sizes[trunk.leaves()[name].group] += sum(leaf.size for leaf in jax.tree.leaves(part))
  assert set(trunk.leaves()) == set(shapes)
  assert sizes["fusion"] == 7 * numbers
  one = (3 * 6 + 6) + BLOCKS * (2 * 6 + 6 * 4 + 4 + 4 * 6 + 6) + 2 * 6
  assert sizes["backbone"] == one * len(trunk.experts)


# Who learns from whom.


@functools.cache
def _pulls(levels):
  """Of every task, which experts and gates its features' gradient moves."""
  trunk = _trunk(levels=levels, **OWN_AND_SHARED)
  variables = _variables(trunk)

  def pull(params):
    run = lambda params: jnp.stack(
      [(f**2).sum() for f in trunk.apply({"params": params}, VECTORS, (), False)[0]]
    )
    lengths = lambda tree: sum(
      jnp.abs(leaf).sum(tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(tree)
    )
    return {name: lengths(part) for name, part in jax.jacrev(run)(params).items()}

  return trunk, jax.tree.map(np.asarray, QUICK(pull)(variables["params"]))


def test_in_one_level_a_task_moves_no_other_tasks_experts():
  trunk, found = _pulls((2,))
  for name, owner in [("experts_0", 0), ("experts_1", 1), ("mixture_0_0", 0), ("mixture_0_1", 1)]:
    assert found[name][owner] > 0 and found[name][1 - owner] == 0
    assert trunk.leaves()[name].owner == owner
  assert (found["experts_2"] > 0).all() and trunk.leaves()["experts_2"].owner is None


def test_with_two_levels_it_does_through_the_shared_stream():
  trunk, found = _pulls((1, 1))
  for name in ("experts_0", "experts_1", "experts_2", "mixture_0_2"):
    assert (found[name] > 0).all() and trunk.leaves()[name].owner is None
  for t in range(2):
    assert found[f"mixture_1_{t}"][t] > 0 and found[f"mixture_1_{t}"][1 - t] == 0
    assert trunk.leaves()[f"mixture_1_{t}"].owner == t
    assert trunk.leaves()[f"mixture_0_{t}"].owner is None


def test_closed_links_have_no_weight_and_the_open_ones_are_renormalised():
  """The open experts' mixture is that of the full one, over their sum."""
  full, cut = _trunk(ALL_OF_THREE), _trunk(((0, 2), (0, 1, 2)))
  variables = _variables(full)
  for t in range(2):  # What a gate reads differs with its experts: look at its bias alone.
    gate = variables["params"][f"mixture_0_{t}"]
    gate |= {"kernel": jnp.zeros_like(gate["kernel"])}
  wanted = np.asarray(_run(full, variables)[1].own[0])
  gate = variables["params"]["mixture_0_0"]
  less = {"mixture_0_0": jax.tree.map(lambda a: a[..., jnp.asarray([0, 2])], gate)}
  found = np.asarray(_run(cut, {"params": variables["params"] | less})[1].own[0])
  assert found[0, 1] == 0
  np.testing.assert_allclose(found[0], wanted[0] * [1, 0, 1] / wanted[0, [0, 2]].sum(), rtol=1e-5)
  np.testing.assert_allclose(found[1], wanted[1], rtol=1e-6)


def test_some_tasks_need_their_experts_alone():
  trunk = _trunk(((0, 2), (1, 2)))
  variables = _variables(trunk)
  cut, names = trunk.only((1,))
  assert [e for e in range(3) if f"experts_{e}" in names] == [1, 2] and cut.reads == ((0, 1),)
  params = {new: variables["params"][old] for old, new in names.items()}
  (found,), signals, _ = _run(_trunk(cut.reads), {"params": params})
  features, wanted, _ = _run(trunk, variables)
  np.testing.assert_allclose(found, features[1], rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(signals.own[0], wanted.own[0][1:, 1:], rtol=1e-6)
  both, names = trunk.only((1, 0))
  assert len(both.experts) == 3 and both.reads == ((1, 2), (0, 2))
  assert names["mixture_0_1"] == "mixture_0_0" and names["experts_1"] == "experts_1"


def test_with_several_levels_every_task_needs_all():
  assert _trunk(levels=(1, 1), **OWN_AND_SHARED).only((0,)) is None


# The twin: loops over levels, streams and experts, in NumPy.


def _layer_norm(x, p):
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * p["scale"] + p["bias"]


def _block(x, p):
  h = _layer_norm(x, p["norm"]) @ p["widen"]["kernel"] + p["widen"]["bias"]
  return x + np.maximum(h, 0) @ p["narrow"]["kernel"] + p["narrow"]["bias"]


def _gate(read, p):
  scores = np.exp(read @ p["kernel"] + p["bias"])
  return scores / scores.sum(1, keepdims=True)


def _twin(params, inputs, levels):
  """Features of two tasks, and mean mixtures, with an own expert each and a shared one."""
  p = jax.tree.map(np.float64, params)
  names, mixed = ("experts_0", "experts_1", "experts_2"), ([0, 2], [1, 2], [0, 1, 2])
  x = {n: inputs @ p[n]["project"]["kernel"] + p[n]["project"]["bias"] for n in names}
  read = [np.mean([x[names[e]] for e in open_], 0) for open_ in mixed]
  first, means = 0, []
  for level, count in enumerate(levels):
    for name in names:
      for block in range(first, first + count):
        x[name] = _block(x[name], p[name][f"block_{block}"])
    first += count
    last = level + 1 == len(levels)
    if last:
      x = {n: np.maximum(_layer_norm(x[n], p[n]["last_norm"]), 0) for n in names}
    streams, table = [], np.zeros((3, 3))
    for s, open_ in enumerate(mixed[: 2 if last else 3]):
      weights = _gate(read[s], p[f"mixture_{level}_{s}"])
      table[s, open_] = weights.mean(0)
      streams.append(sum(weights[:, [i]] * x[names[e]] for i, e in enumerate(open_)))
    means.append(table[: len(streams)])
    x, read = dict(zip(names, streams, strict=False)), streams
  return streams, means


@pytest.mark.parametrize("levels", [(2,), (1, 1)])
def test_it_equals_its_twin(levels):
  trunk = _trunk(levels=levels, **OWN_AND_SHARED)
  variables = _variables(trunk)
  features, signals, _ = _run(trunk, variables)
  wanted, means = _twin(variables["params"], np.float64(VECTORS), levels)
  np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-5)
  for got, mean in zip(signals.own, means, strict=True):
    np.testing.assert_allclose(got, mean, rtol=1e-4)
    assert np.ptp(mean[mean > 0]) > 0.1  # not uniform


# Pictures of any size, and series whose steps know nothing of later ones.


def test_gates_read_the_mean_over_all_positions_of_any_picture():
  """Rows and columns of a picture turned round leave what is read: so they leave the mixture."""
  backbone = lambda: resnet.ResNet(2, (1,), (4,), (1,), (1,), "small")
  trunk = _trunk(((0, 1), (0, 1)), (1,), backbone=backbone)
  variables = _variables(trunk, PICTURES)
  for name in ("experts_0", "experts_1"):  # so that a stem looks at single pixels
    kernel = variables["params"][name]["stem_conv"]["kernel"]
    variables["params"][name]["stem_conv"]["kernel"] = (
      kernel.at[:].set(0).at[1, 1].set(kernel[1, 1])
    )
  once = _run(trunk, variables, PICTURES[:, ::2, ::2])[1].own[0]
  twice = jnp.tile(PICTURES[:, ::2, ::2], (1, 2, 3, 1))
  np.testing.assert_allclose(_run(trunk, variables, twice)[1].own[0], once, rtol=1e-5)
  turned = PICTURES[:, ::2, ::2][:, :, jnp.asarray([4, 1, 2, 3, 0, 5])]
  np.testing.assert_allclose(_run(trunk, variables, turned)[1].own[0], once, rtol=1e-5)


@pytest.mark.parametrize("stem, first", [("hourly", 1), ("series", 4)])
def test_no_step_knows_of_later_ones(stem, first):
  """Through gates that read running means, and a level whose steps are twice as long."""
  backbone = lambda: resnet.ResNet(1, (1, 1), (4, 6), (1, 2), (1, 2), stem, causal=True)
  trunk = _trunk(levels=(1, 1), backbone=backbone, **OWN_AND_SHARED)
  values = RNG.normal(size=(2, 37, 3)).astype(np.float32)
  inputs = {"series": jnp.asarray(values), "length": jnp.asarray([37, 30], jnp.int32)}
  variables = _variables(trunk, inputs)
  before, signals, _ = _run(trunk, variables, inputs)
  changed = values.copy()
  changed[:, 21:] += 3.0
  after, others, _ = _run(trunk, variables, {**inputs, "series": jnp.asarray(changed)})
  stride, size = 2 * first, -(-37 // (2 * first))
  for a, b in zip(before, after, strict=True):
    assert a.shape == (2, size, 6)
    seen = np.arange(size) * stride < 21
    np.testing.assert_array_equal(a[:, seen], b[:, seen])
    assert (np.abs(a - b)[:, ~seen].max((1, 2)) > 1e-3).all()
  assert any((a != b).any() for a, b in zip(signals.own, others.own, strict=True))
  changed = values.copy()
  changed[1, 30:] = 9.0  # padding
  after, others, _ = _run(trunk, variables, {**inputs, "series": jnp.asarray(changed)})
  np.testing.assert_array_equal(before, after)
  np.testing.assert_array_equal(signals.own[0], others.own[0])
  np.testing.assert_allclose(signals.own[0].sum(1), 1, rtol=1e-5)


def test_padding_does_not_count_in_the_mean_mixture():
  backbone = lambda: resnet.ResNet(1, (1,), (4,), (1,), (1,), "hourly", causal=True)
  trunk = _trunk(((0, 1),), (1,), backbone=backbone)
  values = jnp.asarray(RNG.normal(size=(1, 9, 3)), jnp.float32)
  variables = _variables(trunk, {"series": values, "length": jnp.asarray([9], jnp.int32)})
  found = [
    _run(trunk, variables, {"series": values[:, :size], "length": jnp.asarray([5], jnp.int32)})[1]
    for size in (5, 9)
  ]
  np.testing.assert_allclose(found[0].own[0], found[1].own[0], rtol=1e-6)
