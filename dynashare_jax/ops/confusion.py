"""Confusion counts of class predictions, and what follows from them."""

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

  Args:
    predicted: class ids.
    target: class ids; outside 0 .. K-1 they count as not valid.
    valid: which elements have a label.
    classes: K.

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
  """Gives intersection over union of every class.

  Args:
    counts: row = target, column = prediction.

  Returns:
    Float64 in 0 to 1; nan for a class that was neither labelled nor predicted.
  """
  counts = np.asarray(counts, np.float64)
  hits = np.diagonal(counts)
  union = counts.sum(0) + counts.sum(1) - hits
  occurs = union > 0
  return np.where(occurs, hits / np.where(occurs, union, 1.0), np.nan)


def class_accuracy(counts: Shaped[np.ndarray, "K K"]) -> Float[np.ndarray, " K"]:
  """Computes how many pixels of every class are found.

  Args:
    counts: row = label, column = prediction.

  Returns:
    Shares in [0, 1]; nan for a class that is never labelled.
  """
  labelled = counts.sum(axis=1).astype(np.float64)
  found = np.diag(counts) / np.maximum(labelled, 1)
  return np.where(labelled > 0, found, np.nan)


def shares(counts: Shaped[np.ndarray, "K K"]) -> Float[np.ndarray, " K"]:
  """Gives the fraction of labels that each class has.

  Args:
    counts: row = target, column = prediction.

  Returns:
    Float64 in 0 to 1, sum 1; nan when nothing was counted.
  """
  labels = np.asarray(counts, np.float64).sum(1)
  total = labels.sum()
  return labels / total if total else np.full(labels.shape, np.nan)


def miou(counts: Shaped[np.ndarray, "K K"], only_hit: bool = False) -> float:
  """Averages intersection over union over the classes that occur.

  Args:
    counts: row = target, column = prediction.
    only_hit: leave out classes without a single correct element, as the
      authors do.

  Returns:
    Percent, 0 to 100; nan when no class counts. A class that was labelled
    or predicted (union above 0) counts, one that was neither does not.

  Differs: the authors' code averages only classes with a correct pixel, which
    forgives a class that is always missed: `only_hit`,
    `config.compat.metrics = "authors"`.
  """
  values = iou(counts)
  chosen = values > 0 if only_hit else ~np.isnan(values)
  if not chosen.any():
    return float("nan")
  return float(100.0 * np.mean(values[chosen]))


def accuracy(counts: Shaped[np.ndarray, "K K"]) -> float:
  """Gives the fraction of elements whose class is right.

  Args:
    counts: row = target, column = prediction.

  Returns:
    Percent, 0 to 100; nan when nothing was counted.

  Differs: the authors' pixel accuracy averages batches, and counts unlabelled
    Cityscapes pixels as errors; see `objectives.kinds.segmentation.sums`.
  """
  counts = np.asarray(counts, np.float64)
  total = counts.sum()
  if total == 0:
    return float("nan")
  return float(100.0 * np.trace(counts) / total)
