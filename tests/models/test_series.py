"""Series of different lengths: nothing sees the future or the padding."""

from __future__ import annotations

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynashare_jax import types
from dynashare_jax.models import backbones
from dynashare_jax.models import gates
from dynashare_jax.models import heads
from dynashare_jax.models import norm
from dynashare_jax.models import series
from dynashare_jax.models.trunks import network as network_lib
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import compaction
from dynashare_jax.ops import routing

QUICK = {"xla_backend_optimization_level": 0}
TIME, COLUMNS, LENGTHS = 21, 5, (21, 13, 1, 8)
TASKS = (
  types.TaskSpec("hourly", "binary", 1, every_step=True),
  types.TaskSpec("early", "binary", 1, first_steps=6),
  types.TaskSpec("whole", "multilabel", 3),
)
SPEC = types.DatasetSpec(
  "series", TASKS, "series", (TIME, COLUMNS), {}, lengths=True, channels=((0, 3), (1,), (2, 4))
)
CLOSE = dict(rtol=2e-5, atol=2e-5)
FAMILIES = ("resnet", "tcn", "channel_lstm")


def _model(backbone, **more):
  config = runpy.run_path("configs/base.py")["get_config"]().model
  config.update(
    dict(
      backbone=backbone,
      width=6,
      hidden=3,
      dropout=0.0,
      stem="hourly",
      head="temporal",
      head_width=7,
      widths=(4, 6),
      strides=(1, 2),
      dilations=(1, 2),
      blocks=(1, 1) if backbone == "resnet" else (2,),
    )
    | more
  )
  return config


def _network(backbone, gated=True, spec=SPEC, **more):
  """A network with three tasks, and its variables after some steps."""
  config = _model(backbone, **more)
  body = backbones.find(backbone).build(config, spec, jnp.float32)
  trunk = skip_trunk.SkipTrunk(body, 3, (False,) + (gated,) * (body.num_blocks - 1), 4, "spread")
  made = tuple(
    heads.of_task(config, spec, task, task.outputs, False, jnp.float32) for task in spec.tasks
  )
  network = network_lib.Network(trunk, made, tuple(t.name for t in spec.tasks))
  inputs = _inputs()
  if not spec.lengths:
    inputs = inputs["series"]
  every = skip_trunk.Decisions(routing.all_run(body.num_blocks, 3))
  variables = jax.jit(lambda key: network.init(key, inputs, every, False), compiler_options=QUICK)(
    jax.random.key(0)
  )
  keys = iter(jax.random.split(jax.random.key(1), 500))
  # Weights large enough that everything reaches the predictions.
  variables = jax.tree.map(
    lambda leaf: leaf + 0.3 * jax.random.uniform(next(keys), leaf.shape), variables
  )
  return network, variables, body.num_blocks


def _inputs(seed=0):
  rng = np.random.default_rng(seed)
  return {
    "series": jnp.asarray(rng.normal(size=(4, TIME, COLUMNS)), jnp.float32),
    "length": jnp.asarray(LENGTHS, jnp.int32),
  }


def _gated(blocks, noise=None, **more):
  """Every task decides for itself at every block, gates too."""
  policy = jnp.ones((3, blocks)).at[1, 1].set(0.0)
  return skip_trunk.Decisions(routing.own(blocks, 3), policy, gated=True, noise=noise, **more)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("backbone", FAMILIES)
