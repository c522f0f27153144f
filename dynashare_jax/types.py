"""Names without logic: what the floors of the house hand to one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
PyTree = Any

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class TaskSpec:
  """One task of a data set.

  Attributes:
    name: how users, configs and reports call the task.
    kind: a file of `objectives.kinds` (`segmentation`, `depth`, `number`, `binary`,
      ...): its loss, metrics and head width.
    outputs: classes of a classification, labels of a multilabel task, channels
      of a dense regression, values of a number task. A binary task has 1.
    weight: factor of the task in the total loss (lambda_k of Eq. 6).
    classes: names of the classes, where they have some.
    unit: unit of a regression target, for tables and figures.
    positive_weight: factor on the positive examples of a binary task's loss.
    class_weights: factor on the loss of every class of a segmentation or a
      multiclass task; empty weighs all the same.
    inverse: whether a depth task's values grow with nearness (disparity).
    metrics: how a dense task is scored: `pooled` over all pixels, or as the
      `authors` do (see `objectives.kinds`).
    every_step: whether every step of a series has a label and a prediction.
    first_steps: of a series, how many first steps a prediction may read; 0: all.
    loss: of a number task: `l2`, `l1` or `huber`.
    huber_delta: size of the error where `huber` turns from squares to a line.
    center: of a number task, for every output a value that a logit of 0 stands for, such as the
      mean of the training labels; empty: 0.
    spread: for every output the distance that a logit of 1 is from there, such as the training
      labels' standard deviation, and the unit of the errors in the loss; empty: 1.
  """

  name: str
  kind: str
  outputs: int = 1
  weight: float = 1.0
  classes: tuple[str, ...] = ()
  unit: str = ""
  positive_weight: float = 1.0
  class_weights: tuple[float, ...] = ()
  inverse: bool = False
  metrics: str = "pooled"
  every_step: bool = False
  first_steps: int = 0
  loss: str = "l2"
  huber_delta: float = 1.0
  center: tuple[float, ...] = ()
  spread: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class ColumnSpec:
  """A column of a raw table, and what becomes of it (`data.columns`).

  Attributes:
    name: in the table.
    role: `number`, `category` or `date`.
    fill: of a number or a date (in days), what stands where it is missing.
    flag: whether training lacked some; then a categorical column says where a number is missing,
      and a date has the month 0 there.
    date: format of a date, as of `strptime`, or `iso`.
  """

  name: str
  role: str
  fill: float = 0.0
  flag: bool = False
  date: str = ""


@dataclasses.dataclass(frozen=True)
class TableSpec:
  """Columns of a tabular input.

  Attributes:
    categorical: names of the categorical columns, in order.
    cardinalities: codes run from 0 to cardinality - 1; code 0 is "unseen in training".
    numeric: names of the numeric columns, in order.
    edges: for every numeric column the ascending bin edges (training quantiles, without repeats) of
      its piecewise-linear encoding.
    values: for every categorical column the texts of the codes 1, 2, ...; empty where inputs come
      as codes.
    columns: the raw columns that all of these are made of; empty where none are known.
    decimal: what raw numbers have for a decimal point, `.` or `,`.
    thousands: what parts the thousands of raw numbers; empty for nothing.
    missing: raw texts and numbers that stand for a missing value, beside the usual ones.
    layout: of raw files, what is not found out: delimiter, encoding, and names of columns where no
      line has them; empty for nothing.
    id: raw column that names a row, no input, which predictions carry; empty where none is known.
  """

  categorical: tuple[str, ...]
  cardinalities: tuple[int, ...]
  numeric: tuple[str, ...]
  edges: tuple[tuple[float, ...], ...]
  values: tuple[tuple[str, ...], ...] = ()
  columns: tuple[ColumnSpec, ...] = ()
  decimal: str = "."
  thousands: str = ""
  missing: tuple[str, ...] = ()
  layout: tuple[str, str, tuple[str, ...]] = ("", "", ())
  id: str = ""

  def __post_init__(self) -> None:
    """Takes raw columns as JSON has them, too."""
    made = (ColumnSpec(**c) if isinstance(c, Mapping) else c for c in self.columns)
    object.__setattr__(self, "columns", tuple(made))


@dataclasses.dataclass(frozen=True)
class SeriesSpec:
  """How rows of raw tables become series (`data.series.encoding`).

  Attributes:
    rows: columns of the rows, which change in time.
    static: columns that a whole series has one value of; None for none.
    center: of every numeric column of `rows`, then of `static`, what becomes 0.
    spread: of the same, the distance from there that becomes 1.
    id: column that tells which series a row belongs to; empty: the file's name does.
    time: column of the time.
    date: format of the time, see `ColumnSpec`; empty where it is a number.
    bin: width of a step, in days or in the unit of the time; 0: every row is a step.
    keep: what a step has of several rows: `last` or `mean`.
    fill: whether a value stands until the next one.
    observed: whether a channel of every number says where it was there.
    steps: most steps.
    cut: which steps stay of a longer series: the `last` or the `first`.
  """

  rows: TableSpec
  static: TableSpec | None
  center: tuple[float, ...]
  spread: tuple[float, ...]
  id: str
  time: str
  date: str = ""
  bin: float = 0.0
  keep: str = "last"
  fill: bool = True
  observed: bool = True
  steps: int = 256
  cut: str = "last"

  def __post_init__(self) -> None:
    """Takes tables as JSON has them, too."""
    for name in ("rows", "static"):
      if isinstance(value := getattr(self, name), Mapping):
        object.__setattr__(self, name, TableSpec(**value))


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
  """What a model and a report must know of a data set.

  Attributes:
    name: the module `data/<name>.py`.
    tasks: in the order of every `[T, ...]` array.
    input_kind: `image` (`[H, W, C]`), `series` (`[time, C]`) or `table` (a
      dict of `categorical` int32 and `numeric` float32, each `[columns]`).
    input_shape: of one example's input; of a table, its number of columns.
    sizes: number of examples in each split.
    table: columns, for a table.
    notes: what the data set found worth telling, one line each.
    crop: height and width of a training example where augmentation cuts it out
      of the whole picture; None where all examples have `input_shape`.
    lengths: whether inputs are a dict of `series` float32 `[B, time, C]` and
      `length` int32 `[B]`. Steps from a length on are padding, and networks are
      causal: what they say of a step depends on no later one.
    channels: columns of a series that belong together, such as the values of
      one measurement; empty if unknown.
    private: whether values of inputs must not be told, not even their range.
    series: how raw rows become series, where the data set reads such.
  """

  name: str
  tasks: tuple[TaskSpec, ...]
  input_kind: str
  input_shape: tuple[int, ...]
  sizes: Mapping[str, int]
  table: TableSpec | None = None
  notes: tuple[str, ...] = ()
  crop: tuple[int, int] | None = None
  lengths: bool = False
  channels: tuple[tuple[int, ...], ...] = ()
  private: bool = False
  series: SeriesSpec | None = None


class Batch(NamedTuple):
  """Examples, stacked; also a whole split (leading axis = its examples).

  Attributes:
    inputs: array, or dict of arrays, leading axis B.
    targets: for every task `[B, ...]`.
    valid: for every task, bool of the target's leading axes (`[B]`, or
      `[B, H, W]` for a dense task): False where there is no label.
    present: bool `[B]`, False for the padding of a last, partial batch.
  """

  inputs: PyTree
  targets: dict[str, Array]
  valid: dict[str, Array]
  present: Array


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set, as `data/<name>.py: build(config)` returns it.

  Attributes:
    spec: what it is.
    arrays: split name -> the whole split as one `Batch` of NumPy arrays.
    source: split name -> random access to single examples (a `Batch` without
      the leading axis), for what does not fit into memory.
    augment: how training examples are varied, a `data.transforms.Augmentation`;
      None leaves them as they are.
    facts: what tells one state of the data from another, beside examples and their names: what it
      is of -> a short text. Asked for once a start.
  """

  spec: DatasetSpec
  arrays: Callable[[str], Batch]
  source: Callable[[str], Sequence[Batch]]
  augment: Any = None
  facts: Callable[[], Mapping[str, str]] = dict


class Sums(NamedTuple):
  """A mean before its division, so that it adds over batches and devices."""

  total: Array
  count: Array  # type: ignore[assignment]  # hides tuple.count


@dataclasses.dataclass(frozen=True)
class Metric:
  """A number of a task that a table shows.

  Attributes:
    name: for example `miou`.
    higher_is_better: its direction (l_j of Eq. 7).
    unit: `%`, `deg`, `m` or empty. Percentages are stored as 0 to 100.
    in_delta: whether it counts in Eq. 7. Where a task has several numbers that
      do not compare, such as a kappa and an AUC, one of them does.
  """

  name: str
  higher_is_better: bool
  unit: str = ""
  in_delta: bool = True
