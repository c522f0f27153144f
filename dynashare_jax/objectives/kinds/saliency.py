"""Yes or no for every pixel: whether it belongs to what a picture is about."""

from __future__ import annotations

import jax
from jax import numpy as jnp
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.objectives.kinds import base
from dynashare_jax.objectives.kinds import binary
from dynashare_jax.ops import losses
from dynashare_jax.types import Array, Metric, Sums, TaskSpec

THRESHOLDS = np.linspace(0.2, 0.9, 15)  # of the probability


class Saliency(base.YesNo, base.Dense):
  """Yes (1) or no (0) for every pixel; logits are log-odds, one channel."""

  stored = "ids"
  reads: tuple[str, ...] = ("positive_weight",)

  def outputs(self, task: TaskSpec) -> int:
    """Returns 1."""
    return 1

  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns intersection over union and F, each at its best threshold of `THRESHOLDS`."""
    return (Metric("max_iou", True, "%"), Metric("max_f", True, "%", in_delta=False))

  def loss(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> Sums:
    """Returns the cross-entropy in nats; `positive_weight` multiplies that of a yes."""
    target, valid = alignment.labels_at_logits(logits, target, valid)
    values = losses.binary_cross_entropy(logits[..., 0], target, float(task.positive_weight))
    return losses.masked(values, valid)

  def sums(
    self, task: TaskSpec, logits: Array, target: Array, valid: Array, present: Array | None = None
  ) -> dict[str, Array]:
    """Sums overlap, precision and recall of the pictures that have a label, for every threshold.

    Source: Maninis et al. 2019 (ASTMT), whose evaluation averages pictures before it takes the
      best threshold. Where nothing is salient and nothing is said to be, the overlap is 1; a
      precision or recall of nothing is 0.
    Differs: probabilities are not rounded to bytes.
    """
    logits, target, valid = alignment.logits_at_labels(task, logits, target, valid)
    levels = jnp.asarray(THRESHOLDS, jnp.float32).reshape(1, 1, 1, -1)
    said = (jax.nn.sigmoid(logits) > levels) & valid[..., None]
    yes = ((target > 0) & valid)[..., None]
    pixels = lambda of: jnp.sum(of, (1, 2), dtype=jnp.int32)
    hits, said, yes = pixels(said & yes), pixels(said), pixels(yes)
    either, known = said + yes - hits, jnp.any(valid, (1, 2))
    share = lambda count: hits / jnp.maximum(count, 1).astype(jnp.float32)
    mean = lambda of: jnp.sum(jnp.where(known[:, None], of, 0.0), 0)
    return {
      "iou": mean(jnp.where(either == 0, 1.0, share(either))),
      "precision": mean(share(said)),
      "recall": mean(share(yes)),
      "count": jnp.sum(known, dtype=jnp.int32),
    }

  def finish(self, task: TaskSpec, sums: base.Leaves, scores: base.Leaves) -> dict[str, float]:
    """Takes the best threshold of each mean over pictures, percent."""
    means = (np.asarray(sums[name], np.float64) for name in ("iou", "precision", "recall"))
    iou, precision, recall = means
    # The count of pictures cancels, but for its being 0.
    both = np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return {
      "max_iou": alignment.ratio(iou.max(), sums["count"], 100.0),
      "max_f": alignment.ratio((2 * precision * recall / both).max(), sums["count"], 100.0),
    }

  def predict(self, task: TaskSpec, logits: Array) -> Array:
    """Returns the probability of a yes."""
    return jax.nn.sigmoid(logits[..., 0].astype(jnp.float32))

  def constant(self, task: TaskSpec, target: Array, valid: Array) -> np.ndarray:
    """Returns the log-odds of the training base rate, within +-20."""
    labels = np.asarray(target)[np.asarray(valid, bool)].reshape(-1, 1)
    return binary.log_odds(labels).reshape(1, 1, 1)

  def votes(self, task: TaskSpec, logits: Array) -> Array:
    """Returns the probability of a yes."""
    return jax.nn.sigmoid(logits.astype(jnp.float32))

  def elected(self, task: TaskSpec, mean: Array) -> Array:
    """Returns the log-odds of a mean probability, within about -87 and 16."""
    inside = jnp.finfo(jnp.float32)
    mean = jnp.clip(mean, inside.tiny, 1.0 - inside.epsneg)
    return jnp.log(mean) - jnp.log1p(-mean)

  def pictures(self, task: TaskSpec, values: np.ndarray) -> tuple[base.Picture, ...]:
    """Returns labels, or probabilities, as grey from no to yes."""
    grey = np.repeat(values.astype(np.float32)[..., None], 3, -1)
    return (base.Picture(task.name, grey, "black no, white yes"),)
