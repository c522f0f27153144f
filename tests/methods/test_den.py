"""Deep elastic networks: nested widths, the selector's gradient, and whole runs."""

from __future__ import annotations

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest
from tiny import configs

from dynashare_jax import methods
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.methods import den
from dynashare_jax.models import backbones
from dynashare_jax.models.trunks import elastic
from dynashare_jax.ops import widths
from dynashare_jax.sharing import contract
from dynashare_jax.train import forward as forward_lib
from dynashare_jax.train import gradients
from dynashare_jax.train import step as step_lib

QUICK = {"xla_backend_optimization_level": 0}
VALUES = {"method": "den", "train__retrain_steps": 6, "elastic__lr": 0.05}


@pytest.fixture(scope="module")
def run(whole):
  return whole(**VALUES)


@pytest.fixture(scope="module")
def images(build):
  """A residual network with parameters that are nowhere 0, and its inputs."""
  experiment = build(method="den", **configs.PICTURES)
  params, stats = experiment.fresh("init")
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda a: a + rng.normal(0, 0.3, a.shape).astype(np.float32), params)
  inputs = jnp.asarray(experiment.dataset.arrays("train").inputs[:6])
  return experiment, params, stats, inputs


def _forward(experiment, levels=None, train=True, chosen=False):
  def run(params, stats, inputs):
    control = elastic.Levels(levels, chosen)
    (found, _), new = experiment.network.apply(
      {"params": params, "batch_stats": stats}, inputs, control, train, mutable=["batch_stats"]
    )
    return found, new["batch_stats"]

  return jax.jit(run, compiler_options=QUICK)


def test_full_widths_are_hard_sharing_bit_for_bit(images, build, same_bits):
  experiment, params, stats, inputs = images
  hard = build(method="hard", **configs.PICTURES)
  begun = [e.fresh("init")[0]["trunk"]["backbone"] for e in (experiment, hard)]
  same_bits(*begun)
  trunk = {"backbone": params["trunk"]["backbone"]}
  fixed = {**params, "trunk": trunk}

  def plain(params, stats, inputs):
    found, new = hard.network.apply(
      {"params": params, "batch_stats": stats},
      inputs,
      hard.sharing.everything(),
      True,
      mutable=["batch_stats"],
    )
    return found[0], new["batch_stats"]

  want = jax.jit(plain, compiler_options=QUICK)(fixed, stats, inputs)
  for levels in (None, jnp.full((6, 2), 3)):
    same_bits(_forward(experiment, levels)(params, stats, inputs), want)


def test_a_level_ignores_the_channels_beyond_it(images):
  """What is written into channels that are not used changes no prediction; others do."""
  experiment, params, stats, inputs = images
  levels = jnp.asarray([[0, 1], [1, 0], [2, 1], [1, 2], [2, 2], [0, 0]])
  run = _forward(experiment, levels, train=False)

  def with_noise(first):
    """Noise in the kernels that make channels from `first` (a share) of inner layers on."""
    changed = jax.tree.map(lambda a: a, params)
    for block, width in enumerate((4, 8)):
      layer = changed["trunk"]["backbone"][f"block_{block}"]
      beyond = (np.arange(width) >= first * width).astype(np.float32)
      for leaf, name in (("conv_0", "kernel"), ("norm_0", "bias")):
        old = layer[leaf][name]
        layer[leaf] = {**layer[leaf], name: old + beyond.reshape((1,) * (old.ndim - 1) + (-1,))}
    return run(changed, stats, inputs)[0]

  base = run(params, stats, inputs)[0]
  for name, values in with_noise(0.5).items():
    np.testing.assert_array_equal(values, base[name])
  quarter = with_noise(0.25)["a"]
  moved = np.abs(np.asarray(quarter - base["a"])).max((1, 2, 3)) > 0
  np.testing.assert_array_equal(moved, [False, False, True, True, True, False])


