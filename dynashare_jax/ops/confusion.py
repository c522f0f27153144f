"""Confusion counts (row = target, column = prediction), and metrics computed from them."""

from __future__ import annotations

from jax import numpy as jnp
from jaxtyping import Bool, Float, Integer, Shaped
import numpy as np

from dynashare_jax.types import Array


def confusion_counts(
  predicted: Integer[Array, "*shape"],
  target: Integer[Array, "*shape"],
  valid: Bool[Array, "*shape"],
  classes: int,
) -> Integer[Array, "K K"]:
  """Counts how often each class was taken for each other.

  Elements that are not `valid`, or whose ids lie outside 0 .. K-1, do not count.

  Returns:
    Int32 `[K, K]`, row = target, column = prediction. Adds over batches; exact
    up to 2^31 - 1 elements in a cell.
  """
  predicted = jnp.asarray(predicted).astype(jnp.int32)
  target = jnp.asarray(target).astype(jnp.int32)
  inside = (target >= 0) & (target < classes)
  inside &= (predicted >= 0) & (predicted < classes)
  cell = target * classes + predicted
  cell = jnp.where(valid & inside, cell, classes * classes).reshape(-1)
  counts = jnp.zeros((classes * classes + 1,), jnp.int32).at[cell].add(1)
  return counts[:-1].reshape(classes, classes)


def iou(counts: Shaped[np.ndarray, "K K"]) -> Float[np.ndarray, " K"]:
  """Computes every class's intersection over union; nan for one neither labelled nor predicted."""
  counts = np.asarray(counts, np.float64)
  hits = np.diagonal(counts)
  union = counts.sum(0) + counts.sum(1) - hits
  occurs = union > 0
  return np.where(occurs, hits / np.where(occurs, union, 1.0), np.nan)


def class_accuracy(counts: Shaped[np.ndarray, "K K"]) -> Float[np.ndarray, " K"]:
  """Computes the share of every class's labels that are found; nan for one never labelled."""
  labelled = counts.sum(axis=1).astype(np.float64)
  found = np.diag(counts) / np.maximum(labelled, 1)
  return np.where(labelled > 0, found, np.nan)


def shares(counts: Shaped[np.ndarray, "K K"]) -> Float[np.ndarray, " K"]:
  """Computes the fraction of labels that each class has; nan when nothing was counted."""
  labels = np.asarray(counts, np.float64).sum(1)
  total = labels.sum()
  return labels / total if total else np.full(labels.shape, np.nan)


def miou(counts: Shaped[np.ndarray, "K K"], only_hit: bool = False) -> float:
  """Averages intersection over union over the classes that were labelled or predicted.

  In percent; nan when no class counts. With `only_hit` classes without a single correct element are
  left out.

  Differs: the authors' code averages only classes with a correct pixel, which forgives a class that
    is always missed: `only_hit`, `config.compat.metrics = "authors"`.
  """
  values = iou(counts)
  chosen = values > 0 if only_hit else ~np.isnan(values)
  if not chosen.any():
    return float("nan")
  return float(100.0 * np.mean(values[chosen]))


def accuracy(counts: Shaped[np.ndarray, "K K"]) -> float:
  """Computes the percentage of elements whose class is right; nan when nothing was counted.

  Differs: the authors' pixel accuracy averages batches, and counts unlabelled
    Cityscapes pixels as errors; see `objectives.kinds.segmentation.sums`.
  """
  counts = np.asarray(counts, np.float64)
  total = counts.sum()
  if total == 0:
    return float("nan")
  return float(100.0 * np.trace(counts) / total)
