"""Do closed channels save the time that their multiply-accumulates say? GatedMTL, cut.

  python -m benchmarks.inference.channels

Deeplab-ResNet-18, two dense tasks with linear heads, float32, on one core; random gates of which a
share is open, for blocks and for every layer. The network with closed channels cut out takes turns
with itself with all gates open, which is two separate columns. Writes
docs/benchmarks/channels-cpu.md; takes some minutes of one core. With --folding only the page's last
part is measured: what it saves to fold batch norms into convolutions.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import statistics
from typing import Any

from benchmarks import timing

OPEN = (0.0, 0.25, 0.5, 0.75)
LIMIT = 0.1  # of the ratio of multiply-accumulates
FOLDED = "## Batch norms folded into convolutions"
PAGE = "channels-cpu.md"


def networks(size: int, shares: Sequence[float], **settings: Any) -> dict[float, Any]:
  """Returns networks without their closed channels, by the share of open gates."""
  import numpy as np

  from benchmarks import cases
  from dynashare_jax.infer import trained as trained_lib
  from dynashare_jax.methods import gated
  from dynashare_jax.train import experiment as experiment_lib

  config = cases.load_config("base")
  config.update_from_flattened_dict({"method": "gated", "model.head": "linear", **settings})
  dataset = cases.scenes(16, 2, size, size)
  model = trained_lib.untrained(experiment_lib.build(config, dataset, gated.build))
  rng = np.random.default_rng(0)
  found: dict[float, Any] = {}
  for share in shares:
    draw = lambda a, p=share: (rng.permutation(a.size).reshape(a.shape) < p * a.size).astype("f4")
    structure = {name: draw(gates) for name, gates in model.structure.items()}
    found[share] = dataclasses.replace(model, structure=structure).lean()
  return found


def timed(found: Mapping[Any, Any], size: int, batch: int, repeats: int) -> dict[Any, Any]:
  """Times networks in turn."""
  import jax
  import numpy as np

  inputs = np.random.default_rng(0).random((batch, size, size, 3), np.float32)
  calls = {}
  for name, net in found.items():
    variables = jax.device_put(net.variables)
    run = jax.jit(net.forward()).lower(variables, inputs).compile()
    calls[name] = functools.partial(run, variables, inputs)
    jax.block_until_ready(calls[name]())
  return timing.alternate(calls, repeats)


def measure(inner: bool, size: int, batches: tuple[int, ...], repeats: int) -> list[list[str]]:
  """Times the networks of one kind of gates; rows of the table."""
  from dynashare_jax.infer import trained as trained_lib
  from dynashare_jax.infer import work

  nets = networks(size, (1.0, *OPEN), **{"gated.inner": inner})
  macs = {share: work.total(net, trained_lib.PLANNED) for share, net in nets.items()}
  rows = []
  for batch in batches:
    times = timed({share: net.folded() for share, net in nets.items()}, size, batch, repeats)
    for share in OPEN:
      found = timing.ratios(times[share].cpu, times[1.0].cpu)
      wanted = macs[share] / macs[1.0]
      off = statistics.median(found) / wanted - 1
      rows.append(
        [
          "every layer" if inner else "stem and blocks",
          f"{batch}",
          f"{100 * share:.0f}%",
          f"{1000 * times[share].median:.1f}",
          timing.spread(found),
          f"{wanted:.3f}",
          f"{100 * off:+.0f}%: {'met' if off <= LIMIT else 'missed'}",
        ]
      )
  return rows


def folding(quick: bool, repeats: int) -> str:
  """Times networks with their batch norms folded against themselves; returns the section."""
  small = {"model.stem": "small", "model.widths": (16, 32, 64, 128)}
  nets = {"Deeplab-ResNet-18, 128x128": (128, {}), "widths 16 to 128, 48x48": (48, small)}
  rows = []
  for name, (size, settings) in nets.items():
    (net,) = networks(size, (0.25,), **settings).values()
    for batch in (1,) if quick else (1, 16):
      times = timed({"trained": net, "folded": net.folded()}, size, batch, repeats)
      found = timing.ratios(times["folded"].cpu, times["trained"].cpu)
      ms = [f"{1000 * statistics.median(times[w].cpu):.1f}" for w in ("trained", "folded")]
      rows.append([name, f"{batch}", *ms, timing.spread(found)])
  titles = ["network", "batch", "as trained (ms)", "folded (ms)", "folded / as trained"]
  return f"""\
{FOLDED}

- Command: `python -m benchmarks.inference.channels --folding --repeats={repeats}`
{timing.machine(1, ("jax", "flax"))}
- `gated`, two dense tasks, a quarter of the gates after stem and blocks open, closed channels cut
  out. As trained and with its batch norms folded into the convolutions, in turn: medians of
  processor time, and of its ratios round by round with (minimum–maximum).

{timing.table(titles, rows)}
"""


def main() -> None:
  """Measures and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--repeats", type=int, default=15, help="rounds")
  parser.add_argument("--quick", action="store_true", help="tiny, 2 rounds; writes nothing")
  parser.add_argument("--folding", action="store_true", help="only what folding norms saves")
  arguments = parser.parse_args()
  timing.pin(1)
  size, repeats = (32, 2) if arguments.quick else (128, arguments.repeats)
  text, _, folded = (timing.DOCS / PAGE).read_text(encoding="utf-8").partition(FOLDED)
  if arguments.folding:
    folded = folding(arguments.quick, repeats)
  else:
    text, folded = cut_out(size, (1,) if arguments.quick else (1, 16), repeats), FOLDED + folded
  if arguments.quick:
    print(folded if arguments.folding else text)
  else:
    timing.write(PAGE, f"{text.strip()}\n\n{folded}")


def cut_out(size: int, batches: tuple[int, ...], repeats: int) -> str:
  """Times networks without their closed channels; returns the page's first part."""
  rows = [row for inner in (False, True) for row in measure(inner, size, batches, repeats)]
  titles = ["gates of", "batch", "open", "ms", "time / all open", "work / all open", "time to work"]
  return f"""\
# Channels that are cut out: time against multiply-accumulates

- Command: `python -m benchmarks.inference.channels --repeats={repeats}`
{timing.machine(1, ("jax", "flax"))}
- Deeplab-ResNet-18, two dense tasks, linear heads, {size}x{size} pixels, float32, random gates of
  which the given share is open (`gated`). All open are two separate networks; none open is hard
  sharing. Cases alternate in one process; medians of {repeats} rounds with (minimum–maximum) of
  processor time, round by round. Limit: at most {100 * LIMIT:.0f}% above the ratio of work.

{timing.table(titles, rows)}
"""


if __name__ == "__main__":
  main()
