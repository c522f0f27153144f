"""Weights from elsewhere: every tensor in its place, none unaccounted for."""

from __future__ import annotations

from collections.abc import Callable
import functools
import pathlib
from typing import Any

from flax import traverse_util
import jax
from jax import numpy as jnp
import ml_collections
from models import weight_layouts as layouts
import numpy as np
import pytest

from dynashare_jax.models import heads
from dynashare_jax.models import weight_tables
from dynashare_jax.models import weights
from dynashare_jax.models.backbones import resnet
from dynashare_jax.models.trunks import columns as column_trunk
from dynashare_jax.models.trunks import network as network_lib
from dynashare_jax.models.trunks import skip as skip_trunk
from dynashare_jax.ops import routing

R18, R34, THIN = layouts.R18, (3, 4, 6, 3), layouts.THIN
REAL = (64, 128, 256, 512)
GATED = (False, False, True, False, True, True, False, False)
STRIDES, DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)


def _model(**values: Any) -> Any:
  model = ml_collections.ConfigDict(
    dict(
      backbone="resnet",
      stem="deeplab",
      norm="batch",
      block="basic",
      variant="adashare",
      blocks=R18,
      mean=(0.485, 0.456, 0.406),
      std=(0.229, 0.224, 0.225),
    )
  )
  model.update(values)
  return model


@functools.cache
def _shapes(
  blocks: tuple[int, ...] = R18,
  widths: tuple[int, ...] = THIN,
  kind: str = "basic",
  gated: tuple[bool, ...] | None = None,
  columns: bool = False,
  head: str = "aspp",
  told: bool = False,
  norm: str = "batch",
  dims: int = 2,
) -> Any:
  """Shapes of a network's parameters and running averages."""
  make = lambda: resnet.ResNet(
    dims, blocks, widths, STRIDES, DILATIONS, "deeplab", block_kind=kind, norm_kind=norm
  )
  trunk: Any = skip_trunk.SkipTrunk(make(), 2, gated or (False,) * sum(blocks), gate_told=told)
  if columns:
    trunk = column_trunk.ColumnTrunk((make(), make()))
  network = network_lib.Network(
    trunk, tuple(heads.build(head, n, True, 7, jnp.float32, None) for n in (4, 2)), ("a", "b")
  )
  found = jax.eval_shape(
    lambda: network.init(
      jax.random.key(0),
      jnp.zeros((1, *(17,) * dims, 3)),
      skip_trunk.Decisions(routing.all_run(sum(blocks), 2)),
      False,
    )
  )
  return found["params"], found.get("batch_stats", {})


def _load(
  folder: pathlib.Path,
  state: layouts.State,
  family: str = "auto",
  model: Any = None,
  **network: Any,
) -> weights.Loaded:
  params, stats = _shapes(**network)
  path = layouts.save(folder / "given.safetensors", state)
  return weights.load(path, family, params, stats, model or _model())


def _error(*args: Any, **kwargs: Any) -> str:
  with pytest.raises(ValueError) as error:
    _load(*args, **kwargs)
  return str(error.value)


def test_torchvision_layout_by_hand(tmp_path):
  state = layouts.imagenet()
  loaded = _load(tmp_path, state)
  net, stats = loaded.params["trunk"]["backbone"], loaded.stats["trunk"]
  turn = lambda name: state[name].transpose(2, 3, 1, 0)
  pairs = [
    (net["stem_conv"]["kernel"], turn("conv1.weight")),
    (net["block_3"]["conv_1"]["kernel"], turn("layer2.1.conv2.weight")),
    (net["shortcut_6"]["conv"]["kernel"], turn("layer4.0.downsample.0.weight")),
    (net["stem_norm"]["scale"], state["bn1.weight"]),
    (net["block_4"]["norm_0"]["bias"], state["layer3.0.bn1.bias"]),
    (stats["backbone"]["block_0"]["norm_1"]["mean"], state["layer1.0.bn2.running_mean"]),
    (stats["backbone"]["shortcut_2"]["norm"]["var"], state["layer2.0.downsample.1.running_var"]),
  ]
  for found, right in pairs:
    np.testing.assert_array_equal(found, right)
    assert found.dtype == np.float32
  assert loaded.logits is None
  # Heads are left as they were given.
  assert loaded.params["heads_1"] == _shapes()[0]["heads_1"]
  assert loaded.notes == (
    "weights: 100 tensors of given.safetensors fill backbone; names of"
    " torchvision (timm has the same names)",
    "weights: ignored 20 tensors: counters of batches",
    "weights: ignored 2 tensors: the classifier of ImageNet",
    "weights: heads keep their initial values",
  )
  timm = _load(tmp_path, state, "timm")
  assert "names of timm" in timm.notes[0]
  same = jax.tree.map(np.array_equal, timm.params["trunk"], loaded.params["trunk"])
  assert all(jax.tree.leaves(same))


