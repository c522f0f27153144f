"""Several independent yes or no for every example."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Shaped
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.objectives.kinds import binary
from dynashare_jax.ops import losses
from dynashare_jax.ops import ranking
from dynashare_jax.types import Array, Metric, Sums, TaskSpec

HEAD = "vector"


def head_outputs(task: TaskSpec) -> int:
  """Returns the number of labels."""
  return task.outputs


def metrics(task: TaskSpec) -> tuple[Metric, ...]:
  """Returns macro and micro AUC, and macro average precision."""
  del task
  return (
    Metric("auc_macro", True, "%"),
    Metric("auc_micro", True, "%"),
    Metric("average_precision", True, "%"),
  )


def loss(
  task: TaskSpec,
  logits: Float[Array, "B K"],
  target: Shaped[Array, "B K"],
  valid: Bool[Array, "B *labels"],
) -> Sums:
  """Sums the binary cross-entropy over examples and labels.

  Args:
    task: its `positive_weight` multiplies the loss of positive labels.
    logits: log-odds.
    target: 0 or 1.
    valid: `[B]`, or `[B, K]` when single labels are missing.

  Returns:
    Total in nats, and the number of labels.

  Source: authors' code.
  """
  target = losses.cleared(target, valid)
  values = losses.binary_cross_entropy(
    alignment.like(logits, target.shape), target, float(task.positive_weight)
  )
  return losses.masked(values, alignment.per_element(valid, target.shape))


def sums(
  task: TaskSpec,
  logits: Float[Array, "B K"],
  target: Shaped[Array, "B K"],
  valid: Bool[Array, "B *labels"],
  present: Bool[Array, " B"] | None = None,
) -> dict[str, Array]:
  """Returns nothing: a ranking needs all examples."""
  del task, logits, target, valid, present
  return {}


def scores(
  task: TaskSpec,
  logits: Float[Array, "B K"],
  target: Shaped[Array, "B K"],
  valid: Bool[Array, "B *labels"],
) -> dict[str, Array]:
  """Returns log-odds, targets and `valid`, each `[B, K]`."""
  del task
  target = losses.cleared(target, valid)
  return {
    "logit": alignment.like(logits, target.shape),
    "target": target,
    "valid": alignment.per_element(valid, target.shape),
  }


def finish(
  task: TaskSpec, sums: Mapping[str, ArrayLike], scores: Mapping[str, ArrayLike]
) -> dict[str, float]:
  """Ranks all examples at once; percent.

  Macro averages the labels for which both classes occur; micro ranks the
  labels of all examples together.
  """
  del sums
  logit = np.asarray(scores["logit"]).reshape(-1, task.outputs)
  target = np.asarray(scores["target"]).reshape(-1, task.outputs)
  valid = np.asarray(scores["valid"], bool).reshape(-1, task.outputs)
  macro = ranking.over_labels(ranking.roc_auc, logit, target, valid)
  micro = ranking.roc_auc(logit[valid], target[valid])
  precision = ranking.over_labels(ranking.average_precision, logit, target, valid)
  return {
    "auc_macro": 100.0 * macro,
    "auc_micro": 100.0 * micro,
    "average_precision": 100.0 * precision,
  }


def predict(task: TaskSpec, logits: Float[Array, "B K"]) -> Float[Array, "B K"]:
  """Returns the probability of every label."""
  del task
  return jax.nn.sigmoid(logits.astype(jnp.float32))


def constant(
  task: TaskSpec, target: Shaped[np.ndarray, "N K"], valid: Bool[np.ndarray, "N *labels"]
) -> Float[np.ndarray, " K"]:
  """Returns the log-odds of every label's training base rate."""
  target = np.asarray(target).reshape(-1, task.outputs)
  valid = np.asarray(valid, bool)
  valid = np.broadcast_to(valid.reshape(len(target), -1), target.shape)
  columns = [
    binary.log_odds(target[valid[:, label], label][:, None]) for label in range(task.outputs)
  ]
  return np.concatenate(columns)
