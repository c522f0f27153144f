"""Do the tasks of a finished run conflict: their gradients on held-out examples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynashare_jax import types
from dynashare_jax.data import loader
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.sharing import conflict
from dynashare_jax.train import forward
from dynashare_jax.train import gradients


def measure(
  trained: trained_lib.Trained, split: str = "validation", batches: int = 20, batch_size: int = 0
) -> conflict.Conflict:
  """Compares the gradients of the tasks at a finished model, in every block that two of them share.

  Running averages, no dropout, and gates at their likelier choice, as at test.

  Args:
    split: whose first examples are taken; those of `train` have been seen.
    batches: at most, at least 2.
    batch_size: examples of one; default that of training.

  Raises:
    ValueError: one task, a trunk that shows no shared units, or too few examples.
  """
  experiment, sharing = trained.experiment, trained.experiment.sharing
  network, tasks = experiment.network, experiment.tasks
  if len(tasks) < 2:
    raise ValueError(f"There is one task ({tasks[0].name}): nothing can conflict.")
  units = len(network.trunk.weights_of())
  if not units:
    raise ValueError(
      f"The method {experiment.method.name!r} has no blocks that tasks share: nothing can conflict."
    )
  size = batch_size or int(experiment.config.train.batch_size)
  count = min(batches, experiment.dataset.spec.sizes[split] // size)
  if count < 2:
    raise ValueError(
      f"{batches} batches of {size} examples were asked for, and the {split} split has"
      f" {experiment.dataset.spec.sizes[split]}: at least two are needed."
    )
  source = experiment.dataset.source(split)
  static, arrays = sharing.at_test(trained.structure)
  at_labels = experiment.config.train.loss_at == "labels"

  @jax.jit
  def observed(sums: Any, params: Any, stats: Any, batch: types.Batch) -> Any:
    """Adds the products of a batch's gradients."""

    def losses_of(part: Any) -> Any:
      logits, _ = network.apply(
        {"params": part["network"], "batch_stats": stats},
        batch.inputs,
        sharing.control_at_test(static, arrays),
        False,
      )
      found = forward.task_losses(tasks, logits, batch, at_labels)
      return [jnp.asarray(s.total / jnp.maximum(s.count, 1.0)) for s in found], None

    found, _ = gradients.gramians(network, {"network": params}, losses_of)
    return conflict.observe(sums, found)

  sums = conflict.blank(units, len(tasks))
  for number in range(count):
    rows = range(number * size, (number + 1) * size)
    batch = jax.tree.map(np.asarray, loader.stack([source[row] for row in rows]))
    sums = observed(sums, trained.params, trained.stats, batch)
  found = conflict.of(sums)
  assert found is not None  # At least two batches were added.
  return found
