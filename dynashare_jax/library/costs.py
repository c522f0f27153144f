"""What a run costs on this machine, and what a route would cost before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import numbers
import os
import pathlib
import platform
import statistics
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from dynashare_jax import methods
from dynashare_jax import runs
from dynashare_jax.checkpoints import lock
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.data import identity
from dynashare_jax.data import loader
from dynashare_jax.infer import clock
from dynashare_jax.infer import cost as cost_lib
from dynashare_jax.infer import latency
from dynashare_jax.infer import settings as settings_lib
from dynashare_jax.infer import strategy
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.sharing import prices
from dynashare_jax.train import baselines
from dynashare_jax.train import experiment as experiment_lib
from dynashare_jax.train import outline
from dynashare_jax.train import results as results_lib

FULL = "full"  # every block for every task
_SEPARATE = "single"  # the method with one network per task
_WORDS = (
  "Masked: every block for every task, as the authors compute. Planned: what the route skips is"
  " never computed, what tasks share is computed once. Planned + gated: examples that an instance"
  " gate skips are left out, too. All of them decide and predict alike."
)
_EXAMPLES = 128  # of the test split that are executed, at most
_MORE = 5  # times as many rounds for the parts of a network, which are short


@dataclasses.dataclass(frozen=True)
class Settings:
  """How costs are measured.

  Attributes:
    batches: batch sizes; the first one's latency is shown.
    repeats: rounds.
    latency: file for the milliseconds of the network's parts; empty for none.
    baseline: work directory of single-task runs, for their metrics; default the run's own.
    needed: whether examples of the data set must be at hand.
  """

  batches: tuple[int, ...] = (1, 8, 32)
  repeats: int = 20
  latency: str = ""
  baseline: str = ""
  needed: bool = False

  def __post_init__(self) -> None:
    """Refuses batches, rounds and files that cannot be.

    Raises:
      ValueError: names what is wrong.
    """
    sizes = self.batches
    whole = all(isinstance(size, numbers.Integral) for size in sizes)
    if not sizes or not whole or min(sizes) < 1 or len(set(sizes)) < len(sizes):
      raise ValueError(f"Give different batch sizes of at least 1, not {sizes}.")
    if self.repeats < 1:
      raise ValueError(f"The rounds are {self.repeats}; there must be at least 1.")
    folder = pathlib.Path(self.latency).absolute().parent
    if self.latency and not folder.is_dir():
      raise ValueError(f"{self.latency} cannot be written: there is no folder {folder}.")


class Time(NamedTuple):
  """What a batch takes with a setting of the gates.

  Attributes:
    budget: of the setting; None as trained, and for `full`.
    way: to leave out what gates skip, of `infer.strategy.WAYS`; or `full`.
    ms: median milliseconds.
  """

  budget: float | None
  way: str
  ms: float


@dataclasses.dataclass(frozen=True)
class Times:
  """Settings of the gates, timed in turns.

  Attributes:
    rows: for every setting every way; the last one is `full`, every block for every task.
    about: batch, device and rounds.
  """

  rows: tuple[Time, ...]
  about: str

  @property
  def quickest(self) -> tuple[Time, ...]:
    """Of every setting the quickest way."""
    found: dict[float | None, Time] = {}
    for row in self.rows[:-1]:
      found[row.budget] = min(found.get(row.budget, row), row, key=lambda row: row.ms)
    return tuple(found.values())

  def _repr_markdown_(self) -> str:
    """What a notebook shows: a row a setting, and what its quickest way saves."""
    from dynashare_jax.report import tables

    full, ways = self.rows[-1].ms, list(dict.fromkeys(row.way for row in self.rows[:-1]))
    ms = {(row.budget, row.way): row.ms for row in self.rows}
    columns = ["budget", "quickest", *(f"{way} (ms)" for way in ways), "saved (%)"]
    body: list[list[Any]] = [
      ["as trained" if best.budget is None else tables.format_number(best.budget), best.way]
      + [ms[best.budget, way] for way in ways]
      + [tables.Cell(100 - 100 * best.ms / full, digits=1)]
      for best in self.quickest
    ]
    told = f"{self.about} Saved: of `{FULL}`, every block for every task, {full:.4g} ms."
    return f"{tables.markdown(tables.table(columns, body, words=2))}\n\n{told}"

  def __repr__(self) -> str:
    return self._repr_markdown_()


def times(
  trained: trained_lib.Trained,
  settings: Sequence[settings_lib.Setting] = (),
  batch: int = 32,
  rounds: int = 9,
) -> Times:
  """Times settings of the gates on this device, in every way to leave out what they skip.

  Args:
    trained: with gates.
    settings: default the gates as trained.
    batch: test examples of a call.
    rounds: in each of which every setting and way has its turn; medians are taken.

  Raises:
    ValueError: the run has no gates, or the test split fewer examples.
  """
  Settings((batch,), rounds)
  if not any(trained.gated):
    raise ValueError(f"{trained.workdir} has no instance gates, whose settings could be timed.")
  inputs, which = examples(trained, batch)
  calls = _calls(trained, settings, inputs, batch)
  clock.alternate(calls, 1)  # Compiles and warms up.
  found = clock.alternate(calls, rounds)
  rows = [Time(*key, 1000 * statistics.median(timing.steady)) for key, timing in found.items()]
  device = jax.local_devices()[0]
  kind = "processor time of one core" if clock.one_core() else "elapsed time"
  about = (
    f"Batch of {batch}, {which}; {device.device_kind} ({device.platform}); medians of {rounds}"
    f" rounds in turns, {kind}."
  )
  return Times(tuple(rows), about)


def _calls(
  trained: trained_lib.Trained, settings: Sequence[settings_lib.Setting], inputs: Any, batch: int
) -> dict[tuple[float | None, str], Callable[[], Any]]:
  """Budget and way -> a call on one device; the last one is `full`."""
  variables, inputs = jax.device_put((trained.variables, inputs), jax.local_devices()[0])
  knobs: dict[float | None, tuple[Any, float]] = {
    setting.budget: (setting.thresholds, setting.target_rate) for setting in settings
  }
  if len(knobs) < len(settings):
    raise ValueError("Two settings have the same budget: time them one after the other.")
  knobs = knobs or {None: ((0.0,) * len(trained.gated), trained.sharing.target_rate)}

  def call(program: Any, threshold: Any, target: float) -> Callable[[], Any]:
    numbers = np.asarray(threshold, np.float32), np.float32(target)
    return functools.partial(program, variables, inputs, *numbers)

  programs = {
    name: _program(trained, trained_lib.Execution(compaction=way))
    for name, way in strategy.WAYS.items()
    if not (batch == 1 and name == "buckets")  # One row has none.
  }
  calls = {
    (budget, name): call(program, *knob)
    for budget, knob in knobs.items()
    for name, program in programs.items()
  }
  whole = call(_program(trained, trained_lib.MASKED), *next(iter(knobs.values())))
  return calls | {(None, FULL): whole}


def _program(trained: trained_lib.Trained, how: trained_lib.Execution) -> Callable[..., Any]:
  """Logits of variables, inputs, thresholds and the rate that gates may read, compiled."""

  def run(variables: Any, inputs: Any, threshold: Any, target: Any) -> Any:
    return trained.forward(how, threshold=threshold, target_rate=target)(variables, inputs)[0]

  return jax.jit(run)


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
      f"A batch of {count} cannot be taken from the {size} test examples: give a smaller one."
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


def _baseline(trained: trained_lib.Trained, given: str) -> dict[str, dict[str, float]] | None:
  """Metrics of single-task runs: named here, or when the run was trained.

  A run of single-task networks is its own.
  """
  if trained.experiment.method.independent:
    given = str(trained.workdir)
  if not given:
    stored = json.loads((trained.workdir / "config.json").read_text())["baseline"]
    stored = (results_lib.read(trained.workdir).get("delta") or {}).get("baseline", stored)
    given = "" if not stored or baselines.is_store(stored) else stored
  return baselines.load(given, trained.tasks).values if given else None


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


def of_a_route(config: ml_collections.ConfigDict, route: str, settings: Settings) -> str:
  """Predicts and measures a route of a configuration's network; returns Markdown.

  Args:
    config: of a run that need not be trained.
    route: a row of 0 and 1 a task, as in `1011,1111`; empty is all 1.
    settings: of which the first batch size counts.
  """
  config = ml_collections.ConfigDict(config.to_dict())
  config.policy.update(latency="", budget_ms=0.0)  # That are to be measured.
  trained = runs.untrained(config)
  rows = outline.read_route(route) if route else trained.route
  one, rounds = trained.experiment.one_example(), _MORE * settings.repeats
  inputs = jax.tree.map(lambda a: np.repeat(np.asarray(a), settings.batches[0], 0), one)
  found = latency.check(trained, inputs, rows, rounds)
  _keep(settings.latency, trained, found, rounds)
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


def measure(
  trained: trained_lib.Trained, settings: Settings, tell: Callable[[str], None] | None = None
) -> str:
  """Measures a finished run; writes its page anew, and returns the page of its costs as Markdown.

  Args:
    trained: the run.
    settings: how.
    tell: hears what is measured next.

  Raises:
    ValueError: a batch is larger than the test split, or the parts of a network that has none are
      to be kept.
  """
  tell = tell or (lambda text: None)
  baseline = _baseline(trained, settings.baseline)
  folder, batches, rounds = trained.workdir, settings.batches, _MORE * settings.repeats
  found = results_lib.read(folder)
  size = trained.experiment.dataset.spec.sizes["test"]
  inputs, which = examples(trained, max(*batches, min(size, _EXAMPLES)), settings.needed)
  rate = np.asarray(found["execution"]["rate"], float)
  columns = trained.experiment.method.independent
  if settings.latency and (columns or trained.plan is None):
    raise ValueError("--latency needs a model with routes: this one executes all for every task.")
  chosen = cost_lib.subjects(trained, rate, None if columns else separate(trained))
  costs = cost_lib.measure(chosen, inputs, batches, settings.repeats, tell)
  blocks: tuple[cost_lib.Block, ...] = ()
  checked = None
  if trained.plan is not None and not columns:
    blocks = cost_lib.blocks(trained, rate)
    first = jax.tree.map(lambda a: a[: batches[0]], inputs)
    tell("timing every block alone")
    checked = latency.check(trained, first, trained.route, rounds)
    _keep(settings.latency, trained, checked, rounds)
  from dynashare_jax.report.cost import cost as report

  scores = report.scores_of(found, baseline)
  measured = f"{settings.repeats} rounds; batch sizes {', '.join(map(str, batches))}; {which}"
  facts = _facts(trained, found, batches, measured)
  text = report.write(folder, costs, blocks, scores, facts, checked)
  if (folder / "report.md").is_file():
    from dynashare_jax.report.run import report as of_the_run

    of_the_run.write_report(folder)
  return text


def measure_all(
  folders: Sequence[str | pathlib.Path],
  settings: Settings,
  tell: Callable[[str], None] = lambda text: None,
) -> None:
  """Measures those finished runs that `cost` has not measured at the first batch size yet."""
  from dynashare_jax.report import workdir as report_workdir
  from dynashare_jax.report.run import served

  for folder in folders:
    known = served.measured(report_workdir.load(folder))
    if known is None or known.batch != settings.batches[0]:
      tell(f"{folder}: measuring what it costs")
      with lock.held(folder):
        measure(runs.load(str(folder)), settings, tell)
