"""Trains, evaluates and reports one run: flags to parts to loop to report."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pathlib
import pkgutil
import runpy
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
import ml_collections
from ml_collections import config_flags

from dynashare_jax import command
from dynashare_jax import data
from dynashare_jax import lookup
from dynashare_jax import methods
from dynashare_jax import types
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.report import report
from dynashare_jax.train import cluster
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import outline
from dynashare_jax.train import process_log
from dynashare_jax.train import results
from dynashare_jax.train import workdir as workdir_lib

# Values that may change between the starts of one run.
_FREE = (
  "baseline",
  "data_dir",
  "train.threads",
  "train.workers",
  "train.resident",
  "train.candidate_groups",
  "train.shard_state",
)


# Values that configurations once did not have, as runs of then meant them.
_LATER = {
  "model.block": "basic",
  "model.norm": "batch",
  "model.width_factor": 1.0,
  "model.mean": (0.0, 0.0, 0.0),
  "model.std": (1.0, 1.0, 1.0),
  "model.weights": "",
  "model.weights_family": "auto",
  "gates.target_rate": "fixed",
  "gates.sampled_range": (0.2, 1.0),
  "train.loss_at": "logits",
  "train.workers": 0,
  "train.shard_state": False,
  "train.candidate_groups": 1,
  "eval.flip": False,
  "eval.scales": (1.0,),
  "compat.metrics": "pooled",
}


def find_dataset(name: str) -> Any:
  """Returns the module of a data set.

  Raises:
    ValueError: there is none of this name; names the nearest.
  """
  files = sorted(m.name for m in pkgutil.iter_modules(data.__path__))
  if name in files and _is_dataset(name):
    return importlib.import_module(f"{data.__name__}.{name}")
  names = [n for n in files if _is_dataset(n)]
  raise ValueError(
    f"Unknown data set {name!r} in config.dataset."
    f"{lookup.hint(name, names)} Available: {', '.join(names)}."
  )


def _is_dataset(name: str) -> bool:
  """Whether a module of `data` builds a data set, and is no part of others."""
  return hasattr(importlib.import_module(f"{data.__name__}.{name}"), "build")


def dataset_module(config: ml_collections.ConfigDict) -> Any:
  """The module of the config's data set, whose fields `config.data` has.

  Raises:
    ValueError: no such data set, or a field is missing.
  """
  module = find_dataset(config.dataset)
  missing = sorted(set(module.defaults()) - set(config.data))
  if missing:
    raise ValueError(
      f"config.data lacks {', '.join(missing)}, which {config.dataset} needs:"
      " start from a configuration that is made for it."
    )
  return module


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
  module = dataset_module(config)
  dataset: types.Dataset = module.build(
    config.data, config.compat, config.data_dir or None, config.seed
  )
  experiment = experiment_lib.build(config, dataset, method.build, devices)
  if config.baseline:
    results.load_baseline(config.baseline, dataset.spec.tasks)
  return experiment, module.compat()


def run(config: ml_collections.ConfigDict, workdir: str, profile: int = 0) -> dict[str, Any]:
  """Trains what is not trained yet, and writes results, report and a log.

  Args:
    config: the run's.
    workdir: its folder; the same command again resumes there.
    profile: how many steps to record a profile of; 0 for none.

  Returns:
    What `results.json` holds.
  """
  told = cluster.told(config.train.batch_size)
  with process_log.ProcessLog(workdir, jax.process_index(), told):
    return _run(config, workdir, profile)


def _run(config: ml_collections.ConfigDict, workdir: str, profile: int) -> dict[str, Any]:
  """See `run`."""
  fixed = {
    name: value for name, value in workdir_lib.flatten(config.to_dict()) if name not in _FREE
  }
  cluster.check_equal(
    {"configuration": fixed, "code": cluster.code(), "version of jax": jax.__version__}
  )
  experiment, corrected = build(config)
  primary = jax.process_index() == 0
  values = config.to_dict()
  folder = workdir_lib.open_workdir(workdir, values, _FREE, primary=False)
  cluster.check_shared(folder, lambda: workdir_lib.open_workdir(workdir, values, _FREE))
  finished = folder / "results.json"
  if finished.is_file() and (folder / "report.md").is_file():
    logging.info("%s is finished; nothing to do.", folder)
    return dict(json.loads(finished.read_text()))
  loop = loop_lib.Loop(experiment, folder, profile)
  state = loop.run()
  found = results.finish(loop, state, corrected)
  if primary:
    report.write_report(folder)
  return found


def describe(config: ml_collections.ConfigDict, route: str | None = None) -> str:
  """What a run would do and how large it is; no step is run.

  A data set with a function `outline(config.data, config.compat)` that returns
  its `DatasetSpec` need not be on disk.

  Args:
    config: the run's.
    route: see `--route`.
  """
  module = dataset_module(config)
  if hasattr(module, "outline"):
    dataset = outline.without_data(module.outline(config.data, config.compat))
  else:
    dataset = module.build(config.data, config.compat, config.data_dir or None, config.seed)
  experiment = experiment_lib.build(config, dataset, methods.find(config.method).build)
  chosen = None if route is None else outline.read_route(route)
  return outline.describe(experiment, chosen)


def load(workdir: str, data_dir: str = "") -> trained_lib.Trained:
  """Reads the chosen model of a finished run from its folder alone.

  Args:
    workdir: of the run.
    data_dir: where the data lie now; default where they lay in training.

  Raises:
    ValueError: the folder holds no finished run.
  """
  file = pathlib.Path(workdir) / "config.json"
  if not file.is_file():
    raise ValueError(f"{workdir} is no work directory: there is no {file.name} in it.")
  stored = json.loads(file.read_text(encoding="utf-8"))
  config = ml_collections.ConfigDict(stored | {"baseline": ""})
  for name, value in _LATER.items():
    group, _, field = name.partition(".")
    if group in config and field not in config[group]:
      config[group][field] = value
  config.model.weights = ""  # The checkpoint has its own.
  if data_dir:
    config.data_dir = data_dir
  try:
    experiment, _ = build(config)
  except (AttributeError, KeyError) as error:
    raise ValueError(f"{file} was written by another version: {error}.") from error
  return trained_lib.restore(experiment, workdir)


def default_workdir(config: ml_collections.ConfigDict) -> str:
  """`runs/<data set>/<method>-<seed>` below the current folder."""
  return os.path.join("runs", config.dataset, f"{config.method}-{config.seed}")


def summary(found: dict[str, Any], workdir: str) -> str:
  """A few lines for the terminal: every metric on test, where the report is."""
  lines = []
  for task in found["tasks"]:
    values = ", ".join(
      f"{m['name']} {_short(m['test'])} (constant {_short(m['constant'])})" for m in task["metrics"]
    )
    lines.append(f"{task['name']}: {values}")
  lines.append(
    f"executed {100 * found['execution']['mean']:.1f}% of all (task, block, example) triples"
  )
  lines.append(f"report: {pathlib.Path(workdir) / 'report.md'}")
  return "\n".join(lines)


def _short(value: float | None) -> str:
  return "-" if value is None else f"{value:.4g}"


_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "File with the configuration; any value of it can be set as --config.name=value.",
  lock_config=True,
)
_DESCRIBE = flags.DEFINE_bool(
  "describe",
  False,
  "Print phases, shapes, parameters and multiply-"
  "accumulates, and stop: nothing is read where the data set's shape is"
  " known beforehand, and no step is run.",
)
_ROUTE = flags.DEFINE_string(
  "route",
  None,
  "With --describe: a route to count too, a row of 0 and 1 a task, such as 10111111,11111011.",
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


def _main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
  config = _CONFIG.value
  if config is None:
    raise app.UsageError("Name a configuration: --config=configs/rooms.py")
  logging.set_verbosity(logging.WARNING)
  command.use_compilation_cache()
  workdir = _WORKDIR.value or default_workdir(config)

  def work() -> str:
    if _DESCRIBE.value:
      return describe(config, _ROUTE.value)
    place = cluster.Place(_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value)
    if cluster.join(place, cluster.wait_of(os.environ)):
      print(cluster.told(config.train.batch_size), flush=True)
    return summary(run(config, workdir, _PROFILE.value), workdir)

  errors = (ValueError, OSError, FloatingPointError)
  print(
    command.run(
      work,
      f"the same command goes on from the last checkpoint in {workdir}",
      () if os.environ.get("DYNASHARE_TRACEBACK") else errors,
    )
  )


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; what `config_flags` throws becomes one clear line."""
  for argument in argv[1:]:
    if argument.startswith(("--config=", "-config=")):
      _check_config_file(argument.split("=", 1)[1])
  try:
    rest: list[str] = app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    text = " ".join(str(error).replace("\\n", " ").replace("\\", "").split())
    print(f"error: in the --config flags: {text}", file=sys.stderr)
    sys.exit(2)
  return rest


def _check_config_file(name: str) -> None:
  """Ends with one line where there is no such file or setting of it."""
  path = pathlib.Path(name.split(":", 1)[0])
  if path.is_file():
    _check_setting(path, name.split(":", 1)[1:])
    return
  folder = path.parent
  files = sorted(str(p) for p in folder.glob("*.py")) if folder.is_dir() else []
  listed = f" There are: {', '.join(files)}." if files else ""
  print(
    f"error: There is no configuration {name!r}.{lookup.hint(str(path), files)}{listed}",
    file=sys.stderr,
  )
  sys.exit(2)


def _check_setting(path: pathlib.Path, setting: list[str]) -> None:
  """Looks whether a configuration knows what follows its colon."""
  if not setting:
    return
  make = runpy.run_path(str(path)).get("get_config", lambda: None)
  error = ""
  if not inspect.signature(make).parameters:
    error = f"{path} has no settings; leave {':' + setting[0]!r} away."
  else:
    try:
      make(*setting)
    except ValueError as wrong:
      error = str(wrong)
  if error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def cli() -> None:
  """Entry point."""
  app.run(_main, flags_parser=_parse)


if __name__ == "__main__":
  cli()