def test_every_task_has_the_widths_that_the_selector_likes_best(images):
  """Its biases alone decide here, so that they are known."""
  experiment, params, stats, inputs = images
  wanted = np.asarray([[0, 2], [3, 1]])  # of task and block
  head = {
    "kernel": jnp.zeros_like(params["trunk"]["selector"]["levels"]["kernel"]),
    "bias": jnp.asarray(np.eye(4)[wanted].ravel(), jnp.float32),
  }
  selector = {**params["trunk"]["selector"], "levels": head}
  params = {**params, "trunk": {**params["trunk"], "selector": selector}}
  got = _forward(experiment, train=False, chosen=True)(params, stats, inputs)[0]
  for task, name in enumerate("ab"):
    given = jnp.tile(jnp.asarray(wanted[task])[None], (6, 1))
    want = _forward(experiment, given, train=False)(params, stats, inputs)[0][name]
    np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-5)
  assert (
    np.abs(got["b"] - _forward(experiment, train=False)(params, stats, inputs)[0]["b"]).max() > 0
  )


def test_what_is_trained_is_what_is_measured(images):
  """One task at full widths, one at a quarter: settled averages are the statistics of training."""
  experiment, params, stats, inputs = images
  likes = jnp.zeros((2, 2, widths.LEVELS)).at[0, :, -1].set(1e3).at[1, :, 1].set(1e3).ravel()
  selector = {**params["trunk"]["selector"], "levels": {**params["trunk"]["selector"]["levels"]}}
  selector["levels"]["bias"] = likes
  params = {**params, "trunk": {**params["trunk"], "selector": selector}}
  trains, measures = (_forward(experiment, train=train, chosen=True) for train in (True, False))
  inputs = jnp.tile(inputs, (16, 1, 1, 1))  # running variances have n / (n - 1) of a batch's
  for _ in range(150):
    want, stats = trains(params, stats, inputs)
  found, _ = measures(params, stats, inputs)
  for name in want:
    np.testing.assert_allclose(found[name], want[name], 1e-2, 1e-2)


def _pass(experiment, state, name, batch):
  phases = experiment.method.phases
  index = next(i for i, phase in enumerate(phases) if phase.name == name)
  moving = step_lib.moving_of(experiment.sharing, phases[index], 0, 0, 0, ())
  spec = experiment.spec(index, ())
  return forward_lib.Pass(experiment.objective, spec, state, batch, moving, jnp.asarray(3))


def _batch(experiment, count=16):
  return jax.tree.map(lambda a: jnp.asarray(a[:count]), experiment.dataset.arrays("train"))


def test_the_selector_learns_from_rewards_alone(build):
  """Its gradient is that of the score function, summed by hand; task losses have none in it."""
  experiment = build(**VALUES)
  state, batch = experiment.initial_state(), _batch(experiment)
  rewarded = {"mean": jnp.asarray([0.2, 0.0]), "steps": jnp.asarray([3.0, 0.0])}
  state = state.replace(memory={**state.memory, **rewarded})
  pass_ = _pass(experiment, state, "policy", batch)

  @jax.jit
  def found(state):
    here = pass_._replace(state=state)
    grads, aside = gradients.gradients(here)
    control = here.control(state.params)
    (logits, signals), _ = here.apply(state.params, state.stats, batch.inputs, control, True)
    each = forward_lib.each_loss(experiment.tasks, logits, batch)
    return grads, aside, signals, each, control.noise

  grads, aside, signals, each, noise = found(state)
  known = np.stack([np.asarray(batch.valid[name]) for name in "ab"])
  np.testing.assert_array_equal(np.asarray(each.count) > 0, known)
  for t, task in enumerate(experiment.tasks):  # examples add up to the batch
    mean = np.asarray(each.total[t]).sum() / known[t].sum()
    np.testing.assert_allclose(mean, aside.parts[f"loss/{task.name}"], rtol=1e-5)
  weight = np.asarray([task.weight for task in experiment.tasks])[:, None]
  used = np.asarray(signals.executed)
  assert set(np.unique(used)) <= set(widths.FRACTIONS) and len(np.unique(used)) > 2
  rewards = (1 - used.mean(-1) ** 2) / 10 - weight * np.asarray(each.total)
  means = [rewards[t][known[t]].mean() for t in range(2)]
  gains = np.where(known, rewards - np.asarray([[0.2], [means[1]]]), 0) / known.sum()

  def logs(selector):
    logits = experiment.network.trunk.selector.apply({"params": selector}, batch.inputs)
    every = jax.nn.log_softmax(logits)
    level = jnp.argmax(logits + noise, -1)
    of = jnp.take_along_axis(every, level[..., None], -1)[..., 0].sum(-1)
    return -(of * gains).sum()

  want = jax.grad(logs)(state.params["network"]["trunk"]["selector"])
  got = grads["network"]["trunk"]["selector"]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)
  assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(got)) > 1e-4
  assert grads["network"]["trunk"]["backbone"]["project"]["kernel"] is None
  # The mean reward: the first one, or nine parts of the past.
  np.testing.assert_allclose(aside.memory["mean"], [0.18 + 0.1 * means[0], means[1]], rtol=1e-5)
  np.testing.assert_array_equal(aside.memory["steps"], [4, 1])


