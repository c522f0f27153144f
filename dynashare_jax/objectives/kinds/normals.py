"""One surface direction for every pixel."""

from __future__ import annotations

from collections.abc import Mapping

from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.ops import histogram
from dynashare_jax.ops import losses
from dynashare_jax.types import Array, Metric, Sums, TaskSpec

HEAD = "dense"
_WITHIN = (("within_11.25", 11.25), ("within_22.5", 22.5), ("within_30", 30.0))
_BINS = 3600


def head_outputs(task: TaskSpec) -> int:
  """Returns 3."""
  del task
  return 3


def metrics(task: TaskSpec) -> tuple[Metric, ...]:
  """Returns mean and median angle, and three shares within an angle."""
  del task
  angles = (Metric("mean", False, "deg"), Metric("median", False, "deg"))
  return angles + tuple(Metric(name, True, "%") for name, _ in _WITHIN)


def loss(
  task: TaskSpec,
  logits: Float[Array, "B h w 3"],
  target: Float[Array, "B H W 3"],
  valid: Bool[Array, "B H W"],
) -> Sums:
  """Sums 1 - cos(angle) over the pixels that have a direction.

  Args:
    task: the task.
    logits: directions of any length, at any size; labels are reduced to it by
      the nearest rule.
    target: directions of any length.
    valid: which pixels have a direction.

  Returns:
    Total, each term in [0, 2], and the number of labelled pixels.

  Source: DynaShare (CVPRW 2023), section 4.2.
  """
  del task
  target, valid = alignment.labels_at_logits(logits, target, valid)
  return losses.masked(losses.cosine_loss(logits, target), valid)


def sums(
  task: TaskSpec,
  logits: Float[Array, "B h w 3"],
  target: Float[Array, "B H W 3"],
  valid: Bool[Array, "B H W"],
  present: Bool[Array, " B"] | None = None,
) -> dict[str, Array]:
  """Sums and counts the angles of a batch, at the size of the labels.

  Differs: bilinear directions; the authors repeat the nearest ones
    (`config.compat.metrics = "authors"`). Both pool all pixels.
  """
  del present
  logits, target, valid = alignment.logits_at_labels(task, logits, target, valid)
  angles = losses.angle(logits, target)
  within = [valid & (angles <= limit) for _, limit in _WITHIN]
  return {
    "total": losses.total(angles, valid),
    "count": jnp.sum(valid, dtype=jnp.int32),
    "within": jnp.stack([jnp.sum(near, dtype=jnp.int32) for near in within]),
    "angles": histogram.histogram(angles, valid, 0.0, 180.0, _BINS),
  }


def scores(
  task: TaskSpec,
  logits: Float[Array, "B h w 3"],
  target: Float[Array, "B H W 3"],
  valid: Bool[Array, "B H W"],
) -> dict[str, Array]:
  """Returns nothing: the metrics follow from sums."""
  del task, logits, target, valid
  return {}


def finish(
  task: TaskSpec, sums: Mapping[str, ArrayLike], scores: Mapping[str, ArrayLike]
) -> dict[str, float]:
  """Divides the sums; the median comes from bins of 0.05 degrees."""
  del task, scores
  values = {
    "mean": alignment.ratio(sums["total"], sums["count"]),
    "median": histogram.quantile(np.asarray(sums["angles"]), 0.0, 180.0, 0.5),
  }
  for (name, _), near in zip(_WITHIN, np.asarray(sums["within"]), strict=True):
    values[name] = alignment.ratio(near, sums["count"], 100.0)
  return values


def predict(task: TaskSpec, logits: Float[Array, "B h w 3"]) -> Float[Array, "B h w 3"]:
  """Returns unit vectors at the size of the logits."""
  del task
  return losses.unit(logits)


def restored(
  task: TaskSpec, logits: Float[Array, "B h w 3"], distance: float, sideways: float
) -> Float[Array, "B h w 3"]:
  """Turns the x component (the first; x points right) back.

  Args:
    task: the task.
    logits: directions seen in a view, left and right already exchanged.
    distance: does not matter.
    sideways: factor on x, -1 for what was seen mirrored.

  Returns:
    Directions in the picture itself.
  """
  del task, distance
  if sideways == 1.0:
    return logits
  factors = jnp.asarray([sideways, 1.0, 1.0], logits.dtype)
  return logits * factors[None, None, None]


def votes(task: TaskSpec, logits: Float[Array, "B h w 3"]) -> Float[Array, "B h w 3"]:
  """Returns unit vectors."""
  return predict(task, logits)


def elected(task: TaskSpec, mean: Float[Array, "B h w 3"]) -> Float[Array, "B h w 3"]:
  """Returns the mean vector: its length does not matter."""
  del task
  return mean


def constant(
  task: TaskSpec, target: Float[np.ndarray, "N H W 3"], valid: Bool[np.ndarray, "N H W"]
) -> Float[np.ndarray, "1 1 3"]:
  """Returns the mean training direction, which minimises the mean loss."""
  del task
  vectors = np.asarray(target)[np.asarray(valid, bool)].astype(np.float64)
  lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
  total = np.sum(vectors / np.maximum(lengths, 1e-6), axis=0)
  length = np.linalg.norm(total)
  mean = total / length if length > 1e-6 else np.array([0.0, 0.0, 1.0])
  return mean.astype(np.float32)[None, None, :]
