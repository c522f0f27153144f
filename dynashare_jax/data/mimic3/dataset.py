"""MIMIC-III: four clinical tasks on intensive care stays, hour by hour.

Reads what the public mimic3-benchmarks pipeline writes for its multitask problem, in full; nothing
is downloaded, and no value of a patient is shown.

Source: Harutyunyan et al. 2019, Multitask learning and benchmarking with clinical time series data;
  DynaShare, CVPRW 2023, Tables 4 and 6.
Differs: from the authors' reader (`compat` gives its ways): predictions read no later hour, labels
  that are masked do not count, no stay is dropped, the remaining stay has the benchmark's classes.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import os
import pathlib
import sys
from typing import Any

from ml_collections import ConfigDict

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import memory
from dynashare_jax.data import options as data_options
from dynashare_jax.data import progress
from dynashare_jax.data.mimic3 import batches as mimic3_batches
from dynashare_jax.data.mimic3 import columns
from dynashare_jax.data.mimic3 import discretiser
from dynashare_jax.data.mimic3 import store as mimic3_store

TASKS = ("phenotyping", "length_of_stay", "decompensation", "mortality")
NORMALISERS = ("benchmark", "train")
MORTALITY_HOURS = 48

# Stays that the pipeline finds in all of MIMIC-III 1.4.
_SIZES = {"train": 29250, "validation": 6371, "test": 6281}
_FOLDER = "multitask"
_CACHE = "dynashare_cache"
_FIRST = 5  # the first hour that any label is for
# Switch -> corrected value, and the consequence of the authors' way for a run.
_SWITCHES = {
  "time": ("causal", "predictions read later hours and the padding."),
  "axes": ("kept", "hours and measurements are mixed up by a reshape."),
  "masks": ("labels", "hours and stays without a label count as 0, padding too."),
  "stays": ("all", "the first stay of each split is dropped."),
  "stay_classes": ("benchmark", "the last class of the remaining stay begins at 15 days."),
  "task_weights": ("once", "task weights are squared."),
}


def defaults() -> dict[str, Any]:
  """Returns the default values of `config.data`.

  tasks: any of `TASKS`, in the wanted order. hours: T, at which stays are cut and to which shorter
  ones are padded. weights: of the tasks in the total loss. positive_weights: factors on the loss of
  positive labels. stay_weights: factors on the loss of the 10 classes of the remaining stay; empty
  weighs all the same. normaliser: `benchmark`, its published means and deviations, or `train`,
  those of the training stays. cache: folder of the converted stays; empty is `dynashare_cache` in
  the folder of the data. verify: compare the contents of all files with those that were converted,
  not only sizes and times. workers: processes that convert; 0 one per processor.

  Source: authors' code (mimic_iii_4tasks_aig.yml) for hours, weights and positive weights.
  """
  return {
    "tasks": TASKS,
    "hours": 170,
    "weights": {"phenotyping": 1.0, "length_of_stay": 2.0, "decompensation": 2.0, "mortality": 1.0},
    "positive_weights": {"phenotyping": 5.0, "decompensation": 500.0, "mortality": 5.0},
    "stay_weights": (),
    "normaliser": "benchmark",
    "cache": "",
    "verify": False,
    "workers": 0,
  }


def compat() -> dict[str, Any]:
  """Returns the switches of `config.compat` at their corrected values.

  Each may be `authors`. time: `causal`; the authors' network reads all hours and the padding, in
  mortality too: inputs have no lengths then. axes: `kept`; the authors reshape `[T, 76]` to `[76,
  T]` instead of turning it round, which mixes up hours and measurements (needs time `authors`).
  masks: `labels`; the authors count every hour, padding too, and every stay, with label 0 where
  there is none. stays: `all`; the authors drop the first stay of each split. stay_classes:
  `benchmark`; the authors' last class of the remaining stay begins at 15 days, not at 14.
  task_weights: `once`; the authors multiply with a task's weight twice.
  """
  return {name: corrected for name, (corrected, _) in _SWITCHES.items()}


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Opens the converted stays, after converting them where that is not done.

  Args:
    config: `config.data`, fields as in `defaults`.
    compat: switches as in the function `compat`.
    data_dir: the pipeline's folder `multitask`, or the one that it lies in; may be empty where
      `config.cache` holds converted stays.

  Returns:
    The data set. Inputs: `series` float32 `[N, T, 76]`, normalised, zeros after a stay's end, and
    `length` int32 `[N]`. phenotyping: float32 `[N, 25]`. length_of_stay: int32 `[N, T]`, class of
    the hours that are left. decompensation: float32 `[N, T]`, whether the patient dies in the next
    24 hours. mortality: float32 `[N]`, death in hospital. The label of hour t, that is after t
    hours, lies in bin t - 1, which holds what was measured up to hour t: a prediction reads its own
    bin and those before it. Mortality reads bins 0 to 47.

  Raises:
    ValueError: a wrong value in `config` or `compat`, no data, or what is wrong with its files, all
      together.

  Source: mimic3-benchmarks, `multitask/utils.py` for bins and masks: labels count from hour 5 on
    and after the first measurement; mortality counts where a stay has 48 hours and a measurement in
    them.
  Differs: the pipeline never cuts a stay; labels after T hours are not valid here.
  """
  del seed
  spec = outline(config, compat)
  switches = _read_switches(compat)
  data_options.check_range("workers", config.workers, 0)
  store = _open(*_folders(data_dir, config.cache), config)
  options = mimic3_batches.Options(
    tasks=tuple(task.name for task in spec.tasks),
    hours=_hours(config),
    normaliser=_normaliser(config, store),
    lengths=spec.lengths,
    masked=not switches["masks"],
    straight=not switches["axes"],
    all_stays=not switches["stays"],
    stay_classes="authors" if switches["stay_classes"] else "benchmark",
  )
  splits = {name: mimic3_batches.Stays(store, name, options) for name in types.SPLITS}
  spec = dataclasses.replace(
    spec,
    sizes={name: len(stays) for name, stays in splits.items()},
    notes=(*_cut_notes(store, options), *_label_notes(splits, spec.tasks), *spec.notes),
  )
  source = functools.partial(memory.pick, spec.name, splits)
  # A whole split is not kept: it is large, and the files are mapped into memory.
  return types.Dataset(spec, lambda split: source(split).whole(), source)


