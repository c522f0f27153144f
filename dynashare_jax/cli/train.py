"""Trains, evaluates and reports one run: flags to parts to loop to report."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging

from dynashare_jax import runs
from dynashare_jax.cli import guard
from dynashare_jax.distributed import cluster
from dynashare_jax.library import configs

_CONFIG = configs.define()
_DESCRIBE = flags.DEFINE_bool(
  "describe",
  False,
  "Print phases, shapes, parameters and multiply-accumulates, and stop: nothing is read where the"
  " data set's shape is known beforehand, and no step is run.",
)
_ROUTE = flags.DEFINE_string(
  "route",
  None,
  "With --describe: a route to count too, one row of 0 and 1 per task, as 10111111,11111011.",
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder of the run. Default: runs/<data set>/<method>-<seed>. The same command again resumes.",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  "",
  "Of a run in several processes: host:port of process 0."
  " Not needed under SLURM, Open MPI and on TPUs.",
)
_PROCESSES = flags.DEFINE_integer(
  "processes", 0, "With --coordinator: how many processes there are."
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", -1, "With --coordinator: number of this process, from 0."
)
_PROFILE = flags.DEFINE_integer(
  "profile",
  0,
  "Record a profile of this many steps, to look at with"
  " Perfetto or TensorBoard; see docs/monitoring.md.",
  lower_bound=0,
)


_OPTIONS = (_WORKDIR, _DESCRIBE, _ROUTE, _PROFILE, _COORDINATOR, _PROCESSES, _PROCESS_ID)
_HELP = re.compile(r"-h|--?help\w*")


def _main(argv: list[str]) -> None:
  del argv  # `_parse` lets nothing but flags through.
  config = _CONFIG.value
  logging.set_verbosity(logging.WARNING)
  guard.use_compilation_cache()
  workdir = _WORKDIR.value or runs.default_workdir(config)

  def work() -> str:
    if _DESCRIBE.value:
      return runs.describe(config, _ROUTE.value)
    place = cluster.Place(_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value)
    if cluster.join(place, cluster.wait_of(os.environ)):
      print(cluster.told(config.train.batch_size), flush=True)
    return runs.summary(runs.run(config, workdir, _PROFILE.value), workdir)

  whole = bool(os.environ.get("DYNASHARE_TRACEBACK"))
  errors = () if whole else (ValueError, OSError, FloatingPointError)
  guard.say(
    guard.run(work, f"the same command goes on from the last checkpoint in {workdir}", errors)
  )


def _print_help() -> None:
  """Prints the flags of this command, as the other commands print theirs."""
  given: dict[str, tuple[Any, str]] = {_CONFIG.name: (None, flags.FLAGS[_CONFIG.name].help)}
  for option in _OPTIONS:
    default = "" if option.default is None else option.default
    given[option.name] = (default, flags.FLAGS[option.name].help)
  about = "Trains, evaluates and reports one run, or describes it."
  more = (
    "--config.NAME=VALUE sets any value of the configuration, as --config.train.batch_size=64 or"
    " --config.data.tasks=segmentation,depth; dynashare_jax/defaults.py explains each. There come"
    f" {', '.join(configs.names())}."
  )
  guard.parser("train", about, given, more).print_help()


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; ends after --help, and with one clear line where something is wrong."""
  if any(map(_HELP.fullmatch, argv[1:])):
    _print_help()
    sys.exit(0)
  try:
    rest = configs.parse(argv, flags.FLAGS)
    if rest[1:]:
      raise ValueError(f"Unexpected arguments: {' '.join(rest[1:])}.")
    if _CONFIG.value is None:
      raise ValueError("Name a configuration: --config=rooms")
    if _ROUTE.value is not None and not _DESCRIBE.value:
      raise ValueError("--route goes with --describe: training finds a route of its own.")
    return rest
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def cli() -> None:
  """Runs the command."""
  app.run(_main, flags_parser=_parse)
