"""Measures what a finished run costs: parameters, work, memory and time.

  python -m dynashare_jax cost --workdir=runs/rooms/dynashare-0

Compares masked, planned and gated execution and separate single-task networks,
for all tasks together and for every task alone, on this machine; and times every
block alone, which predicts the milliseconds of any route. Writes `cost.md`,
`cost.csv` and `figures/cost.png` into the run's folder, and its `report.md` anew, which shows what
was measured.

  python -m dynashare_jax cost --config=configs/rooms.py --route=11110000,11111111,10101010

predicts and measures a route of a network that is not trained yet. With `--latency=FILE` either
command keeps the milliseconds of the parts, by which `--config.policy.latency=FILE
--config.policy.budget_ms=3.2` bounds the routes of a search.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import platform
import sys
from typing import Any

import jax
import ml_collections
import numpy as np

from dynashare_jax import methods
from dynashare_jax import runs as main_lib
from dynashare_jax.checkpoints import lock
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.cli import configs
from dynashare_jax.cli import guard as command
from dynashare_jax.data import identity
from dynashare_jax.data import loader
from dynashare_jax.infer import clock
from dynashare_jax.infer import cost as cost_lib
from dynashare_jax.infer import latency
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.sharing import prices
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import outline
from dynashare_jax.train import results as results_lib

_SEPARATE = "single"  # the method with one network per task
_WORDS = (
  "Masked: every block for every task, as the authors compute. Planned: what the route skips is"
  " never computed, what tasks share is computed once. Planned + gated: examples that an instance"
  " gate skips are left out, too. All of them decide and predict alike."
)
_EXAMPLES = 128  # of the test split that are executed, at most


_MORE = 5  # times as many rounds for the parts of a network, which are short

_ARGUMENTS = {
  "workdir": ("", "of a finished run"),
  "config": ("", "instead: a file of configs/, for the milliseconds of a route before training"),
  "route": ("", "with --config: a row of 0 and 1 a task, as in 1011,1111 (default: all 1)"),
  "batches": ("1,8,32", "batch sizes with commas; the first one's latency is shown"),
  "repeats": (20, "rounds"),
  "latency": (
    "",
    "file to write the milliseconds of the network's parts to, at the first batch size",
  ),
  "data_dir": ("", "where the data lie now (default: where they lay in training)"),
  "data_changed": (identity.REFUSE, "what to do with data that changed since: refuse, old, allow"),
  "baseline": (
    "",
    "work directory of single-task runs, for their metrics (default: the run's own baseline, if it"
    " is still there)",
  ),
}


def separate(trained: trained_lib.Trained) -> trained_lib.Trained:
  """Returns single-task networks of the same configuration, with fresh weights.

  Their cost does not depend on the weights.
  """
  config = ml_collections.ConfigDict(trained.experiment.config.to_dict())
  config.method = _SEPARATE
  experiment = experiment_lib.build(
    config, trained.experiment.dataset, methods.find(_SEPARATE).build
  )
  return trained_lib.untrained(experiment, trained.workdir)


def examples(trained: trained_lib.Trained, count: int, needed: bool = False) -> tuple[Any, str]:
  """Returns inputs of the first test examples, stacked, and a name for them.

  Zeros take their place where the data set cannot be opened, unless it is needed.

  Raises:
    ValueError: the test split has fewer, or is needed and cannot be opened.
  """
  dataset = trained.experiment.dataset
  size = dataset.spec.sizes["test"]
  if count > size:
    raise ValueError(
      f"A batch of {count} cannot be taken from the {size} test examples: give smaller --batches."
    )
  try:
    source = dataset.source("test")
    found = loader.stack([source[i] for i in range(count)]).inputs
  except (ValueError, OSError) as error:
    if needed or isinstance(error, identity.ChangedError):
      raise
    zeros = jax.tree.map(
      lambda a: np.repeat(np.asarray(a), count, 0), trained.experiment.one_example()
    )
    return zeros, (
      "zeros instead of examples, which gates may treat otherwise, because the"
      f" data set cannot be opened ({error})"
    )
  return found, "examples of the test split"


def read_batches(text: str) -> tuple[int, ...]:
  """Reads batch sizes from text such as `1,8,32`.

  Raises:
    ValueError: something else than positive numbers with commas.
  """
  try:
    found = tuple(int(part) for part in text.split(","))
  except ValueError:
    found = ()
  if not found or min(found) < 1 or len(set(found)) < len(found):
    raise ValueError(
      f"--batches is {text!r}; give different numbers of at least 1 with commas, as in 1,8,32."
    )
  return found


def _baseline(trained: trained_lib.Trained, given: str) -> dict[str, dict[str, float]] | None:
  """Metrics of single-task runs: named here, or when the run was trained.

  A run of single-task networks is its own.
  """
  if trained.experiment.method.independent:
    given = str(trained.workdir)
  if not given:
    stored = json.loads((trained.workdir / "config.json").read_text())["baseline"]
    given = stored if stored and (pathlib.Path(stored) / "results.json").is_file() else ""
  return results_lib.load_baseline(given, trained.tasks) if given else None


def _facts(
  trained: trained_lib.Trained, found: dict[str, Any], batches: Sequence[int], measured: str
) -> list[str]:
  """Lines about the run and the machine."""
  device = jax.devices()[0]
  threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  lines = [
    f"Run: {found['method']} on {found['dataset']}, seed {found['seed']};"
    f" {len(trained.tasks)} tasks, {trained.experiment.units} blocks.",
    f"Device: {device.device_kind} ({device.platform}), {threads} processor cores allowed; load"
    f" average {os.getloadavg()[0]:.1f} (other work slows what is measured). jax"
    f" {jax.__version__}, Python {platform.python_version()}.",
    f"{measured}.",
  ]
  if not trained.experiment.method.independent:
    lines.append(_WORDS)
  if any(trained.gated):
    ways = "; ".join(
      f"batch {b}: {_way(strategy.of(trained, b, device.platform))}" for b in batches
    )
    lines.append(f"Left out by: {ways}.")
  return lines


def _way(how: Any) -> str:
  """A compaction in words."""
  if how is None:
    return "nothing, computed and masked"
  if how.how == "rows":
    return "one condition a row"
  return f"{how.buckets} bucket sizes"


def _before_training(
  path: str, overrides: Sequence[str], route: str, batch: int, repeats: int, kept: str
) -> str:
  """Predicts and measures a route of a configuration's network; perhaps keeps the parts."""
  config = configs.load(path, overrides)
  config.policy.update(latency="", budget_ms=0.0)  # That are to be measured.
  trained = main_lib.untrained(config)
  rows = outline.read_route(route) if route else trained.route
  one = trained.experiment.one_example()
  inputs = jax.tree.map(lambda a: np.repeat(np.asarray(a), batch, 0), one)
  found = latency.check(trained, inputs, rows, _MORE * repeats)
  _keep(kept, trained, found, _MORE * repeats)
  from dynashare_jax.report.cost import cost as report

  return "\n\n".join(report.latency_sections(found)) + "\n"


