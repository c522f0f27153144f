"""One process of benchmarks/scaling/run.py: takes orders, answers in JSON lines.

  python -m benchmarks.scaling.process ROLE SETTINGS

It is started by `scaling_children.Child`, pinned to its cores before jax is
imported, and ends when its input does or after a number of seconds.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import functools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from typing import Any

BIG = 2**26  # float32 numbers of the state that measures the disk: 268 MB


def say(**values: Any) -> None:
  """Answers; one line."""
  print(json.dumps(values), flush=True)


def trainer(settings: dict[str, Any]) -> None:
  """Trains on orders: `steps` (count), `reduce` (bytes, rounds), `end`."""
  import jax

  jax.config.update("jax_num_cpu_devices", 1)
  from dynashare_jax.distributed import cluster

  if settings["place"]:
    cluster.join(cluster.Place(*settings["place"]), settings["seconds"])
  from benchmarks.scaling import network as scaling_network

  config = scaling_network.configuration(settings["network"])
  config.model.width_factor = settings["width"]
  config.train.batch_size = settings["batch"] * jax.device_count()
  config.eval.batch_size = jax.device_count()
  spec = scaling_network.specification(config)
  size = tuple(settings["size"] or spec.crop or spec.input_shape[:2])
  data = scaling_network.pictures(spec, 6 * config.train.batch_size, size)
  step = scaling_network.Step(config, data, "weights")
  for _ in range(2):
    step()
  say(
    devices=jax.device_count(),
    examples=step.examples,
    reduced=scaling_network.reduced(step.text),
    parameters=_numbers(step.state.params),
    macs=_macs(config, data) if settings["macs"] else 0,
  )

  def steps(order: dict[str, Any]) -> None:
    """Trains; a step before the clock starts brings all processes together."""
    step()
    began = time.perf_counter()
    for _ in range(order["count"]):
      step()
    say(seconds=(time.perf_counter() - began) / order["count"])

  _obey(
    {
      "steps": steps,
      "reduce": lambda order: say(
        seconds=reduce_seconds(order["bytes"], order["chain"], order["rounds"])
      ),
    }
  )
  if settings["place"]:
    jax.distributed.shutdown()


def _numbers(tree: Any) -> int:
  """How many numbers the arrays of a tree have."""
  import jax

  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _macs(config: Any, data: Any) -> int:
  """Multiply-accumulates of one example of the step."""
  from benchmarks.scaling import network as scaling_network
  from dynashare_jax import methods
  from dynashare_jax.train import experiment

  return scaling_network.forward_macs(
    experiment.build(config, data, methods.find(config.method).build)
  )


def _obey(orders: dict[str, Callable[[dict[str, Any]], None]]) -> None:
  """Carries out the orders that come in, one a line, until `end`."""
  for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "end":
      return
    orders[order["do"]](order)


def reduce_seconds(size: int, chain: int, rounds: int) -> list[float]:
  """Seconds of one all-reduce among all devices, a round each.

  Args:
    size: bytes.
    chain: all-reduces in one program, each needing the one before, so that
      starting the program counts little.
    rounds: how many times it is run.
  """
  import jax
  import jax.numpy as jnp
  from jax.sharding import PartitionSpec

  from dynashare_jax.distributed import mesh as mesh_lib

  mesh = mesh_lib.make_mesh()

  def links(own: jax.Array) -> jax.Array:
    x = own
    for _ in range(chain):  # `own` differs by device: no reduction is folded.
      x = 0.25 * jax.lax.psum(x, mesh_lib.AXIS) + own
    return x

  spec = PartitionSpec(mesh_lib.AXIS)
  local = jnp.ones((len(mesh.local_devices), max(size // 4, 1)))
  x = mesh_lib.place_batch(local, mesh)
  run = jax.jit(jax.shard_map(links, mesh=mesh, in_specs=spec, out_specs=spec)).lower(x).compile()
  found = []
  for _ in range(rounds + 2):
    jax.block_until_ready(run(x))
    began = time.perf_counter()
    jax.block_until_ready(run(x))
    found.append((time.perf_counter() - began) / chain)
  return found[2:]


def saver(settings: dict[str, Any]) -> None:
  """Trains blocks of steps with and without a save; then saves a big state."""
  import jax
  import jax.numpy as jnp

  from benchmarks.scaling import network as scaling_network
  from dynashare_jax.checkpoints import checkpoint

  config = scaling_network.configuration(settings["network"])
  config.model.width_factor = settings["width"]
  spec = scaling_network.specification(config)
  size = tuple(settings["size"] or spec.crop or spec.input_shape[:2])
  data = scaling_network.pictures(spec, 6 * config.train.batch_size, size)
  step = scaling_network.Step(config, data, "weights")
  finite = jax.jit(
    lambda tree: jax.tree.map(  # As the loop does before it.
      lambda leaf: jnp.isfinite(leaf).all(), tree
    )
  )

  def block(save: Callable[[], None] | None) -> dict[str, float]:
    """Seconds of a block: elapsed, of the processor, and blocked by a save."""
    began, used = time.perf_counter(), time.process_time()
    if save:
      save()
    blocked = time.perf_counter() - began
    for _ in range(settings["steps"]):
      step()
    if save:
      store.wait()
    return {
      "wall": time.perf_counter() - began,
      "blocked": blocked,
      "cpu": time.process_time() - used,
    }

  with tempfile.TemporaryDirectory() as folder, checkpoint.Checkpoints(folder) as store:
    count = 0

    def save() -> None:
      nonlocal count
      count += 1
      jax.tree.map(bool, finite(step.state.params))
      store.save(count, step.state, {"config": config.to_dict()}, 0.5)

    block(save)
    rounds = [{"plain": block(None), "saved": block(save)} for _ in range(settings["rounds"])]
    bytes_ = 4 * _numbers(step.state)
  say(
    rounds=rounds,
    bytes=bytes_,
    steps=settings["steps"],
    every=config.train.checkpoint_every,
    big=[_save_big(settings["big"]) for _ in range(min(settings["rounds"], 3))],
    big_bytes=4 * settings["big"],
  )


def _save_big(numbers: int) -> tuple[float, float]:
  """Seconds that saving a large array blocks, and until it is written."""
  import jax.numpy as jnp

  from dynashare_jax.checkpoints import checkpoint

  state = {"array": jnp.arange(numbers, dtype=jnp.float32)}
  state["array"].block_until_ready()
  with tempfile.TemporaryDirectory() as folder, checkpoint.Checkpoints(folder) as store:
    began = time.perf_counter()
    store.save(1, state, {})
    blocked = time.perf_counter() - began
    store.wait()
    return blocked, time.perf_counter() - began


def dispatcher(settings: dict[str, Any]) -> None:
  """Processor seconds of a dispatch: many steps in one against one by one.

  The state is a real run's, with the best model and the search's: every array
  of it passes through each dispatch.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np

  from benchmarks import timing
  from benchmarks.scaling import network as scaling_network
  from dynashare_jax import methods
  from dynashare_jax.distributed import mesh as mesh_lib
  from dynashare_jax.train import experiment as experiment_lib
  from dynashare_jax.train import step as step_lib

  config = scaling_network.configuration("small ResNet, Rooms")
  config.model.width_factor, several = settings["width"], settings["steps"]
  config.train.batch_size = 1
  data = scaling_network.pictures(scaling_network.specification(config), 8, (16, 16))
  experiment = experiment_lib.build(config, data, methods.find(config.method).build)
  phases = experiment.method.phases
  index = next(i for i, p in enumerate(phases) if p.name == "weights")
  route = np.ones((len(experiment.tasks), experiment.units))
  spec = experiment.spec(index, route)
  run = step_lib.make(
    experiment.objective,
    functools.partial(experiment.optimizer, spec.optimizer),
    spec,
    mesh_lib.batch_sharding(experiment.mesh),
  )
  state = experiment.place(experiment.with_optimizer(experiment.initial_state(), index))
  arrays = mesh_lib.place_replicated(data.arrays("train"), experiment.mesh)
  leaves = len(jax.tree.leaves(state))

  def dispatch(steps: int) -> None:
    """As the loop does it."""
    nonlocal state
    rows = jnp.asarray(np.zeros((steps, 1), np.int32))
    horizon = experiment.horizon(index)
    moving = step_lib.moving_of(experiment.sharing, phases[index], 0, 0, 0, route, horizon)
    state, parts = run(state, arrays, rows, moving, None)
    jax.device_get(parts)

  def alone() -> None:
    for _ in range(several):
      dispatch(1)

  def many() -> None:
    dispatch(several)

  alone()
  many()
  timed = timing.alternate({"alone": alone, "many": many}, settings["rounds"])
  say(
    seconds=[
      (a - b) / (several - 1) for a, b in zip(timed["alone"].cpu, timed["many"].cpu, strict=True)
    ],
    steps=several,
    leaves=leaves,
  )


