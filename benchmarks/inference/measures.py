"""What benchmarks/inference/run.py measures, a section of its page each."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from benchmarks import cases
from benchmarks import timing
from benchmarks.inference import cases as inference_cases
from dynashare_jax import infer
from dynashare_jax.infer import export
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.infer import work

TASKS, BLOCKS = 3, 8
SIZE = (128, 160)
MASKED, PLANNED = trained_lib.MASKED, trained_lib.PLANNED
TABLE_EXAMPLES = 8192  # of the random Census rows


@dataclasses.dataclass(frozen=True)
class Target:
  """A number that was promised.

  Attributes:
    text: the promise.
    measured: what was found.
    met: whether it holds.
  """

  text: str
  measured: str
  met: bool


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the page.

  Attributes:
    title: heading.
    text: Markdown below it.
    targets: that it answers.
  """

  title: str
  text: str
  targets: tuple[Target, ...] = ()


@dataclasses.dataclass(frozen=True)
class Options:
  """How to measure.

  Attributes:
    repeats: rounds.
    threads: cores in use.
    batches: of gated execution of the conv net.
    quick: fewer cases, to see that everything runs.
  """

  repeats: int
  threads: int
  batches: tuple[int, ...] = (1, 4, 8, 16, 32)
  quick: bool = False

  def seconds(self, timed: timing.Timing) -> list[float]:
    """Processor time on one core, where it is the steadier; else elapsed."""
    one = self.threads == 1 and jax.default_backend() == "cpu"
    return timed.cpu if one else timed.wall

  def ratios(self, over: timing.Timing, under: timing.Timing) -> list[float]:
    """Quotients round by round."""
    return timing.ratios(self.seconds(over), self.seconds(under))


def rooms(chosen: np.ndarray, gates: bool) -> trained_lib.Trained:
  """The Deeplab-style ResNet-18 with three dense tasks."""
  return inference_cases.trained(
    inference_cases.rooms_config(), cases.scenes(64, TASKS, *SIZE), chosen, gates
  )


def census(chosen: np.ndarray, gates: bool) -> trained_lib.Trained:
  """The Census MLP with three binary tasks."""
  return inference_cases.trained(
    inference_cases.census_config(), cases.census(TABLE_EXAMPLES), chosen, gates
  )


def census_inputs(model: trained_lib.Trained) -> Any:
  """All random rows."""
  return model.experiment.dataset.arrays("train").inputs


def planned(options: Options) -> Section:
  """Target a: planned against masked execution, and against PyTorch."""
  draws = [(1 / 3, 0), (1 / 3, 1), (3 / 8, 2)]  # whole pairs: 33%, 33%, 38%
  sizes = (1,) if options.quick else (1, 8)
  inputs = inference_cases.images(max(sizes), *SIZE)
  lines, against = [], []
  faster: dict[str, list[float]] = {}
  for skip, seed in draws[:1] if options.quick else draws:
    chosen = inference_cases.route(TASKS, BLOCKS, skip, seed)
    model = rooms(chosen, False)
    share = work.total(model, PLANNED) / work.total(model, MASKED)
    for batch in sizes:
      runs = {
        name: inference_cases.Runner(model, way, inference_cases.rows_of(inputs, 0, batch), batch)
        for name, way in (("masked", MASKED), ("planned", PLANNED))
      }
      difference = inference_cases.largest_difference(
        runs["planned"].results()[0], runs["masked"].results()[0]
      )
      torch_runs = _torch_cases(model, batch)
      timed = timing.alternate(runs | torch_runs, options.repeats)
      ratio = options.ratios(timed["planned"], timed["masked"])
      gains = {name: options.ratios(timed[name], timed["planned"]) for name in torch_runs}
      against.append(statistics.median(ratio) / share)
      for name, gain in gains.items():
        faster.setdefault(name, []).append(statistics.median(gain))
      lines.append(
        [
          f"{TASKS * BLOCKS - chosen.sum()} of {TASKS * BLOCKS} skipped, seed {seed}",
          str(batch),
          f"{share:.3f}",
          timing.spread(ratio),
          f"{against[-1]:.3f}",
          *map(timing.spread, gains.values()),
          f"{difference:.0e}",
        ]
      )
  head = [
    "(task, block) pairs",
    "batch",
    "work, planned / masked",
    "time, planned / masked",
    "time ratio / work ratio",
    "times faster than PyTorch, NCHW",
    "than PyTorch, NHWC",
    "largest difference",
  ]
  text = f"""\
Deeplab-style ResNet-18, {SIZE[0]}x{SIZE[1]}, three dense tasks, linear heads,
no gates. PyTorch computes the same network the authors' way (all tasks in
sequence, all blocks, masked), in its default memory layout and in the one that
is quicker on CPUs. The last column is planned against masked logits, relative
to the largest.

{timing.table(head, lines)}"""
  return Section(
    "Planned execution",
    text,
    (
      Target(
        "planned: time ratio within 8% of the ratio of the work (masked = 1)",
        f"{min(against):.3f} to {max(against):.3f} of it",
        max(against) <= 1.08,
      ),
      *(
        Target(
          f"planned: at least 1.3 times faster than PyTorch the authors' way, {_LAYOUTS[name]}",
          f"{min(gain):.2f} to {max(gain):.2f} times",
          min(gain) >= 1.3,
        )
        for name, gain in faster.items()
      ),
    ),
  )


_LAYOUTS = {
  "PyTorch NCHW": "in its default memory layout (NCHW)",
  "PyTorch NHWC": "in its quicker memory layout (NHWC), a stricter reading",
}


