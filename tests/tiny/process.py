"""One process of a tiny run: `process.py FOLDER PORT COUNT NUMBER [SEED]`.

With the port 0 the environment tells where the others are. For tests of faults,
variables change what it does:

  TINY_DEVICES  CPU devices of this process; default: 2 in all processes
  TINY_PAUSE    seconds to wait when the host looks at the losses
  TINY_JOIN     seconds to wait for the other processes
  TINY_RAISE    an exception when so many steps are done
  TINY_ROOM     bytes that a file may have, as if the disk were full
  TINY_CONFIG   values of the configuration, as JSON
  TINY_SMALL    numbers of a leaf below which it is never split
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import sys
import time
from typing import Any

from absl import flags
import jax

import configs
from dynashare_jax import methods
from dynashare_jax import runs as main
from dynashare_jax.cli import guard as command
from dynashare_jax.distributed import cluster
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.train import loop as loop_lib


def change(environment: dict[str, str]) -> None:
  """Makes the loop slow, or lets it fail."""
  look, restore = loop_lib.Loop._log, loop_lib.Loop.restore

  def slowly(loop: Any, log: Any, phase: Any, step: int, *more: Any) -> None:
    look(loop, log, phase, step, *more)
    time.sleep(float(environment.get("TINY_PAUSE", 0)))
    if step >= int(environment.get("TINY_RAISE", 10**9)):
      print("fault", flush=True)
      raise RuntimeError(f"a fault of one process at step {step}")

  def loudly(loop: Any, *more: Any) -> Any:
    found = restore(loop, *more)
    print(f"from step {found[0]}", flush=True)
    return found

  loop_lib.Loop._log, loop_lib.Loop.restore = slowly, loudly
  mesh_lib.SMALL = int(environment.get("TINY_SMALL", mesh_lib.SMALL))
  if "TINY_ROOM" in environment:
    room = int(environment["TINY_ROOM"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))


if __name__ == "__main__":
  folder, port, count, number = sys.argv[1:5]
  flags.FLAGS.mark_as_parsed()
  jax.config.update("jax_num_cpu_devices", int(os.environ.get("TINY_DEVICES", 2 // int(count))))
  configs.find_stripes()
  methods.__path__.append(str(pathlib.Path(__file__).parent / "methods"))
  config = configs.make(
    seed=int(sys.argv[5]) if len(sys.argv) > 5 else 0,
    **{
      name: tuple(value) if isinstance(value, list) else value
      for name, value in json.loads(os.environ.get("TINY_CONFIG", "{}")).items()
    },
  )
  change(dict(os.environ))

  def work() -> None:
    """Joins the others and trains."""
    if int(count) > 1:
      place = cluster.Place(f"localhost:{port}", int(count), int(number))
      assert cluster.join(
        place if int(port) else cluster.NOWHERE, int(os.environ.get("TINY_JOIN", 60))
      )
      print(cluster.told(config.train.batch_size), flush=True)
    main.run(config, folder)

  command.run(work, "the same command goes on from the last checkpoint")