def counter(settings: dict[str, Any]) -> None:
  """Sizes of all networks and the all-reduces of their steps."""
  import dataclasses

  import jax

  jax.config.update("jax_num_cpu_devices", 2)
  from benchmarks.scaling import network as scaling_network

  found = []
  for name in settings["networks"]:
    few = settings["small"].get(name)
    if few is None:
      few = scaling_network.small(scaling_network.collectives(name))
    found.append(dataclasses.asdict(scaling_network.facts(name)) | {"small": few})
  say(networks=found)


def starter(settings: dict[str, Any]) -> None:
  """Runs the user's command in this process and notes when it is where."""
  marks = {"interpreter": time.time()}
  import runpy

  from dynashare_jax import runs as main
  from dynashare_jax.cli import guard as command
  from dynashare_jax.monitoring import logs
  from dynashare_jax.train import feed
  from dynashare_jax.train import loop

  marks["imports"] = time.time()
  command.use_compilation_cache()
  config = runpy.run_path(settings["config"])["get_config"]()
  config.train.log_every = 1
  config.lock()

  def marked(owner: Any, name: str, mark: str) -> None:
    """Notes when a function has returned for the first time."""
    inner = getattr(owner, name)

    def outer(*args: Any, **named: Any) -> Any:
      result = inner(*args, **named)
      marks.setdefault(mark, time.time())
      return result

    setattr(owner, name, outer)

  def stop(*unused: Any, **named: Any) -> None:
    marks["first step"] = time.time()
    raise KeyboardInterrupt

  marked(main, "build", "data and network")
  marked(feed.Feed, "check", "labels checked")
  marked(loop.Loop, "restore", "initial state")
  logs.MetricLog.write = stop  # type: ignore[method-assign]
  with contextlib.suppress(KeyboardInterrupt):
    main.run(config, settings["workdir"])
  say(marks=marks)


