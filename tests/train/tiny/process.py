"""One process of a tiny run: `process.py FOLDER PORT COUNT NUMBER [SEED]`.

With the port 0 the environment tells where the others are.
"""

from __future__ import annotations

import pathlib
import runpy
import sys

from absl import flags
import jax

from dynashare_jax import command
from dynashare_jax import data
from dynashare_jax import main
from dynashare_jax.train import cluster

if __name__ == "__main__":
  here = pathlib.Path(__file__).parent
  folder, port, count, number = sys.argv[1:5]
  flags.FLAGS.mark_as_parsed()
  jax.config.update("jax_num_cpu_devices", 2 // int(count))
  jax.config.update("jax_disable_most_optimizations", True)
  data.__path__.append(str(here))
  config = runpy.run_path(str(here.parent / "conftest.py"))["_config"](
      seed=int(sys.argv[5]) if len(sys.argv) > 5 else 0)

  def work() -> None:
    """Joins the others and trains."""
    if int(count) > 1:
      place = cluster.Place(f"localhost:{port}", int(count), int(number))
      assert cluster.join(place if int(port) else cluster.NOWHERE)
      print(cluster.told(config.train.batch_size), flush=True)
    main.run(config, folder)

  command.run(work, "")
