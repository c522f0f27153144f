"""Weights that others trained, brought into our parameter trees."""

from __future__ import annotations

from collections.abc import Mapping
import os
import pathlib
import re
from typing import Any, NamedTuple

from flax import traverse_util
import numpy as np

from dynashare_jax.models import backbones
from dynashare_jax.models import weight_files
from dynashare_jax.models import weight_tables
from dynashare_jax.models.backbones import base
from dynashare_jax.models.trunks import contract

Tensors = Mapping[str, np.ndarray]


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


class Source(NamedTuple):
  """A trained network of this package, whose weights another one starts from.

  Attributes:
    name: of its folder.
    params: of the network.
    stats: its running averages.
    leaves: the rules of its network, see `Trunk.leaves`.
    tasks: their names, in order.
  """

  name: str
  params: Any
  stats: Any
  leaves: Mapping[str, contract.Leaf]
  tasks: tuple[str, ...]


class _Leaf(NamedTuple):
  """A leaf of our trees and the tensor that fills it."""

  collection: str
  path: str
  shape: tuple[int, ...]
  source: str


class _File(NamedTuple):
  """A file, the family of its names, and the network that it shall fill."""

  path: pathlib.Path
  table: weight_tables.Family
  tensors: Tensors
  fits: base.Pretrained
  model: Any


def load(path: str | os.PathLike[str], family: str, params: Any, stats: Any, model: Any) -> Loaded:
  """Fills a network's parameters and running averages from a file.

  ImageNet families (`torchvision`, `timm`) fill the backbone alone. `adashare` fills heads too, and
  gives the policy's logits; `dynashare` also the gates. A group that a file lacks as a whole
  (heads, gates) keeps its values. With one backbone per task, all are filled with the same. Every
  tensor of the file is used or on its family's list of what is left out; every leaf of a filled
  group is filled.

  Args:
    family: a key of `weight_tables.FAMILIES`, or `auto`: by the names in the file.
    params: of a `Network`, arrays or their shapes.
    model: `config.model`: its `backbone`, `stem`, `norm`, `block`, `blocks`, `variant`, `mean` and
      `std` are read.

  Raises:
    ValueError: the file cannot be read, another family's names, a network that such files are not
      for, or a tensor that is missing, that has no place, or that has another shape; names it, the
      leaf and both shapes.

  Source: the state dicts of torchvision, timm and the authors' code.
  Differs: the authors' networks read colours as blue, green, red in 0..255; ours read red, green,
    blue in 0..1. The first kernel's input axis is turned round. Equal with their mean and std in
    `config.model`.
  """
  path = pathlib.Path(path)
  fits = _pretrained(params, model)
  chosen = None if family == "auto" else weight_tables.find(family)
  tensors = weight_files.read(path)
  file = _File(path, _family(path, chosen, tensors), tensors, fits, model)
  trees: dict[str, dict[str, Any]] = {
    "params": traverse_util.flatten_dict(params, sep="/"),
    "batch_stats": traverse_util.flatten_dict(stats, sep="/"),
  }
  filled, kept = _leaves(file, trees)
  logits = _logit_names(file, trees["params"])
  shape = (sum(model.blocks), 2)
  policy = [_Leaf("policy", f"policy/logits[{t}]", shape, name) for t, name in enumerate(logits)]
  ignored = _check(file, filled + policy)
  for leaf in filled:
    tree = trees[leaf.collection]
    tree[leaf.path] = _value(file, leaf).astype(tree[leaf.path].dtype)
  return Loaded(
    traverse_util.unflatten_dict(trees["params"], sep="/"),
    traverse_util.unflatten_dict(trees["batch_stats"], sep="/"),
    np.stack([tensors[n].astype(np.float32) for n in logits]) if logits else None,
    _notes(file, family, filled + policy, kept, ignored),
  )


