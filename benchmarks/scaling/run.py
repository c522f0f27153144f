"""Scaling: measured on this machine's processes, predicted for clusters.

  python -m benchmarks.scaling.run                          # all parts on a CPU
  python -m benchmarks.scaling.run --parts=weak,checkpoint --rounds=5
  python -m benchmarks.scaling.run --parts=accelerator      # on one device

Parts, each in processes of its own that are pinned, bounded in time and killed
at the end:

  weak         two processes on two cores against one on one, the same batch
               each, beside the cost model's prediction; about 10 minutes
  allreduce    an all-reduce between two processes against its size; 1 minute
               (part of weak)
  candidates   re-trainings at once against in turn; 7 minutes
  checkpoint   steps with and without asynchronous saves; 2 minutes
  startup      the user's command until its first step; 2 minutes
  dispatch     what Python costs a step; 1 minute
  model        the tables of docs/scaling.md; 2 minutes
  accelerator  step time and memory of ResNet-18 and 34 at the papers' sizes on
               one device, not part of the default; about 5 minutes

Writes docs/benchmarks/scaling-cpu.md part by part, the tables of
docs/scaling.md, and docs/benchmarks/scaling-<device>.md. weak, allreduce,
candidates and startup want an idle machine with two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import contextlib
import os
import signal
import statistics
import sys
from typing import Any

from benchmarks import timing
from benchmarks.scaling import candidates as scaling_candidates
from benchmarks.scaling import children
from benchmarks.scaling import model
from benchmarks.scaling import page
from benchmarks.scaling import startup as scaling_startup
from benchmarks.scaling import tables as scaling_tables

PAGE = timing.DOCS / "scaling-cpu.md"
MODEL_PAGE = timing.DOCS.parent / "scaling.md"
ROOMS = "small ResNet, Rooms"
PAPERS = ("ResNet-18, NYU v2", "ResNet-34, Cityscapes")
LARGE = "ResNet-101, NYU v2"
SIZES = {4: 16, 2**10: 16, 2**14: 16, 2**18: 16, 2**20: 8, 2**22: 4, 2**24: 4}
CPU = {"JAX_PLATFORMS": "cpu"}


def cores(count: int) -> list[int]:
  """Some cores that this process may use.

  Raises:
    ValueError: it may use fewer, or the system does not tell.
  """
  if not hasattr(os, "sched_getaffinity"):
    raise ValueError("This system cannot pin processes to cores; use Linux.")
  own = sorted(os.sched_getaffinity(0))
  if len(own) < count:
    raise ValueError(f"This part needs {count} cores, but the process may use {len(own)}.")
  return own[:count]


def measure_weak(arguments: argparse.Namespace, batch: int) -> dict[str, Any]:
  """Steps of one process, and of two together and apart.

  Args:
    arguments: of the command line.
    batch: examples a process.

  Returns:
    Seconds a step of every case, a round each (`alone`, `idle`, `free`, `pair`,
    `apart`, `threads`), and what the step is.
  """
  first, second = cores(2)
  base = _trainer(arguments, batch)
  found: dict[str, Any] = {
    name: [] for name in ("alone", "idle", "free", "pair", "apart", "threads")
  }
  with contextlib.ExitStack() as stack:
    plans: dict[str, tuple[list[list[int]], dict[str, Any]]] = {
      "idle": ([[first, second]] * 2, {"threads": 1, "idle": True}),
      "free": ([[first, second]] * 2, {"threads": 1}),
      "pair": ([[first], [second]], {}),
      "left": ([[first]], {"macs": True}),
      "right": ([[second]], {}),
      "both": ([[first, second]], {"batch": 2 * batch}),
    }
    groups = {
      name: stack.enter_context(children.Group(own, **base | other))
      for name, (own, other) in plans.items()
    }
    for group in groups.values():
      group.wait()
    for number in range(arguments.rounds):
      turns = {
        "alone": [("left", "right")[number % 2]],
        "idle": ["idle"],
        "free": ["free"],
        "pair": ["pair"],
        "apart": ["left", "right"],
        "threads": ["both"],
      }
      for case, names in turns.items():
        for name in names:
          groups[name].order("steps", count=arguments.steps)
        found[case].append(max(groups[name].answer()["seconds"] for name in names))
      print({case: round(v[-1], 4) for case, v in found.items()}, flush=True)
    return found | {
      "steps": arguments.steps,
      "reduced": groups["free"].ready["reduced"],
      "macs": groups["left"].ready["macs"],
      "batch": batch,
    }


def measure_reduce(arguments: argparse.Namespace) -> dict[str, Any]:
  """All-reduces of several sizes: `sweep`, `pinned`, and the fit of `sweep`."""
  first, second = cores(2)
  base = _trainer(arguments, 4) | {"width": 0.25, "size": [16, 16]}
  found: dict[str, Any] = {"sweep": {}, "pinned": {}}
  with (
    children.Group([[first, second]] * 2, 1, **base) as free,
    children.Group([[first], [second]], **base) as pair,
  ):
    free.wait()
    pair.wait()
    for size, chain in SIZES.items():
      for name, group in (("sweep", free), ("pinned", pair)):
        group.order("reduce", bytes=size, chain=chain, rounds=max(arguments.rounds, 5))
        found[name][size] = group.answer()["seconds"]
  latency, bandwidth = model.fit(
    {float(size): statistics.median(s) for size, s in found["sweep"].items()}
  )
  return {**found, "latency": latency, "bandwidth": bandwidth}


def _trainer(arguments: argparse.Namespace, batch: int) -> dict[str, Any]:
  """Settings of processes that train Rooms."""
  quick = arguments.quick
  return {
    "network": ROOMS,
    "width": 0.25 if quick else 1.0,
    "macs": False,
    "batch": batch,
    "size": [16, 16] if quick else None,
  }


def part_weak(arguments: argparse.Namespace) -> dict[str, str]:
  """Sections of weak scaling and of all-reduces."""
  reduces = measure_reduce(arguments)
  loads = [measure_weak(arguments, batch) for batch in arguments.batches]
  return {"weak": page.weak(loads, reduces), "allreduce": page.all_reduce(reduces)}


def part_allreduce(arguments: argparse.Namespace) -> dict[str, str]:
  """The section of all-reduces."""
  return {"allreduce": page.all_reduce(measure_reduce(arguments))}


def part_candidates(arguments: argparse.Namespace) -> dict[str, str]:
  """The section of re-trainings at once."""
  return {
    "candidates": page.candidates(
      scaling_candidates.measure(min(arguments.rounds, 2), 2 if arguments.quick else 48, cores(2))
    )
  }


def part_checkpoint(arguments: argparse.Namespace) -> dict[str, str]:
  """The section of checkpoints."""
  quick = arguments.quick
  with children.Child(
    "saver",
    cores(1),
    CPU,
    network=ROOMS,
    width=0.25 if quick else 1.0,
    size=[16, 16] if quick else None,
    steps=2 if quick else 40,
    rounds=arguments.rounds,
    big=2**18 if quick else 2**26,
  ) as child:
    return {"checkpoint": page.checkpoints(child.answer())}


def part_startup(arguments: argparse.Namespace) -> dict[str, str]:
  """The section of start-up."""
  return {"startup": page.startup(scaling_startup.measure(arguments.rounds))}


def part_dispatch(arguments: argparse.Namespace) -> dict[str, str]:
  """The section of Python's cost."""
  with children.Child(
    "dispatcher", cores(1), CPU, width=0.25, steps=20, rounds=arguments.rounds
  ) as child:
    return {"dispatch": page.dispatch(child.answer())}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, str]]] = {
  "weak": part_weak,
  "allreduce": part_allreduce,
  "candidates": part_candidates,
  "checkpoint": part_checkpoint,
  "startup": part_startup,
  "dispatch": part_dispatch,
}


