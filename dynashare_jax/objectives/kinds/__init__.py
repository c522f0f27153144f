"""Kinds of tasks: one file each, found by its name.

A kind is a module with

* `HEAD`: `dense` (logits `[B, h, w, O]`) or `vector` (`[B, O]`),
* `head_outputs(task)`: O,
* `loss(task, logits, target, valid)`: `Sums` of the training loss,
* `metrics(task)`: the names and directions of its metrics,
* `sums(task, logits, target, valid, present=None)`: leaves of a batch that add,
* `scores(task, logits, target, valid)`: leaves of a batch that concatenate,
* `finish(task, sums, scores)`: metric values from all batches,
* `predict(task, logits)`: what a picture or a table of predictions shows,
* `constant(task, target, valid)`: logits of the best constant prediction, for
  one example, with axes of length 1 where it repeats.

and, if it has more to tell than its metrics,

* `details(task, sums)`: name -> numbers of all batches, for `results.json`.

A dense kind also says how its predictions from several views of a picture are
averaged (see `objectives.views`):

* `restored(task, logits, distance, sideways)`: logits as they would be of the
  picture itself; factors on depths and on x components of directions,
* `votes(task, logits)`: float32 `[B, h, w, O]` whose mean over views counts,
* `elected(task, mean)`: logits that stand for such a mean; of the votes of a
  single view they score as its own logits do.

`valid` must be False for padding examples too. `present` (bool `[B]`, None
without any) tells them apart from examples without a label, which matters for
one thing alone: a dense task with `TaskSpec.metrics = "authors"` is scored as
the authors' code scores, where batches are averaged and some unlabelled pixels
count. Then the values depend on the batch size; `pooled` values never do. A new
file here is a new kind; the contract tests find it.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from dynashare_jax import lookup

METRICS = ("pooled", "authors")  # values of TaskSpec.metrics


def available() -> tuple[str, ...]:
  """Lists the names of all kinds, sorted."""
  names = (module.name for module in pkgutil.iter_modules(__path__))
  return tuple(sorted(name for name in names if not name.startswith("_")))


def find(kind: str) -> ModuleType:
  """Finds the module of a kind.

  Args:
    kind: `TaskSpec.kind`, for example `segmentation`.

  Returns:
    The module `objectives.kinds.<kind>`.

  Raises:
    ValueError: there is no such file.
  """
  names = available()
  if kind not in names:
    raise ValueError(
      f"unknown task kind {kind!r}: there are {', '.join(names)}.{lookup.hint(kind, names)}"
    )
  return importlib.import_module(f"{__name__}.{kind}")
