"""Yes or no for every pixel: whether an edge runs through it."""

from __future__ import annotations

from jax import numpy as jnp
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.objectives.kinds import base
from dynashare_jax.objectives.kinds import saliency
from dynashare_jax.ops import histogram
from dynashare_jax.ops import losses
from dynashare_jax.types import Array, Metric, Sums, TaskSpec

WEIGHT = 0.95  # of edges in the loss; other pixels have the rest
_BINS = 100  # of the probability


class Edges(saliency.Saliency):
  """Edge (1) or none (0) for every pixel; edges are few, and weigh more."""

  reads = ()

  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns the loss over all pixels, and F of single pixels at its best threshold.

    Differs: benchmarks of edges match within a distance of some pixels and thin what is predicted;
      `pixel_f` does neither, so that an edge that lies one pixel off is wrong twice.
    """
    return (Metric("loss", False), Metric("pixel_f", True, "%", in_delta=False))

  def loss(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> Sums:
    """Returns the cross-entropy in nats, times `WEIGHT` for an edge and 1 - `WEIGHT` elsewhere.

    Source: Maninis et al. 2019 (ASTMT), whose loss is this mean over pixels.
    """
    target, valid = alignment.labels_at_logits(logits, target, valid)
    return losses.masked(_balanced(logits, target), valid)

  def sums(
    self, task: TaskSpec, logits: Array, target: Array, valid: Array, present: Array | None = None
  ) -> dict[str, Array]:
    """Sums the loss, and counts the probabilities of edges and of other pixels."""
    logits, target, valid = alignment.logits_at_labels(task, logits, target, valid)
    told = self.predict(task, logits)
    count = lambda of: histogram.histogram(told, valid & of, 0.0, 1.0, _BINS)
    return {
      "loss": losses.total(_balanced(logits, target), valid),
      "count": jnp.sum(valid, dtype=jnp.int32),
      "edges": count(target > 0),
      "others": count(target <= 0),
    }

  def finish(self, task: TaskSpec, sums: base.Leaves, scores: base.Leaves) -> dict[str, float]:
    """Divides the loss, and takes the best F over the data set, nan without an edge."""
    above = lambda name: np.cumsum(np.asarray(sums[name], np.float64)[::-1])
    hits, wrong = above("edges"), above("others")
    best = np.max(2 * hits / np.maximum(hits + wrong + hits[-1], 1))
    return {
      "loss": alignment.ratio(sums["loss"], sums["count"]),
      "pixel_f": 100.0 * float(best) if hits[-1] else float("nan"),
    }

  def constant(self, task: TaskSpec, target: Array, valid: Array) -> np.ndarray:
    """Returns the log-odds of the training base rate, with edges weighed as in the loss."""
    return super().constant(task, target, valid) + np.log(np.float32(WEIGHT / (1 - WEIGHT)))


def _balanced(logits: Array, target: Array) -> Array:
  """The loss of every pixel."""
  plain = losses.binary_cross_entropy(logits[..., 0], target, WEIGHT / (1 - WEIGHT))
  return (1 - WEIGHT) * plain
