"""A run, from its configuration to its report; and a finished one, from its folder."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pathlib
import pkgutil
import threading
from typing import Any

from absl import logging
import jax
import ml_collections

from dynashare_jax import data
from dynashare_jax import defaults
from dynashare_jax import lookup
from dynashare_jax import methods
from dynashare_jax import types
from dynashare_jax.checkpoints import lock
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.data import identity
from dynashare_jax.distributed import cluster
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.models import weights
from dynashare_jax.monitoring import process_log
from dynashare_jax.train import checks
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import loop as loop_lib
from dynashare_jax.train import outline
from dynashare_jax.train import results
from dynashare_jax.train import stages

# Values that may change between the starts of one run.
_FREE = "threads workers resident candidate_groups shard_state"  # of `config.train`
_LATENCY = "policy_latency.json"  # of a folder: what its run's budget in milliseconds goes by
FREE = (
  "baseline",
  "mixed",
  "data_dir",
  "data_changed",
  *(f"train.{name}" for name in _FREE.split()),
)


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
  """Returns the module of the config's data set, whose fields `config.data` has.

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


def _check(config: ml_collections.ConfigDict) -> None:
  """Refuses names that no value has, which only unlocked configurations take, and wrong values."""
  known = {name for name, _ in workdir_lib.flatten(defaults.get_config().to_dict())}
  known |= {f"data.{name}" for name in dataset_module(config).defaults()}
  for name, _ in workdir_lib.flatten(config.to_dict()):
    group, _, rest = name.partition(".")
    inner = f"data.{rest.partition('.')[0]}" if group == "data" else name
    if inner not in known and group != "compat":  # Where data sets have switches of their own.
      raise ValueError(f"There is no config.{inner}.{lookup.hint_dotted(inner, known)}")
  checks.values(config)


def open_dataset(config: ml_collections.ConfigDict) -> types.Dataset:
  """Opens the data set that a configuration names, where `config.data_dir` says that it lies."""
  found: types.Dataset = dataset_module(config).build(
    config.data, config.compat, config.data_dir or None, config.seed
  )
  return found


def build(
  config: ml_collections.ConfigDict,
  devices: Any = None,
  folder: pathlib.Path | None = None,
  dataset: types.Dataset | None = None,
) -> tuple[experiment_lib.Experiment, dict[str, str]]:
  """Puts a run together and checks it, on all devices by default; nothing is trained.

  Args:
    devices: to run on.
    folder: of a run that goes on, whose data must be the same unless `config.data_changed` says
      otherwise.
    dataset: in memory; default the one that the configuration names.

  Returns:
    The experiment, and the data set's compat switches at their corrected values.
  """
  _check(config)
  module = dataset_module(config)
  dataset = dataset or open_dataset(config)
  if folder is not None:
    dataset = _same(config, dataset, folder)
  if hasattr(module, "check"):
    module.check(dataset)
  experiment = _experiment(config, dataset, devices)
  results.check_baseline(experiment)
  return experiment, module.compat()


def open_workdir(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]
) -> pathlib.Path:
  """Creates the folder of a run, or checks that it is of this configuration.

  Values of `FREE` may differ, and those that a folder of an older version lacks
  count as `defaults.filled` says.

  Raises:
    ValueError: it is of another one; lists all differences.
  """
  module = find_dataset(config.dataset)
  filled = functools.partial(defaults.filled, data=module.defaults(), compat=module.compat())
  return workdir_lib.open_workdir(workdir, config.to_dict(), FREE, filled=filled)


