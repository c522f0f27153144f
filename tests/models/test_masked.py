"""Masks of channels: hard sharing of ones, a task's own channels, and what a norm makes of them."""

from __future__ import annotations

from flax import traverse_util
import jax
from jax import numpy as jnp
import numpy as np
import pytest
from tiny import configs

from dynashare_jax.models import backbones
from dynashare_jax.models.backbones import channel_lstm
from dynashare_jax.models.backbones import lenet
from dynashare_jax.models.backbones import mlp
from dynashare_jax.models.backbones import tcn
from dynashare_jax.models.backbones import vit
from dynashare_jax.models.trunks import masked
from dynashare_jax.ops import costs

BUILT = {"method": "mpps", **configs.PICTURES}


@pytest.fixture(scope="module")
def experiment(build):
  return build(**BUILT)


@pytest.fixture(scope="module")
def found(experiment):
  """Features, statistics and gradients of all that is compared, compiled once."""
  sharing, trunk = experiment.sharing, experiment.network.trunk
  params, stats = experiment.fresh("init")
  rng = np.random.default_rng(0)
  params, stats = (
    jax.tree.map(lambda a: a + rng.uniform(0.1, 0.4, a.shape).astype(np.float32), tree["trunk"])
    for tree in (params, stats)
  )
  inputs = jnp.asarray(experiment.dataset.arrays("train").inputs[:6])
  drawn = {name: rng.normal(0.5, 1, (2, c)).astype(np.float32) for name, c in sharing.layers}
  drawn = {name: np.where(np.abs(m) < 0.3, 0.0, m) for name, m in drawn.items()}
  owned = {name: sharing.owns(c).astype(np.float32) for name, c in sharing.layers}
  scaled = [_scaled(params, {name: m[t] for name, m in drawn.items()}) for t in range(2)]

  def run(params, masks, place="norm"):
    control = sharing.everything()
    if masks is not None:
      control = masked.Masks(masks, jnp.asarray(0))
    variables = {"params": params, "batch_stats": stats}
    (features, _), new = trunk.clone(place=place).apply(
      variables, inputs, control, True, mutable=["batch_stats"]
    )
    return features, new["batch_stats"]

  def slopes(masks, *weights):
    total = lambda p: sum(w * (f**2).sum() for w, f in zip(weights, run(p, masks)[0], strict=True))
    return jax.grad(total)(params)

  @jax.jit
  def everything():
    ones = jax.tree.map(jnp.ones_like, owned)
    positive = jax.tree.map(lambda m: jnp.abs(m) + 0.5, drawn)
    return {
      "hard": (run(params, None), slopes(None, 1.0, 2.0)),
      "ones": (run(params, ones), slopes(ones, 1.0, 2.0)),
      "drawn": run(params, drawn)[0],
      "scaled": [run(p, None)[0][t] for t, p in enumerate(scaled)],
      "of task 0": slopes(owned, 1.0, 0.0),
      "before": [run(params, m, "conv")[0] for m in (ones, positive)],
      "behind": run(params, positive)[0],
    }

  return {"owned": owned, "params": params} | everything()


def _scaled(params, masks):
  """Parameters in which masks `[C]` multiply what the norm of each layer gives."""
  flat = traverse_util.flatten_dict(params, sep="/")
  for name, mask in masks.items():
    for leaf in ("scale", "bias"):
      flat[f"backbone/{name.replace('conv', 'norm')}/{leaf}"] *= mask
  return traverse_util.unflatten_dict(flat, sep="/")


def _close(found, wanted, tolerance):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(np.abs(b).max(), 1))


def test_masks_of_ones_are_hard_sharing(found):
  """Features, running averages and gradients."""
  for got, want, tolerance in zip(found["ones"], found["hard"], (1e-6, 1e-5), strict=True):
    _close(got, want, tolerance)


def test_masks_of_any_sign_multiply_what_the_activation_reads(found):
  """So that a task whose masks are 0 and 1 computes with its own channels alone."""
  _close(found["drawn"], found["scaled"], 1e-5)
  assert (np.abs(found["drawn"][0] - found["drawn"][1]) > 1e-3).any()


def test_a_loss_has_no_gradient_in_channels_of_another_owner(found):
  flat = traverse_util.flatten_dict(found["of task 0"], sep="/")
  for name, owned in found["owned"].items():
    for leaf in (f"{name}/kernel", f"{name.replace('conv', 'norm')}/bias"):
      slope = np.abs(np.asarray(flat[f"backbone/{leaf}"]))
      slope = slope.reshape(-1, slope.shape[-1]).max(0)
      np.testing.assert_array_equal(slope[owned[1] == 1], 0)
      assert slope[owned[0] == 1].max() > 0


def test_a_norm_takes_masks_before_it_out_again(found):
  """Why the place of the authors' hooks is not the default."""
  ones, positive = found["before"]
  _close(positive, ones, 2e-3)
  assert np.abs(found["behind"][0] - ones[0]).max() > 0.05


