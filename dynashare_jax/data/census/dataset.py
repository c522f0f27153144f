"""UCI KDD Census-Income: three binary tasks on one table.

The original training file is the training split; the original test file, cut in
two halves with a fixed seed, gives validation and test. The label columns are
never inputs, whichever tasks are chosen; 39 input columns are left.

Source: Ma et al. 2018 (MMoE), Sec. 6.3, for tasks and splits; DynaShare, ICLR
2022 submission, Sec. 4.1, for the three tasks together.
Differs: values are stripped, so that professional degrees count as college; everything is fitted on
the training file only; a column means the same in every split; the positive class of `marital` is
"ever married" as the papers say (the authors' code has "never married": the same AUC).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import operator
from typing import Any

from jaxtyping import Float, Int
from ml_collections import ConfigDict
import numpy as np

from dynashare_jax import lookup
from dynashare_jax import types
from dynashare_jax.data import memory
from dynashare_jax.data import options
from dynashare_jax.data.census import columns as columns_lib
from dynashare_jax.data.census import encoding

_SIGNS = {"- 50000.": 0, "50000+.": 1}
_EVER = (
  "Divorced | Married-A F spouse present | Married-civilian spouse present |"
  " Married-spouse absent | Separated | Widowed"
)
_MARITAL = {"Never married": 0, **dict.fromkeys(_EVER.split(" | "), 1)}
_PROFESSIONAL = "Prof school degree (MD DDS DVM LLB JD)"
_BELOW = (
  "Children | Less than 1st grade | 1st 2nd 3rd or 4th grade | 5th or 6th grade |"
  " 7th and 8th grade | 9th grade | 10th grade | 11th grade | 12th grade no diploma |"
  " High school graduate | Some college but no degree | Associates degree-occup /vocational |"
  " Associates degree-academic program"
)
_COLLEGE = (
  "Bachelors degree(BA AB BS) | Masters degree(MA MS MEng MEd MSW MBA) |"
  f" {_PROFESSIONAL} | Doctorate degree(PhD EdD)"
)
_EDUCATION = {**dict.fromkeys(_BELOW.split(" | "), 0), **dict.fromkeys(_COLLEGE.split(" | "), 1)}
# Task -> column, value -> label, names of the two classes; in canonical order.
_TASKS: dict[str, tuple[str, dict[str, int], tuple[str, str]]] = {
  "income": ("income_50k", _SIGNS, ("up to 50k", "over 50k")),
  "marital": ("marital_stat", _MARITAL, ("never married", "ever married")),
  "education": ("education", _EDUCATION, ("below college", "college")),
}
TASKS = tuple(_TASKS)
ENCODINGS = ("embedded", "onehot")


def defaults() -> dict[str, Any]:
  """Returns the default values of `config.data`.

  tasks: any of `income`, `marital`, `education`. encoding: `embedded` (codes and numbers, for a
  network that embeds a table) or `onehot` (one long vector, for the 1-D ResNet). split_seed: seed
  that halves the test file. bins: most bins of a number's piecewise-linear encoding.
  instance_weight: whether the survey's sampling weight is an input, as in all published results (39
  columns; 38 without). rows: rows expected in the training and the test file; 0 accepts any number.
  """
  return {
    "tasks": TASKS,
    "encoding": "embedded",
    "split_seed": 1,
    "bins": 16,
    "instance_weight": True,
    "rows": columns_lib.ROWS,
  }


def compat() -> dict[str, Any]:
  """Returns the switches of `config.compat` at their corrected values.

  census_columns: `authors` gives the 482 one-hot features of the authors' code:
  validation and test are scaled by their own range, and categories that the test
  file lacks come last there, so that later features are shifted against training.
  census_labels: `authors` never counts a professional degree as college.
  """
  return {"census_columns": "corrected", "census_labels": "corrected"}


def build(config: ConfigDict, compat: ConfigDict, data_dir: str | None, seed: int) -> types.Dataset:
  """Reads and encodes the data.

  Args:
    data_dir: folder with `census_income_kdd.parquet`, or with
      `census-income.data` and `census-income.test` (plain or `.gz`).
    seed: not used; `config.split_seed` fixes the only random choice.

  Returns:
    The data set. Embedded inputs are a dict of `categorical` int32 `[N, C]`,
    code 0 = not seen in training, and `numeric` float32 `[N, D]`, unscaled;
    one-hot inputs are float32 `[N, F, 1]`. Targets are float32 `[N]`, 0 or 1.

  Raises:
    FileNotFoundError: files are missing.
    ValueError: files are damaged or a field of the configuration is wrong.
  """
  del seed
  chosen = (config.tasks,) if isinstance(config.tasks, str) else config.tasks
  chosen = options.tasks("census", chosen, TASKS)
  tasks = tuple(task for task in TASKS if task in chosen)
  authors_labels, authors_columns = (
    options.switch(compat, switch, ("corrected", "authors")) == "authors"
    for switch in ("census_labels", "census_columns")
  )
  lookup.one_of("config.data.encoding", config.encoding, ENCODINGS)
  train, other = columns_lib.read(data_dir, tuple(config.rows))
  halves = split_halves(other.rows, config.split_seed)
  tables = dict(zip(types.SPLITS, (train, *map(other.take, halves)), strict=True))
  encoders, shape, table_spec, notes = _encode(train, other, config, authors_columns)
  if authors_labels and "education" in tasks:
    notes += ("compat: professional degrees do not count as college.",)
  spec = types.DatasetSpec(
    name="census",
    tasks=tuple(
      types.TaskSpec(name=task, kind="binary", classes=_TASKS[task][2]) for task in tasks
    ),
    input_kind="series" if table_spec is None else "table",
    input_shape=shape,
    sizes={split: table.rows for split, table in tables.items()},
    table=table_spec,
    notes=notes,
  )
  sources = {}
  for split, table in tables.items():
    targets = {task: labels(table, task, authors_labels) for task in tasks}
    sources[split] = memory.Rows(functools.partial(_batch, table, targets, encoders[split]))
  return memory.dataset(spec, sources, lambda rows: rows.batch)


def labels(table: columns_lib.Table, task: str, authors: bool = False) -> Float[np.ndarray, " N"]:
  """Returns a task's labels, 0 or 1, one per row.

  Args:
    authors: never count a professional degree as college.

  Raises:
    ValueError: the label column holds a value that the data set does not know.

  Differs: the authors' list of degrees lacks the blank before "Prof school
  degree", so that it never matches; `authors=True` gives that.
  """
  column, mapping, _ = _TASKS[task]
  unknown = [v for v in table.categories(column) if v not in mapping]
  if unknown:
    raise ValueError(
      f"Unknown label '{unknown[0]}' ({table.place(column, unknown[0])}); known"
      f" are {', '.join(repr(value) for value in mapping)}."
    )
  if authors:
    mapping = {**mapping, _PROFESSIONAL: 0}
  return table.category(column, mapping, 0).astype(np.float32)


def split_halves(rows: int, seed: int) -> tuple[Int[np.ndarray, " V"], Int[np.ndarray, " W"]]:
  """Draws the row numbers of validation; the others are test. Both ascend.

  The draw equals `pandas.DataFrame.sample(frac=0.5, random_state=seed)`, which
  all published results use.
  """
  order = np.random.RandomState(seed).permutation(rows)
  half = round(0.5 * rows)
  return np.sort(order[:half]), np.sort(order[half:])


def _batch(
  table: columns_lib.Table, targets: Mapping[str, np.ndarray], encode: Callable[..., Any]
) -> types.Batch:
  """Encodes the rows of a split."""
  present = np.ones(table.rows, bool)
  return types.Batch(encode(table), {**targets}, dict.fromkeys(targets, present), present)


_Encoder = Callable[[columns_lib.Table], Any]


def _encode(
  train: columns_lib.Table, other: columns_lib.Table, config: ConfigDict, authors: bool
) -> tuple[dict[str, _Encoder], tuple[int, ...], types.TableSpec | None, tuple[str, ...]]:
  """Fits the encoding asked for; returns encoders of the splits, and parts of the spec."""
  weight = bool(config.instance_weight) or authors
  notes: tuple[str, ...] = (
    "The household columns nearly give the marital status away, as in all published results.",
  )
  if weight:
    notes += ("The survey's sampling weight is one of the inputs.",)
  if config.encoding == "embedded" and not authors:
    spec = encoding.fit_table(train, config.bins, weight)
    embedded: _Encoder = encoding.Embedded(spec)
    shape: tuple[int, ...] = (len(spec.categorical) + len(spec.numeric),)
    return dict.fromkeys(types.SPLITS, embedded), shape, spec, notes
  if authors:
    layouts = encoding.authors_layouts(train, other)
    notes += _authors_notes(layouts, config)
  else:
    layouts = (encoding.corrected_layout(train, weight),) * 2
  encoders: list[_Encoder] = [encoding.OneHot(layouts[split != "train"]) for split in types.SPLITS]
  shape = (len(layouts[0].features), 1)
  return dict(zip(types.SPLITS, encoders, strict=True)), shape, None, notes


def _authors_notes(
  layouts: tuple[encoding.Layout, encoding.Layout], config: ConfigDict
) -> tuple[str, ...]:
  """The consequences of the authors' columns for this run."""
  train, other = (layout.features for layout in layouts)
  shifted = sum(map(operator.ne, train, other))
  shift = (
    f"compat: {shifted} of {len(train)} one-hot features mean another category in validation and"
    " test than in training, and numbers there are scaled by their own range."
  )
  if config.encoding == "onehot" and config.instance_weight:
    return (shift,)
  ignored = (
    "compat: the authors' columns are one-hot with the sampling weight;"
    " config.data.encoding and config.data.instance_weight are not followed."
  )
  return shift, ignored