def run(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike[str],
  profile: int = 0,
  dataset: types.Dataset | None = None,
) -> dict[str, Any]:
  """Trains what is not trained yet; writes results, report and a log; returns the results.

  Args:
    workdir: its folder; the same command again resumes there.
    profile: how many steps to record a profile of; 0 for none.
    dataset: in memory; default the one that the configuration names.
  """
  folder = pathlib.Path(workdir).expanduser().absolute()
  with contextlib.ExitStack() as stack:
    alone = threading.Event()

    def begin() -> None:
      stack.enter_context(lock.held(folder, make=True))

    several = jax.distributed.is_initialized()
    if not several:  # Before devices are looked for, which takes seconds.
      begin()
      alone.set()
    told = cluster.told(config.train.batch_size)
    own = lambda: alone.is_set() and _is_of(config, folder)
    stack.enter_context(process_log.ProcessLog(folder, jax.process_index(), told, own))
    values = workdir_lib.flatten(config.to_dict())
    fixed = {name: value for name, value in values if name not in FREE}
    same = {"configuration": fixed, "code": cluster.code(), "version of jax": jax.__version__}
    cluster.check_equal(same)
    if several:
      cluster.by_first(folder, begin)
      alone.set()
    kept = folder / _LATENCY
    known = bool(config.policy.latency) and kept.is_file() and _is_of(config, folder)
    chosen = _timed_by(config, kept) if known else config
    there = folder if _is_of(config, folder) else None
    experiment, corrected = build(chosen, folder=there, dataset=dataset)
    primary = jax.process_index() == 0

    def prepare() -> None:
      open_workdir(config, folder)
      workdir_lib.write_spec(folder, experiment.dataset.spec)

    cluster.check_shared(folder, prepare)
    if primary and config.policy.latency and not known:
      text = pathlib.Path(config.policy.latency).read_text(encoding="utf-8")
      workdir_lib.write_text(kept, text)
    finished = folder / "results.json"
    if finished.is_file() and (folder / "report.md").is_file():
      logging.info("%s is finished; nothing to do.", folder)
      return results.read(folder)
    if primary and (config.data_changed == identity.ALLOW or workdir_lib.read_data(folder) is None):
      workdir_lib.write_json(folder / workdir_lib.DATA, identity.of(experiment.dataset))
    loop = loop_lib.Loop(experiment, folder, profile)
    state = stages.run(loop)
    found = results.finish(loop, state, corrected)
    if primary:
      from dynashare_jax.report.run import report  # Matplotlib takes most of a second.

      report.write_report(folder)
    return found


def _same(
  config: ml_collections.ConfigDict, dataset: types.Dataset, folder: pathlib.Path
) -> types.Dataset:
  """The data set as the run of a folder goes on with it."""
  before = workdir_lib.read_data(folder)
  if before is None:
    return dataset
  spec, place = workdir_lib.read_spec(folder), config.data_dir or dataset.spec.name
  tasks = () if spec is None else spec.tasks
  return identity.kept(dataset, before, tasks, config.data_changed, place)


def _is_of(config: ml_collections.ConfigDict, folder: pathlib.Path) -> bool:
  """Whether a folder holds a run of this configuration."""
  try:
    return workdir_lib.is_opened(folder) and bool(open_workdir(config, folder))
  except ValueError:
    return False


def _timed_by(config: ml_collections.ConfigDict, file: pathlib.Path) -> ml_collections.ConfigDict:
  """The configuration with the milliseconds of another file."""
  found = ml_collections.ConfigDict(config.to_dict())
  found.policy.latency = str(file)
  return found


def describe(config: ml_collections.ConfigDict, route: str | None = None) -> str:
  """Describes what a run would do and how large it is; no step is run.

  A data set with a function `outline(config.data, config.compat)` that returns
  its `DatasetSpec` need not be on disk. A route is text as of `--route`.
  """
  experiment = _outlined(config)
  chosen = None if route is None else outline.read_route(route)
  return outline.describe(experiment, chosen)


def untrained(config: ml_collections.ConfigDict) -> trained_lib.Trained:
  """Returns the network of a configuration with fresh weights, every block for every task.

  What it costs to execute does not depend on the weights. A data set with a function `outline`
  need not be on disk.
  """
  return trained_lib.untrained(_outlined(config))


def _outlined(config: ml_collections.ConfigDict) -> experiment_lib.Experiment:
  """A run's parts; its data are opened only where their shapes are not known beforehand."""
  _check(config)
  module = dataset_module(config)
  if hasattr(module, "outline"):
    dataset = outline.without_data(module.outline(config.data, config.compat))
  else:
    dataset = open_dataset(config)
  return _experiment(config, dataset)


def _experiment(
  config: ml_collections.ConfigDict, dataset: types.Dataset, devices: Any = None
) -> experiment_lib.Experiment:
  """A run's parts; it may start from the weights of a finished run."""
  make, start = methods.find(config.method).build, None
  if config.model.weights and pathlib.Path(config.model.weights).is_dir():
    start = _source(config.model.weights)
  elif config.random.like and config.train.retrain_from == "policy":
    start = _source(config.random.like, searched=True)
  return experiment_lib.build(config, dataset, make, devices, start)


