"""Weights that others trained, brought into our parameter trees."""

from __future__ import annotations

from collections.abc import Mapping
import os
import pathlib
import re
from typing import Any, NamedTuple

from flax import traverse_util
import numpy as np

from dynashare_jax.models import weight_files
from dynashare_jax.models import weight_tables

# The networks that files of weights are for.
_NEEDS = {"backbone": "resnet", "stem": "deeplab", "norm": "batch"}


class Loaded(NamedTuple):
  """What a file of weights became.

  Attributes:
    params: the network's parameters; NumPy where the file filled them.
    stats: its running averages, likewise.
    logits: `[T, L, 2]`, the task policy's logits (column 0 = execute), or None
      where the file has none.
    notes: what was used and what was not, one line each.
  """

  params: Any
  stats: Any
  logits: np.ndarray | None
  notes: tuple[str, ...]


class _Leaf(NamedTuple):
  """A leaf of our trees and the tensor that fills it."""

  collection: str
  path: str
  shape: tuple[int, ...]
  source: str


def load(path: str | os.PathLike[str], family: str, params: Any, stats: Any, model: Any) -> Loaded:
  """Fills a network's parameters and running averages from a file.

  ImageNet families (`torchvision`, `timm`) fill the backbone alone. `adashare`
  fills heads too, and gives the policy's logits; `dynashare` also the gates. A
  group that a file lacks as a whole (heads, gates) keeps its values. With one
  backbone a task, all are filled with the same. Every tensor of the file is
  used or on its family's list of what is left out; every leaf of a filled
  group is filled.

  Args:
    path: see `weight_files.read`.
    family: a key of `weight_tables.FAMILIES`, or `auto`: what the names tell.
    params: of a `trunks.Network`, arrays or their shapes.
    stats: its running averages, likewise.
    model: `config.model`: its `backbone`, `stem`, `norm`, `block`, `blocks`,
      `mean` and `std` are read.

  Returns:
    See `Loaded`.

  Raises:
    ValueError: the file cannot be read, another family's names, a network that
      such files are not for, or a tensor that is missing, that has no place, or
      that has another shape; names it, the leaf and both shapes.

  Source: the state dicts of torchvision, timm and the authors' code.
  Differs: the authors' networks read colours as blue, green, red in 0..255;
    ours read red, green, blue in 0..1. The first kernel's input axis is turned
    round. Equal with their mean and std in `config.model`.
  """
  path = pathlib.Path(path)
  _check_network(params, model)
  chosen = None if family == "auto" else weight_tables.find(family)
  tensors = weight_files.read(path)
  table = _family(path, chosen, tensors)
  trees = {
    "params": traverse_util.flatten_dict(params, sep="/"),
    "batch_stats": traverse_util.flatten_dict(stats, sep="/"),
  }
  leaves, kept = _leaves(path, table, tensors, trees, model)
  logits = _logit_names(table, tensors, trees["params"])
  shape = (sum(model.blocks), 2)
  leaves += [_Leaf("policy", f"policy/logits[{t}]", shape, name) for t, name in enumerate(logits)]
  ignored = _check(path, table, tensors, leaves, model)
  filled: dict[str, dict[str, Any]] = {k: dict(v) for k, v in trees.items()}
  for leaf in leaves:
    if leaf.collection != "policy":
      old = filled[leaf.collection][leaf.path]
      filled[leaf.collection][leaf.path] = _value(tensors[leaf.source], leaf, table.bgr).astype(
        old.dtype
      )
  return Loaded(
    traverse_util.unflatten_dict(filled["params"], sep="/"),
    traverse_util.unflatten_dict(filled["batch_stats"], sep="/"),
    np.stack([tensors[n].astype(np.float32) for n in logits]) if logits else None,
    _notes(path, table, family, leaves, kept, ignored, model),
  )


def _check_network(params: Any, model: Any) -> None:
  """Refuses networks that no file of weights is for."""
  for name, wanted in _NEEDS.items():
    if model[name] != wanted:
      raise ValueError(
        f"config.model.weights needs config.model.{name}={wanted!r}; it is {model[name]!r}."
      )
  flat = traverse_util.flatten_dict(params, sep="/")
  stems = [v.shape for k, v in flat.items() if k.endswith("stem_conv/kernel")]
  if not stems or any(len(s) != 4 or s[2] != 3 for s in stems):
    raise ValueError(
      "config.model.weights needs a network that reads colour images; the"
      f" kernel of the first layer is {list(stems[0]) if stems else None},"
      " not [7, 7, 3, channels]."
    )


