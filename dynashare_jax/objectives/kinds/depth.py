"""One distance for every pixel."""

from __future__ import annotations

from collections.abc import Mapping

from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.ops import losses
from dynashare_jax.types import Array, Metric, Sums, TaskSpec

HEAD = "dense"
_WITHIN = (("delta_1.25", 1.25), ("delta_1.25^2", 1.25**2), ("delta_1.25^3", 1.25**3))


def head_outputs(task: TaskSpec) -> int:
  """Returns 1."""
  del task
  return 1


def metrics(task: TaskSpec) -> tuple[Metric, ...]:
  """Returns absolute and relative error, and three shares within a ratio."""
  errors = (Metric("abs", False, task.unit), Metric("rel", False))
  return errors + tuple(Metric(name, True, "%") for name, _ in _WITHIN)


def loss(
  task: TaskSpec,
  logits: Float[Array, "B h w 1"],
  target: Float[Array, "B H W *channel"],
  valid: Bool[Array, "B H W"],
) -> Sums:
  """Sums the absolute errors of the pixels that have a depth.

  Args:
    task: the task.
    logits: depth in the target's unit, at any size; labels are reduced to it
      by the nearest rule.
    target: depth, above 0; a trailing axis of length 1 is allowed.
    valid: which pixels have a depth.

  Returns:
    Total in the target's unit, and the number of labelled pixels.

  Source: authors' code.
  """
  del task
  target, valid = alignment.labels_at_logits(logits, target, valid)
  target = alignment.one_channel(target, 3)
  errors = losses.absolute_error(alignment.one_channel(logits, 3), target)
  return losses.masked(errors, valid)


def sums(
  task: TaskSpec,
  logits: Float[Array, "B h w 1"],
  target: Float[Array, "B H W *channel"],
  valid: Bool[Array, "B H W"],
  present: Bool[Array, " B"] | None = None,
) -> dict[str, Array]:
  """Sums errors and counts ratios of a batch, at the size of the labels.

  Args:
    task: the task.
    logits: depth at any size; it is enlarged.
    target: depth.
    valid: which pixels have a depth.
    present: False for padding examples.

  Returns:
    Sums over pixels; as the authors score, also the batch's mean errors.

  Differs: in the authors' code a negative prediction counts as within every
    ratio; here a prediction that is not positive is within none. Labels that
    are not positive have no relative error and no ratio. The authors average
    the mean errors of batches, weighted by their number of examples, and
    enlarge by the nearest rule. `config.compat.metrics = "authors"` does all
    three.
  """
  logits, target, valid = alignment.logits_at_labels(task, logits, target, valid)
  predicted = predict(task, logits)
  authors = alignment.by_authors(task)
  target = alignment.one_channel(target, 3).astype(jnp.float32)
  errors = jnp.abs(predicted - target)
  positive = valid & (target > 0)
  depth = jnp.where(positive, target, 1.0)
  # A negative ratio is below every limit; a prediction of 0 is infinitely far.
  possible = positive & (predicted != 0 if authors else predicted > 0)
  guess = jnp.where(possible, predicted, 1.0)
  ratios = jnp.maximum(guess / depth, depth / guess)
  within = [possible & (ratios <= limit) for _, limit in _WITHIN]
  found = {
    "abs": losses.total(errors, valid),
    "count": jnp.sum(valid, dtype=jnp.int32),
    "rel": losses.total(errors / depth, positive),
    "positive": jnp.sum(positive, dtype=jnp.int32),
    "within": jnp.stack([jnp.sum(near, dtype=jnp.int32) for near in within]),
  }
  if authors:
    for name, number in (("abs", "count"), ("rel", "positive")):
      mean = alignment.batch_mean(found[name], found[number], present, len(target))
      found |= {f"{name}_{key}": value for key, value in mean.items()}
  return found


def scores(
  task: TaskSpec,
  logits: Float[Array, "B h w 1"],
  target: Float[Array, "B H W *channel"],
  valid: Bool[Array, "B H W"],
) -> dict[str, Array]:
  """Returns nothing: the metrics follow from sums."""
  del task, logits, target, valid
  return {}


def finish(
  task: TaskSpec, sums: Mapping[str, ArrayLike], scores: Mapping[str, ArrayLike]
) -> dict[str, float]:
  """Divides the sums; shares in percent."""
  del scores
  parts = (("abs", "count"), ("rel", "positive"))
  if alignment.by_authors(task):
    parts = (("abs_mean", "abs_examples"), ("rel_mean", "rel_examples"))
  values = {
    name: alignment.ratio(sums[total], sums[count])
    for name, (total, count) in zip(("abs", "rel"), parts, strict=True)
  }
  for (name, _), near in zip(_WITHIN, np.asarray(sums["within"]), strict=True):
    values[name] = alignment.ratio(near, sums["positive"], 100.0)
  return values


def predict(task: TaskSpec, logits: Float[Array, "B h w 1"]) -> Float[Array, "B h w"]:
  """Returns depth in the target's unit, at the size of the logits."""
  del task
  return alignment.one_channel(logits, 3).astype(jnp.float32)


def restored(
  task: TaskSpec, logits: Float[Array, "B h w 1"], distance: float, sideways: float
) -> Float[Array, "B h w 1"]:
  """Brings depths back to the picture.

  Args:
    task: its `inverse` tells whether a factor divides.
    logits: depths seen in a view.
    distance: factor on them, for example 2 for a picture enlarged twice, which
      shows things at half their distance.
    sideways: does not matter.

  Returns:
    Depths of the picture itself.
  """
  del sideways
  if distance == 1.0:
    return logits
  return logits / distance if task.inverse else logits * distance


def votes(task: TaskSpec, logits: Float[Array, "B h w 1"]) -> Float[Array, "B h w 1"]:
  """Returns the depths, float32."""
  del task
  return logits.astype(jnp.float32)


def elected(task: TaskSpec, mean: Float[Array, "B h w 1"]) -> Float[Array, "B h w 1"]:
  """Returns the mean depths."""
  del task
  return mean


def constant(
  task: TaskSpec, target: Float[np.ndarray, "N H W *channel"], valid: Bool[np.ndarray, "N H W"]
) -> Float[np.ndarray, "1 1 1"]:
  """Returns the median of the training depths, 0 when there are none."""
  del task
  depths = np.asarray(target)[np.asarray(valid, bool)]
  middle = np.median(depths) if depths.size else 0.0
  return np.full((1, 1, 1), middle, np.float32)
