"""Tests of evaluation: the same numbers however a split is cut."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.objectives import views as views_lib
from dynashare_jax.ops import routing
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import plan as plan_lib
from dynashare_jax.train import evaluate

ROUTE = np.array([[1, 1], [0, 1]], np.float32)
TASKS = (types.TaskSpec("a", "segmentation", 3), types.TaskSpec("b", "depth", 1, unit="m"))


@pytest.fixture(scope="module")
def parts(build):
  """An experiment, its network's variables and a validation split."""
  experiment = build()
  state = experiment.initial_state()
  return (experiment, state.params["network"], state.stats, experiment.dataset.arrays("validation"))


def _evaluator(parts, batch_size, planned=False, sampled=None):
  experiment = parts[0]
  return evaluate.Evaluator(
    experiment.network,
    experiment.tasks,
    dataclasses.replace(experiment.sharing, planned=planned, sampled_gates=sampled),
    mesh_lib.batch_sharding(experiment.mesh),
  )


def _plan(parts, gates=True):
  sharing = parts[0].sharing
  return plan_lib.make(sharing.names, ROUTE, sharing.gated if gates else None)


def _run(parts, batch_size, gates=True, arrays=None, **options):
  _, params, stats, own = parts
  return _evaluator(parts, batch_size, **options).run(
    params, stats, evaluate.resident_batches(arrays or own, batch_size), _plan(parts, gates)
  )


def _same(a, b, tolerance=1e-5):
  for x, y in zip(jax.tree.leaves(a._asdict()), jax.tree.leaves(b._asdict()), strict=True):
    np.testing.assert_allclose(x, y, tolerance)


def test_any_batch_size_gives_the_same(parts):
  """20 examples: without padding, with some, and in one batch too large."""
  want = _run(parts, 20)
  for batch_size in (8, 32):
    _same(_run(parts, batch_size), want)


def test_padding_never_counts(parts):
  """Padding repeats example 0: spoil it, and only its own share may change."""
  _, _, _, arrays = parts
  rows = np.arange(1, 20)
  without = jax.tree.map(lambda a: a[rows], arrays)
  alone = _run(parts, 8, arrays=without)  # 19 examples, 5 of padding.
  _same(alone, _run(parts, 20, arrays=without))
  assert alone.histogram.sum(1).tolist() == [19, 19]


def test_streamed_split_gives_the_same(parts):
  experiment, params, stats, _ = parts
  source = experiment.dataset.source("validation")
  batches = evaluate.streamed_batches(
    source, 8, lambda b: mesh_lib.place_batch(b, experiment.mesh), threads=1
  )
  _same(_evaluator(parts, 8).run(params, stats, batches, _plan(parts)), _run(parts, 8), 1e-7)


def _with_bias(parts, bias):
  """The gate of block 1 forced open or shut."""
  experiment, params, stats, arrays = parts
  score = {**params["trunk"]["gate_1"]["score"], "bias": jnp.array([-bias, bias])}
  gate = {**params["trunk"]["gate_1"], "score": score}
  changed = {**params, "trunk": {**params["trunk"], "gate_1": gate}}
  return experiment, changed, stats, arrays


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize(
  "bias, rate, counts",
  [
    (50.0, [[1, 1], [0, 1]], [[0, 0, 20], [0, 20, 0]]),
    (-50.0, [[1, 0], [0, 0]], [[0, 20, 0], [20, 0, 0]]),
  ],
)
def test_execution_by_hand(parts, planned, bias, rate, counts):
  result = _run(_with_bias(parts, bias), 8, planned=planned)
  np.testing.assert_array_equal(result.rate, rate)
  np.testing.assert_array_equal(result.histogram, counts)


def test_execution_without_gates_is_the_route(parts):
  result = _run(_with_bias(parts, -50.0), 8, gates=False)
  np.testing.assert_array_equal(result.rate, ROUTE)


def test_execution_counts_the_gates_decisions(parts):
  """Example by example, as the network itself tells."""
  experiment, params, stats, arrays = parts
  # At its start every gate is almost undecided: some examples open it.
  decisions = skip_trunk.Decisions(routing.own(2, 2), jnp.asarray(ROUTE), gated=True)
  _, signals = experiment.network.apply(
    {"params": params, "batch_stats": stats}, arrays.inputs, decisions, False
  )
  executed = np.asarray(signals.executed)
  result = _run(parts, 8)
  np.testing.assert_allclose(result.rate, executed.mean(1), 1e-6)
  for task in range(2):
    np.testing.assert_array_equal(
      result.histogram[task], np.bincount(executed[task].sum(1).astype(int), minlength=3)
    )


@pytest.mark.parametrize("gates", [False, True])
def test_planned_equals_masked(parts, gates):
  _same(_run(parts, 8, gates=gates, planned=True), _run(parts, 8, gates=gates), 1e-4)


