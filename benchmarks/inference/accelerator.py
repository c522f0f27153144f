"""Networks of the papers' size in bfloat16, for benchmarks/inference/run.py."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import statistics

import jax
import jax.numpy as jnp

from benchmarks import cases
from benchmarks import timing
from benchmarks.inference import cases as inference_cases
from benchmarks.inference import gates as inference_gates
from benchmarks.inference import measures
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.infer import work

TASKS = 3
NETWORKS = {"ResNet-18": (2, 2, 2, 2), "ResNet-34": (3, 4, 6, 3)}


@dataclasses.dataclass(frozen=True)
class Load:
  """What to run.

  Attributes:
    sizes: heights and widths.
    batches: of inference.
    train_batch: of a training step.
    dtype: compute type.
    matmul: edge of the square matrices that the chip's rate is measured with.
    calls: forward passes between two looks at the clock.
  """

  sizes: tuple[tuple[int, int], ...] = ((321, 321), (480, 640))
  batches: tuple[int, ...] = (1, 8, 32)
  train_batch: int = 8
  dtype: str = "bfloat16"
  matmul: int = 8192
  calls: int = 10


TINY = Load(((24, 32),), (1, 2), 2, "float32", 256, 2)  # to try the code


class Repeated:
  """Several calls without waiting in between: dispatch overlaps."""

  def __init__(self, run: inference_cases.Runner, calls: int) -> None:
    self.run, self.calls = run, calls
    self()

  def __call__(self) -> None:
    """Calls and waits for the last."""
    self.run.again(self.calls)


def matmul_rate(edge: int, dtype: str, repeats: int) -> float:
  """Operations a second of square matrix products on the device.

  Args:
    edge: rows and columns.
    dtype: of the factors.
    repeats: rounds; the median counts.
  """
  key = jax.random.key(0)
  x = jax.random.normal(key, (edge, edge), jnp.float32).astype(dtype)
  chain = 8

  def products(a: jax.Array) -> jax.Array:
    b = a
    for _ in range(chain):
      b = (b @ a) / edge**0.5
    return b

  run = jax.jit(products).lower(x).compile()
  jax.block_until_ready(run(x))
  timed = timing.alternate({"matmul": lambda: jax.block_until_ready(run(x))}, repeats)["matmul"]
  return chain * 2 * edge**3 / statistics.median(timed.wall)


def model_of(
  blocks: Sequence[int], size: tuple[int, int], dtype: str, gates: bool
) -> trained_lib.Trained:
  """A network with random weights on a route that skips a third."""
  config = inference_cases.rooms_config(blocks)
  config.model.dtype = dtype
  chosen = inference_cases.route(TASKS, sum(blocks))
  return inference_cases.trained(config, cases.scenes(64, TASKS, *size), chosen, gates)


def inference(load: Load, rate: float, options: measures.Options) -> list[list[str]]:
  """Lines of the table of forward passes."""
  lines = []
  for name, blocks in NETWORKS.items():
    for size in load.sizes:
      model = model_of(blocks, size, load.dtype, False)
      macs = {
        way: work.total(model, how)
        for way, how in (("masked", measures.MASKED), ("planned", measures.PLANNED))
      }
      for batch in load.batches:
        inputs = inference_cases.images(batch, *size)
        runs = {
          way: Repeated(inference_cases.Runner(model, how, inputs, batch), load.calls)
          for way, how in (("masked", measures.MASKED), ("planned", measures.PLANNED))
        }
        timed = timing.alternate(runs, options.repeats)
        for way in runs:
          seconds = [s / load.calls for s in timed[way].wall]
          done = 2 * macs[way] * batch / statistics.median(seconds)
          ratio = timing.ratios(timed[way].wall, timed["masked"].wall)
          lines.append(
            [
              name,
              f"{size[0]}x{size[1]}",
              str(batch),
              way,
              timing.spread([1000 * s for s in seconds]),
              f"{batch / statistics.median(seconds):,.0f}",
              f"{macs[way] / macs['masked']:.3f}",
              timing.spread(ratio),
              f"{done / 1e12:,.2f}",
              f"{100 * done / rate:.1f}%",
            ]
          )
          print(" | ".join(lines[-1]), flush=True)
  return lines


def training(load: Load, rate: float, options: measures.Options) -> list[list[str]]:
  """Lines of the table of re-training steps."""
  lines = []
  for name, blocks in NETWORKS.items():
    for size in load.sizes:
      steppers = {}
      for execution in ("masked", "planned"):
        config = inference_cases.rooms_config(blocks)
        config.method, config.model.dtype = "adashare", load.dtype
        config.train.batch_size = load.train_batch
        config.train.execution = execution
        steppers[execution] = cases.Stepper(
          config,
          cases.scenes(64, TASKS, *size),
          "retrain",
          inference_cases.route(TASKS, sum(blocks)),
        )
        steppers[execution]()
      model = model_of(blocks, size, load.dtype, False)
      timed = timing.alternate(steppers, options.repeats)
      for way, how in (("masked", measures.MASKED), ("planned", measures.PLANNED)):
        middle = statistics.median(timed[way].wall)
        # A backward pass is twice the work of a forward pass.
        done = 6 * work.total(model, how) * load.train_batch / middle
        ratio = timing.ratios(timed[way].wall, timed["masked"].wall)
        lines.append(
          [
            name,
            f"{size[0]}x{size[1]}",
            str(load.train_batch),
            way,
            f"{1 / middle:.3g}",
            timing.spread(ratio),
            f"{done / 1e12:,.2f}",
            f"{100 * done / rate:.1f}%",
          ]
        )
        print(" | ".join(lines[-1]), flush=True)
  return lines


def gates(load: Load, options: measures.Options) -> list[list[str]]:
  """Lines of all ways of gated execution, ResNet-18 at the first size."""
  model = model_of(NETWORKS["ResNet-18"], load.sizes[0], load.dtype, True)
  most = max(load.batches)
  inputs = inference_cases.images(2 * most, *load.sizes[0])
  threshold = inference_cases.thresholds(model, inputs, batch=most)
  lines = []
  for batch in load.batches:
    lines += inference_gates.ways(
      model, inference_cases.rows_of(inputs, 0, 2 * batch), batch, threshold, options
    )[0]
  return lines


def section(options: measures.Options, load: Load | None = None) -> measures.Section:
  """Everything on an accelerator.

  Args:
    options: how to measure.
    load: default the papers' sizes.
  """
  load = load or Load()
  rate = matmul_rate(load.matmul, load.dtype, options.repeats)
  first = [
    "network",
    "size",
    "batch",
    "way",
    "ms / call",
    "examples / s",
    "work / masked",
    "time / masked",
    "TFLOP/s",
    "of matmul rate",
  ]
  second = [
    "network",
    "size",
    "batch",
    "way",
    "steps / s",
    "time / masked",
    "TFLOP/s",
    "of matmul rate",
  ]
  text = f"""\
{load.dtype}, three dense tasks, linear heads, a route that skips a third of the
pairs. Square products of {load.matmul} run at {rate / 1e12:.3g} TFLOP/s here:
that is 100%. Operations are two for an analytic multiply-accumulate, taps in
the padding included; a training step is three forward passes. Forward passes
are timed {load.calls} in a row, dispatched without waiting.

{timing.table(first, inference(load, rate, options))}

Re-training steps:

{timing.table(second, training(load, rate, options))}

Gates on the last half of the blocks, ResNet-18 at the first size:

{timing.table(inference_gates.HEAD, gates(load, options))}"""
  return measures.Section("Accelerator", text)