def _keep(path: str, trained: trained_lib.Trained, found: latency.Checked, rounds: int) -> None:
  """Writes the milliseconds of the parts to a file, if one is named; refuses none at all."""
  if not path:
    return
  if not any(found.latency.blocks):
    raise ValueError(
      f"No block took time that {rounds} rounds could tell from noise, and --latency={path} was not"
      " written: give more --repeats, or a larger batch (--batches)."
    )
  device, experiment = jax.devices()[0], trained.experiment
  timed = prices.Timed(found.latency, found.batch, f"{device.device_kind} ({device.platform})")
  about = {
    "clock": "processor time of one core" if clock.one_core() else "elapsed time",
    "rounds": rounds,
    "versions": {"python": platform.python_version(), "jax": jax.__version__},
  }
  network = experiment_lib.identity(experiment.config, experiment.dataset.spec)
  workdir_lib.write_json(path, prices.to_dict(timed, network, about))


def run(argv: Sequence[str] | None) -> str:
  """Measures and writes the page; returns its text.

  Raises:
    ValueError: an argument or a folder that does not fit.
  """
  about = "Shows what a finished run costs on this machine, or a route before training."
  more = "With --config, any value of it can be set as --config.name=value."
  arguments, rest = command.parser("cost", about, _ARGUMENTS, more).parse_known_args(argv)
  overrides = [
    match[1] + "=" + match[2] for match in map(configs.OVERRIDE.fullmatch, rest) if match
  ]
  if len(overrides) < len(rest) or (rest and not arguments.config):
    raise ValueError(f"Unexpected arguments: {' '.join(rest)}.")
  if bool(arguments.workdir) == bool(arguments.config):
    raise ValueError("Give the --workdir of a finished run, or a --config to be trained.")
  if arguments.route and not arguments.config:
    raise ValueError("--route needs a --config: a finished run has a route.")
  batches = read_batches(arguments.batches)
  if arguments.repeats < 1:
    raise ValueError(f"--repeats is {arguments.repeats}; it must be at least 1.")
  kept = arguments.latency
  if kept and not pathlib.Path(kept).absolute().parent.is_dir():
    raise ValueError(f"--latency={kept}: there is no folder {pathlib.Path(kept).parent}.")
  if arguments.config:
    return _before_training(
      arguments.config, overrides, arguments.route, batches[0], arguments.repeats, kept
    )
  with lock.held(arguments.workdir):
    return _of_a_run(arguments, batches)