def outline(config: ConfigDict, compat: ConfigDict) -> types.DatasetSpec:
  """Returns what is known before the data set is on disk; sizes as of all MIMIC-III.

  Raises:
    ValueError: a wrong value in `config` or `compat`.
  """
  switches = _read_switches(compat)
  lookup.one_of("config.data.normaliser", config.normaliser, NORMALISERS)
  return types.DatasetSpec(
    name="mimic3",
    tasks=_specs(config, switches),
    input_kind="series",
    input_shape=(_hours(config), len(columns.COLUMNS)),
    sizes=_SIZES,
    notes=tuple(f"compat: {text}" for name, (_, text) in _SWITCHES.items() if switches[name]),
    lengths=not switches["time"],
    channels=columns.groups(),
    private=True,
  )


def _read_switches(compat: ConfigDict) -> dict[str, bool]:
  """Whether each switch is `authors`."""
  found = {
    name: data_options.switch(compat, name, (corrected, "authors")) == "authors"
    for name, (corrected, _) in _SWITCHES.items()
  }
  if found["axes"] and not found["time"]:
    raise ValueError(
      "config.compat.axes='authors' mixes up hours, so that no prediction can"
      " be causal: it needs config.compat.time='authors' too."
    )
  return found


def _hours(config: ConfigDict) -> int:
  hours, least, why = int(config.hours), _FIRST, "there are no labels before"
  if "mortality" in config.tasks:
    least, why = MORTALITY_HOURS, "mortality is predicted from that many"
  if hours < least:
    raise ValueError(f"config.data.hours is {hours}; it must be at least {least}: {why}.")
  return hours


def _specs(config: ConfigDict, switches: Mapping[str, bool]) -> tuple[types.TaskSpec, ...]:
  """The chosen tasks."""
  chosen = data_options.tasks("MIMIC-III", config.tasks, TASKS)
  classes = columns.AUTHORS_STAY_CLASSES if switches["stay_classes"] else columns.STAY_CLASSES
  fields: dict[str, dict[str, Any]] = {
    "phenotyping": {"kind": "multilabel", "classes": columns.PHENOTYPES},
    "length_of_stay": {"kind": "multiclass", "classes": classes, "every_step": True},
    "decompensation": {
      "kind": "binary",
      "classes": ("lives", "dies in 24 hours"),
      "every_step": True,
    },
    "mortality": {
      "kind": "binary",
      "classes": ("lives", "dies"),
      "first_steps": 0 if switches["time"] else MORTALITY_HOURS,
    },
  }

  for task in chosen:
    own = fields[task]
    own["outputs"] = 1 if own["kind"] == "binary" else len(own["classes"])
    own["weight"] = data_options.weight(config, task) ** (2 if switches["task_weights"] else 1)
    if task == "length_of_stay":
      own["class_weights"] = _stay_weights(config)
    else:
      own["positive_weight"] = _positive(config, task)
  return tuple(types.TaskSpec(task, **fields[task]) for task in chosen)


