"""One or more values for every pixel, such as keypoint or edge maps."""

from __future__ import annotations

from jax import numpy as jnp
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.objectives.kinds import base
from dynashare_jax.ops import losses
from dynashare_jax.types import Array, Metric, Sums, TaskSpec


class Regression(base.Dense):
  """One or more values for every pixel; one channel may come without its axis."""

  fields: tuple[str, ...] = ("outputs",)
  reads: tuple[str, ...] = ("outputs",)

  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns the mean absolute error, in the task's unit."""
    return (Metric("l1", False, task.unit),)

  def loss(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> Sums:
    """Returns the absolute error in the target's unit.

    Source: authors' code, keypoints and edges.
    """
    target, valid = alignment.labels_at_logits(logits, target, valid)
    return losses.masked(*_errors(logits, target, valid))

  def sums(
    self, task: TaskSpec, logits: Array, target: Array, valid: Array, present: Array | None = None
  ) -> dict[str, Array]:
    """Sums errors; as the authors score, also the batch's mean error.

    Differs: the authors average the means of batches, weighted by their number of examples, and
      enlarge by the nearest rule (`config.compat.metrics = "authors"`).
    """
    logits, target, valid = alignment.logits_at_labels(task, logits, target, valid)
    count = jnp.sum(valid, dtype=jnp.int32) * self.outputs(task)
    found = {"l1": losses.total(*_errors(logits, target, valid)), "count": count}
    if alignment.by_authors(task):
      found |= alignment.batch_mean(found["l1"], count, present, len(target))
    return found

  def finish(self, task: TaskSpec, sums: base.Leaves, scores: base.Leaves) -> dict[str, float]:
    """Divides the sum by its count."""
    if alignment.by_authors(task):
      return {"l1": alignment.ratio(sums["mean"], sums["examples"])}
    return {"l1": alignment.ratio(sums["l1"], sums["count"])}

  def predict(self, task: TaskSpec, logits: Array) -> Array:
    """Returns the values in the target's unit; one channel without its axis."""
    values = logits.astype(jnp.float32)
    return alignment.one_channel(values, 3) if self.outputs(task) == 1 else values

  def constant(self, task: TaskSpec, target: Array, valid: Array) -> np.ndarray:
    """Returns each channel's median over the training labels, or 0."""
    outputs = self.outputs(task)
    labels = np.asarray(target)[np.asarray(valid, bool)].reshape(-1, outputs)
    middle = np.median(labels, axis=0) if len(labels) else 0.0
    return np.full((1, 1, outputs), middle, np.float32)


def _errors(logits: Array, target: Array, valid: Array) -> tuple[Array, Array]:
  """Returns absolute errors `[B, H, W, O]`, and which of them count."""
  if target.ndim == valid.ndim:
    target = target[..., None]
  errors = losses.absolute_error(logits, target)
  return errors, alignment.per_element(valid, errors.shape)
