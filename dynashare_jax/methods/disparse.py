"""DiSparse: hard sharing, pruned; a shared weight goes only if all tasks would prune it.

Static: first every kernel's weights are scored for each task apart, on some batches and before any
training. Each task keeps the same number of its highest scores over all layers; what the tasks keep
together is trained, the rest is 0 from then on.

Dynamic (`config.sparse.dynamic`): training starts with random masks. Between stretches of training
the smallest weights of every layer are dropped, and those come back in which the tasks' losses are
steepest; then what is kept is trained.

Source: Sun et al. 2022; for one task the static version is SNIP (Lee et al. 2019), the dynamic one
  RigL (Evci et al. 2020). Differs: weights are scored as they are trained, not a copy with another
  start; the density is exact, where theirs exceeds what is asked for by what tasks do not agree on;
  ties are counted, not all kept; a task without a label in the scoring batches does not take part;
  weights come back as 0, not with the values that they once had, and may come back at once.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import math
import re
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import lookup
from dynashare_jax.methods import _schedule
from dynashare_jax.ops import pruning
from dynashare_jax.sharing import contract
from dynashare_jax.sharing import skip
from dynashare_jax.types import PyTree

_KERNELS = ("kernel", "recurrent")  # names of leaves that are pruned
SCORES = ("saliency", "magnitude", "product")
NOTE = (
  "Pruned weights are single zeros within dense kernels: parameters, multiply-accumulates and times"
  " are those of hard sharing, and nothing runs faster."
)


class Pruning(NamedTuple):
  """How weights are chosen; hashable.

  Attributes:
    density: share of the kernels' weights that is kept.
    rule: see `ops.pruning.places`.
    heads: whether the heads' kernels are pruned, too, each by its own task.
    scores: of the static version, with m the sum of |dL/dw| over batches: `saliency` is |w| m,
      `magnitude` |w|, `product` w^2 m.
    updates: how often the dynamic version replaces weights; 0: the static version.
    replaced: share of a layer's kept weights that the first of them replaces; falls by a cosine.
  """

  density: float = 1.0
  rule: str = "union"
  heads: bool = False
  scores: str = "saliency"
  updates: int = 0
  replaced: float = 0.5


@dataclasses.dataclass(frozen=True)
class SparseSharing(skip.SkipSharing):
  """Hard sharing whose kernels have masks.

  The memory holds, of the kernels by their path: `scores` `[T, ...]` (`[1, ...]` of heads), sums of
  the magnitudes of gradients over batches, emptied when the masks are made; `keep`, the masks of 0
  and 1, at first 1. And small: `seen` `[T]`, batches with labels; `overlap` `[T, T]`; `parts`
  `[T + 1, P]`, what each task and all together keep of stem, blocks and heads. The last two are
  means over the dynamic version's updates.

  Attributes:
    how: see `Pruning`.
  """

  magnitudes = True

  how: Pruning = dataclasses.field(default_factory=Pruning)

  def memory(self, params: PyTree) -> PyTree:
    """Returns scores of 0 and masks of 1."""
    kernels, tasks = self._kernels(params), len(self.names)
    rows = lambda name: tasks if _head(name) is None else 1
    return {
      "scores": {name: jnp.zeros((rows(name), *leaf.shape)) for name, leaf in kernels.items()},
      "keep": {name: jnp.ones(leaf.shape) for name, leaf in kernels.items()},
      "seen": jnp.zeros((tasks,)),
      "overlap": jnp.zeros((tasks, tasks)),
      "parts": jnp.zeros((tasks + 1, len(self._columns()))),
    }

  def score(self, memory: PyTree, magnitudes: PyTree, labelled: jax.Array) -> PyTree:
    """Adds a batch to the scores."""
    found = self._kernels(magnitudes)
    own = lambda name, task: found[name] if task is None else found[name][task : task + 1]
    scores = {name: old + own(name, _head(name)) for name, old in memory["scores"].items()}
    return {**memory, "scores": scores, "seen": memory["seen"] + labelled}

  def begin(self, phase: contract.Phase, params: PyTree, memory: PyTree, key: jax.Array) -> Any:
    """Makes the masks when the training begins, or replaces weights.

    Raises:
      ValueError: no task, or none of a head that is to be pruned, had a label when weights were
        scored before training.
    """
    how = self.how
    if phase.measure:
      return params, memory
    if not how.updates:
      self._check_labels(np.asarray(memory["seen"]) > 0)
      return params, _masked(how, self._kernels(params["network"]), memory)
    if not phase.cycle:
      return params, _drawn(how, memory, key)
    done = (phase.cycle - 1) / how.updates
    share = how.replaced * (1 + math.cos(math.pi * done)) / 2
    kernels, memory = _updated(how, self._kernels(params["network"]), memory, share)
    return {**params, "network": _with(params["network"], kernels)}, memory

  def _check_labels(self, seen: np.ndarray) -> None:
    """Refuses to make masks without scores."""
    told = "of the first config.sparse.batches batches. Give more of them"
    if self.how.scores != "magnitude" and not seen.any():
      raise ValueError(
        f"config.method='disparse' cannot score weights: no task has a label in any {told}."
      )
    if self.how.scores != "magnitude" and self.how.heads and not seen.all():
      name = self.names[int(np.argmin(seen))]
      raise ValueError(
        f"config.method='disparse' cannot score the head of {name}, which has no label in any"
        f" {told}, or set --config.sparse.heads=False."
      )

  def used(self, params: PyTree, memory: PyTree) -> PyTree:
    """Returns the parameters, those of pruned weights 0."""
    kernels = self._kernels(params)
    return _with(params, {name: kernels[name] * mask for name, mask in memory["keep"].items()})

  def panels(self, learnt: PyTree, memory: PyTree, params: PyTree) -> contract.Panels:
    """Returns how alike the tasks' choices are, and how much of every part is kept."""
    del learnt, params
    masks = [np.asarray(mask) for mask in memory["keep"].values()]
    kept, total = int(sum(mask.sum() for mask in masks)), sum(mask.size for mask in masks)
    what = "kernels of stem and blocks, shortcuts included"
    if self.how.updates:
      caption = (
        "Means over all updates. On the left, of the weights that either of two tasks asked for in"
        " place of the smallest ones, the share that both asked for; on the right, the share of the"
        f" {what}, that all together keep, and that would be kept if each task alone were asked."
      )
    else:
      caption = (
        "On the left, of what either of two tasks keeps, the share that both keep; on the right,"
        f" the share that each task alone, and that all together, keep of the {what}."
      )
    rows = [*self.names, "together"]
    return contract.Panels(
      "What the tasks keep of the kernels",
      f"Together the tasks keep {kept} of {total} weights ({100 * kept / total:.1f}%). {caption}",
      (
        contract.Panel("Overlap", np.asarray(memory["overlap"]), self.names, self.names),
        contract.Panel("Density", np.asarray(memory["parts"]), rows, self._columns()),
      ),
    )

  def _columns(self) -> list[str]:
    """The parts whose density is told."""
    heads = [f"head of {name}" for name in self.names] if self.how.heads else []
    return ["stem", *(f"block {block}" for block in range(self.blocks)), *heads]

  def _kernels(self, network: PyTree) -> dict[str, Any]:
    """What is pruned, by its path; paths in the trunk do not name it."""
    flat = traverse_util.flatten_dict(network, sep="/")
    of = {name.removeprefix("trunk/"): leaf for name, leaf in flat.items()}
    return {
      name: leaf
      for name, leaf in of.items()
      if name.rpartition("/")[2] in _KERNELS and (self.how.heads or _head(name) is None)
    }


