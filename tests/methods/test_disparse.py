"""DiSparse: what is scored, what is kept, and that pruned weights stay 0."""

from __future__ import annotations

from flax import traverse_util
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import routing
from dynashare_jax.train import forward as forward_lib
from dynashare_jax.train import step as step_lib

QUICK = {"xla_backend_optimization_level": 0}
VALUES = {"method": "disparse", "train__steps": 6, "sparse__batches": 2, "sparse__density": 0.3}


@pytest.fixture(scope="module")
def run(whole):
  return whole(**VALUES)


def _flat(params):
  flat = traverse_util.flatten_dict(params["trunk"], sep="/")
  return {k: np.asarray(v) for k, v in flat.items() if k.endswith("kernel")}


def _scores(state):
  """`[T, n]`, with the weights."""
  weights = _flat(state.params["network"])
  every = [np.abs(weights[k]) * np.asarray(leaf) for k, leaf in state.memory["scores"].items()]
  return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in every], 1)


def _begun(experiment, index, state):
  """The state as a phase begins with it."""
  phase = experiment.method.phases[index]
  params, memory = experiment.sharing.begin(phase, state.params, state.memory, jax.random.key(0))
  return state.replace(params=params, memory=memory)


def _keep(memory):
  return np.concatenate([np.asarray(leaf).ravel() for leaf in memory["keep"].values()])


def _stepped(experiment, name, state, batch):
  """One step of a phase."""
  phases = experiment.method.phases
  index = next(i for i, p in enumerate(phases) if p.name == name)
  route = np.ones((len(experiment.tasks), experiment.units))
  moving = step_lib.moving_of(experiment.sharing, phases[index], 0, 0, 0, route)
  state = experiment.with_optimizer(state, index)
  tx = experiment.optimizer(phases[index].optimizer, 4)
  spec = experiment.spec(index, route)
  one = lambda state, batch: step_lib.advance(
    experiment.objective, tx, spec, state, batch, moving, 0
  )
  return jax.jit(one, compiler_options=QUICK)(state, batch)[0]


def _batch(experiment, rows=slice(0, 16)):
  return jax.tree.map(lambda a: jnp.asarray(a[rows]), experiment.dataset.arrays("train"))


def test_density_1_is_hard_sharing_bit_for_bit(build, same_bits):
  experiment, hard = build(**VALUES | {"sparse__density": 1.0}), build(method="hard")
  state, batch = experiment.initial_state(), _batch(experiment)
  scored = _stepped(experiment, "measure", state, batch)
  assert all(bool(leaf.any()) for leaf in scored.memory["scores"].values())
  memory = _begun(experiment, 1, scored).memory
  assert (_keep(memory) == 1).all()
  got = _stepped(experiment, "retrain", scored.replace(memory=memory), batch)
  want = _stepped(hard, "retrain", hard.initial_state(), batch)
  same_bits((got.params, got.stats, got.opt), (want.params, want.stats, want.opt))
  assert any(
    bool((a != b).any())
    for a, b in zip(*map(jax.tree.leaves, (got.params, state.params)), strict=True)
  )


def test_scores_are_the_gradients_of_each_loss(build, same_bits):
  experiment = build(**VALUES)
  state, batch = experiment.initial_state(), _batch(experiment)
  valid = {**batch.valid, "b": jnp.zeros_like(batch.valid["b"])}
  once = _stepped(experiment, "measure", state, batch)
  twice = _stepped(experiment, "measure", once, batch._replace(valid=valid))
  same_bits((twice.params, twice.stats), (state.params, state.stats))
  np.testing.assert_array_equal(twice.memory["seen"], [2, 1])

  def loss(trunk, task):
    params = {**state.params["network"], "trunk": trunk}
    every = skip_trunk.Decisions(routing.all_run(2, 2))
    out, _ = experiment.network.apply({"params": params}, batch.inputs, every, True)
    sums = forward_lib.task_losses(experiment.tasks, out, batch)[task]
    return sums.total / sums.count

  trunk = state.params["network"]["trunk"]
  for task, times in enumerate((2, 1)):  # the second batch has no label of b
    grads = jax.jit(jax.grad(loss), static_argnums=1, compiler_options=QUICK)(trunk, task)
    grads = traverse_util.flatten_dict(grads, sep="/")
    for name in _flat({"trunk": trunk}):
      wanted = times * np.abs(np.asarray(grads[name]))
      np.testing.assert_allclose(twice.memory["scores"][name][task], wanted, rtol=1e-4, atol=1e-8)


