"""One surface direction for every pixel."""

from __future__ import annotations

from typing import Any

from jax import numpy as jnp
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.objectives.kinds import base
from dynashare_jax.ops import histogram
from dynashare_jax.ops import losses
from dynashare_jax.types import Array, Metric, Sums, TaskSpec

_WITHIN = (("within_11.25", 11.25), ("within_22.5", 22.5), ("within_30", 30.0))
_BINS = 3600  # of the angles, 0.05 degrees each
_FEW = 100  # of fewer directions nothing is said


class Normals(base.Dense):
  """A direction (x points right) for every pixel; lengths do not matter."""

  stored = "directions"

  def outputs(self, task: TaskSpec) -> int:
    """Returns 3."""
    return 3

  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns mean and median angle, and three shares within an angle."""
    angles = (Metric("mean", False, "deg"), Metric("median", False, "deg"))
    return angles + tuple(Metric(name, True, "%") for name, _ in _WITHIN)

  def loss(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> Sums:
    """Returns 1 - cos(angle), in [0, 2].

    Source: DynaShare (CVPRW 2023), section 4.2.
    """
    target, valid = alignment.labels_at_logits(logits, target, valid)
    return losses.masked(losses.cosine_loss(logits, target), valid)

  def sums(
    self, task: TaskSpec, logits: Array, target: Array, valid: Array, present: Array | None = None
  ) -> dict[str, Array]:
    """Sums and counts angles.

    Differs: bilinear directions; the authors repeat the nearest ones
      (`config.compat.metrics = "authors"`). Both pool all pixels.
    """
    logits, target, valid = alignment.logits_at_labels(task, logits, target, valid)
    angles = losses.angle(logits, target)
    within = [valid & (angles <= limit) for _, limit in _WITHIN]
    return {
      "total": losses.total(angles, valid),
      "count": jnp.sum(valid, dtype=jnp.int32),
      "within": jnp.stack([jnp.sum(near, dtype=jnp.int32) for near in within]),
      "angles": histogram.histogram(angles, valid, 0.0, 180.0, _BINS),
    }

  def finish(self, task: TaskSpec, sums: base.Leaves, scores: base.Leaves) -> dict[str, float]:
    """Divides the sums; the median comes from the bins."""
    values = {
      "mean": alignment.ratio(sums["total"], sums["count"]),
      "median": histogram.quantile(np.asarray(sums["angles"]), 0.0, 180.0, 0.5),
    }
    for (name, _), near in zip(_WITHIN, np.asarray(sums["within"]), strict=True):
      values[name] = alignment.ratio(near, sums["count"], 100.0)
    return values

  def predict(self, task: TaskSpec, logits: Array) -> Array:
    """Returns unit vectors."""
    return losses.unit(logits)

  def constant(self, task: TaskSpec, target: Array, valid: Array) -> np.ndarray:
    """Returns the mean training direction, which minimises the mean loss."""
    vectors = np.asarray(target)[np.asarray(valid, bool)].astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    total = np.sum(vectors / np.maximum(lengths, 1e-6), axis=0)
    length = np.linalg.norm(total)
    mean = total / length if length > 1e-6 else np.array([0.0, 0.0, 1.0])
    return mean.astype(np.float32)[None, None, :]

  def restored(self, task: TaskSpec, logits: Array, distance: float, sideways: float) -> Array:
    """Turns the x component back."""
    if sideways == 1.0:
      return logits
    factors = jnp.asarray([sideways, 1.0, 1.0], logits.dtype)
    return logits * factors[None, None, None]

  def votes(self, task: TaskSpec, logits: Array) -> Array:
    """Returns unit vectors; of their mean, the length does not matter."""
    return losses.unit(logits)

  def moved(self, task: TaskSpec, label: Any, distance: Any, sideways: Any, xp: Any) -> Any:
    """Turns the x component."""
    return xp.concatenate([label[..., :1] * sideways, label[..., 1:]], -1)

  def usual(self, task: TaskSpec) -> base.Rule:
    """Returns that directions have length 1, within 1%."""
    return "of length 1", lambda v: np.abs(np.linalg.norm(v, axis=-1) - 1) <= 0.01

  def doubts(self, task: TaskSpec, labels: np.ndarray) -> list[str]:
    """Returns that most directions point away from the camera, where they do."""
    if len(labels) < _FEW or (labels[:, 2] > 0.05).mean() <= 0.5:
      return []
    return [
      "most normals point away from the camera (z is above 0): are they stored as 0 to 1 (of files:"
      " scale: 2, offset: -1), or is an axis turned (axes)?"
    ]

  def pictures(self, task: TaskSpec, values: np.ndarray) -> tuple[base.Picture, ...]:
    """Returns the directions as colours."""
    colours = np.clip((np.nan_to_num(values) + 1) / 2, 0, 1)
    return (base.Picture(task.name, colours, "colour = (normal + 1) / 2:\nred x, green y, blue z"),)

  def error(self, task: TaskSpec, truth: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns angles."""
    norm = lambda v: np.linalg.norm(v, axis=-1)
    first, second = (v / np.maximum(norm(v), 1e-6)[..., None] for v in (truth, guess))
    half = np.arctan2(norm(first - second), norm(first + second))
    return np.rad2deg(2 * half), "angle (deg)"
