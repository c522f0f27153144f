"""The contract of a kind of task: losses, metrics, and what its labels are."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Shaped
import numpy as np

from dynashare_jax.types import Array, Metric, Sums, TaskSpec

Leaves = Mapping[str, ArrayLike]  # sums or scores of all batches
# What labels should be, in words and as a function of labels.
Rule = tuple[str, Callable[[np.ndarray], np.ndarray]]


_FAR = 3.0  # times the range of all other numbers


class Picture(NamedTuple):
  """What is drawn of labels or predictions of pixels, one of three things.

  Attributes:
    title: of the picture.
    values: integers `[n, H, W]` are class ids, floats `[n, H, W]` numbers for a
      colour scale, and floats `[n, H, W, 3]` red, green and blue in 0..1.
    note: what the numbers or colours are.
    classes: names of the classes.
  """

  title: str
  values: np.ndarray
  note: str = ""
  classes: tuple[str, ...] = ()


class Kind(abc.ABC):
  """What all tasks of a kind have in common; without any state.

  Shapes: B examples; O is `outputs(task)`; a prediction is one per example, per step of a series,
  or (`Dense`) per pixel. Logits of pixels may have any size: labels are reduced to it for the loss
  by the nearest rule, and logits are enlarged to the labels for the metrics.

  `valid` marks the labels. It is False for padding examples, and what is not valid may hold
  anything, even NaN: it changes no number and no gradient. `present` (None without padding) tells
  padding examples from examples without a label, which matters for one thing alone: a dense task
  with `TaskSpec.metrics = "authors"` is scored as the authors' code scores, where batches are
  averaged and some unlabelled pixels count. Then the values depend on the batch size; `pooled`
  values never do.

  Attributes:
    dense: whether its tasks have labels of pixels, as those of a `Dense`.
    stored: what files hold of labels. Of pixels class `ids`, `numbers` or `directions`; of whole
      examples `answers` (yes or no), `names` of classes or `values`.
    several: whether an example may have several labels, each of its own.
    reads: fields of a `TaskSpec` that its tasks read, beside name, kind, weight and unit.
    lowest: what no loss is below, -inf if there is no such bound; balancers that take logarithms
      ask.
  """

  dense = False
  stored = ""
  several = False
  reads: tuple[str, ...] = ()
  lowest = 0.0

  def outputs(self, task: TaskSpec) -> int:
    """Returns O, the size of the last axis of the logits."""
    return task.outputs

  @abc.abstractmethod
  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns the names, directions and units of the metrics."""

  @abc.abstractmethod
  def loss(
    self,
    task: TaskSpec,
    logits: Float[Array, "B *logits"],
    target: Shaped[Array, "B *labels"],
    valid: Bool[Array, "B *known"],
  ) -> Sums:
    """Returns the training loss, summed over the labels of a batch, and their number."""

  def sums(
    self,
    task: TaskSpec,
    logits: Float[Array, "B *logits"],
    target: Shaped[Array, "B *labels"],
    valid: Bool[Array, "B *known"],
    present: Bool[Array, " B"] | None = None,
  ) -> dict[str, Array]:
    """Returns the parts of the metrics that add over batches, here none."""
    return {}

  def scores(
    self,
    task: TaskSpec,
    logits: Float[Array, "B *logits"],
    target: Shaped[Array, "B *labels"],
    valid: Bool[Array, "B *known"],
  ) -> dict[str, Array]:
    """Returns the parts that concatenate, one row per example and `valid` with them, here none."""
    return {}

  @abc.abstractmethod
  def finish(self, task: TaskSpec, sums: Leaves, scores: Leaves) -> dict[str, float]:
    """Computes the metrics from the sums and scores of all batches; nan where not defined."""

  def details(self, task: TaskSpec, sums: Leaves) -> dict[str, np.ndarray]:
    """Returns what `results.json` lists beside the metrics, here nothing."""
    return {}

  @abc.abstractmethod
  def predict(
    self, task: TaskSpec, logits: Float[Array, "B *logits"]
  ) -> Shaped[Array, "B *prediction"]:
    """Returns what a picture or a table of predictions shows, at the size of the logits."""

  def probabilities(
    self, task: TaskSpec, logits: Float[Array, "B *logits"]
  ) -> Shaped[Array, "B *prediction"]:
    """Returns how likely each class is, `[..., O]`; without classes the same as `predict`."""
    return self.predict(task, logits)

  @abc.abstractmethod
  def constant(
    self, task: TaskSpec, target: Shaped[Array, "N *labels"], valid: Bool[Array, "N *known"]
  ) -> Float[np.ndarray, "*ones O"]:
    """Fits the best constant prediction to training labels.

    Returns:
      Float32 logits of one example, with axes of length 1 where they repeat; finite
      even without any label.
    """

  def allowed(self, task: TaskSpec) -> Rule:
    """Returns which labels a task can have at all, element by element: finite numbers."""
    return "finite numbers", np.isfinite

  def usual(self, task: TaskSpec) -> Rule:
    """Returns which labels deserve no warning: here all."""
    return "anything", lambda labels: np.ones(labels.shape, bool)

  def doubts(self, task: TaskSpec, labels: np.ndarray) -> list[str]:
    """Returns what looks wrong of many valid labels `[n]` or `[n, O]`, here of numbers.

    That all are equal, or some equal ones lie far from all others, such as 999999.
    """
    if self.stored not in ("numbers", "values") or len(labels) < 2:
      return []
    columns = np.reshape(labels, (len(labels), -1)).astype(np.float64).T
    return [text for column in columns for text in _doubts(column[np.isfinite(column)])]

  def counts(self, task: TaskSpec, target: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, int]:
    """Counts how many labels have each class, `[K]`, and how many there are; here no classes."""
    return np.zeros(0, np.int64), 0

  def words(self, task: TaskSpec, values: np.ndarray) -> list[str]:
    """Returns labels or predictions of whole examples `[n, ...]` in words: here numbers."""
    unit = f" {task.unit}" if task.unit else ""
    shown = lambda row: ", ".join("?" if np.isnan(v) else f"{v:.3g}" for v in row)
    return [shown(row) + unit for row in np.reshape(values, (len(values), -1))]