def test_later_hours_do_not_move_earlier_predictions(backbone, train):
  """At test; and in training but for the batch statistics, frozen here."""
  network, variables, blocks = _network(
    backbone, norm="group" if train else "batch", gated=not train
  )
  decisions = (
    _gated(blocks)
    if not train
    else skip_trunk.Decisions(routing.own(blocks, 3), jnp.ones((3, blocks)))
  )
  run = jax.jit(
    lambda x: network.apply(variables, x, decisions, train, mutable=["batch_stats"])[0][0],
    compiler_options=QUICK,
  )
  inputs = _inputs()
  before = run(inputs)
  other = _inputs(1)["series"]
  for hour in (0, 1, 5, 6, 7, 12, 20):
    spoilt = inputs["series"].at[:, hour + 1 :].set(other[:, hour + 1 :])
    after = run(inputs | {"series": spoilt})
    seen = before["hourly"][:, : hour + 1], after["hourly"][:, : hour + 1]
    np.testing.assert_array_equal(*seen)
    if hour >= 5:  # The sixth hour is the last one that `early` may read.
      np.testing.assert_array_equal(before["early"], after["early"])
    else:
      assert not np.allclose(before["early"][0], after["early"][0])
    if hour < 20:  # It does reach what comes after.
      assert not np.allclose(before["whole"][0], after["whole"][0])
      assert not np.allclose(before["hourly"][0, hour + 1 :], after["hourly"][0, hour + 1 :])


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("backbone", FAMILIES)
def test_padding_changes_nothing(backbone, train):
  """Neither its values nor how much of it there is, nor in the averages."""
  network, variables, blocks = _network(backbone)
  noise = jax.random.logistic(jax.random.key(3), (4, 3, blocks))
  run = jax.jit(
    lambda x: network.apply(variables, x, _gated(blocks, noise), train, mutable=["batch_stats"]),
    compiler_options=QUICK,
  )
  inputs = _inputs()
  (logits, signals), changed = run(inputs)
  mask = np.arange(TIME)[None] < np.asarray(LENGTHS)[:, None]
  spoilt = jnp.where(mask[..., None], inputs["series"], 1e3)
  longer = jnp.pad(spoilt, ((0, 0), (0, 9), (0, 0)), constant_values=-1e3)
  for more in (spoilt, longer):
    (found, seen), moved = run(inputs | {"series": more})
    np.testing.assert_allclose(
      np.asarray(found["hourly"])[:, :TIME][mask], np.asarray(logits["hourly"])[mask], **CLOSE
    )
    for name in ("early", "whole"):
      np.testing.assert_allclose(found[name], logits[name], **CLOSE)
    np.testing.assert_allclose(seen.executed, signals.executed, **CLOSE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), moved, changed)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_examples_compacted_equal_masked(backbone):
  network, variables, blocks = _network(backbone)
  inputs = _inputs()
  run = lambda how: jax.jit(
    lambda x: network.apply(variables, x, _gated(blocks, compaction=how), False),
    compiler_options=QUICK,
  )(inputs)
  masked = run(None)
  assert 0 < float(masked[1].executed.mean()) < 1
  for how in (compaction.Compaction("rows"), compaction.Compaction("buckets")):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), run(how), masked)


def test_gates_decide_by_the_hour_and_count_hours_of_the_stay():
  network, variables, blocks = _network("tcn")
  _, signals = network.apply(variables, _inputs(), _gated(blocks), False)
  executed = np.asarray(signals.executed)  # [T, B, L]
  for row, length in enumerate(LENGTHS):
    hours = executed[:, row] * length
    np.testing.assert_allclose(hours, hours.round(), atol=1e-4)
  assert ((executed > 0) & (executed < 1)).any()
  assert (executed[1, :, 1] == 0).all()  # Its route skips this block.


def test_masked_batch_norm_is_that_of_the_real_steps():
  layer = norm.GroupedBatchNorm()
  rng = np.random.default_rng(2)
  x = rng.normal(2, 3, (2, 4, TIME, 3)).astype(np.float32)
  mask = np.arange(TIME)[None] < np.asarray(LENGTHS)[:, None]
  variables = layer.init(jax.random.key(0), x, jnp.ones((2,)), False)
  found, moved = layer.apply(
    variables, x, jnp.asarray([0.5, 0.5]), False, mask, mutable=["batch_stats"]
  )
  real = x[:, mask]  # [G, N, C]
  mean, var = real.mean(1), real.var(1)
  want = (real - mean[:, None]) / np.sqrt(var[:, None] + 1e-5)
  np.testing.assert_allclose(np.asarray(found)[:, mask], want, 1e-4, 1e-4)
  stats, n = moved["batch_stats"], mask.sum()
  np.testing.assert_allclose(stats["mean"], 0.1 * mean.mean(0), 1e-4, 1e-5)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * (var * n / (n - 1)).mean(0), 1e-4)


