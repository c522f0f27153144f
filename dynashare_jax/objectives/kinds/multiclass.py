"""One class for every example, or for every time of a series."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.objectives.kinds import segmentation
from dynashare_jax.ops import confusion
from dynashare_jax.ops import losses
from dynashare_jax.ops import ranking
from dynashare_jax.types import Array, Metric, Sums, TaskSpec

HEAD = "vector"


def head_outputs(task: TaskSpec) -> int:
  """Returns the number of classes."""
  return task.outputs


def metrics(task: TaskSpec) -> tuple[Metric, ...]:
  """Returns accuracy, two kappas and the one-against-one AUC.

  Differs: in DynaShare's tables a kappa is set against an AUC as if they were
    one number; here the AUC alone counts in Delta.
  """
  del task
  return (
    Metric("accuracy", True, "%", in_delta=False),
    Metric("kappa", True, "%", in_delta=False),
    Metric("kappa_linear", True, "%", in_delta=False),
    Metric("auc_ovo", True, "%"),
  )


def loss(
  task: TaskSpec,
  logits: Float[Array, "B *steps K"],
  target: Integer[Array, "B *time"],
  valid: Bool[Array, "B *labels"],
) -> Sums:
  """Sums the cross-entropy of the examples that have a label.

  Args:
    task: its `outputs` is K; `class_weights` weigh the labels of a class.
    logits: one row an example, or one a time.
    target: class ids; outside 0 .. K-1 they count as not valid.
    valid: `[B]`, or the shape of the targets.

  Returns:
    Total in nats, and the number of labels, or their total weight.

  Source: authors' code.
  """
  logits, target, valid = _aligned(task, logits, target, valid)
  values = losses.cross_entropy(logits, target)
  return losses.weighted(values, target, valid, task.class_weights)


def _aligned(
  task: TaskSpec, logits: Array, target: Array, valid: Array
) -> tuple[Array, Array, Array]:
  """Gives logits and `valid` the leading axes of the targets."""
  target = jnp.asarray(target)
  valid = alignment.per_element(valid, target.shape)
  valid = losses.in_range(target, valid, task.outputs)
  logits = alignment.like(logits, (*target.shape, task.outputs))
  return logits, losses.cleared(target, valid), valid


def sums(
  task: TaskSpec,
  logits: Float[Array, "B *steps K"],
  target: Integer[Array, "B *time"],
  valid: Bool[Array, "B *labels"],
  present: Bool[Array, " B"] | None = None,
) -> dict[str, Array]:
  """Counts the confusions of a batch."""
  del present
  logits, target, valid = _aligned(task, logits, target, valid)
  predicted = predict(task, logits)
  counts = confusion.confusion_counts(predicted, target, valid, task.outputs)
  return {"confusion": counts}


def scores(
  task: TaskSpec,
  logits: Float[Array, "B *steps K"],
  target: Integer[Array, "B *time"],
  valid: Bool[Array, "B *labels"],
) -> dict[str, Array]:
  """Returns probabilities, targets and `valid`, a row an example."""
  logits, target, valid = _aligned(task, logits, target, valid)
  probability = jax.nn.softmax(logits, axis=-1)
  return {"probability": probability, "target": target, "valid": valid}


def finish(
  task: TaskSpec, sums: Mapping[str, ArrayLike], scores: Mapping[str, ArrayLike]
) -> dict[str, float]:
  """Computes all metrics, in percent (a kappa of 1 is 100)."""
  counts = np.asarray(sums["confusion"])
  valid = np.asarray(scores["valid"], bool)
  probability = np.asarray(scores["probability"])[valid]
  target = np.asarray(scores["target"])[valid]
  auc = ranking.auc_one_vs_one(probability.reshape(-1, task.outputs), target)
  return {
    "accuracy": confusion.accuracy(counts),
    "kappa": 100.0 * ranking.kappa(counts),
    "kappa_linear": 100.0 * ranking.kappa(counts, "linear"),
    "auc_ovo": 100.0 * auc,
  }


def predict(task: TaskSpec, logits: Float[Array, "B *time K"]) -> Integer[Array, "B *time"]:
  """Returns the most likely class ids, int32."""
  del task
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def constant(
  task: TaskSpec, target: Integer[np.ndarray, "N *time"], valid: Bool[np.ndarray, "N *labels"]
) -> Float[np.ndarray, "*ones K"]:
  """Returns the log frequencies of the classes in the training labels."""
  target = np.asarray(target)
  row = segmentation.log_frequencies(task.outputs, target, valid)
  return row.reshape((1,) * (target.ndim - 1) + (-1,))
