"""One class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.ops import confusion
from dynashare_jax.ops import losses
from dynashare_jax.types import Array, Metric, Sums, TaskSpec

HEAD = "dense"


def head_outputs(task: TaskSpec) -> int:
  """Returns the number of classes."""
  return task.outputs


def metrics(task: TaskSpec) -> tuple[Metric, ...]:
  """Returns mean intersection over union and pixel accuracy."""
  del task
  return (Metric("miou", True, "%"), Metric("pixel_accuracy", True, "%"))


def loss(
  task: TaskSpec,
  logits: Float[Array, "B h w K"],
  target: Integer[Array, "B H W"],
  valid: Bool[Array, "B H W"],
) -> Sums:
  """Sums the cross-entropy of the pixels that have a label.

  Args:
    task: its `outputs` is K; `class_weights` weigh the pixels of a class.
    logits: at any size; labels are reduced to it by the nearest rule.
    target: class ids; outside 0 .. K-1 they count as not valid.
    valid: which pixels have a label.

  Returns:
    Total in nats, and the number of labelled pixels, or their total weight.

  Source: DynaShare (CVPRW 2023), section 4.2; weights: AdaShare's code for
    Taskonomy.
  """
  valid = losses.in_range(target, valid, task.outputs)
  target, valid = alignment.labels_at_logits(logits, target, valid)
  values = losses.cross_entropy(logits, target)
  return losses.weighted(values, target, valid, task.class_weights)


def sums(
  task: TaskSpec,
  logits: Float[Array, "B h w K"],
  target: Integer[Array, "B H W"],
  valid: Bool[Array, "B H W"],
  present: Bool[Array, " B"] | None = None,
) -> dict[str, Array]:
  """Counts the confusions of a batch, at the size of the labels.

  Args:
    task: its `outputs` is K.
    logits: at any size; they are enlarged.
    target: class ids; outside 0 .. K-1 they count as not valid.
    valid: which pixels have a label.
    present: False for padding examples.

  Returns:
    The confusions; as the authors score, also the batch's pixel accuracy.

  Differs: bilinear logits, all pixels pooled. The authors' pixel accuracy
    averages batches, weighted by their number of examples, and counts every
    pixel whose label is below K: a void label below 0 (-1 of Cityscapes) is
    an error, one of K or more (255) is left out. `config.compat.metrics =
    "authors"` does that with nearest logits; what is not valid but holds a
    class id stays left out.
  """
  raw = jnp.asarray(target)
  logits, target, valid = alignment.logits_at_labels(task, logits, target, valid)
  predicted = predict(task, logits)
  counts = confusion.confusion_counts(predicted, target, valid, task.outputs)
  found = {"confusion": counts}
  if alignment.by_authors(task):
    void = raw < 0
    if present is not None:
      void &= present[:, None, None]
    labelled = losses.in_range(raw, valid, task.outputs)
    scored = jnp.sum(void | labelled, dtype=jnp.int32)
    right = jnp.trace(counts).astype(jnp.float32)
    found |= alignment.batch_mean(right, scored, present, len(raw))
  return found


def scores(
  task: TaskSpec,
  logits: Float[Array, "B h w K"],
  target: Integer[Array, "B H W"],
  valid: Bool[Array, "B H W"],
) -> dict[str, Array]:
  """Returns nothing: the metrics follow from sums."""
  del task, logits, target, valid
  return {}


def finish(
  task: TaskSpec, sums: Mapping[str, ArrayLike], scores: Mapping[str, ArrayLike]
) -> dict[str, float]:
  """Computes the metrics from the summed confusions, in percent."""
  del scores
  counts = np.asarray(sums["confusion"])
  authors = alignment.by_authors(task)
  accuracy = confusion.accuracy(counts)
  if authors:
    accuracy = alignment.ratio(sums["mean"], sums["examples"], 100.0)
  return {"miou": confusion.miou(counts, only_hit=authors), "pixel_accuracy": accuracy}


def details(task: TaskSpec, sums: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
  """Tells every class apart.

  Args:
    task: the task.
    sums: of all batches.

  Returns:
    `iou`: percent, nan for a class that was neither labelled nor predicted;
    `accuracy`: percent of a class's pixels that are found, nan for a class
    without any; `share`: percent of the labelled pixels that have the class.
    Each `[K]`.

  Source: AdaShare (Sun et al. 2020), Fig. 6.
  """
  del task
  counts = np.asarray(sums["confusion"])
  return {
    "iou": 100.0 * confusion.iou(counts),
    "accuracy": 100.0 * confusion.class_accuracy(counts),
    "share": 100.0 * confusion.shares(counts),
  }


def predict(task: TaskSpec, logits: Float[Array, "B h w K"]) -> Integer[Array, "B h w"]:
  """Returns the most likely class ids, int32, at the size of the logits."""
  del task
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def restored(
  task: TaskSpec, logits: Float[Array, "B h w K"], distance: float, sideways: float
) -> Float[Array, "B h w K"]:
  """Returns the logits: a class does not change with the view."""
  del task, distance, sideways
  return logits


def votes(task: TaskSpec, logits: Float[Array, "B h w K"]) -> Float[Array, "B h w K"]:
  """Returns the probabilities of the classes, float32."""
  del task
  return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)


def elected(task: TaskSpec, mean: Float[Array, "B h w K"]) -> Float[Array, "B h w K"]:
  """Returns the logarithm of mean probabilities, at least about -87."""
  del task
  return jnp.log(jnp.maximum(mean, jnp.finfo(jnp.float32).tiny))


def constant(
  task: TaskSpec, target: Integer[np.ndarray, "N H W"], valid: Bool[np.ndarray, "N H W"]
) -> Float[np.ndarray, "1 1 K"]:
  """Returns the log frequencies of the classes in the training labels."""
  return log_frequencies(task.outputs, target, valid)[None, None, :]


def log_frequencies(classes: int, target: np.ndarray, valid: np.ndarray) -> Float[np.ndarray, " K"]:
  """Returns float32 log frequencies; a class that never occurs gets -20."""
  labels = np.asarray(target)[np.asarray(valid, bool)].astype(np.int64)
  labels = labels[(labels >= 0) & (labels < classes)]
  counts = np.bincount(labels, minlength=classes).astype(np.float64)
  share = counts / max(counts.sum(), 1.0)
  return np.log(np.maximum(share, np.exp(-20.0))).astype(np.float32)
