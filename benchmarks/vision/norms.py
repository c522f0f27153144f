"""What batch norms cost networks whose tasks part: running averages against batch statistics.

    python -m benchmarks.vision.norms runs/rooms/hard-0 runs/rooms/random_policy-route0-1 ...

For finished runs on pictures: the test loss of every task with the running averages, as networks
are measured, over that with the statistics of every test batch, as they are trained. Prints a line
a run, and the mean of those whose tasks have one route and of those whose routes part. Nothing is
trained or written. `docs/learned-sharing.md`, section 7, has its figures of Rooms.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import numpy as np

from dynashare_jax import runs
from dynashare_jax.cli import guard
from dynashare_jax.train import forward as forward_lib

BATCH = 64


def main() -> None:
  """Prints the ratios."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("runs", nargs="+", help="folders of finished runs")
  guard.use_compilation_cache()
  found: dict[str, list[float]] = {"one route": [], "parted": []}
  for folder in map(pathlib.Path, parser.parse_args().runs):
    ratios, parted = measured(folder)
    kind = "parted" if parted else "one route"
    found[kind].append(float(ratios.mean()))
    print(f"{folder.name}: {', '.join(f'{ratio:.3f}' for ratio in ratios)} ({kind})", flush=True)
  for kind, means in found.items():
    if means:
      spread = f"{min(means):.3f} to {max(means):.3f}"
      print(f"{kind}: {np.mean(means):.3f} ({spread}), {len(means)} runs")


def measured(folder: pathlib.Path) -> tuple[np.ndarray, bool]:
  """Returns the ratio of every task's test loss, and whether routes of the run's tasks part."""
  trained = runs.load(str(folder))
  experiment, sharing = trained.experiment, trained.sharing
  static, arrays = sharing.at_test(trained.structure)
  control = sharing.control_at_test(static, arrays)
  test = experiment.dataset.arrays("test")

  @jax.jit
  def both(batch: object) -> list[list[tuple[jax.Array, jax.Array]]]:
    losses = []
    for train in (False, True):
      (logits, _), _ = experiment.network.apply(
        *(trained.variables, batch.inputs, control, train),  # type: ignore[attr-defined]
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(0)},
      )
      sums = forward_lib.task_losses(experiment.tasks, logits, batch)
      losses.append([(one.total, one.count) for one in sums])
    return losses

  count = len(jax.tree.leaves(test.inputs)[0]) // BATCH
  parts = [
    np.asarray(both(jax.tree.map(lambda a, at=at: a[at * BATCH : (at + 1) * BATCH], test)))
    for at in range(count)
  ]
  total, labels = np.moveaxis(np.sum(parts, 0), -1, 0)
  running, batches = total / labels
  route = trained.route
  return running / batches, route is not None and bool((route != route[:1]).any())


if __name__ == "__main__":
  main()
