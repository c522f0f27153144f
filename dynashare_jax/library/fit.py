"""Training from Python: `fit` for one run, `compare` for a table of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import io
import os
import pathlib
import tempfile
from typing import Any, TYPE_CHECKING

import ml_collections

from dynashare_jax import lookup
from dynashare_jax import runs
from dynashare_jax.distributed import mesh as mesh_lib
from dynashare_jax.distributed import preemption
from dynashare_jax.library import configs
from dynashare_jax.library import data as data_lib
from dynashare_jax.library import given
from dynashare_jax.library import run as run_lib
from dynashare_jax.library import settings as settings_lib
from dynashare_jax.methods import _entries
from dynashare_jax.methods import random_policy
from dynashare_jax.monitoring import logs
from dynashare_jax.train import baselines

if TYPE_CHECKING:
  from dynashare_jax.report import tables


def fit(
  data: data_lib.Data,
  method: str = "dynashare",
  *,
  backbone: str | None = None,
  balance: str = "fixed",
  steps: int | None = None,
  seed: int = 0,
  workdir: str | os.PathLike[str] | None = None,
  settings: Mapping[str, Any] | None = None,
  baseline: str | os.PathLike[str] = "",
  progress: bool = True,
) -> run_lib.Run:
  """Trains a network on data, and chooses on validation; returns the finished run.

  A first Ctrl-C saves where training stands; the same call with the same `workdir` goes on from
  there and ends as if nothing had been.

  Args:
    data: of `arrays`.
    method: how the tasks share, a name of `docs/sharing-methods.md`, such as `dynashare`,
      `adashare`, `affinity`, `hard` or `single`.
    backbone: `mlp` (default for tables), `tcn` (series), `resnet` (pictures) and others.
    balance: how the tasks' losses or gradients are weighed, a name of `docs/balancing.md`.
    steps: of training in all, with searches (see `library.settings.of`). Default: 20 passes over
      the training data, at least 200 steps and at most 4,000.
    seed: of all randomness.
    workdir: folder of the run; default one that ends with the returned object.
    settings: any other values, as `{"train.batch_size": 64, "policy.budget": 0.5}`; those of
      `dynashare_jax/defaults.py`.
    baseline: folder of a run of `single` on these data, for Delta.
    progress: whether to show how far training is.

  Raises:
    ValueError: a name or value that does not fit, or a folder of another run or of other data.
    KeyboardInterrupt: after Ctrl-C; says where the run stands.

  Example:
    >>> tiny = {"steps": 8, "settings": {"model.blocks": (1,), "model.width": 8}}
    >>> run = ds.fit(data, method="hard", workdir=folder / "hard-0", progress=False, **tiny)
    >>> sorted(run.metrics["churn"])
    ['accuracy', 'auc', 'average_precision']
  """
  if not isinstance(data, data_lib.Data):
    raise ValueError(f"`data` must be of ds.arrays, but is a {type(data).__name__}.")
  spec = data.dataset.spec
  config = settings_lib.of(spec, data.fingerprint, method, backbone, balance, steps, seed, settings)
  config.baseline = os.fspath(baseline)
  passing = workdir is None
  folder = pathlib.Path(workdir or tempfile.mkdtemp(prefix=f"dynashare-{method}-"))
  mesh_lib.use_compilation_cache()
  with (
    preemption.interruptible(f"fit(..., workdir={str(folder)!r}) goes on from there"),
    logs.shown(progress),
  ):
    runs.run(config, folder, dataset=data.dataset)
  return run_lib.Run(folder, data, passing=passing)


def run_config(
  config: str | os.PathLike[str] | ml_collections.ConfigDict,
  settings: Mapping[str, Any] | None = None,
  workdir: str | os.PathLike[str] | None = None,
  progress: bool = True,
) -> run_lib.Run:
  """Trains as the command line does, by a configuration; returns the finished run.

  Args:
    config: the name of one, as `rooms` or `multimnist:fashion`, a file, or the values themselves.
    settings: dotted name -> value in place of those there, as `{"train.steps": 100, "seed": 1}`.
    workdir: folder of the run; default `runs/<data set>/<method>-<seed>`. The same call resumes.
    progress: whether to show how far training is.

  Raises:
    ValueError: there is no such configuration, or a name or value that does not fit.
    KeyboardInterrupt: after Ctrl-C; says where the run stands.

  Example:
    >>> ds.run_config("rooms", {"train.batch": 32})
    Traceback (most recent call last):
    ValueError: There is no setting 'train.batch'. Did you mean ...
  """
  if isinstance(config, ml_collections.ConfigDict):
    made = ml_collections.ConfigDict(config.to_dict())
  else:
    made = configs.load(os.fspath(config))
  for name, value in (settings or {}).items():
    settings_lib.change(made, name, value)
  folder = pathlib.Path(workdir or runs.default_workdir(made))
  mesh_lib.use_compilation_cache()
  with preemption.interruptible("the same call goes on from there"), logs.shown(progress):
    runs.run(made, folder)
  return run_lib.Run(folder)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Methods side by side, each with one run per seed.

  Attributes:
    runs: label -> its runs, by seed.
    table: the table's columns and cells.
    folder: of all runs, with `table.md`, `table.csv`, `table.tex` and `delta.png`.

  Example:
    >>> table.markdown().startswith("#")
    True
  """

  runs: Mapping[str, tuple[run_lib.Run, ...]]
  table: tables.Table
  folder: pathlib.Path

  def markdown(self) -> str:
    """Returns the page of the comparison as Markdown."""
    return self._read("table.md")

  def csv(self) -> str:
    """Returns the table as comma-separated values: means and standard deviations in full."""
    return self._read("table.csv")

  def latex(self) -> str:
    """Returns the table as LaTeX."""
    return self._read("table.tex")

  def frame(self) -> Any:
    """Returns the table as a frame of pandas, which must be installed: one row per method."""
    import pandas as pd

    return pd.read_csv(io.StringIO(self.csv()))

  def _read(self, name: str) -> str:
    return (self.folder / name).read_text(encoding="utf-8")

  def _repr_markdown_(self) -> str:
    """What a notebook shows: the table, without its pictures."""
    lines = self.markdown().splitlines()
    return "\n".join(line for line in lines if not line.startswith("!["))

  def __repr__(self) -> str:
    return self._repr_markdown_()