def take(
  source: Source,
  params: Any,
  stats: Any,
  leaves: Mapping[str, contract.Leaf],
  tasks: tuple[str, ...],
) -> Loaded:
  """Fills a network's parameters and running averages from those of a finished run.

  A group (backbone, heads, gates and others) is filled whole, or keeps its values where the run has
  none of its leaves. What belongs to one task there is used only if both have the same tasks.

  Args:
    params: of a `Network`, arrays or their shapes.
    leaves: of that network.

  Raises:
    ValueError: the backbone is not filled, or a group in part, or a leaf has another shape.
  """
  theirs = {"params": source.params, "batch_stats": source.stats}
  same = source.tasks == tasks
  found = {
    (part, path): leaf
    for part, tree in theirs.items()
    for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()
    if same or (rule := contract.leaf_of(source.leaves, path)) is None or rule.owner is None
  }
  trees = {
    "params": traverse_util.flatten_dict(params, sep="/"),
    "batch_stats": traverse_util.flatten_dict(stats, sep="/"),
  }
  groups: dict[str, list[tuple[str, str]]] = {}
  for part, tree in trees.items():
    for path in tree:
      rule = contract.leaf_of(leaves, path)
      groups.setdefault(rule.group if rule else path, []).append((part, path))
  filled = [group for group, names in groups.items() if any(name in found for name in names)]
  if "backbone" not in filled:
    of = (
      "" if same else f" Its tasks are {', '.join(source.tasks)}; here they are {', '.join(tasks)}."
    )
    raise ValueError(
      f"config.model.weights={source.name!r} is a run whose backbone has other names than this"
      f" method's: there is no {groups['backbone'][0][1]}.{of}"
    )
  for group in filled:
    for part, path in groups[group]:
      shape, leaf = tuple(trees[part][path].shape), found.get((part, path))
      if leaf is None or leaf.shape != shape:
        has = "none" if leaf is None else f"shape {list(leaf.shape)}"
        raise ValueError(
          f"config.model.weights={source.name!r} does not fit: {path} has the shape {list(shape)},"
          f" that run has {has}. Use a run of the same config.model, data and tasks."
        )
      trees[part][path] = np.asarray(leaf)
  kept = sorted(set(groups) - set(filled))
  notes = [f"weights: {', '.join(sorted(filled))} of {source.name}"]
  notes += [f"weights: {' and '.join(kept)} keep their initial values"] if kept else []
  unflat = lambda part: traverse_util.unflatten_dict(trees[part], sep="/")
  return Loaded(unflat("params"), unflat("batch_stats"), None, tuple(notes))


def _pretrained(params: Any, model: Any) -> base.Pretrained:
  """What files of weights ask of a network, which they must fit."""
  known = {
    name: module.PRETRAINED
    for name in backbones.available()
    if hasattr(module := backbones.find(name), "PRETRAINED")
  }
  fits = known.get(model.backbone)
  wanted = {"backbone": tuple(known)} if fits is None else fits.needs
  for name, values in wanted.items():
    if model[name] not in values:
      raise ValueError(
        f"config.model.weights needs config.model.{name}={' or '.join(map(repr, values))};"
        f" it is {model[name]!r}."
      )
  assert fits is not None
  flat = traverse_util.flatten_dict(params, sep="/")
  stems = [v.shape for k, v in flat.items() if k.endswith(fits.first)]
  if not stems or any(len(s) != 4 or s[2] != 3 for s in stems):
    raise ValueError(
      "config.model.weights needs a network that reads colour images; the kernel of the first layer"
      f" is {list(stems[0]) if stems else None}, not [rows, columns, 3, channels]."
    )
  return fits