def _positive(config: ConfigDict, task: str) -> float:
  if task not in config.positive_weights:
    raise ValueError(f"config.data.positive_weights has no factor of {task!r}.")
  factor = float(config.positive_weights[task])
  if not 0 < factor < float("inf"):
    raise ValueError(f"config.data.positive_weights.{task} is {factor}; it must be above 0.")
  return factor


def _stay_weights(config: ConfigDict) -> tuple[float, ...]:
  weights, count = tuple(map(float, config.stay_weights)), len(columns.STAY_CLASSES)
  if weights and (len(weights) != count or min(weights) < 0 or not 0 < sum(weights) < float("inf")):
    raise ValueError(
      f"config.data.stay_weights is {weights}; it must be empty, or {count} numbers from 0 on."
    )
  return weights


def _folders(data_dir: str | None, cache: str) -> tuple[pathlib.Path | None, pathlib.Path]:
  """Folder of the multitask problem, and that of the converted stays."""
  if not data_dir:
    if cache:
      return None, pathlib.Path(cache)
    raise ValueError(
      "config.data_dir is empty: give the folder 'multitask' that the scripts"
      " of https://github.com/YerevaNN/mimic3-benchmarks make of MIMIC-III"
      " (https://physionet.org/content/mimiciii), or of its open demo."
    )
  folder = pathlib.Path(data_dir)
  if (folder / _FOLDER).is_dir():
    folder = folder / _FOLDER
  if not folder.is_dir():
    raise ValueError(f"There is no folder {data_dir} (config.data_dir).")
  return folder, pathlib.Path(cache or os.path.join(data_dir, _CACHE))


def _open(
  folder: pathlib.Path | None, cache: pathlib.Path, config: ConfigDict
) -> mimic3_store.Store:
  """Opens the converted stays; a conversion is announced, and shown by a bar."""
  with progress.bar("converting") as advance:

    def show(done: int, total: int) -> None:
      if total and not done:
        print(f"MIMIC-III: converting {total} stays, once, into {cache}", file=sys.stderr)
      advance("stays", done, total)

    return mimic3_store.open_or_convert(
      folder, cache, int(config.workers), bool(config.verify), show
    )


def _normaliser(config: ConfigDict, store: mimic3_store.Store) -> discretiser.Normaliser:
  if config.normaliser == "benchmark":
    return discretiser.benchmark()
  return discretiser.fit(store.split("train").hours.numbers)


def _cut_notes(store: mimic3_store.Store, options: mimic3_batches.Options) -> tuple[str, ...]:
  """The numbers of stays that are longer than T."""
  counts = {name: store.split(name).labels.counts for name in types.SPLITS}
  cut = {name: int((c > options.hours).sum()) for name, c in counts.items()}
  total = sum(map(len, counts.values()))
  each = ", ".join(f"{cut[n]} of {len(c)} {n}" for n, c in counts.items())
  longer = f"{sum(cut.values())} of {total} stays are longer than {options.hours} hours"
  return (f"{longer} and are cut there ({each}).",)


def _label_notes(
  splits: Mapping[str, mimic3_batches.Stays], tasks: tuple[types.TaskSpec, ...]
) -> tuple[str, ...]:
  """The numbers of labels of every task, and of positive ones."""
  counts = {name: stays.label_counts() for name, stays in splits.items()}
  notes = []
  for task in tasks:
    what, form = "positive labels", "{1} of {0} {2}"
    if task.kind == "multiclass":
      what, form = "labels", "{0} {2}"
    each = ", ".join(form.format(*found[task.name], name) for name, found in counts.items())
    notes.append(f"{task.name}: {what}: {each}.")
  return tuple(notes)
