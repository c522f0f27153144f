"""What balancers that read gradients cost, against fixed weights and TorchJD.

  python -m benchmarks.balancing.cost

Training steps with fixed weights and with UPGrad, in all ways to come by its gradients: one pull
of the trunk per task (hard sharing), features (hard sharing), a pass of each task (the search of
AdaShare, in which every task has its own decisions at every block). Cases alternate in one process.
Networks: a small ResNet (32x32 pictures, linear heads) with 3 and 8 tasks, and Deeplab-ResNet-18
(128x128, linear and ASPP heads) with 3; there TorchJD (`pip install
torchjd[quadprog_projector]`) makes the same step in PyTorch. Writes
docs/benchmarks/balancing-cost.md.

  python -m benchmarks.balancing.cost --versus --loads 4 5

prints how long TorchJD's steps with UPGrad, MGDA and PCGrad take beside ours, for the page's last
table.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import statistics
import sys
from typing import Any

from benchmarks import timing


@dataclasses.dataclass(frozen=True)
class Load:
  """What is timed.

  Attributes:
    name: of the network.
    tasks: how many.
    batch: examples a step.
    size: of the square pictures.
    model: values of `config.model`.
    blocks: residual blocks of it.
  """

  name: str
  tasks: int
  batch: int
  size: int
  model: dict[str, Any]
  blocks: int


SMALL = {
  "backbone": "resnet",
  "blocks": (2, 2, 2),
  "widths": (16, 32, 64),
  "strides": (1, 2, 2),
  "dilations": (1, 1, 1),
  "stem": "small",
  "head": "linear",
}
LOADS = (
  Load("small ResNet", 3, 16, 32, SMALL, 6),
  Load("small ResNet", 8, 8, 32, SMALL, 6),
  Load("Deeplab-ResNet-18, linear heads", 3, 4, 128, {"head": "linear"}, 8),
  Load("Deeplab-ResNet-18, ASPP heads", 3, 4, 128, {"head": "aspp"}, 8),
  Load("Deeplab-ResNet-18, linear heads", 3, 4, 64, {"head": "linear"}, 8),
  Load("Deeplab-ResNet-18, linear heads", 8, 4, 64, {"head": "linear"}, 8),
)
VERSUS = {"upgrad": "UPGrad", "mgda": "MGDA", "pcgrad": "PCGrad"}  # ours: TorchJD's
# Name of a case: method, phase, settings of the balancer.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
  "hard, fixed": ("hard", "retrain", {}),
  "hard, upgrad": ("hard", "retrain", {"name": "upgrad"}),
  "hard, upgrad on features": ("hard", "retrain", {"name": "upgrad", "features": True}),
  "search, fixed": ("adashare", "weights", {}),
  "search, upgrad": ("adashare", "weights", {"name": "upgrad"}),
  "hard, mgda": ("hard", "retrain", {"name": "mgda"}),
  "hard, pcgrad": ("hard", "retrain", {"name": "pcgrad"}),
}
PAGE = tuple(CASES)[:5]


def limit(case: str, tasks: int) -> float:
  """The most that a case may cost, in steps with fixed weights."""
  if case == "hard, upgrad on features":
    return 1.1
  if case == "search, upgrad":
    return 1.1 if tasks <= 3 else 1.2
  return (1 + 2 * tasks) / 3 * 0.95


def stepper(load: Load, case: str, keep_first: bool) -> Any:
  """One of our steps, compiled; with `keep_first` all tasks share the first block."""
  from benchmarks import cases

  method, phase, balance = CASES[case]
  config = cases.load_config("base")
  config.method = method
  config.model.dtype = "float32"
  config.model.update(load.model)
  config.gates.target_rates = (1.0,) * load.blocks
  config.train.batch_size = load.batch
  config.train.cycles = 2
  config.policy.keep_first = keep_first
  config.balance.update(balance)
  data = cases.scenes(6 * load.batch, load.tasks, load.size, load.size)
  return cases.Stepper(config, data, phase)


def torch_stepper(load: Load, balancer: str = "") -> Any:
  """A step of hard sharing in PyTorch; balanced by one of TorchJD, by its name there."""
  import torch
  from torchjd import aggregation
  from torchjd import autojac

  from benchmarks.vision import torch_deeplab

  kinds = [("segmentation", 8), ("depth", 1), ("normals", 3)]
  size = (load.size, load.size)
  tasks, dilated = [kinds[t % 3] for t in range(load.tasks)], load.model["head"] == "aspp"
  made = torch_deeplab.Trainer(tasks, load.batch, size, dilated=dilated)
  network = made.network
  aggregator = getattr(aggregation, balancer)() if balancer else None
  shared = [*network.stem.parameters(), *network.blocks.parameters()]
  run = torch.ones(())

  def step() -> None:
    """Trains for one step."""
    made._optimizer.zero_grad(set_to_none=True)
    x = network.stem(made._x)
    for block in network.blocks:
      x = block(x, run)
    losses = [
      torch_deeplab._loss(kind, head(x), target)
      for kind, head, target in zip(made._kinds, network.heads, made._targets, strict=True)
    ]
    if aggregator is not None:
      autojac.mtl_backward(losses, features=x, shared_params=shared)
      autojac.jac_to_grad(shared, aggregator)
    else:
      torch.stack(losses).sum().backward()
    made._optimizer.step()

  return step


def measure(
  load: Load, rounds: int, theirs: bool, keep_first: bool
) -> tuple[dict[str, timing.Timing], Any]:
  """Times every case of a network; gives also what compiling took of our processor time."""
  ours = {case: stepper(load, case, keep_first) for case in PAGE}
  every: dict[str, Any] = dict(ours)
  if theirs:
    every["PyTorch, fixed"] = torch_stepper(load)
    every["TorchJD, upgrad"] = torch_stepper(load, "UPGrad")
  for case in every.values():
    case()
  compiling = {name: case.compile_cpu_seconds for name, case in ours.items()}
  return timing.alternate(every, rounds), compiling


def rows(load: Load, found: dict[str, timing.Timing], compiling: dict[str, float]) -> Any:
  """Lines of the table."""
  for case, timed in found.items():
    base = case.split(",")[0] + ", fixed" if case != "TorchJD, upgrad" else "PyTorch, fixed"
    ratios = timing.ratios(timed.cpu, found[base].cpu)
    told = ""
    if case in CASES and case != base:
      most = limit(case, load.tasks)
      told = f"{most:.3g}: {'met' if statistics.median(ratios) <= most else 'missed'}"
    if case == "TorchJD, upgrad":
      against = timing.ratios(timed.cpu, found["hard, upgrad"].cpu)
      met = "met" if statistics.median(against) >= 1.25 else "missed"
      told = f"{timing.spread(against)} of ours, at least 1.25: {met}"
    seconds = f"{compiling[case]:.1f}" if case in compiling else ""
    yield [
      f"{load.name}, {load.tasks} tasks",
      case,
      timing.spread(timed.wall),
      timing.spread(ratios),
      told,
      seconds,
    ]


def versus(load: Load, rounds: int) -> list[list[str]]:
  """Lines of a table of our steps beside TorchJD's, in turn."""
  calls: dict[str, Any] = {theirs: torch_stepper(load, theirs) for theirs in VERSUS.values()}
  calls |= {ours: stepper(load, f"hard, {ours}", False) for ours in VERSUS}
  for call in calls.values():
    call()
  found = timing.alternate(calls, rounds)
  lines = []
  for ours, theirs in VERSUS.items():
    quotients = timing.ratios(found[theirs].cpu, found[ours].cpu)
    name = f"{load.name}, {load.size}x{load.size}, {load.tasks} tasks"
    seconds = (timing.spread(found[case].cpu) for case in (ours, theirs))
    lines.append([name, theirs, *seconds, timing.spread(quotients)])
  return lines


