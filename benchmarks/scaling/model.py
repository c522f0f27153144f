"""What a training step should cost on many devices: a model on paper.

Pure functions of numbers; nothing is measured and nothing of jax is imported.
Every result is a prediction: parts of a step follow one another (no overlap of
communication with computation), and a device reaches the same share of its peak
whatever its batch. Sizes of networks come from `scaling_network`, measured
constants from `scaling`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math

PASSES = 7  # of Adam: parameter and two moments, in and out; gradient, in


@dataclasses.dataclass(frozen=True)
class Chip:
  """An accelerator and what connects it to others.

  Attributes:
    name: as people call it.
    flops: operations a second in bfloat16, dense, at its peak.
    memory: bytes.
    memory_speed: bytes a second.
    link: bytes a second in one direction that a ring can use, to a neighbour.
    domain: how many devices are connected by such links.
    network: bytes a second in one direction from a device to another domain.
    host: devices of a host.
    cores: of a host's processors.
    start: seconds that any all-reduce takes to begin.
    hop: seconds from a device to its neighbour.
    far_hop: seconds from a host to another.
    torus: whether the links are a square torus, else a switch.
  """

  name: str
  flops: float
  memory: float
  memory_speed: float
  link: float
  domain: int
  network: float
  host: int
  cores: int
  start: float
  hop: float
  far_hop: float
  torus: bool = False


# H100: 989e12 dense, 80 GB, 3.35 TB/s, NVLink 900 GB/s both ways (NVIDIA,
#   "H100 Tensor Core GPU"); eight 400 Gb/s ports and 112 cores in a DGX H100
#   (NVIDIA, "DGX BasePOD: core components").
# A100: 312e12, 80 GB, 2.039 TB/s, NVLink 600 GB/s both ways (NVIDIA, "A100
#   Tensor Core GPU" data sheet); eight 200 Gb/s ports and 128 cores in a DGX
#   A100 (NVIDIA, "Defining AI innovation with DGX A100").
# TPU v5e: 197e12, 16 GB, 819 GB/s, four links of 50 GB/s each way, 16 x 16
#   (Google, "TPU v5e"); two of the links, one axis, are counted, as small
#   slices have no ring on either; 224 threads a host of 8 (Google, machine type
#   ct5lp-hightpu-8t), counted as 112 cores; 1 us a hop is an assumption ("How
#   to Scale Your Model" reckons with 0.5).
# Latencies of GPUs: those that NCCL's tuner assumes for its low-latency tree
#   (src/graph/tuning.cc: 4.4 us, NVLink 0.52 x 1.8, network 5.0).
CHIPS = (
  Chip("H100 SXM", 989e12, 80e9, 3.35e12, 450e9, 8, 50e9, 8, 112, 4.4e-6, 0.94e-6, 5e-6),
  Chip("A100 SXM 80 GB", 312e12, 80e9, 2.039e12, 300e9, 8, 25e9, 8, 128, 4.4e-6, 0.94e-6, 5e-6),
  Chip("TPU v5e", 197e12, 16e9, 819e9, 100e9, 256, 3.125e9, 8, 112, 0.0, 1e-6, 10e-6, torus=True),
)


@dataclasses.dataclass(frozen=True)
class Assumed:
  """What is neither published nor measured here, each with a reason.

  Attributes:
    utilisation: share of the peak that a step's convolutions reach.
    link_use: share of a link's bandwidth that an all-reduce reaches; 380 of 450
      GB/s were measured between two H100 (NCCL issue 1264).
    reads: examples a second that one core reads and augments; 48.7 of a
      converted copy of NYU v2 (docs/benchmarks/input.md). All cores of a host
      are taken to read, in `config.train.workers` processes.
    dispatch: seconds of Python for one dispatch; measured on a CPU core.
  """

  utilisation: float = 0.3
  link_use: float = 0.8
  reads: float = 48.7
  dispatch: float = 7e-3


@dataclasses.dataclass(frozen=True)
class Work:
  """What one training step of a network does.

  Attributes:
    name: of the network and its data.
    macs: multiply-accumulates of one example's forward pass.
    trained: parameters that move in this phase; float32.
    batch: examples of a step, as configured.
    small: how many all-reduces a step has beside the gradients': batch
      statistics forward and backward, and losses.
    small_bytes: of all of them together.
    reads: whether pictures are read while training, else they lie on the
      device.
    dispatched: steps a dispatch.
  """

  name: str
  macs: float
  trained: float
  batch: int
  small: int
  small_bytes: float
  reads: bool = True
  dispatched: int = 1


@dataclasses.dataclass(frozen=True)
class Step:
  """Seconds of one step, part by part.

  Attributes:
    devices: N.
    examples: on each.
    compute: forward and backward.
    update: of the optimiser, bound by memory.
    gradients: their all-reduce.
    statistics: all-reduces of batch statistics.
    read: reading the examples, at the same time as the others.
    dispatch: Python, at the same time as the others.
  """

  devices: int
  examples: float
  compute: float
  update: float
  gradients: float
  statistics: float
  read: float
  dispatch: float

  @property
  def device(self) -> float:
    """Seconds that the device is busy or waits for others."""
    return self.compute + self.update + self.gradients + self.statistics

  @property
  def seconds(self) -> float:
    """Seconds of the step."""
    return max(self.device, self.read, self.dispatch)

  @property
  def bound(self) -> str:
    """What takes longest: `compute`, `update`, `gradients`, ..."""
    if self.seconds > self.device:
      return "input" if self.read > self.dispatch else "dispatch"
    parts = {
      "compute": self.compute,
      "update": self.update,
      "gradients": self.gradients,
      "statistics": self.statistics,
    }
    return max(parts, key=lambda name: parts[name])


def compute_seconds(macs: float, examples: float, flops: float, utilisation: float) -> float:
  """Seconds of forward and backward passes.

  Args:
    macs: multiply-accumulates of one example's forward pass; each is two
      operations, and a backward pass is twice a forward pass.
    examples: on the device.
    flops: operations a second at the peak.
    utilisation: share of it that is reached, in (0, 1].

  Raises:
    ValueError: a utilisation outside its range.
  """
  if not 0 < utilisation <= 1:
    raise ValueError(f"utilisation must be in (0, 1], but is {utilisation}.")
  return 3 * 2 * macs * examples / (flops * utilisation)


def ring_seconds(size: float, devices: int, bandwidth: float, latency: float) -> float:
  """Seconds of an all-reduce around a ring.

  Args:
    size: bytes of the array.
    devices: N; every byte passes 2 (N - 1) / N times through each.
    bandwidth: bytes a second in one direction.
    latency: seconds of each of the 2 (N - 1) steps.

  Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms".
  """
  rounds = 2 * (devices - 1)
  return rounds / devices * size / bandwidth + rounds * latency


def latency_seconds(chip: Chip, devices: int) -> float:
  """Seconds that an all-reduce of almost nothing takes.

  With a switch: a chain through each host and a tree over the hosts, up and
  down. In a torus: half way round each axis and back.
  """
  if devices == 1:
    return 0.0
  near, far = _split(chip, devices)
  steps = near - 1
  if chip.torus:
    width = 2 ** (math.ceil(math.log2(near)) // 2)
    steps = width // 2 + math.ceil(near / width) // 2
  return chip.start + 2 * (steps * chip.hop + math.ceil(math.log2(far)) * chip.far_hop)


def all_reduce_seconds(size: float, chip: Chip, devices: int, link_use: float = 1.0) -> float:
  """Seconds of an all-reduce: a ring in every domain, then one across.

  Args:
    size: bytes.
    chip: with its links.
    devices: N.
    link_use: share of the bandwidth that is reached.
  """
  if devices == 1:
    return 0.0
  near, far = _split(chip, devices)
  inside = ring_seconds(size, near, chip.link * link_use, 0.0)
  across = ring_seconds(size / near, far, chip.network * link_use, 0.0)
  return latency_seconds(chip, devices) + inside + across


def _split(chip: Chip, devices: int) -> tuple[int, int]:
  """Devices in a domain, and domains."""
  near = min(devices, chip.domain)
  return near, math.ceil(devices / near)


def step(
  work: Work, chip: Chip, devices: int, examples: float, assumed: Assumed | None = None
) -> Step:
  """One training step in data parallel.

  Args:
    work: of the network.
    chip: N equal ones.
    devices: N.
    examples: on each device.
    assumed: default `Assumed()`.
  """
  assumed = assumed or Assumed()
  small = work.small and (
    (work.small - 1) * latency_seconds(chip, devices)
    + all_reduce_seconds(work.small_bytes, chip, devices, assumed.link_use)
  )
  reading = examples * chip.host / (chip.cores * assumed.reads)
  return Step(
    devices=devices,
    examples=examples,
    compute=compute_seconds(work.macs, examples, chip.flops, assumed.utilisation),
    update=4 * PASSES * work.trained / chip.memory_speed,
    gradients=all_reduce_seconds(4 * work.trained, chip, devices, assumed.link_use),
    statistics=small,
    read=reading if work.reads else 0.0,
    dispatch=assumed.dispatch / work.dispatched,
  )


def efficiency(many: Step, one: Step) -> float:
  """Examples a second and device, over those of one device."""
  return (many.examples / many.seconds) / (one.examples / one.seconds)


def candidate_seconds(
  work: Work,
  chip: Chip,
  devices: int,
  groups: int,
  candidates: int,
  steps: int,
  assumed: Assumed | None = None,
) -> float:
  """Seconds of re-training all candidates, each group its own.

  Args:
    work: of a step; its batch is split over the devices of a group.
    chip: N equal ones.
    devices: N.
    groups: that do not talk to one another.
    candidates: to re-train.
    steps: of each.
    assumed: see `step`.

  Raises:
    ValueError: groups that do not divide the devices, or devices of a group
      that do not divide the batch.
  """
  if groups < 1 or devices % groups:
    raise ValueError(f"{groups} groups do not divide {devices} devices.")
  each = devices // groups
  if work.batch % each:
    raise ValueError(f"A batch of {work.batch} cannot be split over {each} devices.")
  one = step(work, chip, each, work.batch / each, assumed)
  return math.ceil(candidates / groups) * steps * one.seconds


def held_bytes(
  shapes: Sequence[Sequence[int]], devices: int, split: bool, small: int = 2**14
) -> float:
  """Bytes of float32 arrays on each device.

  Args:
    shapes: of the arrays.
    devices: N.
    split: whether large arrays are split over the devices, where N divides an
      axis, as `config.train.shard_state` does.
    small: numbers of an array below which it is never split.
  """
  total = 0.0
  for shape in shapes:
    size = math.prod(shape)
    parts = split and size >= small and any(n % devices == 0 for n in shape)
    total += 4 * size / (devices if parts else 1)
  return total


def sharded_seconds(size: float, chip: Chip, devices: int, link_use: float = 1.0) -> float:
  """Seconds of communication of split parameters.

  All-gathers before the forward and the backward pass and a reduce-scatter
  after: each is half an all-reduce, so 1.5 times the bytes.
  """
  return 1.5 * all_reduce_seconds(size, chip, devices, link_use)


def fit(points: Mapping[float, float]) -> tuple[float, float]:
  """Latency and bandwidth of all-reduces, by least squares of relative errors.

  Args:
    points: bytes -> seconds, at least two sizes.

  Returns:
    Seconds of an empty one, and bytes a second; the latter infinite when time
    does not grow.

  Raises:
    ValueError: fewer than two sizes.
  """
  if len(points) < 2:
    raise ValueError(f"A fit needs two sizes at least, but got {len(points)}.")
  # Minimises sum ((a + b x - t) / t)^2.
  saa = sab = sbb = sa = sb = 0.0
  for size, seconds in points.items():
    u, v = 1 / seconds, size / seconds
    saa, sab, sbb = saa + u * u, sab + u * v, sbb + v * v
    sa, sb = sa + u, sb + v
  determinant = saa * sbb - sab * sab
  latency = (sa * sbb - sb * sab) / determinant
  slope = (saa * sb - sab * sa) / determinant
  if latency < 0:  # Not of this world: through the origin.
    latency, slope = 0.0, sb / sbb
  return latency, 1 / slope if slope > 0 else math.inf
