"""Progressive layered extraction: experts of every task beside shared ones, level by level.

With one level (the default) this is customized gate control (CGC): a task's gate mixes its own
experts and the shared ones. With more, a level is a part of the backbone's segments; between levels
the shared experts go on with a stream of their own, which a shared gate mixes from all experts.

Source: Tang et al. 2020. Differs: an expert is a whole backbone, a level some
  of its segments; a gate reads pooled features. LibMTL's PLE has no shared stream and no shared
  gate, unlike the paper and this.
"""

from __future__ import annotations

import itertools

from dynashare_jax.methods import _experts
from dynashare_jax.models.backbones import base
from dynashare_jax.sharing import contract


def build(parts: contract.Parts) -> contract.Method:
  """One plain training of all experts and gates."""
  settings, tasks = parts.config.experts, parts.spec.tasks
  own, shared = settings.own, settings.shared
  for name, value in (("own", own), ("shared", shared)):
    if value < 0:
      raise ValueError(f"config.experts.{name} must be at least 0, but is {value}.")
  if own + shared < 1:
    raise ValueError(
      "config.method='ple' needs at least one expert a task, but config.experts.own and"
      " config.experts.shared are 0."
    )
  names = [f"{task.name} {e}" for task in tasks for e in range(own)]
  names += [f"shared {e}" for e in range(shared)]
  streams = [t for t in range(len(tasks)) for _ in range(own)] + [len(tasks)] * shared
  reads = [
    [e for e, stream in enumerate(streams) if stream in (t, len(tasks))] for t in range(len(tasks))
  ]
  return _experts.build("ple", parts, names, reads, _levels(parts), streams)


def _levels(parts: contract.Parts) -> tuple[int, ...]:
  """Blocks of every level: segments are parted as equally as can be."""
  segments, count = parts.backbone().segments(), parts.config.experts.levels
  if not 1 <= count <= len(segments):
    raise ValueError(
      f"config.experts.levels must be in 1 .. {len(segments)}, the segments of"
      f" config.model.backbone={parts.config.model.backbone!r}, but is {count}."
    )
  ends = (0, *itertools.accumulate(base.evenly(len(segments), count)))
  return tuple(sum(segments[start:end]) for start, end in itertools.pairwise(ends))