def accelerator(settings: dict[str, Any]) -> None:
  """Step time and memory on one device, at the papers' sizes."""
  import jax

  from benchmarks import timing
  from benchmarks.scaling import network as scaling_network

  device = jax.devices()[0]
  for name in settings["networks"]:
    spec = scaling_network.specification(scaling_network.configuration(name))
    size = tuple(settings["size"] or spec.crop or spec.input_shape[:2])
    for dtype in settings["dtypes"]:
      config = scaling_network.configuration(name)
      config.model.dtype, config.model.width_factor = dtype, settings["width"]
      config.train.batch_size = settings["batch"] or config.train.batch_size
      data = scaling_network.pictures(spec, 6 * config.train.batch_size, size)
      step = scaling_network.Step(config, data, "weights")
      step()
      timed = timing.alternate({"step": step}, settings["rounds"])["step"]
      memory = device.memory_stats() or {}
      say(
        network=name,
        dtype=dtype,
        size=size,
        seconds=timed.wall,
        batch=config.train.batch_size,
        macs=_macs(config, data),
        compile=step.compile_cpu_seconds,
        scratch=step.temporary_bytes,
        state=4 * _numbers(step.state),
        peak=memory.get("peak_bytes_in_use", 0),
      )
      del step, data
  say(kind=device.device_kind, platform=device.platform)


ROLES = {
  role.__name__: role for role in (trainer, saver, dispatcher, counter, starter, accelerator)
}


def _watch(parent: int) -> None:
  """Ends this process when the one that started it is gone."""
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(1)


def main() -> None:
  """Pins the process, limits its life, and plays the role."""
  role, settings = sys.argv[1], json.loads(sys.argv[2])
  signal.alarm(settings["limit"])
  threading.Thread(target=_watch, args=(settings["parent"],), daemon=True).start()
  if settings["cores"] and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, settings["cores"])
  from absl import flags

  flags.FLAGS.mark_as_parsed()
  ROLES[role](settings)
  sys.stdout.flush()


if __name__ == "__main__":
  main()
