"""One or several real numbers for every example, or for every time of a series."""

from __future__ import annotations

from jax import numpy as jnp
import numpy as np

from dynashare_jax import lookup
from dynashare_jax.objectives import alignment
from dynashare_jax.objectives.kinds import base
from dynashare_jax.ops import losses
from dynashare_jax.types import Array, Metric, Sums, TaskSpec

_LOSSES = {
  "l1": lambda error, delta: error,
  "l2": lambda error, delta: jnp.square(error),
  "huber": lambda error, delta: jnp.where(
    error <= delta, 0.5 * jnp.square(error), delta * (error - 0.5 * delta)
  ),
}


class Number(base.Kind):
  """Values `[B, O]`, or `[B]` for one; `valid` is `[B]`, or `[B, O]` when single ones are missing.

  With steps in time, all have one more axis behind the first. Targets and predictions keep their
  unit; `TaskSpec.center` and `TaskSpec.spread` say what logits stand for, so that targets far from
  0, or of very different size, are learnt as well as standardised ones.
  """

  stored = "values"
  several = True

  def metrics(self, task: TaskSpec) -> tuple[Metric, ...]:
    """Returns root mean squared error, mean absolute error and R2 (at most 1, not in percent).

    The three measure the same errors, so that one of them counts in Delta: the
    error that is not divided by the spread of the targets. A gain relative to R2
    has no meaning, because a baseline of it may be 0 or negative.
    """
    return (
      Metric("rmse", False, task.unit),
      Metric("mae", False, task.unit, in_delta=False),
      Metric("r2", True, in_delta=False),
    )

  def loss(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> Sums:
    """Returns the loss that `TaskSpec.loss` names, of errors e in spreads (of 1: in their unit).

    `l1` is |e|, `l2` is e^2, and `huber` is e^2 / 2 up to |e| = `huber_delta` = d
    and d (|e| - d / 2) from there on.

    Source: Huber, Robust Estimation of a Location Parameter (1964), Eq. 2.1.
    """
    of = _LOSSES[lookup.one_of(f"the loss of the task {task.name!r}", task.loss, _LOSSES)]
    found = self.scores(task, logits, target, valid)
    size = losses.absolute_error(found["prediction"], found["target"])
    if task.spread:
      size = size / _row(task.spread, size.ndim)
    return losses.masked(of(size, task.huber_delta), found["valid"])

  def scores(self, task: TaskSpec, logits: Array, target: Array, valid: Array) -> dict[str, Array]:
    """Returns predictions, targets and `valid`, for sums in float64 on the host."""
    target = losses.cleared(target, valid).astype(jnp.float32)
    valid = alignment.per_element(valid, target.shape)
    if target.ndim < logits.ndim:
      target, valid = target[..., None], valid[..., None]
    prediction = _in_unit(task, alignment.like(logits, target.shape))
    return {"prediction": prediction, "target": target, "valid": valid}

  def finish(self, task: TaskSpec, sums: base.Leaves, scores: base.Leaves) -> dict[str, float]:
    """Pools all labels of all examples; R2 is averaged over the outputs.

    R2 is 1 - (sum of e^2) / (sum of squared distances of the targets from their
    mean), without the outputs whose targets are all equal.
    """
    valid = np.asarray(scores["valid"], bool).reshape(-1, task.outputs)
    target = np.asarray(scores["target"], np.float64).reshape(-1, task.outputs)
    error = np.asarray(scores["prediction"], np.float64).reshape(-1, task.outputs) - target
    shares = []
    for e, t, known in zip(error.T, target.T, valid.T, strict=True):
      spread = np.sum(np.square(t[known] - t[known].mean())) if known.any() else 0.0
      shares += [1.0 - np.sum(np.square(e[known])) / spread] if spread else []
    count = valid.sum()
    return {
      "rmse": float(np.sqrt(alignment.ratio(np.square(error[valid]).sum(), count))),
      "mae": alignment.ratio(np.abs(error[valid]).sum(), count),
      "r2": float(np.mean(shares)) if shares else float("nan"),
    }

  def predict(self, task: TaskSpec, logits: Array) -> Array:
    """Returns the values in the target's unit; one without its axis."""
    values = _in_unit(task, logits.astype(jnp.float32))
    return values[..., 0] if task.outputs == 1 else values

  def constant(self, task: TaskSpec, target: Array, valid: Array) -> np.ndarray:
    """Returns each output's mean over the training labels for `l2`, else the median, or 0.

    As logits, see `TaskSpec.center`; without any label the center.
    """
    target, valid = base.rows(task, np.asarray(target, np.float64), np.asarray(valid, bool))
    middle = np.mean if task.loss == "l2" else np.median
    center = np.asarray(task.center or (0.0,) * task.outputs, np.float64)
    found = [
      middle(t[v]) if v.any() else c for t, v, c in zip(target.T, valid.T, center, strict=True)
    ]
    spread = np.asarray(task.spread or 1.0, np.float64)
    return ((np.asarray(found) - center) / spread).astype(np.float32)


def _in_unit(task: TaskSpec, logits: Array) -> Array:
  """Values `[..., O]` that logits stand for."""
  if task.spread:
    logits = logits * _row(task.spread, logits.ndim)
  return logits + _row(task.center, logits.ndim) if task.center else logits


def _row(values: tuple[float, ...], axes: int) -> Array:
  """Numbers of every output, with as many axes as logits have."""
  return jnp.asarray(values, jnp.float32).reshape((1,) * (axes - 1) + (-1,))
