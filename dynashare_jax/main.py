"""Trains, evaluates and reports one run: flags to parts to loop to report."""

from __future__ import annotations

import difflib
import importlib
import json
import os
import pathlib
import pkgutil
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
import ml_collections
from ml_collections import config_flags

from dynashare_jax import data
from dynashare_jax import methods
from dynashare_jax import types
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import results
from dynashare_jax.train import workdir as workdir_lib

# Values that may change between the starts of one run.
_FREE = ("data_dir", "train.threads", "train.resident")


def find_dataset(name: str) -> Any:
  """Returns the module of a data set.

  Raises:
    ValueError: there is none of this name; names the nearest.
  """
  names = sorted(m.name for m in pkgutil.iter_modules(data.__path__))
  names = [n for n in names if hasattr(_dataset_module(n), "build")]
  if name not in names:
    near = difflib.get_close_matches(name, names, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Unknown data set {name!r} in config.dataset.{hint}"
                     f" Available: {', '.join(names)}.")
  return _dataset_module(name)


def _dataset_module(name: str) -> Any:
  return importlib.import_module(f"{data.__name__}.{name}")


def build(
    config: ml_collections.ConfigDict, devices: Any = None
) -> tuple[experiment_lib.Experiment, dict[str, str]]:
  """Puts a run together and checks it; nothing is trained.

  Args:
    config: the run's.
    devices: to run on; default all.

  Returns:
    The experiment, and the data set's compat switches at their corrected
    values.
  """
  method = methods.find(config.method)
  module = find_dataset(config.dataset)
  dataset: types.Dataset = module.build(
      config.data, config.compat, config.data_dir or None, config.seed)
  experiment = experiment_lib.build(config, dataset, method.build, devices)
  if config.baseline:
    results.load_baseline(config.baseline, dataset.spec.tasks)
  return experiment, module.compat()


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Trains what is not trained yet, and writes results and report.

  Args:
    config: the run's.
    workdir: its folder; the same command again resumes there.

  Returns:
    What `results.json` holds.
  """
  experiment, corrected = build(config)
  folder = workdir_lib.open_workdir(workdir, config.to_dict(), ignore=_FREE)
  finished = folder / "results.json"
  if finished.is_file() and (folder / "report.md").is_file():
    logging.info("%s is finished; nothing to do.", folder)
    return dict(json.loads(finished.read_text()))
  loop = loop_lib.Loop(experiment, folder)
  state = loop.run()
  found = results.finish(loop, state, corrected)
  from dynashare_jax.report import report
  report.write_report(folder)
  return found


def default_workdir(config: ml_collections.ConfigDict) -> str:
  """`runs/<data set>/<method>-<seed>` below the current folder."""
  return os.path.join("runs", config.dataset, f"{config.method}-{config.seed}")


def use_compilation_cache() -> None:
  """Keeps compiled programs, so that a second start is quick."""
  if jax.config.jax_compilation_cache_dir is None:
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    jax.config.update("jax_compilation_cache_dir",
                      os.path.join(home, "dynashare_jax"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def summary(found: dict[str, Any], workdir: str) -> str:
  """A few lines for the terminal: every metric on test, where the report is."""
  lines = []
  for task in found["tasks"]:
    values = ", ".join(
        f"{m['name']} {m['test']:.4g} (constant {m['constant']:.4g})"
        for m in task["metrics"] if m["test"] is not None)
    lines.append(f"{task['name']}: {values}")
  lines.append(f"executed {100 * found['execution']['mean']:.1f}% of all"
               " (task, block, example) triples")
  lines.append(f"report: {pathlib.Path(workdir) / 'report.md'}")
  return "\n".join(lines)


_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with the configuration; any value of it can be set"
    " as --config.name=value.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. Default: runs/<data set>/<method>-"
    "<seed>. The same command again resumes.")


def _main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
  config = _CONFIG.value
  if config is None:
    raise app.UsageError("Name a configuration: --config=configs/rooms.py")
  logging.set_verbosity(logging.WARNING)
  use_compilation_cache()
  workdir = _WORKDIR.value or default_workdir(config)
  try:
    found = run(config, workdir)
  except (ValueError, OSError, FloatingPointError) as error:
    if os.environ.get("DYNASHARE_TRACEBACK"):
      raise
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  print(summary(found, workdir))


def cli() -> None:
  """Entry point."""
  app.run(_main)


if __name__ == "__main__":
  cli()
