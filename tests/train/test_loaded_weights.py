"""Runs that start from weights of a file."""

from __future__ import annotations

from flax import traverse_util
import jax
from models import weight_layouts as layouts
import numbered_source
import numpy as np
import pytest

from dynashare_jax import methods
from dynashare_jax import runs
from dynashare_jax import types
from dynashare_jax.data import loader
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.train import experiment as experiment_lib

TASKS = (types.TaskSpec("depth", "depth", unit="m"), types.TaskSpec("height", "depth", unit="m"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  """A thin ResNet-18 in torchvision's layout."""
  state = layouts.imagenet()
  path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
  layouts.save(path, state)
  return path, state


@pytest.fixture(scope="module")
def make(config):
  """An experiment with a thin Deeplab-ResNet-18."""

  def build(**values):
    settings = config(
      **{
        "method": "adashare",
        "model.backbone": "resnet",
        "model.widths": layouts.THIN,
        "model.blocks": layouts.R18,
        "model.strides": (1, 2, 1, 1),
        "model.dilations": (1, 1, 2, 4),
        "model.stem": "deeplab",
        "train.batch_size": 4,
        "eval.batch_size": 4,
        "train.retrain_from": "scratch",
        "gates.target_rates": (1.0,) * 8,
        **values,
      }
    )
    source = dense.Source(
      [str(i) for i in range(20)], numbered_source.read, numbered_source.decode, (10, 12, 3)
    )
    spec = types.DatasetSpec(
      "numbered", TASKS, "image", (10, 12, 3), dict.fromkeys(types.SPLITS, 20)
    )
    dataset = types.Dataset(spec, lambda _: loader.stack(list(source)), lambda _: source)
    return experiment_lib.build(
      settings, dataset, methods.find(settings.method).build, jax.devices()[:1]
    )

  return build


def _flat(tree):
  return traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize(
  "method, stream, trunks",
  [
    ("adashare", "retrain", ("trunk/backbone",)),
    ("single", "init", ("trunk/columns_0", "trunk/columns_1")),
  ],
)
def test_every_start_from_scratch_is_the_file(make, file, method, stream, trunks):
  path, state = file
  experiment = make(method=method, **{"model.weights": str(path)})
  plain = make(method=method)
  params, stats = map(_flat, experiment.fresh(stream))
  random = _flat(plain.fresh(stream)[0])
  for trunk in trunks:
    np.testing.assert_array_equal(
      params[f"{trunk}/stem_conv/kernel"], state["conv1.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(
      stats[f"{trunk}/block_3/norm_1/mean"], state["layer2.1.bn2.running_mean"]
    )
  heads = [name for name in params if name.startswith("heads")]
  assert heads
  for name in heads:
    np.testing.assert_array_equal(params[name], random[name])
  assert any("torchvision" in note for note in experiment.notes)
  assert plain.notes == plain.dataset.spec.notes + plain.method.notes


def test_the_state_keeps_its_shapes(make, file):
  experiment = make(**{"model.weights": str(file[0])})
  shapes = lambda state: jax.tree.map(lambda a: (a.shape, a.dtype), state)
  state = experiment.initial_state()
  assert shapes(state) == shapes(make().initial_state())
  assert shapes(state) == shapes(experiment.template(0))


def test_a_file_that_does_not_fit_stops_before_any_compute(make, file):
  with pytest.raises(ValueError, match="There is no file|not found|no such"):
    make(**{"model.weights": "gone.safetensors"})
  with pytest.raises(ValueError, match="layer1.0.conv1.weight"):
    make(**{"model.weights": str(file[0]), "model.widths": (4, 4, 5, 6)})


# Weights of a finished run.


@pytest.fixture(scope="module")
def finished(whole, config):
  """A work directory of single-task networks, and its parameters."""
  run = whole(method="single", train__steps=8, train__eval_every=8)
  runs.open_workdir(config(method="single", train__steps=8, train__eval_every=8), run.folder)
  return run


def _built(config, folder, **values):
  return runs.build(config(model__weights=str(folder), **values), jax.devices()[:1])[0]


@pytest.mark.parametrize("method", ["nddr", "single"])
def test_columns_start_from_single_task_networks(finished, config, same_bits, method):
  experiment = _built(config, finished.folder, method=method)
  params, _ = experiment.fresh("init")
  theirs = jax.tree.map(np.asarray, finished.state.best.params)
  for name, tree in theirs["trunk"].items():
    same_bits(jax.tree.map(np.asarray, params["trunk"][name]), tree)
  same_bits(jax.tree.map(np.asarray, params["heads_1"]), theirs["heads_1"])
  notes = "\n".join(experiment.notes)
  assert f"weights: backbone, heads of {finished.folder}" in notes
  assert ("fusion keep their initial values" in notes) == (method == "nddr")


@pytest.mark.parametrize(
  "values, message",
  [
    ({"method": "hard"}, "backbone has other names than this method's: there is no trunk/backbone"),
    ({"method": "nddr", "data__tasks": ("b", "a")}, "Its tasks are a, b; here they are b, a"),
    ({"method": "nddr", "model__width": 10}, r"has the shape \[.*\], that run has shape"),
    ({"method": "nddr", "model__blocks": (3,)}, "block_2.*that run has none"),
  ],
)
def test_a_run_that_does_not_fit_is_refused(finished, config, values, message):
  with pytest.raises(ValueError, match=message):
    _built(config, finished.folder, **values)


def test_gates_are_added_to_a_finished_network(whole, config, same_bits):
  run = whole(method="hard", train__steps=8, train__eval_every=8)
  runs.open_workdir(config(method="hard", train__steps=8, train__eval_every=8), run.folder)
  experiment = _built(config, run.folder, method="dynashare")
  params, _ = experiment.fresh("init")
  theirs = jax.tree.map(np.asarray, run.state.best.params["trunk"]["backbone"])
  same_bits(jax.tree.map(np.asarray, params["trunk"]["backbone"]), theirs)
  assert "gates keep their initial values" in "\n".join(experiment.notes)
