"""One class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping

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
    task: its `outputs` is K.
    logits: at any size; labels are reduced to it by the nearest rule.
    target: class ids; outside 0 .. K-1 they count as not valid.
    valid: which pixels have a label.

  Returns:
    Total in nats, and the number of labelled pixels.

  Source: DynaShare (CVPRW 2023), section 4.2.
  """
  valid = losses.in_range(target, valid, task.outputs)
  target, valid = alignment.labels_at_logits(logits, target, valid)
  return losses.masked(losses.cross_entropy(logits, target), valid)


def sums(
  task: TaskSpec,
  logits: Float[Array, "B h w K"],
  target: Integer[Array, "B H W"],
  valid: Bool[Array, "B H W"],
) -> dict[str, Array]:
  """Counts the confusions of a batch, at the size of the labels."""
  logits, target, valid = alignment.logits_at_labels(logits, target, valid)
  predicted = predict(task, logits)
  counts = confusion.confusion_counts(predicted, target, valid, task.outputs)
  return {"confusion": counts}


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
  del task, scores
  counts = np.asarray(sums["confusion"])
  return {
    "miou": confusion.miou(counts),
    "pixel_accuracy": confusion.accuracy(counts),
  }


def predict(
  task: TaskSpec, logits: Float[Array, "B h w K"]
) -> Integer[Array, "B h w"]:
  """Returns the most likely class ids, int32, at the size of the logits."""
  del task
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def constant(
  task: TaskSpec,
  target: Integer[np.ndarray, "N H W"],
  valid: Bool[np.ndarray, "N H W"],
) -> Float[np.ndarray, "1 1 K"]:
  """Returns the log frequencies of the classes in the training labels."""
  return log_frequencies(task.outputs, target, valid)[None, None, :]


def log_frequencies(
  classes: int, target: np.ndarray, valid: np.ndarray
) -> Float[np.ndarray, " K"]:
  """Returns float32 log frequencies; a class that never occurs gets -20."""
  labels = np.asarray(target)[np.asarray(valid, bool)].astype(np.int64)
  labels = labels[(labels >= 0) & (labels < classes)]
  counts = np.bincount(labels, minlength=classes).astype(np.float64)
  share = counts / max(counts.sum(), 1.0)
  return np.log(np.maximum(share, np.exp(-20.0))).astype(np.float32)