def test_a_mask_of_ones_is_no_mask():
  layer = norm.GroupedBatchNorm()
  x = jax.random.normal(jax.random.key(0), (2, 4, TIME, 3))
  variables = layer.init(jax.random.key(0), x, jnp.ones((2,)), False)
  found = [
    layer.apply(variables, x, jnp.ones((2,)), False, mask, mutable=["batch_stats"])
    for mask in (None, jnp.ones((4, TIME), bool))
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), *found)


def test_a_gate_scores_every_step_by_the_mean_so_far():
  gate = gates.Gate(4, "spread")
  x = jax.random.normal(jax.random.key(0), (1, 4, TIME, 3))
  mask = jnp.ones((4, TIME), bool)
  variables = gate.init(jax.random.key(1), x, jnp.ones((1,)), True)
  score = gate.apply(variables, x, jnp.ones((1,)), True, None, mask)
  assert score.shape == (1, 4, TIME)
  for step in (0, 3, TIME - 1):
    one = gate.apply(variables, x[:, :, : step + 1], jnp.ones((1,)), True)
    np.testing.assert_allclose(score[:, :, step], one, 1e-5, 1e-5)


@pytest.mark.parametrize(
  "total, size, stride, last",
  [(21, 21, 1, 20), (21, 11, 2, 20), (21, 6, 4, 20), (170, 43, 4, 168), (170, 22, 8, 168)],
)
def test_strides_of_features(total, size, stride, last):
  steps = series.Steps(jnp.asarray([total, last + 1, last, 1]), total)
  assert steps.stride(size) == stride
  np.testing.assert_array_equal(steps.mask(size).sum(1), [size, size, size - 1, 1])
  full = series.at_every_step(jnp.arange(size)[None, :, None], steps)[0, :, 0]
  np.testing.assert_array_equal(full, np.arange(total) // stride)


def test_features_of_another_length_are_refused():
  with pytest.raises(ValueError, match="no features of 7 steps"):
    series.Steps(jnp.asarray([21]), 21).stride(7)


def test_the_authors_form_sees_everything():
  """Without lengths: one dense layer over all steps, padding too."""
  spec = types.DatasetSpec("series", TASKS, "series", (TIME, COLUMNS), {})
  network, variables, blocks = _network("resnet", gated=False, spec=spec, head="aspp")
  decisions = skip_trunk.Decisions(routing.all_run(blocks, 3))
  run = lambda x: network.apply(variables, x, decisions, False)[0]
  x = _inputs()["series"]
  before, after = run(x), run(x.at[:, -1].add(5.0))
  assert before["hourly"].shape == (4, TIME, 1)
  assert before["early"].shape == (4, 1) and before["whole"].shape == (4, 3)
  for name, logits in before.items():
    assert not np.allclose(logits, after[name]), name
  assert not np.allclose(before["hourly"][:, 0], after["hourly"][:, 0])


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(head="aspp"), "must be one of temporal, linear"),
    (dict(stem="deeplab"), "looks ahead"),
    (dict(blocks=(0, 0)), "at least one block"),
  ],
)
def test_what_does_not_fit_series_is_refused(change, message):
  config = _model("resnet")
  config.update(change)
  with pytest.raises(ValueError, match=message):
    body = backbones.find("resnet").build(config, SPEC, jnp.float32)
    assert body
    heads.of_task(config, SPEC, TASKS[0], 1, False, jnp.float32)


@pytest.mark.parametrize("backbone", ["tcn", "channel_lstm", "mlp"])
def test_backbones_refuse_other_inputs(backbone):
  spec = types.DatasetSpec("pictures", TASKS, "image", (8, 8, 3), {})
  with pytest.raises(ValueError, match="image"):
    backbones.find(backbone).build(_model(backbone), spec, jnp.float32)
