"""Trains a tiny run of one phase in a process of its own: `start.py FOLDER`."""

from __future__ import annotations

import pathlib
import sys
import time

from absl import flags
import jax

import configs
from dynashare_jax import runs as main
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import results
from dynashare_jax.train import stages

if __name__ == "__main__":
  flags.FLAGS.mark_as_parsed()
  jax.config.update("jax_num_cpu_devices", 4)
  # Read what the tests have compiled; a kill must not leave half an entry.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
  configs.find_stripes()
  experiment = main.build(
    configs.make(method="hard", train__steps=26, **configs.SAVES), jax.devices()[:1]
  )[0]
  folder = pathlib.Path(sys.argv[1])
  folder.mkdir(parents=True, exist_ok=True)
  loop = loop_lib.Loop(experiment, folder)
  write = loop._log

  def slowly(*args):
    write(*args)
    time.sleep(0.1)  # So that a kill has something to hit.

  loop._log = slowly
  results.finish(loop, stages.run(loop), {})