@pytest.mark.parametrize("at_labels", [False, True])
def test_losses_of_single_pictures_add_up_to_the_batch(images, at_labels):
  """Of unlabelled pictures, too; every one as if it were alone."""
  experiment, batch = images[0], _batch(images[0], 5)
  rng = np.random.default_rng(0)
  logits = {"a": rng.normal(size=(5, 4, 4, 3)), "b": rng.normal(size=(5, 4, 4, 1))}
  logits = {name: jnp.asarray(values, jnp.float32) for name, values in logits.items()}
  valid = {name: known.at[2].set(False) for name, known in batch.valid.items()}
  batch = batch._replace(valid=valid)
  each = forward_lib.each_loss(experiment.tasks, logits, batch, at_labels)
  assert each.total.shape == each.count.shape == (2, 5)
  np.testing.assert_array_equal(each.count[:, 2], 0)
  for t, whole_ in enumerate(forward_lib.task_losses(experiment.tasks, logits, batch, at_labels)):
    np.testing.assert_allclose(each.total[t].sum(), whole_.total, rtol=1e-5)
    np.testing.assert_array_equal(each.count[t].sum(), whole_.count)


def test_without_labels_a_task_moves_neither_selector_nor_its_mean(build):
  experiment = build(**VALUES)
  state, batch = experiment.initial_state(), _batch(experiment)
  batch = batch._replace(valid={name: jnp.zeros_like(v) for name, v in batch.valid.items()})
  grads, aside = jax.jit(
    lambda state: gradients.gradients(_pass(experiment, state, "policy", batch))
  )(state)
  assert not any(bool(jnp.any(g)) for g in jax.tree.leaves(grads["network"]["trunk"]["selector"]))
  np.testing.assert_array_equal(aside.memory["steps"], [0, 0])


def test_a_quarter_of_the_batch_has_random_widths(build):
  experiment = build(**VALUES)
  sharing, phases = experiment.sharing, experiment.method.phases
  moving = step_lib.moving_of(sharing, phases[0], 0, 0, 0, ())
  drawn = [sharing.control(sharing.static(phases[0], ()), {}, moving, s, 16).given for s in (0, 1)]
  assert (drawn[0] != drawn[1]).any()
  for levels in np.asarray(drawn):
    assert levels.shape == (16, 2) and (levels[4:] == 3).all()
  assert len(np.unique(np.asarray(drawn)[:, :4])) == 4


def test_stretches_take_turns(run):
  phases = run.experiment.method.phases
  assert [p.name for p in phases] == ["warmup", *["policy", "weights"] * 2, "retrain"]
  told = [den.RANDOM, *[den.SAMPLED, den.LIKELIEST] * 2, den.LIKELIEST]
  assert [p.settings for p in phases] == told
  lines = [line for line in run.lines if line["kind"] == "train"]
  charged = {line["phase"] for line in lines if "penalty/selector" in line["values"]}
  assert charged == {"policy"}
  start = run.experiment.initial_state().params["network"]["trunk"]["selector"]
  end = run.state.params["network"]["trunk"]["selector"]
  assert any(
    bool(jnp.any(a != b)) for a, b in zip(*map(jax.tree.leaves, (start, end)), strict=True)
  )
  rate = np.asarray(run.results["execution"]["rate"])
  assert rate.shape == (2, 2) and (rate >= 0).all() and (rate <= 1).all()
  assert run.results["parameters"]["selector"] > 0


