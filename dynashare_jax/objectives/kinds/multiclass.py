"""One class for every example, or for every time of a series."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.objectives.kinds import base
from dynashare_jax.ops import confusion
from dynashare_jax.ops import losses
from dynashare_jax.ops import ranking
from dynashare_jax.types import Array, Metric, Sums, TaskSpec


class Multiclass(base.Classes):
  """One class for every example or time; `valid` is `[B]`, or the shape of the targets."""

  stored = "names"
  reads: tuple[str, ...] = ("outputs", "class_weights")

  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns accuracy, two kappas and the one-against-one AUC.

    Differs: in DynaShare's tables a kappa is set against an AUC as if they were
      one number; here the AUC alone counts in Delta.
    """
    return (
      Metric("accuracy", True, "%", in_delta=False),
      Metric("kappa", True, "%", in_delta=False),
      Metric("kappa_linear", True, "%", in_delta=False),
      Metric("auc_ovo", True, "%"),
    )

  def loss(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> Sums:
    """Returns the cross-entropy in nats; `class_weights` weigh the labels of a class.

    Source: authors' code.
    """
    logits, target, valid = _aligned(task, logits, target, valid)
    values = losses.cross_entropy(logits, target)
    return losses.weighted(values, target, valid, task.class_weights)

  def sums(
    self, task: TaskSpec, logits: Array, target: Array, valid: Array, present: Array | None = None
  ) -> dict[str, Array]:
    """Counts confusions."""
    logits, target, valid = _aligned(task, logits, target, valid)
    predicted = self.predict(task, logits)
    return {"confusion": confusion.confusion_counts(predicted, target, valid, task.outputs)}

  def scores(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> dict[str, Array]:
    """Returns probabilities, targets and `valid`."""
    logits, target, valid = _aligned(task, logits, target, valid)
    probability = jax.nn.softmax(logits, axis=-1)
    return {"probability": probability, "target": target, "valid": valid}

  def finish(self, task: TaskSpec, sums: base.Leaves, scores: base.Leaves) -> dict[str, float]:
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


def _aligned(
  task: TaskSpec, logits: Array, target: Array, valid: Array
) -> tuple[Array, Array, Array]:
  """Gives logits and `valid` the leading axes of the targets."""
  target = jnp.asarray(target)
  valid = alignment.per_element(valid, target.shape)
  valid = losses.in_range(target, valid, task.outputs)
  logits = alignment.like(logits, (*target.shape, task.outputs))
  return logits, losses.cleared(target, valid), valid