def part_model(arguments: argparse.Namespace) -> None:
  """Writes the tables of docs/scaling.md."""
  with children.Child(
    "counter", cores(1), CPU, networks=[*PAPERS, ROOMS, LARGE], small={LARGE: (0, 0)}
  ) as child:
    networks = child.answer()["networks"]
  known = page.constants(PAGE.read_text(encoding="utf-8") if PAGE.is_file() else "")
  tables = scaling_tables.sections(
    networks,
    known.get("dispatch", model.Assumed().dispatch),
    utilisations(),
    known.get("disk", 1e8),
  )
  if arguments.quick:
    print(*tables.values(), sep="\n\n")
  else:
    page.put(MODEL_PAGE, tables, "")


def utilisations() -> dict[str, dict[str, float]]:
  """Chip -> network -> share of the peak, from the accelerators' pages."""
  found: dict[str, dict[str, float]] = {}
  for path in sorted(timing.DOCS.glob("scaling-*.md")):
    known = page.constants(path.read_text(encoding="utf-8"))
    chip = page.chip_of(known.get("kind", ""))
    if chip:
      found[chip.name] = known["utilisation"]
  return found


def part_accelerator(arguments: argparse.Namespace) -> None:
  """Writes the page of one device."""
  quick = arguments.quick
  with children.Child(
    "accelerator",
    networks=[ROOMS] if quick else list(PAPERS),
    dtypes=["float32"] if quick else ["float32", "bfloat16"],
    size=[16, 16] if quick else None,
    batch=2 if quick else 0,
    width=0.25 if quick else 1.0,
    rounds=arguments.rounds,
  ) as child:
    rows = [child.answer()]
    while "kind" not in rows[-1]:
      rows.append(child.answer())
  last = rows.pop()
  text = page.accelerator(rows, last["kind"], about(arguments, "accelerator", 0.0))
  name = f"scaling-{last['kind'].lower().replace(' ', '-')}-device.md"
  if quick:
    print(text)
  else:
    timing.write(name, text)