def test_the_report_tells_how_many_examples_use_each_width(run):
  """By hand from the mean of the last steps; of all examples, so that columns sum to 1."""
  sharing, memory = run.experiment.sharing, run.experiment.initial_state().memory
  used = np.asarray([[[0, 1], [0.5, 1]], [[0.25, 0.25], [0.25, 1]]], np.float32)
  signals = type("Signals", (), {"executed": jnp.asarray(used)})
  once = sharing.remember(den.LIKELIEST, {}, memory, (), signals, None)
  signals.executed = jnp.asarray(used[::-1])
  twice = sharing.remember(den.LIKELIEST, {}, once, (), signals, None)
  assert sharing.remember(den.RANDOM, {}, twice, (), signals, None) is twice
  found = sharing.panels({}, twice, {}).panels
  assert [p.title for p in found] == ["a", "b"] and found[0].rows == ["100%", "50%", "25%", "0%"]
  for panel in found:  # blocks 0 and 1, half of each task's examples
    np.testing.assert_allclose(panel.values, [[0, 0.75], [0.25, 0], [0.5, 0.25], [0.25, 0]])
  panels = run.results["learned"]["panels"]
  for panel, rate in zip(panels, np.asarray(run.state.memory["levels"]), strict=True):
    np.testing.assert_allclose(np.sum(panel["values"], 0), 1, rtol=1e-5)
    np.testing.assert_allclose(np.transpose(panel["values"])[:, ::-1], rate, atol=1e-6)


def test_a_stopped_run_goes_on(run, train, stopped, tmp_path, same_bits):
  stopped(tmp_path, 8, **VALUES, **configs.SAVES)
  got = train(tmp_path, **VALUES, **configs.SAVES)
  same_bits(got.state, run.state)
  assert got.results == run.results


def test_a_model_of_one_task_keeps_its_row_of_the_selector(run):
  model = trained_lib.restore(run.experiment, run.folder)
  inputs = jnp.asarray(run.experiment.dataset.arrays("test").inputs[:7])
  found = []
  for one in (model, model.only((1,))):
    found.append(jax.jit(one.forward())(one.variables, inputs))
  np.testing.assert_allclose(found[1][0]["b"], found[0][0]["b"], atol=1e-6)
  np.testing.assert_array_equal(found[1][1].executed[0], found[0][1].executed[1])


@pytest.mark.parametrize(
  "values, message",
  [
    ({"elastic__rho": 0.0}, "config.elastic.rho must be above 0, but is 0"),
    ({"elastic__random": 1.5}, r"config.elastic.random must be in \[0, 1\], but is 1.5"),
    ({"elastic__average": 1.0}, r"config.elastic.average must be in \[0, 1\)"),
    ({"elastic__lr": 0.0}, "config.elastic.lr must be above 0"),
    ({"elastic__size": 0.0}, "config.elastic.size must be above 0"),
    ({"model__hidden": 6}, "block_0/widen has 6: choose widths in config.model that 4 divides"),
    ({"train__cycles": 0}, "config.train.cycles must be at least 1"),
  ],
)
def test_values_without_sense_are_refused(build, values, message):
  with pytest.raises(ValueError, match=message):
    build(**VALUES | values)


def test_series_with_lengths_are_refused(build):
  parts = _parts(build(**VALUES))
  spec = dataclasses.replace(parts.spec, lengths=True)
  with pytest.raises(ValueError, match="a step of a series of stripes would depend on later ones"):
    methods.find("den").build(parts._replace(spec=spec))


def _parts(experiment):
  config, spec = experiment.config, experiment.dataset.spec
  backbone = lambda **_: backbones.find("mlp").build(config.model, spec, jnp.float32)
  return contract.Parts(config, spec, backbone, 2, jnp.float32, lambda: (1.0, 1.0))


def test_gradients_of_a_balancer_leave_the_selector_alone(build):
  experiment = build(**VALUES, balance__name="pcgrad")
  state, batch = experiment.initial_state(), _batch(experiment)
  for name in ("warmup", "weights", "policy"):
    grads, _ = jax.eval_shape(
      lambda state, name=name: gradients.gradients(_pass(experiment, state, name, batch)), state
    )
    selector = jax.tree.leaves(grads["network"]["trunk"]["selector"])
    assert bool(selector) == (name == "policy")