def _torch_cases(model: trained_lib.Trained, batch: int) -> dict[str, Callable[[], None]]:
  """The same network in PyTorch, in both memory layouts."""
  try:
    from benchmarks.vision import torch_deeplab
  except ImportError as error:
    sys.exit(f"This comparison needs PyTorch ({error}). Install it with: pip install -e .[bench]")
  outputs = [head.outputs for head in model.experiment.network.heads]
  found: dict[str, Any] = {
    f"PyTorch {name}": torch_deeplab.Runner(
      outputs, model.route.tolist(), batch, SIZE, name == "NHWC"
    )
    for name in ("NCHW", "NHWC")
  }
  ours = sum(
    leaf.size
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)
    if "gate_" not in jax.tree_util.keystr(path)
  )
  theirs = found["PyTorch NCHW"].network.parameter_count()
  if ours != theirs:
    raise ValueError(f"The networks differ: {ours} parameters here, {theirs} in PyTorch.")
  return found


def training(options: Options) -> Section:
  """Target b: a re-training step on a route that skips a third."""
  lines, found = [], []
  for name, batch in (("rooms", 4), ("census", 1024)):
    chosen = inference_cases.route(TASKS, BLOCKS)
    steppers = {}
    for execution in ("masked", "planned"):
      if name == "rooms":
        config = inference_cases.rooms_config()
        dataset = cases.scenes(64, TASKS, *SIZE)
      else:
        config = inference_cases.census_config()
        dataset = cases.census(TABLE_EXAMPLES)
      config.method = "adashare"  # routes without gates
      config.train.batch_size, config.train.execution = batch, execution
      steppers[execution] = cases.Stepper(config, dataset, "retrain", chosen)
      steppers[execution]()
    timed = timing.alternate(steppers, options.repeats)
    ratio = options.ratios(timed["planned"], timed["masked"])
    model = (rooms if name == "rooms" else census)(chosen, False)
    share = work.total(model, PLANNED) / work.total(model, MASKED)
    found.append(statistics.median(ratio))
    seconds = {k: options.seconds(t) for k, t in timed.items()}
    lines.append(
      [
        name,
        str(batch),
        timing.spread(seconds["masked"]),
        timing.spread(seconds["planned"]),
        f"{share:.3f}",
        timing.spread(ratio),
      ]
    )
  head = [
    "network",
    "batch",
    "masked, s / step",
    "planned, s / step",
    "work, planned / masked",
    "time, planned / masked",
  ]
  skipped = TASKS * BLOCKS - int(inference_cases.route(TASKS, BLOCKS).sum())
  text = f"""\
One re-training step (forward, backward, optimiser) on a route that skips
{skipped} of {TASKS * BLOCKS} pairs, no gates; the networks of the other
sections.

{timing.table(head, lines)}"""
  return Section(
    "Re-training step",
    text,
    (
      Target(
        "a re-training step on a route that skips a third: at most 0.58 of"
        " the masked step's time (conv net)",
        f"{found[0]:.3f}",
        found[0] <= 0.58,
      ),
    ),
  )


def artefact(options: Options) -> Section:
  """Target d: an exported artefact against the checkpoint it was made from."""
  model = rooms(inference_cases.route(TASKS, BLOCKS), True)
  inputs = np.asarray(inference_cases.images(8, *SIZE))
  lines, loads = [], []
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    (path / "results.json").write_text(json.dumps({"tasks": []}))
    model = dataclasses.replace(model, workdir=path)
    chosen = export.choose(model)
    began = time.perf_counter()
    file = export.write(chosen, path / "export", (infer.artefact.platform(),))
    wrote = time.perf_counter() - began
    for _ in range(options.repeats):
      began = time.perf_counter()
      loaded = infer.load(path / "export")
      jax.block_until_ready(loaded.weights)
      loads.append(time.perf_counter() - began)
    size = file.stat().st_size
  flat = jax.device_put(traverse_util.flatten_dict(model.variables, sep="/"))
  ratios = []
  for batch in (1, 8):
    here = jax.device_put({"image": inputs[:batch]})
    way = strategy.of(model, batch, jax.default_backend())
    own = jax.jit(lambda w, x, way=way: chosen.forward(w, x, way))
    calls = {
      "checkpoint": lambda own=own, x=here: jax.block_until_ready(own(flat, x)),
      "artefact": lambda x=here: jax.block_until_ready(loaded.run(x)),
    }
    began = time.perf_counter()
    calls["artefact"]()
    start = time.perf_counter() - began
    calls["checkpoint"]()
    timed = timing.alternate(calls, 3 * options.repeats)
    ratio = options.ratios(timed["artefact"], timed["checkpoint"])
    ratios.append(statistics.median(ratio))
    lines.append(
      [
        str(batch),
        *(timing.spread(options.seconds(timed[n])) for n in calls),
        timing.spread(ratio),
        f"{start:.2f}",
      ]
    )
  head = [
    "batch",
    "checkpoint, s / call",
    "artefact, s / call",
    "artefact / checkpoint",
    "first call with compiling, s",
  ]
  text = f"""\
The gated conv net, exported with `infer.export`, read with `infer.load`; both
sides predict from float images, in the same way of execution.
{size / 1e6:,.1f} MB; exporting took {wrote:.1f} s, loading
{timing.spread(loads)} s.

{timing.table(head, lines)}"""
  return Section(
    "Exported artefact",
    text,
    (
      Target(
        "artefact: seconds to load; as fast as the checkpoint",
        f"{timing.spread(loads)} s; {min(ratios):.2f} to {max(ratios):.2f} of its time",
        max(ratios) <= 1.05,
      ),
    ),
  )
