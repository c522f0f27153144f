"""Planned and gated execution: time against work, and against PyTorch.

  python -m benchmarks.inference.run

On random data and random weights, all ratios taken in alternation in one
process:

- planned against masked execution, and against the same network in PyTorch
  computed the authors' way,
- a re-training step, planned against masked,
- gated execution in all ways, at several batch sizes,
- the Census MLP,
- an exported artefact against its checkpoint,
- with an accelerator, ResNet-18 and 34 in bfloat16 at the papers' sizes.

Writes docs/benchmarks/inference-<device>.md, which answers every target. Needs
PyTorch (`pip install -e .[bench]`) for the first. `--quick` shows in a few
minutes that everything runs. It and `--sections` print and write nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import re

import jax

from benchmarks import timing
from benchmarks.inference import accelerator as inference_accelerator
from benchmarks.inference import gates as inference_gates
from benchmarks.inference import measures

SECTIONS: dict[str, Callable[[measures.Options], measures.Section]] = {
  "planned": measures.planned,
  "training": measures.training,
  "gated": inference_gates.gated,
  "census": inference_gates.table,
  "artefact": measures.artefact,
  "accelerator": inference_accelerator.section,
}


def page(found: list[measures.Section], command: str, options: measures.Options) -> str:
  """The Markdown page: targets first, then a section each."""
  packages = ["jax", "flax", "optax"]
  if any(section.title == "Planned execution" for section in found):
    packages.append("torch")
  device = jax.devices()[0]
  kind = "processor time" if options.threads == 1 and (device.platform == "cpu") else "elapsed time"
  targets = [
    [t.text, t.measured, "met" if t.met else "**missed**"]
    for section in found
    for t in section.targets
  ]
  parts = [
    f"""\
# Planned and gated execution

- Command: `{command}`
- Device: {device.device_kind} ({device.platform}).
{timing.machine(options.threads, packages)}
- Random data, random weights; cases alternate in one process; medians of the
  rounds ({options.repeats}; four times as many on Census) with
  (minimum–maximum). Ratios are taken round by round, in {kind}.
- Work is analytic (`ops.costs`): multiply-accumulates, taps in the padding
  included."""
  ]
  if targets:
    parts += ["", "## Targets", "", timing.table(["target", "measured", "met"], targets)]
  for section in found:
    parts += ["", f"## {section.title}", "", section.text]
  return "\n".join(parts) + "\n"


def file_name(threads: int) -> str:
  """`inference-<device>.md`, with the threads where there are several."""
  kind = jax.devices()[0].device_kind
  name = re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
  several = threads > 1 and jax.default_backend() == "cpu"
  return f"inference-{name}{f'-{threads}-threads' if several else ''}.md"


def main() -> None:
  """Measures and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    "--sections",
    nargs="+",
    choices=tuple(SECTIONS),
    help="print these; default: all are written, the last one with an accelerator only",
  )
  parser.add_argument("--repeats", type=int, default=7, help="rounds")
  parser.add_argument("--threads", type=int, default=1, help="cores to use")
  parser.add_argument(
    "--batches", nargs="+", type=int, default=[1, 4, 8, 16, 32], help="of gated execution"
  )
  parser.add_argument("--quick", action="store_true", help="one round of few cases; writes nothing")
  arguments = parser.parse_args()
  if arguments.repeats < 1 or min(arguments.batches) < 1 or (max(arguments.batches) > 32):
    parser.error("--repeats must be at least 1, --batches 1 to 32.")
  timing.pin(arguments.threads)
  quick = arguments.quick
  options = measures.Options(
    1 if quick else arguments.repeats,
    arguments.threads,
    (1, 4) if quick else tuple(arguments.batches),
    quick,
  )
  gpu = jax.default_backend() != "cpu"
  names = arguments.sections or [n for n in SECTIONS if n != "accelerator" or gpu or quick]
  found = []
  for name in names:
    print(f"--- {name}", flush=True)
    if name == "accelerator" and quick:
      found.append(inference_accelerator.section(options, inference_accelerator.TINY))
    else:
      found.append(SECTIONS[name](options))
    print(found[-1].text, flush=True)
  command = "python -m benchmarks.inference.run"
  if arguments.sections:
    command += f" --sections {' '.join(names)}"
  command += (
    f" --repeats={options.repeats} --threads={options.threads}"
    f" --batches {' '.join(map(str, options.batches))}"
  )
  text = page(found, command, options)
  if quick or arguments.sections:
    print(text)
  else:
    timing.write(file_name(options.threads), text)


if __name__ == "__main__":
  main()
