"""A training step of fused columns, experts and attention: against PyTorch; of masks: against hard.

  python -m benchmarks.vision.sharing
  python -m benchmarks.vision.sharing --masks

Deeplab-ResNet-18, two dense tasks, batch 4, 128x128, float32, on one core, with linear and with
ASPP heads. The same network in PyTorch runs column after column. Both have equally many parameters,
which is checked, and take turns in one process. Writes docs/benchmarks/sharing-step-cpu.md. Needs
PyTorch (`pip install -e .[bench]`); takes about half an hour of one core.

With --masks instead MPPS beside hard sharing, three dense tasks, batch 2, 96x96, with masks on the
last two bottleneck or three basic blocks. Writes docs/benchmarks/masks-step-cpu.md; takes about ten
minutes of one core.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks import timing

LIMIT = 1.1
CASES: dict[str, dict[str, Any]] = {
  "hard": {"method": "hard"},
  "cross_stitch": {"method": "cross_stitch"},
  "nddr": {"method": "nddr"},
  "mtan, every block": {"method": "mtan"},
  "mtan, every segment": {"method": "mtan", "attention.design": "stage"},
  "mmoe, 2 experts": {"method": "mmoe", "experts.count": 2},
}
MASKS_LIMIT = 1.3
_STRIDES = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2))}
NETWORKS = {
  "ResNet-50": {"model.block": "bottleneck", "model.blocks": (3, 4, 6, 3)},
  "ResNet-18": {"model.block": "basic", "model.blocks": (2, 2, 2, 2)},
}


def _theirs(name: str, outputs: list[int], dilated: bool) -> Any:
  """The network of a case in PyTorch."""
  from benchmarks.vision import torch_deeplab
  from benchmarks.vision import torch_sharing

  if name in ("cross_stitch", "nddr"):
    return torch_sharing.Fused(outputs, dilated, name == "nddr")
  if name.startswith("mtan"):
    return torch_sharing.Attention(outputs, dilated, name.endswith("segment"))
  if name.startswith("mmoe"):
    return torch_sharing.Experts(outputs, dilated, 2)
  return torch_deeplab.Hard(outputs, dilated=dilated)


def measure(name: str, head: str, batch: int, size: int, repeats: int) -> list[str]:
  """Times a case; a line of the table."""
  import jax

  from benchmarks import cases
  from benchmarks.vision import torch_deeplab
  from benchmarks.vision import torch_sharing

  config = cases.load_config("base")
  config.update_from_flattened_dict(CASES[name])
  config.model.head = head
  config.train.batch_size = batch
  config.optimizers.retrain.update(kind="sgd", schedule="constant")
  dataset = cases.scenes(6 * batch, 2, size, size)
  ours = cases.Stepper(config, dataset, "retrain")
  tasks = [(t.kind, t.outputs) for t in dataset.spec.tasks]
  network = _theirs(name, [n for _, n in tasks], head == "aspp")
  theirs = torch_deeplab.Trainer(tasks, batch, (size, size), network=network)
  numbers = sum(leaf.size for leaf in jax.tree.leaves(ours.state.params["network"]))
  assert numbers == torch_sharing.parameters(network), (name, numbers)
  for case in (ours, theirs):
    case()
  timed = timing.alternate({"ours": ours, "theirs": theirs}, repeats)
  found = timing.ratios(timed["ours"].cpu, timed["theirs"].cpu)
  ratio = statistics.median(found)
  return [
    name,
    f"{numbers / 1e6:.2f}",
    timing.spread(timed["ours"].wall),
    timing.spread(timed["theirs"].wall),
    timing.spread(found),
    "" if name == "hard" else f"{LIMIT:g}: {'met' if ratio <= LIMIT else 'missed'}",
    f"{ours.temporary_bytes / 1e6:,.0f}",
  ]


def measure_masks(network: str, stride: int, size: int, repeats: int) -> list[str]:
  """Times a step with masks beside one of hard sharing; a line of the table."""
  from benchmarks import cases

  steppers = {}
  for method in ("hard", "mpps"):
    config = cases.load_config("base")
    strides, dilations = _STRIDES[stride]
    config.update_from_flattened_dict(NETWORKS[network])
    config.model.update(strides=strides, dilations=dilations, head="aspp")
    config.method = method
    config.train.batch_size = 2
    config.optimizers.retrain.update(kind="sgd", schedule="constant")
    steppers[method] = cases.Stepper(config, cases.scenes(8, 3, size, size), "retrain")
    steppers[method]()
  timed = timing.alternate(steppers, repeats)
  hard, masks = timed["hard"], timed["mpps"]
  found = timing.ratios(masks.cpu, hard.cpu)
  ratio = statistics.median(found)
  row = [
    f"{network}, output stride {stride}",
    timing.spread(hard.wall),
    timing.spread(masks.wall),
    timing.spread(found),
    f"{MASKS_LIMIT:g}: {'met' if ratio <= MASKS_LIMIT else 'missed'}",
    f"{steppers['mpps'].flops / steppers['hard'].flops:.2f}",
    f"{steppers['mpps'].temporary_bytes / steppers['hard'].temporary_bytes:.2f}",
  ]
  print(row, flush=True)
  return row


def masks_page(size: int, repeats: int) -> str:
  """The page of masks beside hard sharing."""
  titles = ["network", "hard, s", "masks, s", "masks / hard", "limit", "operations", "scratch"]
  rows = [
    measure_masks(network, stride, size, repeats) for stride in _STRIDES for network in NETWORKS
  ]
  head = f"""\