def _doubts(numbers: np.ndarray) -> Iterator[str]:
  """What looks wrong of some finite numbers."""
  for end in sorted({numbers.min(), numbers.max()} if numbers.size else ()):
    rest = numbers[numbers != end]
    if not rest.size:
      yield f"all {numbers.size} labels are {end:g}: nothing can be learnt"
      continue
    gap, span = np.abs(rest - end).min(), rest.max() - rest.min()
    count = numbers.size - rest.size
    nines = end.is_integer() and abs(end) > 99 and set(f"{abs(end):.0f}") == {"9"}
    if (count > 1 and gap > _FAR * span > 0) or (nines and gap > span):
      yield (
        f"{count} of {numbers.size} labels are {end:.12g}, far from all others ({rest.min():g} to"
        f" {rest.max():g}): if that means no label, leave it out"
      )


def _one_class(task: TaskSpec, counts: np.ndarray) -> list[str]:
  """Says where all labels have one class."""
  seen = np.flatnonzero(counts)
  if len(seen) != 1 or counts.sum() < 2:
    return []
  name = repr(task.classes[seen[0]]) if task.classes else f"class {seen[0]}"
  return [f"all {counts.sum()} labels are {name}: nothing can be learnt"]


class Classes(Kind):
  """A kind whose labels are class ids from 0 to O - 1; others count as not valid."""

  def allowed(self, task: TaskSpec) -> Rule:
    """Returns that class ids are allowed."""
    inside = lambda ids: (ids >= 0) & (ids < task.outputs) & (ids == np.floor(ids))
    return f"class ids from 0 to {task.outputs - 1}", inside

  def doubts(self, task: TaskSpec, labels: np.ndarray) -> list[str]:
    """Returns whether all labels have one class."""
    return (
      []
      if self.several
      else _one_class(task, self.counts(task, labels, np.ones(len(labels), bool))[0])
    )

  def counts(self, task: TaskSpec, target: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, int]:
    """Counts the labels of every class."""
    return class_counts(target[valid], task.outputs)

  def words(self, task: TaskSpec, values: np.ndarray) -> list[str]:
    """Returns the names of classes, `class 7` where one has none."""
    return [task.classes[c] if c < len(task.classes) else f"class {c}" for c in values.astype(int)]

  def predict(self, task: TaskSpec, logits: Array) -> Array:
    """Returns the most likely class ids, int32."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)

  def probabilities(self, task: TaskSpec, logits: Array) -> Array:
    """Returns the softmax over the classes, float32."""
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

  def constant(self, task: TaskSpec, target: Array, valid: Array) -> np.ndarray:
    """Returns the log frequencies of the classes; -20 for a class that never occurs."""
    target = np.asarray(target)
    counts, number = self.counts(task, target, np.asarray(valid, bool))
    row = np.log(np.maximum(counts / max(number, 1), np.exp(-20.0))).astype(np.float32)
    return row.reshape((1,) * (target.ndim - 1) + (-1,))


class YesNo(Kind):
  """A kind whose labels are yes (1) and no (0)."""

  def allowed(self, task: TaskSpec) -> Rule:
    """Returns that 0 and 1 are allowed."""
    return "0 and 1", lambda labels: (labels == 0) | (labels == 1)

  def doubts(self, task: TaskSpec, labels: np.ndarray) -> list[str]:
    """Returns whether all labels have one class."""
    return (
      []
      if self.several
      else _one_class(task, self.counts(task, labels, np.ones(len(labels), bool))[0])
    )

  def counts(self, task: TaskSpec, target: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, int]:
    """Counts no and yes."""
    return class_counts(target[valid], 2)

  def words(self, task: TaskSpec, values: np.ndarray) -> list[str]:
    """Returns yes or no, or what the task calls them; of a probability the likelier."""
    no, yes = task.classes if len(task.classes) == 2 else ("no", "yes")
    return [yes if value > 0.5 else no for value in values]


def class_counts(labels: np.ndarray, classes: int) -> tuple[np.ndarray, int]:
  """Counts the labels of every class, `[classes]`, and all that are class ids."""
  ids = labels[np.isfinite(labels)].astype(np.int64)
  counts = np.bincount(ids[(ids >= 0) & (ids < classes)], minlength=classes)
  return counts, int(counts.sum())


def rows(task: TaskSpec, target: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Gives labels, and `valid` of the same or fewer axes, the shape `[N, O]`."""
  valid = valid.reshape(valid.shape + (1,) * (target.ndim - valid.ndim))
  valid = np.broadcast_to(valid, target.shape)
  return target.reshape(-1, task.outputs), valid.reshape(-1, task.outputs)