def _of_a_run(arguments: argparse.Namespace, batches: tuple[int, ...]) -> str:
  """Measures a finished run, and writes its page anew."""
  kept = arguments.latency
  trained = main_lib.load(arguments.workdir, arguments.data_dir, arguments.data_changed)
  baseline = _baseline(trained, arguments.baseline)
  folder = trained.workdir
  found = results_lib.read(folder)
  size = trained.experiment.dataset.spec.sizes["test"]
  count = max(*batches, min(size, _EXAMPLES))
  inputs, which = examples(trained, count, bool(arguments.data_dir))
  rate = np.asarray(found["execution"]["rate"], float)
  columns = trained.experiment.method.independent
  if kept and (columns or trained.plan is None):
    raise ValueError("--latency needs a model with routes: this one executes all for every task.")
  chosen = cost_lib.subjects(trained, rate, None if columns else separate(trained))
  tell = lambda text: print(text, file=sys.stderr, flush=True)
  costs = cost_lib.measure(chosen, inputs, batches, arguments.repeats, tell)
  blocks: tuple[cost_lib.Block, ...] = ()
  checked = None
  if trained.plan is not None and not columns:
    blocks = cost_lib.blocks(trained, rate)
    first = jax.tree.map(lambda a: a[: batches[0]], inputs)
    tell("timing every block alone")
    checked = latency.check(trained, first, trained.route, _MORE * arguments.repeats)
    _keep(kept, trained, checked, _MORE * arguments.repeats)
  from dynashare_jax.report.cost import cost as report

  scores = report.scores_of(found, baseline)
  measured = f"{arguments.repeats} rounds; batch sizes {', '.join(map(str, batches))}; {which}"
  facts = _facts(trained, found, batches, measured)
  text = report.write(folder, costs, blocks, scores, facts, checked)
  if (folder / "report.md").is_file():
    from dynashare_jax.report.run import report as of_the_run

    of_the_run.write_report(folder)
  return text


def cli(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with 2 after an error, 130 after an interruption."""
  command.use_compilation_cache()
  print(command.run(lambda: run(argv), "nothing was written."))