def test_a_bottleneck_is_projected_in_its_first_segment_too(tmp_path):
  state = layouts.imagenet((1, 2, 1, 1), kind="bottleneck")
  values = dict(block="bottleneck", blocks=(1, 2, 1, 1))
  network = dict(blocks=(1, 2, 1, 1), kind="bottleneck")
  loaded = _load(tmp_path, state, model=_model(**values), **network)
  net = loaded.params["trunk"]["backbone"]
  np.testing.assert_array_equal(
    net["shortcut_0"]["conv"]["kernel"][0, 0], state["layer1.0.downsample.0.weight"][:, :, 0, 0].T
  )
  np.testing.assert_array_equal(
    net["block_2"]["conv_2"]["kernel"][0, 0], state["layer2.1.conv3.weight"][:, :, 0, 0].T
  )
  first = "a bottleneck's stride is its first"
  assert any(first in n for n in loaded.notes)
  same = _load(tmp_path, state, model=_model(**values, variant="torchvision"), **network)
  assert not any(first in n for n in same.notes)


def test_every_column_is_filled(tmp_path):
  state = layouts.imagenet()
  loaded = _load(tmp_path, state, columns=True)
  trunk = loaded.params["trunk"]
  for name in ("columns_0", "columns_1"):
    np.testing.assert_array_equal(
      trunk[name]["block_7"]["conv_0"]["kernel"],
      state["layer4.1.conv1.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
      loaded.stats["trunk"][name]["stem_norm"]["var"], state["bn1.running_var"]
    )
  # The two trees share no memory.
  trunk["columns_0"]["stem_norm"]["scale"][...] = 9
  assert not np.any(trunk["columns_1"]["stem_norm"]["scale"] == 9)


@pytest.mark.parametrize("blocks, count", [(R18, 11_176_512), (R34, 21_284_672)])
def test_counts_of_the_paper(tmp_path, blocks, count):
  state = {
    name: array.astype(np.float16) if array.ndim else array
    for name, array in layouts.imagenet(blocks, REAL).items()
  }
  rest = ("running_mean", "running_var", "num_batches_tracked")
  assert (
    sum(a.size for n, a in state.items() if not n.endswith(rest) and not n.startswith("fc."))
    == count
  )
  loaded = _load(tmp_path, state, model=_model(blocks=blocks), blocks=blocks, widths=REAL)
  leaves = jax.tree.leaves(loaded.params["trunk"])
  assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
  assert sum(leaf.size for leaf in leaves) == count


def test_authors_heads_and_policy(tmp_path):
  state = layouts.authors()
  loaded = _load(tmp_path, state, gated=GATED)
  head = loaded.params["heads_1"]
  np.testing.assert_array_equal(
    head["dilated_2"]["kernel"], state["task2_fc1_c2.conv1.weight"].transpose(2, 3, 1, 0)
  )
  np.testing.assert_array_equal(
    head["hidden_3"]["kernel"], state["task2_fc1_c3.conv2.weight"][:, :, 0, 0].T
  )
  np.testing.assert_array_equal(
    head["output_0"]["kernel"], state["task2_fc1_c0.conv3.weight"][:, :, 0, 0].T
  )
  np.testing.assert_array_equal(head["output_0"]["bias"], state["task2_fc1_c0.conv3.bias"])
  np.testing.assert_array_equal(  # blue, green, red become red, green, blue
    loaded.params["trunk"]["backbone"]["stem_conv"]["kernel"],
    state["backbone.conv1.weight"][:, ::-1].transpose(2, 3, 1, 0),
  )
  assert loaded.logits is not None and loaded.logits.shape == (2, 8, 2)
  np.testing.assert_array_equal(loaded.logits[1], state["task2_logits"])
  assert loaded.params["trunk"]["gate_4"] == _shapes(gated=GATED)[0]["trunk"]["gate_4"]
  assert loaded.notes == (
    "weights: 150 tensors of given.safetensors fill backbone, heads, policy; names of adashare",
    "weights: ignored 20 tensors: counters of batches",
    "weights: gates keep their initial values",
    "weights: they were trained with config.model.mean=(0.48109378, 0.45752458,"
    " 0.40787054) and std=(0.0039215686, 0.0039215686, 0.0039215686); here they"
    " are (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)",
  )


def test_authors_colours_need_no_note(tmp_path):
  model = _model(
    mean=tuple(v / 255 for v in (122.67891434, 116.66876762, 104.00698793)), std=(1 / 255,) * 3
  )
  loaded = _load(tmp_path, layouts.authors(), model=model)
  assert not any("trained with" in note for note in loaded.notes)


def test_a_backbone_without_heads_and_policy(tmp_path):
  state = {name: array for name, array in layouts.authors().items() if name.startswith("backbone.")}
  loaded = _load(tmp_path, state, head="linear")
  assert loaded.logits is None
  assert loaded.notes[2] == "weights: heads keep their initial values"


def test_gates(tmp_path):
  state = layouts.authors(gated=True)
  loaded = _load(tmp_path, state, gated=GATED)
  gate = loaded.params["trunk"]["gate_4"]
  name = "backbone.blocks.2.0"
  np.testing.assert_array_equal(gate["reduce"]["kernel"], state[f"{name}.fc1.weight"][:, :, 0, 0].T)
  # Index 1 executes, there and here.
  np.testing.assert_array_equal(gate["score"]["kernel"], state[f"{name}.fc2.weight"][:, :, 0, 0].T)
  np.testing.assert_array_equal(gate["norm"]["scale"], state[f"{name}.fc1bn.weight"])
  np.testing.assert_array_equal(
    loaded.stats["trunk"]["gate_4"]["norm"]["var"], state[f"{name}.fc1bn.running_var"]
  )
  assert loaded.notes[:4] == (
    "weights: 174 tensors of given.safetensors fill backbone, gates, heads,"
    " policy; names of dynashare",
    "weights: ignored 31 tensors: counters of batches",
    "weights: ignored 40 tensors: gates of blocks that have none here",
    "weights: ignored 15 tensors: shortcuts of blocks, which the authors' code never runs",
  )
  del state["backbone.blocks.2.1.fc2.bias"]
  assert (
    "do not fit the network: the tensor 'backbone.blocks.2.1.fc2.bias' [2] is"
    " missing, which trunk/gate_5/score/bias [2] needs."
  ) in _error(tmp_path, state, gated=GATED)


def test_linear_layers_may_be_stored_as_such(tmp_path):
  state = layouts.authors()
  name = "task1_fc1_c1.conv2.weight"
  right = _load(tmp_path, state).params["heads_0"]["hidden_1"]["kernel"]
  state[name] = state[name][:, :, 0, 0].astype(np.float64)
  found = _load(tmp_path, state).params["heads_0"]["hidden_1"]["kernel"]
  np.testing.assert_array_equal(found, right)
  assert found.dtype == np.float32


def _dropped(name: str) -> Callable[[layouts.State], Any]:
  return lambda state: state.pop(name)


def _set(name: str, *shape: int) -> Callable[[layouts.State], Any]:
  return lambda state: state.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
  "change, text",
  [
    (
      _dropped("layer3.1.conv2.weight"),
      "the tensor 'layer3.1.conv2.weight' [5, 5, 3, 3] is missing, which"
      " trunk/backbone/block_5/conv_1/kernel [3, 3, 5, 5] needs.",
    ),
    (
      _dropped("layer2.0.downsample.1.running_var"),
      "the tensor 'layer2.0.downsample.1.running_var' [4] is missing, which"
      " trunk/backbone/shortcut_2/norm/var [4] needs.",
    ),
    (
      _set("layer1.0.se.fc1.weight", 2, 3),
      "the tensor 'layer1.0.se.fc1.weight' [2, 3] has no place in it.",
    ),
    (_set("fc2.weight", 2, 3), "the tensor 'fc2.weight' [2, 3] has no place in it."),
    (
      _set("layer3.0.conv1.weight", 5, 4, 1, 1),
      "the tensor 'layer3.0.conv1.weight' has the shape [5, 4, 1, 1], but"
      " trunk/backbone/block_4/conv_0/kernel [3, 3, 4, 5] needs [5, 4, 3, 3].",
    ),
    (
      _set("bn1.weight", 4),
      "the tensor 'bn1.weight' has the shape [4], but"
      " trunk/backbone/stem_norm/scale [3] needs [3].",
    ),
    (
      _set("conv1.weight", 64, 3, 7, 7),
      "needs [3, 3, 7, 7]. The file's first layer has 64 channels, this network's"
      " 3: see config.model.widths and width_factor.",
    ),
  ],
)
def test_every_tensor_is_accounted_for(tmp_path, change, text):
  state = layouts.imagenet()
  change(state)
  found = _error(tmp_path, state)
  assert found.startswith(
    f"The torchvision weights in {tmp_path / 'given.safetensors'} do not fit"
    " the network: the tensor "
  )
  assert found.endswith(text)


