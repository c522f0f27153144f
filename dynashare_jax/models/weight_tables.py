"""How other programs name the tensors of a network: one table per family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import re
from typing import Any

from dynashare_jax import lookup
from dynashare_jax.models.backbones import base

# Whole names of known networks, for messages.
_KNOWN: dict[tuple[str, tuple[int, ...]], str] = {
  ("basic", (2, 2, 2, 2)): "ResNet-18",
  ("basic", (3, 4, 6, 3)): "ResNet-34",
  ("bottleneck", (3, 4, 6, 3)): "ResNet-50",
  ("bottleneck", (3, 4, 23, 3)): "ResNet-101",
  ("bottleneck", (3, 8, 36, 3)): "ResNet-152",
}

# Layers beside the backbone's: pattern of a layer's path, and its group.
_LAYERS = (
  (r"trunk/gate_(?P<block>\d+)/(?P<part>reduce|norm|score)", "gate"),
  (r"heads_(?P<task>\d+)/(?P<part>dilated|hidden|output)_(?P<index>\d+)", "head"),
)
_BACKBONE = r"trunk/(?:backbone|columns_\d+)/"
_KINDS = dict(
  kernel="weight",
  scale="weight",
  bias="bias",
  mean="running_mean",
  var="running_var",
  class_token="cls_token",
  position="pos_embed",
)


@dataclasses.dataclass(frozen=True)
class Family:
  """Names of one program's state dict.

  Attributes:
    name: what `config.model.weights_family` says.
    names: "group part" of ours to the program's layer; empty where the tensor's
      own name is all. Numbers are those of `Pretrained.place` (`{s}`, `{b}` ...) and
      of the pattern; `{i}` and `{i1}` are the `index` of the layer in its block (of a
      head, its branch) from 0 and from 1, `{t1}` is the task from 1.
    logits: name of a task's policy logits, or empty.
    ignored: what a file may hold beside, as (pattern of the whole name, what
      it is). Nothing else is left out.
    bgr: whether the network reads blue, green, red.
    mean: of the colours in 0..1, red first, that its inputs are less.
    std: that they are then divided by.
    middle_stride: whether a bottleneck's stride is the 3-wide convolution's;
      here it is the first one's.
  """

  name: str
  names: Mapping[str, str]
  logits: str
  ignored: tuple[tuple[str, str], ...]
  bgr: bool
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  middle_stride: bool = False

  def source(self, path: str, model: Any, fits: base.Pretrained) -> str | None:
    """Returns the name of the tensor that fills a leaf; None if the family has none.

    Args:
      path: of the leaf, such as `trunk/backbone/block_3/conv_1/kernel`.
      model: `config.model`.
      fits: the layers of the backbone.
    """
    layer, _, leaf = path.rpartition("/")
    layers = [(_BACKBONE + pattern, group) for pattern, group in fits.layers]
    for pattern, group in (*layers, *_LAYERS):
      match = re.fullmatch(pattern, layer)
      if match is None:
        continue
      told = match.groupdict()
      template = self.names.get(f"{group} {told.pop('part')}")
      if template is None or leaf not in _KINDS:
        return None
      numbers = {name: int(number or 0) for name, number in told.items()}
      index, place = numbers.get("index", 0), fits.place(numbers.get("block", 0), model)
      t1 = numbers.get("task", 0) + 1
      name = template.format(**{**place, **numbers}, i=index, i1=index + 1, t1=t1)
      return f"{name}.{_KINDS[leaf]}".removeprefix(".")
    return None

  def has(self, group: str) -> bool:
    """Returns whether the family has `gate` or `head` layers at all."""
    return any(name.startswith(group + " ") for name in self.names)

  def layout(self, names: Iterable[str]) -> tuple[str, tuple[int, ...]]:
    """Returns the kind of block and the blocks of every segment, from a file's names."""
    template = re.escape(self.names["block conv"])
    first = 1 if "{s1}" in self.names["block conv"] else 0
    for field, group in (("s1", "s"), ("s", "s"), ("b", "b"), ("i1", "i")):
      template = template.replace(rf"\{{{field}\}}", rf"(?P<{group}>\d+)")
    found = [m for m in (re.fullmatch(template + r"\.weight", n) for n in names) if m]
    counts: dict[int, int] = {}
    for match in found:
      segment = int(match["s"]) - first
      counts[segment] = max(counts.get(segment, 0), int(match["b"]) + 1)
    wide = any(match["i"] == "3" for match in found)
    return (
      "bottleneck" if wide else "basic",
      tuple(counts.get(s, 0) for s in range(max(counts, default=-1) + 1)),
    )


