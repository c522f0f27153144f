"""Do closed channels save the time that their multiply-accumulates say? GatedMTL, cut.

  python -m benchmarks.inference.channels

Deeplab-ResNet-18, two dense tasks with linear heads, float32, on one core; random gates of which a
share is open, for blocks and for every layer. The network with closed channels cut out takes turns
with itself with all gates open, which is two separate columns. Writes
docs/benchmarks/channels-cpu.md; takes some minutes of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
from typing import Any

from benchmarks import timing

OPEN = (0.0, 0.25, 0.5, 0.75)
LIMIT = 0.1  # of the ratio of multiply-accumulates


def measure(inner: bool, size: int, batches: tuple[int, ...], repeats: int) -> list[list[str]]:
  """Times the networks of one kind of gates; rows of the table."""
  import jax
  import numpy as np

  from benchmarks import cases
  from dynashare_jax.infer import trained as trained_lib
  from dynashare_jax.infer import work
  from dynashare_jax.methods import gated
  from dynashare_jax.train import experiment as experiment_lib

  config = cases.load_config("base")
  config.update_from_flattened_dict(
    {"method": "gated", "gated.inner": inner, "model.head": "linear"}
  )
  dataset = cases.scenes(16, 2, size, size)
  model = trained_lib.untrained(experiment_lib.build(config, dataset, gated.build))
  rng = np.random.default_rng(0)
  networks: dict[float, Any] = {}
  for share in (1.0, *OPEN):
    draw = lambda a, p=share: (rng.permutation(a.size).reshape(a.shape) < p * a.size).astype("f4")
    structure = {name: draw(gates) for name, gates in model.structure.items()}
    networks[share] = dataclasses.replace(model, structure=structure).lean()
  macs = {share: work.total(net, trained_lib.PLANNED) for share, net in networks.items()}
  rows = []
  for batch in batches:
    inputs = rng.random((batch, size, size, 3), np.float32)
    calls = {}
    for share, net in networks.items():
      run = jax.jit(net.forward()).lower(net.variables, inputs).compile()
      calls[share] = functools.partial(run, net.variables, inputs)
      calls[share]()
    timed = timing.alternate(calls, repeats)
    for share in OPEN:
      found = timing.ratios(timed[share].cpu, timed[1.0].cpu)
      wanted = macs[share] / macs[1.0]
      off = statistics.median(found) / wanted - 1
      rows.append(
        [
          "every layer" if inner else "stem and blocks",
          f"{batch}",
          f"{100 * share:.0f}%",
          f"{1000 * timed[share].median:.1f}",
          timing.spread(found),
          f"{wanted:.3f}",
          f"{100 * off:+.0f}%: {'met' if off <= LIMIT else 'missed'}",
        ]
      )
  return rows


def main() -> None:
  """Measures and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--repeats", type=int, default=15, help="rounds")
  parser.add_argument("--quick", action="store_true", help="tiny, 2 rounds; writes nothing")
  arguments = parser.parse_args()
  timing.pin(1)
  size, repeats = (32, 2) if arguments.quick else (128, arguments.repeats)
  batches = (1,) if arguments.quick else (1, 16)
  rows = [row for inner in (False, True) for row in measure(inner, size, batches, repeats)]
  titles = ["gates of", "batch", "open", "ms", "time / all open", "work / all open", "time to work"]
  text = f"""\
# Channels that are cut out: time against multiply-accumulates

- Command: `python -m benchmarks.inference.channels --repeats={repeats}`
{timing.machine(1, ("jax", "flax"))}
- Deeplab-ResNet-18, two dense tasks, linear heads, {size}x{size} pixels, float32, random gates of
  which the given share is open (`gated`). All open are two separate networks; none open is hard
  sharing. Cases alternate in one process; medians of {repeats} rounds with (minimum–maximum) of
  processor time, round by round. Limit: at most {100 * LIMIT:.0f}% above the ratio of work.

{timing.table(titles, rows)}
"""
  if arguments.quick:
    print(text)
  else:
    timing.write("channels-cpu.md", text)


if __name__ == "__main__":
  main()