# A training step with masks (MPPS) beside hard sharing

- Command: `python -m benchmarks.vision.sharing --masks --repeats={repeats}`
{timing.machine(1, ("jax", "flax", "optax"))}
- Segmentation, depth and normals, batch 2, {size}x{size} pixels, float32, Bernoulli masks on the
  last six convolutions: two bottleneck or three basic blocks; ASPP heads, losses and SGD included;
  random data.
- Cases alternate in one process; medians of {repeats} rounds with (minimum–maximum); ratios of
  processor time, round by round. Operations and scratch memory are those of the compiled step,
  as a multiple of hard sharing's."""
  return f"{head}\n\n{timing.table(titles, rows)}\n"


def main() -> None:
  """Measures and writes the page."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--repeats", type=int, default=9, help="rounds")
  parser.add_argument(
    "--quick", action="store_true", help="tiny pictures, 2 rounds; writes nothing"
  )
  parser.add_argument("--masks", action="store_true", help="masks beside hard sharing instead")
  arguments = parser.parse_args()
  timing.pin(1)
  if arguments.masks:
    if arguments.quick:
      print(masks_page(40, 2))
    else:
      timing.write("masks-step-cpu.md", masks_page(96, arguments.repeats))
    return
  import torch

  torch.set_num_threads(1)
  size, repeats = (40, 2) if arguments.quick else (128, arguments.repeats)
  titles = ["network", "parameters, M", "dynashare_jax, s", "PyTorch, s", "ours / PyTorch"]
  titles += ["limit", "scratch, MB"]
  parts = [
    "# A training step of fused columns, attention and experts against PyTorch",
    f"""\
- Command: `python -m benchmarks.vision.sharing --repeats={repeats}`
{timing.machine(1, ("jax", "flax", "optax", "torch"))}
- Deeplab-ResNet-18, segmentation and depth, batch 4, {size}x{size} pixels, float32; losses and
  SGD included; random data. Networks have equally many parameters in both, which is checked.
- Cases alternate in one process; medians of {repeats} rounds with (minimum–maximum); ratios of
  processor time, round by round. PyTorch runs column after column.""",
  ]
  for head in ("linear", "aspp"):
    rows = [measure(name, head, 4, size, repeats) for name in CASES]
    parts += [
      f"## {head.upper() if head == 'aspp' else 'Linear'} heads",
      timing.table(titles, rows),
    ]
  text = "\n\n".join(parts) + "\n"
  if arguments.quick:
    print(text)
  else:
    timing.write("sharing-step-cpu.md", text)


if __name__ == "__main__":
  main()