def _head(name: str) -> int | None:
  """The task of a head's path."""
  found = re.match(r"heads_(\d+)/", name)
  return int(found[1]) if found else None


def _with(network: PyTree, kernels: Mapping[str, Any]) -> PyTree:
  """The network with other kernels."""
  flat = traverse_util.flatten_dict(network, sep="/")
  new = {name if _head(name) is not None else f"trunk/{name}": a for name, a in kernels.items()}
  return traverse_util.unflatten_dict(flat | new, sep="/")


def _part(name: str, parts: int, tasks: int) -> int:
  """0 for a path of the stem, 1 + the block's number for one of a block or its shortcut."""
  if (task := _head(name)) is not None:
    return parts - tasks + task
  found = re.match(r"backbone/(?:block|shortcut)_(\d+)/", name)
  return 1 + int(found[1]) if found else 0


def _densities(memory: Mapping[str, Any], kept: Mapping[str, jax.Array]) -> jax.Array:
  """`[T + 1, P]`, of masks `[T + 1, ...]` of every kernel; of heads `[2, ...]`: one task's."""
  rows, parts = memory["parts"].shape
  within, of = jnp.zeros((rows, parts)), np.zeros(parts)
  for name, masks in kept.items():
    part, task = _part(name, parts, rows - 1), _head(name)
    counts = masks.reshape(len(masks), -1).sum(1, dtype=jnp.int32).astype(jnp.float32)
    places = jnp.arange(rows) if task is None else jnp.asarray([task, rows - 1])
    within = within.at[places, part].add(counts)
    of[part] += memory["keep"][name].size
  return within / jnp.asarray(np.maximum(of, 1), jnp.float32)[None]


