"""Several independent yes or no for every example."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np

from dynashare_jax.objectives.kinds import base
from dynashare_jax.objectives.kinds import binary
from dynashare_jax.ops import ranking
from dynashare_jax.types import Array, Metric, TaskSpec

_SHOWN = 3  # labels of an example in a picture


class Multilabel(binary.Binary):
  """Labels `[B, K]`; `valid` is `[B]`, or `[B, K]` when single labels are missing."""

  stored = "answers"
  several = True
  reads: tuple[str, ...] = ("outputs", "positive_weight")

  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns macro and micro AUC, macro average precision, and mean accuracy at a half."""
    return (
      Metric("auc_macro", True, "%"),
      Metric("auc_micro", True, "%"),
      Metric("average_precision", True, "%"),
      Metric("accuracy", True, "%", in_delta=False),
    )

  def finish(self, task: TaskSpec, sums: base.Leaves, scores: base.Leaves) -> dict[str, float]:
    """Ranks all examples at once; percent.

    Macro averages the labels for which both classes occur; micro ranks the
    labels of all examples together. Accuracy is the mean over all labels of all examples.
    """
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
      "accuracy": binary.accuracy(logit[valid], target[valid]),
    }

  def predict(self, task: TaskSpec, logits: Array) -> Array:
    """Returns the probability of every label."""
    return jax.nn.sigmoid(logits.astype(jnp.float32))

  def constant(self, task: TaskSpec, target: Array, valid: Array) -> np.ndarray:
    """Returns the log-odds of every label's training base rate."""
    target, valid = base.rows(task, np.asarray(target), np.asarray(valid, bool))
    columns = [
      binary.log_odds(target[valid[:, label], label][:, None]) for label in range(task.outputs)
    ]
    return np.concatenate(columns)

  def words(self, task: TaskSpec, values: np.ndarray) -> list[str]:
    """Returns the names of the labels that are there, some of them where there are many."""
    names = task.classes or tuple(map(str, range(task.outputs)))
    found = [[n for n, v in zip(names, row, strict=True) if v > 0.5] for row in values]
    more = lambda row: f" and {len(row) - _SHOWN} more" if len(row) > _SHOWN else ""
    return [", ".join(row[:_SHOWN]) + more(row) if row else "none" for row in found]

  def counts(self, task: TaskSpec, target: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, int]:
    """Counts the examples that have each label, and those with any."""
    target, valid = base.rows(task, target, valid)
    return ((target == 1) & valid).sum(0), int(valid.any(1).sum())