_COUNTS = (r".*\.num_batches_tracked", "counters of batches")
_IMAGENET = {
  "stem conv": "conv1",
  "stem norm": "bn1",
  "block conv": "layer{s1}.{b}.conv{i1}",
  "block norm": "layer{s1}.{b}.bn{i1}",
  "shortcut conv": "layer{s1}.{b}.downsample.0",
  "shortcut norm": "layer{s1}.{b}.downsample.1",
}
_IMAGENET_REST = (_COUNTS, (r"fc\.(weight|bias)", "the classifier of ImageNet"))
_AUTHORS = {
  "stem conv": "backbone.conv1",
  "stem norm": "backbone.bn1",
  "block conv": "backbone.blocks.{s}.{b}.conv{i1}",
  "block norm": "backbone.blocks.{s}.{b}.bn{i1}",
  "shortcut conv": "backbone.ds.{s}.0",
  "shortcut norm": "backbone.ds.{s}.1",
  "head dilated": "task{t1}_fc1_c{i}.conv1",
  "head hidden": "task{t1}_fc1_c{i}.conv2",
  "head output": "task{t1}_fc1_c{i}.conv3",
}
_GATES = {
  "gate reduce": "backbone.blocks.{s}.{b}.fc1",
  "gate norm": "backbone.blocks.{s}.{b}.fc1bn",
  "gate score": "backbone.blocks.{s}.{b}.fc2",
}
_VIT = {
  "vit patch": "patch_embed.proj",
  "vit tokens": "",
  "vit last_norm": "norm",
  "attention norm": "blocks.{pair}.norm1",
  "attention qkv": "blocks.{pair}.attn.qkv",
  "attention project": "blocks.{pair}.attn.proj",
  "feed norm": "blocks.{pair}.norm2",
  "feed widen": "blocks.{pair}.mlp.fc1",
  "feed narrow": "blocks.{pair}.mlp.fc2",
}
_VIT_REST = (
  (r"(head|pre_logits\.fc)\.(weight|bias)", "the classifier of ImageNet"),
  # Read where the network has it.
  (r"norm\.(weight|bias)", "the last norm, which heads of several depths do not read"),
)
_HRNET = {
  "stem conv": "conv{i1}",
  "stem norm": "bn{i1}",
  "bottleneck conv": "layer1.{row}.conv{i1}",
  "bottleneck norm": "layer1.{row}.bn{i1}",
  "projection conv": "layer1.0.downsample.0",
  "projection norm": "layer1.0.downsample.1",
  "narrowed conv": "transition1.0.0",
  "narrowed norm": "transition1.0.1",
  "halved conv": "transition1.1.0.0",
  "halved norm": "transition1.1.0.1",
  "opening conv": "transition{s}.{s}.0.0",
  "opening norm": "transition{s}.{s}.0.1",
  "row conv": "stage{s1}.{b}.branches.{to}.{row}.conv{i1}",
  "row norm": "stage{s1}.{b}.branches.{to}.{row}.bn{i1}",
  "up conv": "stage{s1}.{b}.fuse_layers.{to}.{of}.0",
  "up norm": "stage{s1}.{b}.fuse_layers.{to}.{of}.1",
  "down conv": "stage{s1}.{b}.fuse_layers.{to}.{of}.{i}.0",
  "down norm": "stage{s1}.{b}.fuse_layers.{to}.{of}.{i}.1",
}
_HRNET_REST = (
  _COUNTS,
  (r"(incre_modules|downsamp_modules|final_layer|classifier)\..*", "the classifier of ImageNet"),
)
_IMAGENET_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_AUTHORS_COLOURS = (
  (122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255),
  (1 / 255, 1 / 255, 1 / 255),
)

_TORCHVISION = Family(
  "torchvision", _IMAGENET, "", _IMAGENET_REST, False, *_IMAGENET_COLOURS, middle_stride=True
)
_ADASHARE = Family("adashare", _AUTHORS, "task{t1}_logits", (_COUNTS,), True, *_AUTHORS_COLOURS)
_DYNASHARE = dataclasses.replace(
  _ADASHARE,
  name="dynashare",
  names=_AUTHORS | _GATES,
  ignored=(
    _COUNTS,
    (
      r"backbone\.blocks\.\d+\.\d+\.shortcut\..*",
      "shortcuts of blocks, which the authors' code never runs",
    ),
    (r"backbone\.blocks\.\d+\.\d+\.(fc1|fc1bn|fc2)\..*", "gates of blocks that have none here"),
  ),
)
_TIMM = dataclasses.replace(_TORCHVISION, name="timm")
_TIMM_VIT = Family("timm_vit", _VIT, "", _VIT_REST, False, (0.5,) * 3, (0.5,) * 3)
_TIMM_HRNET = Family("timm_hrnet", _HRNET, "", _HRNET_REST, False, *_IMAGENET_COLOURS)
FAMILIES = {f.name: f for f in (_TORCHVISION, _TIMM, _TIMM_VIT, _TIMM_HRNET, _ADASHARE, _DYNASHARE)}


def find(name: str) -> Family:
  """Returns a family by its name.

  Raises:
    ValueError: there is no such family; names the nearest.
  """
  return FAMILIES[lookup.one_of("config.model.weights_family", name, ("auto", *FAMILIES))]


def detect(names: Iterable[str]) -> Family | None:
  """Returns the family that a state dict's names are of, or None.

  Names of torchvision and timm are the same; they count as torchvision's.
  """
  names = tuple(names)
  if any(n.startswith("backbone.blocks.") for n in names):
    gated = any(re.fullmatch(r"backbone\.blocks\.\d+\.\d+\.fc1\.weight", n) for n in names)
    return FAMILIES["dynashare" if gated else "adashare"]
  if any(n.startswith("stage2.0.branches.") for n in names):
    return FAMILIES["timm_hrnet"]
  if any(n.startswith("conv1.") for n in names) and any(n.startswith("layer1.0.") for n in names):
    return FAMILIES["torchvision"]
  if {"patch_embed.proj.weight", "pos_embed"} <= set(names):
    return FAMILIES["timm_vit"]
  return None


def title(block: str, blocks: tuple[int, ...]) -> str:
  """Returns a network's usual name, with the config values that build it."""
  values = f"config.model.blocks={blocks} and config.model.block={block!r}"
  known = _KNOWN.get((block, blocks))
  return f"a {known}: {values}" if known else f"one of {values}"
