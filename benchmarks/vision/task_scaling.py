"""What a training step costs with 2, 4, 8 and 16 tasks.

  python -m benchmarks.vision.task_scaling

Times the search's weight step (soft decisions, each task its own, with none and
with four shared first blocks) and the re-training step (a random route a task,
with instance gates; the MLP's routes are compiled in, the conv net's are
masked, as the configurations say) on random data, with the small conv net of
configs/rooms.py (48x64 pixels) and with the MLP of configs/census.py. Notes the
compile time and the scratch memory of every compiled step, too.

The cost should grow no worse than linearly in the tasks, beyond what the tasks
share: an additional task must not cost more when there are many. Writes
docs/benchmarks/task-scaling.md. `--models=census --tasks 2 4` is a quick look.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import statistics

from benchmarks import cases
from benchmarks import timing

BLOCKS = 8
# Name -> phase, first blocks that all tasks share.
VARIANTS = {
  "weight step, nothing shared": ("weights", 0),
  "weight step, 4 blocks shared": ("weights", 4),
  "re-training step, a route a task": ("retrain", 0),
}
MODELS = {
  "rooms": "Conv net (configs/rooms.py), 48x64 pixels, batch 8",
  "census": "MLP (configs/census.py), batch 512",
}


@dataclasses.dataclass
class Point:
  """One number of tasks.

  Attributes:
    tasks: T.
    step: the compiled step.
    timed: its repeats.
  """

  tasks: int
  step: cases.Stepper
  timed: timing.Timing = dataclasses.field(default_factory=timing.Timing)


def compile_step(model: str, phase: str, prefix: int, tasks: int) -> Point:
  """Compiles and warms up one case."""
  config = cases.load_config(model)
  if model == "rooms":
    config.train.batch_size = 8
    dataset = cases.scenes(64, tasks)
  else:
    config.train.batch_size = 512
    dataset = cases.census(4096, [f"task_{t}" for t in range(tasks)])
  route = cases.random_route(tasks, BLOCKS) if phase == "retrain" else None
  step = cases.Stepper(config, dataset, phase, route, prefix)
  step()
  print(
    f"{model}, {phase}, {tasks} tasks, {prefix} blocks shared: compiled in"
    f" {step.compile_cpu_seconds:.0f} s, {step.temporary_bytes / 1e6:.0f}"
    " MB",
    flush=True,
  )
  return Point(tasks, step)


def measure(model: str, counts: Sequence[int], repeats: int) -> dict[str, list[Point]]:
  """Times all variants of a model; numbers of tasks take turns."""
  found = {}
  for name, (phase, prefix) in VARIANTS.items():
    points = [compile_step(model, phase, prefix, t) for t in counts]
    timed = timing.alternate({str(p.tasks): p.step for p in points}, repeats)
    for point in points:
      point.timed = timed[str(point.tasks)]
    found[name] = points
  return found


def rows(points: list[Point]) -> list[list[str]]:
  """Lines of one variant's table; the first point is what growth refers to."""
  first = points[0]
  lines = []
  for point in points:
    growth = timing.ratios(point.timed.cpu, first.timed.cpu)
    share = point.tasks / first.tasks
    lines.append(
      [
        str(point.tasks),
        timing.spread(point.timed.wall),
        timing.spread(point.timed.cpu),
        f"{1 / statistics.median(point.timed.wall):.3g}",
        timing.spread(growth),
        f"{share:g}",
        f"{statistics.median(growth) / share:.2f}",
        f"{point.step.compile_cpu_seconds:.1f}",
        f"{point.step.temporary_bytes / 1e6:,.0f}",
      ]
    )
  return lines


def marginal(points: list[Point]) -> list[float]:
  """Processor seconds that one more task costs, between neighbouring points.

  What all tasks share, whatever it is, drops out of the differences.
  """
  seconds = [statistics.median(p.timed.cpu) for p in points]
  counts = [p.tasks for p in points]
  return [
    (seconds[i + 1] - seconds[i]) / (counts[i + 1] - counts[i]) for i in range(len(points) - 1)
  ]


def summary(points: list[Point]) -> str:
  """One sentence on the cost of an additional task."""
  costs = marginal(points)
  if not costs:
    return "One number of tasks only: no growth to tell."
  spans = ", ".join(
    f"{a.tasks} to {b.tasks} tasks: {1000 * cost:.3g} ms"
    for a, b, cost in zip(points, points[1:], costs, strict=False)
  )
  return f"One more task costs, in processor time, {spans}."


def page(measured: dict[str, dict[str, list[Point]]], arguments: argparse.Namespace) -> str:
  """The Markdown page."""
  parts = [
    f"""\
# Cost of a training step against the number of tasks

- Command: `python -m benchmarks.vision.task_scaling --models
  {" ".join(arguments.models)} --tasks {" ".join(map(str, arguments.tasks))}
  --repeats={arguments.repeats} --threads={arguments.threads}`
{timing.machine(arguments.threads, ("jax", "flax", "optax"))}
- Random data; numbers of tasks alternate in one process; medians of
  {arguments.repeats} rounds with (minimum–maximum). Growth is taken in
  processor time, round by round. Linear growth has a quotient of 1 in the
  column "growth / linear"; below 1 is better.
- Scratch memory is XLA's figure for the compiled step, without parameters and
  data. Compile time is processor time, tracing included.
- One step a dispatch."""
  ]
  head = [
    "T",
    "s / step",
    "processor s / step",
    "steps / s",
    "growth",
    "linear",
    "growth / linear",
    "compile, s",
    "scratch, MB",
  ]
  for model, variants in measured.items():
    parts += ["", f"## {MODELS[model]}"]
    for name, points in variants.items():
      parts += [
        "",
        f"### {name.capitalize()}",
        "",
        timing.table(head, rows(points)),
        "",
        summary(points),
      ]
  return "\n".join(parts) + "\n"


def main() -> None:
  """Measures and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
  parser.add_argument("--tasks", nargs="+", type=int, default=[2, 4, 8, 16])
  parser.add_argument("--repeats", type=int, default=5, help="rounds")
  parser.add_argument("--threads", type=int, default=1, help="cores to use")
  arguments = parser.parse_args()
  timing.pin(arguments.threads)
  measured = {
    model: measure(model, arguments.tasks, arguments.repeats) for model in arguments.models
  }
  timing.write("task-scaling.md", page(measured, arguments))


if __name__ == "__main__":
  main()
