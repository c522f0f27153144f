"""Exact ranking metrics and agreement of classes, on the host in float64."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Bool, Shaped
import numpy as np

from dynashare_jax import lookup

NAN = float("nan")


def _hits(
  scores: Shaped[np.ndarray, "..."], targets: Shaped[np.ndarray, "..."]
) -> tuple[np.ndarray, np.ndarray] | None:
  """Positives and examples of each distinct score, ascending; None if no metric is defined."""
  scores = np.asarray(scores, np.float64).reshape(-1)
  positive = np.asarray(targets).reshape(-1) > 0.5
  if scores.size != positive.size:
    raise ValueError(f"{scores.size} scores for {positive.size} targets: they must be as many.")
  if positive.all() or not positive.any() or np.isnan(scores).any():
    return None
  _, place = np.unique(scores, return_inverse=True)
  hits = np.bincount(place, weights=positive.astype(np.float64))
  return hits, np.bincount(place).astype(np.float64)


def roc_auc(scores: Shaped[np.ndarray, "..."], targets: Shaped[np.ndarray, "..."]) -> float:
  """Computes the area under the ROC curve over all examples at once.

  It is the probability that a positive example scores above a negative one,
  ties counting a half; nan when one class is missing or a score is NaN.

  Differs: the authors' code averages the AUC of batches.
  """
  found = _hits(scores, targets)
  if found is None:
    return NAN
  hits, size = found
  misses = size - hits
  below = np.cumsum(misses) - misses
  wins = np.sum(hits * (below + 0.5 * misses))
  return float(wins / (hits.sum() * misses.sum()))


def average_precision(
  scores: Shaped[np.ndarray, "..."], targets: Shaped[np.ndarray, "..."]
) -> float:
  """Computes the area under the precision-recall steps.

  Examples of equal score enter together. nan when one class is missing or a score is NaN.
  """
  found = _hits(scores, targets)
  if found is None:
    return NAN
  hits, size = found[0][::-1], found[1][::-1]
  precision = np.cumsum(hits) / np.cumsum(size)
  return float(np.sum(precision * hits) / hits.sum())


def auc_one_vs_one(scores: Shaped[np.ndarray, "N K"], targets: Shaped[np.ndarray, " N"]) -> float:
  """Averages the AUC over all pairs of classes (Hand and Till 2001).

  Column k of the scores ranks how likely class k is. Pairs of which one class does
  not occur are left out; nan when fewer than two classes do.
  """
  scores = np.asarray(scores, np.float64)
  targets = np.asarray(targets).reshape(-1)
  present = np.unique(targets)
  values = []
  for place, first in enumerate(present):
    for second in present[place + 1 :]:
      rows = (targets == first) | (targets == second)
      is_first = targets[rows] == first
      values.append(roc_auc(scores[rows, first], is_first))
      values.append(roc_auc(scores[rows, second], ~is_first))
  return float(np.mean(values)) if values else NAN


def over_labels(
  metric: Callable[[np.ndarray, np.ndarray], float],
  scores: Shaped[np.ndarray, "N K"],
  targets: Shaped[np.ndarray, "N K"],
  valid: Bool[np.ndarray, "N K"],
) -> float:
  """Averages a ranking metric over labels (macro average), one per column.

  Labels where the metric is not defined are left out; nan when it is nowhere.
  """
  values = [metric(scores[v, k], targets[v, k]) for k, v in enumerate(valid.T)]
  defined = [value for value in values if not np.isnan(value)]
  return float(np.mean(defined)) if defined else NAN


def kappa(counts: Shaped[np.ndarray, "K K"], weights: str | None = None) -> float:
  """Computes Cohen's kappa: agreement beyond chance.

  Args:
    counts: confusion counts, row = target, column = prediction.
    weights: None, every confusion costs the same; `linear`, it costs the
      distance of the two class ids.

  Returns:
    At most 1; 0 is chance. nan when nothing was counted, or when targets and
    predictions are all of the same single class.
  """
  counts = np.asarray(counts, np.float64)
  ids = np.arange(counts.shape[0])
  distance = np.abs(ids[:, None] - ids[None, :]).astype(np.float64)
  if weights is not None:
    lookup.one_of("the kind of kappa", weights, ("linear",))
  cost = distance if weights else (distance > 0).astype(np.float64)
  total = counts.sum()
  if total == 0:
    return NAN
  chance = np.outer(counts.sum(1), counts.sum(0)) / total
  expected = np.sum(cost * chance)
  if expected == 0:
    return NAN
  return float(1.0 - np.sum(cost * counts) / expected)
