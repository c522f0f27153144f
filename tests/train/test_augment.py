"""Augmented training data: the same from memory, streamed, and by workers."""

from __future__ import annotations

from absl import flags
import jax
import numbered_source
import numpy as np
import pytest

from dynashare_jax import methods
from dynashare_jax import types
from dynashare_jax.data import loader
from dynashare_jax.data.pictures import augment as transforms
from dynashare_jax.data.pictures import dataset as dense
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import feed
from dynashare_jax.train import forward
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import stages

TASKS = (types.TaskSpec("depth", "depth", unit="m"),)


@pytest.fixture(scope="module")
def make(config):
  """An experiment on 20 pictures of 10 x 12, cropped to 8 x 8."""

  def build(devices=1, **values):
    settings = config(
      **{
        "method": "hard",
        "model.backbone": "resnet",
        "model.widths": (4,),
        "model.blocks": (1,),
        "model.strides": (1,),
        "model.dilations": (1,),
        "model.stem": "small",
        "train.steps": 4,
        "train.batch_size": 4,
        "train.eval_every": 4,
        "eval.batch_size": 4,
        **values,
      }
    )
    sources = {
      s: dense.Source(
        [str(i) for i in keys], numbered_source.read, numbered_source.decode, (10, 12, 3)
      )
      for s, keys in (("train", range(100, 112)), ("validation", range(4)), ("test", range(4)))
    }
    spec = types.DatasetSpec(
      "numbered",
      TASKS,
      "image",
      (10, 12, 3),
      {s: len(source) for s, source in sources.items()},
      crop=(8, 8),
    )
    arrays = lambda s: loader.stack(list(sources[s]))
    dataset = types.Dataset(
      spec, arrays, sources.__getitem__, transforms.Augmentation(TASKS, (8, 8))
    )
    return experiment_lib.build(
      settings, dataset, methods.find("hard").build, jax.devices()[:devices]
    )

  return build


def test_streamed_examples_are_varied_as_resident_ones(make):
  resident = feed.Feed(make())
  streamed = feed.Feed(make(**{"train.resident": False}))
  augment = make().dataset.augment
  for offset in (0, 1, 2, 3):
    arrays, rows, draws = resident.chunk(0, offset, 1)
    batch = loader.take(arrays, rows[0])
    want = augment.batch(batch, jax.tree.map(lambda d: d[0], draws))
    found, _, nothing = streamed.chunk(0, offset, 1)
    assert nothing is None and found.inputs.shape == (4, 8, 8, 3)
    np.testing.assert_allclose(found.inputs, want.inputs, atol=1e-6)
    np.testing.assert_allclose(found.targets["depth"], want.targets["depth"], rtol=1e-6)
    np.testing.assert_array_equal(found.valid["depth"], want.valid["depth"])


def test_several_steps_at_once_draw_as_single_ones(make):
  source = feed.Feed(make())
  _, rows, draws = source.chunk(0, 0, 3)
  for offset in range(3):
    _, one, draw = source.chunk(0, offset, 1)
    np.testing.assert_array_equal(rows[offset], one[0])
    for many, single in zip(draws, draw, strict=True):
      np.testing.assert_array_equal(many[offset], single[0])


def test_epochs_vary_the_same_example_differently(make):
  source = feed.Feed(make())
  draws = [source.chunk(0, offset, 1)[2] for offset in (0, 3)]
  assert (draws[0].scale != draws[1].scale).all()


def test_workers_give_the_same_batches(make):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  plain = feed.Feed(make(**{"train.resident": False}))
  workers = feed.Feed(make(**{"train.resident": False, "train.workers": 2}))
  for offset in (0, 1):
    first, second = (f.chunk(0, offset, 1)[0] for f in (plain, workers))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_training_and_evaluation_have_their_own_sizes(make, tmp_path):
  """Trains on crops, evaluates whole pictures; all ways end the same."""
  losses = []
  for number, (devices, resident) in enumerate(((1, True), (1, False), (4, True), (4, False))):
    loop = loop_lib.Loop(make(devices, **{"train.resident": resident}), tmp_path / str(number))
    loop.workdir.mkdir()
    state = stages.run(loop)
    result = loop.evaluator.run(
      state.best.params,
      state.best.stats,
      loop.feed.evaluation("test"),
      loop.experiment.sharing.chosen(state.routes, 0),
    )
    losses.append(result.losses["depth"])
  np.testing.assert_allclose(losses[1:], losses[:1] * 3, rtol=1e-4)


def test_the_loss_may_be_taken_at_the_labels(make):
  """Two logits under four labels 1, 1, 3, 3: mean errors by hand."""
  target = np.broadcast_to(np.float32([1, 1, 3, 3]), (1, 1, 4))
  batch = types.Batch(
    None, {"depth": target}, {"depth": np.ones((1, 1, 4), bool)}, np.ones(1, bool)
  )
  logits = {"depth": np.float32([1, 3]).reshape(1, 1, 2, 1)}
  losses = {}
  for at in (False, True):
    ((total, count),) = forward.task_losses(TASKS, logits, batch, at)
    losses[at] = float(total / count)
  assert losses == {False: 0.0, True: pytest.approx((0.5 + 0.5) / 4)}
  assert make(**{"train.loss_at": "labels"}).objective.at_labels
  assert not make().objective.at_labels
  with pytest.raises(ValueError, match="must be one of logits, labels"):
    make(**{"train.loss_at": "both"})
