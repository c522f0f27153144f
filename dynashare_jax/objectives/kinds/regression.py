"""One or more values for every pixel, such as keypoint or edge maps."""

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


def head_outputs(task: TaskSpec) -> int:
  """Returns the number of channels."""
  return task.outputs


def metrics(task: TaskSpec) -> tuple[Metric, ...]:
  """Returns the mean absolute error, in the task's unit."""
  return (Metric("l1", False, task.unit),)


def _errors(
  logits: Float[Array, "B H W O"],
  target: Float[Array, "B H W *channels"],
  valid: Bool[Array, "B H W"],
) -> tuple[Float[Array, "B H W O"], Bool[Array, "B H W O"]]:
  """Gives absolute errors, and which pixels and channels count."""
  if target.ndim == valid.ndim:
    target = target[..., None]
  errors = losses.absolute_error(logits, target)
  return errors, alignment.per_element(valid, errors.shape)


def loss(
  task: TaskSpec,
  logits: Float[Array, "B h w O"],
  target: Float[Array, "B H W *channels"],
  valid: Bool[Array, "B H W"],
) -> Sums:
  """Sums the absolute errors of the pixels that have a label.

  Args:
    task: its `outputs` is the number of channels.
    logits: values in the target's unit, at any size; labels are reduced to it
      by the nearest rule.
    target: values; one channel may come without its axis.
    valid: which pixels have a label.

  Returns:
    Total in the target's unit, and the number of labelled values.

  Source: authors' code, keypoints and edges.
  """
  del task
  target, valid = alignment.labels_at_logits(logits, target, valid)
  return losses.masked(*_errors(logits, target, valid))


def sums(
  task: TaskSpec,
  logits: Float[Array, "B h w O"],
  target: Float[Array, "B H W *channels"],
  valid: Bool[Array, "B H W"],
  present: Bool[Array, " B"] | None = None,
) -> dict[str, Array]:
  """Sums the errors of a batch, at the size of the labels.

  Args:
    task: its `outputs` is the number of channels.
    logits: values at any size; they are enlarged.
    target: values.
    valid: which pixels have a label.
    present: False for padding examples.

  Returns:
    Sums over values; as the authors score, also the batch's mean error.

  Differs: the authors average the means of batches, weighted by their number
    of examples, and enlarge by the nearest rule
    (`config.compat.metrics = "authors"`).
  """
  logits, target, valid = alignment.logits_at_labels(task, logits, target, valid)
  count = jnp.sum(valid, dtype=jnp.int32) * task.outputs
  found = {"l1": losses.total(*_errors(logits, target, valid)), "count": count}
  if alignment.by_authors(task):
    found |= alignment.batch_mean(found["l1"], count, present, len(target))
  return found


def scores(
  task: TaskSpec,
  logits: Float[Array, "B h w O"],
  target: Float[Array, "B H W *channels"],
  valid: Bool[Array, "B H W"],
) -> dict[str, Array]:
  """Returns nothing: the metric follows from sums."""
  del task, logits, target, valid
  return {}


def finish(
  task: TaskSpec, sums: Mapping[str, ArrayLike], scores: Mapping[str, ArrayLike]
) -> dict[str, float]:
  """Divides the sum by its count."""
  del scores
  if alignment.by_authors(task):
    return {"l1": alignment.ratio(sums["mean"], sums["examples"])}
  return {"l1": alignment.ratio(sums["l1"], sums["count"])}


def predict(task: TaskSpec, logits: Float[Array, "B h w O"]) -> Float[Array, "B h w O"]:
  """Returns the values; one channel without its axis."""
  values = logits.astype(jnp.float32)
  return values[..., 0] if task.outputs == 1 else values


def restored(
  task: TaskSpec, logits: Float[Array, "B h w O"], distance: float, sideways: float
) -> Float[Array, "B h w O"]:
  """Returns the values: they do not change with the view."""
  del task, distance, sideways
  return logits


def votes(task: TaskSpec, logits: Float[Array, "B h w O"]) -> Float[Array, "B h w O"]:
  """Returns the values, float32."""
  del task
  return logits.astype(jnp.float32)


def elected(task: TaskSpec, mean: Float[Array, "B h w O"]) -> Float[Array, "B h w O"]:
  """Returns the mean values."""
  del task
  return mean


def constant(
  task: TaskSpec, target: Float[np.ndarray, "N H W *channels"], valid: Bool[np.ndarray, "N H W"]
) -> Float[np.ndarray, "1 1 O"]:
  """Returns each channel's median over the training labels, or 0."""
  labels = np.asarray(target)[np.asarray(valid, bool)]
  labels = labels.reshape(-1, task.outputs)
  middle = np.median(labels, axis=0) if len(labels) else 0.0
  return np.full((1, 1, task.outputs), middle, np.float32)
