"""Tests of exporting: an artefact says what its checkpoint says."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import configs

from dynashare_jax import runs as main
from dynashare_jax import types
from dynashare_jax.infer import artefact
from dynashare_jax.infer import export
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.objectives import kinds
from dynashare_jax.ops import resize

IMAGES = {
  "data__images": True,
  "model__backbone": "resnet",
  "model__blocks": (1, 2),
  "model__widths": (4, 6),
  "model__strides": (1, 1),
  "model__stem": "small",
  "model__dilations": (1, 1),
  "gates__target_rates": (1.0, 0.6, 0.6),
}


def _trained(folder, route, **values):
  """A model of random weights, 2 tasks; its gates differ between examples."""
  config = configs.make(**{"gates__init": "spread", **values})
  experiment = main.build(config, jax.devices()[:1])[0]
  params, stats = experiment.fresh("init")
  rng = np.random.default_rng(0)
  noisy = lambda tree: jax.tree.map(
    lambda a: a + 0.3 * jnp.asarray(rng.normal(size=a.shape), a.dtype), tree
  )
  trained = trained_lib.Trained(
    experiment,
    noisy(params),
    jax.tree.map(jnp.abs, noisy(stats)),
    experiment.sharing.of(route),
    pathlib.Path(folder),
    7,
  )
  metrics = [
    {
      "name": "m",
      "unit": "%",
      "higher_is_better": True,
      "test": 1.5,
      "validation": 2.5,
      "constant": 0.0,
    }
  ]
  (trained.workdir / "results.json").write_text(
    json.dumps({"tasks": [{"name": t.name, "metrics": metrics} for t in trained.tasks]})
  )
  return trained


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """Segmentation and depth with gates; one skips what the other runs."""
  return _trained(tmp_path_factory.mktemp("images"), [[1, 1, 1], [1, 0, 1]], **IMAGES)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
  """Two tasks on vectors, a gate on the second of two blocks."""
  return _trained(tmp_path_factory.mktemp("vectors"), [[1, 1], [1, 1]])


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
  """A yes or no and two numbers of every example."""
  return _trained(tmp_path_factory.mktemp("numbers"), [[1, 1], [1, 1]], data__tasks=("a", "c"))


def _inputs(trained, count):
  return np.asarray(trained.experiment.dataset.arrays("test").inputs)[:count]


def _balanced(trained):
  """Thresholds that half of the examples exceed."""
  run = jax.jit(trained.forward(trained_lib.MASKED))
  signals = run(trained.variables, _inputs(trained, 20))[1]
  found = []
  for block, gated in enumerate(trained.gated):
    asked = np.asarray(signals.own.relevance[:, :, block])[np.asarray(signals.own.gated)[:, block]]
    found.append(float(np.median(asked)) if gated and asked.size else 0.0)
  return tuple(found)


def _budget(thresholds, target=0.6):
  return export.Budget(thresholds, target, {"thresholds": list(thresholds)})


def _reference(trained, inputs, budget=None):
  """Masked execution of the whole model, enlarged and read by hand."""
  how = {}
  if budget is not None:
    how = {"threshold": budget.thresholds, "target_rate": budget.target_rate}
  run = jax.jit(trained.forward(trained_lib.MASKED, **how))
  logits, signals = run(trained.variables, inputs)
  spec, predictions = trained.experiment.dataset.spec, {}
  for task in trained.tasks:
    values = logits[task.name]
    if spec.input_kind == "image":
      values = resize.enlarge(values, spec.input_shape[:2])
    predictions[task.name] = kinds.find(task.kind).predict(task, values)
  return predictions, np.asarray(signals.executed)


def _written(folder, model, platforms=("cpu",)):
  export.write(model, folder, platforms)
  return artefact.load(folder)


@pytest.mark.parametrize("kind", ("images", "vectors", "numbers"))
def test_outputs_are_the_checkpoints_at_any_batch(kind, request, tmp_path):
  trained = request.getfixturevalue(kind)
  budget = _budget(_balanced(trained))
  model = _written(tmp_path, export.choose(trained, budget=budget))
  seen = []
  for count in (1, 3, 9):  # 9 is behind the last change of execution
    inputs = _inputs(trained, count)
    want, executed = _reference(trained, inputs, budget)
    found = model.run(inputs)
    assert list(found.predictions) == [task.name for task in trained.tasks]
    for name, values in want.items():
      np.testing.assert_allclose(found.predictions[name], values, atol=2e-5, rtol=1e-4)
      assert found.predictions[name].dtype == values.dtype
    np.testing.assert_array_equal(found.executed, executed)
    seen.append(executed.mean())
  assert 0 < seen[-1] < 1


def test_buckets_of_a_symbolic_batch_drop_nobody(vectors, tmp_path):
  tuned = {"platform": "cpu", "device": "x", "choices": {"8": "buckets"}, "seconds": {}}
  file = strategy.save(tuned, vectors.workdir)
  budget = _budget(_balanced(vectors))
  model = _written(tmp_path, export.choose(vectors, budget=budget))
  file.unlink()
  assert [least for least, _ in model.programs] == [1, 2, 8]
  for count in (2, 11):
    inputs = _inputs(vectors, count)
    want, executed = _reference(vectors, inputs, budget)
    found = model.run(inputs)
    np.testing.assert_array_equal(found.executed, executed)
    np.testing.assert_allclose(found.predictions["a"], want["a"], atol=1e-5)


def test_uint8_images_are_scaled_inside(images, tmp_path):
  model = _written(tmp_path, export.choose(images))
  raw = (255 * _inputs(images, 2)).round().astype(np.uint8)
  want, _ = _reference(images, raw.astype(np.float32) / 255)
  found = model(raw)
  assert found["a"].shape == (2, 8, 8) and found["a"].dtype == np.int32
  np.testing.assert_array_equal(found["a"], want["a"])
  np.testing.assert_allclose(found["b"], want["b"], atol=2e-5)


def test_a_model_without_gates(tmp_path):
  trained = _trained(tmp_path, [[1, 0], [1, 1]], method="hard")
  model = _written(tmp_path / "out", export.choose(trained))
  inputs = _inputs(trained, 3)
  want, executed = _reference(trained, inputs)
  found = model.run(inputs)
  for name, values in want.items():
    np.testing.assert_allclose(found.predictions[name], values, atol=1e-5)
  np.testing.assert_array_equal(found.executed, executed)
  assert len(model.programs) == 1 and model.manifest["gates"] == []


def test_norms_are_folded_where_no_decision_hangs_on_them(images, tmp_path):
  """Norms of a model with instance gates stay: rounding could turn what these decide."""
  route = [[1, 1, 1], [1, 0, 1]]
  trained = _trained(tmp_path, route, **IMAGES | {"method": "hard"})
  hard, inputs = export.choose(trained, ["b"]), jnp.asarray(_inputs(trained, 3))
  found = jax.jit(lambda w, x: hard.forward(w, {"image": x}, None))(hard.weights, inputs)
  want, _ = _reference(trained, inputs)
  np.testing.assert_allclose(found.predictions["b"], want["b"], atol=2e-5)
  stats = lambda model: [name for name in model.weights if name.startswith("batch_stats/")]
  assert not stats(hard) and stats(export.choose(images))
  assert any(name.endswith("norm_1/folded") for name in hard.weights)
  assert not any(name.endswith("norm_1/scale") for name in hard.weights)


def test_a_chosen_task_leaves_the_others_behind(images, tmp_path):
  alone = export.choose(images, ["b"])
  model = _written(tmp_path, alone)
  assert model.tasks == ("b",)
  inputs = _inputs(images, 3)
  want, executed = _reference(images, inputs)
  found = model.run(inputs)
  np.testing.assert_allclose(found.predictions["b"], want["b"], atol=2e-5)
  np.testing.assert_array_equal(found.executed, executed[1:])
  # Task b never runs block 1, so that neither its weights nor its gate are
  # there; nor is the head of task a (3 classes, where b has 1 number).
  names = set(model.weights)
  assert not any("block_1/" in n or "gate_1/" in n for n in names)
  heads = {n: np.shape(a) for n, a in model.weights.items() if "heads" in n}
  assert heads == {"params/heads_0/linear/bias": (1,), "params/heads_0/linear/kernel": (6, 1)}
  every = artefact.unpack(export.export(export.choose(images), ("cpu",))[1], "")[0]["weights"]
  assert names < {name for name, *_ in every}
  assert model.manifest["plan"]["tasks"] == ["b"]
  assert model.manifest["plan"]["route"] == [[1, 0, 1]]
  assert model.manifest["weights"] == sum(np.size(a) for a in model.weights.values())


def test_single_task_networks_keep_the_chosen_column(tmp_path):
  trained = _trained(tmp_path, [[1, 1], [1, 1]], method="single")
  model = _written(tmp_path / "out", export.choose(trained, ["b"]))
  inputs = _inputs(trained, 3)
  want, _ = _reference(trained, inputs)
  np.testing.assert_array_equal(model(inputs)["b"], want["b"])
  columns = {n.split("/")[2] for n in model.weights if "/trunk/" in n}
  assert columns == {"columns_0"}


def test_gates_that_a_budget_fixes_are_not_asked(images):
  shut = export.choose(images, budget=_budget((0.0, 1e9, -1e9)))
  assert shut.trained.plan.route == ((1, 0, 1), (1, 0, 1))
  assert shut.trained.plan.gated == (False, False, False)
  inputs = jnp.asarray(_inputs(images, 4))
  found = jax.jit(lambda w, x: shut.forward(w, {"image": x}, None))(shut.weights, inputs)
  want, executed = _reference(images, inputs, shut.budget)
  np.testing.assert_allclose(found.predictions["b"], want["b"], atol=2e-5)
  np.testing.assert_array_equal(found.executed, executed)


def test_all_platforms_lie_in_one_file(vectors):
  _, data_ = export.export(export.choose(vectors), ("cpu", "cuda", "tpu"))
  index, sections = artefact.unpack(data_, "")
  covered = {}
  for entry in index["programs"]:
    code = sections[entry["at"] : entry["at"] + entry["size"]].tobytes()
    exported = jax.export.deserialize(bytearray(code))
    assert list(exported.platforms) == entry["platforms"]
    assert str(exported.in_avals[-1].shape[0]) == "batch"
    for name in exported.platforms:
      covered.setdefault(name, []).append(entry["smallest"])
  assert {name: min(sizes) for name, sizes in covered.items()} == {"cpu": 1, "cuda": 1, "tpu": 1}
  assert index["manifest"]["platforms"] == ["cpu", "cuda", "tpu"]


def test_execution_follows_strategy_and_tuning(vectors):
  ways = lambda platform: [
    (p.smallest, p.way) for p in export._programs(export.choose(vectors), [platform])
  ]
  rows, (how, buckets) = strategy.WAYS["rows"], strategy.WAYS["buckets"]
  assert ways("cpu") == [(1, rows)]
  apart = [(1, rows), (2, None), (8, (how, min(8, buckets)))]
  assert ways("tpu") == ways("cuda") == apart
  choices = {"platform": "gpu", "device": "x", "seconds": {}}
  file = strategy.save(choices | {"choices": {"8": "masked"}}, vectors.workdir)
  assert ways("cuda") == [(1, rows), (2, None)]
  assert ways("tpu") == apart
  # A symbolic batch must be known to fill every bucket.
  strategy.save(choices | {"choices": {"4": "buckets"}}, vectors.workdir)
  assert ways("cuda") == [(1, rows), (2, (how, 2)), (8, (how, 8))]
  file.unlink()


def test_the_manifest_says_what_it_is(images, tmp_path):
  record = {
    "thresholds": [0.0, 0.1, 0.2],
    "unit": "flops",
    "budget": 0.8,
    "test": {"metrics": {"a": {"m": 9.5}}},
  }
  budget = export.Budget((0.0, 0.1, 0.2), 0.5, record)
  export.write(export.choose(images, budget=budget), tmp_path, ("cpu",))
  told = json.loads((tmp_path / "manifest.json").read_text())
  index, _ = artefact.unpack((tmp_path / artefact.FILE).read_bytes(), "")
  assert told == index["manifest"]
  assert told["source"] == {
    "run": images.workdir.name,
    "step": 7,
    "seed": 0,
    "data": None,  # the folder has no data.json
    "dataset": "stripes",
    "method": "dynashare",
  }
  assert told["jax"] == jax.__version__ and told["format"] == 1
  assert told["budget"] == record
  assert told["inputs"] == {
    "kind": "image",
    "unit": "uint8 in 0..255, or float32 in 0..1",
    "arrays": {"image": {"shape": [8, 8, 3], "dtypes": ["float32", "uint8"]}},
  }
  first, second = told["tasks"]
  assert first["shape"] == ["batch", 8, 8] and first["dtype"] == "int32"
  assert second["unit"] == "m" and second["dtype"] == "float32"
  assert first["metrics"] == [
    {"name": "m", "unit": "%", "higher_is_better": True, "validation": None, "test": 9.5}
  ]


def test_tables_are_described_by_their_columns(vectors):
  table = types.TableSpec(("job",), (4,), ("age", "pay"), ((0, 1), (0, 2)))
  dataset = vectors.experiment.dataset
  spec = dataclasses.replace(dataset.spec, input_kind="table", input_shape=(3,), table=table)
  from dynashare_jax import methods
  from dynashare_jax.train import experiment as experiment_lib

  experiment = experiment_lib.build(
    configs.make(method="hard"),
    dataclasses.replace(dataset, spec=spec),
    methods.find("hard").build,
    jax.devices()[:1],
  )
  params, stats = experiment.fresh("init")
  trained = dataclasses.replace(
    vectors,
    experiment=experiment,
    params=params,
    stats=stats,
    structure=experiment.sharing.of(np.ones((2, 2))),
  )
  told, packed = export.export(export.choose(trained), ("cpu",))
  assert told["inputs"]["codes"] == {"categorical": [{"name": "job", "codes": 4, "values": []}]}
  assert told["inputs"]["numbers"] == {"numeric": ["age", "pay"]}
  assert told["inputs"]["arrays"] == {
    "categorical": {"shape": [1], "dtypes": ["int32"]},
    "numeric": {"shape": [2], "dtypes": ["float32"]},
  }
  file = vectors.workdir / "table"
  file.write_bytes(packed)
  inputs = {"categorical": np.array([[3], [1]], np.int32), "numeric": np.ones((2, 2), np.float32)}
  want, _ = jax.jit(trained.forward())(trained.variables, inputs)
  np.testing.assert_allclose(
    artefact.load(file)(inputs)["a"], jax.nn.sigmoid(want["a"][:, 0]), atol=1e-6
  )
  inputs["categorical"][1] = 4
  with pytest.raises(ValueError, match="row 1 has 4 in the column 'job'.*0 to"):
    artefact.load(file)(inputs)


def test_a_wrong_wish_is_refused(images, tmp_path):
  with pytest.raises(ValueError, match="--tasks is 'c'; it must be one of a, b"):
    export.choose(images, ["c"])
  with pytest.raises(ValueError, match="names a task twice: a, a"):
    export.choose(images, ["a", "a"])
  model = export.choose(images)
  with pytest.raises(ValueError, match="'cdua'.*Did you mean 'cuda'"):
    export.export(model, ["cdua"])
  with pytest.raises(ValueError, match="--platforms is empty"):
    export.export(model, [])


def test_a_budget_of_another_model_is_refused(images, vectors, tmp_path):
  file = tmp_path / "budget.json"
  saved = {
    "thresholds": [0.0, 0.5, 1.0],
    "target_rate": 0.4,
    "step": 7,
    "route": images.route.tolist(),
  }
  file.write_text(json.dumps(saved))
  found = export.read_budget(file, images)
  assert found == export.Budget((0.0, 0.5, 1.0), 0.4, saved)
  for change in ({"step": 8}, {"route": [[1, 1, 1]] * 2}, {"thresholds": [0.0]}):
    file.write_text(json.dumps(saved | change))
    with pytest.raises(ValueError, match="found for another model"):
      export.read_budget(file, images)
  file.write_text(json.dumps(saved))
  with pytest.raises(ValueError, match="no instance gates"):
    export.read_budget(
      file, dataclasses.replace(images, structure=images.sharing.of(images.route, False))
    )