@functools.partial(jax.jit, static_argnums=0)
def _masked(
  how: Pruning, weights: Mapping[str, jax.Array], memory: Mapping[str, Any]
) -> dict[str, Any]:
  """The memory with masks in place of scores."""
  present = jnp.ones(len(memory["seen"]), bool) if how.scores == "magnitude" else memory["seen"] > 0
  scores = {}
  for name, found in memory["scores"].items():
    size = jnp.abs(weights[name])[None]
    of = {"saliency": size * found, "product": jnp.square(size) * found}
    scores[name] = jnp.broadcast_to(of.get(how.scores, size), found.shape)
  trunk = [name for name in scores if _head(name) is None]
  every, own = [], []
  for task in range(len(present)):
    names = [*trunk, *(name for name in scores if _head(name) == task)]
    row = jnp.concatenate([scores[n][task if _head(n) is None else 0].reshape(-1) for n in names])
    ranks = pruning.ranks(row[None])[0]
    every.append(ranks[: sum(scores[n][0].size for n in trunk)])
    own.append(ranks[len(every[-1]) :])
  shared = jnp.stack(every)
  places = jnp.concatenate([pruning.places(shared, present, how.rule), *own])
  wanted = max(round(how.density * len(places)), 1)
  count, keep = pruning.count_for(places, wanted), pruning.lowest(places, wanted)
  alone = (shared < count) & present[:, None]
  kept = _split(jnp.vstack([alone, keep[: shared.shape[1]][None]]), trunk, memory["keep"])
  first = shared.shape[1]
  for task, ranks in enumerate(own):
    both = jnp.stack([ranks < count, keep[first : first + len(ranks)]])
    kept |= _split(both, [name for name in scores if _head(name) == task], memory["keep"])
    first += len(ranks)
  return {
    **memory,
    "scores": jax.tree.map(jnp.zeros_like, memory["scores"]),
    "keep": {name: kept[name][-1].astype(jnp.float32) for name in memory["keep"]},
    "overlap": pruning.overlap(alone),
    "parts": _densities(memory, kept),
  }


def _split(rows: jax.Array, names: list[str], like: Mapping[str, jax.Array]) -> dict[str, Any]:
  """Rows of all numbers of some kernels as arrays of each."""
  ends = np.cumsum([like[name].size for name in names])[:-1].tolist()
  parts = jnp.split(rows, ends, 1) if names else []
  return {n: p.reshape(-1, *like[n].shape) for n, p in zip(names, parts, strict=True)}


def _counts(how: Pruning, keep: Mapping[str, Any]) -> dict[str, int]:
  """How many weights every kernel keeps."""
  shapes = [mask.shape for mask in keep.values()]
  wanted = max(round(how.density * sum(map(math.prod, shapes))), 1)
  return dict(zip(keep, pruning.layer_counts(shapes, wanted), strict=True))


