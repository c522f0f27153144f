"""One yes or no for every example, or for every time of a series."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.objectives.kinds import base
from dynashare_jax.ops import losses
from dynashare_jax.ops import ranking
from dynashare_jax.types import Array, Metric, Sums, TaskSpec


class Binary(base.YesNo):
  """Yes (1) or no (0); logits are log-odds, `[B, 1]` or `[B]`, or `[B, time]` as the targets."""

  stored = "answers"
  reads: tuple[str, ...] = ("positive_weight",)

  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns area under the ROC curve, average precision, and accuracy at a half."""
    ranked = (Metric("auc", True, "%"), Metric("average_precision", True, "%"))
    return (*ranked, Metric("accuracy", True, "%", in_delta=False))

  def loss(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> Sums:
    """Returns the cross-entropy in nats; `positive_weight` multiplies that of a yes.

    Source: authors' code.
    """
    target = losses.cleared(target, valid)
    values = losses.binary_cross_entropy(
      _flat(logits, target.shape), target, float(task.positive_weight)
    )
    return losses.masked(values, alignment.per_element(valid, target.shape))

  def scores(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> dict[str, Array]:
    """Returns log-odds, targets and `valid`: a ranking needs all examples."""
    target = losses.cleared(target, valid)
    return {
      "logit": _flat(logits, target.shape),
      "target": target,
      "valid": alignment.per_element(valid, target.shape),
    }

  def finish(self, task: TaskSpec, sums: base.Leaves, scores: base.Leaves) -> dict[str, float]:
    """Ranks all examples at once; percent, nan when one class is missing."""
    valid = np.asarray(scores["valid"], bool)
    logit = np.asarray(scores["logit"])[valid]
    target = np.asarray(scores["target"])[valid]
    return {
      "auc": 100.0 * ranking.roc_auc(logit, target),
      "average_precision": 100.0 * ranking.average_precision(logit, target),
      "accuracy": accuracy(logit, target),
    }

  def predict(self, task: TaskSpec, logits: Array) -> Array:
    """Returns the probability of a yes."""
    if task.outputs == 1 and logits.ndim > 1:
      logits = logits[..., 0]
    return jax.nn.sigmoid(logits.astype(jnp.float32))

  def constant(self, task: TaskSpec, target: Array, valid: Array) -> np.ndarray:
    """Returns the log-odds of the training base rate, within +-20."""
    return log_odds(np.asarray(target)[np.asarray(valid, bool)].reshape(-1, 1))


def _flat(logits: Array, shape: tuple[int, ...]) -> Array:
  """Brings logits `[B, 1]`, `[B]` or `[B, time]` to the targets' shape."""
  if logits.ndim == len(shape) + 1:
    logits = alignment.one_channel(logits, len(shape))
  return alignment.like(logits, shape)


def accuracy(logit: np.ndarray, target: np.ndarray) -> float:
  """Returns the share of labels that log-odds above 0 tell, percent; nan without a label."""
  return alignment.ratio(np.sum((logit > 0) == (target > 0)), target.size, 100.0)


def log_odds(labels: np.ndarray) -> np.ndarray:
  """Returns float32 log-odds `[K]` of the means of columns `[N, K]`; 0 without a label."""
  labels = np.asarray(labels, np.float64)
  if not len(labels):
    return np.zeros((labels.shape[1],), np.float32)
  tiny = np.exp(-20.0)
  rate = np.clip(labels.mean(axis=0), tiny, 1.0 - tiny)
  return (np.log(rate) - np.log1p(-rate)).astype(np.float32)