def test_the_union_reaches_the_density_and_a_task_without_labels_keeps_nothing(build):
  experiment = build(**VALUES)
  batch = _batch(experiment)
  state = experiment.initial_state()
  for labelled in ((True, True), (True, False)):
    valid = {name: batch.valid[name] & there for name, there in zip("ab", labelled, strict=True)}
    scored = _stepped(experiment, "measure", state, batch._replace(valid=valid))
    memory = _begun(experiment, 1, scored).memory
    scores, keep = _scores(scored), _keep(memory)
    total = keep.size
    assert set(np.unique(keep)) == {0.0, 1.0}
    assert keep.sum() == round(0.3 * total)
    if labelled[1]:
      assert 0 < memory["overlap"][0, 1] < 1
      assert (np.asarray(memory["parts"])[2] + 1e-6 >= np.asarray(memory["parts"])[:2].max(0)).all()
    else:  # SNIP: the highest scores of the one task
      assert scores[0][keep == 1].min() >= scores[0][keep == 0].max()
      assert not np.asarray(memory["parts"])[1].any()


def test_one_task_is_snip(build):
  experiment = build(**VALUES | {"data__tasks": ("a",)})
  scored = _stepped(experiment, "measure", experiment.initial_state(), _batch(experiment))
  memory = _begun(experiment, 1, scored).memory
  (scores,) = _scores(scored)
  wanted = np.zeros(scores.size)
  wanted[np.argsort(-scores, kind="stable")[: round(0.3 * scores.size)]] = 1
  np.testing.assert_array_equal(_keep(memory), wanted)


def test_no_label_at_all_is_told(build):
  experiment = build(**VALUES)
  with pytest.raises(ValueError, match="no task has a label in any of the first config.sparse"):
    _begun(experiment, 1, experiment.initial_state())


def test_pruned_weights_are_0_and_have_no_gradient(run):
  keep = {name: np.asarray(mask) for name, mask in run.state.memory["keep"].items()}
  best, last = _flat(run.state.best.params), _flat(run.state.params["network"])
  start = _flat(run.experiment.initial_state().params["network"])
  assert keep.keys() == best.keys()
  total = sum(mask.size for mask in keep.values())
  assert _keep(run.state.memory).sum() == round(0.3 * total)
  for name, mask in keep.items():
    assert not best[name][mask == 0].any() and best[name][mask == 1].all()
    # Decay has moved them, which the forward pass does not see.
    assert (last[name] != start[name])[mask == 0].any()
  experiment, batch = run.experiment, _batch(run.experiment)
  rng = np.random.default_rng(0)

  def loss(trunk):
    params = {"network": {**run.state.params["network"], "trunk": trunk}, "policy": {}}
    pass_ = forward_lib.Pass(
      experiment.objective,
      experiment.spec(1, np.ones((2, 2))),
      run.state,
      batch,
      step_lib.moving_of(experiment.sharing, experiment.method.phases[1], 0, 0, 0, np.ones((2, 2))),
      jnp.asarray(0),
    )
    params["policy"] = run.state.params["policy"]
    return sum(pass_.losses(params)[0])

  trunk = run.state.params["network"]["trunk"]
  flat = traverse_util.flatten_dict(trunk, sep="/")
  wild = {
    name: leaf + rng.normal(size=leaf.shape).astype(np.float32) * (1 - keep[name])
    if name in keep
    else leaf
    for name, leaf in flat.items()
  }
  values = jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)
  value, grads = values(trunk)
  assert value == values(traverse_util.unflatten_dict(wild, sep="/"))[0]
  for name, grad in _flat({"trunk": grads}).items():
    assert not grad[keep[name] == 0].any() and grad[keep[name] == 1].any()


def test_the_report_tells_overlap_and_density(run):
  found = run.results["learned"]
  overlap, density = (np.asarray(p["values"]) for p in found["panels"])
  assert overlap.shape == (2, 2) and density.shape == (3, 3)
  np.testing.assert_array_equal(np.diagonal(overlap), 1)
  keep = _keep(run.state.memory)
  assert f"{keep.sum():.0f} of {keep.size} weights ({100 * keep.mean():.1f}%)" in found["caption"]
  assert any("nothing runs faster" in note for note in run.results["notes"])


