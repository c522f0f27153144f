"""A run, from its configuration to its report; and a finished one, from its folder."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import pkgutil
from typing import Any

from absl import logging
import jax
import ml_collections

from dynashare_jax import data
from dynashare_jax import lookup
from dynashare_jax import methods
from dynashare_jax import types
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.distributed import cluster
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.monitoring import process_log
from dynashare_jax.report.run import report
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import outline
from dynashare_jax.train import results
from dynashare_jax.train import stages

# Values that may change between the starts of one run.
FREE = (
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
  """Returns the module of a data set: `data/<name>/dataset.py`, or `data/<name>.py`.

  Raises:
    ValueError: there is none of this name; names the nearest.
  """
  found = {m.name: m.ispkg for m in pkgutil.iter_modules(data.__path__)}
  if name in found and (module := _dataset_of(name, found[name])) is not None:
    return module
  names = sorted(n for n, package in found.items() if _dataset_of(n, package) is not None)
  raise ValueError(
    f"Unknown data set {name!r} in config.dataset."
    f"{lookup.hint(name, names)} Available: {', '.join(names)}."
  )


def _dataset_of(name: str, package: bool) -> Any:
  """The module that builds a data set; None where `data` has another thing of this name."""
  module = importlib.import_module(f"{data.__name__}.{name}{'.dataset' * package}")
  return module if hasattr(module, "build") else None


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
  fixed = {name: value for name, value in workdir_lib.flatten(config.to_dict()) if name not in FREE}
  cluster.check_equal(
    {"configuration": fixed, "code": cluster.code(), "version of jax": jax.__version__}
  )
  experiment, corrected = build(config)
  primary = jax.process_index() == 0
  values = config.to_dict()
  folder = workdir_lib.open_workdir(workdir, values, FREE, primary=False)
  cluster.check_shared(folder, lambda: workdir_lib.open_workdir(workdir, values, FREE))
  finished = folder / "results.json"
  if finished.is_file() and (folder / "report.md").is_file():
    logging.info("%s is finished; nothing to do.", folder)
    return dict(json.loads(finished.read_text()))
  loop = loop_lib.Loop(experiment, folder, profile)
  state = stages.run(loop)
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
  if "balance" not in config:
    config.balance = {"name": "fixed"}
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
