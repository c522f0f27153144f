"""A trained run: what it says, what it costs, what it decided."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
import dataclasses
import functools
import html
import os
import pathlib
import shutil
from typing import Any, TYPE_CHECKING
import weakref

import jax
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import runs
from dynashare_jax import types
from dynashare_jax.checkpoints import lock
from dynashare_jax.checkpoints import workdir as workdir_lib
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.infer import artefact
from dynashare_jax.infer import calibrate as calibrate_lib
from dynashare_jax.infer import export as export_lib
from dynashare_jax.infer import settings as settings_lib
from dynashare_jax.infer import trained as trained_lib
from dynashare_jax.library import budgets as budgets_lib
from dynashare_jax.library import costs
from dynashare_jax.library import data as data_lib
from dynashare_jax.objectives import kinds
from dynashare_jax.sharing import plan as plan_lib
from dynashare_jax.train import baselines
from dynashare_jax.train import evaluate as evaluate_lib
from dynashare_jax.train import labels as labels_lib
from dynashare_jax.train import results as results_lib

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_BATCH = {"image": 32, "table": 1024, "series": 128}  # of predictions


class Run:
  """A finished run, from its folder.

  Attributes:
    workdir: its folder, which has results, checkpoint, report and figures.
    results: what `results.json` says.

  Example:
    >>> [task.name for task in run.tasks]
    ['churn', 'spend']
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    data: data_lib.Data | None = None,
    data_dir: str = "",
    passing: bool = False,
  ) -> None:
    """Opens a folder; `load` and `fit` call this.

    Args:
      workdir: of a finished run.
      data: that it was trained on, if at hand.
      data_dir: where a data set on disk lies now; default where it lay in training.
      passing: whether the folder ends with this object.

    Raises:
      ValueError: the folder holds no finished run.
    """
    self.workdir = pathlib.Path(workdir)
    self.results = results_lib.read(self.workdir)
    self._data, self._data_dir = data, data_dir
    self._calibrators: dict[int, calibrate_lib.Calibrator] = {}
    if passing:
      weakref.finalize(self, shutil.rmtree, self.workdir, ignore_errors=True)

  @functools.cached_property
  def trained(self) -> trained_lib.Trained:
    """The trained network and how to execute it, for programs of one's own."""
    found = runs.load(self.workdir, self._data_dir)
    if self._data is None:
      return found
    dataset = dataclasses.replace(self._data.dataset, spec=found.experiment.dataset.spec)
    experiment = dataclasses.replace(found.experiment, dataset=dataset)
    return dataclasses.replace(found, experiment=experiment)

  @property
  def tasks(self) -> tuple[types.TaskSpec, ...]:
    """The tasks, in order."""
    return self.trained.tasks

  @property
  def metrics(self) -> dict[str, dict[str, float]]:
    """Task -> metric -> value on the test split, as measured once after training."""
    return baselines.values(self.results)

  @property
  def policy(self) -> np.ndarray | None:
    """The learnt probability that a task executes a block, `[T, L]`; None without a policy."""
    return self._files.alpha

  @property
  def route(self) -> np.ndarray | None:
    """Which task executes which block, int `[T, L]` of 0 and 1; None where none is left out."""
    return self.trained.route

  @property
  def plan(self) -> plan_lib.Plan | None:
    """What is computed once, for which tasks; None where none is left out."""
    return self.trained.plan

  @property
  def figures(self) -> Figures:
    """The figures of the report: `run.figures.policy()`; `dir(run.figures)` lists them."""
    return Figures(self)

  def _check_there(self) -> None:
    """Refuses what reads or writes the folder where it is gone."""
    if not workdir_lib.is_opened(self.workdir):
      raise ValueError(
        f"The folder of the run is gone: {self.workdir}. A run without a workdir ends with its"
        " object; keep others with run.save(folder)."
      )

  @property
  def _files(self) -> Any:
    """What reports know of the folder."""
    from dynashare_jax.report import workdir as report_workdir

    return report_workdir.load(self.workdir)

  def evaluate(
    self, data: data_lib.Data | None = None, split: str = "test"
  ) -> dict[str, dict[str, float]]:
    """Measures the network on a split; returns task -> metric -> value.

    Args:
      data: default the run's own. Other data are read as the run's: its columns, codes and classes.
      split: `train`, `validation` or `test`.

    Raises:
      ValueError: a task, column or class is missing, or a label is none that the task can have.

    Example:
      >>> run.evaluate(split="test") == run.metrics
      True
    """
    if data is not None and not isinstance(data, data_lib.Data):
      raise ValueError(f"`data` must be of ds.arrays, but is a {type(data).__name__}.")
    trained = self.trained
    experiment = trained.experiment
    dataset = experiment.dataset if data is None else data.encoded(experiment.dataset.spec)
    lookup.one_of("split", split, types.SPLITS)
    arrays = dataset.arrays(split)
    labels_lib.check(trained.tasks, arrays, split)
    size = min(experiment.config.eval.batch_size, len(arrays.present))
    size += -size % experiment.mesh.devices.size
    batches = evaluate_lib.resident_batches(
      mesh_lib.place_replicated(arrays, experiment.mesh), size
    )
    found = experiment.evaluator().run(trained.params, trained.stats, batches, trained.structure)
    return {task: dict(values) for task, values in found.metrics.items()}

  def predict(self, inputs: Any, probabilities: bool = False) -> dict[str, np.ndarray]:
    """Says what the network says of inputs; returns task -> array, leading axis N.

    Args:
      inputs: rows, series or pictures as in training: an array, a dict of columns, a frame.
      probabilities: of a class, how likely every one is, `[N, classes]`, instead of the likeliest.

    Returns:
      Of yes and no the probability of yes; of classes their names, or numbers where they have
      none; of numbers the values in their unit; of pixels a map at the size of the picture.

    Raises:
      ValueError: another shape, a column that is missing, or a value that cannot be read.

    Example:
      >>> found = run.predict({"age": [28, 61], "city": ["Ulm", "Bonn"]})
      >>> found["churn"].shape, found["spend"].shape
      ((2,), (2,))
    """
    spec = self.trained.experiment.dataset.spec
    arrays = data_lib.encode_inputs(spec, inputs)
    total = len(jax.tree.leaves(arrays)[0])
    if not total:
      raise ValueError("There are no inputs to predict.")
    size = min(_BATCH[spec.input_kind], total)
    parts = []
    for begin in range(0, total, size):
      rows = np.minimum(np.arange(begin, begin + size), total - 1)
      part = jax.tree.map(lambda a, rows=rows: a[rows], arrays)
      found = self._programs(bool(probabilities))(part)
      parts.append({name: np.asarray(a)[: total - begin] for name, a in found.items()})
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if probabilities:
      return whole
    return {task.name: _named(task, whole[task.name]) for task in self.tasks}

  @functools.cached_property
  def _programs(self) -> Callable[[bool], Callable[[Any], dict[str, jax.Array]]]:
    """Inputs to predictions, compiled once for each way to tell classes."""
    trained = self.trained.lean().folded()
    forward = trained.forward()

    @functools.cache
    def of(probabilities: bool) -> Callable[[Any], dict[str, jax.Array]]:
      def run(inputs: Any) -> dict[str, jax.Array]:
        logits, _ = forward(trained.variables, inputs)
        return trained_lib.predictions(trained.experiment.dataset.spec, logits, probabilities)

      return jax.jit(run)

    return of

  def report(self) -> pathlib.Path:
    """Writes the report and its figures anew; returns the path of `report.md`.

    Example:
      >>> run.report().name
      'report.md'
    """
    from dynashare_jax.report.run import report

    return report.write_report(self.workdir)

  def calibrate(
    self, budget: float, unit: str = settings_lib.FLOPS, batch: int = 8
  ) -> settings_lib.Setting:
    """Finds gate thresholds that meet a budget, without training; keeps them in `budgets/`.

    Args:
      budget: a share of the work with all gates open, or milliseconds.
      unit: `flops` (multiply-accumulates), `rate` (executed triples) or `ms`.
      batch: examples of the batch that is timed.

    Returns:
      Thresholds, what they meet, and metrics on validation and test.

    Raises:
      ValueError: the run has no gates, or the budget is out of reach.
    """
    self._check_there()
    wanted = settings_lib.Budget(budget, unit)
    with lock.held(self.workdir):
      found = self._calibrator(batch).meet(wanted, test=True)
      budgets_lib.keep(self.trained, found)
    return found

  def curve(
    self,
    budgets: Sequence[float] = (),
    unit: str = settings_lib.FLOPS,
    batch: int = 8,
    progress: bool = True,
  ) -> budgets_lib.Curve:
    """Meets many budgets without training, and the lowest and the highest in reach.

    Args:
      budgets: see `calibrate`; default 0.3, 0.4, ... 0.9, for times as shares of that with all
        gates open. Those out of reach are left out, which is told.
      unit: `flops`, `rate` or `ms`.
      batch: examples of the batch that is timed.
      progress: whether to say what was met.

    Raises:
      ValueError: the run has no gates.
    """
    self._check_there()
    tell = print if progress else lambda text: None
    with lock.held(self.workdir):
      return budgets_lib.curve(self._calibrator(batch), unit, budgets, tell)

  def _calibrator(self, batch: int) -> calibrate_lib.Calibrator:
    """One for a batch size, which keeps what it evaluated."""
    if batch not in self._calibrators:
      self._calibrators[batch] = calibrate_lib.Calibrator(self.trained, batch)
    return self._calibrators[batch]

  def times(
    self, settings: Sequence[settings_lib.Setting] = (), batch: int = 32, rounds: int = 9
  ) -> costs.Times:
    """Times settings of the gates on this device, in every way to leave out what they skip.

    Args:
      settings: what `calibrate` found, or `curve(...).settings`; default the gates as trained.
      batch: test examples of a call.
      rounds: in each of which every setting and way has its turn.

    Raises:
      ValueError: the run has no gates, or the test split fewer examples.
    """
    return costs.times(self.trained, settings, batch, rounds)

  def cost(self, batches: Sequence[int] = (1, 8, 32), repeats: int = 20) -> str:
    """Measures parameters, work, memory and time on this machine; returns the page as Markdown.

    Args:
      batches: sizes; the first one's latency is shown.
      repeats: rounds of timing.
    """
    self._check_there()
    with lock.held(self.workdir):
      return costs.measure(self.trained, costs.Settings(tuple(batches), repeats))

  def export(
    self,
    path: str | os.PathLike[str],
    tasks: Sequence[str] = (),
    platforms: Sequence[str] = export_lib.PLATFORMS,
    budget: str | os.PathLike[str] = "",
  ) -> pathlib.Path:
    """Writes the network as a file that runs with jax alone; returns its path.

    Args:
      path: a folder for `model.stablehlo` and `manifest.json`.
      tasks: names; default all.
      platforms: that it runs on, of `cpu`, `cuda`, `rocm` and `tpu`.
      budget: a file of `budgets/`, see `calibrate`.
    """
    self._check_there()
    tasks, platforms = ((v,) if isinstance(v, str) else v for v in (tasks, platforms))
    kept = None
    if os.fspath(budget):
      kept = export_lib.read_budget(pathlib.Path(budget), self.trained)
    model = export_lib.choose(self.trained, tasks, kept)
    return export_lib.write(model, pathlib.Path(path), platforms)

  def save(self, path: str | os.PathLike[str]) -> Run:
    """Copies the folder to a place of your own; returns the run there.

    Raises:
      ValueError: something is there.

    Example:
      >>> run.save(folder / "mine").workdir.name
      'mine'
    """
    self._check_there()
    target = pathlib.Path(path)
    if target.exists():
      raise ValueError(f"{target} exists: name a folder that does not.")
    shutil.copytree(self.workdir, target)
    return Run(target, self._data, self._data_dir)

  def __repr__(self) -> str:
    told = self.results
    return f"Run of {told['method']}, seed {told['seed']}\n{runs.summary(told, str(self.workdir))}"

  def _repr_html_(self) -> str:
    """What a notebook shows: metrics on test, and the policy where there is one."""
    rows = []
    for task in self.results["tasks"]:
      for metric in task["metrics"]:
        cells = (
          task["name"],
          metric["name"] + (f" ({metric['unit']})" if metric["unit"] else ""),
          _shown(metric["test"]),
          _shown(metric["constant"]),
        )
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    head = "".join(f"<th>{name}</th>" for name in ("task", "metric", "test", "constant"))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    title = f"{self.results['method']}, seed {self.results['seed']}"
    parts = [f"<b>{html.escape(title)}</b><table><tr>{head}</tr>{body}</table>"]
    if "policy" in dir(self.figures):
      coded = base64.b64encode(self.figures.policy()._repr_png_()).decode()
      parts.append(f'<img alt="policy and route" src="data:image/png;base64,{coded}"/>')
    return "".join(parts)