def test_a_stopped_run_goes_on(run, train, stopped, tmp_path, same_run):
  """Stopped between the scoring and the training, and within the training."""
  for last in (2, 5):
    stopped(tmp_path, last, train__checkpoint_every=1, **VALUES)
  got = train(tmp_path, **VALUES)
  same_run(got, run)


def _fake(experiment, seen=(1, 1)):
  """The state before training with random scores."""
  state, rng = experiment.initial_state(), np.random.default_rng(1)
  scores = {k: rng.uniform(size=v.shape) for k, v in state.memory["scores"].items()}
  return state.replace(
    memory={
      **state.memory,
      "scores": jax.tree.map(jnp.float32, scores),
      "seen": jnp.asarray(seen, jnp.float32),
    }
  )


def test_heads_are_pruned_by_their_own_task_at_the_same_count(build):
  """A NumPy twin: the union of the trunk's, and each head's own, of the least count that does."""
  experiment = build(**VALUES, sparse__heads=True, sparse__scores="product")
  state = _fake(experiment)
  network = traverse_util.flatten_dict(state.params["network"], sep="/")
  weigh = lambda k, v: np.asarray(network.get(k, network.get(f"trunk/{k}"))) ** 2 * v
  scores = {k: weigh(k, np.asarray(v)) for k, v in state.memory["scores"].items()}
  heads = ["heads_0/linear/kernel", "heads_1/linear/kernel"]
  trunk = [k for k in scores if k not in heads]
  assert set(heads) < set(scores) and scores[heads[0]].shape == (1, 8, 1)
  flat = lambda k, t: scores[k][t if k in trunk else 0].ravel()
  rows = [np.concatenate([flat(k, t) for k in [*trunk, heads[t]]]) for t in range(2)]
  places = [np.argsort(np.argsort(-row, kind="stable")) for row in rows]
  split = sum(scores[k][0].size for k in trunk)
  every = np.concatenate([np.minimum(*(p[:split] for p in places)), *(p[split:] for p in places)])
  wanted = np.zeros(every.size)
  wanted[np.argsort(every, kind="stable")[: round(0.3 * every.size)]] = 1
  memory = _begun(experiment, 1, state).memory
  got = np.concatenate([np.asarray(memory["keep"][k]).ravel() for k in [*trunk, *heads]])
  np.testing.assert_array_equal(got, wanted)
  parts = np.asarray(memory["parts"])
  assert parts.shape == (3, 5) and parts[0, 4] == parts[1, 3] == 0
  np.testing.assert_allclose(parts[2, 3:], [np.mean(memory["keep"][k]) for k in heads])
  with pytest.raises(ValueError, match="score the head of b, .* or set --config.sparse.heads=Fal"):
    _begun(experiment, 1, _fake(experiment, (1, 0)))


def test_magnitudes_need_no_batch(build):
  experiment = build(**VALUES, sparse__scores="magnitude")
  assert [phase.name for phase in experiment.method.phases] == ["retrain"]
  state = experiment.initial_state()
  weights = np.concatenate([w.ravel() for w in _flat(state.params["network"]).values()])
  keep = _keep(_begun(experiment, 0, state).memory)
  assert keep.sum() == round(0.3 * keep.size)
  assert np.abs(weights)[keep == 1].min() >= np.abs(weights)[keep == 0].max()


DYNAMIC = {
  "method": "disparse",
  "sparse__dynamic": True,
  "sparse__heads": True,
  "model__blocks": (1,),
  "gates__target_rates": (1.0,),
  "train__cycles": 2,
  "train__weight_steps": 2,
  "train__retrain_steps": 4,
}


