"""Milliseconds of random routes, predicted from one timing of every block, and measured.

  python -m benchmarks.inference.latency

Times the parts of a network alone (`infer.latency`) and, in the same rounds, random routes of it
that are served together (one call for all tasks) and apart (one call a task). On random data and
random weights: the ResNet of configs/rooms.py and the MLP of configs/census.py. Writes
docs/benchmarks/latency.md; `--cases` prints some and writes nothing.
"""

from __future__ import annotations

import argparse
import itertools
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import cases
from benchmarks import timing
from benchmarks.inference import cases as inference_cases
from dynashare_jax.cli import guard
from dynashare_jax.infer import latency
from dynashare_jax.infer import trained as trained_lib

TASKS, BLOCKS = 3, 8
KEPT = (0.3, 1.0)  # share of the pairs that a route executes, drawn for every route
NEAR, WANTED = 0.1, 0.9  # error of a prediction, and share of the routes that must be so near
CASES = {"rooms": ("rooms", 1), "census": ("census", 1024)}
TITLES = {
  "rooms": "the ResNet of configs/rooms.py, 48x64",
  "census": "the MLP of configs/census.py",
}


def routes(count: int, seed: int) -> list[np.ndarray]:
  """Random routes `[T, L]`; every pair of one is executed with the same chance."""
  rng = np.random.default_rng(seed)
  return [rng.random((TASKS, BLOCKS)) < rng.uniform(*KEPT) for _ in range(count)]


def network(name: str) -> trained_lib.Trained:
  """The network of a configuration with random weights, without gates."""
  config = cases.load_config(name)
  config.dataset, config.method = "random", "adashare"
  dataset = cases.scenes(64, TASKS) if name == "rooms" else cases.census(1024)
  return inference_cases.trained(config, dataset, np.ones((TASKS, BLOCKS), int), False)


class Result(NamedTuple):
  """Milliseconds `[routes]` of one way to serve them."""

  serve: str
  predicted: np.ndarray
  measured: np.ndarray

  @property
  def errors(self) -> np.ndarray:
    """Of the predictions, relative to what was measured."""
    return self.predicted / self.measured - 1

  def near(self, guess: np.ndarray | float) -> float:
    """Share of the routes for which a guess is within `NEAR`."""
    return float(np.mean(np.abs(guess / self.measured - 1) <= NEAR))


def measure(
  name: str, batch: int, drawn: list[np.ndarray], repeats: int
) -> tuple[latency.Latency, list[Result]]:
  """Times the parts of a network and its routes, in turns."""
  model = network(name)
  inputs = inference_cases.rows_of(model.experiment.dataset.arrays("train").inputs, 0, batch)
  inputs = jax.device_put(inputs)
  places = list(itertools.product(latency.SERVES, range(len(drawn))))
  calls = {(serve, i): latency.call(model, drawn[i], inputs, serve) for serve, i in places}
  parts, ms = latency.measure(model, inputs, repeats, calls)
  return parts, [
    Result(
      serve,
      np.asarray([parts.predict(route, serve) for route in drawn]),
      np.asarray([ms[serve, i] for i in range(len(drawn))]),
    )
    for serve in latency.SERVES
  ]


def section(
  name: str, batch: int, drawn: list[np.ndarray], found: tuple[latency.Latency, list[Result]]
) -> str:
  """Parts, and every route, as Markdown."""
  parts, results = found
  rows = [["call, stem", f"{parts.fixed:.3f}", "", ""]]
  every = zip(parts.blocks, parts.further, parts.groups, strict=True)
  rows += [[f"block {l}", *(f"{ms:.3f}" for ms in row)] for l, row in enumerate(every)]
  rows += [[f"head {t}", f"{ms:.3f}", "", ""] for t, ms in enumerate(parts.heads)]
  head = ["route"]
  for result in results:
    head += [f"{result.serve}: predicted, ms", "measured, ms", "error, %"]
  lines = []
  for i, route in enumerate(drawn):
    line = [", ".join("".join(map(str, row.astype(int))) for row in route)]
    for result in results:
      line += [f"{result.predicted[i]:.2f}", f"{result.measured[i]:.2f}"]
      line.append(f"{100 * result.errors[i]:+.1f}")
    lines.append(line)
  return f"""\
## {name.capitalize()}, batch {batch}

{TITLES[name][0].upper()}{TITLES[name][1:]}, {TASKS} tasks, {BLOCKS} blocks.

{timing.table(["part", "first, ms", "further, ms", "group, ms"], rows)}

{timing.table(head, lines)}"""