@pytest.mark.parametrize(
  "change, text",
  [
    (
      _dropped("task2_logits"),
      "the tensor 'task2_logits' [8, 2] is missing, which policy/logits[1] [8, 2] needs.",
    ),
    (
      _set("task1_logits", 7, 2),
      "the tensor 'task1_logits' has the shape [7, 2], but policy/logits[0] [8, 2] needs [8, 2].",
    ),
    (
      _set("task3_logits", 8, 2),
      "the tensor 'task3_logits' [8, 2] has no place in it. The file has 3 tasks,"
      " this network 2: see config.data.tasks.",
    ),
    (
      _set("task1_fc1_c0.conv3.weight", 40, 7, 1, 1),
      "the tensor 'task1_fc1_c0.conv3.weight' has the shape [40, 7, 1, 1], but"
      " heads_0/output_0/kernel [7, 4] needs [4, 7, 1, 1]. Tasks are taken in the"
      " order of the network's; see config.data.tasks, config.model.head_width"
      " and config.gates.hidden.",
    ),
  ],
)
def test_every_tensor_of_the_authors_is_accounted_for(tmp_path, change, text):
  state = layouts.authors()
  change(state)
  assert text in _error(tmp_path, state)


@pytest.mark.parametrize(
  "theirs, text",
  [
    (
      (R34, "basic"),
      "[3, 3, 3, 3] has no place in it (and 79 more such). The file looks like a"
      " ResNet-34: config.model.blocks=(3, 4, 6, 3) and"
      " config.model.block='basic'; here they are (2, 2, 2, 2) and 'basic'.",
    ),
    ((R34, "bottleneck"), "The file looks like a ResNet-50: config.model.block"),
    (
      ((1, 1, 1, 1), "basic"),
      "The file looks like one of config.model.blocks=(1, 1, 1, 1) and"
      " config.model.block='basic'; here they are (2, 2, 2, 2) and 'basic'.",
    ),
  ],
)
def test_another_network_is_recognised(tmp_path, theirs, text):
  found = _error(tmp_path, layouts.imagenet(theirs[0], kind=theirs[1]))
  assert text in found
  found = _error(tmp_path, layouts.authors(blocks=R34))
  assert "The file looks like a ResNet-34" in found


