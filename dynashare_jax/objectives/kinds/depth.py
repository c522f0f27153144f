"""One distance for every pixel."""

from __future__ import annotations

from typing import Any

from jax import numpy as jnp
import numpy as np

from dynashare_jax.objectives import alignment
from dynashare_jax.objectives.kinds import base
from dynashare_jax.objectives.kinds import regression
from dynashare_jax.ops import losses
from dynashare_jax.types import Array, Metric, Sums, TaskSpec

_MOST_METRES = 300  # a median above is doubted
_WITHIN = (("delta_1.25", 1.25), ("delta_1.25^2", 1.25**2), ("delta_1.25^3", 1.25**3))


class Depth(regression.Regression):
  """A distance above 0 for every pixel; with `inverse`, values that grow with nearness."""

  fields = reads = ("inverse",)
  unit = "m"

  def outputs(self, task: TaskSpec) -> int:
    """Returns 1."""
    return 1

  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns absolute and relative error, and three shares within a ratio."""
    errors = (Metric("abs", False, task.unit), Metric("rel", False))
    return errors + tuple(Metric(name, True, "%") for name, _ in _WITHIN)

  def loss(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> Sums:
    """Returns the absolute error in the target's unit.

    Source: authors' code.
    """
    target, valid = alignment.labels_at_logits(logits, target, valid)
    target = alignment.one_channel(target, 3)
    errors = losses.absolute_error(alignment.one_channel(logits, 3), target)
    return losses.masked(errors, valid)

  def sums(
    self, task: TaskSpec, logits: Array, target: Array, valid: Array, present: Array | None = None
  ) -> dict[str, Array]:
    """Sums errors and counts ratios; as the authors score, also the batch's mean errors.

    Differs: in the authors' code a negative prediction counts as within every ratio; here a
      prediction that is not positive is within none. Labels that are not positive have no relative
      error and no ratio. The authors average the mean errors of batches, weighted by their number
      of examples, and enlarge by the nearest rule. `config.compat.metrics = "authors"` does all
      three.
    """
    logits, target, valid = alignment.logits_at_labels(task, logits, target, valid)
    predicted = self.predict(task, logits)
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

  def finish(self, task: TaskSpec, sums: base.Leaves, scores: base.Leaves) -> dict[str, float]:
    """Divides the sums; shares in percent."""
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

  def restored(self, task: TaskSpec, logits: Array, distance: float, sideways: float) -> Array:
    """Multiplies depths by the distance, or divides inverse ones."""
    if distance == 1.0:
      return logits
    return logits / distance if task.inverse else logits * distance

  def moved(self, task: TaskSpec, label: Any, distance: Any, sideways: Any, xp: Any) -> Any:
    """Divides depths by the distance, or multiplies inverse ones."""
    return label * distance if task.inverse else label / distance

  def doubts(self, task: TaskSpec, labels: np.ndarray) -> list[str]:
    """Returns also whether metres look like millimetres."""
    found = super().doubts(task, labels)
    middle = float(np.median(labels)) if labels.size else 0.0
    if task.unit == "m" and middle > _MOST_METRES:
      found.append(
        f"half of the labels are above {middle:g} m: are they millimetres (scale 0.001)?"
      )
    return found

  def usual(self, task: TaskSpec) -> base.Rule:
    """Returns that depths are positive."""
    return "above 0", lambda labels: labels > 0
