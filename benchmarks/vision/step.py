"""A weight step of the search with Deeplab-ResNet-18: against PyTorch.

  python -m benchmarks.vision.step

Compares one training step with soft decisions of every task and ASPP heads in
dynashare_jax with the same network in PyTorch run the authors' way, tasks in
sequence: on a CPU core at batch 4 and 128x128 in float32, with 2 and 3 tasks;
on an accelerator at batch 16 and 321x321 in bfloat16 (PyTorch: automatic mixed
precision). Both take turns in one process. Writes
docs/benchmarks/vision-step-<device>.md. Needs PyTorch (`pip install -e
.[bench]`); takes about 3 minutes of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from typing import Any

from benchmarks import timing


@dataclasses.dataclass(frozen=True)
class Load:
  """What is timed.

  Attributes:
    batch: examples a step.
    size: of the square pictures.
    dtype: compute type.
    limits: number of tasks -> most that our time may be of PyTorch's.
  """

  batch: int
  size: int
  dtype: str
  limits: dict[int, float]


CPU = Load(4, 128, "float32", {2: 1.1, 3: 1.05})
ACCELERATOR = Load(16, 321, "bfloat16", {2: 0.5, 3: 0.5})


@dataclasses.dataclass
class Measured:
  """A pair of cases.

  Attributes:
    tasks: how many.
    ours: times of dynashare_jax.
    theirs: times of PyTorch.
    compile_seconds: processor time of tracing and compiling ours.
    scratch: bytes of ours, without parameters and data.
    macs: multiply-accumulates of an example's forward pass.
    batch: examples a step.
  """

  tasks: int
  ours: timing.Timing
  theirs: timing.Timing
  compile_seconds: float
  scratch: int
  macs: int
  batch: int

  def ratios(self, wall: bool) -> list[float]:
    """Our time over theirs, round by round."""
    pick = lambda t: t.wall if wall else t.cpu
    return timing.ratios(pick(self.ours), pick(self.theirs))


def configuration(load: Load) -> Any:
  """The network of the papers' two-task benchmark."""
  from benchmarks import cases

  config = cases.load_config("base")
  config.method = "adashare"
  config.model.head = "aspp"
  config.model.dtype = load.dtype
  config.train.batch_size = load.batch
  config.train.cycles = 2
  return config


def forward_macs(stepper_config: Any, dataset: Any) -> int:
  """Analytic multiply-accumulates of one example, a pass a task."""
  import jax

  from dynashare_jax import methods
  from dynashare_jax.train import experiment as experiment_lib
  from dynashare_jax.train import results

  experiment = experiment_lib.build(
    stepper_config, dataset, methods.find(stepper_config.method).build
  )
  state = jax.eval_shape(experiment.initial_state)
  found = results.macs(experiment, state.params["network"], state.stats)
  blocks = found["per_example_all_blocks"][0]
  tasks = len(dataset.spec.tasks)
  return int(found["stem"] + blocks[0] + tasks * sum(blocks[1:]) + sum(found["heads"].values()))


def measure(load: Load, tasks: int, repeats: int, device: str) -> Measured:
  """Times a number of tasks."""
  import torch

  from benchmarks import cases
  from benchmarks.vision import torch_deeplab

  config = configuration(load)
  dataset = cases.scenes(6 * load.batch, tasks, load.size, load.size)
  ours = cases.Stepper(config, dataset, "weights")
  theirs = torch_deeplab.Trainer(
    [(t.kind, t.outputs) for t in dataset.spec.tasks],
    load.batch,
    (load.size, load.size),
    device=device,
    dtype=None if load.dtype == "float32" else torch.bfloat16,
  )
  for case in (ours, theirs):
    case()
  timed = timing.alternate({"ours": ours, "theirs": theirs}, repeats)
  return Measured(
    tasks,
    timed["ours"],
    timed["theirs"],
    ours.compile_cpu_seconds,
    ours.temporary_bytes,
    forward_macs(config, dataset),
    load.batch,
  )


