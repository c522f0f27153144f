"""The plain convolutional network: its counts, and which methods it is refused for."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import pytest

from dynashare_jax import defaults
from dynashare_jax import types
from dynashare_jax.models import backbones
from dynashare_jax.models.backbones import vgg
from dynashare_jax.ops import costs
from dynashare_jax.ops import routing
from dynashare_jax.sharing import skip

VALUES = {"blocks": (1, 2, 3, 3, 3), "widths": (64, 128, 256, 512, 512)}
TINY = {
  "data__images": True,
  "model__backbone": "vgg",
  "model__blocks": (1, 1),
  "model__widths": (4, 6),
}


def _build(size=(32, 32, 3), kind="image", **values):
  model = defaults.get_config().model
  model.update({"backbone": "vgg", **VALUES, **values})
  spec = types.DatasetSpec("toy", (), kind, size, {"train": 1})
  return vgg.build(model, spec, jnp.float32)


def test_vgg_16_counts_as_mpps_has_it():
  net, pass_ = _build(), backbones.Pass(False, jnp.ones((1,)))
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  run = lambda v, x: net.apply(v, x, pass_, method="features")
  variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, pass_, method="features"), x)
  sizes = {"conv": 0, "norm": 0}
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
    sizes[path[-2].key] += leaf.size
  assert sizes == {"conv": 14_714_688, "norm": 8_448}
  assert sum(sizes.values()) + 20 * (512 * 5 + 5) == 14_774_436
  assert costs.macs(lambda v, x: run(v, x)[-1], variables, x) == 313_196_544
  found = jax.eval_shape(run, variables, x)
  strides = [layer.stride for layer in net.describe()]
  assert strides == [1, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16, 16]
  assert [32 // a.shape[2] for a in found] == strides


@pytest.mark.parametrize(
  "values, message",
  [
    ({"kind": "series"}, "'vgg' reads pictures, not the series inputs of toy"),
    ({"size": (8, 15, 3)}, "halves pictures 4 times, but those of toy are 8 x 15"),
    ({"widths": (4, 8)}, "blocks and widths must name the same number of segments"),
    ({"norm": "layer"}, "config.model.norm is 'layer'"),
  ],
)
def test_a_config_without_sense_is_refused(values, message):
  with pytest.raises(ValueError, match=message):
    _build(**values)


@pytest.mark.parametrize("method", ["adashare", "random_policy"])
def test_methods_that_skip_blocks_are_refused(build, method):
  with pytest.raises(ValueError, match=f"'vgg' has no shortcuts.*as config.method='{method}' does"):
    build(method=method, **TINY)
  with pytest.raises(ValueError, match="'vgg' has no shortcuts: choose another of either"):
    build(method="den", **TINY)


def test_hard_sharing_runs_all_blocks_in_any_execution(build):
  """Masked, too: there is nothing to mask."""
  experiment = build(method="hard", train__execution="masked", **TINY)
  sharing = experiment.sharing
  structure = sharing.structure(experiment.method.phases[0], {}, sharing.blank(1) + 1)
  for execution in (None, skip.Execution(planned=False)):
    static, _ = sharing.at_test(structure, execution)
    assert static.modes == routing.all_run(2, 2)