def _source(folder: str, searched: bool = False) -> weights.Source | None:
  """The weights of a finished run: of its chosen model, or what its re-trainings began with."""
  other = load(folder)
  found = trained_lib.searched(other) if searched else (other.params, other.stats)
  network = other.experiment.network
  return found and weights.Source(folder, *found, network.leaves(), network.names)


def load(
  workdir: str | os.PathLike[str], data_dir: str = "", data_changed: str = ""
) -> trained_lib.Trained:
  """Reads the chosen model of a finished run from its folder alone.

  The data set is opened when an example of it is first read, and at once for a
  run of an older version, whose folder has no `spec.json`.

  Args:
    data_dir: where the data lie now; default where they lay in training.
    data_changed: of `identity.CHANGED`, for data that are not those of the run; default refuse.

  Raises:
    ValueError: the folder holds no finished run; later, where an example is read: the data set is
      another one.
  """
  file = pathlib.Path(workdir) / "config.json"
  if not file.is_file():
    raise ValueError(f"{workdir} is no work directory: there is no {file.name} in it.")
  try:
    stored = dict(json.loads(file.read_text(encoding="utf-8")))
  except (ValueError, TypeError) as error:
    raise ValueError(f"{file} is no configuration of a run: {error}.") from error
  try:
    module = find_dataset(stored["dataset"])
    config = ml_collections.ConfigDict(
      defaults.filled(stored, module.defaults(), module.compat()) | {"baseline": "", "mixed": ""}
    )
    # What a run starts from, which its checkpoint does not need.
    config.model.weights = config.random.like = ""
    if config.policy.latency:
      config.policy.latency = str(pathlib.Path(workdir) / _LATENCY)
    config.data_dir = data_dir or config.data_dir
    config.data_changed = lookup.one_of(
      "data_changed", data_changed or identity.REFUSE, identity.CHANGED
    )
    spec = workdir_lib.read_spec(workdir)
    folder = pathlib.Path(workdir)
    _check_spec(spec, folder)
    if spec is None:
      dataset = _same(config, open_dataset(config), folder)
    else:
      dataset = _unopened(config, spec, folder)
    experiment = experiment_lib.build(config, dataset, methods.find(config.method).build)
  except (AttributeError, KeyError) as error:
    raise ValueError(f"{file} was written by another version: {error}.") from error
  return trained_lib.restore(experiment, pathlib.Path(workdir))


def _check_spec(spec: types.DatasetSpec | None, folder: pathlib.Path) -> None:
  """Refuses a `spec.json` of another run: its names would stand for what this network says."""
  before = None if spec is None else workdir_lib.read_data(folder)
  if spec is None or before is None:
    return
  now = identity.described(spec)
  if found := identity.differences({part: before.get(part) for part in now}, now):
    raise ValueError(
      f"{folder / workdir_lib.SPEC} is not of this run, as {workdir_lib.DATA} tells:"
      f" {'; '.join(found)}. Delete the first; without it, the data set is read."
    )


def _unopened(
  config: ml_collections.ConfigDict, spec: types.DatasetSpec, folder: pathlib.Path
) -> types.Dataset:
  """A data set that is opened when it is first read."""

  @functools.cache
  def opened() -> types.Dataset:
    found = _same(config, open_dataset(config), folder)
    fixed = ("input_shape",) if config.data_changed == identity.ALLOW else ("input_shape", "sizes")
    for name in fixed:
      before, now = getattr(spec, name), getattr(found.spec, name)
      if before != now:
        raise ValueError(
          f"The data set {spec.name} of {config.data_dir or 'this machine'} is another one than"
          f" that of the run: its {name} was {before} and is {now}. Name the right folder with"
          " --data_dir."
        )
    return found

  return types.Dataset(
    spec, lambda split: opened().arrays(split), lambda split: opened().source(split)
  )


def default_workdir(config: ml_collections.ConfigDict) -> str:
  """Returns `runs/<data set>/<method>-<seed>`, below the current folder."""
  return os.path.join("runs", config.dataset, f"{config.method}-{config.seed}")


def summary(found: dict[str, Any], workdir: str) -> str:
  """Returns a few lines for the terminal: every metric on test, where the report is."""
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