def about(arguments: argparse.Namespace, part: str, others: float) -> str:
  """Command, machine, what else ran, and versions.

  Args:
    arguments: of the command line.
    part: that was measured.
    others: share of all cores' time that other programs took.
  """
  used = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  return (
    f"- Command: `python -m benchmarks.scaling.run --parts={part}"
    f" --rounds={arguments.rounds}`; meanwhile other programs took"
    f" {others:.0%} of the cores' time.\n"
    + timing.machine(used, ("jax", "flax", "orbax-checkpoint"))
  )


def main() -> None:
  """Measures the parts and writes their pages."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    "--parts",
    default="weak,candidates,checkpoint,startup,dispatch,model",
    help="with commas between them",
  )
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--steps", type=int, default=6, help="of a turn of weak")
  parser.add_argument(
    "--batches", type=int, nargs="+", default=[16, 48, 96], help="examples a process in weak"
  )
  parser.add_argument("--quick", action="store_true", help="tiny networks; writes nothing")
  arguments = parser.parse_args()
  if arguments.quick:
    arguments.batches, arguments.steps = [4], 2
  chosen = arguments.parts.split(",")
  others = {"model": part_model, "accelerator": part_accelerator}
  unknown = sorted(set(chosen) - set(PARTS) - set(others))
  if unknown or min(arguments.rounds, arguments.steps, *arguments.batches) < 1:
    parser.error(
      f"--parts are {', '.join((*PARTS, *others))}; --rounds,"
      " --steps and --batches are at least 1"
      + (f"; there is no {', '.join(unknown)}" if unknown else "")
    )
  signal.signal(  # So that all processes are ended.
    signal.SIGTERM, lambda *unused: sys.exit(143)
  )
  try:
    for part in chosen:
      if part in others:
        others[part](arguments)
        continue
      with children.Others() as load:
        bodies = PARTS[part](arguments)
      told = about(arguments, part, load.share)
      sections = {name: f"{told}\n{body}" for name, body in bodies.items()}
      print(*sections.values(), sep="\n\n", flush=True)
      if not arguments.quick:
        page.put(PAGE, sections, page.OUTLINE)
  except (children.ChildError, ValueError) as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  main()
