"""Several independent yes or no for every example."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np

from dynashare_jax.objectives.kinds import base
from dynashare_jax.objectives.kinds import binary
from dynashare_jax.ops import ranking
from dynashare_jax.types import Array, Metric, TaskSpec


class Multilabel(binary.Binary):
  """Labels `[B, K]`; `valid` is `[B]`, or `[B, K]` when single labels are missing."""

  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns macro and micro AUC, and macro average precision."""
    names = ("auc_macro", "auc_micro", "average_precision")
    return tuple(Metric(name, True, "%") for name in names)

  def finish(self, task: TaskSpec, sums: base.Parts, scores: base.Parts) -> dict[str, float]:
    """Ranks all examples at once; percent.

    Macro averages the labels for which both classes occur; micro ranks the
    labels of all examples together.
    """
    logit, target = (np.asarray(scores[k]).reshape(-1, task.outputs) for k in ("logit", "target"))
    valid = np.asarray(scores["valid"], bool).reshape(-1, task.outputs)
    macro = lambda rank: 100.0 * ranking.over_labels(rank, logit, target, valid)
    return {
      "auc_macro": macro(ranking.roc_auc),
      "auc_micro": 100.0 * ranking.roc_auc(logit[valid], target[valid]),
      "average_precision": macro(ranking.average_precision),
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

  def counts(self, task: TaskSpec, target: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, int]:
    """Counts the examples that have each label, and those with any."""
    target, valid = base.rows(task, target, valid)
    return ((target == 1) & valid).sum(0), int(valid.any(1).sum())