def _family(
  path: pathlib.Path, chosen: weight_tables.Family | None, tensors: Tensors
) -> weight_tables.Family:
  """The table to read a file by."""
  found = weight_tables.detect(tensors)
  some = ", ".join(list(tensors)[:4])
  if any(name.startswith("conv1.0.") for name in tensors):
    raise ValueError(
      f"The weights in {path} are of a network with a deep stem ('conv1.0.weight' and more), such"
      " as timm's resnet50d: its first layers are not this network's. Use resnet18, 34, 50 or 101."
    )
  if found is None:
    raise ValueError(
      f"The names in {path} are of no family that is known: {some}, ..."
      f" Families: {', '.join(weight_tables.FAMILIES)}."
    )
  if chosen is not None and chosen.names != found.names:
    raise ValueError(
      f"config.model.weights_family is {chosen.name!r}, but the names in {path} are {found.name}'s:"
      f" {some}, ... Set it to {found.name!r} or 'auto'."
    )
  return chosen or found


def _group(path: str) -> str:
  """Backbone, heads, gates or another part of a trunk, from a leaf's path."""
  if not path.startswith("trunk/"):
    return "heads"
  name = re.sub(r"_\d+$", "", path.split("/")[1])
  return {"gate": "gates", "columns": "backbone"}.get(name, name)


_HINTS = {
  "heads": " Their heads are config.model.head='aspp', for dense tasks.",
  "gates": " Their gates do not read a rate: config.gates.target_rate='fixed'.",
}


def _leaves(file: _File, trees: dict[str, dict[str, Any]]) -> tuple[list[_Leaf], list[str]]:
  """The leaves that the file fills, and the groups that it does not."""
  table = file.table
  covered = {"backbone"}
  if table.has("head") and any(re.match(r"task\d+_fc1_", name) for name in file.tensors):
    covered.add("heads")
  if table.has("gate"):
    covered.add("gates")
  leaves, kept = [], set()
  for collection, tree in trees.items():
    for name, leaf in tree.items():
      group = _group(name)
      if group not in covered:
        kept.add(group)
        continue
      source = table.source(name, file.model, file.fits)
      if source is None:
        raise ValueError(
          f"{table.name} files have nothing for {name} {list(leaf.shape)}, which"
          f" the weights in {file.path} should fill.{_HINTS.get(group, '')}"
        )
      leaves.append(_Leaf(collection, name, tuple(leaf.shape), source))
  return leaves, sorted(kept)


def _logit_names(file: _File, params: Mapping[str, Any]) -> list[str]:
  """Names of the policy's logits, one per task; none if the file has none."""
  name = file.table.logits
  if not name or name.format(t1=1) not in file.tensors:
    return []
  tasks = {path.split("/")[0] for path in params if _group(path) == "heads"}
  return [name.format(t1=t + 1) for t in range(len(tasks))]


def _needed(leaf: _Leaf) -> tuple[tuple[int, ...], ...]:
  """Shapes of a tensor that can fill a leaf."""
  s = leaf.shape
  if leaf.collection == "policy" or len(s) in (1, 3):
    return (s,)
  if len(s) == 2:
    return ((s[1], s[0], 1, 1), (s[1], s[0]))
  return ((s[3], s[2], s[0], s[1]),)


def _value(file: _File, leaf: _Leaf) -> np.ndarray:
  """The tensor of a leaf in its layout."""
  tensor = file.fits.arranged(leaf.path, file.tensors[leaf.source], file.model)
  if len(leaf.shape) in (1, 3):
    return tensor
  if len(leaf.shape) == 2:
    return np.ascontiguousarray(tensor.reshape(leaf.shape[::-1]).T)
  kernel = tensor.transpose(2, 3, 1, 0)
  if file.table.bgr and leaf.path.endswith(file.fits.first):
    kernel = kernel[:, :, ::-1]
  return np.ascontiguousarray(kernel)