def added(before: Any, sums: Any) -> Any:
  """Adds the sums of one batch more, on the host; `before` is None before the first.

  In int64 or float64, so that adding many batches loses nothing.
  """
  wide = jax.tree.map(_wide, jax.device_get(sums))
  return wide if before is None else jax.tree.map(np.add, before, wide)


def _wide(leaf: Any) -> np.ndarray:
  """A number, or an array of them, at its widest."""
  leaf = np.asarray(leaf)
  return leaf.astype(np.int64 if leaf.dtype.kind in "iub" else np.float64)


def joined(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Concatenates the row-wise scores of all batches; empty without a batch."""
  return {name: np.concatenate([row[name] for row in rows]) for name in (rows or [{}])[0]}


class Dense(Kind):
  """A kind whose tasks have labels of pixels, `[B, H, W]` or `[B, H, W, O]`.

  It also says how labels change with the picture, how its predictions from several
  views are averaged (see `objectives.views`), and how both are drawn.

  Attributes:
    fields: of a `TaskSpec`, that a description of files may give.
    unit: of labels whose description names none.
    shares: whether whole numbers without sign are shares of their type's highest, as of pictures.
  """

  dense = True
  stored = "numbers"
  fields: tuple[str, ...] = ()
  unit = ""
  shares = False

  def moved(self, task: TaskSpec, label: Any, distance: Any, sideways: Any, xp: Any) -> Any:
    """Changes the values of labels `[H, W, ...]` whose picture is scaled and mirrored.

    `distance` is the factor on its size, 1 if depths should stay; `sideways` is -1 if it
    is mirrored, else 1; both float32. `xp` is `numpy` or `jax.numpy`.
    """
    return label

  def restored(
    self, task: TaskSpec, logits: Float[Array, "B h w O"], distance: float, sideways: float
  ) -> Float[Array, "B h w O"]:
    """Turns logits of a view, already mirrored back, into those of the picture itself.

    `distance` is a factor on depths, for example 2 for a picture enlarged twice, which
    shows things at half their distance; `sideways`, one on x components of directions,
    is -1 for what was seen mirrored.
    """
    return logits

  def votes(self, task: TaskSpec, logits: Float[Array, "B h w O"]) -> Float[Array, "B h w O"]:
    """Returns float32 numbers whose mean over views counts."""
    return logits.astype(jnp.float32)

  def elected(self, task: TaskSpec, mean: Float[Array, "B h w O"]) -> Float[Array, "B h w O"]:
    """Returns logits that stand for a mean of votes.

    Of the votes of a single view they score as the view's own logits do.
    """
    return mean

  def pictures(self, task: TaskSpec, values: np.ndarray) -> tuple[Picture, ...]:
    """Returns how labels or predictions `[n, H, W, ...]` are drawn: one picture per channel."""
    unit = f" ({task.unit})" if task.unit else ""
    if values.ndim == 3 or values.shape[3] == 1:
      return (Picture(task.name, values.reshape(values.shape[:3]), f"{task.name}{unit}"),)
    names = [f"{task.name} {channel}" for channel in range(values.shape[3])]
    return tuple(Picture(n, values[..., c], f"{n}{unit}") for c, n in enumerate(names))

  def error(self, task: TaskSpec, truth: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns how wrong predictions are, `[n, H, W]`, and what that is.

    Numbers are drawn on a colour scale from 0 on, booleans as wrong and right. Here
    the absolute error, its mean where there are several channels.
    """
    found = np.abs(truth.astype(np.float32) - guess)
    found = found.mean(-1) if found.ndim == 4 else found
    return found, f"error ({task.unit})" if task.unit else "error"