def test_families(tmp_path):
  state = layouts.imagenet()
  assert ("config.model.weights_family is 'adashare', but the names in") in _error(
    tmp_path, state, "adashare"
  )
  assert "are torchvision's: conv1.weight, bn1.weight" in _error(tmp_path, state, "dynashare")
  assert "are dynashare's" in _error(tmp_path, layouts.authors(gated=True), "adashare")
  assert _error(tmp_path, state, "torchvison") == (
    "config.model.weights_family is 'torchvison'; it must be one of auto, torchvision,"
    " timm, timm_vit, timm_hrnet, adashare, dynashare. Did you mean 'torchvision'?"
  )
  found = _error(tmp_path, {"a.b": np.zeros(2, np.float32)})
  assert "are of no family that is known: a.b, ..." in found
  state["conv1.0.weight"] = state.pop("conv1.weight")
  assert "a deep stem ('conv1.0.weight' and more), such as timm's" in _error(tmp_path, state)


@pytest.mark.parametrize(
  "model, network, text",
  [
    (
      dict(backbone="mlp"),
      {},
      "config.model.weights needs config.model.backbone='hrnet' or 'resnet' or 'vit'; it is 'mlp'.",
    ),
    (dict(stem="small"), {}, "needs config.model.stem='deeplab'; it is 'small'"),
    (
      dict(norm="group"),
      dict(norm="group"),
      "needs config.model.norm='common' or 'batch'; it is 'group'",
    ),
    (
      {},
      dict(dims=1),
      "needs a network that reads colour images; the kernel of"
      " the first layer is [7, 3, 3], not [rows, columns, 3, channels].",
    ),
  ],
)
def test_networks_that_no_file_is_for(tmp_path, model, network, text):
  assert text in _error(tmp_path, layouts.imagenet(), model=_model(**model), **network)