def _check(file: _File, leaves: list[_Leaf]) -> dict[str, int]:
  """Accounts for every tensor; returns how many of each kind are left out."""
  shapes = {name: list(tensor.shape) for name, tensor in file.tensors.items()}
  wrong = []
  for leaf in leaves:
    here = f"{leaf.path} {list(leaf.shape)}"
    needed = [list(shape) for shape in _needed(leaf)]
    if leaf.source not in shapes:
      wrong.append(f"the tensor {leaf.source!r} {needed[0]} is missing, which {here} needs")
    elif shapes[leaf.source] not in needed:
      wrong.append(
        f"the tensor {leaf.source!r} has the shape {shapes[leaf.source]}, but {here}"
        f" needs {needed[0]}"
      )
  ignored: dict[str, int] = {}
  used = {leaf.source for leaf in leaves}
  for name in (name for name in shapes if name not in used):
    why = next((w for p, w in file.table.ignored if re.fullmatch(p, name)), None)
    if why is None:
      wrong.append(f"the tensor {name!r} {shapes[name]} has no place in it")
    else:
      ignored[why] = ignored.get(why, 0) + 1
  if wrong:
    more = f" (and {len(wrong) - 1} more such)" if len(wrong) > 1 else ""
    raise ValueError(
      f"The {file.table.name} weights in {file.path} do not fit the network:"
      f" {wrong[0]}{more}.{_suggestion(file, leaves)}"
    )
  return ignored


def _suggestion(file: _File, leaves: list[_Leaf]) -> str:
  """What may be meant instead, from the file's names and shapes."""
  if file.fits.looks is not None:
    return file.fits.looks(file.tensors)
  block, blocks = file.table.layout(file.tensors)
  ours = (file.model.block, tuple(file.model.blocks))
  if (block, blocks) != ours:
    looks = weight_tables.title(block, blocks)
    return f" The file looks like {looks}; here they are {ours[1]} and {ours[0]!r}."
  stem = next(leaf for leaf in leaves if leaf.path.endswith(file.fits.first))
  found = file.tensors.get(stem.source)
  if found is not None and found.shape[:1] != stem.shape[-1:]:
    return (
      f" The file's first layer has {found.shape[0]} channels, this network's"
      f" {stem.shape[-1]}: see config.model.widths and width_factor."
    )
  tasks = lambda names: {m[1] for m in (re.match(r"task(\d+)_", name) for name in names) if m}
  theirs, here = tasks(file.tensors), tasks(leaf.source for leaf in leaves)
  if theirs != here and theirs and here:
    return f" The file has {len(theirs)} tasks, this network {len(here)}: see config.data.tasks."
  if theirs:
    return (
      " Tasks are taken in the order of the network's; see config.data.tasks,"
      " config.model.head_width and config.gates.hidden."
    )
  return ""


def _notes(
  file: _File, asked: str, leaves: list[_Leaf], kept: list[str], ignored: dict[str, int]
) -> tuple[str, ...]:
  """What a user should know of it, one line each."""
  table, model = file.table, file.model
  groups = {"policy" if leaf.collection == "policy" else _group(leaf.path) for leaf in leaves}
  used = len({leaf.source for leaf in leaves})
  alike = " (timm has the same names)" if asked == "auto" and table.name == "torchvision" else ""
  lines = [
    f"{used} tensors of {file.path.name} fill {', '.join(sorted(groups))}; names of"
    f" {table.name}{alike}"
  ]
  lines += [f"ignored {count} tensors: {why}" for why, count in sorted(ignored.items())]
  if kept:
    lines.append(f"{' and '.join(kept)} keep their initial values")
  if table.middle_stride and (model.block, model.variant) == ("bottleneck", "adashare"):
    lines.append(
      "a bottleneck's stride is its first convolution's here, and was its 3-wide"
      " one's where they were trained, as with config.model.variant='torchvision'"
    )
  if not (
    np.allclose(tuple(model.mean), table.mean, atol=1e-4)
    and np.allclose(tuple(model.std), table.std, rtol=1e-3)
  ):
    short = lambda values: tuple(float(f"{v:.8g}") for v in values)
    lines.append(
      f"they were trained with config.model.mean={short(table.mean)} and"
      f" std={short(table.std)}; here they are {short(model.mean)} and {short(model.std)}"
    )
  return tuple(f"weights: {line}" for line in lines)