@functools.partial(jax.jit, static_argnums=0)
def _drawn(how: Pruning, memory: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
  """The memory with random masks."""
  counts, keep = _counts(how, memory["keep"]), {}
  for place, (name, mask) in enumerate(memory["keep"].items()):
    numbers = jax.random.uniform(jax.random.fold_in(key, place), (1, mask.size))
    chosen = pruning.ranks(numbers)[0] < counts[name]
    keep[name] = chosen.reshape(mask.shape).astype(jnp.float32)
  return {**memory, "keep": keep}


@functools.partial(jax.jit, static_argnums=0)
def _updated(
  how: Pruning, weights: Mapping[str, jax.Array], memory: Mapping[str, Any], share: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
  """Kernels with 0 where weights come back, and the memory with new masks."""
  present, counts = memory["seen"] > 0, _counts(how, memory["keep"])
  kernels, keep, kept, asked = {}, {}, {}, []
  for name, mask in memory["keep"].items():
    task, old, weight = _head(name), mask.reshape(-1) > 0, weights[name].reshape(-1)
    there = present if task is None else present[task : task + 1]
    magnitudes = memory["scores"][name].reshape(len(there), -1)
    count = jnp.round(share * counts[name]).astype(jnp.int32)
    new, wanted = pruning.regrown(old, weight, magnitudes, there, how.rule, count)
    kernels[name] = jnp.where(new & ~old, 0.0, weight).reshape(mask.shape)
    keep[name] = new.reshape(mask.shape).astype(jnp.float32)
    kept[name] = jnp.vstack([(new & old)[None] | wanted, new[None]])
    if task is None:
      asked.append(wanted)
  mean = lambda old, found: old + found / how.updates
  return kernels, {
    "scores": jax.tree.map(jnp.zeros_like, memory["scores"]),
    "keep": keep,
    "seen": jnp.zeros_like(memory["seen"]),
    "overlap": mean(memory["overlap"], pruning.overlap(jnp.concatenate(asked, 1))),
    "parts": mean(memory["parts"], _densities(memory, kept)),
  }


def build(parts: contract.Parts) -> contract.Method:
  """A scoring in which nothing moves, then one plain training; or a search for masks before it."""
  settings, tasks, train = parts.config.sparse, len(parts.spec.tasks), parts.config.train
  _schedule.check(
    parts.config,
    "sparse",
    ("density", 0 < settings.density <= 1, "above 0 and at most 1"),
    ("replaced", 0 < settings.replaced <= 1, "above 0 and at most 1"),
  )
  lookup.one_of("config.sparse.rule", settings.rule, pruning.RULES)
  lookup.one_of("config.sparse.scores", settings.scores, SCORES)
  batches = _schedule.positive(settings.batches, "sparse.batches")
  updates = _schedule.positive(train.cycles, "train.cycles") if settings.dynamic else 0
  (last,) = _schedule.plain(parts.config)
  phases = [last]
  if settings.dynamic:
    steps = _schedule.positive(train.retrain_steps, "train.retrain_steps")
    phases = [*_search(train), dataclasses.replace(last, steps=steps, cycle=updates)]
  elif settings.scores != "magnitude":
    phases = [contract.Phase("measure", batches, trainable=(), measure=True), last]
  plain = skip.make(parts, phases, skip.every_block(tasks, parts.blocks))
  how = Pruning(
    settings.density, settings.rule, settings.heads, settings.scores, updates, settings.replaced
  )
  sharing = skip.extended(plain, SparseSharing, conflict=False, how=how)
  notes = (NOTE,) if settings.heads else (NOTE, "Heads are not pruned.")
  return contract.Method("disparse", tuple(phases), skip.trunk(parts), sharing, notes=notes)


def _search(train: Any) -> list[contract.Phase]:
  """Stretches of training, and after each a batch that says what comes back."""
  steps = _schedule.positive(train.weight_steps, "train.weight_steps")
  measure = contract.Phase("measure", 1, trainable=(), measure=True)
  return [
    dataclasses.replace(phase, cycle=cycle, title=f"{phase.name} {cycle}")
    for cycle in range(train.cycles)
    for phase in (contract.Phase("weights", steps), measure)
  ]