@pytest.mark.parametrize(
  "network, text",
  [
    (
      dict(head="linear"),
      "dynashare files have nothing for heads_0/linear/bias [4], which the weights"
      " in {} should fill. Their heads are config.model.head='aspp', for dense"
      " tasks.",
    ),
    (
      dict(gated=GATED, told=True),
      "dynashare files have nothing for trunk/gate_2/rate/kernel [1, 16], which"
      " the weights in {} should fill. Their gates do not read a rate:"
      " config.gates.target_rate='fixed'.",
    ),
  ],
)
def test_leaves_that_no_tensor_fills(tmp_path, network, text):
  found = _error(tmp_path, layouts.authors(gated=True), **network)
  assert found == text.format(tmp_path / "given.safetensors")


@pytest.mark.parametrize("family", sorted(set(weight_tables.FAMILIES) - {"timm_vit", "timm_hrnet"}))
def test_no_two_leaves_of_a_backbone_read_one_tensor(family):
  table = weight_tables.find(family)
  params, stats = _shapes(gated=GATED)
  sources = [
    table.source(path, _model(), resnet.PRETRAINED)
    for tree in (params, stats)
    for path in traverse_util.flatten_dict(tree, sep="/")
  ]
  named = [source for source in sources if source is not None]
  assert len(set(named)) == len(named) >= 100


def test_blocks_that_do_not_belong_to_the_network(tmp_path):
  with pytest.raises(ValueError, match="has fewer blocks than the network"):
    _load(tmp_path, layouts.imagenet(), model=_model(blocks=(2, 2, 2, 1)))


def test_shapes_are_known_without_arrays(tmp_path):
  """A run asks for the shapes of its state under `jax.eval_shape`."""
  path = layouts.save(tmp_path / "given.safetensors", layouts.authors())
  found = jax.eval_shape(
    lambda p, s: weights.load(path, "auto", p, s, _model())[:3], *_shapes(gated=GATED)
  )
  assert found[:2] == _shapes(gated=GATED)
  assert found[2].shape == (2, 8, 2)
