"""Exact ranking metrics and agreement of classes, on the host in float64."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Bool, Shaped
import numpy as np

NAN = float("nan")


def _split(
  scores: Shaped[np.ndarray, "..."], targets: Shaped[np.ndarray, "..."]
) -> tuple[np.ndarray, np.ndarray]:
  """Flattens, and refuses NaN scores, which have no rank."""
  scores = np.asarray(scores, np.float64).reshape(-1)
  positive = np.asarray(targets).reshape(-1) > 0.5
  if scores.size != positive.size:
    raise ValueError(f"{scores.size} scores for {positive.size} targets: give one score a target.")
  return scores, positive


def _groups(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Counts positives and all examples of each distinct score, ascending."""
  _, place = np.unique(scores, return_inverse=True)
  size = np.bincount(place)
  hits = np.bincount(place, weights=positive.astype(np.float64))
  return hits, size.astype(np.float64)


def _degenerate(scores: np.ndarray, positive: np.ndarray) -> bool:
  """Says whether no ranking metric is defined."""
  one_class = positive.all() or not positive.any()
  return bool(one_class or np.isnan(scores).any())


def roc_auc(scores: Shaped[np.ndarray, "..."], targets: Shaped[np.ndarray, "..."]) -> float:
  """Computes the area under the ROC curve over all examples at once.

  It is the probability that a positive example scores above a negative one,
  ties counting a half.

  Args:
    scores: higher means more likely positive; only their order matters.
    targets: 0 or 1.

  Returns:
    In [0, 1]; nan when one class is missing or a score is NaN.

  Raises:
    ValueError: other numbers of scores than of targets.

  Differs: the authors' code averages the AUC of batches.
  """
  scores, positive = _split(scores, targets)
  if _degenerate(scores, positive):
    return NAN
  hits, size = _groups(scores, positive)
  misses = size - hits
  below = np.cumsum(misses) - misses
  wins = np.sum(hits * (below + 0.5 * misses))
  return float(wins / (hits.sum() * misses.sum()))


def average_precision(
  scores: Shaped[np.ndarray, "..."], targets: Shaped[np.ndarray, "..."]
) -> float:
  """Computes the area under the precision-recall steps.

  Args:
    scores: higher means more likely positive. Examples of equal score enter
      together.
    targets: 0 or 1.

  Returns:
    In (0, 1]; nan when one class is missing or a score is NaN.

  Raises:
    ValueError: other numbers of scores than of targets.
  """
  scores, positive = _split(scores, targets)
  if _degenerate(scores, positive):
    return NAN
  hits, size = _groups(scores, positive)
  hits, size = hits[::-1], size[::-1]
  precision = np.cumsum(hits) / np.cumsum(size)
  return float(np.sum(precision * hits) / hits.sum())


def auc_one_vs_one(scores: Shaped[np.ndarray, "N K"], targets: Shaped[np.ndarray, " N"]) -> float:
  """Averages the AUC over all pairs of classes (Hand and Till 2001).

  Args:
    scores: column k ranks how likely class k is.
    targets: class ids in 0 .. K-1.

  Returns:
    In [0, 1], the unweighted mean over the pairs whose two classes both occur;
    nan when fewer than two classes do.
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
  """Averages a ranking metric over labels (macro average).

  Args:
    metric: `roc_auc` or `average_precision`.
    scores: one column a label.
    targets: 0 or 1.
    valid: which targets are labels.

  Returns:
    The mean over the labels where the metric is defined; nan when it is
    nowhere.
  """
  values = []
  for label in range(scores.shape[1]):
    rows = valid[:, label]
    values.append(metric(scores[rows, label], targets[rows, label]))
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

  Raises:
    ValueError: unknown `weights`.
  """
  counts = np.asarray(counts, np.float64)
  ids = np.arange(counts.shape[0])
  distance = np.abs(ids[:, None] - ids[None, :]).astype(np.float64)
  if weights is None:
    cost = (distance > 0).astype(np.float64)
  elif weights == "linear":
    cost = distance
  else:
    raise ValueError(f"unknown kappa weights {weights!r}: use None or 'linear'.")
  total = counts.sum()
  if total == 0:
    return NAN
  chance = np.outer(counts.sum(1), counts.sum(0)) / total
  expected = np.sum(cost * chance)
  if expected == 0:
    return NAN
  return float(1.0 - np.sum(cost * counts) / expected)