def test_sampled_gates_do_not_depend_on_the_batch(parts):
  """`compat.gates = sampled`: the noise belongs to the example."""
  _same(_run(parts, 8, sampled=3), _run(parts, 20, sampled=3))


def test_score_by_hand():
  """Percentages over 100; errors as 1 - error / the constant's error."""
  values = {"a": {"miou": 40.0, "pixel_accuracy": 60.0}, "b": {"abs": 0.5, "rel": 0.1}}
  constant = {"a": {"miou": 10.0, "pixel_accuracy": 30.0}, "b": {"abs": 2.0, "rel": 0.2}}
  names = {m.name: m for m in evaluate.kinds.find("depth").metrics(TASKS[1])}
  expected = []
  for name, metric in names.items():
    values["b"].setdefault(name, 80.0)
    constant["b"].setdefault(name, 50.0)
    value, fixed = values["b"][name], constant["b"][name]
    expected.append(value / 100 if metric.higher_is_better else 1 - value / fixed)
  assert {"abs", "rel"} <= set(names)
  np.testing.assert_allclose(
    evaluate.score(TASKS, values, constant), [0.5, np.mean(expected)], 1e-6
  )


def test_score_leaves_out_what_is_not_defined():
  values = {"a": {"miou": 40.0, "pixel_accuracy": float("nan")}}
  np.testing.assert_allclose(evaluate.score(TASKS[:1], values, values), [0.4])
  values["a"]["miou"] = float("nan")
  np.testing.assert_array_equal(evaluate.score(TASKS[:1], values, values), [0])


def test_constant_prediction_by_hand():
  """The commonest class everywhere, the median depth everywhere."""
  target = np.array([[[0, 0], [1, 2]]] * 3, np.int32)
  depth = np.array([[[1.0, 2.0], [2.0, 4.0]]] * 3, np.float32)
  valid = np.ones((3, 2, 2), bool)
  batch = types.Batch((), {"a": target, "b": depth}, {"a": valid, "b": valid}, np.ones(3, bool))
  found = evaluate.constants(TASKS, batch, batch)
  np.testing.assert_allclose(found["a"]["pixel_accuracy"], 50.0)
  np.testing.assert_allclose(found["a"]["miou"], 50 / 3, 1e-5)
  np.testing.assert_allclose(found["b"]["abs"], (1 + 0 + 0 + 2) / 4, 1e-5)


def test_constant_prediction_of_large_maps_is_cut(monkeypatch):
  """Cut into single examples it gives the same as at once."""
  rng = np.random.default_rng(0)
  target = rng.integers(0, 3, (5, 4, 4)).astype(np.int32)
  valid = rng.uniform(size=(5, 4, 4)) > 0.2
  batch = types.Batch((), {"a": target}, {"a": valid}, np.ones(5, bool))
  want = evaluate.constants(TASKS[:1], batch, batch)
  monkeypatch.setattr(evaluate, "_LOGITS", 1)
  assert evaluate.constants(TASKS[:1], batch, batch) == want


class _Signals(NamedTuple):
  executed: jax.Array


class _Linear:
  """A stand-in for a network: logits are the picture itself, halved in size.

  Its gate executes block 1 for pictures whose left upper corner is bright.
  """

  def apply(self, variables, inputs, decisions, train):
    del decisions, train
    small = inputs[:, ::2, ::2]
    ramp = jnp.linspace(0, 1, small.shape[2])[None, None, :, None]
    mixed = variables["params"] * (small + ramp)
    open_ = (inputs[:, 0, 0, 0] > 0.5).astype(jnp.float32)
    executed = jnp.stack([jnp.ones_like(open_), open_], -1)[None]
    executed = jnp.broadcast_to(executed, (2, *executed.shape[1:]))
    return ({"a": mixed, "b": mixed[..., :1]}, _Signals(executed))


