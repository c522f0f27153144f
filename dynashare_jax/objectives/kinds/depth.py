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
_WITHIN = (
  ("delta_1.25", 1.25),
  ("delta_1.25^2", 1.25**2),
  ("delta_1.25^3", 1.25**3),
)


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
) -> dict[str, Array]:
  """Sums errors and counts ratios of a batch, at the size of the labels.

  Differs: in the authors' code a negative prediction counts as within every
    ratio; here a prediction that is not positive is within none. Labels that
    are not positive have no relative error and no ratio.
  """
  logits, target, valid = alignment.logits_at_labels(logits, target, valid)
  predicted = predict(task, logits)
  target = alignment.one_channel(target, 3).astype(jnp.float32)
  errors = jnp.abs(predicted - target)
  positive = valid & (target > 0)
  depth = jnp.where(positive, target, 1.0)
  possible = positive & (predicted > 0)
  guess = jnp.where(possible, predicted, 1.0)
  ratios = jnp.maximum(guess / depth, depth / guess)
  within = [possible & (ratios <= limit) for _, limit in _WITHIN]
  return {
    "abs": losses.total(errors, valid),
    "count": jnp.sum(valid, dtype=jnp.int32),
    "rel": losses.total(errors / depth, positive),
    "positive": jnp.sum(positive, dtype=jnp.int32),
    "within": jnp.stack([jnp.sum(near, dtype=jnp.int32) for near in within]),
  }


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
  del task, scores
  values = {
    "abs": alignment.ratio(sums["abs"], sums["count"]),
    "rel": alignment.ratio(sums["rel"], sums["positive"]),
  }
  for (name, _), near in zip(_WITHIN, np.asarray(sums["within"]), strict=True):
    values[name] = alignment.ratio(near, sums["positive"], 100.0)
  return values


def predict(
  task: TaskSpec, logits: Float[Array, "B h w 1"]
) -> Float[Array, "B h w"]:
  """Returns depth in the target's unit, at the size of the logits."""
  del task
  return alignment.one_channel(logits, 3).astype(jnp.float32)


def constant(
  task: TaskSpec,
  target: Float[np.ndarray, "N H W *channel"],
  valid: Bool[np.ndarray, "N H W"],
) -> Float[np.ndarray, "1 1 1"]:
  """Returns the median of the training depths, 0 when there are none."""
  del task
  depths = np.asarray(target)[np.asarray(valid, bool)]
  middle = np.median(depths) if depths.size else 0.0
  return np.full((1, 1, 1), middle, np.float32)