def test_weights_are_replaced_layer_by_layer(build):
  experiment = build(**DYNAMIC)
  names = [(p.name, p.cycle, p.steps) for p in experiment.method.phases]
  assert names == [
    ("weights", 0, 2), ("measure", 0, 1), ("weights", 1, 2), ("measure", 1, 1), ("retrain", 2, 4)
  ]  # fmt: skip
  first = _begun(experiment, 0, experiment.initial_state())
  counts = {k: int(v.sum()) for k, v in first.memory["keep"].items()}
  total = sum(v.size for v in first.memory["keep"].values())
  assert sum(counts.values()) == round(0.3 * total)
  scored = _stepped(experiment, "measure", first, _batch(experiment))
  second = _begun(experiment, 2, scored)
  third = _begun(experiment, 4, second.replace(memory={**second.memory, **_seen(scored)}))
  changed = []
  flat = lambda state: traverse_util.flatten_dict(state.params["network"], sep="/")
  for name, old in first.memory["keep"].items():
    old, new = np.asarray(old) == 1, np.asarray(second.memory["keep"][name]) == 1
    assert new.sum() == counts[name] == third.memory["keep"][name].sum()
    path = name if name.startswith("heads") else f"trunk/{name}"
    weights, found = np.abs(flat(scored)[path]), np.asarray(flat(second)[path])
    steep = np.asarray(scored.memory["scores"][name])
    assert old.all() or steep[:, ~old].any()  # pruned weights have gradients
    count = round(0.5 * counts[name])
    stay = old & (weights >= np.sort(weights[old])[count])
    assert (new & stay).sum() == stay.sum() == counts[name] - count
    if old.all():
      continue
    back = np.max([s.ravel()[~stay.ravel()].argsort().argsort() for s in steep], 0)
    assert back[new[~stay]].min() >= back[~new[~stay]].max(initial=0)
    np.testing.assert_array_equal(found[new & ~old], 0)
    np.testing.assert_array_equal(found[~(new & ~old)], flat(scored)[path][~(new & ~old)])
    changed.append((new & ~old).sum())
  assert sum(changed) > 10 and not second.memory["seen"].any()
  parts = np.asarray(third.memory["parts"])
  heads = [first.memory["keep"][f"heads_{t}/linear/kernel"].mean() for t in range(2)]
  np.testing.assert_allclose(parts[2, 2:], heads, rtol=1e-6)


def _seen(scored):
  return {name: scored.memory[name] for name in ("scores", "seen")}


def test_a_stopped_dynamic_run_goes_on(whole, train, stopped, tmp_path, same_run):
  """Stopped before and after weights are replaced."""
  want = whole(**DYNAMIC)
  for last in (3, 5):
    stopped(tmp_path, last, train__checkpoint_every=1, **DYNAMIC)
  same_run(train(tmp_path, **DYNAMIC), want)
  assert _keep(want.state.memory).sum() == round(0.3 * _keep(want.state.memory).size)
  assert "would be kept if each task alone were asked" in want.results["learned"]["caption"]


def test_what_is_served_is_what_was_evaluated(run):
  """A restored model predicts with zeros where weights are pruned, and counts as hard sharing."""
  model = trained_lib.restore(run.experiment, run.folder)
  inputs = jnp.asarray(run.experiment.dataset.arrays("test").inputs[:5])
  (alone, _), (whole_, _) = (m.forward()(m.variables, inputs) for m in (model.only((1,)), model))
  np.testing.assert_allclose(alone["b"], whole_["b"], atol=1e-6)
  assert not _flat(model.params)["backbone/block_0/widen/kernel"].all()


@pytest.mark.parametrize(
  "values, message",
  [
    ({"sparse__density": 0.0}, "config.sparse.density must be above 0 and at most 1, but is 0"),
    ({"sparse__density": 1.5}, "config.sparse.density must be"),
    ({"sparse__density": float("nan")}, "config.sparse.density must be"),
    ({"sparse__replaced": 0.0}, "config.sparse.replaced must be above 0 and at most 1"),
    ({"sparse__scores": "saliencies"}, "config.sparse.scores is 'saliencies'.*'saliency'"),
    ({"sparse__dynamic": True, "train__cycles": 0}, "config.train.cycles must be at least 1"),
    ({"sparse__batches": 0}, "config.sparse.batches must be at least 1"),
    ({"sparse__rule": "unoin"}, "config.sparse.rule is 'unoin'.*Did you mean 'union'"),
  ],
)
def test_values_without_sense_are_refused(build, values, message):
  with pytest.raises(ValueError, match=message):
    build(**VALUES | values)