def _pictures(size=10, void=0):
  rng = np.random.default_rng(7)
  shape = (size, 8, 12)
  target = rng.integers(0, 3, shape).astype(np.int32)
  valid = rng.random(shape) > 0.2
  valid[: size // 2, :6] = False  # Examples differ in how much is labelled.
  if void:
    target = np.where(valid, target, void).astype(np.int32)
  return types.Batch(
    rng.random((*shape, 3)).astype(np.float32),
    {"a": target, "b": rng.uniform(0.5, 2, shape).astype(np.float32)},
    {"a": valid, "b": valid},
    np.ones(size, bool),
  )


def _pictured(parts, arrays, batch_size, seen=(views_lib.PLAIN,), tasks=TASKS):
  evaluator = evaluate.Evaluator(
    _Linear(), tasks, contract.Sharing(), mesh_lib.batch_sharding(parts[0].mesh), seen
  )
  return evaluator.run(jnp.float32(3.0), {}, evaluate.resident_batches(arrays, batch_size), ())


def test_views_score_as_the_averaged_predictions(parts):
  """Against the averages, put together outside of the evaluation."""
  arrays = _pictures()
  seen = views_lib.listed((1.0, 0.5), True)
  got = _pictured(parts, arrays, 10, seen)
  network = _Linear()
  totals = dict.fromkeys("ab", 0.0)
  for view in seen:
    logits, _ = network.apply({"params": 3.0}, views_lib.seen(view, arrays.inputs), None, False)
    for task in TASKS:
      totals[task.name] += np.asarray(views_lib.votes(task, view, logits[task.name], (8, 12)))
  guess = totals["a"].argmax(-1)
  keep = arrays.valid["a"]
  right = (guess == arrays.targets["a"])[keep].mean()
  assert got.metrics["a"]["pixel_accuracy"] == pytest.approx(100 * right)
  error = np.abs(totals["b"][..., 0] / 4 - arrays.targets["b"])[keep].mean()
  assert got.metrics["b"]["abs"] == pytest.approx(error, rel=1e-5)
  plain = _pictured(parts, arrays, 10)
  assert plain.metrics["b"]["abs"] != pytest.approx(error, rel=1e-3)


def test_views_do_not_depend_on_the_batch_and_keep_the_first_ones_gates(parts):
  arrays = _pictures()
  several = views_lib.listed((0.5, 1.0), True)
  _same(_pictured(parts, arrays, 4, several), _pictured(parts, arrays, 10, several))
  bright = (arrays.inputs[:, 0, 0, 0] > 0.5).mean()
  mirrored = (arrays.inputs[:, 0, -1, 0] > 0.5).mean()
  assert bright != mirrored
  got = _pictured(parts, arrays, 4, several)
  np.testing.assert_allclose(got.rate, [[1, bright]] * 2, 1e-6)


def test_one_plain_view_compiles_to_the_network_alone(parts):
  arrays = _pictures()
  text = {}
  for name, options in (("views", {"views": views_lib.listed((1.0,), False)}), ("none", {})):
    evaluator = evaluate.Evaluator(
      _Linear(), TASKS, contract.Sharing(), mesh_lib.batch_sharding(parts[0].mesh), **options
    )
    call = evaluator._compiled(())
    text[name] = call.lower(
      jnp.float32(1), {}, arrays, np.arange(4), np.ones(4, bool), (), 0
    ).as_text()
  assert text["views"] == text["none"]


def test_details_of_every_class_are_those_of_the_whole_split(parts):
  arrays = _pictures()
  got = _pictured(parts, arrays, 4)
  assert set(got.details) == {"a"}
  labels = arrays.targets["a"][arrays.valid["a"]]
  np.testing.assert_allclose(got.details["a"]["share"], 100 * np.bincount(labels) / labels.size)
  assert np.nanmean(got.details["a"]["iou"]) == pytest.approx(got.metrics["a"]["miou"])


@pytest.mark.parametrize("void", [-1, 255])
def test_the_authors_metrics_depend_on_the_batch_but_never_on_padding(parts, void):
  """10 examples: two batches of 5, or 3 of 4 with two of padding."""
  authors = tuple(dataclasses.replace(t, metrics="authors") for t in TASKS)
  arrays = _pictures(void=void)
  run = lambda size: _pictured(parts, arrays, size, tasks=authors).metrics
  guess = np.asarray(_Linear().apply({"params": 3.0}, arrays.inputs, None, False)[0]["a"]).argmax(
    -1
  )
  guess = guess.repeat(2, 1).repeat(2, 2)
  kept = arrays.targets["a"] < 3
  right = guess == arrays.targets["a"]
  for size in (4, 5, 10, 16):
    cuts = [slice(i, i + size) for i in range(0, 10, size)]
    means = [right[c][kept[c]].mean() for c in cuts]
    weights = [len(right[c]) for c in cuts]
    assert run(size)["a"]["pixel_accuracy"] == pytest.approx(
      100 * np.average(means, weights=weights), rel=1e-5
    )
  for task, values in run(10).items():
    assert run(16)[task] == pytest.approx(values)
  assert run(4)["b"]["abs"] != pytest.approx(run(10)["b"]["abs"], rel=1e-4)
  ours = [_pictured(parts, arrays, size).metrics["b"] for size in (4, 10)]
  assert ours[0] == pytest.approx(ours[1], rel=1e-5)


def test_views_that_cannot_be_are_refused_before_compute(build):
  """By the experiment: vectors have no views, scales must be real."""
  with pytest.raises(ValueError, match="need pictures, but the inputs are of the kind 'series'"):
    build(eval__flip=True).evaluator()
  with pytest.raises(
    ValueError, match="scales must be one or more different numbers above 0 and at most 8, but"
  ):
    build(eval__scales=(1.0, -1.0))
  with pytest.raises(ValueError, match="config.compat.metrics is 'ours'; it must be one of"):
    build(compat__metrics="ours")