def _family(
  path: pathlib.Path, chosen: weight_tables.Family | None, tensors: Mapping[str, np.ndarray]
) -> weight_tables.Family:
  """The table to read a file by."""
  found = weight_tables.detect(tensors)
  some = ", ".join(list(tensors)[:4])
  if any(name.startswith("conv1.0.") for name in tensors):
    raise ValueError(
      f"The weights in {path} are of a network with a deep stem"
      " ('conv1.0.weight' and more), such as timm's resnet50d: its first"
      " layers are not this network's. Use resnet18, 34, 50 or 101."
    )
  if found is None:
    raise ValueError(
      f"The names in {path} are of no family that is known: {some}, ..."
      f" Families: {', '.join(weight_tables.FAMILIES)}."
    )
  if chosen is None:
    return found
  if chosen.names != found.names:
    raise ValueError(
      f"config.model.weights_family is {chosen.name!r}, but the names in"
      f" {path} are {found.name}'s: {some}, ... Set it to {found.name!r} or"
      " 'auto'."
    )
  return chosen


def _group(path: str) -> str:
  """Backbone, heads or gates, from a leaf's path."""
  if path.startswith("heads_"):
    return "heads"
  return "gates" if path.startswith("trunk/gate_") else "backbone"


def _leaves(
  path: pathlib.Path,
  table: weight_tables.Family,
  tensors: Mapping[str, np.ndarray],
  trees: dict[str, dict[str, Any]],
  model: Any,
) -> tuple[list[_Leaf], list[str]]:
  """The leaves that the file fills, and the groups that it does not."""
  covered = {"backbone"}
  if table.has("head") and any(re.match(r"task\d+_fc1_", name) for name in tensors):
    covered.add("heads")
  if table.has("gate"):
    covered.add("gates")
  leaves, kept = [], set()
  for collection, tree in trees.items():
    for name, leaf in tree.items():
      if _group(name) not in covered:
        kept.add(_group(name))
        continue
      source = table.source(name, tuple(model.blocks))
      if source is None:
        raise ValueError(
          f"{table.name} files have nothing for {name}"
          f" {list(leaf.shape)}, which the weights in {path} should fill."
          f"{_HINTS[_group(name)]}"
        )
      leaves.append(_Leaf(collection, name, tuple(leaf.shape), source))
  return leaves, sorted(kept)


_HINTS = {
  "heads": " Their heads are config.model.head='aspp', for dense tasks.",
  "gates": " Their gates are told no rate: config.gates.target_rate='fixed'.",
  "backbone": "",
}


def _logit_names(
  table: weight_tables.Family, tensors: Mapping[str, np.ndarray], params: Mapping[str, Any]
) -> list[str]:
  """Names of the policy's logits, a task each; none if the file has none."""
  if not table.logits or table.logits.format(t1=1) not in tensors:
    return []
  tasks = {name.split("/")[0] for name in params if name.startswith("heads_")}
  return [table.logits.format(t1=t + 1) for t in range(len(tasks))]


def _needed(leaf: _Leaf) -> tuple[tuple[int, ...], ...]:
  """Shapes of a tensor that can fill a leaf."""
  s = leaf.shape
  if leaf.collection == "policy" or len(s) == 1:
    return (s,)
  if len(s) == 2:
    return ((s[1], s[0], 1, 1), (s[1], s[0]))
  return ((s[3], s[2], s[0], s[1]),)


def _value(tensor: np.ndarray, leaf: _Leaf, bgr: bool) -> np.ndarray:
  """A tensor in the layout of a leaf."""
  if len(leaf.shape) == 1:
    return tensor
  if len(leaf.shape) == 2:
    return np.ascontiguousarray(tensor.reshape(leaf.shape[::-1]).T)
  kernel = tensor.transpose(2, 3, 1, 0)
  if bgr and leaf.path.endswith("stem_conv/kernel"):
    kernel = kernel[:, :, ::-1]
  return np.ascontiguousarray(kernel)


