"""DiSparse: hard sharing, pruned once; a shared weight goes only if all tasks would prune it.

First every shared kernel's weights are scored for each task apart, on some batches and before any
training. Each task keeps the same number of its highest scores over all layers; what the tasks keep
together is trained, the rest is 0 from then on.

Source: Sun et al. 2022, the static version, which for one task is SNIP (Lee et al. 2019). Differs:
  weights are scored as they are trained, not a copy with another start; the number that each task
  keeps follows from the wanted density of what they keep together; ties are counted, not all kept;
  heads stay dense; a task without a label in the scoring batches does not take part.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import re
from typing import Any

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
NOTES = (
  "Pruned weights are single zeros within dense kernels: parameters, multiply-accumulates and times"
  " are those of hard sharing, and nothing runs faster. Heads are not pruned.",
)


@dataclasses.dataclass(frozen=True)
class SparseSharing(skip.SkipSharing):
  """Hard sharing whose kernels have masks.

  The memory holds, of the trunk's kernels by their path: `scores` `[T, ...]`, sums over batches,
  emptied when the masks are made; `keep`, the masks of 0 and 1, at first 1. And small: `seen`
  `[T]`, batches with labels; `overlap` `[T, T]`; `parts` `[T + 1, P]`, what each task and all
  together keep of stem and blocks.

  Attributes:
    density: share of the shared kernels' weights that is kept.
    rule: see `ops.pruning.together`.
  """

  saliences = True

  density: float = 1.0
  rule: str = "union"

  def memory(self, params: PyTree) -> PyTree:
    """Returns scores of 0 and masks of 1."""
    kernels, tasks = _kernels(params), len(self.names)
    return {
      "scores": {name: jnp.zeros((tasks, *leaf.shape)) for name, leaf in kernels.items()},
      "keep": {name: jnp.ones(leaf.shape) for name, leaf in kernels.items()},
      "seen": jnp.zeros((tasks,)),
      "overlap": jnp.zeros((tasks, tasks)),
      "parts": jnp.zeros((tasks + 1, self.blocks + 1)),
    }

  def score(self, memory: PyTree, saliences: PyTree, labelled: jax.Array) -> PyTree:
    """Adds a batch to the scores."""
    found = traverse_util.flatten_dict(saliences, sep="/")
    scores = {name: old + found[name] for name, old in memory["scores"].items()}
    return {**memory, "scores": scores, "seen": memory["seen"] + labelled}

  def begin(self, phase: contract.Phase, learnt: PyTree, memory: PyTree, key: jax.Array) -> Any:
    """Makes the masks when the training begins.

    Raises:
      ValueError: no task had a label in the scoring batches.
    """
    if phase.measure:
      return learnt, memory
    if not np.asarray(memory["seen"]).any():
      raise ValueError(
        "config.method='disparse' cannot score weights: no task has a label in the first"
        " config.sparse.batches batches. Give more of them."
      )
    return learnt, _masked(self.density, self.rule, memory)

  def used(self, params: PyTree, memory: PyTree) -> PyTree:
    """Returns the parameters, those of pruned weights 0."""
    flat = traverse_util.flatten_dict(params["trunk"], sep="/")
    kept = {name: flat[name] * mask for name, mask in memory["keep"].items()}
    return {**params, "trunk": traverse_util.unflatten_dict(flat | kept, sep="/")}

  def panels(self, learnt: PyTree, memory: PyTree, params: PyTree) -> contract.Panels:
    """Returns how alike the tasks' choices are, and how much of every block is kept."""
    del learnt
    kernels = {name: np.asarray(leaf) for name, leaf in _kernels(params).items()}
    kept = sum(np.count_nonzero(leaf) for leaf in kernels.values())
    total = sum(leaf.size for leaf in kernels.values())
    blocks = ["stem", *(f"block {block}" for block in range(self.blocks))]
    return contract.Panels(
      "What the tasks keep of the shared kernels",
      f"Together the tasks keep {kept} of {total} weights ({100 * kept / total:.1f}%). On the left,"
      " of what either of two tasks keeps, the share that both keep; on the right, the share that"
      " each task alone, and that all together, keep of the kernels of stem and blocks, shortcuts"
      " included.",
      (
        contract.Panel("Overlap", np.asarray(memory["overlap"]), self.names, self.names),
        contract.Panel("Density", np.asarray(memory["parts"]), [*self.names, "together"], blocks),
      ),
    )


def _kernels(params: PyTree) -> dict[str, Any]:
  """The trunk's kernels by their path in it."""
  flat = traverse_util.flatten_dict(params["trunk"], sep="/")
  return {name: leaf for name, leaf in flat.items() if name.rpartition("/")[2] in _KERNELS}


def _part(name: str) -> int:
  """0 for a path of the stem, 1 + the block's number for one of a block or its shortcut."""
  found = re.match(r"backbone/(?:block|shortcut)_(\d+)/", name)
  return 1 + int(found[1]) if found else 0


@functools.partial(jax.jit, static_argnums=(0, 1))
def _masked(density: float, rule: str, memory: Mapping[str, Any]) -> dict[str, Any]:
  """The memory with masks in place of scores."""
  scores, present = memory["scores"], memory["seen"] > 0
  tasks = len(present)
  flat = jnp.concatenate([leaf.reshape(tasks, -1) for leaf in scores.values()], 1)
  ranks, total = pruning.ranks(flat), flat.shape[1]
  wanted = max(round(density * total), 1)
  kept = (ranks < pruning.count_for(ranks, present, rule, wanted)) & present[:, None]
  keep = pruning.together(kept, present, rule)
  sizes = [leaf[0].size for leaf in scores.values()]
  ends = np.cumsum(sizes)[:-1].tolist()
  masks = {
    name: part.reshape(leaf.shape[1:]).astype(jnp.float32)
    for (name, leaf), part in zip(scores.items(), jnp.split(keep, ends), strict=True)
  }
  blocks = memory["parts"].shape[1]
  part = np.eye(blocks)[[_part(name) for name in scores]]
  counts = [piece.sum(1) for piece in jnp.split(jnp.vstack([kept, keep[None]]), ends, 1)]
  within = jnp.stack(counts, 1).astype(jnp.float32) @ jnp.asarray(part, jnp.float32)
  of = np.maximum(np.asarray(sizes, np.float32) @ part, 1)
  return {
    **memory,
    "scores": jax.tree.map(jnp.zeros_like, scores),
    "keep": masks,
    "overlap": pruning.overlap(kept),
    "parts": within / jnp.asarray(of, jnp.float32)[None],
  }


def build(parts: contract.Parts) -> contract.Method:
  """A scoring in which nothing moves, then one plain training of what is kept."""
  settings, tasks = parts.config.sparse, len(parts.spec.tasks)
  if not 0 < settings.density <= 1:
    raise ValueError(
      f"config.sparse.density must be above 0 and at most 1, but is {settings.density}."
    )
  lookup.one_of("config.sparse.rule", settings.rule, pruning.RULES)
  batches = _schedule.positive(settings.batches, "sparse.batches")
  phases = (
    contract.Phase("measure", batches, trainable=(), measure=True),
    *_schedule.plain(parts.config),
  )
  plain = skip.make(parts, phases, skip.every_block(tasks, parts.blocks))
  same = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
  sharing = SparseSharing(
    **same | {"conflict": False}, density=settings.density, rule=settings.rule
  )
  return contract.Method("disparse", phases, skip.trunk(parts), sharing, notes=NOTES)
