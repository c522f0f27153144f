"""One yes or no for every example."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Shaped
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.ops import losses
from dynashare_jax.ops import ranking
from dynashare_jax.types import Array, Metric, Sums, TaskSpec

HEAD = "vector"


def head_outputs(task: TaskSpec) -> int:
  """Returns 1, or the number of times when every time has a label."""
  return task.outputs


def metrics(task: TaskSpec) -> tuple[Metric, ...]:
  """Returns area under the ROC curve and average precision."""
  del task
  return (Metric("auc", True, "%"), Metric("average_precision", True, "%"))


def _flat(logits: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
  """Brings logits `[B, 1]`, `[B]` or `[B, time]` to the targets' shape."""
  if logits.ndim == len(shape) + 1:
    logits = alignment.one_channel(logits, len(shape))
  return alignment.like(logits, shape)


def loss(
  task: TaskSpec,
  logits: Float[Array, "B *outputs"],
  target: Shaped[Array, "B *time"],
  valid: Bool[Array, "B *labels"],
) -> Sums:
  """Sums the binary cross-entropy of the examples that have a label.

  Args:
    task: its `positive_weight` multiplies the loss of positive examples.
    logits: log-odds, `[B, 1]` or `[B]` (or `[B, time]`, as the targets).
    target: 0 or 1.
    valid: which examples have a label.

  Returns:
    Total in nats, and the number of labelled examples.

  Source: authors' code.
  """
  target = losses.cleared(target, valid)
  values = losses.binary_cross_entropy(
    _flat(logits, target.shape), target, float(task.positive_weight)
  )
  return losses.masked(values, alignment.per_element(valid, target.shape))


def sums(
  task: TaskSpec,
  logits: Float[Array, "B *outputs"],
  target: Shaped[Array, "B *time"],
  valid: Bool[Array, "B *labels"],
  present: Bool[Array, " B"] | None = None,
) -> dict[str, Array]:
  """Returns nothing: a ranking needs all examples."""
  del task, logits, target, valid, present
  return {}


def scores(
  task: TaskSpec,
  logits: Float[Array, "B *outputs"],
  target: Shaped[Array, "B *time"],
  valid: Bool[Array, "B *labels"],
) -> dict[str, Array]:
  """Returns log-odds, targets and `valid`, a row an example."""
  del task
  target = losses.cleared(target, valid)
  return {
    "logit": _flat(logits, target.shape),
    "target": target,
    "valid": alignment.per_element(valid, target.shape),
  }


def finish(
  task: TaskSpec, sums: Mapping[str, ArrayLike], scores: Mapping[str, ArrayLike]
) -> dict[str, float]:
  """Ranks all examples at once; percent, nan when one class is missing."""
  del task, sums
  valid = np.asarray(scores["valid"], bool)
  logit = np.asarray(scores["logit"])[valid]
  target = np.asarray(scores["target"])[valid]
  return {
    "auc": 100.0 * ranking.roc_auc(logit, target),
    "average_precision": 100.0 * ranking.average_precision(logit, target),
  }


def predict(task: TaskSpec, logits: Float[Array, "B *outputs"]) -> Float[Array, "B *time"]:
  """Returns the probability of the positive class."""
  if task.outputs == 1 and logits.ndim > 1:
    logits = logits[..., 0]
  return jax.nn.sigmoid(logits.astype(jnp.float32))


def constant(
  task: TaskSpec, target: Shaped[np.ndarray, "N *time"], valid: Bool[np.ndarray, "N *labels"]
) -> Float[np.ndarray, " 1"]:
  """Returns the log-odds of the training base rate, within +-20."""
  del task
  labels = np.asarray(target)[np.asarray(valid, bool)]
  return log_odds(labels.reshape(-1, 1))


def log_odds(labels: Shaped[np.ndarray, "N K"]) -> Float[np.ndarray, " K"]:
  """Returns float32 log-odds of each column's mean; 0 without a label."""
  labels = np.asarray(labels, np.float64)
  if not len(labels):
    return np.zeros((labels.shape[1],), np.float32)
  tiny = np.exp(-20.0)
  rate = np.clip(labels.mean(axis=0), tiny, 1.0 - tiny)
  return (np.log(rate) - np.log1p(-rate)).astype(np.float32)