def summary(name: str, batch: int, results: list[Result]) -> list[list[str]]:
  """A row for every way to serve."""
  rows = []
  for result in results:
    share, size = result.near(result.predicted), np.abs(result.errors)
    rows.append(
      [
        f"{name}, batch {batch}, {result.serve}",
        f"{result.measured.min():.2f}–{result.measured.max():.2f}",
        f"{100 * share:.0f}%",
        f"{100 * np.median(size):.1f}%",
        f"{100 * size.max():.1f}%",
        f"{100 * np.median(result.errors):+.1f}%",
        f"{100 * result.near(float(np.median(result.measured))):.0f}%",
        "met" if share >= WANTED else "**missed**",
      ]
    )
  return rows


def main() -> None:
  """Measures and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--cases", nargs="+", choices=tuple(CASES), help="default: all, written")
  parser.add_argument("--routes", type=int, default=30, help="how many")
  parser.add_argument("--seed", type=int, default=0, help="of the routes")
  parser.add_argument("--repeats", type=int, default=100, help="rounds")
  parser.add_argument("--threads", type=int, default=1, help="cores to use")
  arguments = parser.parse_args()
  if min(arguments.routes, arguments.repeats) < 1:
    parser.error("--routes and --repeats must be at least 1.")
  timing.pin(arguments.threads)
  guard.use_compilation_cache()
  drawn = routes(arguments.routes, arguments.seed)
  rows, sections = [], []
  for case in arguments.cases or CASES:
    name, batch = CASES[case]
    print(f"--- {case}", flush=True)
    found = measure(name, batch, drawn, arguments.repeats)
    rows += summary(name, batch, found[1])
    sections.append(section(name, batch, drawn, found))
    print(sections[-1], flush=True)
  head = [
    "network and way to serve",
    "measured, ms",
    f"predicted within {100 * NEAR:.0f}%",
    "median of the error's size",
    "largest",
    "median error",
    "one guess for all within 10%",
    f"{100 * WANTED:.0f}% of the routes",
  ]
  device = jax.devices()[0]
  kind = "processor time" if latency.clock.one_core() else "elapsed time"
  text = f"""\
# Milliseconds of random routes, predicted and measured

- Command: `python -m benchmarks.inference.latency --routes={arguments.routes}\
 --seed={arguments.seed} --repeats={arguments.repeats} --threads={arguments.threads}`
- Device: {device.device_kind} ({device.platform}).
{timing.machine(arguments.threads, ["jax", "flax"])}
- Random data, random weights, no gates. {len(drawn)} routes; each executes every (task, block)
  pair with one chance, drawn between {KEPT[0]:g} and {KEPT[1]:g} for the route.
- Predicted: from every block alone, and from the network with all blocks and with either half of
  them, for all tasks and for every task (`infer.latency`). Measured: the route itself, compiled.
  All take turns in one process; medians of {arguments.repeats} rounds, {kind}.
- First: a block's first computation in a call; further: each one more in it, for another group of
  tasks; group: what each one more costs that comes to the block at all.
- Together: one call for all tasks, shared prefixes computed once. Apart: one call a task.
- "One guess for all" is the median of the measured routes: what knowing nothing of a route gives.

{timing.table(head, rows)}

{(chr(10) * 2).join(sections)}
"""
  if arguments.cases:
    print(text)
  else:
    timing.write("latency.md", text)


if __name__ == "__main__":
  main()
