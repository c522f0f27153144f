"""Brings predictions and labels of a task to the same shape."""

from __future__ import annotations

from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Shaped
import numpy as np

from dynashare_jax.ops import losses
from dynashare_jax.ops import resize
from dynashare_jax.types import Array, TaskSpec


def labels_at_logits(
  logits: Float[Array, "B h w O"],
  target: Shaped[Array, "B H W *channels"],
  valid: Bool[Array, "B H W"],
) -> tuple[Shaped[Array, "B h w *channels"], Bool[Array, "B h w"]]:
  """Returns labels (0 where not valid) and `valid` at the size of the logits, for the loss."""
  size = (logits.shape[1], logits.shape[2])
  target = resize.reduce_nearest(jnp.asarray(target), size)
  valid = resize.reduce_nearest(jnp.asarray(valid), size)
  return losses.cleared(target, valid), valid


def by_authors(task: TaskSpec) -> bool:
  """Returns whether a task is scored as the authors' code scores."""
  return task.metrics == "authors"


def enlarged(
  task: TaskSpec, logits: Float[Array, "B h w O"], size: tuple[int, int]
) -> Float[Array, "B H W O"]:
  """Enlarges logits of any size to the size of the labels, for the metrics.

  Differs: bilinear; the authors repeat the nearest logits, and so does a task
    with `metrics = "authors"`.
  """
  return (resize.enlarge_nearest if by_authors(task) else resize.enlarge)(logits, size)


def logits_at_labels(
  task: TaskSpec,
  logits: Float[Array, "B h w O"],
  target: Shaped[Array, "B H W *channels"],
  valid: Bool[Array, "B H W"],
) -> tuple[Float[Array, "B H W O"], Shaped[Array, "B H W *channels"], Bool[Array, "B H W"]]:
  """Returns float32 logits at the size of the labels, labels (0 where not valid) and `valid`."""
  valid = jnp.asarray(valid)
  size = (valid.shape[1], valid.shape[2])
  large = enlarged(task, logits.astype(jnp.float32), size)
  return large, losses.cleared(target, valid), valid


def batch_mean(
  total: Float[Array, ""],
  count: Integer[Array, ""],
  present: Bool[Array, " B"] | None,
  examples: int,
) -> dict[str, Array]:
  """Weighs the mean `total / count` of a batch with its number of examples.

  Args:
    total: sum over the elements of the batch that count.
    count: number of those elements.
    present: False for padding examples, which weigh nothing; None without any.
    examples: B, used where `present` is None.

  Returns:
    `mean`, float32, the mean times its weight; `examples`, int32, the weight.
    Both add over batches. A batch in which nothing counts weighs nothing.

  Differs: the authors get NaN from a batch in which nothing counts.
  """
  weight = jnp.int32(examples) if present is None else jnp.sum(present, dtype=jnp.int32)
  weight = jnp.where(count > 0, weight, 0)
  mean = total / jnp.maximum(count, 1).astype(jnp.float32)
  return {"mean": mean * weight.astype(jnp.float32), "examples": weight}


def one_channel(array: Shaped[Array, "..."], axes: int) -> Shaped[Array, "..."]:
  """Drops a trailing axis of length 1, if there is one more than `axes`.

  Raises:
    ValueError: any other shape.
  """
  if array.ndim == axes:
    return array
  if array.ndim == axes + 1 and array.shape[-1] == 1:
    return array[..., 0]
  raise ValueError(
    f"expected {axes} axes, or one more of length 1, got shape {array.shape}: "
    "the task's `outputs` does not fit its kind."
  )


def like(logits: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
  """Repeats logits along axes of length 1, for constants over time; float32."""
  return jnp.broadcast_to(logits, shape).astype(jnp.float32)


def per_element(valid: Bool[Array, "..."], shape: tuple[int, ...]) -> Bool[Array, "..."]:
  """Extends a mask of the leading axes to all axes of `shape`."""
  valid = jnp.asarray(valid)
  axes = tuple(range(valid.ndim, len(shape)))
  return jnp.broadcast_to(jnp.expand_dims(valid, axes), shape)


def ratio(total: ArrayLike, count: ArrayLike, factor: float = 1.0) -> float:
  """Returns factor * total / count, in float64; nan when the count is 0."""
  sums = np.asarray(total, np.float64), np.asarray(count, np.float64)
  return float(factor * sums[0] / sums[1]) if sums[1] else float("nan")