class Figures:
  """The figures that a run has data for, each a function without arguments: `policy()`, ..."""

  def __init__(self, run: Run) -> None:
    """Looks at a run's files."""
    from dynashare_jax.report.run import figures

    self._run, self._plots = run._files, {plot.name: plot for plot in figures.PLOTS}

  def __dir__(self) -> list[str]:
    return [name for name in self._plots if self._draw(name) is not None]

  def __getattr__(self, name: str) -> Callable[[], Figure]:
    if name.startswith("_") or name not in self._plots:
      raise AttributeError(f"There is no figure {name!r}.{lookup.hint(name, self._plots)}")

    def draw() -> Figure:
      found = self._draw(name)
      if found is None:
        raise ValueError(
          f"This run has nothing to show as {name!r}; it has {', '.join(dir(self))}."
        )
      return found

    return draw

  def _draw(self, name: str) -> Figure | None:
    """Draws one in the look of the reports."""
    from dynashare_jax.report import style

    with style.look():
      return self._plots[name].draw(self._run)


def load(path: str | os.PathLike[str], data_dir: str = "") -> Run | artefact.Artefact:
  """Opens a finished run by its folder, or an exported network by its folder or file.

  Args:
    path: what `fit`, the training command or `Run.export` wrote.
    data_dir: where the data set of a run lies now; default where it lay in training.

  Raises:
    ValueError: there is neither.

  Example:
    >>> ds.load(folder / "mine").metrics == run.metrics
    True
  """
  place = pathlib.Path(path)
  if place.is_file() or (place / artefact.FILE).is_file():
    return artefact.load(place)
  if not workdir_lib.is_opened(place):
    raise ValueError(
      f"{str(place)!r} is neither the folder of a run nor that of an exported network."
    )
  return Run(place, data_dir=data_dir)


def _named(task: types.TaskSpec, values: np.ndarray) -> np.ndarray:
  """Class ids of examples as names, where the classes have some."""
  kind = kinds.find(task.kind)
  if kind.dense or kind.stored != "names" or not task.classes:
    return values
  return np.asarray(task.classes)[values]


def _shown(value: float | None) -> str:
  return "-" if value is None else f"{value:.4g}"
