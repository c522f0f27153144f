"""Losses and metrics of tasks, as sums that add over batches.

A mean of the batches' means is wrong as soon as batches differ in labels. Here a batch gives sums
and counts; they add up, on one device or many, and are divided once:

```
miou = metrics.find("segmentation", classes=13)
total = None
for logits, targets in batches:
  total = miou.add(total, miou.sums(logits, targets))
miou.finish(total)                                 # {"miou": ..., "pixel_accuracy": ...}
```

`docs/pieces/metrics.md` has a whole example.

Source: metrics of DynaShare (Rahimian et al., CVPRW 2023) and AdaShare (Sun et al. 2020), pooled
over all labels.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
import numbers
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from dynashare_jax import lookup
from dynashare_jax.objectives import kinds
from dynashare_jax.objectives.kinds import available
from dynashare_jax.objectives.kinds import base
from dynashare_jax.types import Array, Metric, TaskSpec

__all__ = ["Metric", "Metrics", "Sums", "available", "find"]


class Sums(NamedTuple):
  """What batches leave behind: a tree of arrays, opaque but for adding.

  Attributes:
    sums: numbers that add up leaf by leaf, also by `psum`.
    scores: of every batch the rows that are needed at once in the end, for an area under a curve;
      without entries for most kinds.
  """

  sums: Any
  scores: tuple[dict[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Metrics:
  """Loss and metrics of one kind of task; without any state. `find` makes one.

  Shapes: B examples, O outputs. Targets are `[B]`, `[B, time]`, or, of pixels, `[B, H, W]`;
  of normals, and where O numbers are wanted, with an axis more. Logits are `[B, O]`,
  `[B, time, O]` or `[B, h, w, O]`: of pixels in any size, which is enlarged to that of the labels.
  `valid` is False where there is no label (bool, of the targets' leading axes); default all are
  labels. Class ids outside 0 .. O - 1, such as 255, count nowhere.

  Attributes:
    task: the kind and its options.
  """

  task: TaskSpec

  @property
  def metrics(self) -> tuple[Metric, ...]:
    """Names, directions and units, as `dynashare_jax.delta` takes them."""
    return self._kind.metrics(self.task)

  @property
  def outputs(self) -> int:
    """O: how many numbers a head must give for every prediction."""
    return self._kind.outputs(self.task)

  def loss(self, logits: Array, targets: Array, valid: Array | None = None) -> jax.Array:
    """Returns the mean training loss over all labels, float32; 0 without any."""
    total, count = self._kind.loss(self.task, *self._checked(logits, targets, valid))
    return jnp.asarray(total / jnp.maximum(count, 1.0))

  def sums(self, logits: Array, targets: Array, valid: Array | None = None) -> Sums:
    """Returns the sums of a batch; can be compiled."""
    args = self._checked(logits, targets, valid)
    return Sums(dict(self._kind.sums(self.task, *args)), (self._kind.scores(self.task, *args),))

  def add(self, total: Sums | None, more: Sums) -> Sums:
    """Adds the sums of one batch more, on the host in float64 and int64; None before the first."""
    before = Sums(None, ()) if total is None else total
    if before.sums is not None and before.sums.keys() != more.sums.keys():
      raise ValueError("These are sums of two kinds of tasks: each kind has a total of its own.")
    scores = (*before.scores, *jax.device_get(more.scores))
    return Sums(base.added(before.sums, more.sums), scores)

  def finish(self, total: Sums) -> dict[str, float]:
    """Divides: metric -> value, percentages as 0 to 100; nan where it is not defined.

    Raises:
      ValueError: sums of another kind of task.
    """
    if not isinstance(total, Sums):
      raise ValueError(f"finish needs what `sums` or `add` gave, not a {type(total).__name__}.")
    whole = self.add(None, total)
    try:
      return self._kind.finish(self.task, whole.sums, base.joined(whole.scores))
    except KeyError as error:
      raise ValueError(
        f"These are sums of another kind of task than {self.task.kind}: {error} is missing."
      ) from error

  def predict(self, logits: Array) -> jax.Array:
    """Returns classes, probabilities or values, at the size of the logits.

    Raises:
      ValueError: logits with another number of outputs.
    """
    logits = jnp.asarray(logits)
    if self.outputs > 1 and logits.shape[-1:] != (self.outputs,):
      raise ValueError(
        f"The logits of a {self.task.kind} task have the shape {logits.shape}: their last axis must"
        f" have {self.outputs} outputs."
      )
    return jnp.asarray(self._kind.predict(self.task, logits))

  @property
  def _kind(self) -> base.Kind:
    """What all tasks of the kind have in common."""
    return kinds.find(self.task.kind)

  def _checked(
    self, logits: Array, targets: Array, valid: Array | None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Arrays of a batch that fit together, and which targets are labels."""
    kind, outputs = self._kind, self.outputs
    for what, given in (("logits", logits), ("targets", targets)):
      held = jnp.bool_ if isinstance(given, jax.Array) else np.asarray(given).dtype
      if not (jnp.issubdtype(held, np.number) or held == jnp.bool_):
        raise ValueError(f"The {what} of a {self.task.kind} task must be numbers.")
    logits, targets = jnp.asarray(logits), jnp.asarray(targets)
    told = f"The logits of a {self.task.kind} task have the shape {logits.shape}"
    if self._kind.dense and logits.ndim != 4:
      raise ValueError(f"{told}: give [B, h, w, {outputs}].")
    if outputs > 1 and logits.shape[-1:] != (outputs,):
      raise ValueError(f"{told}: their last axis must have {outputs} outputs.")
    if logits.shape[:1] != targets.shape[:1]:
      raise ValueError(f"{told} for targets {targets.shape}: give equally many examples.")
    self._check_targets(told, logits, targets)
    axes = 3 if kind.dense else targets.ndim
    known = jnp.ones(targets.shape[:axes], bool) if valid is None else jnp.asarray(valid, bool)
    whole = known.ndim if not kind.dense and known.ndim else axes
    if known.shape != targets.shape[:whole]:
      raise ValueError(
        f"`valid` has the shape {known.shape} for targets {targets.shape}: give their leading axes."
      )
    self._check_labels(targets, known)
    return logits, targets, known

  def _check_targets(self, told: str, logits: jax.Array, targets: jax.Array) -> None:
    """Refuses targets that are no labels of such logits, by shape and type."""
    kind, outputs = self._kind, self.outputs
    ids = isinstance(kind, base.Classes) and not kind.several
    if ids and jnp.issubdtype(targets.dtype, jnp.floating):
      raise ValueError(
        f"Class ids of a {self.task.kind} task must be integers, not {targets.dtype}."
      )
    if kind.dense:
      plain = kind.stored == "ids" or outputs == 1
      fits = targets.ndim == 3 if plain else targets.shape[3:] == (outputs,)
      fits = fits or (outputs == 1 and kind.stored != "ids" and targets.shape[3:] == (1,))
      fits = fits and logits.shape[3:] == (outputs,)
    else:
      fits = targets.shape == logits.shape[:-1] and (ids or outputs == 1)
      fits = fits or (targets.shape == logits.shape and not ids)
      single = logits.ndim == targets.ndim and outputs == 1
      fits = fits and (single or logits.shape[-1:] == (outputs,))
    if not fits:
      raise ValueError(
        f"{told} for targets {targets.shape}: these are no labels of {outputs} outputs."
      )

  def _check_labels(self, targets: jax.Array, known: jax.Array) -> None:
    """Refuses values that no label of the kind has, where they are known."""
    if isinstance(self._kind, base.Classes) or isinstance(targets, jax.core.Tracer):
      return
    if isinstance(known, jax.core.Tracer):
      return
    name, allowed = self._kind.allowed(self.task)
    values = np.asarray(targets)[np.asarray(known)]
    if not (good := allowed(values)).all():
      odd = values[~good].flat[0]
      raise ValueError(f"Labels of a {self.task.kind} task must be {name}, but one is {odd}.")


def find(
  kind: str,
  *,
  classes: int | None = None,
  outputs: int | None = None,
  class_weights: Sequence[float] = (),
  positive_weight: float = 1.0,
  inverse: bool = False,
  loss: str = "l2",
  huber_delta: float = 1.0,
  center: Sequence[float] = (),
  spread: Sequence[float] = (),
  unit: str = "",
) -> Metrics:
  """Finds loss and metrics of a kind of task.

  Args:
    kind: one of `available()`: `segmentation`, `normals`, `depth`, `edges`, `saliency`,
      `regression` and `colour` are of pixels; `binary`, `multilabel`, `multiclass` and `number` of
      examples, or of steps in time.
    classes: of `segmentation` and `multiclass`, how many classes; of `multilabel`, labels.
    outputs: of `regression` and `number`, how many numbers for each prediction; default 1.
    class_weights: of `segmentation` and `multiclass`: factors on the losses of the classes.
    positive_weight: of `binary`, `multilabel` and `saliency`: factor on the losses of a yes.
    inverse: of `depth`: whether values grow with nearness (disparity).
    loss: of `number`: `l2`, `l1` or `huber`.
    huber_delta: of `number`: the error where `huber` turns from squares to a line.
    center: of `number`: for every output the value that a logit of 0 stands for; default 0.
    spread: of `number`: for every output how far a logit of 1 is from there; default 1.
    unit: of targets, for tables.

  Raises:
    ValueError: there is no such kind (names the nearest), it has no use for an option, or its
      `classes` are missing.

  Example:
    >>> right = find("multiclass", classes=2)
    >>> sums = right.sums(jnp.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0]))
    >>> right.finish(sums)["accuracy"]
    50.0
  """
  lookup.one_of("The kind of a task", kind, available())
  found, plain = kinds.find(kind), TaskSpec(kind, kind)
  if classes is not None and outputs is not None:
    raise ValueError("`classes` and `outputs` are one number: give one of them.")
  count = classes if outputs is None else outputs
  told: Any = count
  if count is not None and (
    isinstance(told, bool) or not isinstance(told, numbers.Integral) or count < 1
  ):
    if isinstance(found, base.Classes) and isinstance(told, numbers.Integral):
      raise ValueError(f"A task of the kind {kind!r} needs `classes`: how many there are.")
    raise ValueError(f"`classes` or `outputs` must be whole and at least 1, but is {count!r}.")
  task = dataclasses.replace(
    plain,
    outputs=1 if count is None else int(count),
    class_weights=tuple(map(float, class_weights)),
    positive_weight=positive_weight,
    inverse=inverse,
    loss=loss,
    huber_delta=huber_delta,
    center=tuple(map(float, center)),
    spread=tuple(map(float, spread)),
    unit=unit,
  )
  names = [field.name for field in dataclasses.fields(task)]
  given = [name for name in names if getattr(task, name) != getattr(plain, name)]
  unread = [name for name in given if name not in (*found.reads, "unit")]
  if unread:
    told = ["classes" if name == "outputs" and classes else name for name in unread]
    raise ValueError(
      f"A task of the kind {kind!r} has no use for {', '.join(told)}; its options are"
      f" {', '.join((*found.reads, 'unit'))}."
    )
  if (isinstance(found, base.Classes) and task.outputs < 2) or (
    found.several and found.stored == "answers" and count is None
  ):
    raise ValueError(f"A task of the kind {kind!r} needs `classes`: how many there are.")
  for name in ("class_weights", "center", "spread"):
    if len(getattr(task, name)) not in (0, task.outputs):
      raise ValueError(
        f"`{name}` has {len(getattr(task, name))} numbers for {task.outputs} outputs."
      )
  lookup.one_of("`loss`", loss, ("l2", "l1", "huber"))
  finite = lambda values: all(map(math.isfinite, values))
  for name, values, fits, wanted in (
    ("class_weights", task.class_weights, lambda v: v >= 0, "at least 0"),
    ("positive_weight", (positive_weight,), lambda v: v > 0, "above 0"),
    ("huber_delta", (huber_delta,), lambda v: v > 0, "above 0"),
    ("spread", task.spread, lambda v: v > 0, "above 0"),
    ("center", task.center, lambda v: True, "numbers"),
  ):
    if not finite(values) or not all(map(fits, values)):
      raise ValueError(f"`{name}` must be finite and {wanted}, but is {getattr(task, name)}.")
  return Metrics(task)
