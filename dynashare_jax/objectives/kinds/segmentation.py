"""One class for every pixel."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.objectives.kinds import base
from dynashare_jax.ops import confusion
from dynashare_jax.ops import losses
from dynashare_jax.types import Array, Metric, Sums, TaskSpec


class Segmentation(base.Classes, base.Dense):
  """One class for every pixel, scored by confusions at the size of the labels."""

  stored = "ids"
  reads = ("outputs", "class_weights")

  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns mean intersection over union and pixel accuracy."""
    return (Metric("miou", True, "%"), Metric("pixel_accuracy", True, "%"))

  def loss(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> Sums:
    """Returns the cross-entropy in nats; `class_weights` weigh the pixels of a class.

    Source: DynaShare (CVPRW 2023), section 4.2; weights: AdaShare's code for Taskonomy.
    """
    valid = losses.in_range(target, valid, task.outputs)
    target, valid = alignment.labels_at_logits(logits, target, valid)
    return losses.weighted(losses.cross_entropy(logits, target), target, valid, task.class_weights)

  def sums(
    self, task: TaskSpec, logits: Array, target: Array, valid: Array, present: Array | None = None
  ) -> dict[str, Array]:
    """Counts confusions; as the authors score, also the batch's pixel accuracy.

    Differs: bilinear logits, all pixels pooled. The authors' pixel accuracy averages batches,
      weighted by their number of examples, and counts every pixel whose label is below K: a void
      label below 0 (-1 of Cityscapes) is an error, one of K or more (255) is left out.
      `config.compat.metrics = "authors"` does that with nearest logits; what is not valid but holds
      a class id stays left out.
    """
    raw = jnp.asarray(target)
    logits, target, valid = alignment.logits_at_labels(task, logits, target, valid)
    predicted = self.predict(task, logits)
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

  def finish(self, task: TaskSpec, sums: base.Leaves, scores: base.Leaves) -> dict[str, float]:
    """Computes the metrics from the summed confusions, in percent."""
    counts = np.asarray(sums["confusion"])
    authors = alignment.by_authors(task)
    accuracy = confusion.accuracy(counts)
    if authors:
      accuracy = alignment.ratio(sums["mean"], sums["examples"], 100.0)
    return {"miou": confusion.miou(counts, only_hit=authors), "pixel_accuracy": accuracy}

  def details(self, task: TaskSpec, sums: base.Leaves) -> dict[str, np.ndarray]:
    """Returns three numbers of every class, percent, each `[K]`.

    `iou` is nan for a class that was neither labelled nor predicted; `accuracy`, the
    share of a class's pixels that are found, is nan for a class without any;
    `share` is that of the labelled pixels that have the class.

    Source: AdaShare (Sun et al. 2020), Fig. 6.
    """
    counts = np.asarray(sums["confusion"])
    return {
      "iou": 100.0 * confusion.iou(counts),
      "accuracy": 100.0 * confusion.class_accuracy(counts),
      "share": 100.0 * confusion.shares(counts),
    }

  def votes(self, task: TaskSpec, logits: Array) -> Array:
    """Returns the probabilities of the classes, float32."""
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

  def elected(self, task: TaskSpec, mean: Array) -> Array:
    """Returns the logarithm of mean probabilities, at least about -87."""
    return jnp.log(jnp.maximum(mean, jnp.finfo(jnp.float32).tiny))

  def pictures(self, task: TaskSpec, values: np.ndarray) -> tuple[base.Picture, ...]:
    """Returns the classes."""
    return (base.Picture(task.name, values.astype(np.int32), classes=task.classes),)

  def error(self, task: TaskSpec, truth: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns which pixels are wrong."""
    return truth != guess, ""