def compare(
  data: data_lib.Data,
  methods: Sequence[str] = ("single", "hard", "dynashare"),
  balances: Sequence[str] = (),
  *,
  seeds: int = 3,
  randoms: int = 0,
  workdir: str | os.PathLike[str] | None = None,
  mixed: Sequence[str] = (),
  trials: Mapping[str, int] | None = None,
  progress: bool = True,
  **settings: Any,
) -> Comparison:
  """Trains several methods with several seeds on the same data and puts them into one table.

  Finished runs in `workdir` are reused, interrupted ones resumed. `single`, where it is among the
  methods, is what Delta is taken against.

  Args:
    data: of `arrays`.
    methods: names; `label=method+name=value+name=value` is a method with settings of its own.
    balances: names, each tried with every method but `single`.
    seeds: how many; they are 0, 1, ...
    randoms: how many distinct random routes of every seed `random_policy` trains, like the learned
      one of `adashare`, `dynashare` or `affinity`; 0: as any other method.
    workdir: folder of all runs and of the table; default a temporary one, which stays.
    mixed: parts in which a run may differ from its single-task run, such as `backbone`, `schedule`
      or `all`; the table says so.
    trials: label -> how many validation-only trials its settings took, for a column.
    progress: whether to show how far training is.
    **settings: `backbone`, `steps` and `settings` of `fit`, for all runs.

  Raises:
    ValueError: as `fit`; a label twice; or fewer than one seed.

  Example:
    >>> table = ds.compare(data, ["hard"], seeds=1, workdir=folder, progress=False, **tiny)
    >>> list(table.runs)
    ['hard']
  """
  given.whole(seeds, "seeds", 1)
  # A name alone is a list of one.
  methods, balances, mixed = (
    (names,) if isinstance(names, str) else names for names in (methods, balances, mixed)
  )
  baselines.read_mixed(",".join(mixed), "`mixed`")
  given.whole(randoms, "randoms", 0)
  entries = _entries.crossed(",".join(map(str, methods)), ",".join(balances), randoms)
  if trials is not None and not isinstance(trials, Mapping):
    raise ValueError(f"`trials` must be a dict of label -> number, but is {trials!r}.")
  for label, count in (trials or {}).items():
    lookup.one_of("A label in `trials`", label, (entry.label for entry in entries))
    given.whole(count, f"trials[{label!r}]", 0)
  folder = pathlib.Path(workdir or tempfile.mkdtemp(prefix="dynashare-compare-"))
  found: dict[str, list[run_lib.Run]] = {}
  left_out: list[str] = []
  told = dict(settings.pop("settings", None) or {}) | ({"mixed": ",".join(mixed)} if mixed else {})
  for seed in range(seeds):
    single = ""
    for entry in _entries.in_turn(entries):
      name, own = f"{entry.folder}-{seed}", told | dict(map(_setting, entry.overrides))
      if (imitated := _entries.imitated(entry, entries)) is not None:
        like = own.setdefault("random.like", str(folder / f"{imitated.folder}-{seed}"))
        alike = own.get("random.per_task", True), own.get("random.work", False)
        if entry.number is not None and random_policy.lacks(like, entry.number, *alike):
          left_out.append(name)
          continue
      made = fit(
        data,
        entry.method,
        balance=own.pop("balance.name", "fixed"),
        seed=seed,
        workdir=folder / name,
        baseline=single,
        progress=progress,
        settings=own,
        **settings,
      )
      single = str(made.workdir) if entry.method == _entries.SINGLE else single
      found.setdefault(entry.label, []).append(made)
  from dynashare_jax.report import workdir as report_workdir
  from dynashare_jax.report.compare import comparison
  from dynashare_jax.report.compare import raw

  found = {e.label: found[e.label] for e in entries if e.label in found}  # as they were given
  files = {name: [report_workdir.load(run.workdir) for run in made] for name, made in found.items()}
  notes = [*(f"Data: {note}" for note in data.notes), *_entries.left_out(left_out)]
  page = raw.Told("", notes, tuple(mixed), dict(trials or {}))
  comparison.write(files, folder, page)
  table = comparison.compare(files, page)
  return Comparison({name: tuple(made) for name, made in found.items()}, table, folder)


def _setting(override: str) -> tuple[str, Any]:
  """`name=value` with the value that its text stands for."""
  name, _, value = override.partition("=")
  return name, configs.literal(value)