def test_a_masked_channel_before_a_norm_is_its_bias():
  layer = tcn.Tcn(1, 4, 0.0)

  @jax.jit
  def run():
    x = jax.random.normal(jax.random.key(0), (1, 3, 5, 4))
    shown = lambda place, x: x * jnp.asarray([[[[1.0, 0, 1, 0]]]]) if place == "weights" else x
    pass_ = backbones.Pass(True, jnp.ones((1,)), inner=shown)
    variables = layer.init(jax.random.key(1), 0, 0, x, pass_, method="layer")
    norm = variables["params"]["block_0"]["norm_0"]
    norm["bias"] = jnp.asarray([0.1, 0.2, 0.3, 0.4])
    return layer.apply(variables, 0, 0, x, pass_, method="layer", mutable=["batch_stats"])[0]

  made = np.asarray(run())
  np.testing.assert_allclose(made[..., 1], 0.2, rtol=1e-5)
  np.testing.assert_allclose(made[..., 3], 0.4, rtol=1e-5)
  assert made[..., 0].std() > 0.1


def test_evaluation_is_that_of_hard_sharing_to_the_letter(experiment, build):
  """The traced programs are the same, so that neither masks nor draws have a part in them."""
  programs = []
  for one in (experiment, build(**BUILT | {"method": "hard"})):
    sharing = one.sharing
    structure = sharing.chosen(np.ones((1, 2, 2)), 0)
    control = sharing.control_at_test(*sharing.at_test(structure))
    variables = jax.eval_shape(lambda one=one: one.fresh("init"))
    inputs = one.sample_inputs()

    def run(params, stats, inputs, one=one, control=control):
      return one.network.apply({"params": params, "batch_stats": stats}, inputs, control, False)

    programs.append(str(jax.make_jaxpr(run)(*variables, inputs)))
  assert programs[0] == programs[1]


def test_tasks_part_behind_the_first_masked_layer(experiment):
  """It and its block's shortcut are computed once; the second convolution for each of two tasks."""
  trunk, inputs = experiment.network.trunk.clone(first=1), experiment.sample_inputs()
  control = masked.Masks({f"block_1/conv_{i}": jnp.ones((2, 8)) for i in range(2)}, jnp.asarray(0))
  hard = experiment.sharing.everything()
  variables = jax.eval_shape(lambda k: trunk.init(k, inputs, hard, False), jax.random.key(0))
  whole, parted = (
    costs.macs(lambda v, x, c=c: trunk.apply(v, x, c, False)[0], variables, inputs)
    for c in (hard, control)
  )
  assert parted - whole == len(inputs) * 2 * 2 * 9 * 8 * 8


class _Dark(mlp.ResidualMlp):
  """A backbone whose layers show nothing."""

  def layer(self, block, index, x, pass_):
    return super().layer(block, index, x, pass_._replace(inner=lambda place, x: x))


def test_a_layer_that_shows_no_channels_is_refused():
  trunk = masked.MaskedTrunk(_Dark(2, 4, 4), 2, (False, False))
  inputs = jnp.zeros((2, 6))
  with pytest.raises(ValueError, match="4 channels of block_0/widen.*_Dark shows none"):
    jax.eval_shape(lambda key: trunk.init(key, inputs, (), False), jax.random.key(0))


STEPS = {"series": jnp.zeros((2, 5, 6)), "length": jnp.asarray([5, 3])}


@pytest.mark.parametrize(
  "backbone, inputs, shapes",
  [
    (tcn.Tcn(2, width=4), STEPS, [(2, 5, 4)]),
    (channel_lstm.ChannelLstm(2, width=4), STEPS, [(2, 5, 4)]),
    (lenet.LeNet(), jnp.zeros((2, 28, 28, 1)), [(2, 50)]),
    # Four depths, each a map and a class token; the first two lie before all masks.
    (
      vit.Vit(4, 8, 12, 2, 4, 3, depths=True),
      jnp.zeros((2, 8, 8, 3)),
      [(2, 2, 2, 8), (2, 1, 8)] * 4,
    ),
  ],
  ids=lambda value: type(value).__name__,
)
def test_layers_of_any_backbone_can_be_masked(backbone, inputs, shapes):
  last = backbone.num_blocks - 1
  trunk = masked.MaskedTrunk(backbone, 3, (False,) * (last + 1), first=last)
  masks = {layer.name: jnp.ones((3, layer.channels)) for layer in backbone.layers(last)}

  def run(key):
    variables = trunk.init(key, inputs, (), False)
    control, rngs = masked.Masks(masks, jnp.asarray(0)), {"dropout": key}
    return trunk.apply(variables, inputs, control, True, mutable=["batch_stats"], rngs=rngs)[0]

  features, signals = jax.eval_shape(run, jax.random.key(0))
  assert [[leaf.shape for leaf in jax.tree.leaves(f)] for f in features] == [shapes] * 3
  assert signals.executed.shape == (3, 2, last + 1)