def _check(
  path: pathlib.Path,
  table: weight_tables.Family,
  tensors: Mapping[str, np.ndarray],
  leaves: list[_Leaf],
  model: Any,
) -> dict[str, int]:
  """Accounts for every tensor; returns how many of each kind are left out."""
  ignored: dict[str, int] = {}
  used = {leaf.source for leaf in leaves}
  wrong = []
  for leaf in leaves:
    here = f"{leaf.path} {list(leaf.shape)}"
    needed = _needed(leaf)
    if leaf.source not in tensors:
      wrong.append(f"the tensor {leaf.source!r} {list(needed[0])} is missing, which {here} needs")
    elif tensors[leaf.source].shape not in needed:
      wrong.append(
        f"the tensor {leaf.source!r} has the shape"
        f" {list(tensors[leaf.source].shape)}, but {here} needs"
        f" {list(needed[0])}"
      )
  for name in tensors:
    if name in used:
      continue
    why = next((w for p, w in table.ignored if re.fullmatch(p, name)), None)
    if why is None:
      wrong.append(f"the tensor {name!r} {list(tensors[name].shape)} has no place in it")
    else:
      ignored[why] = ignored.get(why, 0) + 1
  if wrong:
    more = f" (and {len(wrong) - 1} more such)" if len(wrong) > 1 else ""
    raise ValueError(
      f"The {table.name} weights in {path} do not fit the network:"
      f" {wrong[0]}{more}.{_suggestion(table, tensors, leaves, model)}"
    )
  return ignored


def _suggestion(
  table: weight_tables.Family, tensors: Mapping[str, np.ndarray], leaves: list[_Leaf], model: Any
) -> str:
  """What may be meant instead, from the file's names and shapes."""
  block, blocks = table.layout(tensors)
  if (block, blocks) != (model.block, tuple(model.blocks)):
    return (
      f" The file looks like {weight_tables.title(block, blocks)}; here"
      f" they are {tuple(model.blocks)} and {model.block!r}."
    )
  stem = next(leaf for leaf in leaves if leaf.path.endswith("stem_conv/kernel"))
  found = tensors.get(stem.source)
  if found is not None and found.shape[:1] != stem.shape[-1:]:
    return (
      f" The file's first layer has {found.shape[0]} channels, this"
      f" network's {stem.shape[-1]}: see config.model.widths and"
      " width_factor."
    )
  theirs = {m[1] for m in (re.match(r"task(\d+)_", n) for n in tensors) if m}
  ours = {m[1] for m in (re.match(r"task(\d+)_", leaf.source) for leaf in leaves) if m}
  if theirs != ours and theirs and ours:
    return f" The file has {len(theirs)} tasks, this network {len(ours)}: see config.data.tasks."
  if any(name.startswith("task") for name in tensors):
    return (
      " Tasks are taken in the order of the network's; see"
      " config.data.tasks, config.model.head_width and"
      " config.gates.hidden."
    )
  return ""


def _notes(
  path: pathlib.Path,
  table: weight_tables.Family,
  asked: str,
  leaves: list[_Leaf],
  kept: list[str],
  ignored: dict[str, int],
  model: Any,
) -> tuple[str, ...]:
  """What a user should know of it, one line each."""
  groups = sorted(
    {"policy" if leaf.collection == "policy" else _group(leaf.path) for leaf in leaves}
  )
  used = len({leaf.source for leaf in leaves})
  alike = " (timm has the same names)" if asked == "auto" and table.name == "torchvision" else ""
  lines = [
    f"weights: {used} tensors of {path.name} fill {', '.join(groups)}; names of {table.name}{alike}"
  ]
  lines += [f"weights: ignored {count} tensors: {why}" for why, count in sorted(ignored.items())]
  if kept:
    lines.append(f"weights: {' and '.join(kept)} keep their initial values")
  if table.middle_stride and model.block == "bottleneck":
    lines.append(
      "weights: a bottleneck's stride is its first convolution's here, and"
      " was its 3-wide one's where they were trained"
    )
  if not (
    np.allclose(tuple(model.mean), table.mean, atol=1e-4)
    and np.allclose(tuple(model.std), table.std, rtol=1e-3)
  ):
    short = lambda values: tuple(float(f"{v:.8g}") for v in values)
    lines.append(
      f"weights: they were trained with config.model.mean={short(table.mean)}"
      f" and std={short(table.std)}; here they are {short(model.mean)} and"
      f" {short(model.std)}"
    )
  return tuple(lines)
