"""Sizes of the networks, from the package itself; hardly anything is computed.

Only `collectives` compiles: a training step of small pictures for two devices,
whose all-reduces are counted in the program's text.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np

from benchmarks import cases
from dynashare_jax import methods
from dynashare_jax import runs as main_lib
from dynashare_jax import types
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import outline
from dynashare_jax.train import results

# Name -> file of configs/ and its setting.
NETWORKS = {
  "ResNet-18, NYU v2": ("nyuv2", "2task"),
  "ResNet-34, Cityscapes": ("cityscapes", "2task"),
  "small ResNet, Rooms": ("rooms",),
}
LARGE = "ResNet-101, NYU v2"
SMALL = 2**16  # bytes of an all-reduce below which its latency is what counts
_SIDE = 33  # of the small pictures
_BYTES = {
  "pred": 1,
  "s8": 1,
  "u8": 1,
  "bf16": 2,
  "f16": 2,
  "s32": 4,
  "u32": 4,
  "f32": 4,
  "s64": 8,
  "u64": 8,
  "f64": 8,
}
_REDUCE = re.compile(r"= (.*?) all-reduce(?:-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Facts:
  """What the cost model must know of a network.

  Attributes:
    name: of network and data.
    crop: height and width of a training example.
    batch: examples of a step.
    macs: of one example's forward pass in the search, where every task has a
      pass of its own; all taps of all convolutions.
    trained: parameters that a weight step moves.
    input_bytes: of one example as the device gets it, labels included.
    state: shapes of all arrays of a checkpoint.
    gradients: shapes of those that a re-training moves.
    candidates: routes that are re-trained.
    retrain_steps: of each.
    search_steps: before.
    resident: whether the data lie on the device.
  """

  name: str
  crop: tuple[int, int]
  batch: int
  macs: int
  trained: int
  input_bytes: int
  state: tuple[tuple[int, ...], ...]
  gradients: tuple[tuple[int, ...], ...]
  candidates: int
  retrain_steps: int
  search_steps: int
  resident: bool

  @property
  def state_bytes(self) -> int:
    """Bytes of a checkpoint; all arrays have 4 bytes a number."""
    return 4 * sum(math.prod(shape) for shape in self.state)


def configuration(name: str) -> Any:
  """The configuration of a network by its name here; all candidates are trained in full."""
  config = cases.load_config(*NETWORKS.get(name, ("nyuv2", "2task")))
  config.policy.halving = False
  if name == LARGE:
    config.model.blocks, config.model.block = (3, 4, 23, 3), "bottleneck"
    config.gates.target_rates = (1.0,) * 7 + (0.8,) * 26
  return config


def specification(config: Any) -> types.DatasetSpec:
  """What is known of a configuration's data before they are read."""
  module = main_lib.dataset_module(config)
  if hasattr(module, "outline"):
    spec: types.DatasetSpec = module.outline(config.data, config.compat)
    return spec
  dataset: types.Dataset = module.build(
    config.data, config.compat, config.data_dir or None, config.seed
  )
  return dataset.spec


def pictures(spec: types.DatasetSpec, rows: int, size: tuple[int, int]) -> types.Dataset:
  """Random pictures and labels for the tasks of a data set.

  Args:
    spec: with dense tasks: segmentation, depth, normals.
    rows: examples.
    size: height and width.
  """
  rng = np.random.default_rng(0)
  targets: dict[str, np.ndarray] = {}
  for task in spec.tasks:
    if task.kind == "segmentation":
      targets[task.name] = rng.integers(0, task.outputs, (rows, *size), np.int32)
    elif task.kind == "normals":
      raw = rng.normal(size=(rows, *size, 3)) + [0.0, 0.0, 3.0]
      targets[task.name] = (raw / np.linalg.norm(raw, axis=-1, keepdims=True)).astype(np.float32)
    else:
      targets[task.name] = 1 + rng.random((rows, *size), np.float32)
  batch = types.Batch(
    rng.random((rows, *size, 3), np.float32),
    targets,
    {name: np.ones((rows, *size), bool) for name in targets},
    np.ones(rows, bool),
  )
  spec = dataclasses.replace(
    spec, input_shape=(*size, 3), sizes=dict.fromkeys(types.SPLITS, rows), crop=None
  )
  return types.Dataset(spec, lambda split: batch, lambda split: [])


def forward_macs(experiment: experiment_lib.Experiment, size: tuple[int, int] | None = None) -> int:
  """Multiply-accumulates of one example, every task by itself from block 1 on.

  Args:
    experiment: of a method that routes tasks through one backbone.
    size: height and width; default those of whole examples.
  """
  state = jax.eval_shape(experiment.initial_state)
  found = results.macs(experiment, state.params["network"], state.stats, size)
  blocks = found["per_example_all_blocks"][0]
  return int(
    found["stem"]
    + blocks[0]
    + len(experiment.tasks) * sum(blocks[1:])
    + sum(found["heads"].values())
  )


def facts(name: str) -> Facts:
  """Sizes of a network by its name here, from shapes alone."""
  config = configuration(name)
  spec = specification(config)
  experiment = experiment_lib.build(
    config, outline.without_data(spec), methods.find(config.method).build
  )
  height, width = spec.crop or spec.input_shape[:2]
  state = experiment.template(experiment.total_steps)
  counts = results.parameters(experiment, state.params["network"], state.stats, {})
  one = jax.eval_shape(lambda: pictures(spec, 1, (height, width)).arrays("train"))
  phases = experiment.method.phases
  retrain = [p.steps for p in phases if p.candidate >= 0 and not p.trial]
  network = jax.tree.leaves(state.params["network"])
  return Facts(
    name=name,
    crop=(height, width),
    batch=config.train.batch_size,
    macs=forward_macs(experiment, (height, width)),
    trained=counts["backbone"] + counts["heads"],
    input_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one)),
    state=tuple(leaf.shape for leaf in jax.tree.leaves(state)),
    gradients=tuple(leaf.shape for leaf in network),
    candidates=len(retrain),
    retrain_steps=retrain[0],
    search_steps=experiment.total_steps - sum(retrain),
    resident=config.train.resident,
  )


def reduced(text: str) -> list[list[int]]:
  """Bytes of every array of every all-reduce of a compiled program.

  Args:
    text: of the program (`as_text` of what `lower(...).compile()` gives).
  """
  found = []
  for line in text.splitlines():
    match = _REDUCE.search(line)
    if match:
      found.append(
        [
          _BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)
          for kind, shape in _SHAPE.findall(match.group(1))
        ]
      )
  return found


class Step(cases.Stepper):
  """A training step whose program can be looked at."""

  @property
  def text(self) -> str:
    """The compiled program."""
    return str(self._run.as_text())


def collectives(name: str) -> list[list[int]]:
  """All-reduces of a weight step, see `reduced`; needs two devices.

  Counted in the program that XLA makes for two CPU devices and small pictures,
  on which the batch statistics' all-reduces do not depend.
  """
  if jax.device_count() != 2:
    raise ValueError(f"All-reduces are counted with 2 devices, not {jax.device_count()}.")
  config = configuration(name)
  config.train.batch_size = 2
  config.eval.batch_size = 2
  data = pictures(specification(config), 16, (_SIDE, _SIDE))
  return reduced(Step(config, data, "weights").text)


def small(found: Sequence[Sequence[int]]) -> tuple[int, int]:
  """How many of the all-reduces are small, and their bytes together.

  Args:
    found: from `reduced`. One of several arrays is one message.
  """
  few = [sum(sizes) for sizes in found if sum(sizes) < SMALL]
  return len(few), sum(few)
