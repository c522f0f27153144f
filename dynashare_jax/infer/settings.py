"""Budgets of an execution, and the settings that meet them."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import pathlib
from typing import Any, NamedTuple

from dynashare_jax import lookup
from dynashare_jax.train import evaluate

RATE = "rate"
FLOPS = "flops"
MS = "ms"
UNITS = (RATE, FLOPS, MS)


@dataclasses.dataclass(frozen=True)
class Budget:
  """What an execution may cost.

  Attributes:
    value: the most, above 0.
    unit: `rate` (mean share of executed (task, block, example) triples, all tasks times all blocks
      being 1), `flops` (share of the multiply- accumulates of the route's plan with all gates open)
      or `ms` (milliseconds of a batch, gated execution, this device).

  Raises:
    ValueError: an unknown unit, or a value that is not above 0.
  """

  value: float
  unit: str = FLOPS

  def __post_init__(self) -> None:
    """Checks both."""
    lookup.one_of("The unit of a budget", self.unit, UNITS)
    number = isinstance(self.value, numbers.Real) and not isinstance(self.value, bool)
    if not (number and math.isfinite(self.value) and self.value > 0):
      raise ValueError(f"A budget must be above 0, but is {self.value!r}.")


class Measured(NamedTuple):
  """What a setting costs and gives on one split.

  Attributes:
    rate: executed share of all (task, block, example) triples.
    flops: share of the multiply-accumulates with all gates open.
    score: mean over tasks of the score that selects models, see `train.evaluate.score`.
    metrics: task -> metric -> value.
    error: standard error of `flops` over the split's examples: how far the mean of other data of
      the same size will easily be; NaN if not computed.
  """

  rate: float
  flops: float
  score: float
  metrics: evaluate.Values
  error: float = math.nan


@dataclasses.dataclass(frozen=True)
class Setting:
  """Gate thresholds and what they were measured to do.

  Attributes:
    unit: of the budget.
    budget: that was asked for; None for the setting as trained.
    thresholds: `[L]` scores that gates must exceed; 0 at blocks without one.
    target_rate: the rate that gates read, where they read one.
    validation: on the split that the thresholds were found on.
    test: held out, never used to choose; None if it was not read.
    batch: examples of the batch that was timed; None unless the unit is `ms`.
    ms: measured milliseconds of it.
    predicted_ms: milliseconds that were expected before.
  """

  unit: str
  budget: float | None
  thresholds: tuple[float, ...]
  target_rate: float
  validation: Measured
  test: Measured | None = None
  batch: int | None = None
  ms: float | None = None
  predicted_ms: float | None = None

  def met(self, split: str = "validation") -> float:
    """Returns what was measured in the budget's unit; a time is of validation."""
    if self.unit == MS:
      return math.nan if self.ms is None else self.ms
    found = self.validation if split == "validation" else self.test
    if found is None:
      raise ValueError(f"This setting was not measured on {split}.")
    return found.rate if self.unit == RATE else found.flops

  def __str__(self) -> str:
    """Says the budget and what was met, what was executed, and the metrics on test."""
    met = f"{self.met():.4g} on validation"
    if self.unit == MS:
      met = f"{self.met():.4g} measured ({self.predicted_ms:.4g} predicted), batch {self.batch}"
    elif self.test is not None:
      met += f", {self.met('test'):.4g} on test"
    asked = "as trained" if self.budget is None else f"budget {self.budget:.4g}"
    lines = [f"{asked} {self.unit}: {met}"]
    for split, found in (("validation", self.validation), ("test", self.test)):
      if found is not None:
        lines.append(
          f"{split}: {100 * found.rate:.1f}% of all (task, block, example) triples"
          f" executed, {100 * found.flops:.1f}% of the multiply-accumulates"
          f" (standard error {100 * found.error:.2f}%)"
        )
    lines.append(f"validation score: {self.validation.score:.4f}")
    for task, values in (self.test.metrics if self.test else {}).items():
      shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
      lines.append(f"{task} on test: {shown}")
    return "\n".join(lines)

  def to_dict(self) -> dict[str, Any]:
    """Returns everything as plain data, for JSON."""
    test = self.test._asdict() if self.test else None
    return dataclasses.asdict(self) | {"validation": self.validation._asdict(), "test": test}


def read(path: str | pathlib.Path) -> tuple[tuple[float, ...], float]:
  """Reads `threshold` `[L]` and `target_rate` from a file of `<workdir>/budgets`.

  Raises:
    ValueError: there is no such file, or it holds no setting.
  """
  file = pathlib.Path(path)
  try:
    saved = json.loads(file.read_text(encoding="utf-8"))
    return tuple(map(float, saved["thresholds"])), float(saved["target_rate"])
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{file} holds no budget setting ({type(error).__name__}: {error})."
      " Write one with python -m dynashare_jax calibrate."
    ) from error