def main() -> None:
  """Measures and writes the page."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--threads", type=int, default=1)
  parser.add_argument("--loads", type=int, nargs="*", default=list(range(4)))
  parser.add_argument("--keep_first", action="store_true", help="as by default in training")
  parser.add_argument("--versus", action="store_true", help="ours beside TorchJD's alone")
  parser.add_argument("--dry", action="store_true", help="write no page")
  arguments = parser.parse_args()
  timing.pin(arguments.threads)
  known = importlib.util.find_spec("torchjd") is not None
  if arguments.versus:
    if not known:
      parser.error("--versus needs TorchJD: pip install 'dynashare-jax[bench]'")
    head = ["network", "balancer", "ours, s", "TorchJD, s", "TorchJD in ours"]
    for number in arguments.loads:
      print(timing.table(head, versus(LOADS[number], arguments.rounds)), flush=True)
    print(timing.machine(arguments.threads, ("jax", "flax", "torch", "torchjd")))
    return
  lines: list[list[str]] = []
  for number in arguments.loads:
    load = LOADS[number]
    theirs = known and load.size == 128
    lines += rows(load, *measure(load, arguments.rounds, theirs, arguments.keep_first))
    print("\n".join(" | ".join(line) for line in lines[-7:]), file=sys.stderr, flush=True)
  head = ["network", "case", "step, s", "times fixed weights", "limit", "compile, processor s"]
  text = "\n".join(
    [
      "# What balancers that read gradients cost",
      "",
      f"""\
- Command: `python -m benchmarks.balancing.cost --rounds={arguments.rounds}
  --threads={arguments.threads}`
{timing.machine(arguments.threads, ("jax", "flax", "torch", "torchjd"))}
- Training steps on random pictures, losses and SGD included; medians of {arguments.rounds} rounds
  with (minimum–maximum), cases in turn in one process; ratios in processor time, round by round.
  "search" is the weight step of AdaShare with soft decisions of every task at every block.""",
      "",
      timing.table(head, lines),
      "",
    ]
  )
  if not arguments.dry:
    timing.write("balancing-cost.md", text)
  print(text)


if __name__ == "__main__":
  main()