def row(found: Measured, limit: float, wall: bool) -> list[str]:
  """A line of the table."""
  ratio = statistics.median(found.ratios(wall))
  seconds = statistics.median(found.ours.wall if wall else found.ours.cpu)
  rate = 6 * found.macs * found.batch / seconds / 1e9  # backward twice forward
  return [
    str(found.tasks),
    timing.spread(found.ours.wall),
    timing.spread(found.theirs.wall),
    timing.spread(found.ratios(wall)),
    f"{limit:g}: {'met' if ratio <= limit else 'missed'}",
    f"{1 / seconds:.3g}",
    f"{rate:,.0f}",
    f"{found.compile_seconds:.1f}",
    f"{found.scratch / 1e6:,.0f}",
  ]


def page(
  load: Load, measured: list[Measured], arguments: argparse.Namespace, device: str, kind: str
) -> str:
  """The Markdown page."""
  wall = device != "cpu"
  times = "elapsed time" if wall else "processor time"
  head = [
    "tasks",
    "dynashare_jax, s",
    "PyTorch, s",
    "ours / PyTorch",
    "limit",
    "steps / s",
    "GFLOP/s",
    "compile, processor s",
    "scratch, MB",
  ]
  rows = [row(m, load.limits[m.tasks], wall) for m in measured]
  return "\n".join(
    [
      "# A training step of Deeplab-ResNet-18 against PyTorch",
      "",
      f"""\
- Command: `python -m benchmarks.vision.step --repeats={arguments.repeats}
  --threads={arguments.threads}`
- Device: {kind}
{timing.machine(arguments.threads, ("jax", "flax", "optax", "torch"))}
- Weight step of the search, soft decisions of every task, all blocks open,
  ASPP heads with dropout, losses and SGD included; batch {load.batch},
  {load.size}x{load.size} pixels, {load.dtype}; random data. Tasks:
  segmentation, depth, and with 3 tasks normals.
- Cases alternate in one process; medians of {arguments.repeats} rounds with
  (minimum–maximum); ratio and steps a second in {times}, round by round.
  GFLOP/s counts all taps of all convolutions that are computed, forward once
  and backward twice.
- PyTorch runs the authors' way: a pass a task, all taps of all kernels left to
  the library.""",
      "",
      timing.table(head, rows),
      "",
    ]
  )


def main() -> None:
  """Measures and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--repeats", type=int, default=9, help="rounds")
  parser.add_argument("--threads", type=int, default=1, help="cores to use")
  parser.add_argument(
    "--quick", action="store_true", help="tiny pictures, 2 rounds; writes nothing"
  )
  arguments = parser.parse_args()
  timing.pin(arguments.threads)
  try:
    import torch
  except ImportError as error:
    sys.exit(f"This comparison needs PyTorch ({error}). Install it with: pip install -e .[bench]")
  torch.set_num_threads(arguments.threads)
  import jax

  device = "cpu" if jax.default_backend() == "cpu" else "cuda"
  if device == "cuda" and not torch.cuda.is_available():
    sys.exit(
      "jax sees an accelerator, but PyTorch does not: install its build"
      " for this device, or set JAX_PLATFORMS=cpu."
    )
  load = CPU if device == "cpu" else ACCELERATOR
  if arguments.quick:
    load, arguments.repeats = dataclasses.replace(load, batch=2, size=40), 2
  measured = [measure(load, tasks, arguments.repeats, device) for tasks in load.limits]
  kind = jax.devices()[0].device_kind
  text = page(load, measured, arguments, device, kind)
  if arguments.quick:
    print(text)
  else:
    name = "cpu" if device == "cpu" else kind.lower().replace(" ", "-")
    timing.write(f"vision-step-{name}.md", text)


if __name__ == "__main__":
  main()
